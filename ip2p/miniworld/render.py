"""Draws a scene: one pass paints colours and a label map, one function a style turns both into the picture.

Every element draws its own random numbers from (seed, name), so an edit of one attribute leaves the shapes of
the others alone: with another colour the background stays pixel-identical, with another time of day every
line stays in place.
"""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

from ip2p.miniworld.objects import (
    COLOUR_RGB,
    CREAM,
    KIND_DRAWING,
    LAMP,
    OBJECT_LABEL,
    WHITE,
    Canvas,
    Colour,
    Pen,
    mix,
)
from ip2p.miniworld.scene import Scene

SUPERSAMPLE = 4  # everything is drawn this much larger, then scaled down

HORIZON = 0.62  # heights, as shares of the side, from the top
FEET = 0.87

UNITS = {
    1: {"small": 0.25, "medium": 0.41, "large": 0.6},  # side of an object's box, by count
    2: {"small": 0.2, "medium": 0.295, "large": 0.42},
    3: {"small": 0.18, "medium": 0.26, "large": 0.335},
}

CENTRES = {
    1: {"left": (0.24,), "centre": (0.5,), "right": (0.76,)},
    2: {"centre": (0.27, 0.73)},
    3: {"centre": (0.18, 0.5, 0.82)},
}

SKY, STAR, SUN, CLOUD = 0, 1, 2, 3  # labels; each thing of a place has its own from 10 on

# (time, weather): the sky's colour at the top, in the middle and at the horizon, and the clouds' colour
SKIES = {
    ("day", "clear"): ((84, 172, 240), (136, 204, 250), (206, 236, 252), (255, 255, 255)),
    ("day", "rain"): ((128, 142, 160), (154, 168, 184), (182, 192, 200), (96, 108, 128)),
    ("day", "snow"): ((168, 192, 218), (190, 208, 228), (214, 226, 238), (240, 244, 250)),
    ("sunset", "clear"): ((140, 92, 178), (244, 122, 128), (255, 192, 100), (255, 186, 178)),
    ("sunset", "rain"): ((122, 92, 124), (186, 118, 118), (226, 160, 112), (96, 76, 104)),
    ("sunset", "snow"): ((176, 142, 190), (228, 160, 174), (250, 200, 160), (250, 222, 222)),
    ("night", "clear"): ((18, 24, 74), (30, 42, 104), (52, 68, 138), (70, 84, 148)),
    ("night", "rain"): ((24, 28, 50), (36, 42, 66), (52, 60, 84), (74, 80, 104)),
    ("night", "snow"): ((46, 56, 104), (66, 78, 130), (92, 106, 158), (124, 136, 184)),
}


def chance(scene: Scene, name: str) -> random.Random:
    """The random numbers of one element, the same on every machine."""
    return random.Random(zlib.crc32(f"{scene.seed}/{name}".encode()))


@dataclass(frozen=True)
class Light:
    """What time of day and weather do to colours."""

    time: str
    weather: str

    @property
    def night(self) -> bool:
        """Whether windows and moon shine."""
        return self.time == "night"

    def ground(self, colour: Colour, snow: float = 0.66) -> Colour:
        """The ground's colour; `snow`: how white snow makes it, from 0 to 1."""
        return _lit(colour, self.time, self.weather, snow)

    def far(self, colour: Colour, snow: float = 0.3) -> Colour:
        """The colour of what stands behind the objects."""
        return _lit(colour, self.time, self.weather, snow)

    def thing(self, colour: Colour) -> Colour:
        """Objects stay well lit, as in picture books."""
        return _times(
            colour, {"day": (1, 1, 1), "sunset": (1, 0.96, 0.91), "night": (0.9, 0.92, 1)}[self.time]
        )


def _times(colour: Colour, factors: tuple[float, float, float], plus: Colour = (0, 0, 0)) -> Colour:
    """Each channel times its factor, and a little more."""
    return tuple(round(c * f + p) for c, f, p in zip(colour, factors, plus, strict=True))


@lru_cache(maxsize=4096)
def _lit(colour: Colour, time: str, weather: str, snow: float) -> Colour:
    if weather == "rain":
        grey = round(sum(colour) / 3)
        colour = mix(colour, (grey, grey, grey), 0.35)
        colour = mix(colour, (60, 70, 86), 0.14)
    if weather == "snow":
        snow *= 0.55 if time == "night" else 1  # else all places look alike by night
        colour = mix(colour, (246, 249, 255), snow)
    if time == "sunset":
        return mix(_times(colour, (1.0, 0.8, 0.7)), (255, 130, 90), 0.1)
    if time == "night":
        return _times(colour, (0.43, 0.48, 0.6), (6, 8, 30))
    return colour


def ridge(r: random.Random, base: float, height: float, waves: float = 1.5, floor: float = 1.02) -> list:
    """A hilly outline of two sine waves around height `base`, closed at `floor`."""
    a, b = r.uniform(0, 6.28), r.uniform(0, 6.28)
    line = []
    for i in range(25):
        coarse = math.sin(6.28 * waves * i / 24 + a)
        fine = math.sin(12.56 * waves * i / 24 + b)
        line.append((i / 24, base - height * (0.7 * coarse + 0.3 * fine)))
    return [(-0.02, line[0][1]), *line, (1.02, line[-1][1]), (1.02, floor), (-0.02, floor)]


