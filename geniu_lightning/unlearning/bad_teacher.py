"""Bad teacher: the original teaches the retain set, an ignorant network the forget set."""

from typing import Any, Literal

import torch
from torch import Tensor

from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.losses import divergence, uniform_target
from geniu_lightning.unlearning.networks import Teacher, fresh_classifier
from geniu_lightning.unlearning.sources import Access, Sources
from geniu_lightning.unlearning.tuning import Tuning


class BadTeacher(Tuning):
    """Minimises `KL(q ‖ p)`, q of the original on the retain set, else of an ignorant teacher.

    Args:
        teacher: The ignorant teacher: a `random` network (the paper's), which answers nearly alike
            for every image, perhaps with a forget class; or `uniform` over retained classes.

    Source:
        Chundawat et al., Can Bad Teaching Induce Forgetting?, arXiv 2205.08096. Public code: one
        epoch of Adam 1e-4, batch 256, a random 30 % of retained images, temperature 1, divergence
        averaged over classes too, which is 1/K of ours. Departures: the mean of each set instead
        of that of a mixed batch, the whole retain set, a larger rate.
    """

    sides = Access.FORGET | Access.RETAIN
    distils = True

    def __init__(
        self, *, teacher: Literal["random", "uniform"] = "random", **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.kind = teacher

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Draw the ignorant teacher."""
        self.ignorant = Teacher(fresh_classifier(kit, stream("bad_teacher", self.seed)))
        super().prepare(kit, sources)

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return both terms, in nats."""
        logits = self.classifier(batch.images).float()
        good = self.teacher(batch.images).softmax(dim=1)
        bad = (
            uniform_target(logits, self.forget)
            if self.kind == "uniform"
            else self.ignorant(batch.images).softmax(dim=1)
        )
        distance = divergence(torch.where(batch.forget[:, None], bad, good), logits)
        return {"forget": batch.forget_mean(distance), "retain": batch.retain_mean(distance)}
