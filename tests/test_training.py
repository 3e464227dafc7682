"""Stage 4 on a tiny seeded Stable Diffusion."""

import copy
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from kills import results, survive
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from ip2p.common.diffusion import add_noise, embed, from_x0
from ip2p.common.images import as_tensor
from ip2p.common.optimisers import orthogonal
from ip2p.common.train_loop import train_loop
from ip2p.dataset.lessons import SIDES, Cache, paired_augmentation, posteriors
from ip2p.dataset.shards import IMAGES
from ip2p.editing import load_editor
from ip2p.models.text_to_image import new_unet
from ip2p.profiles import get_profile, load_edit_pipeline
from ip2p.study.validation import hold_out, validation
from ip2p.training import (
    Draws,
    cache_latents,
    conditioning_dropout,
    edit_loss,
    new_editor,
    train,
    widen_input,
)


def test_step_0_equals_the_base_model_for_any_conditioning_image(tiny_pipe):
    base = copy.deepcopy(tiny_pipe.unet)
    torch.nn.init.normal_(base.conv_in.bias)  # a rebuilt convolution that forgets its bias must fail here
    wide = widen_input(copy.deepcopy(base))
    z, text = torch.randn(3, 4, 8, 8), torch.randn(3, 7, 16)
    for image in (torch.zeros(3, 4, 8, 8), torch.randn(3, 4, 8, 8) * 50):
        assert_close(wide(torch.cat([z, image], 1), 7, text).sample, base(z, 7, text).sample)
    assert wide.config.in_channels == 8


def test_the_input_grows_by_a_latents_channels():
    wide = widen_input(new_unet(side=8, channels=16))
    assert wide.config.in_channels == wide.conv_in.in_channels == 32
    assert wide.conv_in.weight[:, 16:].abs().max() == 0 and wide.conv_in.weight[:, :16].abs().min() > 0


def test_dropout_rates():
    drop_text, drop_image = conditioning_dropout(200_000, torch.Generator().manual_seed(0))
    rates = [(drop_text & ~drop_image), (~drop_text & drop_image), (drop_text & drop_image)]
    for rate in rates:
        assert abs(rate.float().mean().item() - 0.05) < 0.002


def test_conditioning_latents_are_unscaled_modes_and_targets_scaled(tiny_pipe):
    picture = Image.effect_noise((32, 32), 90).convert("RGB")
    source, target = cache_latents(tiny_pipe, [{"original_image": picture, "edited_image": picture}])
    assert_close(source * 0.18215, target)


def test_the_cache_holds_what_the_encoders_say_and_goes_on_where_it_was_stopped(
    tiny_pipe, tmp_path, monkeypatch
):
    monkeypatch.setattr(Cache, "ROWS", 3)
    rows = lessons()
    cache = Cache(tiny_pipe, rows, tmp_path, 32)
    source, mean, std, text = cache.take([4, 1, 4], [False, True, True])
    mirrored = rows[4] | {
        name: rows[4][name].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for name in ("original_image", "edited_image")
    }
    for k, row in ((0, rows[4]), (2, mirrored)):
        modes = cache_latents(tiny_pipe, [row])
        assert_close(source[k], modes[0][0])
        assert_close(mean[k] * 0.18215, modes[1][0])
    assert std.shape == mean.shape and std.min() > 0
    assert_close(text, embed(tiny_pipe, [rows[k]["edit_prompt"] for k in (4, 1, 4)]))

    last = tmp_path / "00000006.safetensors"
    saved = last.read_bytes()
    last.unlink()
    asked = []
    monkeypatch.setattr(
        "ip2p.dataset.lessons.posteriors", lambda pipe, x: asked.append(len(x)) or posteriors(pipe, x)
    )
    Cache(tiny_pipe, rows, tmp_path, 32)
    assert last.read_bytes() == saved and asked == [4, 4]  # two lessons, mirrored too, before and after


