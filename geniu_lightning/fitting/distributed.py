"""Values over all processes of a fit; each function leaves a single process alone."""

import gc
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    """Return the number of processes that compute together; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def reduced(tensor: Tensor, operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
    """Return a tensor combined over all processes; the argument stays as it is."""
    if world_size() == 1:
        return tensor
    tensor = tensor.clone()
    dist.all_reduce(tensor, operation)
    return tensor


def total_over_ranks(count: int) -> int:
    """Return the sum of a number over all processes."""
    return int(reduced(_on_backend(count)))


def least_over_ranks(count: int) -> int:
    """Return the smallest of a number over all processes."""
    return int(reduced(_on_backend(count), dist.ReduceOp.MIN))


def _on_backend(count: int) -> Tensor:
    nccl = dist.is_initialized() and dist.get_backend() == "nccl"
    return torch.tensor(count, device="cuda" if nccl else "cpu")


def follow_first_rank(tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's values, in place."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over all processes, in one message; parameters without one are skipped."""
    if world_size() == 1:
        return
    gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    mean = reduced(torch.cat([gradient.flatten() for gradient in gradients])) / world_size()
    parts = mean.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def leave_group() -> None:
    """End this process's part in its group, if it has one.

    To be called before the interpreter ends: a thread of gloo that lets go of a tensor later aborts
    the process (pytorch#190489), and Lightning then kills the others.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()  # a trainer, which is part of a cycle, may hold the group
