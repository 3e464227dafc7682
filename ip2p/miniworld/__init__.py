"""The miniature world: scenes that can be drawn, described, edited and judged."""

from importlib import import_module

from ip2p.miniworld.captions import caption, caption_pair
from ip2p.miniworld.language import instruction
from ip2p.miniworld.parsing import agrees, parse
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
    Said,
    Scene,
    asked,
    difference,
    edit,
    edit_kind,
    random_edit,
    random_scene,
)

_OF_THE_JUDGE = ("edit_success", "judge", "preservation", "valid_pair")

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
    "Said",
    "Scene",
    "agrees",
    "asked",
    "caption",
    "caption_pair",
    "difference",
    "edit",
    "edit_kind",
    "instruction",
    "parse",
    "random_edit",
    "random_scene",
    "render",
    "render_mask",
    *_OF_THE_JUDGE,
]


def __getattr__(name: str):
    """What the judge hands out is imported at its first use, as it needs torch."""
    if name in _OF_THE_JUDGE:
        return getattr(import_module("ip2p.miniworld.judging"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
