"""Stage 2, section 3.1.2 of InstructPix2Pix: two images that differ only by the edit, with Prompt-to-Prompt.

Two prompts that differ by a word give two unrelated pictures, even from the same noise. Prompt-to-Prompt
(Hertz et al., arXiv 2208.01626) paints both together and lets the second image use the attention of the first
for a share p of the steps. Hertz et al. and the paper's text share the *cross*-attention; the authors' code
shares the *self*-attention logits. Both are here, and both together. What is shared are the queries and keys,
never a materialised map: softmax(q k^T) v with the first image's q and k and the second image's own v *is*
the injected attention. Hertz et al.'s other two controls are here as well: a word's weight (section 3.4), and
the local blend of their code.

`sample_pairs` paints pairs; `sample_families` paints candidates of one seed, and what they have in common
only once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import SequenceMatcher

import torch
import torch.nn.functional as F

from ip2p.common.diffusion import decode, embed, guided_step, latent_shape, seeded, starting_latents

ATTENTION = ("self", "cross", "both")

# ------------------------------------------------------------------------------------------- words


def align(tokens_0: Sequence[int], tokens_1: Sequence[int]) -> list[int]:
    """Where each token of the edited prompt has its counterpart in the first prompt; -1 for a new one.

    Equal tokens pair up; a replaced stretch pairs up in order (Hertz et al., sections 3.2 and 3.3).
    """
    positions = [-1] * len(tokens_1)
    matcher = SequenceMatcher(None, tokens_0, tokens_1, autojunk=False)
    for tag, start_0, end_0, start_1, end_1 in matcher.get_opcodes():
        if tag in ("equal", "replace"):
            for k in range(min(end_0 - start_0, end_1 - start_1)):
                positions[start_1 + k] = start_0 + k
    return positions


def token_alignment(tokenizer, prompts_0: list[str], prompts_1: list[str]) -> torch.Tensor:
    """`align` for n pairs of prompts, their padding included. Returns (n, T), long."""

    def padded_ids(prompts: list[str]) -> list[list[int]]:
        length = tokenizer.model_max_length
        return tokenizer(prompts, padding="max_length", max_length=length, truncation=True).input_ids

    pairs = zip(padded_ids(prompts_0), padded_ids(prompts_1), strict=True)
    return torch.tensor([align(tokens_0, tokens_1) for tokens_0, tokens_1 in pairs])


def word_positions(tokenizer, prompt: str, word: str) -> list[int]:
    """Where the tokens of `word` (or several words) stand in a prompt.

    Raises ValueError if the prompt does not hold them.
    """
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    wanted = tokenizer(word, add_special_tokens=False).input_ids
    in_front = len(tokenizer(prompt).input_ids) - len(ids) - 1  # special tokens; one more stands at the end
    for i in range(len(ids) - len(wanted) + 1):
        if ids[i : i + len(wanted)] == wanted:
            first = in_front + i
            return list(range(first, first + len(wanted)))
    raise ValueError(f"{prompt!r} does not hold {word!r}")


# ------------------------------------------------------------------------------------------- shared attention


@dataclass
class Sharing:
    """What the attention layers need to know; one for a UNet, changed before each step.

    The batch is [first uncond, second uncond, others uncond, first cond, second cond, others cond]: n first
    and n second images, and `others` that share nothing.
    """

    attention: str = "both"
    active: torch.Tensor | None = None  # (n,) bool: candidates that share in this step; None: nobody
    alignment: torch.Tensor | None = None  # (n, T) from `align`, long
    others: int = 0
    weights: torch.Tensor | None = None  # (rows of one half, T): each word's weight, Hertz et al. section 3.4
    # Called with each cross-attention layer's name and its probabilities before sharing, (B, heads, N, T)
    watchers: list[Callable] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)


class SharedAttention:
    """A diffusers attention processor: the second image gets the first one's queries and keys."""

    def __init__(self, name: str, cross: bool, sharing: Sharing):
        self.name = name
        self.cross = cross
        self.sharing = sharing

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q = split_heads(attn.to_q(hidden_states), attn.heads)  # (B, heads, N, d)
        k = split_heads(attn.to_k(context), attn.heads)  # (B, heads, T, d); T = N in self-attention
        v = split_heads(attn.to_v(context), attn.heads)
        if self.cross:
            self.notify_watchers(q, k)
            v = self.weighted(v)
        if self.is_shared():
            out = self.shared_attention(q, k, v)
        else:
            out = attend(q, k, v, q.shape[-1])
        out = out.transpose(1, 2).flatten(2)  # (B, N, heads * d)
        linear, dropout = attn.to_out
        return dropout(linear(out))

    def is_shared(self) -> bool:
        kinds = ("both", "cross" if self.cross else "self")
        return self.sharing.active is not None and self.sharing.attention in kinds

    def notify_watchers(self, q: torch.Tensor, k: torch.Tensor) -> None:
        for watcher in self.sharing.watchers:
            scale = q.shape[-1] ** -0.5
            logits = q @ k.transpose(-1, -2) * scale
            watcher(self.name, logits.softmax(-1))

    def weighted(self, v: torch.Tensor) -> torch.Tensor:
        """To weigh a word's attention is to weigh its value; in the conditional half only."""
        weights = self.sharing.weights
        if weights is None:
            return v
        uncond, cond = v.chunk(2)
        weights = weights[:, None, :, None].to(v.dtype)
        return torch.cat([uncond, cond * weights])

    def shared_attention(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """The pairs share; the others attend on their own."""
        share = share_cross if self.cross else share_self
        others = self.sharing.others
        q_pairs, q_others = split_rows(q, others)
        k_pairs, k_others = split_rows(k, others)
        v_pairs, v_others = split_rows(v, others)
        long_q, long_k = share(q_pairs, k_pairs, self.sharing)
        out = attend(long_q, long_k, v_pairs, q.shape[-1])
        if others == 0:
            return out
        pairs_uncond, pairs_cond = out.chunk(2)
        out = attend(q_others, k_others, v_others, q.shape[-1])
        others_uncond, others_cond = out.chunk(2)
        return torch.cat([pairs_uncond, others_uncond, pairs_cond, others_cond])


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, d: int) -> torch.Tensor:
    """softmax(q k^T / sqrt(d)) v. d: a head's own width; `share_cross` makes queries and keys longer."""
    return F.scaled_dot_product_attention(q, k, v, scale=d**-0.5)


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, N, heads * d) -> (B, heads, N, d)"""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def split_rows(x: torch.Tensor, others: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of the pairs, and those of the others; each with its unconditional half first."""
    uncond, cond = x.chunk(2)
    sizes = [len(uncond) - others, others]
    uncond_pairs, uncond_others = uncond.split(sizes)
    cond_pairs, cond_others = cond.split(sizes)
    return torch.cat([uncond_pairs, cond_pairs]), torch.cat([uncond_others, cond_others])


