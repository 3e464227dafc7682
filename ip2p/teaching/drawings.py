"""Two drawings for the primer: the five stages of InstructPix2Pix, and its UNet.

Lengths are inches, and letters are large: a drawing can be read on a page and, half as wide, on a phone.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from ip2p.common.grids import as_array

WIDTH = 6.8  # inches
DPI = 160
INK, PALE, GREY = "#26323A", "#F4F1EA", "#6B767D"
BLUE, ORANGE, GREEN = "#0072B2", "#D98200", "#008A64"  # told apart by colour-blind eyes too
RED, PURPLE = "#C44E00", "#8A5A99"
TITLE, WORDS, SMALL = 14, 11.5, 10.5  # points
PLAIN = {"parse_math": False}  # people's words are no formulas

# ------------------------------------------------------------------------------------------- strokes


def page(height: float):
    """An empty figure of WIDTH x `height` inches, and axes that measure in inches from the lower left."""
    figure = plt.figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.axis("off")
    plt.close(figure)  # shown once, as the value of a cell
    return figure, axes


def write(axes, x: float, y: float, words: str, size: float = WORDS, **options) -> None:
    """Words at a place, from its left edge and around its height unless told otherwise."""
    place = {"ha": "left", "va": "center", "color": INK, "linespacing": 1.25}
    axes.text(x, y, words, fontsize=size, **(place | options))


def box(axes, x: float, y: float, width: float, height: float, edge: str = INK, fill: str = "white") -> None:
    """A rounded box with its lower left corner at (x, y)."""
    shape = "round,pad=0,rounding_size=0.07"
    axes.add_patch(FancyBboxPatch((x, y), width, height, shape, ec=edge, fc=fill, lw=1.4))


def card(
    axes, x: float, y: float, width: float, words: str, letters: int, edge: str, height: float = 0.62
) -> None:
    """A box with people's words in lines of `letters`, the middle of its left edge at (x, y)."""
    box(axes, x, y - height / 2, width, height, edge)
    write(axes, x + width / 2, y, wrapped(words, letters, height), SMALL, ha="center", **PLAIN)


def wrapped(words: str, letters: int, height: float) -> str:
    """Words in lines of at most `letters`; what does not stand in `height` inches is cut off."""
    return "\n".join(textwrap.wrap(words, letters, max_lines=round(height / 0.21), placeholder=" …"))


def arrow(axes, start: tuple, end: tuple, colour: str = INK, **options) -> None:
    """An arrow between two places."""
    how = {"arrowstyle": "-|>", "mutation_scale": 14, "lw": 1.8, "color": colour, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, end, **(how | options)))


def picture(axes, image, x: float, y: float, size: float, edge: str = INK) -> None:
    """A square picture with its lower left corner at (x, y)."""
    pixels = as_array(image)
    axes.imshow(pixels, extent=(x, x + size, y, y + size), interpolation="lanczos", zorder=2)
    axes.add_patch(Rectangle((x, y), size, size, fill=False, ec=edge, lw=1.2, zorder=3))
    axes.set(xlim=(0, axes.figure.get_figwidth()), ylim=(0, axes.figure.get_figheight()))


# ------------------------------------------------------------------------------------------- the five stages

ROW = 1.62  # inches of a stage
LEFT = 2.72  # where the pictures of a stage begin
STAGES = (
    ("A language model\ninvents edits", "01", BLUE),
    ("Prompt-to-Prompt\npaints pairs", "02", ORANGE),
    ("CLIP\nchooses", "03", PURPLE),
    ("A painter\nlearns to edit", "04", GREEN),
    ("Two sliders\nsteer the edit", "05", RED),
)
HANDED_ON = ("captions in pairs, and an instruction", "pairs of pictures", "the best pairs", "an editor")


