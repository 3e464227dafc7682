"""One training loop for everything that is trained here: resumable, logged, with EMA and a picture now and then.

All randomness of a step is drawn from a generator seeded by (seed, step), so a run that is killed and resumed takes
exactly the steps that an undisturbed run takes.
"""

from __future__ import annotations

import json
import time
from functools import reduce
from pathlib import Path

import torch
from safetensors import safe_open
from tqdm.auto import tqdm

from ip2p.common.durable import save_tensors


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator of all noise of one step."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100, decay: float = 0.25) -> float:
    """Linear warm-up, constant, then linear decay to 0 over the last `decay` share of the steps."""
    rest = (steps - step) / max(1, int(steps * decay))
    return peak * min(1.0, (step + 1) / warmup, rest)


class EMA:
    """Exponential moving average of a module's parameters; early on the average is short (decay (1+t)/(10+t))."""

    def __init__(self, model: torch.nn.Module, decay: float = 0.999):
        self.decay = decay
        self.names = [n for n, p in model.named_parameters() if p.requires_grad]
        self.model = model
        self.shadow = [p.detach().clone() for n, p in model.named_parameters() if p.requires_grad]

    @torch.no_grad()
    def update(self, step: int) -> None:
        live = [p.detach() for p in self.model.parameters() if p.requires_grad]
        torch._foreach_lerp_(self.shadow, live, 1 - min(self.decay, (1 + step) / (10 + step)))

    def state_dict(self) -> dict:
        return dict(zip(self.names, self.shadow, strict=True))

    def load_state_dict(self, state: dict) -> None:
        self.shadow = [state[n].to(s.device, copy=True) for n, s in zip(self.names, self.shadow, strict=True)]

    def swap(self) -> None:
        """Exchange the live and the averaged weights (call twice to sample in between)."""
        for p, s in zip((p for p in self.model.parameters() if p.requires_grad), self.shadow, strict=True):
            p.data, s.data = s.data, p.data


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal by five Newton-Schulz steps (Jordan et al., Muon, 2024), for the
    weights of hidden layers; convolutions count as matrices (out, in * k * k). The update's size is matched to
    AdamW's (root mean square 0.2; Liu et al., arXiv 2502.16982), so learning rates of AdamW carry over."""

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):  # never given; Accelerate hands it through
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(buffer, group["momentum"]).flatten(1))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.view(p.shape), alpha=-0.2 * max(update.shape) ** 0.5 * group["lr"])


def orthogonal(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """About U V^T of the singular value decomposition U S V^T, by a quintic Newton-Schulz iteration
    x <- (a I + b x x^T + c (x x^T)^2) x. As all factors are polynomials of the first x x^T, they are multiplied up on
    that small square matrix, and the long x is touched twice only: a third of the work for a convolution's weight."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    gram, product = x @ x.T, torch.eye(len(x), dtype=x.dtype, device=x.device)
    for _ in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        factor.diagonal().add_(3.4445)
        product, gram = factor @ product, factor @ gram @ factor
    x = product @ x
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).contiguous()


def adamw(params: list, lr: float, weight_decay: float, eight_bit: bool = False) -> torch.optim.Optimizer:
    options = dict(lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay)
    if not eight_bit:
        return torch.optim.AdamW(params, foreach=True, **options)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ValueError("the 8-bit optimiser needs bitsandbytes: pip install bitsandbytes") from None
    return AdamW8bit(params, **options)


def save_checkpoint(work: Path, keep: int, model, ema: EMA | None, optimisers: list, **rest) -> None:
    """`work`/checkpoint-STEP.safetensors: weights, averages and the state of the optimisers as tensors, `rest` (with
    the step) as JSON in its header. Older ones than the last `keep` are deleted."""
    tensors = {f"model.{name}": x for name, x in model.state_dict().items()}
    tensors |= {f"ema.{name}": x for name, x in (ema.state_dict() if ema else {}).items()}
    numbers = {}
    for name, value in leaves(
        {str(j): o.state_dict()["state"] for j, o in enumerate(optimisers)}, "optimiser"
    ):
        (tensors if torch.is_tensor(value) else numbers)[name] = value
    save_tensors(
        tensors, work / f"checkpoint-{rest['step']:08}.safetensors", json.dumps(rest | {"numbers": numbers})
    )
    for old in checkpoints(work)[:-keep]:
        old.unlink()


def checkpoints(work: Path) -> list[Path]:
    """Those that `save_checkpoint` wrote, the newest last."""
    return sorted(work.glob(f"checkpoint-{8 * '[0-9]'}.safetensors"))


def load_checkpoint(work: Path, model, ema: EMA | None, optimisers: list) -> dict:
    """Go on from the newest checkpoint in `work`; returns its `rest`, or {} if there is none."""
    paths = checkpoints(work)
    if not paths:
        return {}
    with safe_open(paths[-1], "pt") as file:
        rest = json.loads(file.metadata()["about"])
        values = {name: file.get_tensor(name) for name in file.keys()} | rest.pop("numbers")  # noqa: SIM118

    def part(prefix: str) -> dict:
        return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}

    model.load_state_dict(part("model."))
    if ema:
        ema.load_state_dict(part("ema."))
    for j, optimiser in enumerate(optimisers):
        state: dict = {}
        for name, value in part(f"optimiser.{j}.").items():
            *branches, leaf = name.split(".")
            reduce(lambda tree, branch: tree.setdefault(branch, {}), branches, state)[leaf] = value
        optimiser.load_state_dict(optimiser.state_dict() | {"state": {int(i): of for i, of in state.items()}})
    return rest


def leaves(tree: dict, name: str):
    """(name.branch.leaf, value) of everything in dicts in dicts."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{name}.{key}")
        else:
            yield f"{name}.{key}", value


