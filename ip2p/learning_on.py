"""An editor learns on, by a loss of its own: what `ip2p.region` and the figure `repair` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ip2p.common.durable import locked, name_of_model
from ip2p.common.train_loop import train_loop
from ip2p.profiles import Profile, load_edit_pipeline
from ip2p.training import same_run


def learn_on(
    start: str,
    out: Path,
    profile: Profile,
    settings: dict,
    losses: Callable,
    *,
    steps: int,
    lr: float,
    seed: int = 0,
    alter: Callable = lambda unet: unet,
):
    """Train the UNet of the editor in the folder `start` and save it as a pipeline folder. An interrupted run
    goes on; one with other settings is a ValueError.

    settings: what else the result depends on, such as checksums of pairs. losses(pipe, cache): the loss of a
    step, for `train_loop`; it may keep what it encodes in the folder `cache`. alter(unet) changes the UNet
    before it learns. Returns (pipeline, log of `train_loop`)."""
    settings = settings | {"start": name_of_model(start), "steps": steps, "lr": lr}
    settings |= {"batch": profile.train_batch, "seed": seed}
    done = out / "model_index.json"
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, "training in"):
        same_run(out / "work", settings, done)
        pipe = load_edit_pipeline(start)
        pipe.vae.requires_grad_(False)
        pipe.text_encoder.requires_grad_(False)
        alter(pipe.unet)
        pipe.to(profile.place()[0])
        options = {"seed": seed, "muon": profile.muon, "ema_decay": 0.999, "decay": 0.5, "desc": "training"}
        loss = losses(pipe, out / "work" / "cache")
        log = train_loop(loss, pipe.unet, out / "work", steps=steps, lr=lr, **options)
        if not done.exists():  # it is written last
            pipe.save_pretrained(out)
    return pipe, log