def pipeline(before, after, other, captions: Sequence[str], instruction: str):
    """The paper's five stages, told with one edit. Returns the matplotlib figure.

    before, after, other: square pictures, the third one of something else. captions: of the first two.
    """
    figure, axes = page(ROW * len(STAGES) + 0.1)
    middles = []
    for k, (name, notebook, colour) in enumerate(STAGES):
        y = ROW * (len(STAGES) - k - 0.5) + 0.05
        middles.append(y)
        box(axes, 0.08, y - 0.7, WIDTH - 0.16, 1.4, "none", PALE)
        axes.add_patch(Circle((0.48, y + 0.12), 0.25, fc=colour, ec="none"))
        write(axes, 0.48, y + 0.115, str(k + 1), TITLE, ha="center", color="white", weight="bold")
        write(axes, 0.86, y + 0.12, name, 12, weight="bold")
        write(axes, 0.86, y - 0.38, f"notebook {notebook}", SMALL, color=GREY)
    for y, goods in zip(middles, HANDED_ON, strict=False):
        arrow(axes, (0.48, y - 0.5), (0.48, y - ROW + 0.5), GREY)
        write(axes, 0.64, y - ROW / 2, goods, SMALL, color=GREY)
    invent(axes, middles[0], captions, instruction)
    paint(axes, middles[1], before, after)
    choose(axes, middles[2], before, after, other)
    learn(axes, middles[3], before, after)
    steer(axes, middles[4], before, after, instruction)
    return figure


def invent(axes, y: float, captions: Sequence[str], instruction: str) -> None:
    """Stage 1: a caption goes in, an instruction and the edited caption come out."""
    card(axes, LEFT + 0.12, y, 1.45, captions[0], 16, INK, 0.8)
    arrow(axes, (LEFT + 1.62, y), (LEFT + 1.98, y), BLUE)
    card(axes, LEFT + 2.04, y + 0.33, 1.84, f"“{instruction}”", 21, BLUE, 0.5)
    card(axes, LEFT + 2.04, y - 0.3, 1.84, captions[1], 21, INK, 0.62)


def paint(axes, y: float, before, after) -> None:
    """Stage 2: two captions become two pictures, which share noise and attention."""
    picture(axes, before, LEFT + 0.1, y - 0.52, 1.04)
    picture(axes, after, LEFT + 2.75, y - 0.52, 1.04)
    arrow(axes, (LEFT + 1.2, y - 0.12), (LEFT + 2.69, y - 0.12), ORANGE)
    write(axes, LEFT + 1.95, y + 0.2, "same noise,\nsame attention", SMALL, ha="center", color=ORANGE)


def choose(axes, y: float, before, after, other) -> None:
    """Stage 3: of many pairs few are worth learning from."""
    verdicts = (
        ("✓", "edited", after, GREEN),
        ("✗", "nothing new", before, RED),
        ("✗", "all is new", other, RED),
    )
    for k, (mark, reason, second, colour) in enumerate(verdicts):
        x = LEFT + 0.02 + 1.34 * k
        picture(axes, before, x, y - 0.22, 0.58, colour)
        picture(axes, second, x + 0.61, y - 0.22, 0.58, colour)
        write(axes, x + 0.6, y - 0.45, f"{mark} {reason}", SMALL, ha="center", color=colour)


def learn(axes, y: float, before, after) -> None:
    """Stage 4: from the noisy edited picture, the input and the instruction, name the noise."""
    picture(axes, noisy(after), LEFT + 0.02, y - 0.1, 0.68)
    picture(axes, before, LEFT + 0.78, y - 0.1, 0.68)
    write(axes, LEFT + 0.74, y - 0.32, "noisy picture, input,", SMALL, ha="center", color=GREY)
    write(axes, LEFT + 0.74, y - 0.52, "instruction", SMALL, ha="center", color=GREY)
    arrow(axes, (LEFT + 1.53, y + 0.22), (LEFT + 1.85, y + 0.22), GREEN)
    trapezoids(axes, LEFT + 1.92, y + 0.22, GREEN)
    arrow(axes, (LEFT + 2.78, y + 0.22), (LEFT + 3.1, y + 0.22), GREEN)
    write(axes, LEFT + 2.34, y - 0.32, "UNet", SMALL, ha="center", color=GREEN)
    write(axes, LEFT + 3.56, y + 0.22, "which\nnoise?", WORDS, ha="center", weight="bold")


def steer(axes, y: float, before, after, instruction: str) -> None:
    """Stage 5: a picture and a sentence go in, two scales steer, a picture comes out."""
    picture(axes, before, LEFT + 0.1, y - 0.52, 1.04)
    picture(axes, after, LEFT + 2.75, y - 0.52, 1.04)
    write(
        axes,
        LEFT + 1.95,
        y + 0.5,
        wrapped(f"“{instruction}”", 18, 0.42),
        SMALL,
        ha="center",
        va="top",
        **PLAIN,
    )
    for height, name, at in ((-0.12, "$s_T$", 0.62), (-0.38, "$s_I$", 0.3)):
        axes.plot([LEFT + 1.62, LEFT + 2.6], [y + height] * 2, color=GREY, lw=2.5, solid_capstyle="round")
        axes.add_patch(Circle((LEFT + 1.62 + 0.98 * at, y + height), 0.085, fc=RED, ec="white", zorder=4))
        write(axes, LEFT + 1.54, y + height, name, WORDS, ha="right")


