"""InstructPix2Pix, the whole paper, run by yourself."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["load_editor"]


def __getattr__(name):
    if name == "load_editor":  # imports torch and diffusers only when asked
        from ip2p.editing import load_editor

        return load_editor
    raise AttributeError(f"module 'ip2p' has no attribute {name!r}")
