"""Distributions of classes in a kit: mixtures over latent codes, and the decoder of the codes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from geniu_lightning.errors import KitError
from geniu_lightning.kit.mixture import Mixture, Sampler

DECODER = "decoder."
MIXTURE = "distribution."


@dataclass(frozen=True)
class Distribution:
    """A decoder and a mixture of each class, whose samples it turns into images without end."""

    decoder: nn.Module
    mixtures: Mapping[int, Mixture]

    def __post_init__(self) -> None:
        self.decoder.eval().requires_grad_(False)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Everything by the names of a kit's file: a class is the names with its number."""
        found = {f"{DECODER}{name}": value for name, value in self.decoder.state_dict().items()}
        for k, mixture in self.mixtures.items():
            found |= {f"{MIXTURE}{k}.{name}": value for name, value in mixture.tensors.items()}
        return found

    @torch.no_grad()
    def draw(self, labels: Tensor, stream: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Return an image in [0, 1] of each label `(N,)`, float32, on the decoder's device."""
        device = next(self.decoder.parameters()).device
        codes = self._sampler.draw(labels.cpu(), stream, temperature)
        images: Tensor = self.decoder(codes.to(device))
        return images.float()

    @cached_property
    def _sampler(self) -> Sampler:
        return Sampler(self.mixtures)

    def without(self, classes: Collection[int]) -> "Distribution":
        """Return what is left without the mixtures of some classes; the decoder stays."""
        left = {k: mixture for k, mixture in self.mixtures.items() if k not in classes}
        return Distribution(self.decoder, left)


def mixtures_in(tensors: Mapping[str, Tensor], classes: Collection[int]) -> dict[int, Mixture]:
    """Return the mixtures of some classes from the tensors of a kit's file."""
    names = ("weights", "means", "factors")
    try:
        return {k: Mixture(*(tensors[f"{MIXTURE}{k}.{name}"] for name in names)) for k in classes}
    except KeyError as error:
        raise KitError(f"the tensor {error} is missing") from error
