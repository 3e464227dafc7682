"""`ip2p models build`: every part is made, in sizes that take seconds; a build that was stopped goes on."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from ip2p.common.train_loop import train_loop
from ip2p.dataset.shards import read_pairs
from ip2p.editing import load_editor
from ip2p.miniworld.judging import Judge, judge, load_judge
from ip2p.models import text_to_image
from ip2p.models.build import PARTS, build, forecast
from ip2p.models.clip import model_config, preprocess_config
from ip2p.models.files import CORES, filling, save_half
from ip2p.profiles import MINI, load_edit_pipeline

SETS = ((8, 1, "wild"), (6, 3, "even"))
TINY = {
    "encoder": {"steps": 1, "batch": 2, "perceptual_steps": 1, "shown": 1, "sets": SETS},
    "decoder": {"steps": 1, "batch": 2, "perceptual_steps": 1, "shown": 1, "sets": SETS},
    "text-encoder": {"steps": 2, "batch": 2, "texts": 200, "vocab_size": 600, "held_out": 4},
    "mini-sd": {"steps": 2, "batch": 2, "renders": 8, "shown": 2},
    "mini-clip": {"steps": 2, "batch": 8, "sets": SETS, "held_out": 8},
    "mini-judge": {"steps": 2, "batch": 8, "sets": SETS, "held_out": 8},
    "triplets": {"n": 2},
    "pairs": {"candidates": 1, "per_seed": 1},
    "mini-ip2p": {"steps": 2, "batch": 2},
    "fast": {"edits": 2, "teacher_steps": 1, "steps": 1, "batch": 2},
}
# Everything passes the filter: what is painted after two steps of training looks like nothing.
HASTY = replace(MINI, pair_steps=1, steps=1, min_image=-1.0, min_caption=-1.0, min_direction=-1.0)
TRIPLETS = [
    {"input": "a red cat on a farm", "edit": "make it blue", "output": "a blue cat on a farm"},
    {"input": "a red dog on a beach", "edit": "make it night", "output": "a red dog on a beach at night"},
]


def times(folder) -> dict:
    """When each of the files of a build was written, but for those of its work."""
    files = [path for path in folder.rglob("*") if path.is_file() and "work" not in path.parts]
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A build whose painter was trained before the decoder, that was stopped before mini-sd was written, and
    then went on."""
    out = tmp_path_factory.mktemp("build") / "models"
    written = out.parent / "triplets" / "generated.jsonl"  # as the language model would have left it
    written.parent.mkdir()
    written.write_text("".join(json.dumps(row) + "\n" for row in TRIPLETS))
    (out / "mini-sd" / "unet").mkdir(parents=True)
    (out / "mini-sd" / "unet" / "notes.txt").write_text("mine")

    with pytest.raises(ValueError, match="mini-sd waits for its decoder"):
        build(out, ["encoder", "text-encoder", "mini-sd"], device="cpu", profile=HASTY, settings=TINY)
    assert not (out / "mini-sd" / "vae").exists() and not (out / "mini-sd" / "model_index.json").exists()

    def stop(*args):
        raise KeyboardInterrupt

    steps = []

    def counted(loss_fn, *args, **options):
        def count(model, generator, step):
            steps.append(step)
            return loss_fn(model, generator, step)

        return train_loop(count, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_to_image, "train_loop", counted)
        patch.setattr(text_to_image, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            build(out, device="cpu", profile=HASTY, settings=TINY)
    before = times(out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_to_image, "train_loop", counted)
        build(out, device="cpu", profile=HASTY, settings=TINY)
    return out, before, steps


def test_every_part_is_made_and_loads(built):
    out, _, _ = built
    pipe = load_edit_pipeline(str(out / "mini-ip2p"))
    assert pipe.unet.config.in_channels == 32, "a latent's 16 channels, twice"
    assert pipe.scheduler.config.prediction_type == "v_prediction" and pipe.vae.config.sample_size == 128
    assert load_editor(str(out / "mini-ip2p"), fast=True).fast.steps == 3
    model = load_judge(out / "mini-judge")
    assert len(judge(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), model)) == 2
    pairs = read_pairs(out.parent / "pairs")
    assert len(pairs) == 2 and pairs[0]["original_image"].size == (128, 128)
    for name in ("mini-sd", "mini-clip", "mini-judge", "mini-ip2p"):
        card = (out / name / "README.md").read_text(encoding="utf-8")
        assert "2 steps" in card and "{" not in card
    with Image.open(out / "mini-sd" / "reconstructions.jpg") as sheet:
        assert sheet.size == (8 * 130 * 3, 6 * 130 * 3), "24 renders and what comes back, three times as wide"


