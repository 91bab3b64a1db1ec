"""Networks made of the kit's classifier: frozen teachers, fresh ones, and parts taken over."""

import copy

import torch
from torch import Tensor, nn

from geniu_lightning.errors import SettingError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import parts_of
from geniu_lightning.seeds import stream


class Teacher:
    """A frozen copy of a network, which answers with logits.

    It is no `nn.Module`, so it is no part of the method that holds it: no optimizer, device move
    or change of mode reaches the copy.

    Args:
        network: A classifier.
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
    """Return a new network of the kit's architecture, on its device; not one with layers reset.

    Every parameter and buffer is as training begins with it at this seed. The global random state
    stays as it is.
    """
    with torch.random.fork_rng():
        torch.manual_seed(stream("init", seed))
        network = kit.info.classifier.build_classifier()
    return network.to(next(kit.classifier.parameters()).device)


def take_over(student: nn.Module, original: nn.Module, keep: int) -> list[nn.Module]:
    """Copy the first parts of the original into the student, frozen; return them.

    Raises:
        SettingError: If the network has fewer than `keep` parts.
    """
    own, theirs = parts_of(student), parts_of(original)
    if keep > len(own):
        raise SettingError(
            f"is {keep}, and {type(original).__name__} has {len(own)} parts before its head: set"
            " it lower; 0 takes over none",
            key="unlearner.keep",
        )
    for part, other in zip(own[:keep], theirs, strict=False):
        part.load_state_dict(other.state_dict())
        part.requires_grad_(False)
    return own[:keep]
