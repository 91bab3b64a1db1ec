"""Unrolling SGD: undo the forget set's gradients of training in one step."""

from typing import Any

import torch
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import state_digest
from geniu_lightning.settings.checked import NonNegative
from geniu_lightning.unlearning.losses import cross_entropy
from geniu_lightning.unlearning.networks import fresh_classifier, summed_gradient
from geniu_lightning.unlearning.sources import Access, Sources
from geniu_lightning.unlearning.tuning import Tuning


class UnrollingSgd(Tuning):
    """Adds one gradient of the forget set, taken at the initial weights of training.

    `θ ← θ_T + scale · η (m/b) Σ ∇CE(f(x; θ_0), y)` over the forget set's x: to first order in
    the learning rate η, m epochs of SGD in batches of b subtracted just this from the weights for
    these images. θ_0 is drawn again from the kit's training seed, and checked against its record.

    With `source="proxies"` each proxy counts as its class's images divided by its proxies.

    Args:
        scale: Of the whole update; 1 is the formula.
        **settings: Those of `Tuning`. `batch_norm` is that of the gradient: `train`, as in the
            public code, normalises each pass by itself, as training did; otherwise θ_0's running
            statistics, 0 and 1, let activations vanish from layer to layer, and nearly all of the
            gradient is that of two biases.

    Source:
        Thudi et al., Unrolling SGD, arXiv 2109.13398, single-gradient unlearning. Its experiments
        fine-tune a pre-trained network on few images; forgetting a class of one trained from
        scratch is far outside of where the expansion holds. Departures: the gradient is that at θ_0
        itself; η is the recipe's highest rate, whatever its optimizer and schedule; `scale`.
    """

    sides = Access.FORGET

    def __init__(self, *, scale: NonNegative = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.scale = scale

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Draw the initial weights again, and sum the gradient of the forget set there."""
        super().prepare(kit, sources)
        try:
            recipe = kit.info.settings["training"]
            rate, size = recipe["optimizer"]["lr"], recipe["batch_size"]
            self.factor = self.scale * rate * recipe["epochs"] / size
            expected = kit.info.settings["initial_sha256"]
        except KeyError as error:
            raise UserError(f"the kit does not say how it was trained: no {error}") from error
        first = fresh_classifier(kit, kit.info.seed)
        if state_digest(first) != expected:
            raise UserError(
                "the initial weights of the kit's training cannot be drawn again: this version of"
                " torch draws others"
            )
        first.train(self.batch_norm == "train")
        losses = (
            (self._stands_for(kit, labels) * cross_entropy(first(images), labels)).sum()
            for images, labels, *_ in self.single_pass(kit, sources, Access.FORGET)
        )
        self.gradient = summed_gradient(first, losses)

    def _stands_for(self, kit: Kit, labels: Tensor) -> Tensor:
        """Return how many training images each image of a batch counts for, shape `(N,)`."""
        if self.source in ("data", "archive"):
            return torch.ones(len(labels), device=labels.device)
        counts = torch.tensor(kit.info.class_counts, device=labels.device)[labels]
        return counts / (labels[:, None] == labels).sum(dim=1)

    @torch.no_grad()
    def finish(self) -> None:
        """Take the step."""
        for parameter, gradient in zip(self.classifier.parameters(), self.gradient, strict=True):
            parameter.add_(gradient, alpha=self.factor)
