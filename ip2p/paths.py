"""Where the package's own files lie."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
ROOT = _PACKAGE.parent  # the clone, where there is one: its README, notebooks and site

# Installed from a wheel, data lies inside of the package; in a clone, beside it.
DATA = _PACKAGE / "data" if (_PACKAGE / "data").is_dir() else ROOT / "data"
