"""A network at rest for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode and its parameters out of reach of gradients.

    Gradients still flow through it to its inputs, and its running statistics do not change. The
    mode of each layer and the flag of each parameter are restored afterwards.
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
