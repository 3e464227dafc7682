"""One function decides where a model runs, and says what is wrong with a wish."""

from dataclasses import replace

import pytest
import torch

from ip2p.common.devices import choose_device, choose_dtype, choose_training_dtype
from ip2p.editing import load_editor
from ip2p.profiles import MINI, load_text_to_image
from ip2p.training import new_editor


def test_auto_is_what_is_there():
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto").type == expected
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("wrong", ["banana", "", "gpu"])
def test_an_unknown_device_is_refused_with_the_choice(wrong):
    with pytest.raises(ValueError, match="choose one of auto, cpu, cuda, mps"):
        choose_device(wrong)


def test_a_device_that_is_not_here_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="finds no device cuda here"):
        choose_device("cuda:1")


def test_number_formats():
    assert choose_dtype("auto", "cpu") == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.float16
    assert choose_dtype("bfloat16", "cpu") == torch.bfloat16
    with pytest.raises(ValueError, match="choose auto, float32, bfloat16, float16"):
        choose_dtype("int8")


def test_trainings_compute_in_float32_or_bfloat16():
    assert choose_training_dtype("auto") == torch.float32
    assert choose_training_dtype("bfloat16") == torch.bfloat16
    with pytest.raises(ValueError, match="loses small gradients"):
        choose_training_dtype("float16")


@pytest.mark.weights
def test_a_gpu_by_its_number():
    assert choose_device("cuda:0").index == 0
    with pytest.raises(ValueError, match="PyTorch finds . GPU"):
        choose_device("cuda:99")


def test_a_profile_says_where_its_models_run(tiny_pipe, tmp_path):
    tiny_pipe.save_pretrained(tmp_path / "sd")
    editor = str(tmp_path / "editor")
    rough = replace(MINI, text_to_image=str(tmp_path / "sd"), editor=editor, steps=3)
    rough = replace(rough, device="cpu", dtype="bfloat16")
    assert load_text_to_image(rough).unet.dtype == torch.bfloat16
    assert load_text_to_image(rough, dtype="float32").unet.dtype == torch.float32
    pupil = new_editor(rough)
    assert pupil.unet.dtype == torch.float32, "what is to learn is exact"
    pupil.save_pretrained(editor)
    for loaded in (load_editor(rough), load_editor(editor, profile=rough)):
        assert loaded.pipe.unet.dtype == torch.bfloat16 and loaded.defaults[2] == 3
    assert load_editor(rough, dtype="float32").pipe.unet.dtype == torch.float32
    for load in (load_editor, load_text_to_image):
        with pytest.raises(ValueError, match="there is no device 'tpu'"):
            load(replace(rough, device="tpu"))
