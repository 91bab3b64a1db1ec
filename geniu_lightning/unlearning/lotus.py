"""LoTUS: soften the original's own answers on the forget set until they are uninformative."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from geniu_lightning.kit.file import Kit
from geniu_lightning.models.frozen import frozen
from geniu_lightning.settings.checked import Positive, PositiveInt
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.sources import Access, Sources
from geniu_lightning.unlearning.tuning import Tuning

HOTTEST = 80.0  # e^80 fits 32 bits, and logits divided by it are uniform


class Lotus(Tuning):
    """Minimises `−Σ_k t_k log p_k` towards noisy answers t of the original.

    On the forget set `t = softmax((z_T + g) / τ)`, g standard Gumbel noise; on the retain set t is
    a class drawn from the original's own probabilities. `τ = e^(α Δ)`, Δ the remaining accuracy on
    the forget set. Once Δ is 0, τ is 1 and the target is the original's own answer: what was
    forgotten is relearned, and training oscillates.

    Args:
        support: Classes of the targets: `all` (the paper's), or `retained` ones alone, with which
            it converges.
        temperature_every: Steps between two measurements of Δ.
        measured_images: Largest number of images of the forget set that Δ is measured on.

    Source:
        Spartalis et al., LoTUS, arXiv 2503.18314. Public code: α 32, AdamW 1e-4, decay 5e-4, 10
        epochs, batch 128, a random 30 % of retained images; Δ once an epoch, against the accuracy
        of the original on unseen images of the forget set's kind, which is 0 for a class.
        Departures: Δ every few steps on a bounded number of images; the mean of each set; the whole
        retain set; no decay, a rate ten times as large for steps that are fewer.
    """

    sides = Access.FORGET | Access.RETAIN
    distils = True

    def __init__(
        self,
        *,
        alpha: Positive = 32.0,
        support: Literal["all", "retained"] = "all",
        temperature_every: PositiveInt = 20,
        measured_images: PositiveInt = 512,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.alpha = alpha
        self.support = support
        self.temperature_every = temperature_every
        self.measured_images = measured_images
        self.temperature = 1.0

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Open the images that Δ is measured on."""
        super().prepare(kit, sources)
        # not divided among processes, so that all measure the same temperature
        self.measured = self.single_pass(kit, sources, Access.FORGET, self.measured_images)

    def on_train_batch_start(self, batch: UnlearnBatch, batch_idx: int) -> None:
        """Measure the temperature every `temperature_every` steps."""
        # not in the step: autocast would cache casts of the weights that have no gradient
        if self.global_step % self.temperature_every == 0:
            self.temperature = math.exp(min(self.alpha * self.forget_accuracy(), HOTTEST))

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return both terms, in nats."""
        logits = self.classifier(batch.images).float()
        target = self.targets(self.teacher(batch.images), batch.forget)
        loss = -(target * logits.log_softmax(dim=1)).sum(dim=1)
        return {"forget": batch.forget_mean(loss), "retain": batch.retain_mean(loss)}

    def targets(self, answer: Tensor, forget: Tensor) -> Tensor:
        """Return target probabilities of the original's logits, both of shape `(N, K)`."""
        if self.support == "retained":
            answer = answer.clone()
            answer[:, list(self.forget)] = -torch.inf
        noisy = answer + torch.empty(answer.shape).exponential_().log_().neg_().to(answer)
        drawn = torch.nn.functional.one_hot(noisy.argmax(dim=1), noisy.shape[1]).to(noisy)
        return torch.where(forget[:, None], (noisy / self.temperature).softmax(dim=1), drawn)

    @torch.no_grad()
    def forget_accuracy(self) -> float:
        """Return Δ: the accuracy of the classifier on the forget set, in evaluation mode."""
        with frozen(self.classifier):
            right = [
                self.classifier(batch.images.to(self.device)).argmax(dim=1).cpu()
                == batch.labels.cpu()
                for batch in self.measured
            ]
        return torch.cat(right).float().mean().item()
