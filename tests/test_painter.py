"""mini-sd: its configs are those of the weights that ship, and its recipe does what it promises."""

import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import CLIPTokenizer

from ip2p.common.diffusion import add_noise, velocity
from ip2p.miniworld import Scene, edit, render_mask
from ip2p.miniworld.captions import caption
from ip2p.miniworld.held_out import scenes
from ip2p.miniworld.render import things_mask
from ip2p.models import text_to_image
from ip2p.models.autoencoder import SCALING_FACTOR, encode, new_autoencoder
from ip2p.models.renders import draw
from ip2p.models.text_encoder import new_text_encoder
from ip2p.models.text_to_image import (
    cached_latents,
    denoising_loss,
    how_often,
    log_normal_timesteps,
    new_scheduler,
    new_unet,
)
from ip2p.paths import DATA

SHIPPED = DATA / "models" / "mini-sd"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def config(part: str) -> dict:
    """What a part's config says, without who wrote it."""
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    found = json.loads((SHIPPED / part / name).read_text(encoding="utf-8"))
    notes = ("_class_name", "_diffusers_version", "transformers_version", "architectures", "dtype")
    return {key: value for key, value in found.items() if key not in notes}


def as_json(values: dict, keys) -> dict:
    """Some of the values, tuples as lists."""
    return json.loads(json.dumps({key: values[key] for key in keys}))


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder"])
def test_the_shipped_weights_fit_what_is_built_anew(part):
    if part == "text_encoder":
        model = new_text_encoder(CLIPTokenizer.from_pretrained(SHIPPED / "tokenizer"))
        built = model.config.to_dict()
        weights = load_file(SHIPPED / part / "model.safetensors")
    else:
        model = new_autoencoder(128) if part == "vae" else new_unet()
        built = dict(model.config)
        weights = load_file(SHIPPED / part / WEIGHTS)
    wanted = config(part)
    assert as_json(built, wanted) == wanted
    model.load_state_dict(weights, strict=True)


def test_the_scheduler_is_the_shipped_one():
    scheduler = new_scheduler()
    wanted = config("scheduler")
    assert as_json(dict(scheduler.config), wanted) == wanted
    assert scheduler.config.prediction_type == "v_prediction"


# ------------------------------------------------------------------------------------ where things are


def test_things_are_where_a_change_of_their_colour_is_seen():
    for scene in scenes(30, seed=5, mix="wild"):
        colour = "blue" if scene.colour != "blue" else "red"
        seen = render_mask(scene, edit(scene, colour=colour), 128)  # grown by a pixel
        things = things_mask(scene)
        assert things.shape == (16, 16) and things.dtype == bool
        as_pixels = things.repeat(8, 0).repeat(8, 1)
        assert (seen & as_pixels).sum() >= 0.9 * seen.sum() > 0, scene
        assert things.mean() < 0.9


def test_extras_and_second_objects_are_things():
    cat = Scene("cat", "red", "beach", "small", position="left")
    alone = things_mask(cat)
    assert alone[:, :8].any() and not alone[:, 8:].any()
    assert not alone[:8].any() and not alone[15:].any(), "a small cat stands on the ground"
    both = things_mask(Scene("cat", "red", "beach", "small", second=("dog", "blue")))
    assert both[:, :8].any() and both[:, 8:].any()
    for extra in ("hat", "balloon", "flag", "flowers", "birds"):
        with_it = things_mask(edit(cat, add=extra))
        assert (with_it & ~alone).any() and not (alone & ~with_it).any(), extra


# ------------------------------------------------------------------------------------ what is learnt from


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return new_autoencoder(64).eval()  # small pictures: quick


def test_latents_are_made_in_chunks_and_go_on_after_a_kill(vae, tmp_path, monkeypatch):
    todo = scenes(7, seed=2, mix="wild")
    drawn = []

    def counted(some, size):
        drawn.append(len(some))
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return draw(some, size)

    monkeypatch.setattr(text_to_image, "CHUNK", 3)
    monkeypatch.setattr(text_to_image, "draw", counted)
    with pytest.raises(KeyboardInterrupt):
        cached_latents(tmp_path, vae, todo)
    latents, things = cached_latents(tmp_path, vae, todo)
    assert drawn == [3, 3, 3, 1], "three pictures at a time, and the first three once"
    again = cached_latents(tmp_path, vae, todo)
    assert len(drawn) == 4 and torch.equal(again[0], latents) and torch.equal(again[1], things)
    assert latents.shape == (7, 16, 8, 8) and things.shape == (7, 8, 8)
    alone = encode(vae, torch.from_numpy(draw(todo, 64))) * SCALING_FACTOR
    assert_close(latents, alone.half(), atol=1e-3, rtol=1e-2)
    assert np.array_equal(things[4].numpy(), things_mask(todo[4], 8))


