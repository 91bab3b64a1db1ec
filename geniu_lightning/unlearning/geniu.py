"""GENIU: tune the classifier on forgotten and retained proxies in one batch."""

from typing import Literal, get_args

import torch
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.kit import Kit
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.losses import (
    bounded_reciprocal,
    cross_entropy,
    divergence,
    masked_target,
    uniform_divergence,
)
from geniu_lightning.unlearning.sources import Repeated, Sources, UnlearnBatch

ForgetTerm = Literal["reciprocal", "negative", "uniform", "masked_distill"]
RetainTerm = Literal["ce", "distill"]


class Geniu(Unlearner):
    """Decodes a proxy of every prompt once, and takes all of them in every step.

    ``L = mean over forgotten proxies of the forget term + w · mean over retained ones of the retain
    term``, each proxy labelled with its own class, whatever the classifier says of it.

    Forget terms: ``reciprocal`` is 1/CE (the paper's; bounded, see
    :func:`~geniu_lightning.unlearning.losses.bounded_reciprocal`), ``negative`` is −CE, ``uniform``
    is KL(uniform ‖ p), ``masked_distill`` is KL(original without the forgotten classes ‖ p).
    Retain terms: ``ce`` (the paper's), ``distill``, which is KL to the same masked original.

    Args:
        forget_term: As above.
        retain_term: As above.
        retain_weight: w.
        proxies_per_class: How many of the kit's prompts of each class to use; ``None`` all.
        max_margin: Margin from which the reciprocal goes on as its tangent, in nats.
        **settings: Those of the base.

    Raises:
        UserError: If a term does not exist, or ``max_margin`` is outside (0, 40].

    Source:
        GENIU, arXiv 2406.07885, Eq. 7. Departures: the bound of the reciprocal, the terms that are
        marked as not the paper's. Steps, optimizer and clipping are not recovered.
    """

    def __init__(
        self,
        *,
        forget_term: ForgetTerm = "reciprocal",
        retain_term: RetainTerm = "distill",
        retain_weight: float = 1.0,
        proxies_per_class: int | None = None,
        max_margin: float = 5.0,
        **settings: object,
    ) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # the base checks them
        for name, value, known in (
            ("forget_term", forget_term, get_args(ForgetTerm)),
            ("retain_term", retain_term, get_args(RetainTerm)),
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
        self.proxies_per_class = proxies_per_class
        self.max_margin = max_margin

    @torch.no_grad()
    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Decode the proxies and ask the original about them, once."""
        super().prepare(kit, sources)
        proxies = kit.proxies(per_class=self.proxies_per_class)
        images = kit.info.spec.normalise(proxies.images)
        forget = torch.isin(proxies.labels, torch.tensor(self.forget, device=images.device))
        self.target = masked_target(kit.classifier(images), self.forget)
        self.batches = Repeated(UnlearnBatch(images, proxies.labels, forget), self.steps)

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return both terms on all proxies."""
        logits = self.classifier(batch.images).float()
        target = self.target.to(logits.device)
        gone, kept = batch.forget, ~batch.forget
        retain = (
            cross_entropy(logits[kept], batch.labels[kept])
            if self.retain_term == "ce"
            else divergence(target[kept], logits[kept])
        )
        forget = self._forget_term(logits[gone], batch.labels[gone], target[gone])
        return {"forget": forget.mean(), "retain": self.retain_weight * retain.mean()}

    def _forget_term(self, logits: Tensor, labels: Tensor, target: Tensor) -> Tensor:
        match self.forget_term:
            case "reciprocal":
                return bounded_reciprocal(logits, labels, self.max_margin)
            case "negative":
                return -cross_entropy(logits, labels)
            case "uniform":
                return uniform_divergence(logits)
            case "masked_distill":
                return divergence(target, logits)
