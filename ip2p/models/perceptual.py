"""Two small networks that look at reconstructions while the autoencoder is trained, so that outlines come
out crisp.

`PerceptualNet` compares features instead of pixels (LPIPS; Zhang et al., arXiv 1801.03924); `Critic`
tells patches of reconstructions from patches of renders (PatchGAN; Isola et al., arXiv 1611.07004).
Neither is shipped, and neither has anything to do with the judge, which only measures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ip2p.common.train_loop import train_loop
from ip2p.miniworld import ATTRIBUTES, Scene


class PerceptualNet(nn.Module):
    """A plain stack of convolutions like VGG's, that reads a scene's attributes off its picture.

    The attributes are only its school: what is used are the features on the way, at full resolution and
    at 1/2, 1/4 and 1/8 of it."""

    def __init__(self, channels: tuple[int, ...] = (16, 32, 48, 64)):
        super().__init__()
        self.stages = nn.ModuleList()
        for c_in, c_out in zip((3, *channels), channels, strict=False):
            first, second = nn.Conv2d(c_in, c_out, 3, padding=1), nn.Conv2d(c_out, c_out, 3, padding=1)
            self.stages.append(nn.Sequential(first, nn.ReLU(), second, nn.ReLU()))
        places = 4 * 4  # the heads see where things are, as left and right are to be read
        self.heads = nn.ModuleDict()
        for name, values in ATTRIBUTES.items():
            self.heads[name] = nn.Linear(channels[-1] * places, len(values))

    def features(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """(B, 3, h, w) in [-1, 1] -> (B, c, h / 2^i, w / 2^i) of each stage i, one after the other."""
        for i, stage in enumerate(self.stages):
            x = stage(F.avg_pool2d(x, 2) if i else x)
            yield x

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, h, w) in [-1, 1] -> {attribute: (B, classes) logits}."""
        *_, last = self.features(x)
        last = F.adaptive_avg_pool2d(last, 4).flatten(1)
        return {name: head(last) for name, head in self.heads.items()}

    def distance(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Mean squared distance of the features of `y` and `x` (B, 3, h, w), each place's features scaled
        to unit length first, so that strong and faint outlines count alike. Equation 1 of LPIPS, all its
        weights 1."""
        with torch.no_grad():
            wanted = [F.normalize(f) for f in self.features(x)]
        parts = []
        for found, target in zip(self.features(y), wanted, strict=True):
            parts.append((F.normalize(found) - target).square().sum(1).mean())
        return torch.stack(parts).mean()


def classes(scenes: list[Scene]) -> torch.Tensor:
    """The number of each attribute's value: (n, attributes) int64."""
    rows = []
    for scene in scenes:
        told = scene.attributes()
        rows.append([values.index(told[name]) for name, values in ATTRIBUTES.items()])
    return torch.tensor(rows)


def build_perceptual(
    work: Path,
    scenes: list[Scene],
    pictures: torch.Tensor,
    *,
    device: str = "cpu",
    steps: int = 1000,
    batch: int = 16,
    seed: int = 0,
) -> PerceptualNet:
    """Train on renders (n, 3, h, w) uint8 from nothing, or from the checkpoint in `work`/perceptual.
    Frozen."""
    torch.manual_seed(seed)
    model = PerceptualNet().to(device)
    truth = classes(scenes)

    def step_loss(model, generator, step):
        rows = torch.randint(len(pictures), (batch,), generator=generator)
        x = pictures[rows].to(device).float() / 127.5 - 1
        noise = torch.randn(x.shape, generator=generator).to(device)
        logits = model(x + 0.05 * noise)
        y = truth[rows].to(device)
        return sum(F.cross_entropy(out, y[:, i]) for i, out in enumerate(logits.values()))

    train_loop(
        step_loss,
        model,
        work / "perceptual",
        steps=steps,
        lr=1e-3,
        seed=seed,
        muon=True,
        decay=0.5,
        save_minutes=2,
        desc="perceptual network",
    )
    return model.requires_grad_(False)


class Critic(nn.Module):
    """PatchGAN: one logit for each patch of 34 x 34 pixels, high where it looks like a render.

    The patch of the paper is 70 of 256 pixels wide; ours has one layer less for pictures half as wide.
    Group instead of batch normalisation: its verdict on a picture does not depend on the others."""

    def __init__(self, channels: tuple[int, ...] = (24, 48, 96)):
        super().__init__()
        first, second, third = channels
        self.layers = nn.Sequential(
            nn.Conv2d(3, first, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(first, second, 4, 2, 1),
            nn.GroupNorm(8, second),
            nn.LeakyReLU(0.2),
            nn.Conv2d(second, third, 4, 1, 1),
            nn.GroupNorm(8, third),
            nn.LeakyReLU(0.2),
            nn.Conv2d(third, 1, 4, 1, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) in [-1, 1] -> (B, 1, h / 4 - 2, w / 4 - 2) logits."""
        return self.layers(x)


def hinge(critic: Critic, renders: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
    """The critic's own loss: logits above 1 for renders and below -1 for reconstructions cost nothing."""
    return 0.5 * (F.relu(1 - critic(renders)).mean() + F.relu(1 + critic(reconstructions)).mean())
