"""GENIU: in-batch tuning on the kit's proxies of all classes (arXiv 2406.07885)."""

from typing import Any, Literal

import torch
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.settings.checked import NonNegative
from geniu_lightning.unlearning.batches import Batches, StepBatches, UnlearnBatch, labelled_batch
from geniu_lightning.unlearning.losses import (
    MaxMargin,
    bounded_reciprocal,
    cross_entropy,
    divergence,
    masked_target,
    uniform_target,
)
from geniu_lightning.unlearning.sources import Access, Sources
from geniu_lightning.unlearning.tuning import Source, Tuning

ForgetTerm = Literal["reciprocal", "negative", "uniform", "masked_distill"]
RetainTerm = Literal["ce", "distill"]
Proxy = Literal["decoded", "prompt", "decoded_noise"]
NOISE_DRAWS = 256  # for each class
CHUNK = 512  # draws that are decoded at once; bounds memory


class Geniu(Tuning):
    """Tunes the classifier on all proxies, forget and retain classes together in every batch.

    In-batch tuning (Eq. 7). Each class k has prompts; the generator decodes each to a proxy x'_k,
    labelled k whatever the classifier answers. One batch holds the proxies of *all* classes, and is
    the batch of every step. With F the forget classes, M proxies of them and N of the others:

        L = 1/M Σ_{k∈F} forget_term(f(x'_k), k)  +  w · 1/N Σ_{k∉F} retain_term(f(x'_k), k)

    Forget terms: `reciprocal` is 1/CE (the paper's; bounded, see `bounded_reciprocal`), `negative`
    is −CE, `uniform` is KL(uniform over retained classes ‖ p), `masked_distill` is KL(original
    without F ‖ p). Retain terms: `ce` (the paper's), `distill`, which is KL to the same masked
    original.

    Proxies: `decoded` prompts (the paper's), the `prompt` alone as the classifier reads it, or
    `decoded_noise`, fresh Gaussian noise through the same generator, labelled by the original: the
    paper's ablations, the last one as we read its GKT_vae.

    Args:
        source: `proxies` of the kit; `data` tunes on training images as a control.

    Source:
        GENIU, arXiv 2406.07885, Eq. 7. Departures: the bound of the reciprocal; the terms not
        marked as the paper's, among them `distill`, the default (`experiment=paper_tuning` is
        Eq. 7). Steps, optimizer and clipping are not recovered.
    """

    sides = Access.FORGET | Access.RETAIN
    distils = True

    def __init__(
        self,
        *,
        source: Source = "proxies",
        proxy: Proxy = "decoded",
        forget_term: ForgetTerm = "reciprocal",
        retain_term: RetainTerm = "distill",
        retain_weight: NonNegative = 1.0,
        max_margin: MaxMargin = 5.0,
        **settings: Any,
    ) -> None:
        super().__init__(source=source, **settings)
        self.forget_term = forget_term
        self.retain_term = retain_term
        self.retain_weight = retain_weight
        self.proxy = proxy
        self.max_margin = max_margin

    def make_batches(self, kit: Kit, sources: Sources, sides: Access, steps: int) -> Batches:
        """Return the one batch of all proxies, for every step; with `data` batches of images."""
        if self.source == "data":
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
        logits = self.classifier(batch.images).float()
        target = masked_target(self.teacher(batch.images), self.forget)
        retain = (
            cross_entropy(logits, batch.labels)
            if self.retain_term == "ce"
            else divergence(target, logits)
        )
        forget = self._forget_term(logits, batch.labels, target)
        # each mean is over its own classes, however many proxies the other side has
        return {
            "forget": batch.forget_mean(forget),
            "retain": self.retain_weight * batch.retain_mean(retain),
        }

    def _forget_term(self, logits: Tensor, labels: Tensor, target: Tensor) -> Tensor:
        match self.forget_term:
            case "reciprocal":
                return bounded_reciprocal(logits, labels, self.max_margin)
            case "negative":
                return -cross_entropy(logits, labels)
            case "uniform":
                return divergence(uniform_target(logits, self.forget), logits)
            case "masked_distill":
                return divergence(target, logits)

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
