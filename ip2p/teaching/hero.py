"""The picture at the top of the README, a slider that is dragged over real edits: `ip2p hero --out
data/images/hero.webp`."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from ip2p.common.images import open_image
from ip2p.editing import load_editor
from ip2p.paths import DATA
from ip2p.profiles import Profile, get_profile

EDITS = {
    "cat": "turn it into a pencil sketch",
    "house": "make it sunset",
    "boat": "make it a red boat",
    "owl": "let it snow",
    "robot": "put it on a beach",
}
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 2.0, 4.0, 8.0)  # s_T
MILLISECONDS = 220  # a frame


def hero(out: str | Path, profile: str | Profile = "mini", seed: int = 0) -> None:
    """Edit sample pictures at rising guidance scales, and save them as one animation, forth and back. Nothing
    is picked: one seed for all."""
    editor = load_editor(get_profile(profile))
    inputs = [open_image(DATA / "images" / f"{name}.png") for name in EDITS]
    frames = []
    for scale in SCALES:
        edited = editor.many(inputs, list(EDITS.values()), seeds=[seed] * len(inputs), guidance_scale=scale)
        frames.append(frame(inputs, edited, scale))
    frames += frames[-2:0:-1]
    first, *others = frames
    first.save(out, save_all=True, append_images=others, duration=MILLISECONDS, loop=0, quality=80, method=6)


def frame(inputs: list, edited: list, scale: float) -> Image.Image:
    """Inputs above, edits below, and a slider that stands at `scale`."""
    figure = plt.figure(figsize=(6.4, 3.65), dpi=100)
    columns = figure.add_gridspec(3, len(inputs), height_ratios=[1, 1, 0.16], hspace=0.32, wspace=0.05)
    for k, instruction in enumerate(EDITS.values()):
        for row, picture in enumerate((inputs[k], edited[k])):
            axes = figure.add_subplot(columns[row, k])
            axes.imshow(picture)
            axes.axis("off")
        axes.set_title(textwrap.fill(f"“{instruction}”", 20), fontsize=7)
    slider = figure.add_subplot(columns[2, :])
    place = SCALES.index(scale)  # equal steps on the slider
    slider.plot([0, len(SCALES) - 1], [0, 0], color="#bbbbbb", linewidth=4, solid_capstyle="round")
    slider.plot([0, place], [0, 0], color="#1976d2", linewidth=4, solid_capstyle="round")
    slider.plot(place, 0, "o", color="#1976d2", markersize=12)
    slider.set_title(f"guidance scale $s_T$ = {scale:g}", fontsize=10)
    slider.axis("off")
    figure.subplots_adjust(left=0.01, right=0.99, top=0.99, bottom=0.01)
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    plt.close(figure)
    return picture
