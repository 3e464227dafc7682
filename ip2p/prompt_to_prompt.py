"""Stage 2, section 3.1.2 of InstructPix2Pix: two images that differ only by the edit, with Prompt-to-Prompt.

Two prompts that differ by a word give two unrelated pictures, even from the same noise. Prompt-to-Prompt (Hertz et
al., arXiv 2208.01626) paints both together and lets the second image use the attention of the first for a share p of
the steps. Hertz et al. and the paper's text share the *cross*-attention; the authors' code shares the *self*-attention
logits. Both are here, and both together. What is shared are the queries and keys, never a materialised map:
softmax(q k^T) v with the first image's q and k and the second image's own v *is* the injected attention. Hertz et al.'s
other two controls are here as well: a word's weight (section 3.4), and the local blend of their code.

`sample_pairs` paints pairs; `sample_families` paints candidates of one seed, and what they have in common only once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

import torch
import torch.nn.functional as F

from ip2p.common.diffusion import decode, embed, guided, latent_shape

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

    The batch is [first uncond, second uncond, others uncond, first cond, second cond, others cond]: n first and n
    second images, and `others` that share nothing.
    """

    attention: str = "both"
    active: torch.Tensor | None = None  # (n,) bool: candidates that share in this step; None: nobody
    alignment: torch.Tensor | None = None  # (n, T) from `align`, long
    others: int = 0
    weights: torch.Tensor | None = None  # (rows of one half, T): each word's weight, Hertz et al. section 3.4
    watch: Callable | None = (
        None  # watch(layer, probabilities (B, heads, N, T)) for cross-attention: notebook 02
    )
    layers: list[str] = field(default_factory=list)


