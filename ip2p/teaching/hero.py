"""The picture at the top of the README: real edits by the bundled model. `ip2p hero --out data/images/hero.png`."""

from __future__ import annotations

from pathlib import Path

from ip2p.common.grids import grid
from ip2p.common.images import open_image
from ip2p.editing import load_editor
from ip2p.paths import DATA
from ip2p.profiles import Profile

EDITS = {
    "cat": ("make it night", "turn it into a pencil sketch", "make the cat blue", "let it snow"),
    "house": ("make it sunset", "as a mosaic", "put it on a beach", "make it rain"),
    "boat": (
        "make it a red boat",
        "turn it into a comic",
        "what if it were night?",
        "paint it as a watercolour",
    ),
}


def hero(out: str | Path, profile: str | Profile = "mini", seed: int = 0) -> None:
    """Edit three sample pictures, four ways each, and save the sheet. No picture is chosen: one seed for all."""
    editor = load_editor(profile)
    rows, titles = [], []
    for name, instructions in EDITS.items():
        image = open_image(DATA / "images" / f"{name}.png")
        edited = editor.many(
            [image] * len(instructions), list(instructions), seeds=[seed] * len(instructions)
        )
        rows.append([image, *edited])
        titles.append(["input", *[f"“{text}”" for text in instructions]])
    grid(rows, titles=titles, size=1.9).savefig(out, dpi=100, bbox_inches="tight", pad_inches=0.06)