# --- the sky ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def sky(time: str, weather: str, px: int) -> Image.Image:
    """The empty sky: a gradient down to the horizon."""
    top, middle, horizon, _ = SKIES[time, weather]
    t = np.clip(np.arange(px) / (HORIZON * px), 0, 1)
    channels = [np.interp(t, (0, 0.5, 1), stops) for stops in zip(top, middle, horizon, strict=True)]
    rows = np.round(np.stack(channels, 1)).astype(np.uint8)  # (px, 3)
    return Image.fromarray(np.repeat(rows[:, None], px, 1))


def paint_sky(c: Canvas, scene: Scene, light: Light):
    """What stands in the sky: sun or moon with a cloud or two, or a lid of clouds."""
    r = chance(scene, "sky")
    cloud = SKIES[scene.time, scene.weather][3]
    if scene.weather != "clear":
        lid_of_clouds(c, r, 0.02 if scene.weather == "rain" else 0.0, cloud)
        return
    x, y = 0.15 + r.uniform(-0.03, 0.03), 0.15 + r.uniform(-0.02, 0.02)
    if light.night:
        moon_and_stars(c, r, x, y)
        return
    if scene.time == "day":
        c.ellipse(x, y, 0.115, 0.115, (198, 226, 190))
        c.ellipse(x, y, 0.085, 0.085, (255, 222, 70), SUN)
    else:
        c.ellipse(x + 0.06, 0.44, 0.17, 0.17, (255, 182, 112))
        c.ellipse(x + 0.06, 0.44, 0.125, 0.125, (255, 230, 120), SUN)
    first = (r.uniform(0.32, 0.45), r.uniform(0.2, 0.26))
    second = (r.uniform(0.72, 0.9), r.uniform(0.1, 0.16))
    for x, y in (first, second):
        puff(c, x, y, r.uniform(0.8, 1.0), cloud)


def moon_and_stars(c: Canvas, r: random.Random, x: float, y: float):
    """A crescent around (x, y) that opens to the upper right, and stars that keep away from it."""
    angles = [0.5 + 4.6 * i / 16 for i in range(17)]
    outside = [(x + 0.095 * math.cos(a), y + 0.095 * math.sin(a)) for a in angles]
    inside = [(x + 0.03 + 0.072 * math.cos(a), y - 0.022 + 0.072 * math.sin(a)) for a in reversed(angles)]
    c.poly(outside + inside, (255, 244, 196), SUN)
    for _ in range(14):
        sx, sy, big = r.uniform(0.02, 0.98), r.uniform(0.02, 0.48), r.choice((0.008, 0.012))
        if math.hypot(sx - x, sy - y) > 0.14:
            c.ellipse(sx, sy, big, big, (255, 246, 204), STAR)


def lid_of_clouds(c: Canvas, r: random.Random, y: float, fill: Colour):
    """Clouds all along the top."""
    for i in range(7):
        c.ellipse(i / 6 + r.uniform(-0.03, 0.03), y + r.uniform(-0.02, 0.03), 0.13, 0.1, fill, CLOUD)


def puff(c: Canvas, x: float, y: float, s: float, fill: Colour):
    """One cloud of three balls and a flat bottom; s: its scale."""
    for dx, dy, radius in ((-0.09, 0.0, 0.045), (0.0, -0.025, 0.065), (0.085, 0.0, 0.05)):
        c.ellipse(x + dx * s, y + dy * s, radius * s, radius * s, fill, CLOUD)
    left, right = x - 0.09 * s, x + 0.085 * s
    c.poly([(left, y), (right, y), (right, y + 0.05 * s), (left, y + 0.045 * s)], fill, CLOUD)


# --- the places ---------------------------------------------------------------------------------------------


def meadow(c: Canvas, light: Light, r: random.Random):
    """Green hills with a tree, and tufts of grass."""
    c.poly(ridge(r, 0.54, 0.07), light.far((150, 208, 120)), 10)
    x = r.uniform(0.78, 0.88)
    c.poly([(x - 0.015, 0.56), (x + 0.015, 0.56), (x + 0.02, 0.44), (x - 0.02, 0.44)],
            light.far((120, 84, 56)), 11)  # fmt: skip
    c.ellipse(x, 0.4, 0.085, 0.09, light.far((76, 160, 84)), 12)
    c.poly(ridge(r, 0.63, 0.045, 1.0), light.ground((112, 190, 86)), 13)
    c.poly(ridge(r, 0.76, 0.02, 0.8), light.ground((136, 206, 92)), 14)
    for _ in range(9):
        gx, gy = r.uniform(0.03, 0.97), r.uniform(0.82, 0.97)
        c.poly([(gx - 0.018, gy), (gx - 0.012, gy - 0.03), (gx, gy - 0.008), (gx + 0.012, gy - 0.03),
                (gx + 0.018, gy)], light.ground((84, 164, 70)))  # fmt: skip