def scheduler_of(kind: str) -> DDPMScheduler:
    return DDPMScheduler(prediction_type=kind)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_target_is_the_edited_image(tiny_pipe, kind):
    """A perfect prediction of the edited latent's noise or velocity has zero loss, whatever the source."""
    unet = widen_input(copy.deepcopy(tiny_pipe.unet))
    scheduler = scheduler_of(kind)
    seen = {}

    class Oracle(torch.nn.Module):
        def forward(self, x, t, text):
            seen["x"] = x
            said = []
            for z_t, z0, a in zip(x[:, :4], target, scheduler.alphas_cumprod[t].tolist(), strict=True):
                said.append(from_x0(z0, z_t, a, kind))
            return type("Out", (), {"sample": torch.stack(said)})

    target, source = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8)
    text = torch.randn(4, 7, 16)
    loss = edit_loss(
        Oracle(), scheduler, source, target, text, torch.zeros(1, 7, 16), torch.Generator().manual_seed(0)
    )
    assert loss < 1e-9 and seen["x"].shape[1] == unet.config.in_channels


@pytest.mark.parametrize("gamma", [5.0, math.inf])
def test_the_loss_of_a_model_of_noise_is_to_the_bit_what_it_was(tiny_pipe, gamma):
    """By hand, as it was before velocities were taught."""
    unet = widen_input(copy.deepcopy(tiny_pipe.unet))
    scheduler = scheduler_of("epsilon")
    alpha_bar = scheduler.alphas_cumprod.float()
    generator = torch.Generator().manual_seed(3)
    target, source = (torch.randn(4, 4, 8, 8, generator=generator) for _ in range(2))
    text, empty = torch.randn(4, 7, 16, generator=generator), torch.zeros(1, 7, 16)
    draws = Draws.sample(target.shape, torch.Generator().manual_seed(0), dropout=0.25)
    with torch.no_grad():
        loss = edit_loss(unet, scheduler, source, target, text, empty, draws, gamma)
        assert draws.drop_text.any() and draws.drop_image.any()
        words = torch.where(draws.drop_text[:, None, None], empty, text)
        image = torch.where(draws.drop_image[:, None, None, None], torch.zeros_like(source), source)
        a = alpha_bar[draws.t]
        z_t = add_noise(target, draws.noise, a)
        eps = unet(torch.cat([z_t, image], 1), draws.t, words).sample
        snr = a / (1 - a)
        error = (eps - draws.noise).square().mean((1, 2, 3))
        assert torch.equal(loss, (error * snr.clamp(max=gamma) / snr).mean())


@pytest.mark.parametrize("muon", [False, True])
def test_resumed_training_equals_undisturbed(tmp_path, muon):
    def run(work, stop_after=None):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 4)

        def loss(m, generator, step):
            x = torch.randn(8, 4, generator=generator)
            return (m(x) - x).square().mean()

        train_loop(loss, model, work, steps=20, lr=1e-2, ema_decay=0.9, stop_after=stop_after, muon=muon)
        return model

    whole = run(tmp_path / "a")
    run(tmp_path / "b", stop_after=7)
    again = run(tmp_path / "b")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_a_row_of_the_log_means_over_its_steps_though_a_kill_fell_among_them(tmp_path):
    def run(work, killed_at=None):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 4)

        def loss(m, generator, step):
            if step == killed_at:
                raise KeyboardInterrupt
            return m(torch.randn(8, 4, generator=generator)).square().mean()

        return train_loop(loss, model, work, steps=120, lr=1e-2, save_minutes=0)  # a row every three steps

    log = run(tmp_path / "whole")
    for step in (4, 8, 9):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", killed_at=step)
    again = run(tmp_path / "killed")
    assert [(row["step"], row["loss"]) for row in again] == [(row["step"], row["loss"]) for row in log]


def toy_run(work, stop_after=None):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4)

    def loss(m, generator, step):
        return m(torch.randn(8, 4, generator=generator)).square().mean()

    train_loop(loss, model, work, steps=20, lr=1e-2, stop_after=stop_after)
    return model.weight


