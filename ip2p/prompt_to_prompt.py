"""Stage 2, section 3.1.2 of InstructPix2Pix: two images that differ only by the edit, with Prompt-to-Prompt.

Two prompts that differ by a word give two unrelated pictures, even from the same noise. Prompt-to-Prompt (Hertz et
al., arXiv 2208.01626) paints both together and lets the second image use the attention of the first for a share p of
the steps. Hertz et al. and the paper's text share the *cross*-attention; the authors' code shares the *self*-attention
logits. Both are here, and both together. What is shared are the queries and keys, never a materialised map:
softmax(q k^T) v with the first image's q and k and the second image's own v *is* the injected attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

import torch
import torch.nn.functional as F

ATTENTION = ("self", "cross", "both")


def align(tokens_0: Sequence[int], tokens_1: Sequence[int]) -> list[int]:
    """For each token of the edited prompt the position of the token in the first prompt that it stands for, or -1
    for a new one. Equal tokens pair up; a replaced stretch pairs up in order (Hertz et al., sections 3.2 and 3.3)."""
    out = [-1] * len(tokens_1)
    for tag, a0, a1, b0, b1 in SequenceMatcher(None, tokens_0, tokens_1, autojunk=False).get_opcodes():
        if tag in ("equal", "replace"):
            for k in range(min(a1 - a0, b1 - b0)):
                out[b0 + k] = a0 + k
    return out


@dataclass
class Sharing:
    """What the attention layers need to know; one for a UNet, changed before each step.

    The batch is [first uncond, second uncond, first cond, second cond], n candidates each.
    """

    attention: str = "both"
    active: torch.Tensor | None = None  # (n,) bool: candidates that share in this step; None: nobody
    alignment: torch.Tensor | None = None  # (n, T) from `align`, long
    watch: Callable | None = None  # watch(layer, probabilities (B, heads, N, T)) for cross-attention: notebook 02
    layers: list[str] = field(default_factory=list)


class SharedAttention:
    """A diffusers attention processor that hands the first image's queries and keys to the second one's kernel."""

    def __init__(self, name: str, cross: bool, sharing: Sharing):
        self.name, self.cross, self.sharing = name, cross, sharing

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (self.heads(attn, x) for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)))
        s = self.sharing
        scale = q.shape[-1] ** -0.5
        if s.watch is not None and self.cross:
            s.watch(self.name, (q @ k.transpose(-1, -2) * scale).softmax(-1))
        if s.active is not None and s.active.any() and s.attention in ("both", "cross" if self.cross else "self"):
            q, k = (share_cross if self.cross else share_self)(q, k, s)
        out = F.scaled_dot_product_attention(q, k, v, scale=scale)  # (B, heads, N, d)
        out = out.transpose(1, 2).reshape(hidden_states.shape[0], -1, attn.heads * v.shape[-1])
        return attn.to_out[1](attn.to_out[0](out))

    @staticmethod
    def heads(attn, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], x.shape[1], attn.heads, -1).transpose(1, 2)  # (B, heads, N, d)


def share_self(q: torch.Tensor, k: torch.Tensor, s: Sharing) -> tuple[torch.Tensor, torch.Tensor]:
    """The authors' form: where active, image 2 attends with image 1's queries and keys, in both guidance halves."""
    def second_from_first(x):
        u0, u1, c0, c1 = x.chunk(4)
        on = s.active[:, None, None, None]
        return torch.cat([u0, torch.where(on, u0, u1), c0, torch.where(on, c0, c1)])

    return second_from_first(q), second_from_first(k)


def share_cross(q: torch.Tensor, k: torch.Tensor, s: Sharing) -> tuple[torch.Tensor, torch.Tensor]:
    """Words that both prompts have get image 1's logits, new words keep their own, in the conditional half.

    One fused kernel can do this: with queries [q1; q2] and keys [k1; 0] for a shared word and [0; k2] for a new one,
    the product is the logit wanted.
    """
    u0, u1, q0, q1 = q.chunk(4)
    w0, w1, k0, k1 = k.chunk(4)
    index = s.alignment.clamp(min=0)[:, None, :, None].expand_as(k1)
    shared = ((s.alignment >= 0) & s.active[:, None])[:, None, :, None]  # (n, 1, T, 1)
    zero = torch.zeros_like
    long_q = torch.cat([torch.cat([x, zero(x)], -1) for x in (u0, u1, q0)] + [torch.cat([q0, q1], -1)])
    edited = torch.cat([torch.where(shared, k0.gather(2, index), zero(k1)), torch.where(shared, zero(k1), k1)], -1)
    long_k = torch.cat([torch.cat([x, zero(x)], -1) for x in (w0, w1, k0)] + [edited])
    return long_q, long_k


def hook(unet, sharing: Sharing) -> Sharing:
    """Put `SharedAttention` into every attention layer of a diffusers UNet2DConditionModel.

    Raises RuntimeError if there is no such layer: hooks that silently hook nothing make unrelated pairs.
    """
    present, processors = getattr(unet, "attn_processors", {}), {}
    for name in present:
        cross = name.endswith("attn2.processor")
        if cross or name.endswith("attn1.processor"):
            processors[name] = SharedAttention(name, cross, sharing)
    if not processors:
        raise RuntimeError("no attention layer was hooked: this UNet has no transformer blocks with attn1 / attn2")
    unet.set_attn_processor({**present, **processors})
    sharing.layers = list(processors)
    return sharing


@torch.no_grad()
def embed(pipe, prompts: list[str]) -> torch.Tensor:
    """Token features, (n, T, d)."""
    ids = pipe.tokenizer(prompts, padding="max_length", max_length=pipe.tokenizer.model_max_length, truncation=True,
                         return_tensors="pt").input_ids
    return pipe.text_encoder(ids.to(pipe.text_encoder.device))[0]


def token_alignment(tokenizer, prompts_0: list[str], prompts_1: list[str]) -> torch.Tensor:
    """`align` for pairs of prompts, over all padded positions (the padding of one stands for that of the other)."""
    def ids(prompts):
        return tokenizer(prompts, padding="max_length", max_length=tokenizer.model_max_length,
                         truncation=True).input_ids

    return torch.tensor([align(a, b) for a, b in zip(ids(prompts_0), ids(prompts_1), strict=True)])


@torch.no_grad()
def sample_pairs(pipe, prompts_0: list[str], prompts_1: list[str], *, seeds: Sequence[int], p: float | Sequence[float],
                 guidance_scale: float | Sequence[float], num_inference_steps: int, attention: str = "both",
                 watch: Callable | None = None, callback: Callable | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Paint n pairs with a diffusers StableDiffusionPipeline.

    Both images of a pair share the initial noise and every ancestral noise, which belong to the pair's own seed.
    Candidate i shares attention while step / (steps - 1) < p[i]. `callback(step, latents (2n, c, h, w))`.
    Returns two float tensors (n, 3, H, W) in [0, 1]. Raises ValueError for an unknown kind of attention.
    """
    if attention not in ATTENTION:
        raise ValueError(f"attention is {attention!r}; choose one of {ATTENTION}")
    n, unet, scheduler, device = len(prompts_0), pipe.unet, pipe.scheduler, pipe.unet.device
    p, scale = (torch.as_tensor(x, dtype=torch.float32).expand(n).to(device) for x in (p, guidance_scale))
    text = torch.cat([embed(pipe, [""]).expand(2 * n, -1, -1), embed(pipe, [*prompts_0, *prompts_1])])
    generators = [torch.Generator().manual_seed(int(s)) for _ in range(2) for s in seeds]  # twice the same noise
    scheduler.set_timesteps(num_inference_steps, device=device)
    shape = (unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    z = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device) * scheduler.init_noise_sigma
    before = unet.attn_processors
    sharing = hook(unet, Sharing(attention, watch=watch))
    sharing.alignment = token_alignment(pipe.tokenizer, prompts_0, prompts_1).to(device)
    try:
        for step, t in enumerate(scheduler.timesteps):
            sharing.active = step / max(1, num_inference_steps - 1) < p
            z_in = scheduler.scale_model_input(z, t)
            uncond, cond = unet(torch.cat([z_in, z_in]), t, text).sample.chunk(2)
            eps = uncond + scale.repeat(2)[:, None, None, None] * (cond - uncond)
            z = scheduler.step(eps, t, z, generator=generators).prev_sample
            if callback:
                callback(step, z)
    finally:
        unet.set_attn_processor(before)
    images = pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample
    return tuple((images / 2 + 0.5).clamp(0, 1).chunk(2))
