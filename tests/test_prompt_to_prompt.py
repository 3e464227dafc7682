"""Stage 2 on a tiny seeded Stable Diffusion."""

import weakref

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from ip2p.prompt_to_prompt import (
    Sharing,
    align,
    hook,
    sample_families,
    sample_pairs,
    share_cross,
    share_self,
    word_positions,
)

CAT, DOG = "a red cat on the beach", "a red dog on the beach at night"


def pair(pipe, prompts_0=(CAT,), prompts_1=(DOG,), seeds=(1,), p=0.5, attention="both", steps=4):
    return sample_pairs(
        pipe,
        list(prompts_0),
        list(prompts_1),
        seeds=seeds,
        p=p,
        guidance_scale=3.0,
        num_inference_steps=steps,
        attention=attention,
    )


@pytest.mark.parametrize("attention", ["self", "cross", "both"])
def test_identical_prompts_give_identical_images(tiny_pipe, attention):
    a, b = pair(tiny_pipe, (CAT,), (CAT,), attention=attention)
    assert torch.equal(a, b)


@pytest.mark.parametrize("attention", ["self", "cross"])
def test_sharing_changes_only_the_second_image(tiny_pipe, attention):
    a0, b0 = pair(tiny_pipe, p=0.0)
    a1, b1 = pair(tiny_pipe, p=0.9, attention=attention)
    assert_close(a0, a1, atol=1e-5, rtol=0)
    assert (b0 - b1).abs().max() > 1e-4


def test_p_zero_is_independent_sampling_from_the_same_noise(tiny_pipe):
    _, edited = pair(tiny_pipe, p=0.0)
    alone, _ = pair(tiny_pipe, (DOG,), (DOG,), p=0.0)
    assert_close(edited, alone, atol=1e-5, rtol=0)


def test_noise_belongs_to_the_candidate(tiny_pipe):
    _, together = pair(tiny_pipe, (CAT, DOG), (DOG, CAT), seeds=(1, 2), p=[0.3, 0.8])
    _, swapped = pair(tiny_pipe, (DOG, CAT), (CAT, DOG), seeds=(2, 1), p=[0.8, 0.3])
    assert_close(together, swapped.flip(0), atol=1e-5, rtol=0)


def test_the_processor_without_sharing_is_the_stock_one(tiny_pipe):
    unet = tiny_pipe.unet
    x, text = torch.randn(4, 4, 8, 8), torch.randn(4, 7, 16)
    stock, before = unet(x, 5, text).sample, unet.attn_processors
    layers = len(before)  # set_attn_processor empties the dict that it is given
    sharing = hook(unet, Sharing())
    ours = unet(x, 5, text).sample
    unet.set_attn_processor(before)
    assert len(sharing.layers) == layers > 0
    assert_close(ours, stock)


def test_no_hooked_layer_is_an_error():
    from diffusers import UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(16,),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    with pytest.raises(RuntimeError, match="no attention layer"):
        hook(unet, Sharing())


def test_shared_attention_equals_the_materialised_form():
    """Against maps copied by hand, for both variants."""
    torch.manual_seed(0)
    n, heads, tokens, d = 2, 2, 5, 8
    q, k, v = (torch.randn(4 * n, heads, s, d) for s in (9, tokens, tokens))
    active, alignment = torch.tensor([True, False]), torch.tensor([[0, 1, -1, 2, 3]] * n)
    scale = d**-0.5
    kernel = torch.nn.functional.scaled_dot_product_attention
    logits = q @ k.transpose(-1, -2) * scale
    sharing = Sharing("both", active, alignment)

    cross = logits.clone()
    for i in range(n):
        if active[i]:
            for j, source in enumerate(alignment[i].tolist()):
                if source >= 0:
                    cross[3 * n + i, :, :, j] = logits[2 * n + i, :, :, source]
    assert_close(kernel(*share_cross(q, k, sharing), v, scale=scale), cross.softmax(-1) @ v)

    q = torch.randn(4 * n, heads, tokens, d)
    copied = q @ k.transpose(-1, -2) * scale
    for i in range(n):
        if active[i]:
            copied[n + i], copied[3 * n + i] = copied[i], copied[2 * n + i]
    assert_close(kernel(*share_self(q, k, sharing), v, scale=scale), copied.softmax(-1) @ v)


