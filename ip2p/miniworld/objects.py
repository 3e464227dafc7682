"""The kinds of object, each drawn by one short function in a unit box (x to the right, y down, feet at 1).

A line is a stroke. Later strokes lie on top; where both sides are alike, s is -1 for the left and 1 for the
right.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

COLOUR_RGB: dict[str, Colour] = {
    "red": (218, 38, 40),
    "orange": (250, 135, 22),
    "yellow": (255, 220, 52),
    "green": (52, 164, 72),
    "blue": (42, 104, 222),
    "purple": (132, 66, 188),
    "pink": (255, 142, 192),
    "white": (252, 250, 246),
}
# Light colours have a shade of their own: plain darkening would turn them into another colour.
SHADE_RGB = {
    COLOUR_RGB["orange"]: (222, 96, 16),
    COLOUR_RGB["yellow"]: (242, 178, 30),
    COLOUR_RGB["pink"]: (238, 100, 164),
    COLOUR_RGB["white"]: (200, 202, 220),
}

DARK = (44, 36, 50)
WHITE = (255, 255, 255)
GREY = (150, 154, 168)
CREAM = (250, 236, 208)
BEAK = (246, 160, 44)
GLASS = (176, 222, 244)
LAMP = (255, 226, 110)
ROSE = (244, 140, 150)
WOOD = (126, 84, 52)
HANDLE = (120, 78, 50)
DOOR = (112, 66, 46)

OBJECT_LABEL = 200  # labels from here on are objects and extras, below it the background


def mix(a: Colour, b: Colour, t: float) -> Colour:
    """From a (t = 0) to b (t = 1)."""
    return tuple(round(p + (q - p) * t) for p, q in zip(a, b, strict=True))


@lru_cache(maxsize=4096)
def smooth(points: tuple, closed: bool = True) -> tuple:
    """Chaikin's corner cutting, twice: a polygon, or an open line, with round corners."""
    for _ in range(2):
        ends = points + points[:1] if closed else points
        cut = []
        for (x0, y0), (x1, y1) in pairwise(ends):
            for t in (0.25, 0.75):
                cut.append((x0 + (x1 - x0) * t, y0 + (y1 - y0) * t))
        points = tuple(cut) if closed else (points[0], *cut, points[-1])
    return points


