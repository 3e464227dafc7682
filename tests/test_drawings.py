"""The primer's drawings: for any model and any words, no label lies on another or off the page."""

from itertools import combinations
from types import SimpleNamespace

import pytest
from PIL import Image

from ip2p.teaching.drawings import pipeline, unet

CROSS, PLAIN = "CrossAttn", ""
MODELS = {
    "small": {"block_out_channels": (16, 32), "in_channels": 4, "sample_size": 8},
    "more channels": {"block_out_channels": (64, 96, 192), "in_channels": 16, "sample_size": 16},
    "Stable Diffusion": {"block_out_channels": (320, 640, 1280, 1280), "in_channels": 4, "sample_size": 64},
}
WORDS = {
    "short": ("a cat", "a cat at night", "make it night"),
    "long": (
        "a large orange teapot with a hat and a flag on the left in a meadow in the rain",
        "a watercolour of a large orange teapot with a hat and a flag on the left in a meadow in the rain",
        "could you please turn all of it into a watercolour for $5?",
    ),
}


@pytest.fixture
def pictures():
    return [Image.new("RGB", (32, 32), colour) for colour in ("orange", "navy", "red")]


def config_of(model: dict) -> SimpleNamespace:
    """What a drawing reads of a UNet's config."""
    levels = len(model["block_out_channels"])
    down = [CROSS] * (levels - 1) + [PLAIN]
    return SimpleNamespace(
        **model,
        out_channels=model["in_channels"],
        mid_block_type=CROSS,
        down_block_types=down,
        up_block_types=down[::-1],
    )


def check_places(figure) -> None:
    """All words lie on the page, and none on others."""
    figure.canvas.draw()
    texts = figure.axes[0].texts
    boxes = [text.get_window_extent() for text in texts]
    page = figure.bbox
    for text, box in zip(texts, boxes, strict=True):
        inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
        assert inside, f"{text.get_text()!r} leaves the page"
    for (one, first), (other, second) in combinations(zip(texts, boxes, strict=True), 2):
        assert not first.overlaps(second), f"{one.get_text()!r} lies on {other.get_text()!r}"


@pytest.mark.parametrize("words", WORDS)
def test_the_pipeline(words, pictures):
    *captions, instruction = WORDS[words]
    figure = pipeline(*pictures, captions, instruction)
    check_places(figure)
    said = [text.get_text() for text in figure.axes[0].texts]
    assert [str(k) for k in range(1, 6)] == [text for text in said if text.isdigit()]


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("model", MODELS)
def test_the_unet(model, words, pictures):
    config = config_of(MODELS[model])
    figure = unet(config, pictures[0], WORDS[words][-1])
    check_places(figure)
    said = [text.get_text() for text in figure.axes[0].texts]
    for channels in config.block_out_channels:
        assert said.count(str(channels)) >= 2, "on the way down and up"
    assert said.count(f"× {config.in_channels}") == 3, "noisy latent, the picture's, predicted noise"


@pytest.mark.parametrize(
    "predicts, words", [("epsilon", "noise"), ("v_prediction", "velocity"), ("sample", "latent")]
)
def test_the_unet_answers_what_its_scheduler_says(predicts, words, pictures):
    figure = unet(config_of(MODELS["more channels"]), pictures[0], WORDS["short"][-1], predicts)
    check_places(figure)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert any(text.startswith(words) and "\\theta" in text for text in texts)
