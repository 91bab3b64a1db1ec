"""Over-unlearning: damage to the answers near the forgotten class."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from geniu_lightning.evaluation.context import (
    CHUNK,
    Context,
    Split,
    drawn,
    gradient_sign,
    log_softmax,
    outputs_of,
)
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import balanced_mean, lacking
from geniu_lightning.evaluation.metrics.divergence import kl
from geniu_lightning.settings.checked import Positive, PositiveInt, checked

BISECTIONS = 10  # an image then lies within a thousandth of its way from the boundary


@checked
@dataclass(frozen=True)
class OverUnlearning(Metric):
    """Over-unlearning OU@ε: divergence from the original's answers around the forgotten class.

    Test images of the class are moved by at most ε (max norm, of normalised pixels) onto the
    decision boundary of the original between the class and retained ones. `test.divergence` is the
    mean KL(original to model) there, in nats, with q the probabilities renormalised over retained
    classes: mean over images that reach the boundary, then over forgotten classes. `test.reached`
    is the share of images that do, the same for every model.

    Source:
        Ha, Park and Yoon, Unlearning's Blind Spots, arXiv 2506.01318: OU@ε. Departures: test in
        place of training images, the margin to retained classes alone, and points on the boundary,
        found by bisection, in place of a buffer around it.
    """

    needs = frozenset({"original"})
    infos: ClassVar[dict[str, MetricInfo]] = dict.fromkeys(
        ("divergence", "reached"), MetricInfo("oracle")
    )

    epsilon: Positive = 0.25
    steps: PositiveInt = 10
    images: PositiveInt = 300  # most of each forgotten class

    def images_processed(self, context: Context) -> int:
        """Return the images that reach the boundary at most; the original's are computed once."""
        split = context.splits.get("test")
        if split is None:
            return 0
        return sum(min(len(split.positions_of((k,))), self.images) for k in context.forget)

    def __call__(self, context: Context) -> Values:
        """Measure the unlearned model."""
        nothing = lacking(context, "test", context.forget)
        if nothing is None and len(context.retained) < 2:
            nothing = Absent("fewer than two classes are retained")
        if nothing is not None:
            return dict.fromkeys(("test.divergence", "test.reached"), nothing)
        key = ("boundary", id(context.original), context.forget, *vars(self).values())
        split, share = context.once(key, lambda: self._near(context))
        if not share:
            far = Absent("no image reaches the original's decision boundary within epsilon")
            return {"test.divergence": far, "test.reached": share}
        answers = context.once((*key, "outputs"), lambda: outputs_of(context.original, split))
        others = list(context.retained)
        theirs = log_softmax(answers.logits[:, others])
        ours = log_softmax(outputs_of(context.unlearned, split).logits[:, others])
        mean = balanced_mean(kl(theirs, ours), split.labels, context.forget)
        return {"test.divergence": mean.item(), "test.reached": share}

    def _near(self, context: Context) -> tuple[Split, float]:
        """Return images on the original's boundary, and the share of images that reach it."""
        test, stream = context.splits["test"], context.generator("over-unlearning")
        pools = [drawn(test.positions_of((k,)), self.images, stream) for k in context.forget]
        found = [
            boundary_images(
                context.original,
                test.read(rows),
                test.labels[rows],
                context.retained,
                self.epsilon,
                self.steps,
            )
            for rows in torch.cat(pools).split(CHUNK)
        ]
        images = torch.cat([part for part, _ in found])
        reached = torch.cat([mask for _, mask in found])
        labels = test.labels[torch.cat(pools)][reached]
        return Split(labels, lambda places: images[places]), reached.double().mean().item()


def margin(network: nn.Module, images: Tensor, labels: Tensor, others: tuple[int, ...]) -> Tensor:
    """Return z_y - max of z over other classes, shape `(N,)`: 0 on the decision boundary."""
    logits: Tensor = network(images)
    return logits.gather(1, labels[:, None]).squeeze(1) - logits[:, list(others)].amax(dim=1)


def boundary_images(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    others: tuple[int, ...],
    epsilon: float,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Return the images that reach the boundary, moved onto it, and a mask `(N,)` of these.

    Signed gradient steps go to the other side of the boundary within `epsilon` (max norm); then
    the way there is bisected.
    """
    labels = labels.to(images.device)
    side = margin(network, images, labels, others).sign()
    moved = images
    for _ in range(steps):
        step = gradient_sign(moved, lambda x: side * margin(network, x, labels, others))
        moved = moved - 2.5 * epsilon / steps * step
        moved = images + (moved - images).clamp(-epsilon, epsilon)
    with torch.no_grad():
        reached = side * margin(network, moved, labels, others) <= 0
        images, way = images[reached], (moved - images)[reached]
        labels, side = labels[reached], side[reached]
        if not len(images):  # not every network takes an empty batch
            return images, reached.cpu()
        low, high = torch.zeros_like(side), torch.ones_like(side)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            there = images + way * middle[:, None, None, None]
            beyond = side * margin(network, there, labels, others) <= 0
            low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
        return images + way * high[:, None, None, None], reached.cpu()