def noisy(image):
    """A picture under a fixed noise, (H, W, 3) uint8, for a drawing only."""
    pixels = as_array(image).astype(float)
    noise = np.random.default_rng(0).normal(128, 70, pixels.shape)
    return (0.45 * pixels + 0.55 * noise).clip(0, 255).astype("uint8")


def trapezoids(axes, x: float, y: float, colour: str) -> None:
    """The usual sign of a UNet, 0.84 inches wide: it narrows, and widens again."""
    axes.add_patch(
        Polygon([(x, y - 0.32), (x, y + 0.32), (x + 0.4, y + 0.13), (x + 0.4, y - 0.13)], fc=colour)
    )
    axes.add_patch(
        Polygon(
            [(x + 0.44, y - 0.13), (x + 0.44, y + 0.13), (x + 0.84, y + 0.32), (x + 0.84, y - 0.32)],
            fc=colour,
        )
    )


# ------------------------------------------------------------------------------------------- the UNet

PITCH = 0.86  # inches from a level to the next
BLOCK = (1.02, 0.56)  # width and height of a block
CENTRE = 3.9  # the middle of the U
ARM = 1.3  # inches from the middle of the U to that of its first blocks


PREDICTIONS = {
    "epsilon": "noise $\\epsilon_\\theta$",
    "v_prediction": "velocity $v_\\theta$",
    "sample": "latent $z_\\theta$",
}


def unet(config, before, instruction: str, predicts: str = "epsilon"):
    """InstructPix2Pix's UNet, level by level; what the text-to-image model does not have is green.

    config: of a text-to-image diffusers UNet2DConditionModel. before: the input picture, square. predicts:
    its scheduler's prediction_type. Returns the matplotlib figure.
    """
    levels = len(config.block_out_channels)
    figure, axes = page(PITCH * max(3, levels) + 3.0)
    top = figure.get_figheight() - 1.3  # the middle of the first level
    draw_inputs(axes, top, config, before)
    draw_u(axes, top, config)
    draw_words(axes, top, instruction)
    draw_output(axes, top, config, PREDICTIONS[predicts])
    draw_legend(axes, config)
    return figure


def draw_inputs(axes, top: float, config, before) -> None:
    """The noisy latent, the input picture's latent below it, and the first convolution, which reads both."""
    stack(axes, 0.2, top - 0.02, config.in_channels, BLUE)
    write(axes, 0.15, top + 0.92, "noisy latent $z_t$", SMALL, color=BLUE)
    stack(axes, 0.2, top - 1.12, config.in_channels, GREEN)
    write(axes, 0.15, top - 1.36, "its latent $E(c_I)$", SMALL, color=GREEN)
    picture(axes, before, 0.2, top - 2.6, 0.8, GREEN)
    write(axes, 0.15, top - 2.82, "input picture $c_I$", SMALL, color=GREEN)
    arrow(axes, (0.6, top - 1.77), (0.6, top - 1.5), GREEN)
    axes.add_patch(Rectangle((1.5, top - 0.26), 0.3, 0.52, fc=BLUE, ec=BLUE, lw=1.4))
    axes.add_patch(Rectangle((1.5, top - 0.84), 0.3, 0.52, fc="white", ec=GREEN, lw=1.4, ls="--"))
    write(axes, 1.65, top, "W", WORDS, ha="center", color="white", weight="bold")
    write(axes, 1.65, top - 0.58, "0", WORDS, ha="center", color=GREEN, weight="bold")
    arrow(axes, (1.07, top + 0.3), (1.45, top + 0.05), BLUE)
    arrow(axes, (1.07, top - 0.8), (1.45, top - 0.63), GREEN)
    arrow(axes, (1.82, top), (CENTRE - ARM - BLOCK[0] / 2 - 0.02, top), INK)


