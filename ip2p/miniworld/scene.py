"""The miniature world: what a scene can hold, how scenes are drawn at random, and what an edit does to one.

A scene is a small frozen value. Everything else (its picture, its caption, the truth about an edit) is a pure
function of that value, which is why every claim of the paper can be checked here against the truth.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class Scene:
    """One scene. `seed` sets what words do not say (hill lines, cloud shapes, a little jitter of the object).

    A single object stands at `position`; several of a kind stand in a row (position "centre"); a second, different
    object stands to the right of the first (both then count 1, position "centre").
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
        for name in ("kind", "colour", "place", "size", "count", "position", "time", "weather", "style"):
            if getattr(self, name) not in ATTRIBUTES[name]:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {ATTRIBUTES[name]}")
        if unknown := set(self.extras) - set(EXTRAS):
            raise ValueError(f"unknown extras {sorted(unknown)}; choose from {EXTRAS}")
        object.__setattr__(
            self, "extras", tuple(e for e in EXTRAS if e in self.extras)
        )  # one order, so == works
        if self.second is not None:
            if self.second[0] not in KINDS or self.second[1] not in COLOURS or self.second[0] == self.kind:
                raise ValueError(f"second is {self.second!r}; give (another kind than {self.kind!r}, colour)")
            if self.count != 1:
                raise ValueError("a scene with a second object has count 1")
        if (self.count > 1 or self.second) and self.position != "centre":
            raise ValueError("only a single object can stand left or right")

    def attributes(self) -> dict:
        """All attributes as one flat dict, keyed like `ATTRIBUTES` (the judge's answer has the same form)."""
        out = {
            name: getattr(self, name)
            for name in ("kind", "colour", "size", "count", "position", "place", "time", "weather", "style")
        }
        out |= {extra: extra in self.extras for extra in EXTRAS}
        out["second_kind"], out["second_colour"] = self.second or (None, None)
        return out


# What a caption leaves unsaid; kind, colour and place are always said.
DEFAULTS = {
    name: value
    for name, value in Scene("cat", "red", "meadow").attributes().items()
    if name not in ("kind", "colour", "place")
}

# How often each rarer thing is drawn. mini-sd is trained on "plain": mostly one object, as its small size can paint.
MIXES = {
    "plain": dict(
        size=(0.10, 0.50, 0.40),
        count=(0.90, 0.05, 0.05),
        side=0.2,
        second=0.04,
        extra=0.06,
        time=(0.5, 0.25, 0.25),
        weather=(0.7, 0.15, 0.15),
        style=(0.56, 0.11, 0.11, 0.11, 0.11),
    ),
    "even": dict(
        size=(1, 1, 1),
        count=(1, 1, 1),
        side=0.66,
        second=0.2,
        extra=0.3,
        time=(1, 1, 1),
        weather=(1, 1, 1),
        style=(1, 1, 1, 1, 1),
    ),
}


def random_scene(rng: random.Random | int, mix: str = "plain") -> Scene:
    """A random scene. `rng` is a `random.Random` or a seed; `mix` a key of `MIXES`."""
    rng = random.Random(rng) if isinstance(rng, int) else rng
    m = MIXES[mix]

    def pick(values, weights):
        return rng.choices(values, weights)[0]

    kind, colour = rng.choice(KINDS), rng.choice(COLOURS)
    second = None
    count = pick(COUNTS, m["count"])
    if count == 1 and rng.random() < m["second"]:
        second = (rng.choice([k for k in KINDS if k != kind]), rng.choice(COLOURS))
    single = count == 1 and second is None
    position = rng.choice(("left", "right")) if single and rng.random() < m["side"] else "centre"
    return Scene(
        kind=kind,
        colour=colour,
        place=rng.choice(PLACES),
        size=pick(SIZES, m["size"]),
        count=count,
        position=position,
        time=pick(TIMES, m["time"]),
        weather=pick(WEATHERS, m["weather"]),
        style=pick(STYLES, m["style"]),
        extras=tuple(e for e in EXTRAS if rng.random() < m["extra"]),
        second=second,
        seed=rng.randrange(2**31),
    )


