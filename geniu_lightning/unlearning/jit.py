"""JiT: make the classifier flat around images of the forget set."""

from typing import Any

import torch
from torch import Tensor

from geniu_lightning.kit.file import Kit
from geniu_lightning.settings.checked import Positive, PositiveInt
from geniu_lightning.unlearning.base import FrozenBatchNorm
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.sources import Access, Sources
from geniu_lightning.unlearning.tuning import Tuning


class Jit(Tuning):
    """Minimises the change of logits for a small change of an image of the forget set.

    `L = mean over the forget set's x and draws n of ‖z(x) − sg[z(x + ε_n)]‖₂ / ‖ε_n‖₂`, with
    `ε_n ~ N(0, σ² I)` and sg the stop of the gradient. The loss has no label, so a flat answer may
    still be the right one.

    Args:
        draws: N, noisy neighbours of an image in each step.
        sigma: σ, in units of normalised images.

    Source:
        An Information Theoretic Approach to Machine Unlearning (Zero-Shot Machine Unlearning at
        Scale via Lipschitz Regularization), arXiv 2402.01401. Its code has N = 25, one pass over
        the forget set with SGD, σ 0.5 and rate 3e-4 (VGG), 0.8 and 1.5 (ViT). Departures: a
        mean over the batch in place of its sum, so that the rate does not depend on the batch size;
        momentum; gradients are cleared between steps; 5 draws, a fifth of the cost; neighbours are
        clamped to the range of an image, not to the batch's. As there, ‖ε‖ is that of the change
        after clamping.
    """

    sides = Access.FORGET

    def __init__(
        self,
        *,
        draws: PositiveInt = 5,
        sigma: Positive = 0.5,
        batch_norm: FrozenBatchNorm = "frozen",  # else the ratio would measure the batch's noise
        **settings: Any,
    ) -> None:
        super().__init__(batch_norm=batch_norm, **settings)
        self.draws = draws
        self.sigma = sigma

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Note the range of normalised images."""
        super().prepare(kit, sources)
        spec, device = kit.info.spec, next(kit.classifier.parameters()).device
        self.black = spec.normalise(torch.zeros(1, spec.channels, 1, 1, device=device))
        self.white = spec.normalise(torch.ones(1, spec.channels, 1, 1, device=device))

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return the mean ratio, in logits per unit of a normalised image."""
        logits = self.classifier(batch.images).float()
        ratios = [self._ratio(batch.images, logits) for _ in range(self.draws)]
        return {"lipschitz": batch.forget_mean(torch.stack(ratios).mean(dim=0))}

    def _ratio(self, images: Tensor, logits: Tensor) -> Tensor:
        # drawn on the CPU, so that every device draws the same
        noise = self.sigma * torch.randn(images.shape).to(images.device)
        near = (images + noise).clamp(self.black, self.white)
        with torch.no_grad():
            target = self.classifier(near).float()
        change: Tensor = torch.linalg.vector_norm((near - images).flatten(1), dim=1)
        # without a change the ratio is 0, not 0/0
        moved: Tensor = torch.linalg.vector_norm(logits - target, dim=1)
        return moved / change.clamp(min=1e-12)
