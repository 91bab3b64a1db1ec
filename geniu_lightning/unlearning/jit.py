"""JiT: make the classifier flat around forgotten images."""

import math

import torch
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.sources import Access, Sources, UnlearnBatch
from geniu_lightning.unlearning.tuning import Tuning


class Jit(Tuning):
    """Minimises how far logits move for a small change of a forgotten image.

    ``L = mean over forgotten x and draws n of ‖z(x) − sg[z(x + ε_n)]‖₂ / ‖ε_n‖₂``, with
    ``ε_n ~ N(0, σ² I)`` and sg without gradient: the image's logits are drawn to those of its
    neighbours. No class is named, so a flat answer may still be the right one.

    Args:
        draws: N, neighbours of an image in each step.
        sigma: σ, in units of normalised images.
        **settings: Those of `Tuning`.

    Raises:
        UserError: If a setting is out of range, or batch statistics are asked for: logits would
            depend on the batch, and the ratio measure its noise.

    Source:
        An Information Theoretic Approach to Machine Unlearning (Zero-Shot Machine Unlearning at
        Scale via Lipschitz Regularization), arXiv 2402.01401. Its code has N = 25, one pass over
        the forgotten images with SGD, σ 0.5 and rate 3e-4 (VGG), 0.8 and 1.5 (ViT). Departures: a
        mean over the batch in place of its sum, which would tie the rate to the batch size
        (without momentum and the bound of the gradient, which are ours, their rate times their
        batch size is the like of ours); steps for a pass; gradients of a step never enter the next;
        5 draws, a fifth of the cost; neighbours are clamped to the range that an image can have,
        not to the batch's. As there, ‖ε‖ is that of the change after clamping.
    """

    sides = Access.FORGET

    def __init__(self, *, draws: int = 5, sigma: float = 0.5, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # the base checks them
        if draws < 1:
            raise UserError(f"unlearner.draws must be at least 1, got {draws}")
        if not 0 < sigma < math.inf:
            raise UserError(f"unlearner.sigma must be positive and finite, got {sigma}")
        if self.batch_norm == "train":
            raise UserError(
                "unlearner.batch_norm must be frozen or frozen_affine for jit, got 'train'"
            )
        self.draws = draws
        self.sigma = sigma

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Note which values a normalised image can have."""
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
        # a change of nothing says nothing; the clamp keeps it from being 0/0
        moved: Tensor = torch.linalg.vector_norm(logits - target, dim=1)
        return moved / change.clamp(min=1e-12)
