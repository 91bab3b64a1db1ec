"""Boundary expand: move the forget set into a shadow class, and remove that class."""

import torch
from torch import Tensor, nn

from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import head_of
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.losses import cross_entropy
from geniu_lightning.unlearning.sources import Access, Sources
from geniu_lightning.unlearning.tuning import Tuning


class BoundaryExpand(Tuning):
    """Minimises `mean over the forget set of CE(z⁺(x), K)`, z⁺ with one more class than K.

    The head gets one shadow row for all forget classes, which is removed after the last step.
    Images are then classified by the K rows: those of forget classes are only as low as they were
    pushed, so some images may be classified as before.

    Source:
        Chen et al., Boundary Unlearning, arXiv 2303.11570; public code has SGD at 1e-5 with
        momentum 0.9, 10 epochs, batch 64, the new row Xavier normal with bias 0. Departure: any
        width and number of classes.
    """

    sides = Access.FORGET

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Widen the head of the copy by a shadow class."""
        super().prepare(kit, sources)
        head = head_of(self.classifier)
        self.shadow = head.out_features
        wide = torch.empty(self.shadow + 1, head.in_features)  # on the CPU: same on every device
        row = nn.init.xavier_normal_(wide)[-1:].to(head.weight)
        self._set_head(torch.cat([head.weight, row]), torch.cat([head.bias, row.new_zeros(1)]))

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return the cross-entropy to the shadow class, in nats."""
        labels = torch.full_like(batch.labels, self.shadow)
        loss = cross_entropy(self.classifier(batch.images), labels)
        return {"forget": batch.forget_mean(loss)}

    def finish(self) -> None:
        """Remove the shadow class."""
        head = head_of(self.classifier)
        self._set_head(head.weight[: self.shadow], head.bias[: self.shadow])

    def _set_head(self, weight: Tensor, bias: Tensor) -> None:
        head = head_of(self.classifier)
        head.out_features = len(weight)
        head.weight, head.bias = (nn.Parameter(t.detach().clone()) for t in (weight, bias))
