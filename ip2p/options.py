"""What painting pairs and training can be told, stated once: a field is an argument in Python and a flag of
`ip2p`.

A field's metadata holds its help and range; checks, flags and what identifies a run follow from them. No
heavy imports here: the command line reads this file before it knows what is asked.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from math import inf
from numbers import Integral, Real

RANGES = {"unit": (0, 1), "cosine": (-1, 1), "count": (1, inf), "natural": (0, inf)}


def option(default=MISSING, **about):
    """A field of Options. `about` may hold
    range: smallest and largest value, or a name in RANGES; choices: all values;
    profile: the profile's field with the default value;
    help: of the flag (without it the command line has none), and its metavar;
    identifies: False, if any value gives the same result."""
    return field(default=default, metadata=about)


def fits(value, kind: str, low: float, high: float) -> bool:
    """Whether a number, or each of several, lies in a range. NaN lies in none."""
    if isinstance(value, tuple | list):
        return all(fits(part, kind, low, high) for part in value)
    number = Integral if kind == "int" else Real
    return isinstance(value, number) and not isinstance(value, bool) and low <= value <= high


def refuse_outside(name: str, value, limits, kind: str = "int") -> None:
    """Raises ValueError, one sentence, for a number out of its range: a name in RANGES, or its two ends."""
    low, high = RANGES[limits] if isinstance(limits, str) else limits
    if not fits(value, kind, low, high):
        whole = "a whole number, " if kind == "int" else ""
        allowed = f"{low:g} or more" if high == inf else f"from {low:g} to {high:g}"
        raise ValueError(f"{name} is {value}; it must be {whole}{allowed}")


class Options:
    """The base of what follows. Raises ValueError, one sentence, for a value out of its range."""

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            if value is None and f.default is None:
                continue
            choices = f.metadata.get("choices")
            if choices and value not in choices:
                raise ValueError(f"{f.name} is {value!r}; it must be one of {', '.join(choices)}")
            if "range" in f.metadata:
                refuse_outside(f.name, value, f.metadata["range"], f.type)

    @classmethod
    def of(cls, profile, seed: int = 0, **options):
        """The profile's, with `options`. None among them means the default, and 0 means 0."""
        values = {
            f.name: getattr(profile, f.metadata["profile"]) for f in fields(cls) if "profile" in f.metadata
        }
        given = {name: value for name, value in options.items() if value is not None}
        return cls(**values | given, seed=seed)  # ty: ignore[unknown-argument] -- of each subclass

    def identity(self) -> dict:
        """The options on which the result depends."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("identifies", True)}

    def shared_with(self, kind) -> dict:
        """The options that another dataclass has, too."""
        return {f.name: getattr(self, f.name) for f in fields(kind) if hasattr(self, f.name)}


@dataclass(frozen=True, kw_only=True)
class Job(Options):
    """What a folder of pairs is made by. Two jobs that are equal make equal bytes."""

    candidates: int = option(profile="candidates", range="count", help="candidates a caption pair")
    keep: int = option(profile="keep", range="count", help="pairs kept at most of a caption pair")
    steps: int = option(profile="pair_steps", range="count", help="denoising steps")
    attention: str = option(
        profile="attention", choices=("self", "cross", "both"), help="which attention the two images share"
    )
    share: tuple[float, float] = option(profile="share", range="unit")  # the range of p
    pair_guidance: tuple[float, float] = option(profile="pair_guidance", range="natural")
    per_seed: int = option(
        profile="per_seed",
        range="count",
        help="candidates of one seed, which differ by p alone and share what they have in common "
        "(1: a seed for each, as the authors do)",
    )
    enough: bool = option(
        profile="enough", help="stop painting for a caption pair that has as many good pairs as are kept"
    )
    min_image: float = option(
        profile="min_image", range="cosine", help="smallest similarity of the two images"
    )
    min_caption: float = option(
        profile="min_caption", range="cosine", help="smallest similarity of an image and its caption"
    )
    min_direction: float = option(
        profile="min_direction",
        range="cosine",
        help="smallest similarity of the two changes, the directional one",
    )
    batch: int = option(profile="batch", range="count", help="pairs painted at once")
    shard: int = option(64, range="count")  # triplets a shard
    # of PyTorch on a CPU, whose last bits depend on it; 0: its default
    threads: int = option(0, range="natural")
    seed: int = option(0)

    def __post_init__(self):
        super().__post_init__()
        if self.candidates % self.per_seed:
            raise ValueError(
                f"candidates is {self.candidates}; it must be a multiple of per_seed, {self.per_seed}"
            )

    @property
    def thresholds(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("min_image", "min_caption", "min_direction")}


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """How an editor is trained."""

    steps: int = option(profile="train_steps", range="count", help="optimiser steps")
    batch: int = option(
        profile="train_batch",
        range="count",
        help="pairs a step, of all processes together (`accelerate launch`)",
    )
    lr: float = option(profile="train_lr", range=(1e-9, 1), help="peak learning rate")
    muon: bool = option(profile="muon")  # Muon for the weights of hidden layers; else AdamW for all
    seed: int = option(0)
    start: str | None = option(
        None, metavar="DIR", help="an editor to go on from, instead of the text-to-image model"
    )
    augment: bool = option(False, help="resize, crop and mirror the pairs at random (slower)")
    accumulate: int = option(1, range="count", identifies=False, help="work through a batch in so many parts")
    checkpointing: bool = option(False, identifies=False, help="less memory, more time")
    lora: int = option(
        0,
        range="natural",
        metavar="RANK",
        help="train adapters of the attention, in the end merged; 0: all weights",
    )
    gamma: float = option(5.0, range=(1e-3, inf), help="of the min-SNR weights; inf: none")
    dropout: float = option(
        0.05,
        range=(0, 1 / 3),
        metavar="RATE",
        help="how often the text alone, the image alone, and both are left out",
    )
    eight_bit: bool = option(False, help="AdamW with 8-bit moments (needs bitsandbytes)")
    keep: int = option(2, range="count", identifies=False, help="checkpoints to keep")
    tensorboard: bool = option(
        False, identifies=False, help="the loss for TensorBoard, too, in OUT/tensorboard"
    )
    save_minutes: float = option(4.0, range="natural", identifies=False)  # between checkpoints
    sample_minutes: float = option(8.0, range="natural", identifies=False)  # between calls of `sample`
    sample_every: int = option(0, range="natural", identifies=False)  # steps between them instead, if not 0