class Canvas:
    """A picture and its label map, drawn together; coordinates and widths are shares of the side.

    A shape without a label is a detail: it colours the picture but leaves the map (and so the outlines) be.
    `grow` makes a shape larger by that much on every side.
    """

    def __init__(self, rgb: Image.Image):
        self.rgb = rgb
        self.px = rgb.width  # the side
        self.labels = Image.new("L", rgb.size, 0)
        self._ink = ImageDraw.Draw(self.rgb)
        self._map = ImageDraw.Draw(self.labels)

    def _layers(self, fill: Colour, label: int | None) -> list[tuple]:
        """What is drawn on, and with which ink."""
        layers = [(self._ink, fill)]
        if label is not None:
            layers.append((self._map, label))
        return layers

    def _pixels(self, points) -> list[tuple[int, int]]:
        return [(round(x * self.px), round(y * self.px)) for x, y in points]

    def ellipse(self, x, y, rx, ry, fill, label=None, grow=0.0):
        """Around (x, y), with the radii rx and ry."""
        left, top = round((x - rx - grow) * self.px), round((y - ry - grow) * self.px)
        right, bottom = round((x + rx + grow) * self.px) - 1, round((y + ry + grow) * self.px) - 1
        if right < left or bottom < top:  # smaller than a pixel
            return
        for layer, ink in self._layers(fill, label):
            layer.ellipse([left, top, right, bottom], fill=ink)

    def poly(self, points, fill, label=None, grow=0.0):
        """A filled polygon."""
        width = round(2 * grow * self.px)
        pixels = self._pixels(points)
        for layer, ink in self._layers(fill, label):
            layer.polygon(pixels, fill=ink)
            if width > 1:
                layer.line([*pixels, *pixels[:2]], fill=ink, width=width, joint="curve")

    def rect(self, x0, y0, x1, y1, fill, label=None):
        """A filled rectangle between two corners."""
        self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, label)

    def line(self, points, width, fill, label=None, grow=0.0):
        """A stroke with round ends."""
        w = max(1, round((width + 2 * grow) * self.px))
        pixels = self._pixels(points)
        for layer, ink in self._layers(fill, label):
            layer.line(pixels, fill=ink, width=w, joint="curve")
            if w > 3:
                for x, y in (pixels[0], pixels[-1]):
                    end = [x - w // 2, y - w // 2, x + (w - 1) // 2, y + (w - 1) // 2]
                    layer.ellipse(end, fill=ink)


class Shape(NamedTuple):
    """One shape in the unit box."""

    form: str  # "ellipse", "poly" or "line"
    points: tuple  # of an ellipse its centre and its two radii
    width: float  # of a line
    fill: Colour
    edge: bool  # is outlined; False: a detail inside of another shape


class Pen:
    """Collects shapes in a unit box and then paints them: first the outline of all, then part by part.

    tint: what the light does to colours; lamp: it is night, windows are lit and outlines pale. A shape
    without `fill` has the object's own colour.
    """

    def __init__(self, colour: Colour, tint=lambda c: c, lamp: bool = False):
        self.is_white = min(colour) > 200
        self.body = colour
        self.light = (232, 230, 238) if self.is_white else mix(colour, WHITE, 0.5)
        self.shade = SHADE_RGB.get(colour) or mix(colour, (40, 16, 60), 0.26)
        self.stripe = self.shade if self.is_white else self.light  # differs from the body in any colour
        self.line_colour = (122, 120, 146) if self.is_white else mix(colour, (34, 14, 50), 0.58)
        self.rim = mix(self.light, colour, 0.35) if lamp else self.line_colour  # by night, a moonlit edge
        self.window = LAMP if lamp else GLASS
        self.tint = tint
        self.shapes: list[Shape] = []

    def _add(self, form: str, points: tuple, fill: Colour | None, edge: bool, width: float = 0.0):
        self.shapes.append(Shape(form, points, width, fill or self.body, edge))

    def ellipse(self, x, y, rx, ry, fill=None, edge=True):
        """Around (x, y), with the radii rx and ry."""
        self._add("ellipse", ((x, y), (rx, ry)), fill, edge)

    def poly(self, *points, fill=None, edge=True, round=False):
        """A polygon, with round corners if asked for."""
        self._add("poly", smooth(points) if round else points, fill, edge)

    def rect(self, x0, y0, x1, y1, fill=None, edge=True):
        """A rectangle between two corners."""
        self.poly((x0, y0), (x1, y0), (x1, y1), (x0, y1), fill=fill, edge=edge)

    def soft(self, x0, y0, x1, y1, fill=None, edge=True, r=0.08):
        """A rectangle with cut and smoothed corners."""
        top, right = ((x0 + r, y0), (x1 - r, y0)), ((x1, y0 + r), (x1, y1 - r))
        bottom, left = ((x1 - r, y1), (x0 + r, y1)), ((x0, y1 - r), (x0, y0 + r))
        self.poly(*top, *right, *bottom, *left, fill=fill, edge=edge, round=True)

    def line(self, *points, width=0.05, fill=None, edge=True):
        """A curve along the points, with round ends."""
        self._add("line", smooth(points, False), fill, edge, width)

    def eye(self, x, y, r=0.07):
        """A dark eye with a gleam."""
        self.ellipse(x, y, r, r * 1.2, DARK, edge=False)
        self.ellipse(x + r * 0.3, y - r * 0.4, r * 0.42, r * 0.42, WHITE, edge=False)

    def mirror(self):
        """Turns a drawing of lines and polygons round, so that it faces left."""
        for i, shape in enumerate(self.shapes):
            self.shapes[i] = shape._replace(points=tuple((1 - x, y) for x, y in shape.points))

    def paint(
        self, canvas: Canvas, left: float, top: float, unit: float, outer: float, inner: float, outline=None
    ):
        """Paints everything on a canvas, into the square with this corner and side.

        outer, inner: width of the outline around all and around each part, as shares of the canvas' side;
        outline: its colour, None: that of the object, darker.
        """
        rim = self.tint(outline or self.rim)
        line_colour = self.tint(outline or self.line_colour)

        def put(shape: Shape, fill: Colour, grow: float) -> None:
            if shape.form == "ellipse":
                (x, y), (rx, ry) = shape.points
                x, y = left + x * unit, top + y * unit
                canvas.ellipse(x, y, rx * unit, ry * unit, fill, OBJECT_LABEL, grow)
                return
            points = [(left + x * unit, top + y * unit) for x, y in shape.points]
            if shape.form == "poly":
                canvas.poly(points, fill, OBJECT_LABEL, grow)
            else:
                canvas.line(points, shape.width * unit, fill, OBJECT_LABEL, grow)

        for shape in self.shapes:
            if shape.edge:
                put(shape, rim, outer)
        for shape in self.shapes:
            if shape.edge and inner:
                put(shape, line_colour, inner)
            put(shape, self.tint(shape.fill), 0.0)


def cat(p: Pen):
    """Sits and looks at us, its tail to the right."""
    p.line((0.68, 0.92), (0.98, 0.95), (0.95, 0.66), (0.86, 0.5), width=0.11)
    p.ellipse(0.5, 0.76, 0.27, 0.24)
    p.ellipse(0.5, 0.84, 0.14, 0.14, p.light, edge=False)
    p.ellipse(0.38, 0.96, 0.1, 0.05)
    p.ellipse(0.62, 0.96, 0.1, 0.05)
    for s in (-1, 1):
        p.poly((0.5 + s * 0.34, 0.0), (0.5 + s * 0.36, 0.36), (0.5 + s * 0.06, 0.2))
        p.poly((0.5 + s * 0.29, 0.1), (0.5 + s * 0.3, 0.3), (0.5 + s * 0.13, 0.2), fill=ROSE, edge=False)
    p.ellipse(0.5, 0.4, 0.37, 0.27)
    for s in (-1, 1):
        for dy in (0.0, 0.07):
            near, far = (0.5 + s * 0.24, 0.47 + dy / 2), (0.5 + s * 0.46, 0.45 + dy)
            p.line(near, far, width=0.025, fill=DARK, edge=False)
        p.eye(0.5 + s * 0.17, 0.38, 0.075)
    for x in (0.42, 0.5, 0.58):
        p.line((x, 0.15), (x, 0.24), width=0.04, fill=p.shade, edge=False)
    p.poly((0.45, 0.47), (0.55, 0.47), (0.5, 0.53), fill=ROSE, edge=False)


def dog(p: Pen):
    """Stands and looks to the right, with a collar."""
    p.line((0.16, 0.58), (0.06, 0.46), (0.04, 0.3), width=0.1)
    for x in (0.17, 0.31, 0.53, 0.67):
        p.soft(x, 0.66, x + 0.12, 1.0, r=0.03, fill=p.shade if x in (0.31, 0.67) else None)
    p.soft(0.12, 0.5, 0.78, 0.82, r=0.12)
    p.ellipse(0.86, 0.41, 0.13, 0.11)
    p.ellipse(0.68, 0.34, 0.23, 0.23)
    p.ellipse(0.86, 0.41, 0.12, 0.1, edge=False)
    p.ellipse(0.96, 0.35, 0.055, 0.05, DARK, edge=False)
    p.poly((0.48, 0.14), (0.6, 0.14), (0.62, 0.44), (0.52, 0.6), (0.4, 0.5), fill=p.shade, round=True)
    p.eye(0.74, 0.3, 0.06)
    p.line((0.8, 0.5), (0.87, 0.5), (0.92, 0.47), width=0.025, fill=DARK, edge=False)
    collar = (60, 90, 190) if p.body == COLOUR_RGB["red"] else (226, 60, 60)
    p.line((0.58, 0.58), (0.66, 0.6), (0.76, 0.57), width=0.07, fill=collar, edge=False)


def rabbit(p: Pen):
    """Sits and looks at us, with long ears."""
    for s in (-1, 1):
        p.poly((0.5 + s * 0.05, 0.4), (0.5 + s * 0.07, 0.02), (0.5 + s * 0.22, -0.04), (0.5 + s * 0.26, 0.12),
               (0.5 + s * 0.2, 0.4), round=True)  # fmt: skip
        p.ellipse(0.5 + s * 0.155, 0.19, 0.04, 0.13, ROSE, edge=False)
    p.ellipse(0.8, 0.86, 0.09, 0.08, WHITE)
    p.ellipse(0.5, 0.78, 0.28, 0.22)
    p.ellipse(0.5, 0.82, 0.17, 0.14, p.light, edge=False)
    p.ellipse(0.35, 0.95, 0.12, 0.055)
    p.ellipse(0.65, 0.95, 0.12, 0.055)
    p.ellipse(0.5, 0.49, 0.26, 0.2)
    for s in (-1, 1):
        p.eye(0.5 + s * 0.12, 0.46, 0.06)
        p.ellipse(0.5 + s * 0.18, 0.56, 0.05, 0.035, ROSE, edge=False)
    p.rect(0.46, 0.58, 0.54, 0.67, WHITE, edge=False)
    p.ellipse(0.5, 0.55, 0.04, 0.03, DARK, edge=False)


def duck(p: Pen):
    """Stands and looks to the right."""
    for x in (0.42, 0.58):
        p.line((x, 0.86), (x, 0.97), (x + 0.09, 0.98), width=0.05, fill=BEAK)
    p.poly((0.78, 0.22), (0.99, 0.27), (0.99, 0.36), (0.78, 0.38), fill=BEAK, round=True)
    p.poly((0.0, 0.38), (0.2, 0.52), (0.5, 0.5), (0.62, 0.36), (0.88, 0.42), (0.86, 0.76), (0.66, 0.93),
           (0.3, 0.93), (0.08, 0.76), round=True)  # fmt: skip
    p.ellipse(0.66, 0.25, 0.2, 0.2)
    p.poly((0.55, 0.38), (0.76, 0.38), (0.8, 0.5), (0.56, 0.5), edge=False)
    p.poly((0.14, 0.56), (0.4, 0.58), (0.62, 0.58), (0.62, 0.74), (0.42, 0.84), (0.24, 0.76),
           fill=p.shade, round=True)  # fmt: skip
    p.eye(0.72, 0.21, 0.06)


def owl(p: Pen):
    """Looks at us with large eyes."""
    for x in (0.38, 0.62):
        p.ellipse(x, 0.97, 0.09, 0.04, BEAK)
    for s in (-1, 1):
        p.poly((0.5 + s * 0.36, 0.0), (0.5 + s * 0.36, 0.3), (0.5 + s * 0.05, 0.16))
    p.poly((0.5, 0.08), (0.84, 0.08), (0.92, 0.44), (0.88, 0.86), (0.66, 1.0), (0.34, 1.0), (0.12, 0.86),
           (0.08, 0.44), (0.16, 0.08), round=True)  # fmt: skip
    for s in (-1, 1):
        p.poly((0.5 + s * 0.38, 0.44), (0.5 + s * 0.5, 0.66), (0.5 + s * 0.34, 0.94), (0.5 + s * 0.24, 0.6),
               fill=p.shade, round=True)  # fmt: skip
    p.ellipse(0.5, 0.76, 0.2, 0.19, p.light, edge=False)
    for x, y in ((0.41, 0.7), (0.59, 0.7), (0.5, 0.8)):
        p.line((x - 0.05, y), (x, y + 0.05), (x + 0.05, y), width=0.03, fill=p.shade, edge=False)
    for s in (-1, 1):
        p.ellipse(0.5 + s * 0.17, 0.34, 0.17, 0.17, WHITE)
        p.eye(0.5 + s * 0.15, 0.35, 0.085)
    p.poly((0.43, 0.44), (0.57, 0.44), (0.5, 0.58), fill=BEAK, edge=False)


def elephant(p: Pen):
    """Stands and looks to the right, its trunk down."""
    p.line((0.06, 0.44), (0.01, 0.58), (0.04, 0.68), width=0.045, fill=p.shade)
    for x in (0.1, 0.26, 0.44, 0.56):
        p.soft(x, 0.6, x + 0.15, 1.0, r=0.03, fill=p.shade if x in (0.26, 0.56) else None)
    p.poly((0.04, 0.3), (0.2, 0.18), (0.6, 0.2), (0.72, 0.5), (0.66, 0.82), (0.06, 0.82), (0.0, 0.56),
           round=True)  # fmt: skip
    p.line((0.76, 0.4), (0.94, 0.46), (0.9, 0.94), (1.03, 0.9), width=0.13)
    p.poly((0.74, 0.56), (0.8, 0.6), (0.84, 0.56), (0.86, 0.7), (0.78, 0.68), fill=WHITE, round=True)
    p.ellipse(0.68, 0.37, 0.23, 0.23)
    p.poly((0.76, 0.4), (0.88, 0.4), (0.9, 0.56), (0.78, 0.54), edge=False)
    p.poly((0.32, 0.16), (0.54, 0.1), (0.64, 0.34), (0.56, 0.62), (0.38, 0.64), (0.28, 0.4),
           fill=p.shade, round=True)  # fmt: skip
    p.eye(0.76, 0.32, 0.06)


def robot(p: Pen):
    """A square head with a screen, a body with three buttons."""
    p.line((0.5, 0.14), (0.5, 0.02), width=0.04, fill=GREY)
    p.ellipse(0.5, 0.035, 0.055, 0.055, (240, 80, 70))
    for s in (-1, 1):
        p.line((0.5 + s * 0.26, 0.58), (0.5 + s * 0.42, 0.62), (0.5 + s * 0.42, 0.78), width=0.09, fill=GREY)
        p.ellipse(0.5 + s * 0.42, 0.8, 0.075, 0.07)
        p.rect(0.5 + s * 0.13 - 0.05, 0.84, 0.5 + s * 0.13 + 0.05, 0.95, GREY)
        p.soft(0.5 + s * 0.15 - 0.12, 0.92, 0.5 + s * 0.15 + 0.12, 1.0, r=0.03)
        p.rect(0.5 + s * 0.36 - 0.05, 0.24, 0.5 + s * 0.36 + 0.05, 0.38, GREY)
    p.soft(0.2, 0.48, 0.8, 0.88, r=0.05)
    p.soft(0.14, 0.12, 0.86, 0.5, r=0.06)
    p.soft(0.2, 0.2, 0.8, 0.43, fill=(52, 56, 84), r=0.05, edge=False)
    for s in (-1, 1):
        p.ellipse(0.5 + s * 0.15, 0.3, 0.085, 0.085, (130, 240, 250), edge=False)
        p.ellipse(0.5 + s * 0.15, 0.3, 0.035, 0.035, DARK, edge=False)
    p.rect(0.3, 0.58, 0.7, 0.76, p.light, edge=False)
    for x, c in ((0.38, (236, 72, 66)), (0.5, (250, 200, 60)), (0.62, (70, 180, 90))):
        p.ellipse(x, 0.67, 0.045, 0.045, c, edge=False)


def rocket(p: Pen):
    """Points upwards, with fins and a flame."""
    p.poly((0.36, 0.82), (0.64, 0.82), (0.58, 0.92), (0.5, 1.02), (0.42, 0.92), fill=(255, 150, 40),
           round=True)  # fmt: skip
    p.poly((0.43, 0.82), (0.57, 0.82), (0.5, 0.95), fill=(255, 236, 130), edge=False)
    for s in (-1, 1):
        p.poly((0.5 + s * 0.16, 0.5), (0.5 + s * 0.38, 0.72), (0.5 + s * 0.4, 0.98), (0.5 + s * 0.14, 0.82),
               fill=p.shade)  # fmt: skip
    p.poly((0.5, -0.08), (0.5, -0.08), (0.72, 0.2), (0.76, 0.5), (0.68, 0.86), (0.32, 0.86), (0.24, 0.5),
           (0.28, 0.2), round=True)  # fmt: skip
    p.poly((0.5, 0.0), (0.6, 0.08), (0.66, 0.19), (0.34, 0.19), (0.4, 0.08), fill=p.shade, edge=False)
    p.ellipse(0.5, 0.38, 0.14, 0.14, WHITE)
    p.ellipse(0.5, 0.38, 0.095, 0.095, p.window, edge=False)
    p.rect(0.31, 0.64, 0.69, 0.71, p.light, edge=False)


def car(p: Pen):
    """Seen from the right side."""
    p.poly((0.2, 0.56), (0.3, 0.26), (0.42, 0.24), (0.62, 0.24), (0.72, 0.28), (0.84, 0.56), round=True)
    p.poly((0.29, 0.54), (0.36, 0.34), (0.48, 0.34), (0.48, 0.54), fill=p.window, edge=False)
    p.poly((0.54, 0.54), (0.54, 0.34), (0.65, 0.34), (0.75, 0.54), fill=p.window, edge=False)
    p.soft(0.0, 0.5, 1.0, 0.88, r=0.12)
    p.rect(0.06, 0.73, 0.94, 0.78, p.shade, edge=False)
    p.ellipse(0.93, 0.62, 0.05, 0.06, LAMP, edge=False)
    p.line((0.54, 0.6), (0.62, 0.6), width=0.03, fill=p.shade, edge=False)
    for x in (0.25, 0.75):
        p.ellipse(x, 0.86, 0.14, 0.14, DARK)
        p.ellipse(x, 0.86, 0.065, 0.065, (214, 216, 224), edge=False)


def boat(p: Pen):
    """A hull with two sails."""
    p.rect(0.46, 0.02, 0.51, 0.78, WOOD)
    p.poly((0.54, 0.04), (0.76, 0.3), (0.94, 0.66), (0.54, 0.66))
    p.poly((0.56, 0.5), (0.85, 0.5), (0.92, 0.64), (0.56, 0.64), fill=p.shade, edge=False)
    p.poly((0.43, 0.14), (0.43, 0.66), (0.1, 0.66), fill=p.light)
    p.poly((0.0, 0.72), (1.0, 0.72), (0.92, 0.88), (0.82, 1.0), (0.2, 1.0), (0.08, 0.88))
    p.poly((0.04, 0.79), (0.96, 0.79), (0.94, 0.85), (0.06, 0.85),
           fill=p.stripe, edge=False)  # fmt: skip


def house(p: Pen):
    """A gable, a door, two windows and a chimney."""
    p.rect(0.68, 0.1, 0.8, 0.4, (150, 84, 70))
    p.rect(0.12, 0.42, 0.88, 1.0)
    p.poly((0.5, 0.04), (1.0, 0.48), (0.0, 0.48), fill=p.shade)
    p.ellipse(0.5, 0.33, 0.08, 0.08, p.window, edge=False)
    p.soft(0.42, 0.62, 0.62, 1.04, DOOR, edge=False, r=0.04)
    p.rect(0.42, 0.9, 0.62, 1.0, DOOR, edge=False)
    for x in (0.18, 0.68):
        p.rect(x - 0.02, 0.57, x + 0.18, 0.81, WHITE, edge=False)
        p.rect(x + 0.01, 0.6, x + 0.15, 0.78, p.window, edge=False)


def castle(p: Pen):
    """A gate between two towers."""
    for x in (0.3, 0.46, 0.62):
        p.rect(x, 0.4, x + 0.09, 0.52)
    p.rect(0.2, 0.48, 0.8, 1.0)
    for x in (0.0, 0.72):
        p.rect(x + 0.02, 0.32, x + 0.26, 1.0)
        p.poly((x - 0.02, 0.34), (x + 0.3, 0.34), (x + 0.14, 0.0), fill=p.shade)
        p.soft(x + 0.09, 0.44, x + 0.19, 0.62, p.window if p.window == LAMP else DARK, edge=False, r=0.04)
    p.soft(0.37, 0.62, 0.63, 1.1, (92, 56, 44), edge=False, r=0.09)
    p.line((0.5, 0.68), (0.5, 0.98), width=0.03, fill=DARK, edge=False)
    for x, y in ((0.28, 0.62), (0.66, 0.6), (0.08, 0.76), (0.84, 0.8)):
        p.rect(x, y, x + 0.07, y + 0.04, p.shade, edge=False)


def tent(p: Pen):
    """Open at the front."""
    p.line((0.46, 0.06), (0.54, 0.22), width=0.04, fill=WOOD)
    p.line((0.54, 0.06), (0.46, 0.22), width=0.04, fill=WOOD)
    p.poly((0.5, 0.14), (1.0, 1.0), (0.0, 1.0))
    for a, b in ((0.1, 0.2), (0.8, 0.9)):
        p.poly((0.5, 0.14), (b, 1.0), (a, 1.0), fill=p.stripe, edge=False)
    p.poly((0.5, 0.38), (0.66, 1.0), (0.34, 1.0), fill=LAMP if p.window == LAMP else (62, 46, 58), edge=False)
    p.poly((0.5, 0.36), (0.66, 1.0), (0.74, 0.98), fill=p.shade, edge=False)


def mushroom(p: Pen):
    """A spotted cap on a stem with a face."""
    p.poly((0.36, 0.5), (0.64, 0.5), (0.68, 0.78), (0.74, 0.94), (0.66, 1.02), (0.34, 1.02), (0.26, 0.94),
           (0.32, 0.78), fill=CREAM, round=True)  # fmt: skip
    p.poly((0.0, 0.5), (0.06, 0.18), (0.34, 0.0), (0.66, 0.0), (0.94, 0.18), (1.0, 0.5), (0.86, 0.62),
           (0.5, 0.64), (0.14, 0.62), round=True)  # fmt: skip
    spot = (214, 196, 196) if p.is_white else WHITE
    for x, y, r in ((0.5, 0.2, 0.11), (0.22, 0.36, 0.085), (0.78, 0.36, 0.085), (0.5, 0.48, 0.07)):
        p.ellipse(x, y, r, r * 0.9, spot, edge=False)
    for s in (-1, 1):
        p.ellipse(0.5 + s * 0.08, 0.78, 0.035, 0.055, DARK, edge=False)
    p.line((0.46, 0.88), (0.5, 0.9), (0.54, 0.88), width=0.025, fill=DARK, edge=False)


def teapot(p: Pen):
    """The handle at the left, the spout at the right, a flower on its belly."""
    p.line((0.26, 0.48), (0.02, 0.44), (0.02, 0.8), (0.26, 0.8), width=0.085)
    p.poly((0.7, 0.8), (0.74, 0.56), (0.86, 0.54), (0.9, 0.36), (1.02, 0.32), (0.96, 0.6), (0.84, 0.82),
           round=True)  # fmt: skip
    p.soft(0.32, 0.92, 0.68, 1.0, r=0.03, fill=p.shade)
    p.ellipse(0.5, 0.66, 0.31, 0.3)
    p.ellipse(0.5, 0.38, 0.21, 0.09, p.shade)
    p.ellipse(0.5, 0.26, 0.07, 0.07)
    for a in ((0.5, 0.56), (0.41, 0.64), (0.59, 0.64), (0.45, 0.75), (0.55, 0.75)):
        p.ellipse(*a, 0.06, 0.06, (238, 150, 170) if p.is_white else p.light, edge=False)
    p.ellipse(0.5, 0.665, 0.05, 0.05, WHITE if p.body == COLOUR_RGB["yellow"] else LAMP, edge=False)


def umbrella(p: Pen):
    """Open, its handle below."""
    p.line((0.5, 0.4), (0.5, 0.94), (0.56, 1.0), (0.66, 0.98), (0.66, 0.88), width=0.055, fill=HANDLE)
    p.line((0.5, 0.1), (0.5, 0.03), width=0.05, fill=HANDLE)
    dome = [(0.0, 0.54), (0.02, 0.36), (0.14, 0.18), (0.32, 0.09), (0.5, 0.07), (0.68, 0.09), (0.86, 0.18),
             (0.98, 0.36), (1.0, 0.54)]  # fmt: skip
    hem = [(0.92, 0.48), (0.8, 0.48), (0.7, 0.56), (0.6, 0.48), (0.4, 0.48), (0.3, 0.56), (0.2, 0.48),
            (0.08, 0.48)]  # fmt: skip
    p.poly(*dome, *hem)
    for s in (-1, 1):
        p.poly((0.5, 0.07), (0.5 + s * 0.24, 0.2), (0.5 + s * 0.2, 0.56), (0.5 + s * 0.4, 0.48),
               (0.5 + s * 0.5, 0.54), (0.5 + s * 0.47, 0.34), (0.5 + s * 0.3, 0.13),
               fill=p.shade, edge=False)  # fmt: skip


# Each kind's painter and the point its hat sits on.
KIND_DRAWING = {
    "cat": (cat, (0.5, 0.16)),
    "dog": (dog, (0.68, 0.13)),
    "rabbit": (rabbit, (0.5, 0.33)),
    "duck": (duck, (0.66, 0.07)),
    "owl": (owl, (0.5, 0.11)),
    "elephant": (elephant, (0.68, 0.15)),
    "robot": (robot, (0.5, 0.13)),
    "rocket": (rocket, (0.5, 0.05)),
    "car": (car, (0.52, 0.25)),
    "boat": (boat, (0.48, 0.05)),
    "house": (house, (0.5, 0.1)),
    "castle": (castle, (0.5, 0.42)),
    "tent": (tent, (0.5, 0.16)),
    "mushroom": (mushroom, (0.5, 0.03)),
    "teapot": (teapot, (0.5, 0.22)),
    "umbrella": (umbrella, (0.5, 0.08)),
}
