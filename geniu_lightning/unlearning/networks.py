"""Networks beside the one that is tuned: teachers, fresh ones, and the head."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import head_of
from geniu_lightning.seeds import stream


class Teacher:
    """What a network said before unlearning: a copy of it that nothing moves.

    No ``nn.Module``, so that it is no part of the method that holds it: no optimizer, device move
    or change of mode reaches the copy.

    Args:
        network: A classifier.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._asked: Tensor | None = None
        self._said = torch.empty(0)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return logits in 32 bits; the same batch of images is answered once."""
        if images is not self._asked:
            self._asked, self._said = images, self.network(images).float()
        return self._said


def fresh_classifier(kit: Kit, seed: int) -> nn.Module:
    """Return a new network of the kit's kind, on its device; not the kit's with layers reset.

    Every parameter and buffer is as training begins with it at this seed. The global random state
    stays as it is.
    """
    with torch.random.fork_rng():
        torch.manual_seed(stream("init", seed))
        network = kit.info.classifier.build_classifier()
    return network.to(next(kit.classifier.parameters()).device)


@torch.no_grad()
def mask_head(classifier: nn.Module, forget: Sequence[int], offset: float = 1e4) -> None:
    """Zero the forgotten rows of the head and sink their biases, in place.

    Args:
        classifier: Its head is edited.
        forget: Forgotten classes.
        offset: The bias, negated; finite, for minus infinity breaks cross-entropy and export.
    """
    head = head_of(classifier)
    head.weight[list(forget)] = 0.0
    head.bias[list(forget)] = -offset
