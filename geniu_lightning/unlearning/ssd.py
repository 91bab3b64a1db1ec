"""Selective synaptic dampening: shrink the weights that are more important to the forget set."""

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from geniu_lightning.kit.file import Kit
from geniu_lightning.settings.checked import NonNegative, PositiveInt
from geniu_lightning.unlearning.losses import cross_entropy
from geniu_lightning.unlearning.sources import Access, Sources
from geniu_lightning.unlearning.tuning import Tuning


class Ssd(Tuning):
    """Multiplies weights by the ratio of their importances, once; there are no steps.

    `θ_i ← θ_i · min(lower · I(i) / I_f(i), 1)  where I_f(i) > alpha · I(i)`. I_f is the
    importance for the forget set, I for the reference, both at the original weights in evaluation
    mode: `mean over x of (∂CE(x)/∂θ_i)²`, or, with `loss="logit_norm"`, which needs
    no labels, `mean over x of |∂‖z(x)‖²/∂θ_i|`.

    Args:
        importance: `per_sample` is the formula. `batch_mean` takes the gradient of a batch's mean
            loss for that of a sample, as the public code does: smaller by up to the batch size, and
            different for each batch size and order.
        reference: `retain` is the retain set. `all` is both sets, the paper's: I_f / I is then
            never above |D| / |D_f| (per sample), so a larger alpha selects no weight: 10 is such
            with ten equal classes.
        alpha: Ratio above which a weight is dampened; `None` is that of `percentile_alpha`.
        lower: Factor of the ratio, λ.
        chunk: Images whose gradients are in memory at once, of `per_sample` alone.

    Source:
        SSD, arXiv 2308.07707: its code has alpha 10 (ResNet-18) or 5 (ViT), λ = 1, and is
        importance=batch_mean, reference=all, batch_size=256. `logit_norm`: LFSSD, arXiv 2402.19308.
        Per-sample squares: arXiv 2510.26714. Departures: the defaults of `importance` and
        `reference`, for the reasons above; batches hold one set each, in the order of the data.
    """

    sides = Access.FORGET | Access.RETAIN

    def __init__(
        self,
        *,
        importance: Literal["per_sample", "batch_mean"] = "per_sample",
        reference: Literal["retain", "all"] = "retain",
        alpha: NonNegative | None = 10.0,
        lower: NonNegative = 1.0,
        loss: Literal["cross_entropy", "logit_norm"] = "cross_entropy",
        chunk: PositiveInt = 16,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.importance = importance
        self.reference = reference
        self.alpha = alpha
        self.lower = lower
        self.loss = loss
        self.chunk = chunk

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Measure both importances."""
        super().prepare(kit, sources)
        self.forget_importance, count = self.measure(kit, sources, Access.FORGET)
        self.reference_importance, others = self.measure(kit, sources, Access.RETAIN)
        self.fraction = count / (count + others)
        if self.reference == "all":
            retain = (1 - self.fraction) * self.reference_importance
            self.reference_importance = self.fraction * self.forget_importance + retain

    @torch.no_grad()
    def finish(self) -> None:
        """Dampen."""
        alpha = self.alpha
        if alpha is None:
            alpha = percentile_alpha(
                self.forget_importance, self.reference_importance, self.fraction
            )
        factors = dampening(self.forget_importance, self.reference_importance, alpha, self.lower)
        parameters = list(self.classifier.parameters())
        parts = factors.split([p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.mul_(part.view_as(parameter))

    def measure(self, kit: Kit, sources: Sources, side: Access) -> tuple[Tensor, int]:
        """Return the importances of all parameters, flat, and the number of images."""
        per_sample = self.importance == "per_sample"
        gradients = self._of_samples if per_sample else self._of_mean
        size = self.chunk if per_sample else self.batch_size
        total, units, count = torch.zeros(()), 0, 0
        for batch in self.single_pass(kit, sources, side):
            for images, labels in zip(
                batch.images.split(size), batch.labels.split(size), strict=True
            ):
                found = gradients(images, labels)
                # squared before they are concatenated: the largest tensors exist once
                row = torch.cat([self._power(g).sum(dim=0).flatten() for g in found])
                total = total.to(row.device) + row
                units += len(found[0])
                count += len(images)
        return total / units, count

    def _of_samples(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        """Return each parameter's gradient for each image, `(N, *shape)`."""

        def loss_of(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
            logits = functional_call(self.classifier, parameters, (image[None],))
            return self._losses(logits, label[None]).sum()

        weights = {name: p.detach() for name, p in self.classifier.named_parameters()}
        return list(vmap(grad(loss_of), in_dims=(None, 0, 0))(weights, images, labels).values())

    def _of_mean(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        """Return each parameter's gradient for the mean of the batch, `(1, *shape)`."""
        loss = self._losses(self.classifier(images), labels).mean()
        return [g[None] for g in torch.autograd.grad(loss, list(self.classifier.parameters()))]

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.loss == "cross_entropy":
            return cross_entropy(logits, labels)
        return logits.float().square().sum(dim=1)

    def _power(self, gradients: Tensor) -> Tensor:
        return gradients.square() if self.loss == "cross_entropy" else gradients.abs()


def dampening(forget: Tensor, reference: Tensor, alpha: float, lower: float) -> Tensor:
    """Return the factor of each weight: 1 where it is not selected, as where I_f is 0."""
    ratio = (lower * reference / forget).clamp(max=1.0)
    return torch.where(forget > alpha * reference, ratio, torch.ones_like(ratio))


def percentile_alpha(forget: Tensor, reference: Tensor, fraction: float) -> float:
    """Return the percentile `100 − ln(1 + 100 |D_f| / |D|)` of the finite ratios I_f / I.

    Source:
        Adaptive SSD, arXiv 2402.10098.
    """
    ratios = (forget / reference).cpu().numpy()
    ratios = ratios[np.isfinite(ratios)]
    if not len(ratios):  # every I is 0: alpha has no effect
        return 1.0
    return float(np.percentile(ratios, 100 - math.log(1 + 100 * fraction)))
