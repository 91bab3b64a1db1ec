"""A network without training mode and gradients, for the time of a block."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Set a network to evaluation mode and its parameters to no gradient, then restore each.

    Gradients flow through it to its inputs, and its running statistics do not change.
    """
    modes = [(layer, layer.training) for layer in network.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    network.eval()
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
