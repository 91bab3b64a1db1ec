"""SalUn: random labels, taught to the weights alone that the forgotten images pull at."""

from typing import Any

import torch
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.losses import cross_entropy
from geniu_lightning.unlearning.random_label import RandomLabel
from geniu_lightning.unlearning.sources import Access, Sources, UnlearnBatch


class SalUn(RandomLabel):
    """Tunes as `RandomLabel`, and holds all but the most salient weights where they were.

    ``saliency = |Σ over forgotten x of ∇CE(f(x; θ_0), y)|``, in evaluation mode: first the signed
    sum, then its absolute value. The ``share`` of all parameters in which it is largest moves; at
    equal saliency those that come first. All others are put back after each step, to the bit,
    whatever momentum and weight decay made of them.

    Args:
        share: Of all parameters together, in (0, 1]; exactly ``round(share * parameters)`` move.
        **settings: Those of `RandomLabel`.

    Raises:
        UserError: If the share is outside (0, 1].

    Source:
        SalUn, arXiv 2310.12508; its code has share 0.5 (0.1 to 0.9 are tried), and otherwise what
        random labels have. Departures: those of `RandomLabel`; the bound of the gradient is
        taken after masking, over what moves.
    """

    def __init__(self, *, share: float = 0.5, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # the base checks them
        if not 0 < share <= 1:
            raise UserError(f"unlearner.share must lie in (0, 1], got {share}")
        self.share = share

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Measure saliency at the original weights, and choose what moves."""
        super().prepare(kit, sources)
        parameters = list(self.classifier.parameters())
        total = [torch.zeros_like(p) for p in parameters]
        for batch in self.once(kit, sources, Access.FORGET):
            loss = cross_entropy(self.classifier(batch.images), batch.labels).sum()
            for sum_, part in zip(total, torch.autograd.grad(loss, parameters), strict=True):
                sum_.add_(part)
        self.originals = [p.detach().clone() for p in parameters]
        self.masks = largest(total, self.share)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Mask gradients; Lightning bounds their norm after this."""
        for parameter, mask in zip(self.classifier.parameters(), self.masks, strict=True):
            if parameter.grad is not None:
                parameter.grad.mul_(mask)

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: UnlearnBatch, batch_idx: int) -> None:
        """Put back what is not to move: decay moves it even where the gradient is 0."""
        for parameter, mask, original in zip(
            self.classifier.parameters(), self.masks, self.originals, strict=True
        ):
            parameter.copy_(torch.where(mask, parameter, original))


def largest(tensors: list[Tensor], share: float) -> list[Tensor]:
    """Mark the share of all entries together whose absolute value is largest.

    Args:
        tensors: Of any shapes.
        share: In [0, 1]; rounded to whole entries, and at equal values the first are taken.

    Returns:
        Masks of the same shapes, bool.
    """
    flat = torch.cat([t.abs().flatten() for t in tensors])
    order = flat.sort(descending=True, stable=True).indices
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[order[: round(share * len(flat))]] = True
    parts = mask.split([t.numel() for t in tensors])
    return [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]
