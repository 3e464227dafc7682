"""The autoencoder at 128 px: what its training promises, on a few pictures and steps."""

import copy
import math

import pytest
import torch

from ip2p.common.images import to_float
from ip2p.common.train_loop import step_generator
from ip2p.miniworld import ATTRIBUTES
from ip2p.miniworld.held_out import scenes
from ip2p.models import autoencoder
from ip2p.models.autoencoder import SCALING_FACTOR, Contest, losses, new_autoencoder, normalise_latents
from ip2p.models.perceptual import Critic, PerceptualNet, classes
from ip2p.models.renders import draw


@pytest.fixture(scope="module")
def pictures():
    return torch.from_numpy(draw(scenes(4, seed=1, mix="even"), 128))


@pytest.fixture
def contest():
    torch.manual_seed(0)
    return Contest(new_autoencoder(128, latent_channels=8), Critic())


def test_latents_are_16_wide_and_of_unit_variance_once_scaled(contest, pictures):
    vae = contest.vae.eval()
    before = vae.decode(vae.encode(to_float(pictures)).latent_dist.mean).sample
    deviation = vae.encode(to_float(pictures)).latent_dist.std
    _, folded = normalise_latents(vae, pictures)
    posterior = vae.encode(to_float(pictures)).latent_dist
    z = posterior.mean * SCALING_FACTOR
    assert z.shape == (4, 8, 16, 16)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(posterior.std * folded[:, None, None], deviation, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(vae.decode(posterior.mean).sample, before, atol=1e-3, rtol=0)


def test_each_network_is_taught_by_its_own_part_of_the_loss(contest, pictures):
    x = to_float(pictures[:2])
    net = PerceptualNet().requires_grad_(False)
    parts = losses(contest, x, step_generator(0, 0), net, adversarial=0.5)
    own = next(parts)
    own.backward()
    assert math.isfinite(own.item())
    assert all(p.grad is None for p in contest.critic.parameters())
    taught = [p.grad.clone() for p in contest.vae.parameters()]
    assert all(g.isfinite().all() for g in taught)
    critics = next(parts)
    critics.backward()
    assert math.isfinite(critics.item())
    assert all(p.grad.isfinite().all() for p in contest.critic.parameters())
    assert all(torch.equal(p.grad, g) for p, g in zip(contest.vae.parameters(), taught, strict=True))


def test_an_adversarial_term_of_no_strength_changes_nothing(contest, pictures):
    x = to_float(pictures[:2])
    again = copy.deepcopy(contest)
    (plain,) = losses(contest, x, step_generator(0, 0))
    plain.backward()
    without, _ = losses(again, x, step_generator(0, 0), adversarial=0.0)
    without.backward()
    torch.testing.assert_close(without, plain)
    for p, q in zip(again.vae.parameters(), contest.vae.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-6, rtol=1e-3)


def test_the_perceptual_distance_sees_a_blur(pictures):
    torch.manual_seed(0)
    net, x = PerceptualNet(), to_float(pictures)
    blurred = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    assert net.distance(x, x) < 1e-6
    assert net.distance(blurred, x) > net.distance((x + blurred) / 2, x) > 0


def test_the_perceptual_network_reads_every_attribute(pictures):
    read, told = PerceptualNet()(to_float(pictures)), classes(scenes(4, seed=1, mix="even"))
    assert told.shape == (4, len(ATTRIBUTES))
    assert {name: out.shape for name, out in read.items()} == {
        name: (4, len(v)) for name, v in ATTRIBUTES.items()
    }


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    options = dict(
        size=64,
        steps=6,
        batch=2,
        perceptual_from=1 / 3,
        adversarial_from=2 / 3,
        perceptual_steps=2,
        sets=((8, 1, "plain"), (8, 3, "even")),
    )
    whole = autoencoder.build(tmp_path, name="whole", **options).state_dict()
    for end in (3, 5):  # the end of the second phase, and amid the third
        autoencoder.build(tmp_path, name="halted", stop_after=end, **options)
    (tmp_path / "halted" / "checkpoint-00000005.safetensors").unlink()  # as if killed before it was written
    halted = autoencoder.build(tmp_path, name="halted", **options).state_dict()
    assert all(torch.equal(halted[name], x) for name, x in whole.items())
