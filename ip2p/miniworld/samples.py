"""The sample pictures in data/images, and the scenes behind them: `ip2p samples` draws them."""

from __future__ import annotations

from pathlib import Path

from ip2p.miniworld.render import render
from ip2p.miniworld.scene import Scene
from ip2p.paths import DATA

IMAGES = DATA / "images"

# name -> the scene that is drawn as NAME.png
SAMPLES = {
    "cat": Scene("cat", "orange", "meadow", size="large", seed=3),
    "house": Scene("house", "yellow", "mountains", size="large", seed=11),
    "rocket": Scene("rocket", "red", "desert", size="large", seed=5),
    "boat": Scene("boat", "blue", "beach", size="large", seed=8),
    "robot": Scene("robot", "purple", "city", size="large", seed=2),
    "owl": Scene("owl", "pink", "forest", size="large", seed=4),
}


def write(folder: Path = IMAGES) -> None:
    """Draw every sample as NAME.png in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, scene in SAMPLES.items():
        render(scene).save(folder / f"{name}.png", optimize=True)
