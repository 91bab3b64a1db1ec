"""Fine-tuning: continue training on the retain set."""

from torch import Tensor

from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.losses import cross_entropy
from geniu_lightning.unlearning.sources import Access
from geniu_lightning.unlearning.tuning import Tuning


class FineTune(Tuning):
    """Minimises `CE(z, y)` on the retain set.

    No term acts on the forget class: a large learning rate makes it fade, a small one hardly does.

    Source:
        Folklore. Public code uses SGD 0.01 with momentum 0.9 for 10 epochs (SCRUB's notebook).
        `batch_norm=train` would be as legitimate here.
    """

    sides = Access.RETAIN

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return the cross-entropy on the retain set, in nats."""
        loss = cross_entropy(self.classifier(batch.images), batch.labels)
        return {"retain": batch.retain_mean(loss)}
