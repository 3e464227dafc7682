"""What a diffusion model is taught: noise or velocity, at which noise levels, and how much each counts."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from torch.testing import assert_close

from ip2p.common.diffusion import add_noise, diffusion_loss, to_x0, velocity
from ip2p.models.text_to_image import log_normal_timesteps, new_scheduler

KINDS = ("epsilon", "v_prediction")


def latents(n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """A clean latent and noise, (n, 16, 4, 4) each."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(n, 16, 4, 4, generator=generator) for _ in range(2))


def test_velocity_is_that_of_diffusers_and_means_the_clean_latent():
    z, noise = latents()
    scheduler = DDPMScheduler(prediction_type="v_prediction")
    t = torch.tensor([0, 300, 700, 999])
    alpha_bar = scheduler.alphas_cumprod[t]
    v = velocity(z, noise, alpha_bar)
    assert_close(v, scheduler.get_velocity(z, noise, t))
    z_t = add_noise(z, noise, alpha_bar)
    for i, a in enumerate(alpha_bar.tolist()):
        assert_close(to_x0(v[i], z_t[i], a, "v_prediction"), z[i], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_prediction_costs_nothing(kind):
    z, noise = latents()
    alpha_bar = torch.tensor([0.999, 0.7, 0.2, 0.0001])
    right = noise if kind == "epsilon" else velocity(z, noise, alpha_bar)
    wrong = noise if kind == "v_prediction" else velocity(z, noise, alpha_bar)
    assert diffusion_loss(right, z, noise, alpha_bar, kind) == 0
    assert diffusion_loss(wrong, z, noise, alpha_bar, kind) > 0.1


def test_the_loss_of_noise_is_to_the_bit_what_it_was():
    z, noise = latents()
    alpha_bar = torch.tensor([0.999, 0.7, 0.2, 0.0001])
    eps = noise + 0.1 * z
    for gamma in (5.0, math.inf):
        snr = alpha_bar / (1 - alpha_bar)
        error = (eps - noise).square().mean((1, 2, 3))
        before = (error * snr.clamp(max=gamma) / snr).mean()
        assert torch.equal(diffusion_loss(eps, z, noise, alpha_bar, "epsilon", gamma), before)


@pytest.mark.parametrize("kind, weights", [("epsilon", (1, 1, 5 / 9)), ("v_prediction", (1, 1, 0.5))])
def test_an_error_of_one_costs_its_weight(kind, weights):
    z, noise = latents(1)
    for a, weight in zip((0.0001, 0.5, 0.9), weights, strict=True):  # SNR: 0.0001, 1 and 9
        alpha_bar = torch.tensor([a])
        right = noise if kind == "epsilon" else velocity(z, noise, alpha_bar)
        assert_close(diffusion_loss(right + 1, z, noise, alpha_bar, kind), torch.tensor(float(weight)))
        unweighted = diffusion_loss(right + 1, z, noise, alpha_bar, kind, math.inf)
        assert_close(unweighted, torch.tensor(1.0))


def test_what_is_not_taught_is_refused():
    z, noise = latents(1)
    with pytest.raises(ValueError, match="the loss of sample is not here"):
        diffusion_loss(z, z, noise, torch.tensor([0.5]), "sample")


@pytest.mark.parametrize("kind", KINDS)
def test_places_count_beside_the_others_of_their_picture(kind):
    z, noise = latents(1)
    alpha_bar = torch.tensor([0.5])
    right = noise if kind == "epsilon" else velocity(z, noise, alpha_bar)
    here = torch.zeros(1, 1, 4, 4)
    here[..., :2] = 1
    losses = []
    for error in (here, 1 - here, torch.ones(1, 1, 4, 4)):
        places = 1 + 4 * here
        losses.append(diffusion_loss(right + error, z, noise, alpha_bar, kind, places=places).item())
        times = diffusion_loss(right + error, z, noise, alpha_bar, kind, places=7 * places).item()
        assert times == pytest.approx(losses[-1])
    assert losses == pytest.approx([5 / 6, 1 / 6, 1])


def test_noise_levels_are_log_normal_and_one_from_each_part():
    alpha_bar = new_scheduler().alphas_cumprod
    log_sigma = 0.5 * ((1 - alpha_bar) / alpha_bar).log()
    t = log_normal_timesteps(4000, torch.Generator().manual_seed(0), alpha_bar)
    drawn = log_sigma[t]
    assert drawn.mean().item() == pytest.approx(0.8, abs=0.01)
    assert drawn.std().item() == pytest.approx(1.6, abs=0.03)
    assert (t.diff() >= 0).all() and t.max() == 999

    # four draws are one from each quarter, and independent draws would not be
    quarters = torch.tensor([-0.6745, 0.0, 0.6745]) * 1.6 + 0.8
    for seed in range(50):
        four = log_sigma[log_normal_timesteps(4, torch.Generator().manual_seed(seed), alpha_bar)]
        assert torch.bucketize(four, quarters).tolist() == [0, 1, 2, 3]


def test_the_timestep_is_the_one_that_is_nearest():
    alpha_bar = new_scheduler().alphas_cumprod
    log_sigma = 0.5 * ((1 - alpha_bar.double()) / alpha_bar.double()).log()
    t = log_normal_timesteps(64, torch.Generator().manual_seed(3), alpha_bar)
    shares = (torch.arange(64) + torch.rand(64, generator=torch.Generator().manual_seed(3))) / 64
    wanted = 0.8 + 1.6 * torch.special.ndtri(shares.double())
    assert torch.equal(t, (log_sigma - wanted[:, None]).abs().argmin(1))
