"""ISPF: distil into a new network on synthesised images, with forget classes filtered out."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geniu_lightning.settings.checked import Fraction, NonNegative, NonNegativeInt, PositiveInt
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.losses import divergence, divergence_by_class, masked_target
from geniu_lightning.unlearning.synthesis import Synthesis, batch_mean, synthetic_batch


class Ispf(Synthesis):
    """Distils the filtered original into a new student, on all synthesised images.

    The student S minimises `KL(target ‖ p_S)` with the target of `post_filter` (or the softmax of
    the original T over retained classes). The generator minimises

    `w_bn Σ_layers (‖μ − μ_run‖ + ‖σ² − σ²_run‖) + w_oh CE(z_T, argmax z_T) + w_bal Σ_k p̄_k log
    p̄_k + w_adv mean(−Σ_{k∈R} t_k + Σ_{k∈F} t_k)`, `t_k = p_T,k (log p_T,k − log p_S,k)`,

    statistics over the inputs of T's batch norms, p̄ the batch mean of p_T: images with the
    statistics of T's training, of one class each, of all classes evenly, on which S and T differ on
    retained and agree on forget classes. A round is one step of the generator and `student_steps`
    of the student, each on a new batch.

    Args:
        target: `post_filter` (the paper's) or `mask`, its limit.
        threshold: ε of the post-filter, a probability in [0, 1].
        bn_weight: w_bn, as the others' w; without effect on a network without batch norm.
        warm_up_steps: Steps of the generator alone, at the beginning.

    Source:
        Toward Efficient Data-Free Unlearning, AAAI 2025, arXiv 2412.13790, and its public code:
        student SGD 0.05, momentum 0.9, weight decay 1e-4, cosine from there to 2e-4; generator Adam
        1e-3, betas (0.5, 0.999), latent 256; 1 step of the generator to 10 of the student, 2
        warm-up epochs of 5 rounds, as we read it; 10,000 student steps, batch 256; all weights 1;
        ε = 0.01 (0.001 for 100 and more classes). Departures: fewer steps and images; fixed length,
        where the code keeps the step that is best on test data; images are synthesised with batch
        statistics as in the generator's updates, where the code synthesises them in evaluation
        mode; in the generator's step the student is in evaluation mode, so that its running
        statistics come from its own steps alone; the cosine ends at 0; the gradients are bounded.
    """

    widths = (256, 128, 64)
    sigmoid = True
    one_noise = False

    def __init__(
        self,
        *,
        target: Literal["post_filter", "mask"] = "post_filter",
        threshold: Fraction = 0.01,
        bn_weight: NonNegative = 1.0,
        one_hot_weight: NonNegative = 1.0,
        balance_weight: NonNegative = 1.0,
        adversarial_weight: NonNegative = 1.0,
        warm_up_steps: NonNegativeInt = 10,
        latent: PositiveInt = 256,
        **settings: Any,
    ) -> None:
        super().__init__(latent=latent, **settings)
        self.weights = {
            "bn": bn_weight,
            "one_hot": one_hot_weight,
            "balance": balance_weight,
            "adversarial": adversarial_weight,
        }
        self.warm_up_steps = warm_up_steps
        self.target = target
        self.threshold = threshold

    def batch_of(self, images: Tensor) -> UnlearnBatch:
        """Return all images, labelled by the original."""
        return synthetic_batch(images, self.teacher(images), self.forget)

    def generator_loss(self, images: Tensor) -> Tensor:
        """Return the weighted sum of the generator's four terms."""
        expected, distance = statistics_distance(self.teacher.network, images)
        terms = {
            "bn": distance,
            "one_hot": F.cross_entropy(expected, expected.argmax(dim=1)),
            "balance": balance(expected),
            "adversarial": inhibited_divergence(expected, self.classifier(images), self.forget),
        }
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return the divergence from the filtered original, in nats."""
        expected = self.teacher(batch.images)
        if self.target == "mask":
            target = masked_target(expected, self.forget)
        else:
            target = post_filter(expected, self.forget, self.threshold).softmax(dim=1)
        return {"distill": batch_mean(batch, divergence(target, self.classifier(batch.images)))}


def statistics_distance(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits in 32 bits, and the distance of batch statistics from the running ones.

    It is the sum over batch norms of the Euclidean distances of means and of biased variances of
    their inputs; 0 without batch norm.
    """
    distances: list[Tensor] = []

    def compare(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(layer.running_mean, Tensor)  # other layers have no hook
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
    """Return Σ p̄ log p̄, the negative entropy of the mean softmax over the batch."""
    # by logsumexp, for the gradient of p̄ log p̄ is NaN where p̄ is rounded to 0
    log_mean = logits.log_softmax(dim=1).logsumexp(dim=0) - math.log(len(logits))
    return (log_mean.exp() * log_mean).sum()


def inhibited_divergence(teacher: Tensor, student: Tensor, forget: Sequence[int]) -> Tensor:
    """Return the mean of −Σ_R t + Σ_F t, `t` as in `divergence_by_class`."""
    signs = -torch.ones(teacher.shape[1], device=teacher.device)
    signs[list(forget)] = 1.0
    return (divergence_by_class(teacher, student) * signs).sum(dim=1).mean()


def post_filter(logits: Tensor, forget: Sequence[int], threshold: float) -> Tensor:
    """Return logits in which forget classes above a probability are lowered to the minimum.

    The sum of what is removed is added evenly to the retained classes, so the sum of logits stays.
    """
    logits = logits.float()
    forgotten = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    forgotten[list(forget)] = True
    lowered = forgotten & (logits.softmax(dim=1) > threshold)
    least = logits.amin(dim=1, keepdim=True)
    removed = ((logits - least) * lowered).sum(dim=1, keepdim=True)
    return torch.where(lowered, least, logits + ~forgotten * removed / (~forgotten).sum())
