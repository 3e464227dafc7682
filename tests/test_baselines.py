"""SDEdit and Text2LIVE, and the pieces that Text2LIVE is made of."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.diffusion import decode, seeded
from ip2p.common.images import as_tensor, to_pil
from ip2p.miniworld import Scene, caption, edit, render
from ip2p.profiles import MINI
from ip2p.study.baselines import (
    compose,
    posterior_samples,
    random_crops,
    sdedit,
    self_similarity,
    spherical,
    text2live,
)

CAT = Scene("cat", "red", "meadow", size="large")
BLUE = edit(CAT, colour="blue")


@pytest.fixture(scope="module")
def clip():
    return ClipSimilarity(MINI.clip)


def test_sdedit_changes_more_the_stronger_it_is_and_noise_belongs_to_the_picture(tiny_pipe):
    pictures = [render(CAT, size=32), render(BLUE, size=32)]
    with torch.no_grad():  # what this untrained autoencoder makes of them, unedited
        z = posterior_samples(tiny_pipe.vae, pictures, seeded([3, 4]))
        unedited = to_pil(decode(tiny_pipe, z)[0])

    def change(strength):
        out = sdedit(tiny_pipe, pictures, ["a dog"] * 2, strength, guidance_scale=2.0, steps=10, seeds=[3, 4])
        return out, np.abs(np.asarray(out[0], float) - np.asarray(unedited, float)).mean()

    (_, little), (both, much) = change(0.1), change(0.9)
    assert little < much
    alone = sdedit(tiny_pipe, pictures[1:], ["a dog"], 0.9, guidance_scale=2.0, steps=10, seeds=[4])
    assert np.abs(np.asarray(alone[0], int) - np.asarray(both[1], int)).max() <= 1


@pytest.mark.parametrize("strength", [0.35, 0.8, 1.0])
def test_sdedit_equals_the_stock_pipeline(tiny_pipe, strength):
    from diffusers import StableDiffusionImg2ImgPipeline

    stock = StableDiffusionImg2ImgPipeline(**tiny_pipe.components, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    pictures, texts = [render(CAT, size=32), render(BLUE, size=32)], ["a dog", "a house at night"]
    theirs = stock(
        texts,
        image=pictures,
        strength=strength,
        guidance_scale=2.0,
        num_inference_steps=10,
        generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
    ).images
    ours = sdedit(tiny_pipe, pictures, texts, strength, guidance_scale=2.0, steps=10, seeds=[3, 4])
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1


def test_sdedit_takes_pictures_of_any_size_and_mode(tiny_pipe):
    odd = render(CAT, size=45).convert("RGBA")
    (out,) = sdedit(tiny_pipe, [odd], ["a dog"], 0.5, guidance_scale=2.0, steps=4)
    assert out.size == (44, 44), "a multiple of what a latent covers"


@pytest.mark.parametrize(("strength", "steps"), [(0, 10), (1.5, 10), (0.1, 5)])
def test_a_strength_that_paints_nothing_is_refused(tiny_pipe, strength, steps):
    with pytest.raises(ValueError, match="take a strength in"):
        sdedit(tiny_pipe, [render(CAT, size=32)], ["a dog"], strength, guidance_scale=2.0, steps=steps)


def test_a_layer_lies_over_a_picture():
    below, layer = torch.rand(1, 3, 8, 8), torch.rand(1, 4, 8, 8)
    layer[:, 3, :4], layer[:, 3, 4:] = 0, 1
    over = compose(layer, below)
    assert torch.equal(over[..., :4, :], below[..., :4, :]) and torch.equal(
        over[..., 4:, :], layer[:, :3, 4:]
    )


def test_crops_stay_inside_and_are_mirrored_only_where_they_may_be():
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    for flips, wanted in ((False, {True}), (True, {True, False})):
        crops = random_crops(ramp, 32, 48, flips, torch.Generator().manual_seed(0))
        assert crops.shape == (32, 1, 48, 48) and crops.min() >= 0 and crops.max() <= 1
        assert {bool((c[0, 0].diff() >= 0).all()) for c in crops} == wanted
        assert crops[:, 0, 0, 1:-1].diff().abs().max() <= 1.4 / 63  # 60% or more of the side, on fewer pixels


def test_distances_are_zero_between_equals(clip):
    picture = as_tensor([render(CAT)])
    assert_close(spherical(*[clip.encode_image(picture)] * 2), torch.tensor(0.0))
    same = self_similarity(clip, picture)
    assert len(same) >= 16 and torch.allclose(same, same.T, atol=1e-5)
    assert_close(same.diagonal(), torch.ones(len(same)))


def test_text2live_moves_the_picture_the_way_of_the_caption_and_can_be_repeated(clip):
    asked = render(CAT), "a red cat", "a blue cat"
    made = text2live(clip, *asked, steps=90, progress=False)
    assert np.mean(made.losses[-5:]) < 0.7 * made.losses[0]
    assert made.layer.mode == "RGBA" and made.image.size == asked[0].size
    sim = clip(as_tensor([asked[0]] * 2), as_tensor([asked[0], made.image]), [asked[1]] * 2, [asked[2]] * 2)
    before, after = sim.sim_1
    assert after > before + 0.02, "the target's caption fits the output better than the input"
    assert sim.sim_direction[1] > 0.3, "and the picture moved the way that the captions did"
    again = text2live(clip, *asked, steps=10, progress=False)
    assert again.losses == made.losses[:10]


def test_text2live_stops_when_nothing_improves(clip):
    made = text2live(
        clip, render(CAT), caption(CAT), caption(BLUE), steps=60, lr=0.0, patience=3, progress=False
    )
    assert len(made.losses) < 30