def share_self(q: torch.Tensor, k: torch.Tensor, sharing: Sharing) -> tuple[torch.Tensor, torch.Tensor]:
    """The authors' form: where active, image 2 has image 1's queries and keys, in both guidance halves."""
    active = sharing.active[:, None, None, None]

    def second_from_first(x: torch.Tensor) -> torch.Tensor:
        uncond_0, uncond_1, cond_0, cond_1 = x.chunk(4)
        uncond_1 = torch.where(active, uncond_0, uncond_1)
        cond_1 = torch.where(active, cond_0, cond_1)
        return torch.cat([uncond_0, uncond_1, cond_0, cond_1])

    return second_from_first(q), second_from_first(k)


def share_cross(q: torch.Tensor, k: torch.Tensor, sharing: Sharing) -> tuple[torch.Tensor, torch.Tensor]:
    """Words that both prompts have get image 1's logits, new words keep their own, in the conditional half.

    One fused kernel can do this: with queries [q_0; q_1] and keys [k_0; 0] for a shared word and [0; k_1] for
    a new one, the product is the logit wanted. All other rows are padded with zeros to the same width.
    """
    uncond_q_0, uncond_q_1, q_0, q_1 = q.chunk(4)
    uncond_k_0, uncond_k_1, k_0, k_1 = k.chunk(4)
    alignment = sharing.alignment[:, None, :, None]  # (n, 1, T, 1)
    is_shared = (alignment >= 0) & sharing.active[:, None, None, None]
    counterpart = alignment.clamp(min=0).expand_as(k_1)
    nothing = torch.zeros_like(k_1)
    shared_keys = torch.where(is_shared, k_0.gather(2, counterpart), nothing)
    own_keys = torch.where(is_shared, nothing, k_1)
    edited_q = torch.cat([q_0, q_1], -1)
    edited_k = torch.cat([shared_keys, own_keys], -1)
    plain_q = torch.cat([uncond_q_0, uncond_q_1, q_0])
    plain_k = torch.cat([uncond_k_0, uncond_k_1, k_0])
    return torch.cat([twice_as_wide(plain_q), edited_q]), torch.cat([twice_as_wide(plain_k), edited_k])


