"""Regrow: a fresh network distilled from the original, whose forget classes are masked."""

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from geniu_lightning.errors import SettingError, UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import parts_of
from geniu_lightning.seeds import generator, stream
from geniu_lightning.settings.checked import (
    Fraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
)
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.losses import divergence, log_forget_probability, masked_target
from geniu_lightning.unlearning.networks import Teacher, fresh_classifier
from geniu_lightning.unlearning.retrain import steps_of_retraining
from geniu_lightning.unlearning.sources import Sources
from geniu_lightning.unlearning.tuning import BatchSize
from geniu_lightning.unlearning.warps import WarpedBatches, Warps, readable_strength

CHUNK = 256  # images that the original classifies at once


class Regrow(Unlearner):
    """Distils the original, without its forget classes F, into a network with fresh weights.

    `L = T² · mean over copies of KL(softmax(mask_F(z_T − τ log π) / T) ‖ softmax(z / T))`, z_T of
    the original, z of the student, π the classes' shares of the training images. Inputs are copies
    of proxies of *retained* classes, warped, mixed and pasted anew in every step. The student can
    know of F what shows in the original's answers about other classes, which three settings limit,
    and what is in the first `keep` parts, which it takes over frozen (running statistics of batch
    norm included).

    Args:
        warps: Strongest warps of the copies.
        label_agreement: Fraction of warped copies that the original must classify as their image,
            or the geometric warps are weakened, as in `readable_strength`; 0: never.
        keep: Parts taken over: blocks, and the stem before them.
        answers: `hard`: all probability on the likeliest retained class; `soft`: that of all of
            them.
        drop_fraction: Fraction, rounded, of a step's copies of one label that is not taught (but
            stays in the batch, for batch norm): those that the original finds likeliest F, for a
            mixture of retained images may look like it.
        forget_logit_fraction: Steps with F's logits in the student's softmax, as a fraction of the
            steps of retraining (by the kit's record and counts), spread evenly; at least one step,
            at most all. Without them in the others its logits of F are no lower than those of a
            network that never met F. `None` is all steps, and needs no record.
        tau: τ, how much of the imbalance is removed; what an earlier request removed counts.
        **settings: Those of the base but `batch_norm`.

    Source:
        Ours. Loss: Zhou et al., arXiv 2503.23751, on other inputs; τ: Menon et al., arXiv
        2007.07314; pasting: CutMix, arXiv 1905.04899, without its labels; long distillation on
        strongly changed inputs: Beyer et al., arXiv 2106.05237.
    """

    def __init__(
        self,
        *,
        warps: Warps,
        label_agreement: Fraction = 0.0,
        keep: NonNegativeInt = 0,
        proxies_per_class: PositiveInt | None = None,
        answers: Literal["hard", "soft"] = "soft",
        # up to 1/2, but for ties, a copy of each label is taught
        drop_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.0,
        forget_logit_fraction: Annotated[float, Field(gt=0, le=1)] | None = None,
        temperature: Positive = 1.0,
        tau: NonNegative = 0.0,
        batch_size: BatchSize = 64,
        **settings: Any,
    ) -> None:
        super().__init__(batch_norm="train", **settings)
        self.warps = warps
        self.label_agreement = label_agreement
        self.keep = keep
        self.proxies_per_class = proxies_per_class
        self.answers = answers
        self.drop_fraction = drop_fraction
        self.forget_logit_fraction = forget_logit_fraction
        self.temperature = temperature
        self.tau = tau
        self.batch_size = batch_size
        self.kept: list[nn.Module] = []
        self.warp_strength = 1.0  # multiplies the geometric warps

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Build the student, copy the parts that stay, and warp the proxies."""
        self.teacher = Teacher(kit.classifier)
        # of both seeds: runs on kits of several training seeds must differ, as these do; of
        # earlier requests: the student must not begin as its own teacher did
        begin = stream("student", kit.info.seed, self.seed, *kit.info.forgotten)
        self.classifier = fresh_classifier(kit, begin)
        self.kept = self._take_over(kit.classifier)
        self.shift = self._logit_shift(kit)
        self.forget_logit_steps = self._forget_logit_steps(kit)
        if self.steps:
            self.batches = self._warped_proxies(kit)

    def _take_over(self, original: nn.Module) -> list[nn.Module]:
        """Copy the first parts of the original into the student, frozen; return them."""
        own, theirs = parts_of(self.classifier), parts_of(original)
        if self.keep > len(own):
            raise SettingError(
                f"is {self.keep}, and {type(original).__name__} has {len(own)} parts before its"
                " head: set it lower; 0 takes over none",
                key="unlearner.keep",
            )
        for part, other in zip(own[: self.keep], theirs, strict=False):
            part.load_state_dict(other.state_dict())
            part.requires_grad_(False)
        return own[: self.keep]

    def _logit_shift(self, kit: Kit) -> Tensor:
        """Return what is subtracted from the original's logits, shape `(K,)`; note its τ."""
        self.prior_taken = max(self.tau - kit.info.prior_taken, 0.0)
        counts = torch.tensor(kit.info.class_counts, dtype=torch.float64)
        retained = [k for k in range(len(counts)) if k not in self.forget]
        if self.prior_taken and (counts[retained] < 1).any():
            raise UserError(
                "the kit does not say how many images of each class were trained on, which"
                " unlearner.tau needs: set it to 0"
            )
        priors = counts.clamp(min=1) / counts.sum().clamp(min=1)
        device = next(kit.classifier.parameters()).device
        return (self.prior_taken * priors.log()).float().to(device)

    def _forget_logit_steps(self, kit: Kit) -> int:
        """Return the number of steps with F's logits in the student's softmax."""
        if self.forget_logit_fraction is None:
            return self.steps
        try:
            steps = self.forget_logit_fraction * steps_of_retraining(kit, self.forget)
        except UserError as error:
            remedy = "unlearner.forget_logit_fraction=null needs no record"
            raise UserError(f"{error}; {remedy}") from error
        return min(max(round(steps), 1), self.steps)

    def _warped_proxies(self, kit: Kit) -> WarpedBatches:
        classes = [k for k in kit.info.remaining if k not in self.forget]
        proxies = kit.proxies(classes, self.proxies_per_class)
        images = kit.info.spec.normalise(proxies.images)
        if self.label_agreement:
            random = generator("agreement", self.seed)
            self.warp_strength = readable_strength(
                self.warps, images, self._label, self.label_agreement, random
            )
        warps = self.warps.times(self.warp_strength)
        return WarpedBatches(images, warps, self.batch_size, self.steps, self.seed)

    def _label(self, images: Tensor) -> Tensor:
        """Return the retained class that the original finds likeliest, `(N,)`."""
        answers = torch.cat([self.teacher(part) for part in images.split(CHUNK)])
        return self._target(answers).argmax(dim=1)

    def _set_batch_norm(self) -> None:
        super()._set_batch_norm()
        for part in self.kept:
            part.eval()

    def on_train_start(self) -> None:
        """Log the strength of the warps, before the clock starts."""
        for logger in self.loggers:
            logger.log_metrics({"unlearn/warp_strength": self.warp_strength}, step=0)
        super().on_train_start()

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return the distillation loss, in nats."""
        answer = self.teacher(batch.images)
        target = self._target(answer)
        labels = target.argmax(dim=1)
        if self.answers == "hard":
            target = F.one_hot(labels, target.shape[1]).float()
        logits = self.classifier(batch.images).float() / self.temperature
        classes = self._classes_of_step(logits.shape[1])
        loss = divergence(target[:, classes], logits[:, classes]) * self._taught(answer, labels)
        return {"distill": self.temperature**2 * batch.retain_mean(loss)}

    def _target(self, answer: Tensor) -> Tensor:
        """Return the target probabilities of the original's logits, `(N, K)`."""
        return masked_target((answer - self.shift) / self.temperature, self.forget)

    def _taught(self, answer: Tensor, labels: Tensor) -> Tensor:
        """Return 0 for the copies of each label that are likeliest F, else 1, `(N,)`."""
        likeness = log_forget_probability(answer, self.forget)
        same = labels[:, None] == labels
        likelier = (same & (likeness > likeness[:, None])).sum(dim=1)
        return (likelier + 0.5 >= self.drop_fraction * same.sum(dim=1)).float()

    def _classes_of_step(self, classes: int) -> list[int]:
        """Return the classes of the student's softmax in this step."""
        phase = self.global_step * self.forget_logit_steps % self.steps
        return [
            k for k in range(classes) if phase < self.forget_logit_steps or k not in self.forget
        ]
