"""mini-clip: its training data and measures; the bundled one loads with stock open_clip, and finds."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from open_clip.model import CLIP

from ip2p.clip_filter import Similarities
from ip2p.miniworld import EDIT_KINDS, Scene, agrees, difference, edit, parse, random_scene, render
from ip2p.miniworld.held_out import caption_pairs, held_out_edits
from ip2p.models import clip
from ip2p.models.autoencoder import decode, encode
from ip2p.models.corrupt import corrupt, training_pairs
from ip2p.models.files import minutes, names
from ip2p.models.renders import draw
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
    todo, pictures, mixes = training_pairs(tmp_path, ((4, 1, "wild"), (3, 2, "even")))
    again, same, _ = training_pairs(tmp_path, ((4, 1, "wild"), (3, 2, "even")))
    assert todo == again and torch.equal(pictures, same)
    assert pictures.shape == (14, 3, 128, 128) and pictures.dtype == torch.uint8
    assert mixes == ["wild"] * 8 + ["even"] * 6
    for before, after in zip(todo[::2], todo[1::2], strict=True):
        assert difference(before, after) and before.seed == after.seed


def test_retrieval_counts_own_ones_first(scenes):
    own = torch.eye(100)
    assert clip.retrieval(own, own, scenes) == {"groups": 1, "image_to_text": 1, "text_to_image": 1}
    assert clip.retrieval(own, own.roll(1, 0), scenes)["image_to_text"] == 0
    assert clip.retrieval(own, own, scenes[:5] * 20, group=5)["groups"] == 20  # a group holds no scene twice


def test_full_captions_say_everything_and_partial_ones_a_part(scenes):
    for full, partial, scene in zip(
        clip.full_captions(scenes), clip.partial_captions(scenes), scenes, strict=True
    ):
        shown = {name: value for name, value in scene.attributes().items() if value not in (None, False)}
        assert parse(full) == shown and agrees(partial, scene.attributes())
    assert sum(len(parse(partial)) for partial in clip.partial_captions(scenes)) < 7 * len(scenes)
    assert clip.partial_captions(scenes) == clip.partial_captions(scenes)


def test_captions_fit_the_scenes_that_have_what_they_say(scenes):
    captions = clip.partial_captions(scenes)
    fits = clip.fitting(captions, scenes)
    assert fits.diagonal().all() and 120 < fits.sum() < 5000
    for i in range(0, 100, 7):
        assert fits[i].tolist() == [agrees(captions[i], scene.attributes()) for scene in scenes]
    cat = Scene("cat", "red", "beach", time="night")
    blue = edit(cat, colour="blue")
    captions = ["a red cat", "a cat at night"]
    assert clip.fitting(captions, [cat, blue]).tolist() == [[True, False], [True, True]]


def test_the_loss_is_open_clips_where_no_caption_fits_another_picture():
    generator = torch.Generator().manual_seed(0)
    images, texts = F.normalize(torch.randn(2, 6, 8, generator=generator), dim=-1)
    scale = torch.tensor(7.0)
    ours = clip.contrastive_loss(images, texts, scale, torch.eye(6, dtype=torch.bool))
    torch.testing.assert_close(ours, ClipLoss()(images, texts, scale))


def test_a_picture_that_a_caption_fits_is_not_held_against_it():
    generator = torch.Generator().manual_seed(0)
    images, texts = F.normalize(torch.randn(2, 4, 8, generator=generator), dim=-1)
    fits = torch.eye(4, dtype=torch.bool)
    fits[0, 2] = True
    scale = torch.tensor(5.0)
    logits = scale * texts @ images.T
    row = logits[0, [0, 1, 3]].log_softmax(0)[0]  # caption 0, without picture 2
    column = logits[[1, 2, 3], 2].log_softmax(0)[1]  # picture 2, without caption 0
    others = [logits[i].log_softmax(0)[i] for i in (1, 2, 3)]
    others += [logits[:, i].log_softmax(0)[i] for i in (0, 1, 3)]
    ours = clip.contrastive_loss(images, texts, scale, fits)
    torch.testing.assert_close(ours, -(row + column + sum(others)) / 8)


def test_changes_that_point_the_way_of_their_captions_cost_least():
    axes = torch.eye(8)
    images = torch.cat([axes[:1], axes[1:2], axes[:1], axes[2:3]])  # two pairs that begin alike
    texts = torch.cat([axes[4:5], axes[4:5] + axes[1:2], axes[5:6], axes[5:6] + axes[2:3]])
    own = torch.eye(2, dtype=torch.bool)
    right = clip.change_loss(images, texts, own)
    mistaken = clip.change_loss(images, texts[[2, 3, 0, 1]], own)
    assert right < 0.1 < mistaken
    assert clip.change_loss(images, texts, torch.ones(2, 2, dtype=torch.bool)) == 0, "none is held against it"


def test_pairs_that_change_alike_are_told():
    cat, owl = Scene("cat", "red", "farm"), Scene("owl", "red", "beach")
    pairs = []
    for scene, change in ((cat, "blue"), (owl, "blue"), (cat, "green")):
        pairs += [scene, edit(scene, colour=change)]
    backwards = [pairs[1], pairs[0]]
    same = clip.same_changes(pairs + backwards)
    assert same.tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]


def test_a_training_begins_with_the_model_that_it_is_given(tmp_path):
    model, tokenizer = clip.load(FOLDER)
    few = {"steps": 2, "batch": 8, "held_out": 4, "sets": ((8, 1, "wild"),)}
    pupil, log = clip.build(tmp_path, tokenizer, lr=0.0, start=FOLDER, **few)
    assert log[-1]["step"] == 1
    for name, weight in model.named_parameters():
        torch.testing.assert_close(pupil.get_parameter(name), weight)


def test_partial_retrieval_asks_for_what_the_caption_excludes_alone():
    cat = Scene("cat", "red", "beach", time="night")
    shown = [cat, edit(cat, colour="blue"), edit(cat, kind="dog")]
    captions = ["a cat", "a blue cat", "a dog"]  # the first one fits the second picture, too
    own = torch.eye(3)
    found = clip.partial_retrieval(own, own, captions, shown)
    assert found == {"groups": 1, "text_to_image": 1, "excluded": pytest.approx(5 / 3)}
    texts = own.clone()
    texts[0] = torch.tensor([0.5, 1.0, 0.0])  # most like the second picture, which it fits
    assert clip.partial_retrieval(own, texts, captions, shown)["text_to_image"] == 1
    texts[0] = torch.tensor([0.5, 0.0, 1.0])  # most like the third one, which it excludes
    assert clip.partial_retrieval(own, texts, captions, shown)["text_to_image"] == pytest.approx(2 / 3)


def test_edits_are_told_by_their_captions():
    basis = torch.eye(8)
    before, after = (basis[:4], basis[:4]), (basis[4:], basis[4:])
    kinds = ["time", "time", "add", "time"]
    told = clip.edits_told(before, after, kinds)
    assert told["own_caption_preferred"] == 1 and told["direction"] == pytest.approx(1)
    assert told["direction_shuffled"] == pytest.approx(0) and told["edits"] == 4
    assert clip.edits_told(before, (basis[4:], basis[:4]), kinds)["own_caption_preferred"] == 0
    texts = basis[4:].clone()
    texts[2] = basis[3]  # of the one "add"
    by_kind = clip.edits_told(before, (basis[4:], texts), kinds)["by_kind"]
    assert list(by_kind) == ["time", "add"] and by_kind["time"]["edits"] == 3
    assert by_kind["time"]["own_caption_preferred"] == 1 and by_kind["time"]["direction"] == pytest.approx(1)
    assert by_kind["add"]["own_caption_preferred"] == 0 and by_kind["add"]["direction"] < 0.6


def test_thresholds_are_what_most_true_edits_reach():
    ramp = torch.linspace(0, 1, 101)
    thresholds = clip.thresholds_of(Similarities(ramp, ramp / 2, ramp, 0.5 + ramp / 2))
    assert thresholds == pytest.approx({"min_image": 0.6, "min_caption": 0.1, "min_direction": 0.2})


def test_thresholds_come_from_edits_as_the_filter_sees_them(tiny_clip, tiny_pipe, tmp_path, monkeypatch):
    asked = []

    def look(images_0, images_1, texts_0, texts_1):
        asked.append((images_0, images_1, list(zip(texts_0, texts_1, strict=True))))
        return Similarities(*[torch.linspace(0, 1, len(texts_0))] * 4)

    monkeypatch.setattr(clip, "ClipSimilarity", lambda folder: look)
    clip.calibrate(tiny_clip, tmp_path, tiny_pipe.vae, 22, size=32)
    edits = held_out_edits(22, seed=1)
    assert [edit.kind for edit in edits] == list(EDIT_KINDS) * 2
    ((images_0, images_1, captions),) = asked
    assert captions == caption_pairs(edits, seed=1)
    pictures = torch.from_numpy(draw([edit.after for edit in edits], 32))
    again = decode(tiny_pipe.vae, encode(tiny_pipe.vae, pictures))
    torch.testing.assert_close(images_1, again / 255)
    assert images_0.shape == images_1.shape


def test_what_is_measured_stands_on_the_card(tiny_clip, tiny_pipe, tmp_path):
    model, tokenizer = clip.load(tiny_clip)
    figures = clip.measure(model, tokenizer, tmp_path, tiny_pipe.vae, 6, 11)
    assert figures["edits"]["edits"] == 11 and list(figures["edits"]["by_kind"]) == list(EDIT_KINDS)
    assert figures["renders"]["groups"] == figures["partial"]["groups"] == 1
    thresholds = clip.calibrate(tiny_clip, tmp_path, tiny_pipe.vae, 11, size=32)
    card = clip.model_card(figures, thresholds, 7, [{"step": 50, "seconds": 60}], clip.SETS, "one core")
    direction = figures["edits"]["by_kind"]["count"]["direction"]
    assert f"% | {direction:.3f} |" in card and "| count | " in card
    image, caption, direction = (f"{value:.2f}" for value in thresholds.values())
    reached = f"image with image {image}, image with caption {caption}, direction {direction}."
    assert f"What 80% of them reach: {reached}" in " ".join(card.split())


def test_figures_of_the_card():
    assert names(clip.SETS) == "12,000 of the mix 'wild' and 4,000 of the mix 'even'"
    log = [{"step": 50 * i, "seconds": s} for i, s in ((1, 50), (2, 100), (3, 20), (4, 70))]  # saved once
    assert minutes(log) == pytest.approx(200 / 60)


def test_stock_open_clip_loads_it(bundled):
    model, preprocess, tokenizer = bundled
    assert type(model) is CLIP
    ids = tokenizer(["two red cats on a beach", "Night!"])
    assert ids.shape == (2, 40)
    torch.testing.assert_close(ids, tokenise(clip.load(FOLDER)[1], ["two red cats on a beach", "Night!"]))
    picture = render(random_scene(1))
    assert preprocess(picture).min() >= -1 and preprocess(picture.resize((200, 100))).shape == (3, 128, 128)
    assert sum(f.stat().st_size for f in FOLDER.iterdir()) < 8e6


def test_stock_open_clip_knows_it_by_name(bundled, monkeypatch):
    monkeypatch.chdir(ROOT)
    open_clip.add_model_config(FOLDER)
    weights = str(FOLDER / "open_clip_model.safetensors")
    model, _, preprocess = open_clip.create_model_and_transforms(
        "mini-clip", pretrained=weights, image_mean=(0.5,) * 3, image_std=(0.5,) * 3
    )
    for a, b in zip(model.parameters(), bundled[0].parameters(), strict=True):
        assert torch.equal(a, b)
    picture, text = render(random_scene(1)), ["a red cat on a farm"]
    assert torch.equal(preprocess(picture), bundled[1](picture))
    assert torch.equal(open_clip.get_tokenizer("mini-clip")(text), bundled[2](text))


def test_the_config_is_the_one_that_is_trained(bundled):
    written = json.loads((FOLDER / "open_clip_config.json").read_text())["model_cfg"]
    assert written == clip.model_config(bundled[2].tokenizer)


@torch.no_grad()
def test_the_bundled_one_finds_held_out_scenes(bundled, scenes):
    model, preprocess, tokenizer = bundled
    pictures = torch.stack([preprocess(render(scene)) for scene in scenes])
    texts = tokenizer(clip.full_captions(scenes))
    images, words = model.encode_image(pictures, normalize=True), model.encode_text(texts, normalize=True)
    found = clip.retrieval(images, words, scenes)
    assert found["image_to_text"] > 0.85 and found["text_to_image"] > 0.85
    captions = clip.partial_captions(scenes)
    partial = model.encode_text(tokenizer(captions), normalize=True)
    assert clip.partial_retrieval(images, partial, captions, scenes)["text_to_image"] > 0.5
    few = model.encode_image(pictures[:4], normalize=True)
    torch.testing.assert_close(few, images[:4], atol=1e-5, rtol=0)