def test_align_pairs_up_replaced_words_and_marks_new_ones():
    assert align([0, 5, 6, 7, 1], [0, 5, 9, 7, 1]) == [0, 1, 2, 3, 4]
    assert align([0, 5, 6, 1], [0, 5, 6, 8, 9, 1]) == [0, 1, 2, -1, -1, 3]


def test_unknown_attention(tiny_pipe):
    with pytest.raises(ValueError, match="choose one of"):
        pair(tiny_pipe, attention="none")


# ---------------------------------------------------------------------------- a plain reference


class Materialised:
    """The authors' and Hertz et al.'s attention as a plain loop over rows, with every map written out."""

    def __init__(self, cross, kind, active, alignment, weights):
        self.cross, self.kind, self.active, self.alignment, self.weights = (
            cross,
            kind,
            active,
            alignment,
            weights,
        )

    def __call__(self, attn, x, encoder_hidden_states=None, **_):
        context = x if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (attn.head_to_batch_dim(y) for y in (attn.to_q(x), attn.to_k(context), attn.to_v(context)))
        heads, n = attn.heads, len(x) // 4  # [first uncond, second uncond, first cond, second cond]
        logits = (q @ k.transpose(-1, -2) * attn.scale).unflatten(0, (4, n, heads))
        for i in range(n):
            if self.active[i] and not self.cross and self.kind in ("self", "both"):
                logits[1, i], logits[3, i] = logits[0, i].clone(), logits[2, i].clone()
            if self.active[i] and self.cross and self.kind in ("cross", "both"):
                for j, source in enumerate(self.alignment[i]):
                    if source >= 0:
                        logits[3, i, :, :, j] = logits[2, i, :, :, source]
        maps = logits.softmax(-1)
        if self.cross:
            for i, of_token in enumerate(self.weights):
                maps[3, i] = maps[3, i] * of_token
        return attn.to_out[0](attn.batch_to_head_dim(maps.flatten(0, 2) @ v))


@torch.no_grad()
def reference(pipe, first, second, seeds, p, guidance, steps, kind, weights=None):
    """Prompt-to-Prompt, step by step, one loop, nothing fused and nothing shared by handing over."""
    n, tokenizer, scheduler = len(seeds), pipe.tokenizer, pipe.scheduler
    rows = [
        tokenizer(x, padding="max_length", max_length=tokenizer.model_max_length).input_ids
        for x in ["", *first, *second]
    ]
    features = pipe.text_encoder(torch.tensor(rows))[0]
    text = torch.cat([features[:1].expand(2 * n, -1, -1), features[1:]])
    alignment = [align(rows[1 + i], rows[1 + n + i]) for i in range(n)]
    weights = torch.ones(n, len(rows[0])) if weights is None else weights
    scheduler.set_timesteps(steps)
    noise = [torch.Generator().manual_seed(s) for s in (*seeds, *seeds)]
    unet = pipe.unet.config
    z = torch.stack(
        [torch.randn(unet.in_channels, unet.sample_size, unet.sample_size, generator=g) for g in noise]
    )
    z = z * scheduler.init_noise_sigma
    stock = pipe.unet.attn_processors
    try:
        for step, t in enumerate(scheduler.timesteps):
            active = [step / (steps - 1) < x for x in p]
            pipe.unet.set_attn_processor(
                {
                    name: Materialised("attn2" in name, kind, active, alignment, weights)
                    for name in pipe.unet.attn_processors
                }
            )
            x = scheduler.scale_model_input(z, t)
            u, c = pipe.unet(torch.cat([x, x]), t, text).sample.chunk(2)
            z = scheduler.step(u + guidance * (c - u), t, z, generator=noise).prev_sample
    finally:
        pipe.unet.set_attn_processor(stock)
    return (pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1).chunk(2)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", ["self", "cross", "both"])