def test_a_broken_checkpoint_gives_way_to_the_one_before(tmp_path):
    whole = toy_run(tmp_path / "a")
    toy_run(tmp_path / "b", 7)
    toy_run(tmp_path / "b", 9)
    newest = tmp_path / "b" / "checkpoint-00000009.safetensors"
    newest.write_bytes(newest.read_bytes()[:-50])
    with pytest.warns(UserWarning, match="checkpoint-00000009.safetensors is broken"):
        again = toy_run(tmp_path / "b")
    assert torch.equal(whole, again)
    assert (tmp_path / "b" / "checkpoint-00000009.safetensors.broken").exists()
    for path in (tmp_path / "b").glob("checkpoint-*.safetensors"):
        path.write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no checkpoint in .*b can be read"):
        toy_run(tmp_path / "b")


def test_muons_update_is_orthogonal():
    for shape in ((8, 24), (24, 8), (8, 8)):
        singular = torch.linalg.svdvals(
            orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        )
        assert 0.5 < singular.min() and singular.max() < 1.3


def test_a_nan_loss_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="NaN"):
        train_loop(
            lambda m, g, s: m(torch.full((1, 2), float("nan"))).sum(),
            torch.nn.Linear(2, 1),
            tmp_path,
            steps=60,
            lr=1,
        )


# ----------------------------------------------------------------------------------- train(), on a tiny model


def lessons() -> list[dict]:
    """Eight pairs, always the same."""
    made = [
        Image.frombytes("L", (32, 32), bytes((x * (k + 3) * 7) % 251 for x in range(1024))).convert("RGB")
        for k in range(16)
    ]
    return [
        {
            "original_prompt": f"a cat {k // 2}",
            "original_image": a,
            "edit_prompt": f"make it {k}",
            "edited_prompt": "a dog",
            "edited_image": b,
        }
        for k, (a, b) in enumerate(zip(made[::2], made[1::2], strict=True))
    ]


@pytest.fixture(scope="module")
def tiny(tiny_pipe, tmp_path_factory):
    """(profile, lessons): a saved tiny painter, and eight pairs."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_pipe.save_pretrained(folder)
    profile = get_profile(
        "mini", text_to_image=str(folder), resolution=32, train_batch=8, train_steps=6, muon=False
    )
    return profile, lessons()


def weights(folder):
    return load_edit_pipeline(str(folder)).unet.state_dict()


def moved_alike(a, b, profile) -> bool:
    """Two runs went the same way from the start; AdamW turns the rounding of a zero gradient into a whole
    step, so single weights may differ."""
    start = new_editor(profile).unet.state_dict()
    apart, way = (
        sum((x[name] - y[name]).float().square().sum() for name in start) for x, y in ((a, b), (a, start))
    )
    return way > 0 and apart < 0.05**2 * way


SCRIPT = """
import sys
import torch
from ip2p.profiles import get_profile
from ip2p.training import train
from test_training import lessons

