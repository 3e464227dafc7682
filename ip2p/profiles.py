"""Profiles: the models of the five stages and the defaults that fit them. `mini` is bundled, `sd15` the
paper's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ip2p.common.durable import refuse_broken
from ip2p.miniworld.scene import EDIT_KINDS
from ip2p.paths import DATA

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Profile:
    """Models and defaults of one run of the paper. Write your own, or change one with
    `dataclasses.replace`."""

    name: str
    text_to_image: str  # a StableDiffusionPipeline: folder or hub name
    editor: str  # a StableDiffusionInstructPix2PixPipeline: folder or hub name
    clip: str  # an open_clip model: "NAME/PRETRAINED" or a folder
    language_model: str  # "smollm2" (bundled), a .gguf file, a hub name or a folder
    captions: str  # a text file, one caption a line
    triplets: str  # hand-written triplets, JSON lines
    pairs: str  # a folder of pair shards to learn from
    resolution: int  # px, of the synthesised pairs and of training
    batch: int  # pairs in one denoising batch
    in_world: bool  # captions are those of the miniature world, so the judge can be asked
    device: str = "auto"  # where the models run: auto, cpu, cuda or mps
    # in which number format those run that paint, edit and write: auto, float32, bfloat16 or float16
    dtype: str = "auto"
    low_memory: bool = False  # for small GPUs, see `settle`
    paint_guidance: float = 7.5  # of the text-to-image model on its own
    # Stage 2: candidates a caption pair, denoising steps, which attention is shared, and the ranges of p
    # and guidance
    candidates: int = 100
    per_seed: int = 4  # candidates of one seed, which differ by p alone and share what they have in common
    enough: bool = False  # stop painting for a caption pair that has `keep` good candidates
    pair_steps: int = 100
    attention: str = "self"
    share: tuple[float, float] = (0.1, 0.9)
    pair_guidance: tuple[float, float] = (7.5, 15.0)
    # Stage 3: thresholds on the cosine similarities, and how many survivors of a caption pair are kept
    min_image: float = 0.75
    min_caption: float = 0.2
    min_direction: float = 0.2
    keep: int = 4
    # what Prompt-to-Prompt can make with these models (`ip2p evaluate`)
    edit_kinds: tuple[str, ...] = EDIT_KINDS
    # Stage 4
    train_batch: int = 1024
    train_lr: float = 1e-4
    train_steps: int = 10_000
    muon: bool = False  # Muon for the weights of hidden layers, AdamW for the rest; else AdamW for all
    # Stage 5
    guidance_scale: float = 7.5  # s_T
    image_guidance_scale: float = 1.5  # s_I
    steps: int = 100
    fast_lora: str | None = None  # an adapter for few steps; None: the editor's folder has a distilled UNet

    def place(
        self, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
    ) -> tuple[torch.device, torch.dtype]:
        """Where its models run on this machine, and in which number format; `device`, `dtype`: wishes that
        go before the profile's own. Raises ValueError for one that there is not."""
        from ip2p.common.devices import choose_device, choose_dtype

        chosen = choose_device(self.device if device is None else device)
        return chosen, choose_dtype(self.dtype if dtype is None else dtype, chosen)


SD15 = Profile(
    name="sd15",
    text_to_image="stable-diffusion-v1-5/stable-diffusion-v1-5",
    editor="timbrooks/instruct-pix2pix",
    clip="ViT-L-14-quickgelu/openai",
    language_model="smollm2",
    captions=str(DATA / "captions" / "open.txt"),
    triplets=str(DATA / "triplets" / "open.jsonl"),
    pairs="out/pairs-sd15",
    resolution=512,
    batch=4,
    in_world=False,
    fast_lora="latent-consistency/lcm-lora-sdv1-5",
)

MINI = Profile(
    name="mini",
    text_to_image=str(DATA / "models" / "mini-sd"),
    editor=str(DATA / "models" / "mini-ip2p"),
    clip=str(DATA / "models" / "mini-clip"),
    language_model="smollm2",
    captions=str(DATA / "captions" / "mini.txt"),
    triplets=str(DATA / "triplets" / "mini.jsonl"),
    pairs=str(DATA / "pairs"),
    resolution=128,
    batch=24,
    in_world=True,
    paint_guidance=1.5,
    candidates=6,
    per_seed=3,
    pair_steps=12,
    attention="both",
    share=(0.1, 0.9),
    pair_guidance=(1.5, 3.0),
    min_image=0.84,
    min_caption=0.66,
    min_direction=0.63,
    keep=2,
    train_batch=32,
    train_lr=1e-3,
    train_steps=2_000,
    muon=True,
    guidance_scale=4.0,
    image_guidance_scale=1.5,
    steps=12,
)

PROFILES = {p.name: p for p in (MINI, SD15)}


def get_profile(profile: str | Profile, **changes) -> Profile:
    """A profile by name (or as it is), with `changes` made. Raises ValueError for an unknown name."""
    if isinstance(profile, str):
        if profile not in PROFILES:
            raise ValueError(f"there is no profile {profile!r}; choose one of {', '.join(PROFILES)}")
        profile = PROFILES[profile]
    return replace(profile, **changes)


def quiet_loading() -> None:
    """Show no progress bars while weights are read from the disk; downloads keep theirs."""
    import diffusers
    import huggingface_hub
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    huggingface_hub.utils.enable_progress_bars()  # transformers has turned them off, too


def _load(cls_name: str, path: str, dtype=None):
    """A pipeline from a folder or the hub, with the Euler ancestral scheduler. dtype: None for float32. The
    channels of its autoencoder are laid out last, which makes it nearly twice as fast on a CPU."""
    import diffusers
    import torch

    quiet_loading()
    if Path(path).exists() and not (Path(path) / "model_index.json").is_file():
        raise ValueError(f"{path} is no diffusers model: it has no model_index.json")
    refuse_broken(path)
    try:
        pipe = getattr(diffusers, cls_name).from_pretrained(
            path, dtype=dtype or torch.float32, safety_checker=None, requires_safety_checker=False
        )
    except OSError as error:
        raise ValueError(
            f"cannot load {path}: give a folder made by `ip2p train` or `ip2p models build`, or connect "
            f"to the hub once to download it ({str(error).splitlines()[0]})"
        ) from error
    pipe.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.vae.to(memory_format=torch.channels_last)
    return pipe


def settle(pipe, device: torch.device, low_memory: bool):
    """The pipeline on its device. low_memory: the autoencoder takes one picture at a time, and on a GPU is
    only the model that works."""
    if not low_memory:
        return pipe.to(device)
    pipe.vae.enable_slicing()
    if device.type != "cpu":
        pipe.enable_model_cpu_offload(device=device)
    return pipe


def load_text_to_image(
    profile: str | Profile,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
):
    """The profile's StableDiffusionPipeline, with the Euler ancestral scheduler.

    device, dtype: see `choose_device` and `choose_dtype`; None: the profile's.
    """
    profile = get_profile(profile)
    device, dtype = profile.place(device, dtype)
    pipe = _load("StableDiffusionPipeline", profile.text_to_image, dtype)
    return settle(pipe, device, profile.low_memory)


def load_edit_pipeline(path: str, dtype=None):
    """A StableDiffusionInstructPix2PixPipeline, from a folder or the hub, with the Euler ancestral scheduler.

    dtype: None for float32.
    """
    return _load("StableDiffusionInstructPix2PixPipeline", path, dtype)
