"""One training loop for everything that is trained here: resumable, logged, with EMA and a picture now and
then.

All randomness of a step is drawn from a generator seeded by (seed, step), so a run that is killed and resumed
takes exactly the steps that an undisturbed run takes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ip2p.common.checkpoints import load_checkpoint, load_optimiser, part, save_checkpoint
from ip2p.common.devices import choose_training_dtype, mixed_precision
from ip2p.common.durable import remove_unfinished, write_atomically
from ip2p.common.errors import UserError
from ip2p.common.optimisers import new_optimisers


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator of all noise of one step."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100, decay: float = 0.25) -> float:
    """Linear warm-up, constant, then linear decay to 0 over the last `decay` share of the steps."""
    rest = (steps - step) / max(1, int(steps * decay))
    return peak * min(1.0, (step + 1) / warmup, rest)


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How `train_loop` trains; a model's own defaults are with those who call it."""

    steps: int  # of the optimiser
    lr: float  # at its peak
    warmup: int = 100  # steps
    decay: float = 0.25  # the share of the steps in which the learning rate falls to 0
    seed: int = 0
    weight_decay: float = 0.01
    muon: bool = False  # weights of hidden layers by `Muon`, the rest by AdamW
    eight_bit: bool = False  # AdamW with 8-bit moments (bitsandbytes)
    clip: float = 1.0  # largest norm of the gradient
    dtype: str = "auto"  # of mixed precision, see `choose_training_dtype`; a loss in parts sees to it itself
    ema_decay: float | None = None  # of the averaged weights; None: no average
    save_minutes: float = 4.0  # between checkpoints
    keep: int = 2  # checkpoints
    sample_minutes: float = 8.0  # between calls of `sample`
    sample_every: int = 0  # steps between them instead, if not 0
    stop_after: int | None = None  # stop at this step, but keep the schedule of the full run
    desc: str = ""  # before the progress bar


