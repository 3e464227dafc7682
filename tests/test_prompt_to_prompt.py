"""Stage 2 on a tiny seeded Stable Diffusion."""

import pytest
import torch
from torch.testing import assert_close

from ip2p.prompt_to_prompt import Sharing, align, hook, sample_pairs, share_cross, share_self

CAT, DOG = "a red cat on the beach", "a red dog on the beach at night"


def pair(pipe, prompts_0=(CAT,), prompts_1=(DOG,), seeds=(1,), p=0.5, attention="both", steps=4):
    return sample_pairs(pipe, list(prompts_0), list(prompts_1), seeds=seeds, p=p, guidance_scale=3.0,
                        num_inference_steps=steps, attention=attention)


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

    unet = UNet2DModel(sample_size=8, block_out_channels=(16,), layers_per_block=1, norm_num_groups=8,
                       down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    with pytest.raises(RuntimeError, match="no attention layer"):
        hook(unet, Sharing())


def test_shared_attention_equals_the_materialised_form():
    """Against maps copied by hand, for both variants."""
    torch.manual_seed(0)
    n, heads, tokens, d = 2, 2, 5, 8
    q, k, v = (torch.randn(4 * n, heads, s, d) for s in (9, tokens, tokens))
    active, alignment = torch.tensor([True, False]), torch.tensor([[0, 1, -1, 2, 3]] * n)
    scale = d ** -0.5
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
