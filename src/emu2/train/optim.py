"""AdamW, its schedule, and the moving average of weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from emu2.train.config import OptimConfig, RunConfig
from emu2.train.pieces import local


def build_optimizer(groups: list[dict[str, Any]], optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`. The learning rate is set at every step by `set_rates`."""
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def schedule_factor(step: int, steps: int, optim: OptimConfig) -> float:
    """Share of the peak rate in optimizer step `step` (from 0) of `steps`: a pure function of the position.

    Rise over `warmup_steps`, linear or as the logarithm, its last step at the peak; then cosine or linear to
    `min_lr_ratio` one step past the last, or constant.
    """
    if step < optim.warmup_steps:
        if optim.warmup_shape == "log":
            return math.log(step + 2) / math.log(optim.warmup_steps + 1)
        return (step + 1) / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(steps - optim.warmup_steps, 1)
    if optim.schedule == "constant":
        return 1.0
    shape = 0.5 * (1 + math.cos(math.pi * progress)) if optim.schedule == "cosine" else 1 - progress
    return optim.min_lr_ratio + (1 - optim.min_lr_ratio) * shape


def set_rates(optimizer: torch.optim.Optimizer, factor: float, step: int) -> None:
    """The rates of optimizer step `step`: `factor` of each part's peak, 0 for a part that starts later."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor if step >= group["start"] else 0.0


def warn_of_rates(config: RunConfig) -> None:
    """Warn of parts that are trained at the rate 0: legal, and hardly meant."""
    for part in config.parts:
        if config.optim.part_lr.get(part, config.optim.lr) == 0:
            warnings.warn(
                f"{part!r} is trained at the learning rate 0, so it will not move, and costs as much as if it did. "
                "Leave it out of parts to freeze it.",
                stacklevel=3,
            )


class MovingAverage:
    """Exponential moving average of parameters, kept by name in float32, split as they are.

    The decay rises as (1 + n) / (10 + n) until it reaches `decay`, so that a short run is not an average with its own
    random start (the rise that diffusion trainers commonly use).
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], decay: float):
        self.decay = decay
        self.updates = 0
        self.shadow = {name: parameter.detach().float().clone() for name, parameter in parameters}

    @torch.no_grad()
    def update(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        named = [(local(self.shadow[name]), local(parameter.detach()).float()) for name, parameter in parameters]
        torch._foreach_lerp_([s for s, _ in named], [p for _, p in named], 1.0 - decay)

    @torch.no_grad()
    def swap(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Exchange the live weights with the average; a second call puts them back."""
        for name, parameter in parameters:
            live = parameter.detach().float().clone()
            parameter.copy_(self.shadow[name])
            self.shadow[name] = live