def stack(axes, x: float, y: float, sheets: int, colour: str) -> None:
    """A latent as sheets behind each other, and their number. (x, y): the front one's lower left corner."""
    shown = min(4, sheets)
    for k in reversed(range(shown)):
        place = (x + 0.07 * k, y + 0.07 * k)
        axes.add_patch(
            Rectangle(place, 0.58, 0.58, fc="white", ec=colour, lw=1.3, ls="--" if colour == GREEN else "-")
        )
    write(axes, x + 0.29, y + 0.29, f"× {sheets}", WORDS, ha="center", color=colour)


def draw_u(axes, top: float, config) -> None:
    """Blocks that halve the latent's sides on the left and double them on the right, bridges between them."""
    levels = len(config.block_out_channels)
    inwards = 0.62 / max(1, levels - 1)  # inches that a level stands closer to the middle than the one above
    bridge = BLOCK[0] / 2 + 0.05
    for k, channels in enumerate(config.block_out_channels):
        y = top - PITCH * k
        x = ARM - inwards * k
        size = config.sample_size // 2**k
        draw_block(axes, CENTRE - x, y, channels, size, "CrossAttn" in config.down_block_types[k])
        draw_block(axes, CENTRE + x, y, channels, size, "CrossAttn" in config.up_block_types[levels - 1 - k])
        if x > bridge + 0.1:
            arrow(axes, (CENTRE - x + bridge, y), (CENTRE + x - bridge, y), GREY, arrowstyle="->", ls=":")
        down = y - BLOCK[1] / 2
        arrow(axes, (CENTRE - x + 0.12, down), (CENTRE - x + 0.12, down - PITCH + BLOCK[1]), INK)
        arrow(axes, (CENTRE + x - 0.12, down - PITCH + BLOCK[1]), (CENTRE + x - 0.12, down), INK)
    y = top - PITCH * levels
    has_words = "CrossAttn" in (config.mid_block_type or "")
    draw_block(
        axes, CENTRE, y, config.block_out_channels[-1], size, has_words, ARM - inwards * (levels - 1) + 0.4
    )


def draw_block(
    axes, x: float, y: float, channels: int, size: int, has_words: bool, half: float = BLOCK[0] / 2
) -> None:
    """One block with its middle at (x, y): its channels, its maps' sides, a dot if it looks at words."""
    box(axes, x - half, y - BLOCK[1] / 2, 2 * half, BLOCK[1], BLUE, "#E3EFF7")
    write(axes, x, y + 0.11, f"{channels}", WORDS, ha="center", weight="bold")
    write(axes, x, y - 0.13, f"{size} × {size}", SMALL, ha="center")
    if has_words:
        axes.add_patch(Circle((x + half - 0.13, y + 0.13), 0.075, fc=ORANGE, ec="white", zorder=4))


def draw_words(axes, top: float, instruction: str) -> None:
    """The two things that every block is told besides: the instruction and the timestep."""
    card(axes, 1.9, top + 0.83, 2.6, f"“{instruction}”", 30, ORANGE, 0.42)
    write(axes, 1.9, top + 1.14, "instruction $c_T$", SMALL, color=ORANGE)
    card(axes, 4.75, top + 0.83, 0.95, "t", 3, GREY, 0.42)
    write(axes, 4.75, top + 1.14, "timestep, told to all", SMALL, color=GREY)


def draw_output(axes, top: float, config, words: str) -> None:
    """What the UNet answers: its guess of the noise, or what else `words` say."""
    arrow(axes, (CENTRE + ARM + BLOCK[0] / 2, top), (5.92, top), INK)
    stack(axes, 5.96, top - 0.34, config.out_channels, BLUE)
    write(axes, 6.3, top - 0.56, words, SMALL, ha="center", color=BLUE)


def draw_legend(axes, config) -> None:
    """What the signs mean, at the foot of the drawing."""
    axes.add_patch(Rectangle((0.2, 0.76), 0.2, 0.2, fc="white", ec=GREEN, lw=1.4, ls="--"))
    words = f"only the editor has this: {config.in_channels} more channels, with weights that begin at 0"
    write(axes, 0.52, 0.86, words, SMALL)
    axes.add_patch(Circle((0.3, 0.53), 0.085, fc=ORANGE, ec="none"))
    write(axes, 0.52, 0.53, "cross-attention: this block looks at the words of $c_T$", SMALL)
    arrow(axes, (0.12, 0.2), (0.46, 0.2), GREY, arrowstyle="->", ls=":")
    write(axes, 0.52, 0.2, "bridge: details go across, not through the middle", SMALL)