def twice_as_wide(x: torch.Tensor) -> torch.Tensor:
    """(..., d) -> (..., 2d), zeros behind."""
    return torch.cat([x, torch.zeros_like(x)], -1)


def hook(unet, sharing: Sharing) -> Sharing:
    """Put `SharedAttention` into every attention layer of a diffusers UNet2DConditionModel.

    Raises RuntimeError if there is no such layer: hooks that silently hook nothing make unrelated pairs.
    """
    processors = dict(getattr(unet, "attn_processors", {}))
    layers = [name for name in processors if name.endswith(("attn1.processor", "attn2.processor"))]
    if not layers:
        raise RuntimeError(
            "no attention layer was hooked: this UNet has no transformer blocks with attn1 / attn2"
        )
    for name in layers:
        processors[name] = SharedAttention(name, name.endswith("attn2.processor"), sharing)
    unet.set_attn_processor(processors)
    sharing.layers = layers
    return sharing


@contextmanager
def hooked(unet, sharing: Sharing) -> Iterator[Sharing]:
    """`hook` for as long as the block runs; afterwards the UNet is as it was."""
    before = unet.attn_processors
    hook(unet, sharing)
    try:
        yield sharing
    finally:
        unet.set_attn_processor(before)


# ------------------------------------------------------------------------------------------- local blend


class LocalBlend:
    """Hertz et al.'s local blend: outside of where the images look at the given words, the second one is the
    first.

    The maps of the words in all larger cross-attention layers are summed over steps and layers; what exceeds
    `threshold` of the maximum in either image, one latent pixel around it included, belongs to the words.
    words: (2n, T) of 0 and 1. size: (h, w) of the latents. start: the share of the steps before the first
    blend.
    """

    def __init__(
        self, words: torch.Tensor, size: tuple[int, int], threshold: float = 0.3, start: float = 0.2
    ):
        self.words = words
        self.size = size
        self.threshold = threshold
        self.start = start
        self.maps = 0.0

    def watch(self, layer: str, probabilities: torch.Tensor) -> None:
        """Add a layer's maps of the words. probabilities: (4n, heads, pixels, T), conditional half last."""
        pixels = probabilities.shape[2]
        latent_height, latent_width = self.size
        height = round((pixels * latent_height / latent_width) ** 0.5)
        if 4 * height < latent_height:  # too coarse to say where
            return
        _, cond = probabilities.float().chunk(2)
        maps = cond * self.words[:, None, None]
        maps = maps.sum(-1).mean(1)  # over words and heads: (2n, pixels)
        maps = maps.unflatten(1, (1, height, -1))
        self.maps = self.maps + F.interpolate(maps, size=self.size, mode="bilinear")

    def mask(self) -> torch.Tensor:
        """(n, 1, h, w): 1 where the second image is its own."""
        near = F.max_pool2d(self.maps, 3, 1, 1)
        largest = near.amax((1, 2, 3), keepdim=True)
        belongs = (near > self.threshold * largest).float()
        in_first, in_second = belongs.chunk(2)
        return torch.maximum(in_first, in_second)

    def __call__(self, z: torch.Tensor, done: float) -> torch.Tensor:
        """z: (2n, c, h, w), the latents after a step; done: the share of the steps that are done."""
        if done < self.start:
            return z
        first, second = z.chunk(2)
        second = first + self.mask() * (second - first)
        return torch.cat([first, second])