def test_equals_a_plain_reference_with_materialised_maps(tiny_pipe, kind, prediction):
    scheduler = tiny_pipe.scheduler
    tiny_pipe.scheduler = type(scheduler).from_config(scheduler.config, prediction_type=prediction)
    try:
        asked = dict(seeds=(1, 2), p=(0.4, 0.9))
        ours = sample_pairs(
            tiny_pipe,
            [CAT, DOG],
            [DOG, CAT],
            guidance_scale=3.0,
            num_inference_steps=5,
            attention=kind,
            **asked,
        )
        plain = reference(tiny_pipe, [CAT, DOG], [DOG, CAT], guidance=3.0, steps=5, kind=kind, **asked)
    finally:
        tiny_pipe.scheduler = scheduler
    for a, b in zip(ours, plain, strict=True):
        assert_close(a, b, atol=2e-5, rtol=0)


def test_the_bundled_painter_does_as_the_reference_too():
    """mini-sd: identical prompts give identical pictures, p = 0 is independent sampling, and all is as
    written out."""
    from ip2p.profiles import load_text_to_image

    pipe, asked = load_text_to_image("mini"), dict(seeds=(1, 2), p=(0.4, 0.9))
    ours = sample_pairs(pipe, [CAT, DOG], [DOG, CAT], guidance_scale=3.0, num_inference_steps=5, **asked)
    plain = reference(pipe, [CAT, DOG], [DOG, CAT], guidance=3.0, steps=5, kind="both", **asked)
    for a, b in zip(ours, plain, strict=True):
        assert_close(a, b, atol=1e-3, rtol=0)  # a quarter of a grey level
    a, b = pair(pipe, (CAT,), (CAT,))
    assert torch.equal(a, b)
    _, edited = pair(pipe, p=0.0)
    alone, _ = pair(pipe, (DOG,), (DOG,), p=0.0)
    assert_close(edited, alone, atol=1e-3, rtol=0)


def test_a_word_can_weigh_more_or_less(tiny_pipe):
    weights = torch.ones(1, tiny_pipe.tokenizer.model_max_length)
    weights[0, word_positions(tiny_pipe.tokenizer, DOG, "night")] = 3.0
    asked = dict(seeds=(1,), p=(0.5,))
    plain = reference(tiny_pipe, [CAT], [DOG], guidance=3.0, steps=4, kind="both", weights=weights, **asked)
    ours = {
        w: sample_pairs(
            tiny_pipe,
            [CAT],
            [DOG],
            guidance_scale=3.0,
            num_inference_steps=4,
            weights=[{"night": w}],
            **asked,
        )
        for w in (1.0, 3.0)
    }
    assert_close(ours[3.0][1], plain[1], atol=2e-5, rtol=0)
    assert torch.equal(ours[3.0][0], ours[1.0][0]) and (ours[3.0][1] - ours[1.0][1]).abs().max() > 1e-4
    assert_close(ours[1.0][1], pair(tiny_pipe)[1], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="does not hold 'moon'"):
        sample_pairs(
            tiny_pipe, [CAT], [DOG], guidance_scale=3.0, num_inference_steps=4, weights=[{"moon": 2}], **asked
        )