def beach(c: Canvas, light: Light, r: random.Random):
    """Sea, sand, a palm at the right, shells."""
    c.rect(0, 0.5, 1, 1, light.far((44, 150, 206), 0.12), 10)
    for y in (0.55, 0.6):
        for _ in range(3):
            x = r.uniform(0, 0.9)
            c.line([(x, y), (x + 0.12, y)], 0.012, light.far((150, 216, 236), 0.2))
    c.poly(ridge(r, 0.675, 0.012, 1.3), light.far((240, 250, 250)), 11)
    c.poly(ridge(r, 0.7, 0.012, 1.3), light.ground((248, 220, 152)), 12)
    x, lean = 0.92, r.uniform(0.02, 0.05)
    c.line([(x, 0.76), (x - lean * 0.3, 0.58), (x - lean, 0.36)], 0.035, light.far((146, 98, 58), 0.2), 13)
    for dx, dy in ((-0.2, 0.07), (-0.17, -0.05), (-0.05, -0.12), (0.1, -0.08), (0.15, 0.06), (-0.07, 0.14)):
        tip = (x - lean + dx, 0.35 + dy)
        top = (x - lean + dx * 0.5, 0.35 + dy * 0.5 - 0.07)
        c.poly([(x - lean, 0.37), top, tip, (top[0], top[1] + 0.055)], light.far((52, 150, 84), 0.3), 14)
    for _ in range(3):
        sx, sy = r.uniform(0.05, 0.95), r.uniform(0.92, 0.97)
        c.ellipse(sx, sy, 0.018, 0.012, light.ground((232, 178, 128)))


def desert(c: Canvas, light: Light, r: random.Random):
    """Dunes, a red rock at the left, a cactus at the right."""
    x = r.uniform(0.1, 0.26)
    c.poly([(x - 0.2, 0.66), (x - 0.12, 0.4), (x + 0.1, 0.4), (x + 0.19, 0.66)],
            light.far((206, 116, 76)), 10)  # fmt: skip
    c.poly([(x - 0.155, 0.51), (x - 0.138, 0.46), (x + 0.128, 0.46), (x + 0.14, 0.51)],
            light.far((228, 142, 94)))  # fmt: skip
    c.poly(ridge(r, 0.6, 0.05, 0.9), light.ground((236, 176, 100), 0.66), 11)
    c.poly(ridge(r, 0.7, 0.04, 0.7), light.ground((244, 194, 118), 0.66), 12)
    c.poly(ridge(r, 0.82, 0.03, 0.8), light.ground((250, 206, 132), 0.66), 13)
    x = 0.91 + r.uniform(-0.02, 0.02)
    green = light.far((64, 142, 86), 0.25)
    c.line([(x, 0.74), (x, 0.42)], 0.06, green, 14)
    c.line([(x, 0.62), (x - 0.1, 0.6), (x - 0.1, 0.5)], 0.042, green, 14)
    c.line([(x, 0.57), (x + 0.075, 0.55), (x + 0.075, 0.47)], 0.038, green, 14)


def mountains(c: Canvas, light: Light, r: random.Random):
    """Three snowy peaks above stony ground."""
    shift = r.uniform(-0.06, 0.06)
    for i, (x, top, half) in enumerate(((0.6, 0.18, 0.36), (0.2, 0.27, 0.34), (0.96, 0.22, 0.3))):
        x, top = x + shift, top + r.uniform(-0.03, 0.03)
        rock = light.far(((134, 146, 172), (116, 128, 158), (116, 128, 158))[i], 0.2)
        c.poly([(x, top), (x + half, 0.7), (x - half, 0.7)], rock, 10 + 2 * i)
        c.poly([(x, top), (x + half, 0.7), (x + 0.06, 0.7), (x - 0.03, top + 0.2)],
                mix(rock, (30, 40, 80), 0.22))  # fmt: skip
        h, w = 0.15, half * 0.15 / (0.7 - top)
        c.poly([(x, top - 0.005), (x + w, top + h), (x + w * 0.4, top + h * 0.75), (x, top + h * 1.1),
                (x - w * 0.4, top + h * 0.75), (x - w, top + h)],
                light.far((250, 252, 255)), 11 + 2 * i)  # fmt: skip
    c.poly(ridge(r, 0.65, 0.025, 1.2), light.ground((126, 146, 122)), 17)
    c.poly(ridge(r, 0.76, 0.02, 1.0), light.ground((158, 160, 152)), 18)
    for x in (r.uniform(0.02, 0.2), r.uniform(0.42, 0.6), r.uniform(0.82, 0.98)):
        y, s = r.uniform(0.72, 0.78), r.uniform(0.8, 1.2)
        c.poly([(x - 0.07 * s, y), (x - 0.04 * s, y - 0.06 * s), (x + 0.02 * s, y - 0.07 * s),
                (x + 0.07 * s, y)], light.ground((112, 112, 116), 0.5), 19)  # fmt: skip


