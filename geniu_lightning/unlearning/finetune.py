"""Fine-tuning: go on training on what is kept, and let the rest fade."""

from torch import Tensor

from geniu_lightning.unlearning.losses import cross_entropy
from geniu_lightning.unlearning.sources import Access, UnlearnBatch
from geniu_lightning.unlearning.tuning import Tuning


class FineTune(Tuning):
    """Minimises ``CE(z, y)`` on retained images.

    Nothing pushes the forgotten class out: a large rate makes it fade, a small one hardly does.

    Args:
        **settings: Those of `Tuning`.

    Source:
        Folklore. Public code uses SGD 0.01 with momentum 0.9 for 10 epochs (SCRUB's notebook);
        ours counts steps, for the size of the data should not decide, bounds the gradient, and
        keeps the running statistics of batch norm (``batch_norm="train"`` would be as legitimate,
        for retained images are a sample of what is kept).
    """

    sides = Access.RETAIN

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return the cross-entropy on retained images, in nats."""
        loss = cross_entropy(self.classifier(batch.images), batch.labels)
        return {"retain": batch.retain_mean(loss)}