def test_a_stopped_build_goes_on(built):
    out, before, steps = built
    assert steps == []  # the UNet had learned all, and was read from its checkpoint
    vae = out / "mini-sd" / "vae" / "config.json"
    for path in before:  # made, and not made again: only what mini-sd rounds to fp16 is written anew
        assert path.exists()
    assert vae in before and times(out)[vae] >= before[vae]
    after = times(out)
    build(
        out, only=["encoder", "decoder", "mini-sd", "mini-clip"], device="cpu", profile=HASTY, settings=TINY
    )
    assert times(out) == after


def test_trainings_in_mixed_precision(built, tmp_path):
    exact = built[0]
    out = tmp_path / "models"
    shutil.copytree(exact / "mini-sd", out / "mini-sd", ignore=shutil.ignore_patterns("model_index.json"))
    parts = ["mini-sd", "mini-clip", "mini-judge"]
    build(out, parts, "cpu", dtype="bfloat16", profile=HASTY, settings=TINY)
    for name in ("mini-sd", "clip", "judge"):
        losses = [first_loss(folder / "work" / name) for folder in (exact, out)]
        assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.05)


def first_loss(folder) -> float:
    return json.loads((folder / "log.jsonl").read_text().splitlines()[0])["loss"]


def test_what_others_put_beside_a_model_stays(built):
    out, _, _ = built
    assert (out / "mini-sd" / "unet" / "notes.txt").read_text() == "mine"


def test_nothing_is_moved_if_writing_fails(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.txt").write_text("old")
    with pytest.raises(OSError, match="full"), filling(tmp_path / "model", last="b.txt") as tmp:
        (tmp / "a.txt").write_text("new")
        raise OSError("the disk is full")
    assert (tmp_path / "model" / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_weights_that_ship_are_fp16_and_load_as_float32(tiny_pipe, tmp_path):
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import load_file

    save_half(tiny_pipe, tmp_path / "pipe")
    weights = load_file(tmp_path / "pipe" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {x.dtype for x in weights.values()} == {torch.float16}
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "pipe")
    assert pipe.text_encoder.dtype == pipe.unet.dtype == torch.float32


def test_the_forecast_names_what_is_left():
    assert "mini-sd 11.0" in forecast(list(PARTS)) and "mini-sd" not in forecast(["mini-clip"])
    assert forecast([]) == "everything is there already"


def test_mini_sds_card_tells_how_it_was_made(built):
    card = (built[0] / "mini-sd" / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"2 steps of 2 pictures in float32, about \d+ minutes on {CORES}. Velocity", card)
    assert "128 px, 16x16 latents" in card and "f = 8, 16 channels" in card
    assert "8 renders at 128 px" in card and "guidance_scale=1.5" in card
    assert "count 5 times" in card and "10% empty" in card
    assert "Made by `ip2p models build`" in card


def test_mini_ip2ps_card_tells_how_it_was_made(built):
    card = (built[0] / "mini-ip2p" / "README.md").read_text(encoding="utf-8")
    assert "2 pairs of 2 captions" in card and "widened by 16 channels" in card
    assert re.search(rf"2 steps of 2 pictures in float32, about \d+ minutes on {CORES}. Velocity", card)
    assert "guidance_scale=4.0, image_guidance_scale=1.5" in card and "learning rate 0.001" in card
    assert "Made by `ip2p models build --only pairs mini-ip2p fast`" in card
    log = (built[0] / "mini-ip2p" / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(log[-1])["hardware"] == CORES


def test_an_unknown_part_or_device_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no part 'mini-gpt'"):
        build(tmp_path, only=["mini-gpt"])
    with pytest.raises(ValueError, match="no device 'abacus'"):
        build(tmp_path, device="abacus")


def test_models_of_larger_pictures(tmp_path):
    """Each size is a parameter."""
    model = Judge(size=128).eval()
    assert len(judge(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), model)) == 1
    assert Judge(**{k: v for k, v in model.config.items() if k != "attributes"}).size == 128
    unet = text_to_image.new_unet(side=32, channels=8)
    assert unet.config.sample_size == 32 and unet.config.in_channels == 8
    assert preprocess_config(128)["size"] == 128

    class Tokenizer:
        eos_token_id = 1

        def __len__(self):
            return 10

    assert model_config(Tokenizer(), 128)["vision_cfg"]["image_size"] == 128
