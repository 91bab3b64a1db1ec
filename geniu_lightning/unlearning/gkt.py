"""GKT: distil into a new network on synthesised images that pass a gate against forget classes."""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from geniu_lightning.errors import UserError
from geniu_lightning.fitting.distributed import least_over_ranks
from geniu_lightning.kit.file import Kit
from geniu_lightning.settings.checked import Fraction, NonNegative, NonNegativeInt, Positive
from geniu_lightning.unlearning import losses
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.logit_mask import mask_head
from geniu_lightning.unlearning.sources import Sources
from geniu_lightning.unlearning.synthesis import Synthesis, batch_mean, synthetic_batch

MIN_PASSED = 4  # fewer images are no sample for the student's batch norm


class Gkt(Synthesis):
    """Distils the original into a new student; a gate stops images that look like forget classes.

    A generator G seeks images on which student S and original T differ. The gate passes those whose
    original probabilities of the forget classes *sum* to at most ε. On these, the student minimises
    `c · KL(p_T ‖ p_S) + β · Σ_blocks mean (a_S − a_T)²`, where `a` is the mean over channels of a
    block's squared output, as a vector of length 1 for each image; the generator minimises `−KL(p_T
    ‖ p_S)`. A round is one step of the generator, then `student_steps` of the student on the images
    that the new generator makes of the same noise.

    Where fewer than 4 images pass, the generator minimises `log Σ_F p_T` instead, on new noise,
    until 4 pass or `seek_steps` are over; in the latter case the student takes no step in that
    round.

    **The number of steps must be fixed beforehand.** Images that pass are still a little like F,
    and the student learns the class from them: a table printed by the reference (balanced MNIST,
    class 0) has forget accuracy 0.0 up to round 750 and 0.76 at round 900. No data that the method
    may read tells when to stop; report the curve, and see `mask`.

    Args:
        threshold: ε, probability of all forget classes together.
        attention_weight: β; 0 leaves the term out, as a network without `blocks` needs.
        kl_scale: c; `None` is 1/K for K classes, see below.
        mask: Mask the head after the last step, as `logit_mask` does.
        batch_size: Images synthesised in a step, before the gate.
        seek_steps: 0 is the reference's.

    Source:
        Chundawat et al., Zero-Shot Machine Unlearning, arXiv 2201.05629, and its public notebook:
        latent 128, batch 256, Adam 1e-3 for both, gradient norm 5, ε = 0.01, β = 250, 1 step of the
        generator to 10 of the student, up to 4,000 rounds, 80 times our student steps. The
        notebook's KL is also divided by K, and β was tuned to that: `kl_scale=None` keeps its
        ratio. Departures: the gate covers all forget classes, where the notebook has class 0; the
        student stays in training mode, where the notebook leaves it in evaluation mode after its
        first test, but for the generator's step, so that its running statistics come from its own
        steps alone; rates are constant, where the notebook's follow a loss on test data; at least
        4 images to a step, and seeking them; every child of `blocks` gives a map, eight in AllCNN
        as there, eight in ResNet-18 too; the generator's KL is not divided by K (Adam does not
        feel it).
    """

    widths = (128, 128, 64)
    sigmoid = False
    one_noise = True
    least = MIN_PASSED

    def __init__(
        self,
        *,
        threshold: Fraction = 0.01,
        attention_weight: NonNegative = 250.0,
        kl_scale: Positive | None = None,
        mask: bool = False,
        batch_size: Annotated[int, Field(ge=MIN_PASSED)] = 64,
        seek_steps: NonNegativeInt = 100,
        **settings: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **settings)
        self.threshold = threshold
        self.attention_weight = attention_weight
        self.kl_scale = kl_scale
        self.mask = mask
        self.seek_steps = seek_steps

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Build the student and the generator."""
        super().prepare(kit, sources)
        if self.attention_weight:
            _blocks_of(self.classifier)
        self.scale = 1 / len(kit.info.class_names) if self.kl_scale is None else self.kl_scale
        self.taught = 0  # steps that updated the student

    def passes(self, logits: Tensor) -> Tensor:
        """Return which images pass the gate, by the original's logits `(N, K)`."""
        # NaN must pass, for the non-finite guard to see it
        return ~(losses.log_forget_probability(logits, self.forget).exp() > self.threshold)

    def batch_of(self, images: Tensor) -> UnlearnBatch:
        """Return the images that pass the gate."""
        logits = self.teacher(images)
        passed = self.passes(logits)
        return synthetic_batch(images[passed], logits[passed], self.forget)

    def generator_loss(self, images: Tensor) -> Tensor | None:
        """Return −KL(p_T ‖ p_S) on what passes; where too few images do, log Σ_F p_T on all.

        `None` if no image passes and `seek_steps` is 0.
        """
        expected = self.teacher.network(images)
        passed = self.passes(expected)
        if self.seek_steps and passed.sum() < MIN_PASSED:
            return losses.log_forget_probability(expected, self.forget).mean()
        if not passed.any():
            return None
        found = self.classifier(images[passed])
        return -losses.divergence_by_class(expected[passed], found).sum(dim=1).mean()

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return the divergence and the attention term; 0 where too few images passed."""
        # all processes or none: an idle one would drop the gradients of the others
        self.idle = least_over_ranks(len(batch.images)) < MIN_PASSED
        if self.idle:
            return {
                "distill": 0 * torch.stack([p.sum() for p in self.classifier.parameters()]).sum()
            }
        self.taught += 1
        terms = {}
        if self.attention_weight:
            with torch.no_grad():
                expected, wanted = attend(self.teacher.network, batch.images)
            found, seen = attend(self.classifier, batch.images)
            gaps = [(a - b).square().mean(dim=1) for a, b in zip(seen, wanted, strict=True)]
            gap = batch_mean(batch, torch.stack(gaps).sum(dim=0))
            terms["attention"] = self.attention_weight * gap
        else:
            expected, found = self.teacher(batch.images), self.classifier(batch.images)
        distance = losses.divergence(expected.float().softmax(dim=1), found)
        return {"distill": self.scale * batch_mean(batch, distance)} | terms

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Remove the gradients of an idle step: at zero, momentum would still move weights."""
        if self.idle:
            optimizer.zero_grad()

    def finish(self) -> None:
        """Refuse a student that was never taught; mask its head if `mask` is set."""
        if self.steps and not self.taught:
            raise UserError(
                f"in none of {self.steps} steps did {MIN_PASSED} of {self.batch_size} images"
                " pass the gate: raise unlearner.threshold or unlearner.seek_steps, got"
                f" {self.threshold} and {self.seek_steps}"
            )
        if self.mask:
            mask_head(self.classifier, self.forget)


def _blocks_of(network: nn.Module) -> nn.Sequential:
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, nn.Sequential):
        raise UserError(
            f"{type(network).__name__} has no sequence of blocks whose attention could be compared:"
            " set unlearner.attention_weight=0"
        )
    return blocks


def attend(network: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return logits, and of every block the normalised attention map, shape `(N, H · W)`."""
    maps: list[Tensor] = []

    def note(_: nn.Module, __: object, output: Tensor) -> None:
        maps.append(F.normalize(output.float().square().mean(dim=1).flatten(1), dim=1))

    hooks = [block.register_forward_hook(note) for block in _blocks_of(network)]
    try:
        return network(images), maps
    finally:
        for hook in hooks:
            hook.remove()