def city(c: Canvas, light: Light, r: random.Random):
    """Houses with windows, lit by night, and a road."""
    x, i = -0.03, 0
    while x < 1:
        w = r.uniform(0.12, 0.17)
        top = r.uniform(0.18, 0.4) if i % 2 else r.uniform(0.32, 0.44)
        wall = light.far(((112, 126, 166), (150, 136, 166), (96, 112, 146), (168, 150, 156))[i % 4], 0.2)
        c.rect(x, top, x + w, 0.72, wall, 10 + i % 4)
        for row in range(int((0.66 - top) / 0.075)):
            for col in (0.18, 0.58):
                lit = (row * 2 + int(col * 2) + i) % 3 != 0
                glass = light.far((206, 226, 244) if lit else (80, 92, 124), 0.1)
                if light.night and lit:
                    glass = LAMP
                wx, wy = x + col * w, top + 0.035 + row * 0.075
                c.rect(wx, wy, x + (col + 0.24) * w, wy + 0.038, glass)
        x, i = x + w, i + 1
    c.rect(0, 0.68, 1, 1, light.ground((190, 188, 194), 0.8), 15)
    c.rect(0, 0.74, 1, 1, light.ground((112, 114, 126), 0.5), 16)
    shift = r.uniform(0, 0.1)
    for k in range(5):
        a = k * 0.26 - 0.1 + shift
        c.poly([(a, 0.9), (a + 0.13, 0.9), (a + 0.12, 0.925), (a - 0.01, 0.925)],
                light.ground((240, 236, 220), 0.4))  # fmt: skip


def forest(c: Canvas, light: Light, r: random.Random):
    """Two rows of firs above a dark floor."""
    rows = ((7, 0.66, 0.3, (74, 134, 106)), (6, 0.72, 0.24, (38, 100, 72)))
    for row, (n, base, top, green) in enumerate(rows):
        c.rect(0, base - 0.1, 1, base + 0.04, light.far(green, 0.25), 10 + row)
        for i in range(n):
            x, t = (i + 0.5 * row) / (n - 1) + r.uniform(-0.03, 0.03), top + r.uniform(-0.06, 0.08)
            for k, half in ((0, 0.06), (1, 0.085), (2, 0.11)):
                y = t + k * (base - t) * 0.24
                foot = y + (base - t) * 0.42
                branch = light.far(green, 0.25 if k else 0.7)
                c.poly([(x, y), (x + half, foot), (x - half, foot)], branch, 12 + 3 * row + i % 3)
            if row:
                c.poly([(x - 0.02, 0.6), (x + 0.02, 0.6), (x + 0.022, 0.73), (x - 0.022, 0.73)],
                        light.far((96, 66, 48)), 20)  # fmt: skip
    c.poly(ridge(r, 0.7, 0.012, 1.5), light.ground((92, 122, 58)), 21)
    c.poly(ridge(r, 0.82, 0.015, 1.0), light.ground((116, 138, 66)), 22)
    for _ in range(6):
        x, y = r.uniform(0.03, 0.97), r.uniform(0.86, 0.97)
        c.ellipse(x, y, 0.03, 0.012, light.ground((76, 106, 52)))


def farm(c: Canvas, light: Light, r: random.Random):
    """A silo, a red barn, a fence and a ploughed field."""
    c.poly(ridge(r, 0.57, 0.025, 0.8), light.far((166, 200, 108)), 10)
    x = 0.83 + r.uniform(-0.03, 0.03)
    c.rect(x - 0.2, 0.38, x - 0.11, 0.64, light.far((196, 200, 210), 0.2), 11)
    c.ellipse(x - 0.155, 0.38, 0.045, 0.045, light.far((150, 156, 172)), 12)
    c.poly([(x - 0.1, 0.46), (x - 0.06, 0.38), (x + 0.02, 0.34), (x + 0.1, 0.38), (x + 0.14, 0.46),
            (x + 0.14, 0.64), (x - 0.1, 0.64)], light.far((178, 52, 46), 0.05), 13)  # fmt: skip
    c.line([(x - 0.1, 0.46), (x - 0.06, 0.38), (x + 0.02, 0.34), (x + 0.1, 0.38),
            (x + 0.14, 0.46)], 0.022, light.far((246, 240, 232), 0.3))  # fmt: skip
    c.rect(x - 0.03, 0.5, x + 0.07, 0.64, light.far((246, 240, 232), 0.3))
    c.rect(x - 0.01, 0.52, x + 0.05, 0.64, light.far((120, 40, 38), 0))
    c.rect(0, HORIZON, 1, 1, light.ground((134, 96, 62)), 14)
    for y in (0.545, 0.59):
        c.line([(0, y), (0.6, y)], 0.014, light.far((246, 240, 232)))
    for k in range(6):
        c.line([(0.03 + k * 0.11, 0.51), (0.03 + k * 0.11, HORIZON)], 0.016, light.far((246, 240, 232)))
    vanish = 0.5 + r.uniform(-0.1, 0.1)
    for k in range(-5, 6):
        a, b, near = vanish + k * 0.13, vanish + k * 0.42, 0.12
        c.poly([(a - 0.035, HORIZON), (a + 0.035, HORIZON), (b + near, 1.0), (b - near, 1.0)],
                light.ground((120, 178, 70), 0.6), 15)  # fmt: skip


