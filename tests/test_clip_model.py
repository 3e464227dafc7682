"""mini-clip: its training data and measures; the bundled one loads with stock open_clip, and finds."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import CLIP

from ip2p.miniworld import caption, difference, random_scene, render
from ip2p.models import clip
from ip2p.models.corrupt import corrupt, training_pairs
from ip2p.models.files import minutes, names
from ip2p.models.text_encoder import tokenise

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "data" / "models" / "mini-clip"


@pytest.fixture(scope="module")
def bundled():
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{FOLDER}")
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{FOLDER}")


@pytest.fixture(scope="module")
def scenes():
    return [random_scene(10**7 + i) for i in range(100)]


def test_corrupted_pictures_keep_shape_and_range_and_repeat():
    x = torch.rand(16, 3, 64, 64) * 2 - 1
    a, b = (corrupt(x.clone(), torch.Generator().manual_seed(seed)) for seed in (1, 1))
    assert torch.equal(a, b) and a.shape == x.shape and a.min() >= -1 and a.max() <= 1
    assert not torch.equal(a, corrupt(x.clone(), torch.Generator().manual_seed(2)))
    marked = torch.full((16, 3, 64, 64), -1.0)
    marked[..., :16] = 1  # the left stays on the left
    assert (corrupt(marked, torch.Generator())[..., :12].mean((1, 2, 3)) > 0.6).all()


def test_training_pairs_lie_side_by_side(tmp_path):
    todo, pictures, even = training_pairs(tmp_path, ((4, 1, "plain"), (3, 2, "even")))
    again, same, _ = training_pairs(tmp_path, ((4, 1, "plain"), (3, 2, "even")))
    assert todo == again and torch.equal(pictures, same)
    assert pictures.shape == (14, 3, 64, 64) and pictures.dtype == torch.uint8
    assert even.tolist() == [False] * 8 + [True] * 6
    for before, after in zip(todo[::2], todo[1::2], strict=True):
        assert difference(before, after) and before.seed == after.seed


def test_retrieval_counts_own_ones_first(scenes):
    own = torch.eye(100)
    assert clip.retrieval(own, own, scenes) == {"groups": 1, "image_to_text": 1, "text_to_image": 1}
    assert clip.retrieval(own, own.roll(1, 0), scenes)["image_to_text"] == 0
    assert clip.retrieval(own, own, scenes[:5] * 20, group=5)["groups"] == 20  # a group holds no scene twice


def test_edits_are_told_by_their_captions():
    basis = torch.eye(8)
    before, after = (basis[:4], basis[:4]), (basis[4:], basis[4:])
    told = clip.edits_told(before, after)
    assert told["own_caption_preferred"] == 1 and told["direction"] == pytest.approx(1)
    assert told["direction_shuffled"] == pytest.approx(0)
    assert clip.edits_told(before, (basis[4:], basis[:4]))["own_caption_preferred"] == 0


def test_figures_of_the_card():
    assert names(clip.SETS) == "11,000 of the mix 'plain' and 5,000 of the mix 'even'"
    log = [{"step": 50 * i, "seconds": s} for i, s in ((1, 50), (2, 100), (3, 20), (4, 70))]  # saved once
    assert minutes(log) == pytest.approx(200 / 60)


def test_stock_open_clip_loads_it(bundled):
    model, preprocess, tokenizer = bundled
    assert type(model) is CLIP
    ids = tokenizer(["two red cats on a beach", "Night!"])
    assert ids.shape == (2, 40)
    torch.testing.assert_close(ids, tokenise(clip.load(FOLDER)[1], ["two red cats on a beach", "Night!"]))
    picture = render(random_scene(1), 64)
    assert preprocess(picture).min() >= -1 and preprocess(picture.resize((200, 100))).shape == (3, 64, 64)
    assert sum(f.stat().st_size for f in FOLDER.iterdir()) < 3.2e6


def test_stock_open_clip_knows_it_by_name(bundled, monkeypatch):
    monkeypatch.chdir(ROOT)
    open_clip.add_model_config(FOLDER)
    weights = str(FOLDER / "open_clip_model.safetensors")
    model, _, preprocess = open_clip.create_model_and_transforms(
        "mini-clip", pretrained=weights, image_mean=(0.5,) * 3, image_std=(0.5,) * 3
    )
    for a, b in zip(model.parameters(), bundled[0].parameters(), strict=True):
        assert torch.equal(a, b)
    picture, text = render(random_scene(1), 64), ["a red cat on a farm"]
    assert torch.equal(preprocess(picture), bundled[1](picture))
    assert torch.equal(open_clip.get_tokenizer("mini-clip")(text), bundled[2](text))


def test_the_config_is_the_one_that_is_trained(bundled):
    written = json.loads((FOLDER / "open_clip_config.json").read_text())["model_cfg"]
    assert written == clip.model_config(bundled[2].tokenizer)


@torch.no_grad()
def test_the_bundled_one_finds_held_out_scenes(bundled, scenes):
    model, preprocess, tokenizer = bundled
    pictures = torch.stack([preprocess(render(scene)) for scene in scenes])
    texts = tokenizer([caption(scene, i) for i, scene in enumerate(scenes)])
    images, words = model.encode_image(pictures, normalize=True), model.encode_text(texts, normalize=True)
    found = clip.retrieval(images, words, scenes)
    assert found["image_to_text"] > 0.7 and found["text_to_image"] > 0.7
    few = model.encode_image(pictures[:4], normalize=True)
    torch.testing.assert_close(few, images[:4], atol=1e-5, rtol=0)
