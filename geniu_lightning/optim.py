"""Optimizers, schedules and sums over processes that training and unlearning share."""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from geniu_lightning.errors import UserError

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
Schedule = Literal["onecycle", "cosine", "none"]


def schedule_of(optimizer: Optimizer, schedule: Schedule, steps: int) -> LRScheduler:
    """Return the course of the learning rate over ``steps`` steps.

    ``onecycle`` rises to the optimizer's rate over the first 30 % and falls to nearly zero,
    ``cosine`` falls from it to zero, ``none`` keeps it.

    Raises:
        UserError: If there is no such schedule.
    """
    if schedule == "onecycle":
        # OneCycleLR asks for a step more than it is given when steps == 1
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, rates, total_steps=max(2, steps), cycle_momentum=False)
    if schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=max(1, steps))
    if schedule == "none":
        return LambdaLR(optimizer, lambda step: 1.0)
    raise UserError(f"schedule must be onecycle, cosine or none, got {schedule!r}")


def total_over_ranks(count: int) -> int:
    """Return the sum of a number over all processes."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return count
    backend = torch.distributed.get_backend()
    total = torch.tensor(count, device="cuda" if backend == "nccl" else "cpu")
    torch.distributed.all_reduce(total)
    return int(total)


def least_over_ranks(count: int) -> int:
    """Return the smallest of a number over all processes."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return count
    backend = torch.distributed.get_backend()
    least = torch.tensor(count, device="cuda" if backend == "nccl" else "cpu")
    torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
    return int(least)


def follow_first_rank(tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's values, in place; nothing where there is one process."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return
    for tensor in tensors:
        torch.distributed.broadcast(tensor, 0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over all processes, in one message; nothing where there is one process."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return
    gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for gradient, mean in zip(
        gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True
    ):
        gradient.copy_(mean.view_as(gradient))
