"""The miniature world: scenes that can be drawn, described, edited and judged."""

from ip2p.miniworld.language import caption, instruction, parse
from ip2p.miniworld.render import render, render_mask
from ip2p.miniworld.scene import (
    ATTRIBUTES,
    COLOURS,
    COUNTS,
    EDIT_KINDS,
    EXTRAS,
    KINDS,
    MIXES,
    PLACES,
    POSITIONS,
    SIZES,
    STYLES,
    TIMES,
    WEATHERS,
    Scene,
    difference,
    edit,
    edit_kind,
    random_edit,
    random_scene,
)

__all__ = [
    "ATTRIBUTES",
    "COLOURS",
    "COUNTS",
    "EDIT_KINDS",
    "EXTRAS",
    "KINDS",
    "MIXES",
    "PLACES",
    "POSITIONS",
    "SIZES",
    "STYLES",
    "TIMES",
    "WEATHERS",
    "Scene",
    "caption",
    "difference",
    "edit",
    "edit_kind",
    "instruction",
    "parse",
    "random_edit",
    "random_scene",
    "render",
    "render_mask",
    "edit_success",
    "judge",
    "preservation",
    "valid_pair",
]


def __getattr__(name):
    if name in ("edit_success", "judge", "preservation", "valid_pair"):  # these import torch
        from importlib import import_module

        return getattr(import_module("ip2p.miniworld.judging"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
