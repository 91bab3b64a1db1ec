"""Regrow: a network that begins afresh is taught by the original, which may not name F."""

import math
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import parts_of
from geniu_lightning.seeds import generator, stream
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.coreset import Budget, images_for
from geniu_lightning.unlearning.inputs import Noise, Warped, Warps, readable_strength
from geniu_lightning.unlearning.losses import divergence, masked_target
from geniu_lightning.unlearning.networks import Teacher, fresh_classifier
from geniu_lightning.unlearning.retrain import steps_of_retraining
from geniu_lightning.unlearning.sources import Access, Batches, Sources, UnlearnBatch

Inputs = Literal["proxies", "noise", "data"]
Answers = Literal["hard", "soft"]
AT_ONCE = 256  # images that are read together


class Regrow(Unlearner):
    """Distils the original without its forgotten answers into a network that never had them.

    ``L = T² · mean over inputs of KL(softmax(mask_F(z_T − τ log π) / T) ‖ softmax(z / T))``, z_T of
    the original, z of the student, π the classes' shares of the training images. The inputs are
    warped, mixed and pasted copies of proxies of *retained* classes, fresh in every step. What
    tuning only pushes out of sight was never in the student: it can know of F what shows in the
    original's answers about other classes, and what is in the layers it takes over.

    Two settings keep these answers from telling of F. ``leave_out``: of the copies with one answer
    a share is not taught, those that the original finds likest F, since a mixture of retained
    images may well look like F, and what is said of it draws F's outline. (They stay in the batch
    that batch norm sees, so that images of F are not strange to the student.) ``answers=hard``: all
    probability on the likeliest retained class, as labels have it. A third keeps the student from
    denying F more than a network that met none, by which it would be told from one: in all but
    ``denials`` steps F is not in the student's softmax.

    An answer about a copy that the original cannot read teaches what is wrong. ``agreement`` bends
    copies less where it names them otherwise than the images that they are copies of.

    Of the original the student takes the first ``keep`` parts, which then rest; all others and the
    head begin afresh. 0 is a new network; with all parts only the head is new, and the features
    hold what they held. Batch norm of fresh parts learns its running statistics from the stream,
    not from images; that of kept parts has the original's, which are of all classes, F too.

    Args:
        warps: How far copies are from their proxy.
        agreement: Share of bent copies (not mixed, pasted or covered) that the original is to name
            as it names their image, in [0, 1]. Where it does not, all that bends is weakened by
            tenths of what it was, until it does. 0 leaves ``warps`` as they are.
        keep: Parts taken over: blocks, and what comes before them.
        source: ``proxies`` of the kit; as controls ``noise``, N(0, I), fresh in every step and not
            warped, or ``data``, retained training images in the place of proxies.
        budget: With ``data``, how many: ``proxies`` are as many images as retained prompts, ``kit``
            as many bytes as generator and prompts, see
            `images_for`.
        proxies_per_class: How many of the kit's prompts of each class to use; ``None`` all.
        masked: Whether F is masked in the original's answers; ``False`` is a control.
        forgotten_inputs: Whether proxies of F are in the stream too, as a control.
        answers: ``hard``: the retained class that the original thinks likeliest; ``soft``: the
            probabilities of them all.
        leave_out: Share, rounded, of the copies with the same likeliest retained class in a step
            (and process) that is left out, at most ½: those in whose softmax(z_T) F has the most.
        denials: Steps in which F's logits stand in the student's softmax, for each step of training
            as the kit's classifier was trained, but on the retained images alone (by the kit's
            record and counts); in (0, 1]; evenly spread, at least one step, at most all. In other
            steps only retained logits do. ``None`` is all steps, and needs no record.
        temperature: T.
        tau: τ, how much of the imbalance is taken out of the answers; 0 leaves it in. What an
            earlier request took out counts.
        batch_size: Copies in a step.
        **settings: Those of the base but ``batch_norm``.

    Raises:
        UserError: If a setting is out of range; in `prepare`, if the network has fewer parts,
            or the kit lacks the counts that ``tau`` needs or the record that ``denials`` does.

    Source:
        Ours. The loss is that of Zhou et al., arXiv 2503.23751, on other inputs; τ as in Menon et
        al., arXiv 2007.07314; pasting is that of CutMix, Yun et al., arXiv 1905.04899, without
        its labels; long distillation on strongly changed inputs after Beyer et al.,
        arXiv 2106.05237.
    """

    def __init__(
        self,
        *,
        warps: Warps,
        agreement: float = 0.0,
        keep: int = 0,
        source: Inputs = "proxies",
        budget: Budget = "proxies",
        proxies_per_class: int | None = None,
        masked: bool = True,
        forgotten_inputs: bool = False,
        answers: Answers = "soft",
        leave_out: float = 0.0,
        denials: float | None = None,
        temperature: float = 1.0,
        tau: float = 0.0,
        batch_size: int = 64,
        **settings: Any,  # the base checks them
    ) -> None:
        super().__init__(batch_norm="train", **settings)
        if source not in get_args(Inputs):
            raise UserError(
                f"unlearner.source must be one of {', '.join(get_args(Inputs))}, got {source!r}"
            )
        for name, value in (("masked", masked), ("forgotten_inputs", forgotten_inputs)):
            if not isinstance(value, bool):  # a word would pass for true
                raise UserError(f"unlearner.{name} must be true or false, got {value!r}")
        numbers = {"keep": keep, "batch_size": batch_size, "proxies_per_class": proxies_per_class}
        for name, number in numbers.items():
            if not isinstance(number, int | None):
                raise UserError(f"unlearner.{name} must be a whole number, got {number!r}")
        if forgotten_inputs and source != "proxies":
            raise UserError("unlearner.forgotten_inputs=true needs unlearner.source=proxies")
        if proxies_per_class is not None and source != "proxies":
            raise UserError("unlearner.proxies_per_class needs unlearner.source=proxies")
        if batch_size < 2:
            raise UserError(f"unlearner.batch_size must be at least 2, got {batch_size}")
        if not 0 <= agreement <= 1:
            raise UserError(f"unlearner.agreement must be in [0, 1], got {agreement}")
        if keep < 0:
            raise UserError(f"unlearner.keep must be at least 0, got {keep}")
        if answers not in get_args(Answers):
            raise UserError(f"unlearner.answers must be hard or soft, got {answers!r}")
        if not 0 <= leave_out <= 0.5:  # up to here, but for ties, a copy of each answer stays
            raise UserError(f"unlearner.leave_out must be in [0, 0.5], got {leave_out}")
        if denials is not None and not 0 < denials <= 1:
            raise UserError(f"unlearner.denials must be in (0, 1] or null, got {denials}")
        if not 0 < temperature < math.inf:
            raise UserError(f"unlearner.temperature must be above 0, got {temperature}")
        if not 0 <= tau < math.inf:
            raise UserError(f"unlearner.tau must be at least 0, got {tau}")
        self.warps = warps
        self.agreement = agreement
        self.keep = keep
        self.source = source
        self.access = Access.RETAIN if source == "data" else Access.NONE
        self.budget: Budget = budget
        self.proxies_per_class = proxies_per_class
        self.masked = masked
        self.forgotten_inputs = forgotten_inputs
        self.answers = answers
        self.leave_out = leave_out
        self.denials = denials
        self.temperature = temperature
        self.tau = tau
        self.batch_size = batch_size
        self.kept: list[nn.Module] = []
        self.bending = 1.0  # by which all that bends is multiplied

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Build the student, take over what is kept, and open the stream."""
        self.teacher = Teacher(kit.classifier)
        # of both seeds: runs on kits of several training seeds are to differ, as these do; of
        # earlier requests: it must not begin as its own teacher did
        begin = stream("student", kit.info.seed, self.seed, *kit.info.forgotten)
        self.classifier = fresh_classifier(kit, begin)
        self.kept = self._taken_over(kit.classifier)
        self.shift = self._shift(kit)
        self.denied_in = self._denied_in(kit)
        if self.steps:
            self.batches = self._stream(kit, sources)

    def _taken_over(self, original: nn.Module) -> list[nn.Module]:
        """Copy the first parts of the original into the student, and return these."""
        own, theirs = parts_of(self.classifier), parts_of(original)
        if self.keep > len(own):
            raise UserError(
                f"unlearner.keep is {self.keep}, and {type(original).__name__} has"
                f" {len(own)} parts before its head: set it lower; 0 takes nothing over"
            )
        for part, other in zip(own[: self.keep], theirs, strict=False):
            part.load_state_dict(other.state_dict())
            part.requires_grad_(False)
        return own[: self.keep]

    def _shift(self, kit: Kit) -> Tensor:
        """Return what is taken from the original's logits, shape ``(K,)``, and note how much."""
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

    def _denied_in(self, kit: Kit) -> int:
        """Return in how many steps the student is told that its input is not of F."""
        if self.denials is None or not self.masked:
            return self.steps
        try:
            told = self.denials * steps_of_retraining(kit, self.forget)
        except UserError as error:
            raise UserError(f"{error}; unlearner.denials=null needs none of this") from error
        return min(max(round(told), 1), self.steps)

    def _stream(self, kit: Kit, sources: Sources) -> Batches:
        spec, device = kit.info.spec, next(kit.classifier.parameters()).device
        if self.source == "noise":
            shape = (self.batch_size, spec.channels, spec.size, spec.size)
            return Noise(shape, self.steps, self.seed, device)
        if self.source == "data":
            self.stored = images_for(kit, self.forget, self.budget, None)
            opened = sources.retain(AT_ONCE, self.seed or None, self.stored)  # drawn by the seed
            images = torch.cat([batch.images for batch in opened])
        else:
            gone = () if self.forgotten_inputs else self.forget
            classes = [k for k in kit.info.remaining if k not in gone]
            images = spec.normalise(kit.proxies(classes, self.proxies_per_class).images)
        if self.agreement:
            random = generator("agreement", self.seed)
            self.bending = readable_strength(
                self.warps, images, self._named, self.agreement, random
            )
        warps = self.warps.bent_by(self.bending)
        return Warped(images, warps, self.batch_size, self.steps, self.seed)

    def _named(self, images: Tensor) -> Tensor:
        """Return what the original is taken to call each image, ``(N,)``."""
        answers = torch.cat([self.teacher(part) for part in images.split(AT_ONCE)])
        return self._target(answers).argmax(dim=1)

    def _set_batch_norm(self) -> None:
        super()._set_batch_norm()
        for part in self.kept:
            part.eval()

    def on_train_start(self) -> None:
        """Note how far copies are bent, before the clock starts."""
        for logger in self.loggers:
            logger.log_metrics({"unlearn/bending": self.bending}, step=0)
        super().on_train_start()

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return the distillation, in nats."""
        answer = self.teacher(batch.images)
        target = self._target(answer)
        if self.answers == "hard":
            target = F.one_hot(target.argmax(dim=1), target.shape[1]).float()
        logits = self.classifier(batch.images).float() / self.temperature
        among = self._among(logits.shape[1])
        each = divergence(target[:, among], logits[:, among])
        each = each * self._taught(answer, target.argmax(dim=1))
        return {"distill": self.temperature**2 * batch.retain_mean(each)}

    def _target(self, answer: Tensor) -> Tensor:
        """Return the probabilities that the original is taken to mean by logits ``(N, K)``."""
        said = (answer - self.shift) / self.temperature
        return masked_target(said, self.forget if self.masked else ())

    def _taught(self, answer: Tensor, named: Tensor) -> Tensor:
        """Return 0 for those of the copies with one name that are likest F, else 1, ``(N,)``."""
        likeness = answer.log_softmax(dim=1)[:, list(self.forget)].logsumexp(dim=1)
        alike = named[:, None] == named
        likelier = (alike & (likeness > likeness[:, None])).sum(dim=1)
        return (likelier + 0.5 >= self.leave_out * alike.sum(dim=1)).float()

    def _among(self, classes: int) -> list[int]:
        """Return the classes of the student's softmax in this step."""
        denied = self.global_step * self.denied_in % self.steps < self.denied_in
        return [k for k in range(classes) if denied or k not in self.forget]
