"""GENIU: in-batch tuning on the kit's proxies of all classes (arXiv 2406.07885)."""

from typing import Any, Literal

import torch
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.settings.checked import NonNegative
from geniu_lightning.unlearning import losses
from geniu_lightning.unlearning.batches import Batches, StepBatches, UnlearnBatch, labelled_batch
from geniu_lightning.unlearning.sources import Access, Sources
from geniu_lightning.unlearning.tuning import Source, Tuning

NOISE_DRAWS = 256  # for each class
CHUNK = 512  # draws that are decoded at once; bounds memory


class Geniu(Tuning):
    """Tunes the classifier on all proxies, forget and retain classes together in every batch.

    Each class k has prompts; the generator decodes each to a proxy x'_k, labelled k whatever the
    classifier answers. One batch of the proxies of *all* classes is that of every step. With F the
    forget classes, M proxies of them and N of the others:

        L = 1/M Σ_{k∈F} forget_term(f(x'_k), k)  +  w · 1/N Σ_{k∉F} retain_term(f(x'_k), k)

    Forget terms: `reciprocal` (the paper's), `negative` without a cap, `uniform`, as in
    `losses.forget_term`, or `masked_distill`, which is KL(original without F ‖ p). Retain terms:
    `ce` (the paper's), or `distill`, which is KL to the same masked original.

    Proxies: `decoded` prompts (the paper's), the `prompt` alone as the classifier reads it, or
    `decoded_noise`, fresh Gaussian noise through the same generator, labelled by the original: the
    paper's ablations, the last one as we read its GKT_vae.

    Args:
        source: `proxies` of the kit, or what else it holds; `data` tunes on training images as a
            control.

    Source:
        GENIU, arXiv 2406.07885, Eq. 7, which is `experiment=paper_tuning`. Departures of the
        defaults: the bound of the reciprocal, the clipped gradient, the distilled retain term.
        Steps and optimizer are not recovered; of clipping the paper says nothing.
    """

    sides = Access.FORGET | Access.RETAIN
    distils = True

    def __init__(
        self,
        *,
        source: Source = "proxies",
        proxy: Literal["decoded", "prompt", "decoded_noise"] = "decoded",
        forget_term: Literal["reciprocal", "negative", "uniform", "masked_distill"] = "reciprocal",
        retain_term: Literal["ce", "distill"] = "distill",
        retain_weight: NonNegative = 1.0,
        max_margin: losses.MaxMargin = 5.0,
        **settings: Any,
    ) -> None:
        super().__init__(source=source, **settings)
        self.forget_term = forget_term
        self.retain_term = retain_term
        self.retain_weight = retain_weight
        self.proxy = proxy
        self.max_margin = max_margin

    def make_batches(self, kit: Kit, sources: Sources, sides: Access, steps: int) -> Batches:
        """Return the one batch of all proxies, for every step; of other sources batches."""
        if self.source != "proxies":
            return super().make_batches(kit, sources, sides, steps)
        batch = self.all_proxies(kit)
        return StepBatches(lambda step: batch, steps)

    def all_proxies(self, kit: Kit) -> UnlearnBatch:
        """Return the proxies of all classes, forget and retain, in one batch."""
        if self.proxy == "decoded":
            return self.proxies(kit, Access.FORGET | Access.RETAIN)
        if self.proxy == "prompt":
            prompts = kit.prompts_of(per_class=self.proxies_per_class)
            return labelled_batch(prompts.images, prompts.labels, self.forget)
        return self._decoded_noise(kit)

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return both terms of Eq. 7, from one forward pass of the whole batch."""
        logits = self.classifier(batch.images)
        target = losses.masked_target(self.teacher(batch.images), self.forget)
        forget = retain = losses.divergence(target, logits)
        if self.retain_term == "ce":
            retain = losses.cross_entropy(logits, batch.labels)
        if self.forget_term != "masked_distill":
            forget = losses.forget_term(
                self.forget_term, logits, batch.labels, self.forget, self.max_margin
            )
        # each mean is over its own classes, however many proxies the other side has
        return {
            "forget": batch.forget_mean(forget),
            "retain": self.retain_weight * batch.retain_mean(retain),
        }

    @torch.no_grad()
    def _decoded_noise(self, kit: Kit) -> UnlearnBatch:
        """Return decoded noise, labelled by the original: at most as many a class as prompts."""
        prompts = kit.prompts_of(kit.info.remaining[:1], self.proxies_per_class).images
        per_class, *shape = prompts.shape
        draws = torch.randn(NOISE_DRAWS * len(kit.info.class_names), *shape)
        device = next(kit.classifier.parameters()).device
        parts = [
            kit.info.spec.normalise(kit.decode(part.to(device))) for part in draws.split(CHUNK)
        ]
        labels = torch.cat([self.teacher(part).argmax(dim=1) for part in parts])
        images = torch.cat(parts)
        used = torch.cat([(labels == k).nonzero().flatten()[:per_class] for k in labels.unique()])
        batch = labelled_batch(images[used], labels[used], self.forget)
        if not batch.forget.any() or batch.forget.all():
            side = "retained" if batch.forget.any() else "forget"
            raise UserError(
                f"of {len(draws)} draws of noise, decoded, the original classifies none as a"
                f" {side} class: there is no proxy to tune on"
            )
        return batch