torch.set_num_threads(1)
model, out, batch = sys.argv[1:]
profile = get_profile("mini", text_to_image=model, resolution=32, muon=False)
train(lessons(), out, profile, steps=40, batch=int(batch), lr=1e-3, save_minutes=0)
"""


def script(folder, *arguments, launch=()):
    path = folder / "train.py"
    path.write_text(SCRIPT)
    here = Path(__file__).parent  # where SCRIPT finds the lessons
    paths = {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    return subprocess.Popen(
        [*(launch or [sys.executable]), str(path), *map(str, arguments)],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | paths,
    )


def test_killed_at_any_moment_and_run_again_gives_the_same_bits(tiny, tmp_path):
    model = tiny[0].text_to_image
    whole = script(tmp_path, model, tmp_path / "whole", 4)
    log = tmp_path / "killed" / "work" / "log.jsonl"
    for wait in (3, 7):  # kill it soon after it began to save, and again
        job = script(tmp_path, model, tmp_path / "killed", 4)
        until = time.monotonic() + 600
        while time.monotonic() < until and not (log.exists() and log.read_text().count("\n") > wait):
            time.sleep(0.01)
        os.killpg(job.pid, signal.SIGKILL)
        job.communicate()
        assert not (tmp_path / "killed" / "unet").exists(), "it was too fast to be killed"
    for job in (script(tmp_path, model, tmp_path / "killed", 4), whole):
        assert job.wait(600) == 0, job.stderr.read()
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(a[name], b[name]) for name in a)
    rows = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert rows == list(range(1, 41)), "a step was logged twice or not at all"


def a_training(model: str):
    """Eight steps, each with a checkpoint; for `survive`."""
    profile = get_profile("mini", text_to_image=model, resolution=32, muon=False)

    def job(folder: Path) -> None:
        train(lessons(), folder, profile, steps=8, batch=4, lr=1e-3, save_minutes=0)

    return job


@pytest.mark.soak
def test_50_kills_of_a_training_change_no_weight_and_no_row_of_its_log(tiny, tmp_path):
    survive(tmp_path, a_training, kills=50, model=tiny[0].text_to_image)
    undisturbed, killed = results(tmp_path)
    for folder in killed:
        a, b = weights(undisturbed), weights(folder)
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert steps_and_losses(folder / "work") == steps_and_losses(undisturbed / "work")
        assert not list(folder.rglob("*.ip2p-tmp")), "nothing unfinished is left"


def steps_and_losses(work: Path) -> list[tuple]:
    rows = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def a_loop():
    """What every part of `ip2p models build` learns by, with averages and Muon; for `survive`."""

    def job(folder: Path) -> None:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))

        def loss(m, generator, step):
            return m(torch.randn(8, 64, generator=generator)).square().mean()

        options = {"ema_decay": 0.9, "muon": True, "save_minutes": 0}
        train_loop(loss, model, folder, steps=100, lr=1e-2, **options)
        torch.save(model.state_dict(), folder / "model.pt")

    return job


@pytest.mark.soak
def test_50_kills_of_the_loop_that_trains_every_model_change_no_weight(tmp_path):
    survive(tmp_path, a_loop, kills=50)
    undisturbed, killed = results(tmp_path)
    wanted = torch.load(undisturbed / "model.pt")
    for folder in killed:
        model = torch.load(folder / "model.pt")
        assert all(torch.equal(wanted[name], model[name]) for name in wanted)
        assert steps_and_losses(folder) == steps_and_losses(undisturbed)


def test_two_processes_learn_what_one_learns(tiny, tmp_path):
    """`accelerate launch` with two CPU processes and the same global batch: the same losses."""
    launch = [
        str(Path(sys.executable).with_name("accelerate")),
        "launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
        "--num_cpu_threads_per_process",
        "1",
    ]
    jobs = {
        "one": script(tmp_path, tiny[0].text_to_image, tmp_path / "one", 4),
        "two": script(tmp_path, tiny[0].text_to_image, tmp_path / "two", 4, launch=launch),
    }
    losses = {}
    for name, job in jobs.items():
        assert job.wait(600) == 0, job.stderr.read()
        losses[name] = [
            json.loads(line)["loss"]
            for line in (tmp_path / name / "work" / "log.jsonl").read_text().splitlines()
        ]
    assert len(losses["one"]) == 40
    assert_close(torch.tensor(losses["two"]), torch.tensor(losses["one"]), atol=1e-4, rtol=1e-4)
    assert moved_alike(weights(tmp_path / "one"), weights(tmp_path / "two"), tiny[0])


@pytest.mark.parametrize("muon", [False, True])
def test_a_batch_in_parts_and_checkpointing_change_nothing_but_memory(tiny, tmp_path, muon):
    profile, rows = get_profile(tiny[0], muon=muon), tiny[1]
    whole, log = train(rows, tmp_path / "a", profile, lr=1e-3)
    parts, log_parts = train(rows, tmp_path / "b", profile, lr=1e-3, accumulate=4, checkpointing=True)
    assert moved_alike(whole.unet.state_dict(), parts.unet.state_dict(), profile)
    assert_close(
        torch.tensor([r["loss"] for r in log]),
        torch.tensor([r["loss"] for r in log_parts]),
        atol=1e-4,
        rtol=1e-4,
    )
    with pytest.raises(ValueError, match="another run, with other lr"):
        train(rows, tmp_path / "a", profile, lr=2e-3)
    with pytest.raises(ValueError, match="no device 'xpu'"):
        train(rows, tmp_path / "c", profile, device="xpu")
    with pytest.raises(ValueError, match="3 equal parts"):
        train(rows, tmp_path / "c", profile, accumulate=3)


def with_first_picture(colour: str) -> list[dict]:
    """The lessons, with another first picture."""
    rows = lessons()
    rows[0]["edited_image"] = Image.new("RGB", (32, 32), colour)
    return rows


def test_a_run_that_failed_before_its_first_checkpoint_binds_nobody(tiny, tmp_path, monkeypatch):
    """The corrected command works, and learns from its own pictures, not from what was encoded before."""
    profile, out = tiny[0], tmp_path / "out"
    with pytest.raises(ValueError, match="nowhere"):
        train(with_first_picture("red"), out, profile, lr=1e-3, start=str(tmp_path / "nowhere"))
    with monkeypatch.context() as broken:
        broken.setattr("ip2p.training.train_loop", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(with_first_picture("red"), out, profile, lr=2e-3)
    assert (out / "work" / "cache" / "00000000.safetensors").exists()
    leftover = out / "work" / "cache" / ".00000000.safetensors.0123456789ab.ip2p-tmp"
    half = out / "work" / ".checkpoint-00000001.safetensors.0123456789ab.ip2p-tmp"
    mine = out / "work" / ".mine.ip2p-tmp"
    for path in (leftover, half, mine):
        path.write_bytes(b"half")
    train(with_first_picture("green"), out, profile, lr=1e-3)
    train(with_first_picture("green"), tmp_path / "other", profile, lr=1e-3)
    a, b = weights(out), weights(tmp_path / "other")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert mine.exists() and not leftover.exists() and not half.exists()


def test_mended_pictures_and_another_resolution_or_start_make_another_run(tiny, tmp_path):
    profile, rows = tiny
    train(rows, tmp_path / "a", profile, steps=1, lr=1e-3)
    with pytest.raises(ValueError, match="another run, with other pairs; choose"):
        train(with_first_picture("red"), tmp_path / "a", profile, steps=1, lr=1e-3)
    with pytest.raises(ValueError, match="another run, with other resolution; choose"):
        train(rows, tmp_path / "a", get_profile(profile, resolution=16), steps=1, lr=1e-3)
    with pytest.raises(ValueError, match="another run, with other start; choose"):
        train(rows, tmp_path / "a", profile, steps=1, lr=1e-3, start=str(tmp_path / "a"))


def test_broken_settings_are_named(tiny, tmp_path):
    profile, rows = tiny
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "settings.json").write_text("")
    with pytest.raises(ValueError, match="work/settings.json is broken, no JSON; delete it"):
        train(rows, tmp_path, profile, steps=1, lr=1e-3)


def painted_by(kind: str, profile, folder) -> str:
    """The folder of an editor to start from whose model predicts that."""
    pipe = new_editor(profile)
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
    pipe.save_pretrained(folder)
    return str(folder)


def test_a_base_that_predicts_neither_noise_nor_velocity_is_refused(tiny, tmp_path):
    profile, rows = tiny
    start = painted_by("sample", profile, tmp_path / "sample")
    with pytest.raises(ValueError, match="predicts sample; only noise or velocity can be taught"):
        train(rows, tmp_path / "out", profile, steps=1, lr=1e-3, start=start)


def test_an_editor_learns_what_its_base_predicts(tiny, tmp_path):
    """The same weights on the same lessons: what is asked of them differs, and either is learned."""
    profile, rows = tiny
    losses = {}
    for kind in ("epsilon", "v_prediction"):
        start = painted_by(kind, profile, tmp_path / kind)
        pipe, log = train(rows, tmp_path / f"from {kind}", profile, steps=30, lr=1e-2, start=start)
        assert pipe.scheduler.config.prediction_type == kind
        losses[kind] = [row["loss"] for row in log]
        assert np.mean(losses[kind][-5:]) < 0.9 * np.mean(losses[kind][:5]), kind
    assert losses["epsilon"][0] != losses["v_prediction"][0]


@pytest.mark.parametrize("augment", [False, True])
def test_pictures_of_another_shape_are_cropped_and_never_squashed(tiny, tmp_path, augment):
    profile, rows = tiny
    framed = []
    for row in rows:
        wide = {}
        for name in IMAGES:
            wide[name] = Image.new("RGB", (64, 32), "red")
            wide[name].paste(row[name], (16, 0))
        framed.append(row | wide)
    options = {"profile": profile, "steps": 2, "lr": 1e-3, "augment": augment}
    train(rows, tmp_path / "a", **options)
    train(framed, tmp_path / "b", **options)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a)
    framed[5]["edited_image"] = rows[5]["edited_image"]
    with pytest.raises(ValueError, match="'make it 5' .*differ in size, 64 x 32 and 32 x 32"):
        train(framed, tmp_path / "c", **options | {"steps": 20})


def test_two_trainings_in_one_folder_do_not_meet(tiny, tmp_path):
    profile, rows = tiny
    refused = []

    def second(pipe, step):
        with pytest.raises(ValueError, match="another job is training in .*; wait for it, or choose") as no:
            train(rows, tmp_path, profile, steps=1, lr=1e-3)
        refused.append(no)

    train(rows, tmp_path, profile, steps=1, lr=1e-3, sample=second)
    assert len(refused) == 1


def test_mixed_precision_learns_nearly_the_same_and_is_saved_whole(tiny, tmp_path):
    profile, rows = tiny
    _, full = train(rows, tmp_path / "a", profile, lr=1e-3, tensorboard=True)
    pipe, half = train(rows, tmp_path / "b", profile, lr=1e-3, dtype="bfloat16")
    assert full != half and abs(full[0]["loss"] - half[0]["loss"]) < 0.02
    x, text = torch.randn(1, 8, 8, 8), torch.randn(1, 7, 16)
    assert_close(
        pipe.unet(x, 5, text).sample, load_edit_pipeline(str(tmp_path / "b")).unet(x, 5, text).sample
    )
    assert list((tmp_path / "a" / "tensorboard").glob("events.*"))


def test_eight_bit_moments_learn_nearly_the_same_and_a_killed_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(sys.prefix) / "extra")  # where `make` puts it
    if not os.environ.get("CI"):
        pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install bitsandbytes")

    def run(work, eight_bit, stop_after=None):
        torch.manual_seed(0)
        model = torch.nn.Linear(96, 96)  # from 4,096 weights on they are held in 8 bits

        def loss(m, generator, step):
            x = torch.randn(8, 96, generator=generator)
            return (m(x) - x).square().mean()

        log = train_loop(
            loss, model, work, steps=20, lr=1e-2, eight_bit=eight_bit, stop_after=stop_after, keep=1
        )
        return model, log

    plain, log = run(tmp_path / "a", False)
    whole, log_8 = run(tmp_path / "b", True)
    assert log_8 != log and abs(log[-1]["loss"] - log_8[-1]["loss"]) < 0.1 * log[0]["loss"]
    run(tmp_path / "c", True, stop_after=9)
    again, _ = run(tmp_path / "c", True)
    assert torch.equal(whole.weight, again.weight)
    sizes = [next((tmp_path / name).glob("*.safetensors")).stat().st_size for name in "ab"]
    assert sizes[1] < 0.6 * sizes[0]


def test_only_the_last_checkpoints_are_kept_and_any_tool_reads_them(tiny, tmp_path):
    train(tiny[1], tmp_path, tiny[0], steps=6, lr=1e-3, save_minutes=0, keep=3)
    paths = sorted((tmp_path / "work").glob("checkpoint-*"))
    assert [p.name for p in paths] == [f"checkpoint-{step:08}.safetensors" for step in (4, 5, 6)]
    tensors = load_file(paths[-1])
    assert {"model.conv_in.weight", "ema.conv_in.weight", "optimiser.0.0.exp_avg"} <= tensors.keys()


def test_without_dropout_nothing_is_left_out(tiny, tmp_path):
    """Only the dropped lessons differ: at a rate of 1/3 each, none is told everything."""
    full, none = (
        train(tiny[1], tmp_path / str(rate), tiny[0], steps=1, lr=1e-3, dropout=rate)[1]
        for rate in (1 / 3, 0.0)
    )
    assert full[0]["loss"] != none[0]["loss"]
    drop_text, drop_image = conditioning_dropout(1000, torch.Generator().manual_seed(0), 0.0)
    assert not drop_text.any() and not drop_image.any()


def test_a_folder_saved_by_the_stock_pipeline_can_be_edited_with_and_trained_on(tiny, tmp_path):
    stock = new_editor(tiny[0])
    torch.nn.init.normal_(stock.unet.conv_in.weight, std=0.1)  # an 8-channel editor of somebody else's
    stock.save_pretrained(tmp_path / "stock")
    image = tiny[1][0]["original_image"]
    theirs = stock(
        "make it 1",
        image=image,
        num_inference_steps=3,
        guidance_scale=2.0,
        image_guidance_scale=1.2,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images[0]
    ours = load_editor(str(tmp_path / "stock"), profile="mini")(
        image,
        "make it 1",
        num_inference_steps=3,
        guidance_scale=2.0,
        image_guidance_scale=1.2,
        seed=0,
        scheduler=type(stock.scheduler).__name__,
    )
    assert np.abs(np.asarray(ours) / 255 - theirs).max() <= 1 / 255
    pipe, _ = train(tiny[1], tmp_path / "on", tiny[0], steps=1, lr=1e-4, start=tmp_path / "stock")
    assert_close(pipe.unet.conv_in.weight, stock.unet.conv_in.weight, atol=1e-3, rtol=0)


def test_our_pairs_feed_a_loop_with_the_stock_scripts_columns(tiny_pipe, tmp_path):
    """Written after diffusers' train_instruct_pix2pix.py: its column options, its preparation, its loss."""
    from datasets import load_dataset

    from ip2p.common.images import encode_image
    from ip2p.dataset.shards import write_shard

    rows = [
        {
            **r,
            "seed": k,
            "original_image": encode_image(as_tensor([r["original_image"]])[0]),
            "edited_image": encode_image(as_tensor([r["edited_image"]])[0]),
        }
        for k, r in enumerate(lessons())
    ]
    write_shard(tmp_path / "pairs-00000.parquet", rows)
    data = load_dataset(
        "parquet", data_files=str(tmp_path / "*.parquet"), split="train", cache_dir=str(tmp_path)
    )
    column = {
        "original_image_column": "original_image",
        "edit_prompt_column": "edit_prompt",
        "edited_image_column": "edited_image",
    }
    unet, vae = widen_input(copy.deepcopy(tiny_pipe.unet)).train(), tiny_pipe.vae
    noise_scheduler = DDPMScheduler.from_config(tiny_pipe.scheduler.config)
    optimizer, losses = torch.optim.AdamW(unet.parameters(), lr=1e-3), []
    for _ in range(12):
        batch = data[:4]
        pixels = [
            torch.stack(
                [
                    torch.tensor(np.array(i.convert("RGB"))).permute(2, 0, 1) / 127.5 - 1
                    for i in batch[column[name]]
                ]
            )
            for name in ("edited_image_column", "original_image_column")
        ]
        with torch.no_grad():
            latents = vae.encode(pixels[0]).latent_dist.mean * vae.config.scaling_factor
            original = vae.encode(pixels[1]).latent_dist.mode()
            text = embed(tiny_pipe, batch[column["edit_prompt_column"]])
        generator = torch.Generator().manual_seed(0)  # the same noise in every step, so the loss must fall
        noise, t = torch.randn(latents.shape, generator=generator), torch.tensor([100, 300, 500, 700])
        noisy = noise_scheduler.add_noise(latents, noise, t)
        loss = (unet(torch.cat([noisy, original], 1), t, text).sample - noise).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_lora_trains_adapters_and_the_input_convolution_and_ends_as_plain_weights(tiny, tmp_path):
    profile, rows = tiny
    train(rows, tmp_path, profile, lr=1e-2, lora=2)
    new, old = weights(tmp_path), new_editor(profile).unet.state_dict()
    assert new.keys() == old.keys(), "the saved folder must be a stock one"
    changed = {name for name in new if not torch.equal(new[name], old[name])}
    assert "conv_in.weight" in changed and new["conv_in.weight"][:, 4:].abs().max() > 0
    assert any("to_q" in name for name in changed)
    assert all("attn" in name or "conv_in" in name for name in changed)


