"""Nearest mean: classify as the retained class whose mean feature is nearest."""

import torch

from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import features_of, head_of
from geniu_lightning.unlearning.logit_mask import mask_head
from geniu_lightning.unlearning.sources import Access, Sources
from geniu_lightning.unlearning.tuning import Tuning


class NearestMean(Tuning):
    """Replaces the head by the nearest class mean in feature space; nothing is trained.

    `W_k = 2 μ_k`, `b_k = −‖μ_k‖²` for retained k, μ_k the mean feature of its images, so the
    largest logit is the nearest mean; forget classes are masked. The majority's bias is removed
    too. Features are unchanged: the class is suppressed, not forgotten. On proxies it shows how
    good they are without any tuning.

    Source:
        Folklore; the class-mean classifier of arXiv 2604.08271. Departure: features are not
        normalised, for a linear head cannot express that.
    """

    sides = Access.RETAIN

    @torch.no_grad()
    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Measure the means on unaugmented images, or on proxies."""
        super().prepare(kit, sources)
        head = head_of(kit.classifier)
        sums = head.weight.new_zeros(head.out_features, head.in_features, dtype=torch.float64)
        counts = sums.new_zeros(head.out_features)
        for batch in self.single_pass(kit, sources, Access.RETAIN):
            features = features_of(kit.classifier, batch.images).double()
            sums.index_add_(0, batch.labels, features)
            counts += torch.bincount(batch.labels, minlength=head.out_features)
        self.means = sums / counts.clamp(min=1)[:, None]
        self.missing = (counts == 0).nonzero().flatten().tolist()

    @torch.no_grad()
    def finish(self) -> None:
        """Write the means into the head; a class without images is masked too."""
        head = head_of(self.classifier)
        head.weight.copy_(2 * self.means)
        squares = self.means.square().sum(dim=1)
        head.bias.copy_(-squares)
        # below every other bias: the logits of an image whose features are all 0
        offset = max(1e4, 2 * squares.max().item())
        mask_head(self.classifier, sorted({*self.forget, *self.missing}), offset)
