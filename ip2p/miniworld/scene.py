"""The miniature world: what a scene can hold, how scenes are drawn at random, and what an edit does to one.

A scene is a small frozen value. Everything else (its picture, its caption, the truth about an edit) is a pure
function of that value, which is why every claim of the paper can be checked here against the truth.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import NamedTuple

KINDS = (
    "cat",
    "dog",
    "rabbit",
    "duck",
    "owl",
    "elephant",
    "robot",
    "rocket",
    "car",
    "boat",
    "house",
    "castle",
    "tent",
    "mushroom",
    "teapot",
    "umbrella",
)

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")

SIZES = ("small", "medium", "large")

COUNTS = (1, 2, 3)

POSITIONS = ("left", "centre", "right")

PLACES = ("meadow", "beach", "desert", "mountains", "city", "forest", "farm")

TIMES = ("day", "sunset", "night")

WEATHERS = ("clear", "rain", "snow")

STYLES = ("illustration", "pencil sketch", "watercolour", "mosaic", "comic")

EXTRAS = ("hat", "balloon", "flag", "flowers", "birds")

# Attribute -> its possible values, in the order in which the judge's classes are numbered.
# The first nine are fields of `Scene`; each extra is there or not; the second object has a kind and a colour.
ATTRIBUTES: dict[str, tuple] = {
    "kind": KINDS,
    "colour": COLOURS,
    "size": SIZES,
    "count": COUNTS,
    "position": POSITIONS,
    "place": PLACES,
    "time": TIMES,
    "weather": WEATHERS,
    "style": STYLES,
    **{extra: (False, True) for extra in EXTRAS},
    "second_kind": (None, *KINDS),
    "second_colour": (None, *COLOURS),
}

EDIT_KINDS = (
    "colour",
    "kind",
    "place",
    "time",
    "weather",
    "style",
    "size",
    "add",
    "remove",
    "count",
    "position",
)

# The attributes that are fields of `Scene` by the same name, in the order in which they are checked.
FIELDS = ("kind", "colour", "place", "size", "count", "position", "time", "weather", "style")

COMPANY_SHARE = 0.15  # of the random "add" edits of a single object that add a second one, not an extra


@dataclass(frozen=True)
class Scene:
    """One scene. `seed` sets what words do not say (hill lines, cloud shapes, a little jitter of the object).

    A single object stands at `position`; several alike stand in a row (position "centre"); a second object,
    of another kind or (in no random scene) only of another colour, stands to the right of the first (both
    then count 1, position "centre"). Raises ValueError for a value that is not in `ATTRIBUTES` and for a
    combination that cannot be.
    """

    kind: str
    colour: str
    place: str
    size: str = "medium"
    count: int = 1
    position: str = "centre"
    time: str = "day"
    weather: str = "clear"
    style: str = "illustration"
    extras: tuple[str, ...] = ()
    second: tuple[str, str] | None = None  # (kind, colour)
    seed: int = 0

    def __post_init__(self):
        for name in FIELDS:
            value = getattr(self, name)
            if value not in ATTRIBUTES[name]:
                raise ValueError(f"{name} is {value!r}; choose one of {ATTRIBUTES[name]}")
        unknown = set(self.extras) - set(EXTRAS)
        if unknown:
            raise ValueError(f"unknown extras {sorted(unknown)}; choose from {EXTRAS}")
        in_order = tuple(extra for extra in EXTRAS if extra in self.extras)  # so that == works
        object.__setattr__(self, "extras", in_order)
        if self.second is not None:
            kind, colour = self.second
            if kind not in KINDS or colour not in COLOURS or self.second == (self.kind, self.colour):
                raise ValueError(f"second is {self.second!r}; give (kind, colour), not both as of the first")
            if self.count != 1:
                raise ValueError("a scene with a second object has count 1")
        if not self.is_single and self.position != "centre":
            raise ValueError("only a single object can stand left or right")

    @property
    def is_single(self) -> bool:
        """One object, and no other beside it."""
        return self.count == 1 and self.second is None

    def attributes(self) -> dict:
        """All attributes as one flat dict, keyed like `ATTRIBUTES` (the judge's answer has the same form)."""
        values = {name: getattr(self, name) for name in FIELDS}
        values |= {extra: extra in self.extras for extra in EXTRAS}
        values["second_kind"], values["second_colour"] = self.second or (None, None)
        return {name: values[name] for name in ATTRIBUTES}


class Mix(NamedTuple):
    """How often random scenes hold each rarer thing: weights in the order of the values, or a chance in [0,
    1]."""

    size: tuple[float, ...]
    count: tuple[float, ...]
    time: tuple[float, ...]
    weather: tuple[float, ...]
    style: tuple[float, ...]
    aside: float  # chance that a single object stands left or right
    second: float  # chance of a second object, where there is one of the first
    extra: float  # chance of each extra


MIXES = {
    # A fair share of everything: second objects, rows, extras, every style and weather.
    "wild": Mix(
        size=(0.20, 0.45, 0.35),
        count=(0.80, 0.10, 0.10),
        time=(0.45, 0.25, 0.30),
        weather=(0.6, 0.2, 0.2),
        style=(0.40, 0.15, 0.15, 0.15, 0.15),
        aside=0.25,
        second=0.18,
        extra=0.12,
    ),
    "even": Mix(
        size=(1, 1, 1),
        count=(1, 1, 1),
        time=(1, 1, 1),
        weather=(1, 1, 1),
        style=(1, 1, 1, 1, 1),
        aside=0.66,
        second=0.2,
        extra=0.3,
    ),
}
MIXES["two"] = MIXES["wild"]._replace(count=(1, 0, 0), second=1.0)  # always with a second object


def as_random(rng: random.Random | int) -> random.Random:
    """The generator itself, or one with this seed."""
    return random.Random(rng) if isinstance(rng, int) else rng


def _others(values: tuple, *taken) -> list:
    """The values that are not taken."""
    return [value for value in values if value not in taken]


def random_scene(rng: random.Random | int, mix: str = "wild") -> Scene:
    """A random scene. `rng` is a `random.Random` or a seed; `mix` a key of `MIXES`."""
    rng = as_random(rng)
    weights = MIXES[mix]
    kind = rng.choice(KINDS)
    colour = rng.choice(COLOURS)
    count = rng.choices(COUNTS, weights.count)[0]
    second = None
    if count == 1 and rng.random() < weights.second:
        second = (rng.choice(_others(KINDS, kind)), rng.choice(COLOURS))
    position = "centre"
    if count == 1 and second is None and rng.random() < weights.aside:
        position = rng.choice(("left", "right"))
    return Scene(
        kind=kind,
        colour=colour,
        place=rng.choice(PLACES),
        size=rng.choices(SIZES, weights.size)[0],
        count=count,
        position=position,
        time=rng.choices(TIMES, weights.time)[0],
        weather=rng.choices(WEATHERS, weights.weather)[0],
        style=rng.choices(STYLES, weights.style)[0],
        extras=tuple(extra for extra in EXTRAS if rng.random() < weights.extra),
        second=second,
        seed=rng.randrange(2**31),
    )


def edit(scene: Scene, *, add=None, remove: str | None = None, swap: bool = False, **change) -> Scene:
    """The true edited scene: same seed, same everything but what is asked for.

    One or several of `kind=, colour=, size=, count=, position=, place=, time=, weather=, style=` (a value of
    `ATTRIBUTES`), `add="hat"` or `remove="hat"` (one of `EXTRAS`), `add=("dog", "red")` (a second object),
    `remove="dog"` (the second object) and `swap=True` (the two objects change places). Several objects, or a
    second one, move a single object to the centre. Raises ValueError for what the world cannot hold and for
    an edit that changes nothing.
    """
    unknown = set(change) - set(FIELDS)
    if unknown:
        raise ValueError(f"cannot edit {sorted(unknown)}; see ip2p.miniworld.edit")
    if change.get("count", 1) > 1:
        change.setdefault("position", "centre")
    if isinstance(add, str):
        change["extras"] = (*scene.extras, add)
    elif add is not None:
        change["second"] = tuple(add)
        change.setdefault("position", "centre")
    if remove in EXTRAS:
        change["extras"] = tuple(_others(change.get("extras", scene.extras), remove))
    elif remove is not None:
        if scene.second is None or scene.second[0] != remove:
            raise ValueError(f"there is no second object {remove!r} to remove")
        change["second"] = None
    if swap:
        if scene.second is None:
            raise ValueError("there are no two objects to change places")
        change["kind"], change["colour"] = scene.second
        change["second"] = (scene.kind, scene.colour)
    edited = replace(scene, **change)
    if edited == scene:
        raise ValueError("this edit changes nothing")
    return edited


# What a caption says: {attribute: value}, and nothing of what it leaves unsaid (`ip2p.miniworld.parse`).
Said = dict[str, object]

# A thing that is not named is taken to be absent where two captions are compared.
ABSENT: Said = {**dict.fromkeys(EXTRAS, False), "second_kind": None, "second_colour": None}


def attributes_of(told: Scene | Said) -> Said:
    """The attributes of a scene, or of what a caption says; extras and second objects are there or not."""
    return told.attributes() if isinstance(told, Scene) else ABSENT | told


def difference(before: Scene | Said, after: Scene | Said) -> Said:
    """Which attributes differ between two scenes, or between what two captions say, as {name: value after},
    in the order of ATTRIBUTES; the seed is no attribute. None: the second caption does not say it."""
    old, new = attributes_of(before), attributes_of(after)
    return {name: new.get(name) for name in ATTRIBUTES if old.get(name) != new.get(name)}


def asked(before: Scene | Said, after: Scene | Said) -> Said:
    """What an edit asks for: {attribute: value}. That a row or a second object moves a single one to the
    middle, and that an object taken away has no colour, goes without saying and is left out.

    Raises ValueError if nothing changes.
    """
    wanted = difference(before, after)
    if not wanted:
        raise ValueError("this edit changes nothing")
    if wanted.get("position") in ("centre", None) and ("count" in wanted or "second_kind" in wanted):
        wanted.pop("position", None)
    if wanted.get("second_kind", "same") is None:
        wanted.pop("second_colour", None)
    return wanted


def edit_kind(before: Scene | Said, after: Scene | Said) -> str:
    """The edit's kind: one of `EDIT_KINDS`, "swap", or, if it changes more than one thing, "several".

    Raises ValueError if nothing changes.
    """
    wanted = asked(before, after)
    old, new = attributes_of(before), attributes_of(after)
    if is_swap(old, new):
        return "swap"
    kinds = {change_kind(name, old, new) for name in wanted}
    if "second_kind" in wanted and "colour" in kinds and "colour" not in wanted:
        kinds.discard("colour")  # the new object's own
    return kinds.pop() if len(kinds) == 1 else "several"


def is_swap(old: Said, new: Said) -> bool:
    """Whether the two objects change places, and nothing else does anything."""
    if old["second_kind"] is None:
        return False
    mirrored = dict(old)
    for name in ("kind", "colour"):
        mirrored[name] = old[f"second_{name}"]
        mirrored[f"second_{name}"] = old.get(name)
    return all(mirrored.get(name) == new.get(name) for name in ATTRIBUTES)


def change_kind(name: str, old: Said, new: Said) -> str:
    """Of which of `EDIT_KINDS` the change of one attribute is."""
    if name in FIELDS:
        return name
    if name == "second_colour":
        return "colour"
    if name == "second_kind" and None not in (old[name], new[name]):
        return "kind"
    return "add" if new[name] else "remove"


def fitting_kinds(scene: Scene) -> list[str]:
    """Those of `EDIT_KINDS` that can be done to a scene."""
    fits = {
        "remove": bool(scene.extras or scene.second),
        "count": scene.second is None,
        "position": scene.is_single,
        "add": len(scene.extras) < len(EXTRAS),
    }
    return [kind for kind in EDIT_KINDS if fits.get(kind, True)]


def random_edit(scene: Scene, rng: random.Random | int, kind: str | None = None) -> Scene:
    """A random edit of a scene.

    kind: one of EDIT_KINDS or "swap"; None: one of EDIT_KINDS that fits the scene, each equally likely (so
    two objects change places only when that is asked for: it is in no lesson). Raises ValueError for a kind
    that does not fit.
    """
    rng = as_random(rng)
    if kind == "swap":
        return edit(scene, swap=True)
    fits = fitting_kinds(scene)
    if kind is None:
        kind = rng.choice(fits)
    elif kind not in fits:
        raise ValueError(f"a {kind!r} edit does not fit this scene")
    if kind == "add":
        return _random_addition(scene, rng)
    if kind == "remove":
        things = list(scene.extras)
        if scene.second:
            things.append(scene.second[0])
        return edit(scene, remove=rng.choice(things))
    taken = [getattr(scene, kind)]
    if kind == "kind" and scene.second:
        taken.append(scene.second[0])
    return edit(scene, **{kind: rng.choice(_others(ATTRIBUTES[kind], *taken))})


def _random_addition(scene: Scene, rng: random.Random) -> Scene:
    """An extra that the scene does not have, or now and then a second object beside a single one."""
    if scene.is_single and rng.random() < COMPANY_SHARE:
        return edit(scene, add=(rng.choice(_others(KINDS, scene.kind)), rng.choice(COLOURS)))
    return edit(scene, add=rng.choice(_others(EXTRAS, *scene.extras)))
