"""DELETE: distil from the masked original on the forget set alone."""

from torch import Tensor

from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.losses import divergence, masked_target
from geniu_lightning.unlearning.sources import Access
from geniu_lightning.unlearning.tuning import Tuning


class Delete(Tuning):
    """Minimises `mean over the forget set of KL(softmax(mask_F(z_T)) ‖ softmax(z))`.

    The original's probabilities of the retained classes stay the target, which preserves these
    classes although no image of the retain set is read.

    Source:
        Zhou et al., Decoupled Distillation to Erase, arXiv 2503.23751; its code has SGD with
        momentum 0.9, no decay, 20 epochs, batch 128, rate 1e-4 for ResNet-18 on CIFAR-10 and 5e-5
        elsewhere. Departures: the mask covers all forget classes, for with the own label alone
        images of one forget class are taught as another; masked probabilities are exactly 0, where
        a large negative number fails in 16 bits. Frozen batch norm is an option there;
        `batch_norm=train` normalises batches of one class by themselves and can change the outcome
        much: report both.
    """

    sides = Access.FORGET
    distils = True

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return the divergence on the forget set, in nats."""
        target = masked_target(self.teacher(batch.images), self.forget)
        return {"forget": batch.forget_mean(divergence(target, self.classifier(batch.images)))}