class Run:
    """The model, its optimisers and averages, and the log; goes on from the newest checkpoint."""

    def __init__(self, model: torch.nn.Module, work: Path, options: LoopOptions, accelerator):
        from diffusers.training_utils import EMAModel

        self.model, self.work, self.options, self.accelerator = model, work, options, accelerator
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.names, self.params = list(named), list(named.values())
        optimisers = new_optimisers(model, options.lr, options.weight_decay, options.muon, options.eight_bit)
        self.ema = None
        if options.ema_decay:  # early on, the average is short: the decay is at most (1 + t) / (10 + t)
            self.ema = EMAModel(self.params, decay=options.ema_decay, foreach=True)
        self.dtype = choose_training_dtype(options.dtype)
        self.begun = time.monotonic()
        self.resume(optimisers)
        # what the loss calls: the model itself, or where there are several processes a wrapper
        self.live = accelerator.prepare_model(model)
        self.optimisers = [accelerator.prepare_optimizer(optimiser) for optimiser in optimisers]

    def resume(self, optimisers: list[torch.optim.Optimizer]) -> None:
        """Load the newest checkpoint, if there is one, into the model, `optimisers` and the averages; sets
        `start` (steps already taken), `log`, the losses since its last row and `seconds_before`. What a
        killed run left half-written goes."""
        if self.accelerator.is_main_process:  # the one that writes
            for name in ("checkpoint-*", "log.jsonl"):
                remove_unfinished(self.work, name)
        state, rest = load_checkpoint(self.work)
        self.start = rest.get("step", 0)
        self.log = rest.get("log", [])
        loss_sum, self.loss_count = rest.get("since_row", (0.0, 0))
        self.loss_sum = torch.tensor(loss_sum, device=self.params[0].device)
        self.seconds_before = rest.get("seconds", 0.0)
        if not state:
            return
        self.model.load_state_dict(part(state, "model"))
        for number, optimiser in enumerate(optimisers):
            load_optimiser(optimiser, part(state, f"optimiser.{number}"))
        if self.ema:
            averages = part(state, "ema")
            shadows = [averages[name].to(p.device) for name, p in zip(self.names, self.params, strict=True)]
            self.ema.load_state_dict({"shadow_params": shadows, "optimization_step": self.start})

    def seconds(self) -> float:
        """Since the start, of all runs."""
        return self.seconds_before + time.monotonic() - self.begun

    def save(self, step: int) -> None:
        """Write the checkpoint after `step` steps, from which a run goes on bit for bit, and `log.jsonl`. In
        the main process; the others do nothing."""
        if not self.accelerator.is_main_process:
            return
        state = {"model": self.model.state_dict(), "optimiser": {}}
        if self.ema:
            state["ema"] = dict(zip(self.names, self.ema.shadow_params, strict=True))
        for number, optimiser in enumerate(self.optimisers):
            state["optimiser"][str(number)] = optimiser.state_dict()["state"]
        about = {"log": self.log, "since_row": (self.loss_sum.item(), self.loss_count)}
        save_checkpoint(self.work, step, self.options.keep, state, seconds=self.seconds(), **about)
        lines = [json.dumps(row) + "\n" for row in self.log]
        write_atomically(self.work / "log.jsonl", "".join(lines))

    def take_step(self, loss_fn, step: int) -> None:
        """Gradients of all parts of the loss, then one step of the optimisers and of the average."""
        o = self.options
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, o.steps, o.lr, o.warmup, o.decay)
        device = self.params[0].device
        with mixed_precision(device, self.dtype):
            parts = loss_fn(self.live, step_generator(o.seed, step), step)
        loss = torch.zeros((), device=device)
        for part_loss in [parts] if torch.is_tensor(parts) else parts:
            self.accelerator.backward(part_loss)
            loss += part_loss.detach()
        self.accelerator.clip_grad_norm_(self.params, o.clip)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.step(self.params)
        self.loss_sum = self.loss_sum + loss
        self.loss_count += 1

    def reset_mean(self) -> None:
        self.loss_sum = torch.zeros((), device=self.params[0].device)
        self.loss_count = 0

    def add_to_log(self, step: int) -> dict:
        """A row: step, mean loss since the row before, seconds. Raises UserError if the loss is NaN."""
        loss = self.accelerator.reduce(self.loss_sum / self.loss_count, "mean").item()
        if math.isnan(loss):
            raise UserError(f"the loss became NaN at step {step}; lower the learning rate")
        self.log.append({"step": step, "loss": round(loss, 6), "seconds": round(self.seconds(), 1)})
        self.reset_mean()
        return self.log[-1]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model with its averaged weights, and no dropout."""
        if self.ema:
            self.ema.store(self.params)
            self.ema.copy_to(self.params)
        self.model.eval()
        yield
        self.model.train()
        if self.ema:
            self.ema.restore(self.params)


def train_loop(
    loss_fn, model: torch.nn.Module, work: Path, *, sample=None, on_log=None, accelerator=None, **options
) -> list[dict]:
    """Minimise `loss_fn(model, generator, step) -> scalar tensor`. It may also be a generator of parts, whose
    sum is the loss: each part's gradient is taken before the next part is computed. options: of
    `LoopOptions`.

    Leaves the last checkpoints and `log.jsonl` in `work`; if there are any, the run goes on from the newest.
    A row of the log (40 or more): step, mean loss since the row before, seconds since the start (of all
    runs). `on_log(row)` sees every new row. `sample(step)` is called now and then, with the averaged weights
    in place. `accelerator`: Hugging Face's, for several processes, each of which must give its share of the
    batch; the first one writes the files. On return `model` holds the averaged weights. Returns the log.
    """
    from accelerate import Accelerator

    o = LoopOptions(**options)
    accelerator = accelerator or Accelerator(mixed_precision="no", device_placement=False)
    work.mkdir(parents=True, exist_ok=True)
    run = Run(model, work, o, accelerator)
    end = o.steps if o.stop_after is None else min(o.steps, o.stop_after)
    log_every = max(1, min(50, o.steps // 40))
    saved = sampled = time.monotonic()
    model.train()
    for step in tqdm(range(run.start, end), desc=o.desc, initial=run.start, total=end, mininterval=2.0):
        run.take_step(loss_fn, step)
        done = step + 1
        if done % log_every == 0 or done == end:
            row = run.add_to_log(done)
            if on_log and accelerator.is_main_process:
                on_log(row)
        if time.monotonic() - saved > o.save_minutes * 60 or done == end:
            run.save(done)
            saved = time.monotonic()
        late = time.monotonic() - sampled > o.sample_minutes * 60
        due = done % o.sample_every == 0 if o.sample_every else late
        if sample and accelerator.is_main_process and (due or done == end):
            with run.averaged():
                sample(done)
            sampled = time.monotonic()
    if run.ema:
        run.ema.copy_to(run.params)
    model.eval()
    return run.log
