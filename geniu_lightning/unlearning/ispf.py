"""ISPF: teach a new network on all images of a generator that is kept from forgotten content."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.fitting.optim import OptimizerFactory
from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.losses import divergence, masked_target
from geniu_lightning.unlearning.networks import Teacher, fresh_classifier
from geniu_lightning.unlearning.sources import Access, Sources, UnlearnBatch
from geniu_lightning.unlearning.synthesis import (
    NoiseToImage,
    Rounds,
    Synthetic,
    disagreement,
    mean_of,
    synthetic_batch,
)

Target = Literal["post_filter", "mask"]
WIDTHS = (256, 128, 64)


class Ispf(Unlearner):
    """Distils a cleaned original into a new student; no made image is thrown away.

    The student S minimises ``KL(target ‖ p_S)`` with the target of `post_filter` (or the
    softmax of the original T over retained classes). The generator minimises

    ``w_bn Σ_layers (‖μ − μ_run‖ + ‖σ² − σ²_run‖) + w_oh CE(z_T, argmax z_T) + w_bal Σ_k p̄_k log p̄_k
    + w_adv mean(−Σ_{k∈R} t_k + Σ_{k∈F} t_k)``, ``t_k = p_T,k (log p_T,k − log p_S,k)``,

    statistics over the inputs of T's batch norms, p̄ the batch mean of p_T: images as the original
    saw them, sure of a class, of all classes evenly, on which S and T differ about retained and
    agree about forgotten classes. Each round is one step of the generator and ``student_steps`` of
    the student, each on a new batch.

    Args:
        target: ``post_filter`` (the paper's) or ``mask``, its limit.
        threshold: ε of the post-filter, a probability in [0, 1].
        bn_weight: w_bn; without effect on a network without batch norm.
        one_hot_weight: w_oh.
        balance_weight: w_bal.
        adversarial_weight: w_adv.
        warm_up_steps: Steps of the generator alone, at the start.
        batch_size: Images in a step.
        student_steps: Steps of the student in a round.
        latent: Numbers of noise in an image.
        generator_optimizer: Factory for the generator's optimizer.
        **settings: Those of the base but ``batch_norm``: the student uses and changes batch
            statistics. ``max_gradient_norm`` bounds the generator's gradient too.

    Raises:
        UserError: If a setting is out of range.

    Source:
        Toward Efficient Data-Free Unlearning, AAAI 2025, arXiv 2412.13790, and its public code:
        student SGD 0.05, momentum 0.9, weight decay 1e-4, cosine from there to 2e-4; generator Adam
        1e-3, betas (0.5, 0.999), latent 256; 1 step of the generator to 10 of the student, 2
        warm-up epochs of 5 rounds, as we read it; batch 256; all weights 1; ε = 0.01 (0.001 for 100
        and more classes). It takes 10,000 student steps of 256 images; our 500 of 64 are the common
        budget of small machines. Departures: fixed length, where the code keeps the step that is
        best on test data; images are made with batch statistics as in the generator's updates,
        where the code makes them in evaluation mode; in the generator's step the student is in
        evaluation mode, so that its running statistics come from its own steps alone; the cosine
        ends at 0; the gradients are bounded.
    """

    access = Access.NONE

    def __init__(
        self,
        *,
        generator_optimizer: OptimizerFactory,
        target: Target = "post_filter",
        threshold: float = 0.01,
        bn_weight: float = 1.0,
        one_hot_weight: float = 1.0,
        balance_weight: float = 1.0,
        adversarial_weight: float = 1.0,
        warm_up_steps: int = 10,
        batch_size: int = 64,
        student_steps: int = 10,
        latent: int = 256,
        **settings: object,
    ) -> None:
        super().__init__(batch_norm="train", **settings)  # type: ignore[arg-type]  # checked there
        if target not in get_args(Target):
            raise UserError(
                f"unlearner.target must be one of {', '.join(get_args(Target))}, got {target!r}"
            )
        if not 0 <= threshold <= 1:
            raise UserError(f"unlearner.threshold must lie in [0, 1], got {threshold!r}")
        if latent < 1:
            raise UserError(f"unlearner.latent must be at least 1, got {latent!r}")
        self.weights = {
            "bn": bn_weight,
            "one_hot": one_hot_weight,
            "balance": balance_weight,
            "adversarial": adversarial_weight,
        }
        for name, weight in self.weights.items():
            if not weight >= 0:
                raise UserError(f"unlearner.{name}_weight must be at least 0, got {weight!r}")
        self.rounds = Rounds(self.steps, student_steps, batch_size, warm_up_steps, seed=self.seed)
        self.target = target
        self.threshold = threshold
        self.latent = latent
        self.generator_optimizer = generator_optimizer

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Build the student and the generator."""
        self.teacher = Teacher(kit.classifier)
        self.classifier = fresh_classifier(kit, stream("student", self.seed))
        if self.steps:
            self.batches = Synthetic(
                NoiseToImage(kit.info.spec, self.latent, WIDTHS, bounded=True),
                self.generator_optimizer,
                self.classifier,
                self.generator_loss,
                self.batch_of,
                self.rounds,
                self.max_gradient_norm,
            )

    def batch_of(self, images: Tensor) -> UnlearnBatch:
        """Return all images, labelled as the original answers."""
        return synthetic_batch(images, self.teacher(images), self.forget)

    def generator_loss(self, images: Tensor) -> Tensor:
        """Return the weighted sum of the generator's four terms."""
        expected, distance = answer_and_distance(self.teacher.network, images)
        terms = {
            "bn": distance,
            "one_hot": F.cross_entropy(expected, expected.argmax(dim=1)),
            "balance": balance(expected),
            "adversarial": inhibited(expected, self.classifier(images), self.forget),
        }
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return the divergence from the cleaned original."""
        expected = self.teacher(batch.images)
        if self.target == "mask":
            target = masked_target(expected, self.forget)
        else:
            target = post_filter(expected, self.forget, self.threshold).softmax(dim=1)
        return {"distill": mean_of(batch, divergence(target, self.classifier(batch.images)))}


def answer_and_distance(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits in 32 bits, and how far the images' statistics are from those it keeps.

    The distance is the sum, over batch norms, of the Euclidean distances of means and of
    variances (divided by n) of what they read; 0 without batch norm.
    """
    distances: list[Tensor] = []

    def compare(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(layer.running_mean, Tensor)  # only such layers are hooked
        assert isinstance(layer.running_var, Tensor)
        values = inputs[0].float().transpose(0, 1).flatten(1)
        mean, variance = values.mean(dim=1), values.var(dim=1, correction=0)
        distances.append((mean - layer.running_mean).norm())
        distances.append((variance - layer.running_var).norm())

    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [m.register_forward_pre_hook(compare) for m in norms if m.running_mean is not None]
    try:
        logits = network(images).float()
    finally:
        for hook in hooks:
            hook.remove()
    return logits, torch.stack(distances).sum() if distances else logits.new_zeros(())


def balance(logits: Tensor) -> Tensor:
    """Return Σ p̄ log p̄, p̄ the mean softmax over the batch: least where classes are even."""
    # by logsumexp, for the gradient of p̄ log p̄ is no number where p̄ is rounded to 0
    log_mean = logits.log_softmax(dim=1).logsumexp(dim=0) - math.log(len(logits))
    return (log_mean.exp() * log_mean).sum()


def inhibited(teacher: Tensor, student: Tensor, forget: Sequence[int]) -> Tensor:
    """Return the mean of −Σ_R t + Σ_F t, ``t`` as in `disagreement`."""
    signs = -torch.ones(teacher.shape[1], device=teacher.device)
    signs[list(forget)] = 1.0
    return (disagreement(teacher, student) * signs).sum(dim=1).mean()


def post_filter(logits: Tensor, forget: Sequence[int], threshold: float) -> Tensor:
    """Return logits in which forgotten classes above a probability are brought to the minimum.

    What they are brought down by, together, is shared evenly by the retained classes, so the sum of
    logits stays; as a softmax it is a mask that leaves something.

    Args:
        logits: Of the original classifier, shape ``(N, K)``.
        forget: Forgotten classes.
        threshold: Probability from which a forgotten class is brought down.
    """
    logits = logits.float()
    gone = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    gone[list(forget)] = True
    caught = gone & (logits.softmax(dim=1) > threshold)
    least = logits.amin(dim=1, keepdim=True)
    taken = ((logits - least) * caught).sum(dim=1, keepdim=True)
    return torch.where(caught, least, logits + ~gone * taken / (~gone).sum())