def edit(scene: Scene, **change) -> Scene:
    """The true edited scene: same seed, same everything but what `change` asks for.

    One or several of `kind=, colour=, size=, count=, position=, place=, time=, weather=, style=` (a value of
    `ATTRIBUTES`), `add="hat"` or `remove="hat"` (one of `EXTRAS`), `add=("dog", "red")` (a second object) and
    `remove="dog"` (the second object); `swap=True` (the two objects change places). Raises ValueError for what the
    world cannot hold and for an edit that changes nothing.
    """
    change = dict(change)
    add, remove, swap = (change.pop(name, None) for name in ("add", "remove", "swap"))
    if unknown := set(change) - set(ATTRIBUTES) | set(change) & {*EXTRAS, "second_kind", "second_colour"}:
        raise ValueError(f"cannot edit {sorted(unknown)}; see ip2p.miniworld.edit")
    if change.get("count", 1) > 1:
        change = {"position": "centre", **change}
    if isinstance(add, str):
        change["extras"] = (*scene.extras, add)
    elif add is not None:
        change = {"second": tuple(add), "position": "centre", **change}
    if remove in EXTRAS:
        change["extras"] = tuple(e for e in change.get("extras", scene.extras) if e != remove)
    elif remove is not None:
        if scene.second is None or scene.second[0] != remove:
            raise ValueError(f"there is no second object {remove!r} to remove")
        change["second"] = None
    if swap:
        if scene.second is None:
            raise ValueError("there are no two objects to change places")
        change |= {"kind": scene.second[0], "colour": scene.second[1], "second": (scene.kind, scene.colour)}
    edited = replace(scene, **change)
    if edited == scene:
        raise ValueError("this edit changes nothing")
    return edited


def difference(before: Scene, after: Scene) -> dict:
    """Which attributes differ, as {name: value after}; the seed is no attribute."""
    a, b = before.attributes(), after.attributes()
    return {name: b[name] for name in ATTRIBUTES if a[name] != b[name]}


def edit_kind(before: Scene, after: Scene) -> str:
    """The edit's kind, one of `EDIT_KINDS`, "swap", or, if it changes more than one thing, "several"."""
    changed = difference(before, after)
    if not changed:
        raise ValueError("this edit changes nothing")
    if before.second and replace(after, seed=before.seed) == edit(before, swap=True):
        return "swap"
    kinds = set()
    for name, value in changed.items():
        if name in EXTRAS or name.startswith("second"):
            kinds.add("remove" if value in (False, None) else "add")
        else:
            kinds.add(name)
    if len(kinds) > 1:  # a count or a second object moves a single object to the middle by itself
        kinds -= {"position"} if kinds & {"count", "add"} else set()
    return kinds.pop() if len(kinds) == 1 else "several"


def random_edit(scene: Scene, rng: random.Random | int, kind: str | None = None) -> Scene:
    """A random edit of `scene`, of the given kind, "swap" among them (or one of EDIT_KINDS that fits the scene, each
    equally likely)."""
    rng = random.Random(rng) if isinstance(rng, int) else rng
    single = scene.count == 1 and scene.second is None
    fits = [
        k
        for k in EDIT_KINDS
        if {
            "remove": bool(scene.extras or scene.second),
            "count": scene.second is None,
            "position": single,
            "add": len(scene.extras) < len(EXTRAS),
        }.get(k, True)
    ]
    if kind == "swap":  # only when it is asked for: it is in no lesson
        return edit(scene, swap=True)
    if kind is None:
        kind = rng.choice(fits)
    elif kind not in fits:
        raise ValueError(f"a {kind!r} edit does not fit this scene")
    if kind == "add":
        if single and rng.random() < 0.15:
            return edit(scene, add=(rng.choice([k for k in KINDS if k != scene.kind]), rng.choice(COLOURS)))
        return edit(scene, add=rng.choice([e for e in EXTRAS if e not in scene.extras]))
    if kind == "remove":
        return edit(scene, remove=rng.choice([*scene.extras, *([scene.second[0]] if scene.second else [])]))
    taken = {getattr(scene, kind)} | ({scene.second[0]} if kind == "kind" and scene.second else set())
    return edit(scene, **{kind: rng.choice([v for v in ATTRIBUTES[kind] if v not in taken])})