# ------------------------------------------------------------------------------------------- painting


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

    Both images of a pair share the initial noise and every ancestral noise, which belong to the pair's own
    seed. Candidate i shares attention while step / (steps - 1) < p[i]. `weights`: for each pair, words of its
    second prompt and how much they count (1: as usual). `blend`: for each pair, a word of its first and one
    of its second prompt, outside of which (see `LocalBlend`) nothing changes. `watch`: see
    `Sharing.watchers`. `callback(step, latents (2n, c, h, w))`. Returns two float tensors (n, 3, H, W) in [0,
    1]. Raises ValueError for an unknown kind of attention or a word that is not in its prompt.
    """
    n = len(prompts_0)
    unet, scheduler, device = pipe.unet, pipe.scheduler, pipe._execution_device
    sharing = new_sharing(pipe, prompts_0, prompts_1, attention)
    if weights is not None:
        sharing.weights = word_weights(pipe.tokenizer, prompts_1, weights).to(device)
    if watch is not None:
        sharing.watchers.append(watch)
    local_blend = None
    if blend is not None:
        words = marked_words(pipe.tokenizer, prompts_0, prompts_1, blend).to(device)
        local_blend = LocalBlend(words, latent_shape(unet)[1:], blend_threshold)
        sharing.watchers.append(local_blend.watch)

    empty = embed(pipe, [""]).expand(2 * n, -1, -1)
    text = torch.cat([empty, embed(pipe, [*prompts_0, *prompts_1])])
    scale = torch.as_tensor(guidance_scale, dtype=torch.float32, device=device)
    scale = scale.expand(n).repeat(2)
    generators = seeded([*seeds, *seeds])  # twice the same noise
    scheduler.set_timesteps(num_inference_steps, device=device)
    z = starting_latents(scheduler, latent_shape(unet), generators, device)
    active_steps = shared_steps(scheduler, p, n)
    with hooked(unet, sharing):
        for step, t in enumerate(scheduler.timesteps):
            active = active_steps[step]
            sharing.active = active.to(device) if active.any() else None
            z = guided_step(unet, scheduler, z, t, text, scale, generators)
            if local_blend is not None:
                z = local_blend(z, (step + 1) / num_inference_steps)
            if callback is not None:
                callback(step, z)
    first, second = decode(pipe, z).chunk(2)
    return first, second


def new_sharing(pipe, prompts_0: list[str], prompts_1: list[str], attention: str) -> Sharing:
    """For n pairs of prompts. Raises ValueError for an unknown kind of attention."""
    if attention not in ATTENTION:
        raise ValueError(f"attention is {attention!r}; choose one of {ATTENTION}")
    alignment = token_alignment(pipe.tokenizer, prompts_0, prompts_1)
    return Sharing(attention, alignment=alignment.to(pipe._execution_device))


def shared_steps(scheduler, p: float | Sequence[float], n: int) -> torch.Tensor:
    """In which steps each of n candidates shares: step / (steps - 1) < p. Returns (steps, n) bool."""
    steps = len(scheduler.timesteps)
    last = max(1, steps - 1)
    done = torch.tensor([step / last for step in range(steps)])
    p = torch.as_tensor(p, dtype=torch.float32).cpu().expand(n)
    return done[:, None] < p


def word_weights(tokenizer, prompts_1: list[str], weights: Sequence[dict[str, float]]) -> torch.Tensor:
    """(2n, T): the given words' weights in the second images' prompts, 1 everywhere else."""
    n = len(prompts_1)
    of_tokens = torch.ones(2 * n, tokenizer.model_max_length)
    for i, weight_of in enumerate(weights):
        for word, weight in weight_of.items():
            positions = word_positions(tokenizer, prompts_1[i], word)
            of_tokens[n + i, positions] = weight
    return of_tokens


def marked_words(
    tokenizer, prompts_0: list[str], prompts_1: list[str], blend: Sequence[tuple[str, str]]
) -> torch.Tensor:
    """(2n, T): 1 at the tokens of each pair's two words, first prompts first."""
    n = len(prompts_0)
    marks = torch.zeros(2 * n, tokenizer.model_max_length)
    for i, (word_0, word_1) in enumerate(blend):
        marks[i, word_positions(tokenizer, prompts_0[i], word_0)] = 1
        marks[n + i, word_positions(tokenizer, prompts_1[i], word_1)] = 1
    return marks


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
    """Paint f families of k candidates, which differ by p alone; what they have in common is painted once.

    The first image is painted once a family. As long as two candidates both share attention they are one and
    the same; so one trunk is painted, and a candidate leaves it at its own step. Each candidate is what
    `sample_pairs` paints for its (seed, p[i], guidance). Returns first images (f, 3, H, W) and second ones
    (f, k, 3, H, W), in [0, 1]. The scheduler must be one that looks back at no earlier step (Euler, Euler
    ancestral, DDIM, DDPM).
    """
    families, candidates = len(prompts_0), len(p)
    unet, scheduler, device = pipe.unet, pipe.scheduler, pipe._execution_device
    refuse_memory(scheduler)
    sharing = new_sharing(pipe, prompts_0, prompts_1, attention)
    all_share = torch.ones(families, dtype=torch.bool, device=device)
    empty = embed(pipe, [""])
    text_0, text_1 = embed(pipe, prompts_0), embed(pipe, prompts_1)
    scale = torch.as_tensor(guidance_scale, dtype=torch.float32, device=device)
    generators = seeded(seeds)
    scheduler.set_timesteps(num_inference_steps, device=device)
    first = starting_latents(scheduler, latent_shape(unet), generators, device)  # (f, c, h, w)
    trunk = first
    branches: dict[int, torch.Tensor] = {}  # the candidates that have left the trunk
    leaves_at = shared_steps(scheduler, p, candidates).sum(0).tolist()  # each candidate's step
    with hooked(unet, sharing):
        for step, t in enumerate(scheduler.timesteps):
            for i in range(candidates):
                if i not in branches and leaves_at[i] <= step:
                    branches[i] = trunk
            has_trunk = len(branches) < candidates
            sharing.active = all_share if has_trunk else None
            sharing.others = families * len(branches)
            seconds = [trunk, *branches.values()] if has_trunk else list(branches.values())
            rows = 1 + len(seconds)
            no_text = empty.expand(rows * families, -1, -1)
            text = torch.cat([no_text, text_0, *[text_1] * len(seconds)])
            copies = [generator.clone_state() for generator in generators * len(seconds)]
            noise = generators + copies  # the same for all of a family
            z = torch.cat([first, *seconds])
            z = guided_step(unet, scheduler, z, t, text, scale.repeat(rows), noise)
            first, *seconds = z.split(families)
            if has_trunk:
                trunk, *seconds = seconds
            branches = dict(zip(branches, seconds, strict=True))
    second = []
    for i in range(candidates):
        second.append(decode(pipe, branches.get(i, trunk)))
    return decode(pipe, first), torch.stack(second, 1)


def refuse_memory(scheduler) -> None:
    """Raise ValueError for a scheduler that remembers earlier steps: a branch would not have them."""
    memories = ("model_outputs", "ets", "derivatives")
    if scheduler.order > 1 or any(hasattr(scheduler, name) for name in memories):
        raise ValueError(
            f"{type(scheduler).__name__} looks back at earlier steps, which a branch does not have; "
            "use EulerAncestralDiscreteScheduler"
        )
