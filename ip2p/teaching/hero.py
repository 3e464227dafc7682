"""The picture at the top of the README, real edits: `ip2p hero --out data/images/hero.png`."""

from __future__ import annotations

from pathlib import Path

from ip2p.common.grids import grid
from ip2p.common.images import open_image
from ip2p.editing import load_editor
from ip2p.paths import DATA
from ip2p.profiles import Profile, get_profile

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
    """Edit three sample pictures, four ways each, and save the sheet. Nothing is picked: one seed for all."""
    editor = load_editor(get_profile(profile))
    rows = []
    titles = []
    for name, instructions in EDITS.items():
        image = open_image(DATA / "images" / f"{name}.png")
        n = len(instructions)
        edited = editor.many([image] * n, list(instructions), seeds=[seed] * n)
        rows.append([image, *edited])
        titles.append(["input", *(f"“{instruction}”" for instruction in instructions)])
    sheet = grid(rows, titles=titles, size=1.9)
    sheet.savefig(out, dpi=100, bbox_inches="tight", pad_inches=0.06)
