"""Stable Diffusion 1.5 at its true size with random weights: what one step of each stage takes.

No weights are needed, so it runs anywhere; what it paints is noise. `ip2p bench sd15`.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable

import torch
from PIL import Image

from ip2p.common.devices import DTYPES, choose_device
from ip2p.common.diffusion import embed
from ip2p.editing import Editor
from ip2p.profiles import SD15
from ip2p.prompt_to_prompt import sample_pairs
from ip2p.training import cache_latents, edit_loss, widen_input

GIRL, DRAGON = "a photograph of a girl riding a horse", "a photograph of a girl riding a dragon"
INSTRUCTION = "have her ride a dragon"


def build(make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """The model that `make` makes, on the CPU, with weights that cost no time: most are zero."""
    with torch.device("meta"):
        model = make()
    model = model.to_empty(device="cpu").eval()
    for name, parameter in model.named_parameters():
        parameter.data.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        if parameter.ndim > 1:
            parameter.data.view(-1)[::7] = 0.02
    for module in model.modules():
        if hasattr(module, "position_ids"):
            module.position_ids = torch.arange(77)[None]
    return model


def true_pipe(px: int):
    """A StableDiffusionPipeline in the architecture of Stable Diffusion 1.5, for pictures of px x px."""
    from diffusers import (
        AutoencoderKL,
        EulerAncestralDiscreteScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    from ip2p.models.text_encoder import new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer([GIRL, DRAGON, INSTRUCTION] * 20, 400)
    tokenizer.model_max_length = 77
    unet = build(
        lambda: UNet2DConditionModel(
            sample_size=px // 8,
            cross_attention_dim=768,
            attention_head_dim=8,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        )
    )
    vae = build(
        lambda: AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            sample_size=px,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    )
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    scheduler = EulerAncestralDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=build(lambda: CLIPTextModel(config)),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def paint(pipe) -> tuple[torch.Tensor, torch.Tensor]:
    """Stage 2: one pair, one denoising step."""
    return sample_pairs(
        pipe,
        [GIRL],
        [DRAGON],
        seeds=[1],
        p=0.5,
        guidance_scale=SD15.pair_guidance[0],
        num_inference_steps=1,
        attention=SD15.attention,
    )


def widen(pipe) -> None:
    """Make an editor of a painter, as stage 4 does; once."""
    if pipe.unet.config.in_channels == pipe.vae.config.latent_channels:
        widen_input(pipe.unet)


def edit(pipe) -> Image.Image:
    """Stage 5: one edit, one denoising step."""
    widen(pipe)
    editor = Editor(pipe, SD15.guidance_scale, SD15.image_guidance_scale)
    return editor(Image.new("RGB", (300, 200), "orange"), INSTRUCTION, num_inference_steps=1)


def train(pipe) -> tuple[bool, bool]:
    """Stage 4: one step on one pair, with checkpointing and Adafactor, as AdamW's two moments would take 7 GB
    more. Returns whether the loss is finite, and whether weights have changed."""
    widen(pipe)
    unet = pipe.unet
    side = 8 * unet.config.sample_size
    image = Image.new("RGB", (side, side), "orange")
    source, target = cache_latents(pipe, [{"original_image": image, "edited_image": image}])
    words, empty = embed(pipe, [INSTRUCTION]), embed(pipe, [""])
    unet.train().enable_gradient_checkpointing()
    optimiser = torch.optim.Adafactor(unet.parameters(), lr=1e-4)
    before = unet.conv_out.weight.clone()
    chance = torch.Generator().manual_seed(0)
    loss = edit_loss(unet, pipe.scheduler, source, target, words, empty, chance)
    loss.backward()
    optimiser.step()
    return bool(loss.isfinite()), not torch.equal(before, unet.conv_out.weight)


STEPS = {
    "2. a pair, one denoising step": paint,
    "4. a training step (checkpointing, Adafactor)": train,
    "5. an edit, one denoising step": edit,
}


def peak(device: torch.device) -> float:
    """The most memory that was in use so far, GB: on CUDA PyTorch's there, else that of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1e6 if sys.platform == "linux" else 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def report(name: str, px: int, device: str, dtype: str) -> None:
    """Take the step `name` of STEPS in this process, and print its seconds, its peak memory and the size of
    the models, GB, as JSON. The first step of a process is a cold one."""
    place = choose_device(device)
    pipe = true_pipe(px).to(place, DTYPES[dtype])
    models = (pipe.unet, pipe.vae, pipe.text_encoder)
    size = sum(p.numel() * p.element_size() for model in models for p in model.parameters())
    begin = time.perf_counter()
    STEPS[name](pipe)
    if place.type != "cpu":
        torch.accelerator.synchronize(place)
    seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "peak": peak(place), "weights": size / 1e9}))
