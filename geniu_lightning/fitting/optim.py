"""Optimizers and learning-rate schedules that training and unlearning share."""

from collections.abc import Callable, Iterable
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

Factory = Callable[[Iterable[nn.Parameter]], Optimizer]


def _tried(factory: Factory) -> Factory:
    """Return a factory that makes an optimizer; refuse rates that torch refuses."""
    try:
        factory([nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise ValueError(f"an optimizer that can be made ({error})") from error
    return factory


OptimizerFactory = Annotated[Factory, AfterValidator(_tried)]
Schedule = Literal["onecycle", "cosine", "none"]


def lr_schedule_of(optimizer: Optimizer, schedule: Schedule, steps: int) -> LRScheduler:
    """Return the learning-rate schedule of an optimizer over `steps` of its steps.

    `onecycle` rises to the optimizer's rate over the first 30 % and falls to nearly zero,
    `cosine` falls from that rate to zero, `none` keeps it.
    """
    if schedule == "onecycle":
        # OneCycleLR asks for a step more than it is given when steps == 1
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, rates, total_steps=max(2, steps), cycle_momentum=False)
    if schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=max(1, steps))
    return LambdaLR(optimizer, lambda step: 1.0)
