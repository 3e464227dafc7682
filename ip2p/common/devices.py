"""Where a model runs, and in which number format: one place decides for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def kind_of_device(name: str | torch.device) -> str:
    """What a device is: "cuda" of "cuda:1". Raises ValueError for a name that is not one of DEVICES."""
    kind = str(name).partition(":")[0]
    if kind not in DEVICES:
        raise ValueError(f"there is no device {str(name)!r}; choose one of {', '.join(DEVICES)}")
    return kind


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """A device by its name; "auto" is a CUDA GPU where there is one, else Apple's (mps), else the CPU.

    A number may follow the name ("cuda:1"). Raises ValueError for a name that is not one of DEVICES, and
    for a device that this machine, or this build of PyTorch, does not have."""
    kind = kind_of_device(name)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind == "auto":
        return torch.device("cuda" if there["cuda"] else "mps" if there["mps"] else "cpu")
    if not there[kind]:
        raise ValueError(f"PyTorch finds no device {kind} here; choose another, or leave it at auto")
    device = torch.device(name)
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"PyTorch finds {torch.cuda.device_count()} GPUs here, cuda:0 and so on; choose one")
    return device


def choose_dtype(name: str | torch.dtype = "auto", device: str | torch.device = "cpu") -> torch.dtype:
    """A number format by its name; "auto" is float32 on a CPU, whose pictures repeat to the bit, else
    float16.

    Raises ValueError for a name that is neither "auto" nor one of DTYPES.
    """
    if isinstance(name, torch.dtype):
        return name
    if name == "auto":
        return torch.float32 if torch.device(device).type == "cpu" else torch.float16
    if name not in DTYPES:
        raise ValueError(f"there is no number format {name!r}; choose auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def choose_training_dtype(name: str | torch.dtype = "auto") -> torch.dtype:
    """In which format a training computes: float32, "auto" too, or bfloat16 for mixed precision. Weights and
    optimiser are float32 in either.

    Raises ValueError for float16, and as `choose_dtype` does.
    """
    dtype = torch.float32 if name == "auto" else choose_dtype(name)
    if dtype == torch.float16:
        raise ValueError("training in float16 loses small gradients; choose bfloat16 or float32")
    return dtype


@contextmanager
def mixed_precision(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """A context in which matrix products of float32 weights are computed in `dtype`; with float32 it changes
    nothing, and ends mixed precision that surrounds it.

    On a CPU, attention is two such products and a softmax: the backward pass of PyTorch's fused one took 44%
    of an editor's training step in bfloat16."""
    mixed = dtype != torch.float32
    plain = mixed and device.type == "cpu"
    attention = sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()
    with torch.autocast(device.type, dtype, enabled=mixed), attention:
        yield
