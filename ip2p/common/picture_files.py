"""Files that a picture is to be saved in."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ip2p.common.durable import temporary


def picture_format(path: Path) -> str:
    """Pillow's name of the format of a picture that is to be saved. Raises ValueError, before any work, if
    it cannot be."""
    Image.init()
    name = Image.registered_extensions().get(path.suffix.lower(), "")
    if name not in Image.SAVE:
        raise ValueError(f"{path} has no ending of a picture; call it {path.name}.png")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file; choose another name")
    trial = temporary(path)
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}); choose another place") from None
    return name
