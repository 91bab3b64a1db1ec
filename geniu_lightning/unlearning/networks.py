"""Networks made of the kit's classifier: frozen teachers and fresh ones; summed gradients."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import stream


class Teacher:
    """A frozen copy of a network, which answers with logits.

    It is no `nn.Module`, so that no optimizer or change of mode of its holder reaches the copy.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._images: Tensor | None = None
        self._logits = torch.empty(0)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return logits in 32 bits; those of the last batch are cached."""
        if images is not self._images:
            self._images, self._logits = images, self.network(images).float()
        return self._logits


def fresh_classifier(kit: Kit, seed: int) -> nn.Module:
    """Return a network as training begins with it at a seed, on the kit's device.

    The global random state stays as it is.
    """
    with torch.random.fork_rng():
        torch.manual_seed(stream("init", seed))
        network = kit.info.classifier.build_classifier()
    return network.to(next(kit.classifier.parameters()).device)


def summed_gradient(network: nn.Module, losses: Iterable[Tensor]) -> list[Tensor]:
    """Return the gradient of the sum of scalar losses towards each parameter."""
    parameters = list(network.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    for loss in losses:
        for sum_, part in zip(total, torch.autograd.grad(loss, parameters), strict=True):
            sum_.add_(part)
    return total
