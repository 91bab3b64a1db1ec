"""Synthetic embeddings: tune the head alone, on random features."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import head_of
from geniu_lightning.seeds import generator
from geniu_lightning.settings.checked import NonNegative, PositiveInt
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.batches import StepBatches, UnlearnBatch, labelled_batch
from geniu_lightning.unlearning.losses import divergence, masked_target
from geniu_lightning.unlearning.networks import Teacher
from geniu_lightning.unlearning.sources import Sources

DOUBLINGS = 8  # at most, of the fallback's length


class SyntheticEmbeddings(Unlearner):
    """Distils from the masked original on random features `h`; only the head is trained.

    `L = mean over features of forget classes of KL(softmax(mask_F(z_T(h))) ‖ softmax(W h + b)) + w
    · mean over those of retained classes of the same`. A feature is labelled by the original head.
    Features are drawn until every class has its number. A class with too few is filled up with
    `h = α W_k / ‖W_k‖ + draw`, α the typical norm √D of a draw, doubled until the head answers k;
    where it never does, undoubled. Feature maps are unchanged: the class is suppressed as by a
    logit mask, and a new head restores it.

    Args:
        law: `normal`, N(0, I), or `rectified`, the same after ReLU, as features are.
        per_class: Features of each class.
        max_draws: Approximate limit of draws for each class before the fallback.
        batch_size: Features in a step, drawn at random from all.

    Source:
        A Universal Source-Free Class Unlearning Framework via Synthetic Embeddings, TMLR 2026;
        public code has N(0, I), 5,000 features a class, SGD at 0.01 with momentum 0.9, batch
        1,024, up to 200 epochs, and other losses too. Departures: steps fixed beforehand, where the
        code picks the epoch on the test set; a bound on the draws and the fallback, for a head may
        never answer a class; fewer features; the rectified law; w; a bound of the gradient.
    """

    def __init__(
        self,
        *,
        law: Literal["normal", "rectified"] = "normal",
        per_class: PositiveInt = 500,
        max_draws: PositiveInt = 5000,
        batch_size: PositiveInt = 1024,
        retain_weight: NonNegative = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.law = law
        self.per_class = per_class
        self.max_draws = max_draws
        self.batch_size = batch_size
        self.retain_weight = retain_weight

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Freeze all but the head, and draw the features."""
        super().prepare(kit, sources)
        self.classifier.requires_grad_(False)
        head_of(self.classifier).requires_grad_(True)
        self.teacher = Teacher(head_of(kit.classifier))
        if self.steps:
            features, labels = self.embeddings(head_of(kit.classifier))

            def drawn(step: int) -> UnlearnBatch:
                random = generator("embedding_order", self.seed, step)
                chosen = torch.randint(len(labels), (self.batch_size,), generator=random)
                chosen = chosen.to(labels.device)
                # UnlearnBatch.images holds features (N, D): the loss needs the head alone
                return labelled_batch(features[chosen], labels[chosen], self.forget)

            self.batches = StepBatches(drawn, self.steps)

    @torch.no_grad()
    def embeddings(self, head: nn.Linear) -> tuple[Tensor, Tensor]:
        """Return features `(K per_class, D)` and their classes, int64, in order of class."""
        random = generator("embeddings", self.seed)
        classes, width = head.out_features, head.in_features
        features = [head.weight.new_empty(0, width) for _ in range(classes)]
        for _ in range(-(-self.max_draws // self.per_class)):
            draws = self._draw(classes * self.per_class, head, random)
            labels = head(draws).argmax(dim=1)
            features = [
                torch.cat([h, draws[labels == k]])[: self.per_class] for k, h in enumerate(features)
            ]
            if all(len(h) == self.per_class for h in features):
                break
        for k, h in enumerate(features):
            if len(h) < self.per_class:
                draws = self._draw(self.per_class - len(h), head, random)
                features[k] = torch.cat([h, self._towards(k, head, draws)])
        labels = torch.arange(classes, device=head.weight.device)
        return torch.cat(features), labels.repeat_interleave(self.per_class)

    def _draw(self, count: int, head: nn.Linear, random: torch.Generator) -> Tensor:
        return self._by_law(torch.randn(count, head.in_features, generator=random).to(head.weight))

    def _towards(self, k: int, head: nn.Linear, draws: Tensor) -> Tensor:
        row = head.weight[k]
        step = row / row.norm().clamp(min=1e-12) * head.in_features**0.5
        for doubling in range(DOUBLINGS + 1):
            features = self._by_law(draws + 2**doubling * step)
            if (head(features).argmax(dim=1) == k).all():
                return features
        return self._by_law(draws + step)

    def _by_law(self, features: Tensor) -> Tensor:
        return features.relu() if self.law == "rectified" else features

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return both terms, in nats."""
        target = masked_target(self.teacher(batch.images), self.forget)
        loss = divergence(target, head_of(self.classifier)(batch.images))
        return {
            "forget": batch.forget_mean(loss),
            "retain": self.retain_weight * batch.retain_mean(loss),
        }
