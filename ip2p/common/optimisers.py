"""Muon for the weights of hidden layers, AdamW for the rest."""

from __future__ import annotations

import torch


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal by five Newton-Schulz steps (Jordan et al., Muon, 2024), for
    the weights of hidden layers; convolutions count as matrices (out, in * k * k), which torch.optim.Muon
    refuses. The update's size is matched to AdamW's (root mean square 0.2; Liu et al., arXiv 2502.16982), so
    learning rates of AdamW carry over."""

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):  # never given; Accelerate hands it through
        for group in self.param_groups:
            momentum = group["momentum"]
            lr = group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                average = self.state[p].setdefault("momentum", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - momentum)
                ahead = p.grad.lerp(average, momentum)  # Nesterov's
                update = orthogonal(ahead.flatten(1))
                size_of_adamw = 0.2 * max(update.shape) ** 0.5
                p.mul_(1 - lr * group["weight_decay"])
                p.add_(update.view(p.shape), alpha=-size_of_adamw * lr)


def orthogonal(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """About U V^T of the singular value decomposition U S V^T, by a quintic Newton-Schulz iteration x <- (a I
    + b x x^T + c (x x^T)^2) x. As all factors are polynomials of the first x x^T, they are multiplied up on
    that small square matrix, and the long x is touched twice only: a third of the work for a convolution's
    weight."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    product = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for _ in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        factor.diagonal().add_(3.4445)
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return (x.T if tall else x).contiguous()


def adamw(params: list, lr: float, weight_decay: float, eight_bit: bool = False) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) with beta_2 = 0.99, for runs of a few thousand steps.
    eight_bit: its two moments in 8 bits each (Dettmers et al., arXiv 2110.02861). Raises ValueError if
    bitsandbytes, which that needs, is missing."""
    options = {"lr": lr, "betas": (0.9, 0.99), "weight_decay": weight_decay}
    if not eight_bit:
        return torch.optim.AdamW(params, foreach=True, **options)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ValueError("the 8-bit optimiser needs bitsandbytes: pip install bitsandbytes") from None
    return AdamW8bit(params, **options)


def new_optimisers(
    model: torch.nn.Module, lr: float, weight_decay: float, muon: bool, eight_bit: bool
) -> list[torch.optim.Optimizer]:
    """AdamW, and with `muon` a Muon for all matrices but the first and the last layer's."""
    hidden = []
    others = []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        outer = "conv_in" in name or "conv_out" in name
        if muon and p.ndim > 1 and not outer:
            hidden.append(p)
        else:
            others.append(p)
    optimisers = [adamw(others, lr, weight_decay, eight_bit)]
    if hidden:
        optimisers.append(Muon(hidden, lr, weight_decay=weight_decay))
    return optimisers