PLACE_DRAWING = {
    "meadow": meadow,
    "beach": beach,
    "desert": desert,
    "mountains": mountains,
    "city": city,
    "forest": forest,
    "farm": farm,
}


# --- objects and extras -------------------------------------------------------------------------------------


def layout(scene: Scene) -> list[tuple[str, str, float, float]]:
    """(kind, colour, centre x, side of the box) of every object, from left to right."""
    things = [(scene.kind, scene.colour)] * scene.count
    if scene.second:
        things.append(scene.second)
    n = len(things)
    unit = UNITS[n][scene.size]
    r = chance(scene, "object")
    centres = [x + r.uniform(-0.02, 0.02) / n for x in CENTRES[n][scene.position]]
    if n == 1:  # all of it in the picture
        centres = [min(max(centres[0], unit * 0.5 + 0.02), 0.98 - unit * 0.5)]
    return [(kind, colour, x, unit) for (kind, colour), x in zip(things, centres, strict=True)]


@lru_cache(maxsize=256)
def soft_ellipse(w: int, h: int) -> Image.Image:
    """How strong a shadow is, dark in the middle, fading to its edge."""
    y, x = np.mgrid[0:h, 0:w]
    d = ((x + 0.5) / w * 2 - 1) ** 2 + ((y + 0.5) / h * 2 - 1) ** 2
    return Image.fromarray(np.round(np.clip(1.6 * (1 - d), 0, 1) * 110).astype(np.uint8))


