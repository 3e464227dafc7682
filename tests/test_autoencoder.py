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
from ip2p.models.autoencoder import (
    SCALING_FACTOR,
    Contest,
    adversarial_strength,
    decoding_losses,
    distance,
    encoding_loss,
    freeze_encoder,
    new_autoencoder,
    normalise_latents,
    sample_of,
)
from ip2p.models.perceptual import Critic, PerceptualNet, classes
from ip2p.models.renders import draw


@pytest.fixture(scope="module")
def pictures():
    return torch.from_numpy(draw(scenes(4, seed=1, mix="even"), 128))


@pytest.fixture
def contest():
    torch.manual_seed(0)
    return Contest(new_autoencoder(128), Critic())


@pytest.fixture(scope="module")
def perceptual():
    torch.manual_seed(1)
    return PerceptualNet().requires_grad_(False)


def test_latents_are_16_wide_and_of_unit_variance_once_scaled(contest, pictures):
    vae = contest.vae.eval()
    before = vae.decode(vae.encode(to_float(pictures)).latent_dist.mean).sample
    deviation = vae.encode(to_float(pictures)).latent_dist.std
    _, folded = normalise_latents(vae, pictures)
    posterior = vae.encode(to_float(pictures)).latent_dist
    z = posterior.mean * SCALING_FACTOR
    assert z.shape == (4, 16, 16, 16)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(16), atol=1e-3, rtol=0)
    torch.testing.assert_close(posterior.std * folded[:, None, None], deviation, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(vae.decode(posterior.mean).sample, before, atol=1e-3, rtol=0)


def test_the_encoder_learns_by_distance_and_a_little_divergence(contest, pictures, perceptual):
    vae, x = contest.vae, to_float(pictures[:2])
    loss = encoding_loss(vae, x, step_generator(0, 0), perceptual)
    posterior = vae.encode(x).latent_dist
    y = vae.decode(sample_of(posterior, step_generator(0, 0))).sample
    divergence = posterior.kl().sum() / posterior.mean.numel()  # diffusers' own, of one number on average
    torch.testing.assert_close(loss, distance(y, x, perceptual) + 1e-4 * divergence, atol=1e-6, rtol=1e-6)
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in vae.encoder.parameters())


def test_each_network_is_taught_by_its_own_part_of_the_loss(contest, pictures, perceptual):
    x = to_float(pictures[:2])
    freeze_encoder(contest.vae)
    parts = decoding_losses(contest, x, step_generator(0, 0), perceptual, adversarial=0.5)
    own = next(parts)
    own.backward()
    assert math.isfinite(own.item())
    assert all(p.grad is None for p in contest.critic.parameters())
    assert all(p.grad is None for p in contest.vae.encoder.parameters())
    decoder = [*contest.vae.decoder.parameters(), *contest.vae.post_quant_conv.parameters()]
    taught = [p.grad.clone() for p in decoder]
    assert all(g.isfinite().all() for g in taught)
    critics = next(parts)
    critics.backward()
    assert math.isfinite(critics.item())
    assert all(p.grad.isfinite().all() for p in contest.critic.parameters())
    assert all(torch.equal(p.grad, g) for p, g in zip(decoder, taught, strict=True))


def test_an_adversarial_term_of_no_strength_changes_nothing(contest, pictures, perceptual):
    x = to_float(pictures[:2])
    freeze_encoder(contest.vae)
    again = copy.deepcopy(contest)
    z = sample_of(contest.vae.encode(x).latent_dist, step_generator(0, 0))
    plain = distance(contest.vae.decode(z).sample, x, perceptual)
    plain.backward()
    without, _ = decoding_losses(again, x, step_generator(0, 0), perceptual, adversarial=0.0)
    without.backward()
    torch.testing.assert_close(without, plain)
    for p, q in zip(again.vae.decoder.parameters(), contest.vae.decoder.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-6, rtol=1e-3)


def test_the_critic_is_listened_to_once_it_has_learned_a_little():
    assert [adversarial_strength(step, 1000) for step in (0, 19, 20, 999)] == [0, 0, 0.5, 0.5]


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


SMALL = dict(steps=4, batch=2, perceptual_steps=2, shown=1, sets=((4, 1, "wild"), (4, 3, "even")))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A folder of work and the weights after both parts of the training."""
    work = tmp_path_factory.mktemp("whole")
    vae = autoencoder.learn_to_encode(work, **SMALL)
    first = copy.deepcopy(vae)
    return work, first, autoencoder.learn_to_decode(work, vae, **SMALL)


def test_the_second_part_leaves_the_latents_and_teaches_the_decoder(learned, pictures):
    work, first, second = learned
    assert (work / "encoder" / "log.jsonl").exists() and (work / "decoder" / "log.jsonl").exists()
    assert torch.equal(autoencoder.encode(first, pictures), autoencoder.encode(second, pictures))
    for name, weight in second.state_dict().items():
        frozen = name.startswith(("encoder.", "quant_conv."))
        assert torch.equal(weight, first.state_dict()[name]) == frozen, name


def test_the_first_part_ends_with_latents_of_unit_variance(learned):
    work, first, _ = learned
    _, trained_on = autoencoder.some_renders(work, SMALL["sets"])
    z = autoencoder.encode(first, trained_on) * SCALING_FACTOR
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(16), atol=1e-3, rtol=0)


def test_a_killed_training_goes_on_to_the_same_weights(learned, tmp_path):
    whole = learned[2].state_dict()
    for learn in (autoencoder.learn_to_encode, halted_decoder):
        for end in (2, 3):
            learn(tmp_path, **SMALL, stop_after=end)
        part = "encoder" if learn is autoencoder.learn_to_encode else "decoder"
        (tmp_path / part / "checkpoint-00000003.safetensors").unlink()  # as if killed before it was written
    halted = halted_decoder(tmp_path, **SMALL).state_dict()
    assert all(torch.equal(halted[name], x) for name, x in whole.items())


def halted_decoder(work, **options):
    """The second part after the whole of the first."""
    return autoencoder.learn_to_decode(work, autoencoder.learn_to_encode(work, **SMALL), **options)