def train_loop(
    loss_fn,
    model: torch.nn.Module,
    work: Path,
    *,
    steps: int,
    lr: float,
    seed: int = 0,
    weight_decay: float = 0.01,
    ema_decay: float | None = None,
    save_minutes: float = 4.0,
    sample=None,
    sample_minutes: float = 8.0,
    sample_every: int = 0,
    stop_after: int | None = None,
    desc: str = "",
    clip: float = 1.0,
    warmup: int = 100,
    decay: float = 0.25,
    muon: bool = False,
    eight_bit: bool = False,
    keep: int = 2,
    accelerator=None,
    on_log=None,
) -> list[dict]:
    """Minimise `loss_fn(model, generator, step) -> scalar tensor` for `steps` optimiser steps. It may also be a
    generator of parts, whose sum is the loss: each part's gradient is taken before the next part is computed.

    Leaves the last `keep` checkpoints and `log.jsonl` in `work`; if there are any, the run goes on from the newest. A
    row of the log (40 or more): step, mean loss since the row before, seconds since the start (of all runs).
    `sample(step)` is called every `sample_minutes`, or `sample_every` steps if given, with the averaged weights in
    place. `stop_after`: stop at this step but keep the schedule of the full run. `muon`: weights of hidden layers by
    `Muon`, the rest by AdamW. `eight_bit`: AdamW with 8-bit moments (bitsandbytes). `accelerator`: Hugging Face's, for
    mixed precision and several processes, each of which must give its share of the batch; the first one writes the
    files. `on_log(row)` sees every new row of the log. On return `model` holds the averaged weights. Returns the log.
    """
    main = accelerator is None or accelerator.is_main_process
    work.mkdir(parents=True, exist_ok=True)
    log_path = work / "log.jsonl"
    params = [p for p in model.parameters() if p.requires_grad]
    device = params[0].device
    hidden = {
        id(p)
        for n, p in model.named_parameters()
        if muon and p.requires_grad and p.ndim > 1 and "conv_in" not in n and "conv_out" not in n
    }
    optimisers = [adamw([p for p in params if id(p) not in hidden], lr, weight_decay, eight_bit)]
    if hidden:
        optimisers.append(Muon([p for p in params if id(p) in hidden], lr, weight_decay=weight_decay))
    ema = EMA(model, ema_decay) if ema_decay else None
    resumed = load_checkpoint(work, model, ema, optimisers)
    start, log = resumed.get("step", 0), resumed.get("log", [])
    before = resumed.get("seconds", 0.0)  # of earlier runs

    live = model  # what the loss calls: the model itself, or wrapped
    if accelerator:
        live = accelerator.prepare_model(model)
        optimisers = [accelerator.prepare_optimizer(o) for o in optimisers]

    def save(step):
        if main:
            save_checkpoint(
                work,
                keep,
                model,
                ema,
                optimisers,
                step=step,
                log=log,
                seconds=before + time.monotonic() - begin,
            )
            log_path.write_text("".join(json.dumps(row) + "\n" for row in log))

    def with_average(function, step):
        if ema:
            ema.swap()
        model.eval()
        function(step)
        model.train()
        if ema:
            ema.swap()

    end = min(steps, stop_after or steps)
    model.train()
    begin = saved = sampled = time.monotonic()
    running, count, log_every = torch.zeros((), device=device), 0, max(1, min(50, steps // 40))
    for step in tqdm(range(start, end), desc=desc, initial=start, total=end, mininterval=2.0):
        for group in (g for o in optimisers for g in o.param_groups):
            group["lr"] = learning_rate(step, steps, lr, warmup, decay)
        parts = loss_fn(live, step_generator(seed, step), step)
        loss = torch.zeros((), device=device)
        for part in [parts] if torch.is_tensor(parts) else parts:
            accelerator.backward(part) if accelerator else part.backward()
            loss += part.detach()
        (accelerator or torch.nn.utils).clip_grad_norm_(params, clip)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if ema:
            ema.update(step)
        running, count = running + loss, count + 1
        if (step + 1) % log_every == 0 or step + 1 == end:
            value = running / count
            value = (accelerator.reduce(value, "mean") if accelerator else value).item()
            if value != value:
                raise RuntimeError(f"the loss became NaN at step {step + 1}; lower the learning rate")
            seconds = before + time.monotonic() - begin
            log.append({"step": step + 1, "loss": round(value, 6), "seconds": round(seconds, 1)})
            if on_log and main:
                on_log(log[-1])
            running, count = torch.zeros((), device=device), 0
        if time.monotonic() - saved > save_minutes * 60 or step + 1 == end:
            save(step + 1)
            saved = time.monotonic()
        due = (
            (step + 1) % sample_every == 0
            if sample_every
            else time.monotonic() - sampled > sample_minutes * 60
        )
        if sample and main and (due or step + 1 == end):
            with_average(sample, step + 1)
            sampled = time.monotonic()
    if accelerator:
        accelerator.unwrap_model(live, keep_fp32_wrapper=False)  # its own forward again
        accelerator.free_memory()
    if ema:
        ema.swap()
    model.eval()
    return log
