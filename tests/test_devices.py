"""One function decides where a model runs, and says what is wrong with a wish."""

import pytest
import torch

from ip2p.common.devices import choose_device, choose_dtype


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
