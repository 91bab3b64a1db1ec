"""Optimizers and learning-rate schedules that training and unlearning share."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from geniu_lightning.errors import UserError

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


def recorded_optimizer(settings: Mapping[str, Any]) -> Factory:
    """Return the optimizer factory of a kit's record, which anyone may make: torch's own only."""
    arguments = {k: v for k, v in settings.items() if not k.startswith("_")}
    package, _, name = str(settings.get("_target_")).rpartition(".")
    optimizer = getattr(torch.optim, name, None)
    if package != "torch.optim" or not isinstance(optimizer, type):
        raise UserError(
            f"the kit was trained with {settings.get('_target_')}; only optimizers of torch.optim"
            " can be taken from a kit"
        )
    try:
        optimizer([nn.Parameter(torch.zeros(1))], **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"the kit's {name} does not take its settings: {error}") from error
    return partial(optimizer, **arguments)


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
