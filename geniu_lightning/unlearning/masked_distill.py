"""Masked distillation: teach the classifier what the original says when it may not name F."""

from typing import Literal, get_args

from torch import Tensor

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.inputs import Noise, Warped, Warps
from geniu_lightning.unlearning.losses import divergence, masked_target
from geniu_lightning.unlearning.networks import Teacher
from geniu_lightning.unlearning.sources import Access, Batches, Sources, UnlearnBatch
from geniu_lightning.unlearning.tuning import Tuning

Inputs = Literal["proxies", "data", "noise", "mix"]
UNLABELLED = ("noise", "mix")


class MaskedDistill(Tuning):
    """Distils from the original with all forgotten classes masked, on inputs of all classes.

    ``L = mean over forgotten inputs of KL(softmax(mask_F(z_T)) ‖ softmax(z)) + w · mean over
    retained ones of the same``. On ``noise`` and ``mix``, which have no label, all inputs count
    alike: there is the second term alone.

    The target is just what `LogitMask` answers, so a
    loss of 0 is a masked classifier on these inputs, but here the gradient reaches the whole
    network. ZipBatches GENIU's reciprocal it shows what that loss adds, for the proxies are the same.

    Args:
        source: ``proxies`` of the kit; training ``data``; ``noise``, which is N(0, I) as the
            classifier reads it, fresh in every step; ``mix``, λx + (1 - λ)x' of two random proxies
            of any class, λ even in [0, 1], fresh in every step. Noise needs no generator.
        retain_weight: w.
        **settings: Those of `Tuning`; ``batch_size``
            is the size of a batch of noise or mixtures, too.

    Raises:
        UserError: If the source does not exist.

    Source:
        The loss of Zhou et al., Decoupled Distillation to Erase, arXiv 2503.23751, there on the
        forgotten images alone; other inputs, the retained side and its weight are ours. Noise
        rarely looks like any class to a classifier, so expect little of it.
    """

    sides = Access.FORGET | Access.RETAIN
    sources_of = get_args(Inputs)

    def __init__(
        self, *, source: Inputs = "proxies", retain_weight: float = 1.0, **settings: object
    ) -> None:
        super().__init__(source=source, **settings)  # type: ignore[arg-type]  # checked there
        self.retain_weight = retain_weight

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Copy the original to ask it about the inputs."""
        self.teacher = Teacher(kit.classifier)
        super().prepare(kit, sources)

    def stream(self, kit: Kit, sources: Sources, sides: Access, steps: int) -> Batches:
        """Return batches of the inputs that are set."""
        if self.source == "noise":
            spec, device = kit.info.spec, next(kit.classifier.parameters()).device
            shape = (self.batch_size, spec.channels, spec.size, spec.size)
            return Noise(shape, steps, self.seed, device)
        if self.source == "mix":
            images = self.proxies(kit, sides).images
            return Warped(images, Warps(mix=1.0), self.batch_size, steps, self.seed)
        return super().stream(kit, sources, sides, steps)

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return both terms, in nats; on inputs without labels the retained one."""
        target = masked_target(self.teacher(batch.images), self.forget)
        loss = divergence(target, self.classifier(batch.images))
        terms = {"retain": self.retain_weight * batch.retain_mean(loss)}
        if self.source not in UNLABELLED:
            terms["forget"] = batch.forget_mean(loss)
        return terms
