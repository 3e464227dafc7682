"""What an unfinished fine-tuning leaves on disk, so that one that is killed goes on."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import torch

from ip2p.common.checkpoints import load_checkpoint, load_optimiser, part, save_checkpoint
from ip2p.common.durable import remove_unfinished


class Progress:
    """The newest checkpoint of a fine-tuning: the weights that learn, what the optimiser and the noise of
    dropout know, and all losses. Made at the start, it brings them back.

    made_by: what decides the result, beside the model's first weights. Raises ValueError if `work` holds
    another fine-tuning's checkpoint."""

    def __init__(
        self, work: Path, model, optimizer: torch.optim.Optimizer, made_by: list, save_minutes: float
    ) -> None:
        self.work = work
        self.optimizer = optimizer
        self.device = model.device
        self.seconds = 60 * save_minutes
        self.learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.losses: list[float] = []
        self.identity = checksum_of_start(model, made_by)
        work.mkdir(parents=True, exist_ok=True)
        remove_unfinished(work, "checkpoint-*")
        self.resume()
        self.saved = time.monotonic()

    def resume(self) -> None:
        state, about = load_checkpoint(self.work)
        if not state:
            return
        if about.get("identity") != self.identity:
            raise ValueError(
                f"{self.work} holds an unfinished fine-tuning of other weights or lessons; "
                "delete it to begin anew"
            )
        self.losses = about["losses"]
        with torch.no_grad():
            for name, weight in self.learning.items():
                weight.copy_(state[f"model.{name}"])
        load_optimiser(self.optimizer, part(state, "optimiser"))
        torch.set_rng_state(state["noise.cpu"])
        if self.device.type != "cpu":
            torch.get_device_module(self.device).set_rng_state(state[f"noise.{self.device.type}"])

    def save_if_due(self) -> None:
        if time.monotonic() - self.saved < self.seconds:
            return
        noise = {"cpu": torch.get_rng_state()}
        if self.device.type != "cpu":
            noise[self.device.type] = torch.get_device_module(self.device).get_rng_state()
        state = {"model": self.learning, "optimiser": self.optimizer.state_dict()["state"], "noise": noise}
        save_checkpoint(self.work, len(self.losses), 1, state, losses=self.losses, identity=self.identity)
        self.saved = time.monotonic()


def checksum_of_start(model, made_by: list) -> str:
    """SHA-256 of a model's weights and of what they are about to learn."""
    sha256 = hashlib.sha256(json.dumps(made_by).encode())
    for weight in model.state_dict().values():
        sha256.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sha256.hexdigest()
