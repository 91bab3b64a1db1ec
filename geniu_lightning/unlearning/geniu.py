"""GENIU: tune the classifier on forgotten and retained proxies in one batch."""

from typing import Literal, get_args

import torch
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.losses import (
    bounded_reciprocal,
    cross_entropy,
    divergence,
    masked_target,
)
from geniu_lightning.unlearning.networks import Teacher
from geniu_lightning.unlearning.sources import Access, Sources, UnlearnBatch, marked
from geniu_lightning.unlearning.tuning import Source, Tuning

ForgetTerm = Literal["reciprocal", "negative", "uniform", "masked_distill"]
RetainTerm = Literal["ce", "distill"]
Proxy = Literal["decoded", "prompt", "decoded_noise"]
NOISE_DRAWS = 256  # for each class that is wanted
AT_ONCE = 512  # of these; bounds memory


class Geniu(Tuning):
    """Decodes a proxy of every prompt once, and takes all of them in every step.

    ``L = mean over forgotten proxies of the forget term + w · mean over retained ones of the retain
    term``, each proxy labelled with its own class, whatever the classifier says of it.

    Forget terms: ``reciprocal`` is 1/CE (the paper's; bounded, see
    `bounded_reciprocal`), ``negative`` is −CE, ``uniform``
    is KL(even over retained classes ‖ p), ``masked_distill`` is KL(original without the forgotten
    classes ‖ p).
    Retain terms: ``ce`` (the paper's), ``distill``, which is KL to the same masked original.

    Proxies: ``decoded`` prompts (the paper's), the ``prompt`` alone as the classifier reads it, or
    ``decoded_noise``, which is fresh Gaussian noise through the same generator, labelled as the
    original answers it: the paper's ablations, the last one as we read its GKT_vae.

    Args:
        source: ``proxies`` of the kit; ``data`` tunes on training images as a control.
        proxy: As above.
        forget_term: As above.
        retain_term: As above.
        retain_weight: w.
        max_margin: Margin from which the reciprocal goes on as its tangent, in nats.
        **settings: Those of `Tuning`.

    Raises:
        UserError: If a term does not exist, or ``max_margin`` is outside (0, 40].

    Source:
        GENIU, arXiv 2406.07885, Eq. 7. Departures: the bound of the reciprocal; the terms that are
        marked as not the paper's, among them ``distill``, which is the default
        (``experiment=paper_tuning`` is Eq. 7). Steps, optimizer and clipping are not recovered.
    """

    sides = Access.FORGET | Access.RETAIN

    def __init__(
        self,
        *,
        source: Source = "proxies",
        proxy: Proxy = "decoded",
        forget_term: ForgetTerm = "reciprocal",
        retain_term: RetainTerm = "distill",
        retain_weight: float = 1.0,
        max_margin: float = 5.0,
        **settings: object,
    ) -> None:
        super().__init__(source=source, **settings)  # type: ignore[arg-type]  # checked there
        for name, value, known in (
            ("forget_term", forget_term, get_args(ForgetTerm)),
            ("retain_term", retain_term, get_args(RetainTerm)),
            ("proxy", proxy, get_args(Proxy)),
        ):
            if value not in known:
                raise UserError(
                    f"unlearner.{name} must be one of {', '.join(known)}, got {value!r}"
                )
        if not 0 < max_margin <= 40:  # e^40 squared is as far as 32 bits go
            raise UserError(f"unlearner.max_margin must lie in (0, 40], got {max_margin}")
        self.forget_term = forget_term
        self.retain_term = retain_term
        self.retain_weight = retain_weight
        self.proxy = proxy
        self.max_margin = max_margin

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Decode the proxies once; copy the original to ask it about them."""
        self.teacher = Teacher(kit.classifier)
        super().prepare(kit, sources)

    def proxies(self, kit: Kit, sides: Access) -> UnlearnBatch:
        """Return proxies of all classes, of the kind that is set."""
        if self.proxy == "decoded":
            return super().proxies(kit, sides)
        if self.proxy == "prompt":
            prompts = kit.prompts_of(per_class=self.proxies_per_class)
            return marked(prompts.images, prompts.labels, self.forget)
        return self._decoded_noise(kit)

    @torch.no_grad()
    def _decoded_noise(self, kit: Kit) -> UnlearnBatch:
        """Return what the generator makes of noise, as many of a class as there are prompts of it.

        Raises:
            UserError: If no draw is answered with a forgotten class, or none with a retained one.
        """
        prompts = kit.prompts_of(kit.info.remaining[:1], self.proxies_per_class).images
        per_class, *shape = prompts.shape
        draws = torch.randn(NOISE_DRAWS * len(kit.info.class_names), *shape)
        device = next(kit.classifier.parameters()).device
        parts = [
            kit.info.spec.normalise(kit.decode(part.to(device))) for part in draws.split(AT_ONCE)
        ]
        labels = torch.cat([self.teacher(part).argmax(dim=1) for part in parts])
        images = torch.cat(parts)
        kept = torch.cat([(labels == k).nonzero().flatten()[:per_class] for k in labels.unique()])
        batch = marked(images[kept], labels[kept], self.forget)
        if not batch.forget.any() or batch.forget.all():
            side = "retained" if batch.forget.any() else "forgotten"
            raise UserError(
                f"none of {len(draws)} draws of noise through the generator is answered with a"
                f" {side} class: there is nothing to tune on"
            )
        return batch

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return both terms on all proxies."""
        logits = self.classifier(batch.images).float()
        target = masked_target(self.teacher(batch.images), self.forget)
        retain = (
            cross_entropy(logits, batch.labels)
            if self.retain_term == "ce"
            else divergence(target, logits)
        )
        forget = self._forget_term(logits, batch.labels, target)
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
                even = masked_target(torch.zeros_like(logits), self.forget)
                return divergence(even, logits)
            case "masked_distill":
                return divergence(target, logits)
