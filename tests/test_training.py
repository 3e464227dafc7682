"""Stage 4 on a tiny seeded Stable Diffusion."""

import copy

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ip2p.loop import orthogonal, train_loop
from ip2p.training import cache_latents, conditioning_dropout, edit_loss, widen_input


def test_step_0_equals_the_base_model_for_any_conditioning_image(tiny_pipe):
    base = tiny_pipe.unet
    torch.nn.init.normal_(base.conv_in.bias)  # a rebuilt convolution that forgets its bias must fail here
    wide = widen_input(copy.deepcopy(base))
    z, text = torch.randn(3, 4, 8, 8), torch.randn(3, 7, 16)
    for image in (torch.zeros(3, 4, 8, 8), torch.randn(3, 4, 8, 8) * 50):
        assert_close(wide(torch.cat([z, image], 1), 7, text).sample, base(z, 7, text).sample)
    assert wide.config.in_channels == 8


def test_dropout_rates():
    drop_text, drop_image = conditioning_dropout(200_000, torch.Generator().manual_seed(0))
    rates = [(drop_text & ~drop_image), (~drop_text & drop_image), (drop_text & drop_image)]
    for rate in rates:
        assert abs(rate.float().mean().item() - 0.05) < 0.002


def test_conditioning_latents_are_unscaled_modes_and_targets_scaled(tiny_pipe):
    picture = Image.effect_noise((32, 32), 90).convert("RGB")
    source, target = cache_latents(tiny_pipe, [{"original_image": picture, "edited_image": picture}])
    assert_close(source * 0.18215, target)


def test_the_target_is_the_edited_image(tiny_pipe):
    """A perfect prediction of the edited latent's noise has zero loss, whatever the source."""
    unet = widen_input(copy.deepcopy(tiny_pipe.unet))
    alpha_bar = torch.full((1000,), 0.5)
    seen = {}

    class Oracle(torch.nn.Module):
        def forward(self, x, t, text):
            seen["x"] = x
            return type("Out", (), {"sample": (x[:, :4] - 0.5**0.5 * target) / 0.5**0.5})

    target, source = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8)
    text = torch.randn(4, 7, 16)
    loss = edit_loss(Oracle(), alpha_bar, source, target, text, torch.zeros(1, 7, 16), torch.Generator().manual_seed(0))
    assert loss < 1e-9 and seen["x"].shape[1] == unet.config.in_channels


@pytest.mark.parametrize("muon", [False, True])
def test_resumed_training_equals_undisturbed(tmp_path, muon):
    def run(work, stop_after=None):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 4)

        def loss(m, generator, step):
            x = torch.randn(8, 4, generator=generator)
            return (m(x) - x).square().mean()

        train_loop(loss, model, work, steps=20, lr=1e-2, ema_decay=0.9, stop_after=stop_after, muon=muon)
        return model

    whole = run(tmp_path / "a")
    run(tmp_path / "b", stop_after=7)
    again = run(tmp_path / "b")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_muons_update_is_orthogonal():
    for shape in ((8, 24), (24, 8), (8, 8)):
        singular = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
        assert 0.5 < singular.min() and singular.max() < 1.3


def test_a_nan_loss_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="NaN"):
        train_loop(lambda m, g, s: m(torch.full((1, 2), float("nan"))).sum(), torch.nn.Linear(2, 1), tmp_path,
                   steps=60, lr=1)