def test_validation_leaves_a_sheet_and_figures(tiny, tmp_path):
    profile, (rows, kept) = tiny[0], hold_out(tiny[1], 2)
    assert len(kept) == 2 and not {r["original_prompt"] for r in rows} & {r["original_prompt"] for r in kept}
    train(rows, tmp_path, profile, lr=1e-3, sample=validation(kept, profile, tmp_path / "v"), sample_every=4)
    figures = [json.loads(line) for line in (tmp_path / "v" / "figures.jsonl").read_text().splitlines()]
    assert [f["step"] for f in figures] == [4, 6] and all(-1 <= f["direction"] <= 1 for f in figures)
    assert Image.open(tmp_path / "v" / "000004.png").width > 200


def test_augmentation_is_the_same_for_both_pictures():
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = [
        paired_augmentation(picture.repeat(2, 1, 1, 1), torch.Generator().manual_seed(k), 32)
        for k in range(40)
    ]
    assert all(torch.equal(a, b) for a, b in seen) and len({x.sum().item() for x in seen}) > 20
    assert all(x.shape == (2, 3, 32, 32) and 0 <= x.min() and x.max() <= 1 for x in seen)
    ramp = torch.linspace(0, 1, 32).expand(2, 3, 32, 32)
    rising = [
        paired_augmentation(ramp, torch.Generator().manual_seed(k), 32)[0, 0, 0].diff().mean() > 0
        for k in range(60)
    ]
    assert 15 < sum(rising) < 45  # mirrored about half of the time, and never where it is forbidden
    assert all(
        paired_augmentation(ramp, torch.Generator().manual_seed(k), 32, flip=False)[0, 0, 0].diff().mean() > 0
        for k in range(20)
    )
    assert SIDES.search("move it to the Left") and SIDES.search("a cat right of a tree")
    assert not SIDES.search("brighten it")