def test_scenes_with_a_second_object_come_three_times_as_often():
    todo = scenes(200, seed=2, mix="wild")
    company = torch.tensor([scene.second is not None for scene in todo])
    often = how_often(todo)
    assert 10 < company.sum() < 80
    assert set(often[company].tolist()) == {3.0} and set(often[~company].tolist()) == {1.0}


def test_each_step_draws_scenes_of_the_mix_wild_in_new_words(vae, tmp_path, monkeypatch):
    """The loop is replaced by one that asks for the loss of a few steps."""
    told = []
    options = {}

    def told_caption(scene, rng):
        text = "" if rng.random() < 0.1 else caption(scene, rng)
        told.append((scene, text))
        return text

    def ask(step_loss, unet, work, **given):
        options.update(given)
        for step in range(60):
            step_loss(unet, torch.Generator().manual_seed(step), step)
        return []

    monkeypatch.setattr(text_to_image, "some_caption", told_caption)
    monkeypatch.setattr(text_to_image, "train_loop", ask)
    monkeypatch.setattr(text_to_image, "denoising_loss", lambda *a: None)
    tokenizer = CLIPTokenizer.from_pretrained(SHIPPED / "tokenizer")
    text_to_image.build(
        tmp_path, vae, tokenizer, new_text_encoder(tokenizer), renders=20, batch=16, shown=2, steps=60
    )
    wild = scenes(20, seed=2, mix="wild")
    assert {scene for scene, _ in told} == set(wild)
    company = [scene.second is not None for scene, _ in told]
    shares = how_often(wild)
    expected = (shares[shares == 3].sum() / shares.sum()).item()
    assert np.mean(company) == pytest.approx(expected, abs=0.07)
    words = {text for scene, text in told if scene == wild[0]}
    assert len(words) > 10, "worded anew at each step"
    assert options["decay"] == 0.5 and options["muon"] and options["ema_decay"]


def test_a_tenth_of_the_captions_is_empty():
    rng = random.Random(0)
    scene = scenes(1, seed=2)[0]
    empty = sum(text_to_image.some_caption(scene, rng) == "" for _ in range(4000))
    assert 330 < empty < 470


# ------------------------------------------------------------------------------------ the loss


class Oracle(torch.nn.Module):
    """Says the right velocity, or one that is off by `error` (B, 1, h, w)."""

    def __init__(self, z, noise, alpha_bar, error=0.0):
        super().__init__()
        self.z, self.noise, self.alpha_bar, self.error = z, noise, alpha_bar, error

    def forward(self, z_t, t, text):
        a = self.alpha_bar[t]
        assert_close(z_t, add_noise(self.z, self.noise, a))
        said = velocity(self.z, self.noise, a) + self.error
        return type("Out", (), {"sample": said})


def test_the_painter_learns_velocity_and_things_count_five_times():
    scheduler = new_scheduler()
    alpha_bar = scheduler.alphas_cumprod
    z, text = torch.randn(6, 16, 4, 4), torch.randn(6, 7, 16)
    things = torch.zeros(6, 4, 4, dtype=torch.bool)
    things[..., :2] = True
    generator = torch.Generator().manual_seed(1)
    t = log_normal_timesteps(6, generator, alpha_bar)
    noise = torch.randn(z.shape, generator=generator)
    assert len(set(t.tolist())) > 3

    def loss(error) -> float:
        oracle = Oracle(z, noise, alpha_bar, error)
        return denoising_loss(oracle, scheduler, z, things, text, torch.Generator().manual_seed(1)).item()

    there = things[:, None].float()
    assert loss(0.0) < 1e-9
    assert loss(there) == pytest.approx(5 * loss(1 - there), rel=1e-4)
    assert loss(1.0) == pytest.approx(1.0, rel=1e-4), "no noise level counts less than another"