def test_local_blend_leaves_the_rest_alone(tiny_pipe, monkeypatch):
    from ip2p import prompt_to_prompt

    masks, latents = [], []
    look = prompt_to_prompt.LocalBlend.mask
    monkeypatch.setattr(
        prompt_to_prompt.LocalBlend, "mask", lambda self: masks.append(look(self)) or masks[-1]
    )
    sample_pairs(
        tiny_pipe,
        [CAT],
        [DOG],
        seeds=(1,),
        p=0.5,
        guidance_scale=3.0,
        num_inference_steps=4,
        blend=[("cat", "dog")],
        blend_threshold=0.99,
        callback=lambda step, z: latents.append(z.clone()),
    )
    first, second = latents[-1].chunk(2)
    outside = (masks[-1] == 0).expand_as(first)
    assert 0.05 < masks[-1].mean() < 0.95, "the words are somewhere, and not everywhere"
    assert torch.equal(first[outside], second[outside]) and not torch.equal(first, second)


@pytest.mark.parametrize("kind", ["self", "cross", "both"])
def test_a_family_is_what_its_candidates_are_alone(tiny_pipe, kind):
    """Whatever they share on the way, each candidate is what `sample_pairs` paints for its seed, p and
    guidance."""
    p, seeds, guidance = (0.7, 0.1, 0.4, 1.0), (1, 2), (3.0, 5.0)
    first, second = sample_families(
        tiny_pipe,
        [CAT, DOG],
        [DOG, CAT],
        seeds=seeds,
        p=p,
        guidance_scale=guidance,
        num_inference_steps=6,
        attention=kind,
    )
    assert first.shape == (2, 3, 32, 32) and second.shape == (2, 4, 3, 32, 32)
    for i, share in enumerate(p):
        a, b = sample_pairs(
            tiny_pipe,
            [CAT, DOG],
            [DOG, CAT],
            seeds=seeds,
            p=share,
            guidance_scale=guidance,
            num_inference_steps=6,
            attention=kind,
        )
        assert_close(first, a, atol=2e-5, rtol=0)
        assert_close(second[:, i], b, atol=2e-5, rtol=0)


def test_a_family_needs_a_scheduler_without_memory(tiny_pipe):
    from diffusers import DPMSolverMultistepScheduler

    scheduler = tiny_pipe.scheduler
    tiny_pipe.scheduler = DPMSolverMultistepScheduler.from_config(scheduler.config)
    try:
        with pytest.raises(ValueError, match="looks back"):
            sample_families(
                tiny_pipe, [CAT], [DOG], seeds=(1,), p=(0.5,), guidance_scale=(3.0,), num_inference_steps=4
            )
    finally:
        tiny_pipe.scheduler = scheduler


class PeakMemory(TorchDispatchMode):
    """The most bytes that were alive at once, of tensors made inside."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.seen = {}

    def free(self, key):
        self.now -= self.seen.pop(key)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                if storage.data_ptr() not in self.seen:
                    self.seen[storage.data_ptr()] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self.free, storage.data_ptr())
        self.peak = max(self.peak, self.now)
        return out


@torch.no_grad()
def test_sharing_takes_less_than_half_the_memory_of_written_out_maps(tiny_pipe):
    unet, n = tiny_pipe.unet, 2
    x, text = torch.randn(4 * n, 4, 32, 32), torch.randn(4 * n, 7, 16)
    active, alignment = torch.ones(n, dtype=torch.bool), torch.tensor([list(range(7))] * n)
    stock, peaks = unet.attn_processors, {}
    try:
        for name in ("handed over", "written out"):
            if name == "handed over":
                hook(unet, Sharing("both", active, alignment))
            else:
                unet.set_attn_processor(
                    {
                        key: Materialised(
                            "attn2" in key, "both", active, alignment.tolist(), torch.ones(n, 7)
                        )
                        for key in unet.attn_processors
                    }
                )
            with PeakMemory() as memory:
                unet(x, 5, text)
            peaks[name] = memory.peak
    finally:
        unet.set_attn_processor(stock)
    assert 2 * peaks["handed over"] <= peaks["written out"], {
        name: f"{p / 1e6:.1f} MB" for name, p in peaks.items()
    }
