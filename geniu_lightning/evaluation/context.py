"""What a metric may look at."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

Model = Literal["original", "unlearned"]


class LabelledBatch(Protocol):
    """Normalised images ``(N, C, H, W)`` and their labels ``(N,)``."""

    @property
    def images(self) -> Tensor:
        """Normalised, on the models' device."""

    @property
    def labels(self) -> Tensor:
        """In the order of the images, int64."""


@dataclass(frozen=True)
class Outputs:
    """What a model says of a split.

    Attributes:
        logits: float32, on the CPU, shape ``(N, K)``, in the order of the split.
        labels: int64, shape ``(N,)``.
    """

    logits: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Context:
    """One comparison of an unlearned model with its original.

    Args:
        original: Before unlearning, in evaluation mode.
        unlearned: After it, likewise.
        forget: Forgotten classes; empty where training itself is evaluated.
        class_names: In the order of their indices.
        class_counts: Training images of each class.
        splits: Opens ``test``, ``train`` and, where there is one, ``validation``: batches in order,
            without augmentation, on the models' device.
        seed: Evaluation seed.
        on_progress: Told which split is being read by which model.
    """

    original: nn.Module
    unlearned: nn.Module
    forget: tuple[int, ...]
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    splits: dict[str, Callable[[], Iterable[LabelledBatch]]]
    seed: int = 0
    on_progress: Callable[[str], None] = lambda text: None
    _outputs: dict[tuple[int, str], Outputs] = field(default_factory=dict, repr=False)

    @property
    def retained(self) -> tuple[int, ...]:
        """Classes that are kept."""
        return tuple(k for k in range(len(self.class_names)) if k not in self.forget)

    def outputs(self, model: Model, split: str) -> Outputs:
        """Return logits of a split, computed once for each network."""
        network = self.original if model == "original" else self.unlearned
        key = (id(network), split)
        if key not in self._outputs:
            self.on_progress(f"{model} on {split}")
            self._outputs[key] = outputs_of(network, self.splits[split]())
        return self._outputs[key]


@torch.no_grad()
def outputs_of(network: nn.Module, batches: Iterable[LabelledBatch]) -> Outputs:
    """Return what a network in evaluation mode says of batches, in 32 bits, on the CPU."""
    assert not network.training  # batch statistics of an evaluation batch would decide
    logits, labels = [], []
    for batch in batches:
        logits.append(network(batch.images).float().cpu())
        labels.append(batch.labels.cpu())
    return Outputs(torch.cat(logits), torch.cat(labels))
