"""The fast editor: a tiny student learns a tiny teacher's edits, both scales as one input."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch.testing import assert_close

from ip2p.common.diffusion import to_x0
from ip2p.distillation import Recordings, distill, distillation_loss, learn, new_student, noiseless
from ip2p.editing import load_editor
from ip2p.fast import FAST, STUDENT_PREDICTS, DistillOptions, scale_features
from ip2p.profiles import get_profile
from ip2p.training import new_editor

RANGES = ((1.0, 8.0), (1.0, 2.5))


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 32, 3), np.uint8))


ROWS = [
    {
        "original_image": picture(i),
        "edited_image": picture(i + 9),
        "edit_prompt": words,
        "original_prompt": "a red cat",
        "edited_prompt": "a red cat at night",
    }
    for i, words in enumerate(("make it night", "make it day", "a blue dog"))
]


@pytest.fixture(scope="module")
def profile(tiny_pipe, tmp_path_factory):
    """Of a teacher in a folder, that looks at its picture."""
    folder = tmp_path_factory.mktemp("teacher")
    tiny_pipe.save_pretrained(folder / "sd")
    profile = replace(get_profile("mini"), text_to_image=str(folder / "sd"), editor=str(folder / "editor"))
    pipe = new_editor(profile)
    torch.manual_seed(1)
    torch.nn.init.normal_(pipe.unet.conv_in.weight, std=0.1)
    pipe.save_pretrained(folder / "editor")
    return profile


@pytest.fixture
def quick(profile):
    return DistillOptions.of(profile, edits=6, teacher_steps=3, steps=4, batch=2)


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(Recordings, "PART", 3)


def test_an_edit_without_noise_follows_from_its_seed_picture_words_and_scales(profile):
    teacher = noiseless(load_editor(profile, "cpu"))
    edit = {"images": [picture()], "instructions": ["make it night"], "num_inference_steps": 3}
    one, again = (list(teacher.sample(**edit, seeds=[4]))[-1].z for _ in range(2))
    assert torch.equal(one, again)
    first = next(teacher.sample(**edit, seeds=[4]))
    assert first.t == 999, "from pure noise on"
    for other in (
        {"seeds": [5]},
        {"seeds": [4], "guidance_scale": 7},
        {"seeds": [4], "image_guidance_scale": 2},
    ):
        assert not torch.equal(one, list(teacher.sample(**edit, **other))[-1].z)


def test_recordings_hold_the_teachers_own_states_and_ends(profile, quick, tmp_path):
    teacher = load_editor(profile, "cpu")
    recordings = Recordings(teacher, ROWS, tmp_path, quick)
    batch = recordings.batch(64, torch.Generator().manual_seed(0))
    assert len(set(batch["t"].tolist())) == 3 and batch["t"].max() == 999
    for scale, (low, high) in (("s_t", quick.guidance_scale), ("s_i", quick.image_guidance_scale)):
        assert batch[scale].min() >= low and batch[scale].max() <= high
    part = recordings.record(1)
    ends = [recordings.read(edit, 0)["end"] for edit in (3, 4, 5)]
    assert_close(torch.stack(ends), part["end"])
    assert part["states"].shape == (3, 3, *part["end"].shape[1:])


def test_recording_goes_on_with_the_next_file(profile, quick, tmp_path, monkeypatch):
    teacher = load_editor(profile, "cpu")
    Recordings(teacher, ROWS, tmp_path, quick)
    (tmp_path / "00000001.safetensors").unlink()
    asked = []
    record = Recordings.record
    monkeypatch.setattr(Recordings, "record", lambda self, part: asked.append(part) or record(self, part))
    Recordings(teacher, ROWS, tmp_path, quick)
    assert asked == [1]


def test_a_new_student_says_what_its_teacher_says_whatever_the_scales(profile):
    unet = load_editor(profile, "cpu").pipe.unet
    student = new_student(unet).eval()
    z, text = torch.randn(2, 8, 8, 8), torch.randn(2, 7, 16)
    for s_t in (1.0, 7.0):
        cond = scale_features(torch.full((2,), s_t), torch.full((2,), 1.5), RANGES, 128)
        assert_close(student(z, 7, text, timestep_cond=cond).sample, unet(z, 7, text).sample)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_teacher_without_noise_still_says_what_it_predicts(profile, kind):
    teacher = load_editor(profile, "cpu")
    pipe = teacher.pipe
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type=kind)
    assert noiseless(teacher).pipe.scheduler.config.prediction_type == kind


def test_other_scales_have_other_features():
    s_t = torch.tensor([1.0, 4.0, 8.0, 4.0])
    s_i = torch.tensor([1.5, 1.5, 1.5, 2.0])
    features = scale_features(s_t, s_i, RANGES, 128)
    assert features.shape == (4, 128) and len({tuple(row.tolist()) for row in features}) == 4


def test_the_loss_is_the_distance_from_the_teachers_end():
    class Fixed:
        """A student that says the right v for an x0 of 0.5 everywhere."""

        def __call__(self, x, t, text, timestep_cond):
            z = x[:, :4]
            a = alpha_bar[t.long()][:, None, None, None]
            v = (a.sqrt() * z - 0.5) / (1 - a).sqrt()
            assert_close(to_x0(v, z, float(a[0]), STUDENT_PREDICTS)[0], torch.full((4, 8, 8), 0.5))
            return type("Output", (), {"sample": v})

    alpha_bar = torch.linspace(0.99, 0.01, 1000)
    batch = {name: torch.randn(2, 4, 8, 8) for name in ("z", "source")}
    batch |= {"end": torch.full((2, 4, 8, 8), 0.3), "t": torch.tensor([999.0, 100.0]), "text": None}
    batch |= {"s_t": torch.tensor([2.0, 3.0]), "s_i": torch.tensor([1.0, 2.0])}
    assert_close(distillation_loss(Fixed(), alpha_bar, batch, RANGES), torch.tensor(0.04))


def test_a_student_learns_what_a_picture_and_a_scale_lead_to(profile, tmp_path):
    class Toy:
        teacher = load_editor(profile, "cpu")

        def batch(self, n, generator):
            batch = {name: torch.randn(n, 4, 8, 8, generator=generator) for name in ("z", "source")}
            s_t, s_i = (1 + torch.rand(n, generator=generator) for _ in range(2))
            end = batch["source"] * s_t[:, None, None, None]
            t = torch.randint(1000, (n,), generator=generator).float()
            return batch | {"s_t": s_t, "s_i": s_i, "end": end, "t": t, "text": torch.zeros(n, 7, 16)}

    o = DistillOptions.of(profile, steps=60, batch=16, lr=3e-3, guidance_scale=(1.0, 2.0))
    o = replace(o, image_guidance_scale=(1.0, 2.0))
    log = learn(new_student(Toy.teacher.pipe.unet), Toy(), tmp_path, o, torch.float32)
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]


def test_a_student_may_lie_beside_its_teachers_own_parts(profile, tmp_path):
    folder = tmp_path / "editor"
    shutil.copytree(profile.editor, folder)
    before = (folder / "model_index.json").read_bytes()
    for edits in (3, 6):  # the second is refused: there is a student already, taught otherwise
        options = dict(pairs=ROWS, edits=edits, teacher_steps=2, steps=1, batch=2, device="cpu")
        if edits == 3:
            distill(folder, folder, profile, **options)
        else:
            with pytest.raises(ValueError, match="another run, with other edits"):
                distill(folder, folder, profile, **options)
    assert (folder / FAST / "config.json").exists() and (folder / "model_index.json").read_bytes() == before


def test_a_killed_distillation_goes_on_to_the_same_weights(profile, tmp_path):
    options = dict(pairs=ROWS, edits=6, teacher_steps=3, batch=2, save_minutes=0, device="cpu")
    distill(profile.editor, tmp_path / "whole", profile, steps=4, **options)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / FAST)
    (tmp_path / "killed" / "work-fast" / "checkpoint-00000004.safetensors").unlink()
    distill(profile.editor, tmp_path / "killed", profile, steps=4, **options)
    one, other = (
        UNet2DConditionModel.from_pretrained(tmp_path / name / FAST).state_dict()
        for name in ("whole", "killed")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="another run, with other edits"):
        distill(profile.editor, tmp_path / "whole", profile, steps=4, **options | {"edits": 3})
    with pytest.raises(ValueError, match="holds another model"):
        distill(profile.editor, profile.text_to_image, profile, steps=4, **options)


@pytest.fixture(scope="module")
def fast(profile, tmp_path_factory):
    """A student taught for a few steps."""
    out = tmp_path_factory.mktemp("fast")
    options = dict(edits=3, teacher_steps=2, steps=10, batch=4, lr=2e-3, muon=False, device="cpu")
    distill(profile.editor, out, profile, pairs=ROWS, **options)
    return load_editor(str(out), "cpu", fast=True)


def counted(editor, monkeypatch):
    rows = []
    for unet in (editor.pipe.unet, editor.fast.unet):
        forward = unet.forward
        monkeypatch.setattr(
            unet,
            "forward",
            lambda x, *a, _f=forward, _u=unet, **k: (rows.append((_u, len(x))), _f(x, *a, **k))[1],
        )
    return rows


def test_a_fast_edit_is_one_prediction_a_step_and_repeats(fast, monkeypatch):
    rows = counted(fast, monkeypatch)
    edited = fast(picture(), "make it night", seed=3)
    assert [(unet is fast.fast.unet, n) for unet, n in rows] == [(True, 1)] * 3
    assert edited == fast(picture(), "make it night", seed=3)
    together = fast.many([picture(1), picture()], ["make it day", "make it night"], seeds=[1, 3])
    assert np.abs(np.asarray(together[1], int) - np.asarray(edited, int)).max() <= 1
    step = next(fast.sample([picture()], ["make it night"], seeds=[3]))
    assert step.eps is None and step.eps_both is None


def test_both_scales_and_a_mask_reach_the_fast_editor(fast):
    plain = list(fast.sample([picture()], ["make it night"]))[-1].z
    for scale in ({"guidance_scale": 7.0}, {"image_guidance_scale": 2.2}):
        assert not torch.equal(plain, list(fast.sample([picture()], ["make it night"], **scale))[-1].z)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (16, 0, 32, 32))
    masked = np.asarray(fast(picture(), "make it night", mask=mask))
    assert (masked[:, :16] == np.asarray(picture())[:, :16]).all()


def test_what_the_student_has_not_learned_the_full_editor_does_with_a_word(fast, monkeypatch):
    rows = counted(fast, monkeypatch)
    full = copy.copy(fast)
    full.fast = None
    for options in ({"guidance_scale": -2.0}, {"image_guidance_scale": 9.0}):
        with pytest.warns(UserWarning, match="guidance scales from 1 to 8 .* the full one edits"):
            edited = fast(picture(), "make it night", **options)
        assert edited == full(picture(), "make it night", **options)
    fast(picture(), "make it night", scheduler="DDIMScheduler")
    list(fast.sample([picture()], ["make it night"], all_predictions=True))
    assert not any(unet is fast.fast.unet for unet, _ in rows)


def test_a_folder_without_a_fast_editor_is_refused(profile):
    with pytest.raises(ValueError, match="holds no fast editor; make one by `ip2p distill"):
        load_editor(profile, "cpu", fast=True)


def test_the_student_is_a_stock_unet(fast):
    folder = fast.name
    about = json.loads(open(f"{folder}/{FAST}/distilled.json").read())
    assert about == {"steps": 3, "guidance_scale": [1.0, 8.0], "image_guidance_scale": [1.0, 2.5]}
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder=FAST)
    assert unet.config.time_cond_proj_dim == 128