def shadow(c: Canvas, x: float, unit: float):
    """Of an object around x whose box has the side `unit`."""
    w, h = round(unit * 1.1 * c.px), round(unit * 0.2 * c.px)
    corner = (round(x * c.px) - w // 2, round((FEET + 0.005) * c.px) - h // 2)
    c.rgb.paste((24, 22, 54), corner, soft_ellipse(w, h))


def hat(c: Canvas, light: Light, style: Style, x: float, y: float, unit: float):
    """A black top hat with a red band and a pale rim of light, whose middle of the brim stands at (x, y)."""
    w = max(0.3 * unit, 0.1)
    black = (46, 40, 56)
    p = Pen(black, light.thing)
    p.rect(0.2, 0.0, 0.8, 0.72, black)
    p.ellipse(0.5, 0.72, 0.5, 0.12, black)
    p.rect(0.2, 0.42, 0.8, 0.62, (232, 60, 64), edge=False)
    p.paint(c, x - w / 2, y - 0.72 * w, w, max(style.outer, 0.009), 0, style.outline or CREAM)


def balloon(c: Canvas, light: Light, style: Style, x: float, unit: float):
    """On a string, to the right of the object around x, or to the left where there is no room."""
    bx, y = x + unit * 0.5 + 0.085, 0.25
    if bx > 0.92:
        bx = x - unit * 0.5 - 0.085
    tied_x = x + (unit * 0.42 if bx > x else -unit * 0.42)
    tied_y = FEET - 0.3 * unit
    string = light.thing((250, 244, 236) if light.night else (92, 76, 92))
    points = [(bx, y + 0.1), (bx + 0.015, (y + tied_y) / 2), (tied_x, tied_y)]
    c.line(points, 0.01, string, OBJECT_LABEL)
    p = Pen((236, 36, 116), light.thing)
    p.poly((0.5, 0.86), (0.38, 1.06), (0.62, 1.06))
    p.ellipse(0.5, 0.46, 0.44, 0.48)
    p.ellipse(0.34, 0.3, 0.1, 0.14, (255, 196, 220), edge=False)
    p.paint(c, bx - 0.08, y - 0.075, 0.16, style.outer, 0, style.outline)


def flag(c: Canvas, light: Light, style: Style, side: int):
    """side: -1 stands at the left edge, 1 at the right; a red and white striped flag on a pole."""
    p = Pen((232, 44, 48), light.thing)
    p.line((0.06, 1.0), (0.06, 0.02), width=0.06, fill=(112, 78, 56))
    p.poly((0.09, 0.06), (0.25, 0.02), (0.42, 0.1), (0.58, 0.06), (0.58, 0.32), (0.42, 0.36), (0.25, 0.28),
           (0.09, 0.32), fill=WHITE)  # fmt: skip
    for x0, y0, x1, y1 in ((0.09, 0.06, 0.21, 0.03), (0.33, 0.055, 0.45, 0.1)):
        p.poly((x0, y0), (x1, y1), (x1, y1 + 0.26), (x0, y0 + 0.26), edge=False)
    if side > 0:
        p.mirror()
    p.paint(c, 0.02 if side < 0 else 0.56, 0.36, 0.42, style.outer, 0, style.outline)


def flowers(c: Canvas, light: Light, style: Style, r: random.Random):
    """Three at the left and three at the right, of five petals each."""
    petals = ((240, 70, 150), (255, 250, 250), (255, 150, 40))
    for i, x in enumerate((0.1, 0.2, 0.3, 0.7, 0.8, 0.9)):
        p = Pen(petals[i % 3], light.thing)
        p.ellipse(0.5, 1.1, 0.6, 0.26, (70, 156, 70))
        for k in range(5):
            a = 1.2566 * k - 1.57
            p.ellipse(0.5 + 0.32 * math.cos(a), 0.5 + 0.32 * math.sin(a), 0.27, 0.27)
        p.ellipse(0.5, 0.5, 0.2, 0.2, (255, 214, 60), edge=False)
        y = 0.93 + (0.016 if i % 2 else -0.01) + r.uniform(-0.006, 0.006)
        p.paint(c, x + r.uniform(-0.01, 0.01) - 0.042, y - 0.042, 0.084, style.outer * 0.7, 0, style.outline)


def birds(c: Canvas, light: Light, r: random.Random):
    """Three, high in the sky."""
    ink = (250, 246, 255) if light.night else (40, 36, 58)
    for x, y in ((0.36, 0.055), (0.52, 0.1), (0.67, 0.045)):
        x, y = x + r.uniform(-0.015, 0.015), y + r.uniform(-0.01, 0.01)
        c.line([(x - 0.05, y - 0.012), (x - 0.028, y - 0.022), (x, y + 0.016), (x + 0.028, y - 0.022),
                (x + 0.05, y - 0.012)], 0.018, ink, OBJECT_LABEL)  # fmt: skip


def paint_weather(rgb: Image.Image, labels: Image.Image, scene: Scene, rim: Colour | None = None):
    """Rain streaks or snow flakes over `rgb`, thinner where objects are; `rim` colours the flakes' edge."""
    thinner = labels.point(lambda label: 110 if label >= OBJECT_LABEL else 255)
    if scene.weather == "rain":
        ink = rim if rim and scene.time != "night" else (216, 232, 248)
        rgb.paste(ink, mask=ImageChops.multiply(streaks(scene, rgb.width), thinner))
        return
    flakes, edges = snow_flakes(scene, rgb.width)
    if rim:
        rgb.paste(rim, mask=ImageChops.multiply(edges, thinner))
    rgb.paste(WHITE, mask=ImageChops.multiply(flakes, thinner))


def scattered(r: random.Random, px: int):
    """42 points, one about each place of a grid of 7 by 6 that fills the picture, in pixels."""
    for i in range(42):
        x = ((i % 7) + r.random()) / 6.5 * px
        y = ((i // 7) + r.random()) / 6 * px
        yield x, y


def streaks(scene: Scene, px: int) -> Image.Image:
    """How much each pixel is covered by rain."""
    r, u = chance(scene, "rain"), px / 256
    cover = Image.new("L", (px, px), 0)
    pencil = ImageDraw.Draw(cover)
    for x, y in scattered(r, px):
        pencil.line([x, y, x - 9 * u, y + 24 * u], fill=r.choice((140, 200)), width=round(3.4 * u))
    return cover


def snow_flakes(scene: Scene, px: int) -> tuple[Image.Image, Image.Image]:
    """How much each pixel is covered by flakes, and by flakes with their edges."""
    r, u = chance(scene, "snow"), px / 256
    flakes, with_edges = Image.new("L", (px, px), 0), Image.new("L", (px, px), 0)
    for x, y in scattered(r, px):
        radius = r.choice((3.2, 4.6, 6.0)) * u
        for cover, grown in ((flakes, radius), (with_edges, radius + 1.6 * u)):
            ImageDraw.Draw(cover).ellipse([x - grown, y - grown, x + grown, y + grown], fill=250)
    return flakes, with_edges


# --- the styles ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """How objects are outlined, and the finish. Widths are shares of the side."""

    finish: object  # (rgb, labels, scene) -> rgb, all uint8 arrays
    outer: float
    inner: float
    outline: tuple | None = None  # None: a dark shade of the object's own colour
    weather_last: bool = False  # rain and snow are drawn over the finish, not under it
    rim: tuple | None = None  # the colour of rain, and of the flakes' edge


@lru_cache(maxsize=8)
def waves(px: int) -> tuple[np.ndarray, np.ndarray]:
    """Two fields of soft noise in [-1, 1], coarse and fine, the same for every picture."""
    r = np.random.RandomState(7)
    out = []
    for n in (7, 40):
        field = Image.fromarray(r.randint(0, 256, (n, n)).astype(np.uint8)).resize(
            (px, px), Image.Resampling.BICUBIC
        )
        out.append(np.asarray(field, np.float32) / 127.5 - 1)
    return tuple(out)


def borders(labels: np.ndarray, width: int) -> np.ndarray:
    """True along the lines between background things; an object's own outline is drawn with it."""
    flat = labels < OBJECT_LABEL
    labels = np.maximum(labels, STAR)  # stars have no outline
    edge = np.zeros_like(flat)
    edge[1:] = (labels[1:] != labels[:-1]) & flat[1:] & flat[:-1]
    edge[:, 1:] |= (labels[:, 1:] != labels[:, :-1]) & flat[:, 1:] & flat[:, :-1]
    for _ in range(width - 1):
        grown = edge.copy()
        grown[:-1] |= edge[1:]
        grown[:, :-1] |= edge[:, 1:]
        edge = grown
    return edge & flat


# A finish takes rgb (h, w, 3) and labels (h, w), uint8, and the scene; it returns rgb.


def illustration(rgb, labels, scene):
    """As it was painted."""
    return rgb


@lru_cache(maxsize=8)
def hatching(px: int) -> np.ndarray:
    """A triangle wave in [0, 1] along the falling diagonal (rain falls along the other)."""
    y, x = np.mgrid[0:px, 0:px].astype(np.float32) / (px / 256)
    return np.abs(((x - y) / 20) % 1 * 2 - 1).astype(np.float32)


def pencil(rgb, labels, scene):
    """Graphite: hatching as wide as the place is dark, grey lines, and coloured pencil on the objects."""
    px = rgb.shape[0]
    hatch = hatching(px)
    grey = np.asarray(Image.fromarray(rgb).convert("L"), np.float32)
    tone = (1 - grey / 255) * np.where(labels <= CLOUD, 1, 0.8)
    ink = np.clip((tone * 1.2 - hatch) * 2.5, 0, 1) * 70 + np.maximum(tone - 0.25, 0) * 165
    paper = np.float32([252, 250, 244])
    tint = np.float32(0.5 if scene.time == "sunset" else 0.16)
    out = paper - ink[..., None] + (rgb - grey[..., None]) * tint
    thing = labels >= OBJECT_LABEL
    stroke = (0.92 - 0.2 * hatch[thing])[:, None]
    out[thing] = paper + (rgb[thing] - paper) * stroke
    out[borders(labels, max(1, px * 3 // 256))] = (92, 90, 98)
    return np.clip(out, 0, 255).astype(np.uint8)


@lru_cache(maxsize=16)
def wet_paper(px: int, turn: int) -> tuple[np.ndarray, ...]:
    """Flat index of where each pixel's paint comes from; the wash's strength on both layers; reach."""
    coarse, fine = (np.rot90(w, turn) for w in waves(px))
    y, x = np.mgrid[0:px, 0:px]
    shift = (fine * (px / 256 * 3.5)).astype(int)
    source = np.clip(y + shift, 0, px - 1) * px + np.clip(x - shift[::-1], 0, px - 1)
    edge = np.minimum(np.minimum(x, px - 1 - x), np.minimum(y, px - 1 - y)) / px
    reach = np.clip((edge - 0.032 - 0.02 * coarse - 0.01 * fine) * 40, 0, 1)
    background = 0.78 + 0.16 * coarse + 0.06 * fine
    thing = 0.9 + 0.07 * fine
    return source, *(a.astype(np.float32)[..., None] for a in (background, thing, reach))


def watercolour(rgb, labels, scene):
    """Ragged edges, washes of uneven strength, and a rim of bare paper that only objects may enter."""
    px = rgb.shape[0]
    source, background, on_thing, reach = wet_paper(px, scene.seed % 4)
    picture = Image.fromarray(rgb.reshape(-1, 3)[source])
    near = np.asarray(picture.filter(ImageFilter.BoxBlur(px / 256 * 1.5)), np.float32)
    wide = np.asarray(picture.filter(ImageFilter.BoxBlur(px / 256 * 7)), np.float32)
    thing = (labels >= OBJECT_LABEL)[..., None]
    depth = np.where(thing, on_thing, background * reach)
    pooled = near + np.minimum(near - wide, 0) * 0.5  # pigment gathers on the dark side of edges
    out = 253 - (253 - pooled) * depth
    return np.clip(out, 0, 255).astype(np.uint8)


def tiles(rgb: np.ndarray, n: int, grout, strength: float) -> np.ndarray:
    """Square tiles of n pixels, each of one colour (that of its middle), and the grout between them."""
    count, q = rgb.shape[0] // n, max(1, n // 4)
    middle = rgb.reshape(count, n, count, n, 3)[:, q : n - q, :, q : n - q].mean((1, 3), dtype=np.float32)
    middle += np.random.RandomState(3).uniform(-9, 9, (count, count, 1))  # no two tiles are fired alike
    out = np.repeat(np.repeat(middle, n, 0), n, 1)
    for k in range(max(1, n // 6)):
        for line in (out[k::n], out[:, k::n]):
            line += (np.float32(grout) - line) * strength
    return out


def mosaic(rgb, labels, scene):
    """Tiles of 4 picture pixels; those of the objects are half as wide and let the drawing show through."""
    n = 16 * rgb.shape[0] // 256
    grout = (112, 118, 156) if scene.time == "night" else (250, 244, 230)
    fine = 0.45 * tiles(rgb, n // 2, grout, 0.3) + 0.55 * rgb
    out = np.where((labels >= OBJECT_LABEL)[..., None], fine, tiles(rgb, n, grout, 0.6))
    return np.clip(out, 0, 255).astype(np.uint8)


@lru_cache(maxsize=32)
def comic_sky(time: str, weather: str, px: int) -> np.ndarray:
    """Three flat bands with halftone dots that grow towards the horizon."""
    base = np.asarray(sky(time, weather, px))
    y, x = np.mgrid[0:px, 0:px] / (px / 256)
    band = base[(np.array([0.12, 0.34, 0.56]) * px).astype(int)[np.clip(y // 60, 0, 2).astype(int)], 0]
    cell = 20.0
    dx = (x + (y // cell % 2) * cell / 2) % cell - cell / 2
    dot = dx**2 + (y % cell - cell / 2) ** 2 < (3.5 + y / 45) ** 2
    out = band.astype(np.int16)
    ink = np.int16((255, 255, 255) if time != "night" else (96, 116, 220))
    out[dot] = out[dot] + (ink - out[dot]) * 2 // 5
    return out.astype(np.uint8)


def comic(rgb, labels, scene):
    """Strong colours, black outlines, and a sky of dots."""
    px = rgb.shape[0]
    out = np.where((labels == SKY)[..., None], comic_sky(scene.time, scene.weather, px), rgb)
    out = np.array(ImageEnhance.Color(Image.fromarray(out)).enhance(1.35))
    out[borders(labels, max(1, px * 4 // 256))] = (16, 12, 20)
    return out


STYLE_DRAWING = {
    "illustration": Style(illustration, 0.009, 0.006),
    "pencil sketch": Style(pencil, 0.012, 0.008, (70, 66, 74), weather_last=True, rim=(96, 100, 118)),
    "watercolour": Style(watercolour, 0.006, 0.006),
    "mosaic": Style(mosaic, 0.012, 0.006, weather_last=True),
    "comic": Style(comic, 0.02, 0.011, (16, 12, 20), weather_last=True),
}


# --- the picture --------------------------------------------------------------------------------------------


def render(scene: Scene, size: int = 128) -> Image.Image:
    """The picture of a scene, RGB, size x size; the same bytes for the same scene."""
    light = Light(scene.time, scene.weather)
    style = STYLE_DRAWING[scene.style]
    c = Canvas(sky(scene.time, scene.weather, SUPERSAMPLE * size).copy())
    paint_sky(c, scene, light)
    PLACE_DRAWING[scene.place](c, light, chance(scene, scene.place))
    paint_things(c, scene, light, style)
    falling = scene.weather != "clear"
    if falling and not style.weather_last:
        paint_weather(c.rgb, c.labels, scene, style.rim)
    picture = Image.fromarray(style.finish(np.asarray(c.rgb), np.asarray(c.labels), scene))
    if falling and style.weather_last:
        paint_weather(picture, c.labels, scene, style.rim)
    return picture.resize((size, size), Image.Resampling.HAMMING)


def paint_things(c: Canvas, scene: Scene, light: Light, style: Style):
    """Objects and extras, from back to front."""
    things = layout(scene)
    if "flag" in scene.extras:
        flag(c, light, style, 1 if scene.position == "left" else -1)
    for _, _, x, unit in things:
        shadow(c, x, unit)
    for kind, colour, x, unit in things:
        pen = Pen(COLOUR_RGB[colour], light.thing, light.night)
        draw_kind, (hat_x, hat_y) = KIND_DRAWING[kind]
        draw_kind(pen)
        pen.paint(c, x - unit / 2, FEET - unit, unit, style.outer, style.inner, style.outline)
        if "hat" in scene.extras and kind == scene.kind:
            hat(c, light, style, x + (hat_x - 0.5) * unit, FEET + (hat_y - 1) * unit, unit)
    if "balloon" in scene.extras:
        _, _, x, unit = things[-1]
        balloon(c, light, style, x, unit)
    if "birds" in scene.extras:
        birds(c, light, chance(scene, "birds"))
    if "flowers" in scene.extras:
        flowers(c, light, style, chance(scene, "flowers"))


def render_mask(before: Scene, after: Scene, size: int = 128) -> np.ndarray:
    """(size, size) bool: the pixels that the edit visibly changes, grown by one pixel."""
    old = np.asarray(render(before, size), np.int16)
    new = np.asarray(render(after, size), np.int16)
    changed = np.abs(old - new).max(-1) > 20  # of 255, in any channel
    grown = Image.fromarray(changed.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(3))
    return np.asarray(grown) > 0


def things_mask(scene: Scene, side: int = 16) -> np.ndarray:
    """(side, side) bool: the squares of the picture, as many as a latent has places, in which some of an
    object or an extra is. Shadows do not count."""
    fine = 8 * side
    c = Canvas(Image.new("RGB", (fine, fine)))
    paint_things(c, scene, Light(scene.time, scene.weather), STYLE_DRAWING[scene.style])
    there = np.asarray(c.labels) >= OBJECT_LABEL  # (fine, fine)
    return there.reshape(side, 8, side, 8).any((1, 3))
