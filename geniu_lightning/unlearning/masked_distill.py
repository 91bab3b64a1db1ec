"""Masked distillation: the classifier learns the original's answers with F masked."""

from typing import Any, Literal

import torch
from torch import Tensor

from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import generator
from geniu_lightning.settings.checked import NonNegative
from geniu_lightning.unlearning.batches import (
    Batches,
    StepBatches,
    UnlearnBatch,
    unlabelled_batch,
)
from geniu_lightning.unlearning.losses import divergence, masked_target
from geniu_lightning.unlearning.sources import Access, Sources
from geniu_lightning.unlearning.tuning import Tuning
from geniu_lightning.unlearning.warps import WarpedBatches, Warps

Inputs = Literal["proxies", "distribution", "archive", "data", "noise", "mix"]
UNLABELLED = ("noise", "mix")


class MaskedDistill(Tuning):
    """Distils from the original with the forget classes masked, on inputs of all classes.

    `L = mean over forget inputs of KL(softmax(mask_F(z_T)) ‖ softmax(z)) + w · mean over retain
    inputs of the same`. On `noise` and `mix`, which have no label, there is the second term alone,
    over all inputs.

    The target is what `LogitMask` answers, but here the gradient reaches the whole network.
    Compared with GENIU on the same proxies it shows what the reciprocal loss adds.

    Args:
        source: `proxies` of the kit, or what else it holds; training `data`; `noise`, N(0, I) in
            normalised space, fresh in every step; `mix`, λx + (1 - λ)x' of two random proxies of
            any class, λ uniform in [0, 1], fresh in every step. Noise needs no generator.
        **settings: Those of `Tuning`; `batch_size` is that of noise or mixtures, too.

    Source:
        The loss of Zhou et al., Decoupled Distillation to Erase, arXiv 2503.23751, there on the
        forget set alone; other inputs, the retain term and its weight are ours.
    """

    sides = Access.FORGET | Access.RETAIN
    distils = True

    def __init__(
        self, *, source: Inputs = "proxies", retain_weight: NonNegative = 1.0, **settings: Any
    ) -> None:
        super().__init__(
            source="proxies" if source == "noise" or source == "mix" else source, **settings
        )
        self.inputs = source
        self.retain_weight = retain_weight

    def make_batches(self, kit: Kit, sources: Sources, sides: Access, steps: int) -> Batches:
        """Return batches of the inputs that are set."""
        if self.inputs == "noise":
            spec, device = kit.info.spec, next(kit.classifier.parameters()).device
            shape = (self.batch_size, spec.channels, spec.size, spec.size)

            def noise(step: int) -> UnlearnBatch:
                random = generator("distill_noise", self.seed, step)
                return unlabelled_batch(torch.randn(shape, generator=random).to(device))

            return StepBatches(noise, steps)
        if self.inputs == "mix":
            images = self.proxies(kit, sides).images
            return WarpedBatches(images, Warps(mix=1.0), self.batch_size, steps, self.seed)
        return super().make_batches(kit, sources, sides, steps)

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return both terms, in nats; on inputs without labels the retain term."""
        target = masked_target(self.teacher(batch.images), self.forget)
        loss = divergence(target, self.classifier(batch.images))
        terms = {"retain": self.retain_weight * batch.retain_mean(loss)}
        if self.inputs not in UNLABELLED:
            terms["forget"] = batch.forget_mean(loss)
        return terms