def test_uncached_training_sees_other_pictures_every_time(tiny, tmp_path):
    profile, rows = tiny
    plain, _ = train(rows, tmp_path / "a", profile, lr=1e-3)
    other, log = train(rows, tmp_path / "b", profile, lr=1e-3, augment=True)
    assert not moved_alike(plain.unet.state_dict(), other.unet.state_dict(), profile) and log[-1]["loss"] < 10


LARGE = """
import sys
import torch
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from ip2p.dataset.shards import read_pairs
from ip2p.paths import DATA
from ip2p.study.true_size import peak
from ip2p.training import train

folder = Path(sys.argv[1]) / "pairs"
folder.mkdir()
bundled = pa.concat_tables([pq.read_table(path) for path in sorted((DATA / "pairs").glob("*.parquet"))])
pq.write_table(bundled.slice(0, 2000), folder / "000.parquet", row_group_size=500)
for number in range(1, 150):  # the same file again and again: what counts here is how many rows there are
    (folder / f"{number:03}.parquet").hardlink_to(folder / "000.parquet")
rows = read_pairs(folder)
train(rows, folder.parent / "out", steps=3, augment=True, device="cpu")
print(len(rows), peak(torch.device("cpu")))
"""


@pytest.mark.soak
def test_300000_pairs_train_in_4_gigabytes(tmp_path):
    run = subprocess.run([sys.executable, "-c", LARGE, str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    rows, gigabytes = run.stdout.split()[-2:]
    assert int(rows) == 300_000 and float(gigabytes) < 4
