"""Where the package's own files lie."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent

ROOT = _PACKAGE.parent  # the clone, where there is one: its README, notebooks and site

# Installed from a wheel, data lies inside of the package; in a clone, beside it.
DATA = _PACKAGE / "data" if (_PACKAGE / "data").is_dir() else ROOT / "data"


def need_clone(command: str) -> None:
    """Raises ValueError where ip2p is installed without its repository, on whose files `command` works."""
    if not (ROOT / "pyproject.toml").is_file():
        raise ValueError(
            f"`{command}` works on the files of the repository, and this ip2p was installed without them; "
            "clone the repository and run the command there, after `make` or `pip install -e .`"
        )