class SharedAttention:
    """A diffusers attention processor that hands the first image's queries and keys to the second one's kernel."""

    def __init__(self, name: str, cross: bool, sharing: Sharing):
        self.name, self.cross, self.sharing = name, cross, sharing

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            self.heads(attn, x) for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        s = self.sharing
        scale = q.shape[-1] ** -0.5
        if s.watch is not None and self.cross:
            s.watch(self.name, (q @ k.transpose(-1, -2) * scale).softmax(-1))
        if s.weights is not None and self.cross:
            v = torch.cat([v[: len(s.weights)], v[len(s.weights) :] * s.weights[:, None, :, None]])
        if s.active is not None and s.attention in ("both", "cross" if self.cross else "self"):
            share = share_cross if self.cross else share_self
            (q, q_others), (k, k_others), (v, v_others) = (self.split(x, s.others) for x in (q, k, v))
            pairs = F.scaled_dot_product_attention(*share(q, k, s), v, scale=scale).chunk(2)
            others = (
                F.scaled_dot_product_attention(q_others, k_others, v_others, scale=scale)
                if s.others
                else q_others
            ).chunk(2)
            out = torch.cat([pairs[0], others[0], pairs[1], others[1]])
        else:
            out = F.scaled_dot_product_attention(q, k, v, scale=scale)  # (B, heads, N, d)
        out = out.transpose(1, 2).reshape(hidden_states.shape[0], -1, attn.heads * v.shape[-1])
        return attn.to_out[1](attn.to_out[0](out))

    @staticmethod
    def split(x: torch.Tensor, others: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows of pairs, and the others; each with its unconditional half first."""
        uncond, cond = x.chunk(2)
        cut = len(uncond) - others
        return torch.cat([uncond[:cut], cond[:cut]]), torch.cat([uncond[cut:], cond[cut:]])

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
    edited = torch.cat(
        [torch.where(shared, k0.gather(2, index), zero(k1)), torch.where(shared, zero(k1), k1)], -1
    )
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
        raise RuntimeError(
            "no attention layer was hooked: this UNet has no transformer blocks with attn1 / attn2"
        )
    unet.set_attn_processor({**present, **processors})
    sharing.layers = list(processors)
    return sharing


def token_alignment(tokenizer, prompts_0: list[str], prompts_1: list[str]) -> torch.Tensor:
    """`align` for pairs of prompts, over all padded positions (the padding of one stands for that of the other)."""

    def ids(prompts):
        return tokenizer(
            prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True
        ).input_ids

    return torch.tensor([align(a, b) for a, b in zip(ids(prompts_0), ids(prompts_1), strict=True)])


def word_positions(tokenizer, prompt: str, word: str) -> list[int]:
    """Where the tokens of `word` (or several words) stand in a prompt. Raises ValueError if it does not hold them."""
    ids, wanted = (tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, word))
    start = len(tokenizer(prompt).input_ids) - len(ids) - 1  # special tokens in front
    for i in range(len(ids) - len(wanted) + 1):
        if ids[i : i + len(wanted)] == wanted:
            return list(range(start + i, start + i + len(wanted)))
    raise ValueError(f"{prompt!r} does not hold {word!r}")


class LocalBlend:
    """Hertz et al.'s local blend: outside of where the images look at the given words, the second one is the first.

    The maps of the words in all larger cross-attention layers are summed over steps and layers; what exceeds
    `threshold` of the maximum in either image, one latent pixel around it included, belongs to the words.
    """

    def __init__(
        self, words: torch.Tensor, size: tuple[int, int], threshold: float = 0.3, start: float = 0.2
    ):
        self.words, self.size, self.threshold, self.start = (
            words,
            size,
            threshold,
            start,
        )  # words: (2n, T) of 0 and 1
        self.maps = 0.0

    def look(self, layer: str, probabilities: torch.Tensor) -> None:
        pixels = probabilities.shape[2]
        height = round((pixels * self.size[0] / self.size[1]) ** 0.5)
        if 4 * height < self.size[0]:  # too coarse to say where
            return
        maps = (probabilities.chunk(2)[1] * self.words[:, None, None]).sum(-1).mean(1)  # (2n, pixels)
        maps = maps.reshape(len(maps), 1, height, pixels // height)
        self.maps = self.maps + F.interpolate(maps, size=self.size, mode="bilinear")

    def mask(self) -> torch.Tensor:
        """(n, 1, h, w): 1 where the second image is its own."""
        near = F.max_pool2d(self.maps, 3, 1, 1)
        near = (near > self.threshold * near.amax((1, 2, 3), keepdim=True)).float()
        return torch.maximum(*near.chunk(2))

    def __call__(self, z: torch.Tensor, done: float) -> torch.Tensor:
        if done < self.start:
            return z
        first, second = z.chunk(2)
        return torch.cat([first, first + self.mask() * (second - first)])


@torch.no_grad()
def sample_pairs(
    pipe,
    prompts_0: list[str],
    prompts_1: list[str],
    *,
    seeds: Sequence[int],
    p: float | Sequence[float],
    guidance_scale: float | Sequence[float],
    num_inference_steps: int,
    attention: str = "both",
    weights: Sequence[dict[str, float]] | None = None,
    blend: Sequence[tuple[str, str]] | None = None,
    blend_threshold: float = 0.3,
    watch: Callable | None = None,
    callback: Callable | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Paint n pairs with a diffusers StableDiffusionPipeline.

    Both images of a pair share the initial noise and every ancestral noise, which belong to the pair's own seed.
    Candidate i shares attention while step / (steps - 1) < p[i]. `weights`: for each pair, words of its second prompt
    and how much they count (1: as usual). `blend`: for each pair, a word of its first and one of its second prompt,
    outside of which (see `LocalBlend`) nothing changes. `callback(step, latents (2n, c, h, w))`.
    Returns two float tensors (n, 3, H, W) in [0, 1]. Raises ValueError for an unknown kind of attention or a word that
    is not in its prompt.
    """
    if attention not in ATTENTION:
        raise ValueError(f"attention is {attention!r}; choose one of {ATTENTION}")
    n, unet, scheduler, device = len(prompts_0), pipe.unet, pipe.scheduler, pipe.unet.device
    scale = torch.as_tensor(guidance_scale, dtype=torch.float32).expand(n).to(device)
    text = torch.cat([embed(pipe, [""]).expand(2 * n, -1, -1), embed(pipe, [*prompts_0, *prompts_1])])
    generators = [
        torch.Generator().manual_seed(int(s)) for _ in range(2) for s in seeds
    ]  # twice the same noise
    scheduler.set_timesteps(num_inference_steps, device=device)
    z = torch.stack([torch.randn(latent_shape(unet), generator=g) for g in generators]).to(device)
    z = z * scheduler.init_noise_sigma
    sharing = Sharing(
        attention, watch=watch, alignment=token_alignment(pipe.tokenizer, prompts_0, prompts_1).to(device)
    )
    if weights is not None:
        sharing.weights = torch.ones(2 * n, text.shape[1], device=device)
        for i, of_word in enumerate(weights):
            for word, weight in of_word.items():
                sharing.weights[n + i, word_positions(pipe.tokenizer, prompts_1[i], word)] = weight
    if blend is not None:
        words = torch.zeros(2 * n, text.shape[1], device=device)
        for i, of_prompts in enumerate(blend):
            for k, (prompt, word) in enumerate(zip((prompts_0[i], prompts_1[i]), of_prompts, strict=True)):
                words[k * n + i, word_positions(pipe.tokenizer, prompt, word)] = 1
        blend = LocalBlend(words, tuple(z.shape[2:]), blend_threshold)
        sharing.watch = (lambda *seen: (watch(*seen), blend.look(*seen))) if watch else blend.look
    shared, before = shared_steps(scheduler, p, n), unet.attn_processors
    hook(unet, sharing)
    try:
        for step, t in enumerate(scheduler.timesteps):
            sharing.active = shared[step].to(device) if shared[step].any() else None
            eps = guided(unet, scheduler, z, t, text, scale.repeat(2))
            z = scheduler.step(eps, t, z, generator=generators).prev_sample
            if blend is not None:
                z = blend(z, (step + 1) / num_inference_steps)
            if callback:
                callback(step, z)
    finally:
        unet.set_attn_processor(before)
    return tuple(decode(pipe, z).chunk(2))


def shared_steps(scheduler, p: float | Sequence[float], n: int) -> torch.Tensor:
    """In which of the scheduler's steps each of n candidates shares: step / (steps - 1) < p. (steps, n) bool."""
    steps = len(scheduler.timesteps)
    done = torch.tensor([step / max(1, steps - 1) for step in range(steps)])
    return done[:, None] < torch.as_tensor(p, dtype=torch.float32).cpu().expand(n)


@torch.no_grad()
def sample_families(
    pipe,
    prompts_0: list[str],
    prompts_1: list[str],
    *,
    seeds: Sequence[int],
    p: Sequence[float],
    guidance_scale: Sequence[float],
    num_inference_steps: int,
    attention: str = "both",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Candidates that differ by p alone share what they have in common, and so cost less: f families of k candidates.

    The first image is painted once a family. As long as two candidates both share attention they are one and the same;
    so one trunk is painted, and a candidate leaves it at its own step. Each candidate is what `sample_pairs` paints for
    its (seed, p[i], guidance). Returns first images (f, 3, H, W) and second ones (f, k, 3, H, W), in [0, 1].
    The scheduler must be one that looks back at no earlier step (Euler, Euler ancestral, DDIM, DDPM).
    """
    if attention not in ATTENTION:
        raise ValueError(f"attention is {attention!r}; choose one of {ATTENTION}")
    f, unet, scheduler, device = len(prompts_0), pipe.unet, pipe.scheduler, pipe.unet.device
    if getattr(scheduler, "model_outputs", None) is not None or getattr(scheduler, "ets", None) is not None:
        raise ValueError(
            f"{type(scheduler).__name__} looks back at earlier steps, which a branch does not have; "
            "use EulerAncestralDiscreteScheduler"
        )
    scale = torch.as_tensor(guidance_scale, dtype=torch.float32, device=device)
    empty, first, second = embed(pipe, [""]), embed(pipe, prompts_0), embed(pipe, prompts_1)
    generators = [torch.Generator().manual_seed(int(s)) for s in seeds]
    scheduler.set_timesteps(num_inference_steps, device=device)
    z = torch.stack([torch.randn(latent_shape(unet), generator=g) for g in generators]).to(device)
    z = [z * scheduler.init_noise_sigma] * 2  # first images, trunk, and then the branches that left
    shared = shared_steps(scheduler, p, len(p)).sum(0).tolist()
    order, left = sorted(range(len(p)), key=lambda i: shared[i]), 0
    before = unet.attn_processors
    sharing = hook(
        unet, Sharing(attention, alignment=token_alignment(pipe.tokenizer, prompts_0, prompts_1).to(device))
    )
    try:
        for step, t in enumerate(scheduler.timesteps):
            while left < len(p) and shared[order[left]] <= step:
                z.append(z[1])
                left += 1
            trunk = left < len(p)
            rows = z if trunk else [z[0], *z[2:]]
            sharing.active = torch.ones(f, dtype=torch.bool, device=device) if trunk else None
            sharing.others = f * left
            r = len(rows)
            text = torch.cat([empty.expand(r * f, -1, -1), first, second.repeat(r - 1, 1, 1)])
            noise = [torch.Generator() for _ in range(r * f)]
            for g, own in zip(noise, generators * r, strict=True):
                g.set_state(own.get_state())
            eps = guided(unet, scheduler, torch.cat(rows), t, text, scale.repeat(r))
            rows = list(scheduler.step(eps, t, torch.cat(rows), generator=noise).prev_sample.split(f))
            for own, used in zip(generators, noise[:f], strict=True):
                own.set_state(used.get_state())
            z = rows if trunk else [rows[0], rows[0], *rows[1:]]
    finally:
        unet.set_attn_processor(before)
    while left < len(p):
        z.append(z[1])
        left += 1
    branches = [None] * len(p)
    for i, latents in zip(order, z[2:], strict=True):
        branches[i] = latents
    first, *second = (decode(pipe, latents) for latents in (z[0], *branches))
    return first, torch.stack(second, 1)
