"""Bad teacher: a good teacher for what is kept, an ignorant one for what is forgotten."""

from typing import Literal, get_args

import torch
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.losses import divergence, masked_target
from geniu_lightning.unlearning.networks import Teacher, fresh_classifier
from geniu_lightning.unlearning.sources import Access, Sources, UnlearnBatch
from geniu_lightning.unlearning.tuning import Tuning

Ignorant = Literal["random", "uniform"]


class BadTeacher(Tuning):
    """Minimises ``KL(q ‖ p)``, q the original's on retained images, an ignorant one's on others.

    Args:
        teacher: The ignorant one: a ``random`` network (the paper's), which says nearly the same of
            every image, perhaps a forgotten class; or ``uniform`` over retained classes.
        **settings: Those of `Tuning`.

    Raises:
        UserError: If there is no such teacher.

    Source:
        Chundawat et al., Can Bad Teaching Induce Forgetting?, arXiv 2205.08096. Public code: one
        epoch of Adam 1e-4, batch 256, a random 30 % of retained images, temperature 1, divergence
        averaged over classes too, which is 1/K of ours. Departures: the mean of each side instead
        of that of a mixed batch, all retained images, steps for an epoch and a larger rate for
        them, a bound of the gradient, batch norm frozen.
    """

    sides = Access.FORGET | Access.RETAIN

    def __init__(self, *, teacher: Ignorant = "random", **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # the base checks them
        if teacher not in get_args(Ignorant):
            raise UserError(
                f"unlearner.teacher must be one of {', '.join(get_args(Ignorant))}, got {teacher!r}"
            )
        self.kind = teacher

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Copy the good teacher and draw the ignorant one."""
        self.good = Teacher(kit.classifier)
        self.ignorant = Teacher(fresh_classifier(kit, stream("bad_teacher", self.seed)))
        super().prepare(kit, sources)

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return both terms, in nats."""
        logits = self.classifier(batch.images).float()
        good = self.good(batch.images).softmax(dim=1)
        bad = (
            masked_target(torch.zeros_like(logits), self.forget)
            if self.kind == "uniform"
            else self.ignorant(batch.images).softmax(dim=1)
        )
        distance = divergence(torch.where(batch.forget[:, None], bad, good), logits)
        return {"forget": batch.forget_mean(distance), "retain": batch.retain_mean(distance)}
