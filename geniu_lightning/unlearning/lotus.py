"""LoTUS: soften the original's own answers on forgotten images until they say nothing."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.networks import Teacher
from geniu_lightning.unlearning.sources import Access, Sources, UnlearnBatch
from geniu_lightning.unlearning.tuning import Tuning

Support = Literal["all", "retained"]
HOTTEST = 80.0  # e^80 still fits 32 bits; logits divided by it are level long before


class Lotus(Tuning):
    """Minimises ``−Σ_k t_k log p_k`` towards noisy answers t of the original.

    On forgotten images ``t = softmax((z_T + g) / τ)``, g standard Gumbel noise; on retained ones t
    is a class drawn from the original's own probabilities. ``τ = e^(α Δ)``, Δ the accuracy that is
    left on forgotten images: hot while there is some, and near 1, which is the original's own
    answer, once there is none. So it takes back what it forgot, and does not settle.

    Args:
        alpha: α.
        support: Classes that targets live on: ``all`` (the paper's), or ``retained`` ones alone,
            with which it settles.
        temperature_every: Steps between two measurements of Δ.
        measured_images: Forgotten images, drawn evenly over classes and not augmented, that Δ is
            measured on, at most.
        **settings: Those of `Tuning`.

    Raises:
        UserError: If a setting is out of range.

    Source:
        Spartalis et al., LoTUS, arXiv 2503.18314. Public code: α 32, AdamW 1e-4, decay 5e-4, 10
        epochs, batch 128, a random 30 % of retained images; Δ once an epoch, against the accuracy
        of the original on unseen images of the forget set's kind, which is 0 for a class.
        Departures: Δ every few steps on a bounded number of images; the mean of each side; all
        retained images; no decay, a rate ten times as large for steps that are fewer, a bound of
        the gradient; batch norm frozen.
    """

    sides = Access.FORGET | Access.RETAIN

    def __init__(
        self,
        *,
        alpha: float = 32.0,
        support: Support = "all",
        temperature_every: int = 20,
        measured_images: int = 512,
        **settings: object,
    ) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # the base checks them
        if support not in get_args(Support):
            raise UserError(
                f"unlearner.support must be one of {', '.join(get_args(Support))}, got {support!r}"
            )
        if not alpha > 0 or temperature_every < 1 or measured_images < 1:
            raise UserError(
                "unlearner.alpha must be above 0, temperature_every and measured_images at least"
                f" 1, got {alpha}, {temperature_every} and {measured_images}"
            )
        self.alpha = alpha
        self.support = support
        self.temperature_every = temperature_every
        self.measured_images = measured_images
        self.temperature = 1.0

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Copy the original, and open what Δ is measured on beside both sides."""
        self.teacher = Teacher(kit.classifier)
        super().prepare(kit, sources)
        # whole on every process, so that all find the same temperature
        self.measured = self.once(kit, sources, Access.FORGET, self.measured_images)

    def on_train_batch_start(self, batch: UnlearnBatch, batch_idx: int) -> None:
        """Measure the temperature now and then."""
        # not in the step: under autocast, weights first read without gradient stay so for the step
        if self.global_step % self.temperature_every == 0:
            self.temperature = math.exp(min(self.alpha * self.forget_accuracy(), HOTTEST))

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return both terms, in nats."""
        logits = self.classifier(batch.images).float()
        target = self.targets(self.teacher(batch.images), batch.forget)
        loss = -(target * logits.log_softmax(dim=1)).sum(dim=1)
        return {"forget": batch.forget_mean(loss), "retain": batch.retain_mean(loss)}

    def targets(self, said: Tensor, forget: Tensor) -> Tensor:
        """Return noisy answers of the original, probabilities, shape ``(N, K)``."""
        if self.support == "retained":
            said = said.clone()
            said[:, list(self.forget)] = -torch.inf
        noisy = said + torch.empty(said.shape).exponential_().log_().neg_().to(said)
        drawn = torch.nn.functional.one_hot(noisy.argmax(dim=1), noisy.shape[1]).to(noisy)
        return torch.where(forget[:, None], (noisy / self.temperature).softmax(dim=1), drawn)

    @torch.no_grad()
    def forget_accuracy(self) -> float:
        """Return Δ: the accuracy of the classifier, in evaluation mode, on forgotten images."""
        self.classifier.eval()
        right = [
            self.classifier(batch.images.to(self.device)).argmax(dim=1).cpu() == batch.labels.cpu()
            for batch in self.measured
        ]
        self._set_batch_norm()
        return torch.cat(right).float().mean().item()
