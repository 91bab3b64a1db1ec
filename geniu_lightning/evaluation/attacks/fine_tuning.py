"""Fine-tuning of a copy of a model: the images that are drawn, the steps and the score."""

import math
import statistics
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from geniu_lightning.errors import SettingError
from geniu_lightning.evaluation.context import Context, Split, drawn
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import credits
from geniu_lightning.evaluation.references import EPSILON_AREA
from geniu_lightning.kit.networks import features_of, head_of
from geniu_lightning.settings.checked import NonNegativeInt, Positive, PositiveInt, checked

Batch = tuple[Tensor, Tensor]  # normalised images (N, C, H, W) and their labels (N,)
STEPS = (0, 1, 2, 5, 10, 20, 50)
NO_TRAIN = Absent("the run has no training images of the forgotten classes")
Curves = tuple[list[float], list[float]]  # A_f and A_r at each of the steps


@checked
@dataclass(frozen=True)
class Relearning(Metric):
    """Base of the attacks whose values are curves over fine-tuning steps.

    Without augmentation; every model is shown the same images in the same order.
    """

    infos: ClassVar[dict[str, MetricInfo]] = {
        "area": MetricInfo("oracle", epsilon=EPSILON_AREA),
        "curve": MetricInfo("oracle"),
        "retain_curve": MetricInfo("oracle"),
    }

    steps: Annotated[Sequence[NonNegativeInt], Field(min_length=2)] = STEPS  # when measured
    rate: Positive = 1e-3
    draws: PositiveInt = 3  # of images; values are means over them
    scored: PositiveInt = 300  # test images of each forgotten class, and of all retained

    def __post_init__(self) -> None:
        if self.steps[0] != 0 or list(self.steps) != sorted(set(self.steps)):
            raise SettingError(f"must ascend from 0, got {list(self.steps)}", "steps")

    @property
    def curve_steps(self) -> list[int]:
        """Fine-tuning steps of the curves."""
        return list(self.steps)

    def curves(
        self,
        context: Context,
        batches: Callable[[int], Iterator[Batch]],
        *,
        rate: float | None = None,
        draws: int | None = None,
        prepare: Callable[[nn.Module, int], None] = lambda network, draw: None,
    ) -> Curves:
        """Return A_f and A_r of the fine-tuned model at each of the steps, means over draws.

        `batches` of a draw are endless, `prepare` changes the copy before the first step, `rate`
        and `draws` take the place of the attack's own.
        """
        test = context.splits["test"]
        scored, others = scored_images(context, self.scored)
        forget: list[list[float]] = [[] for _ in self.steps]
        retain: list[list[float]] = [[] for _ in self.steps]
        for draw in range(draws or self.draws):
            network = context.copy_of(context.unlearned)
            prepare(network, draw)
            taken = fine_tune(network, batches(draw), self.steps, rate or self.rate)
            for place, _ in enumerate(taken):
                forget[place].append(mean_accuracy(context, network, scored))
                retain[place].append(accuracy_at(network, test, others))
        return [statistics.fmean(x) for x in forget], [statistics.fmean(x) for x in retain]

    def values(self, prefix: str, curves: Curves) -> Values:
        """Return curves, and the area under A_f over log(1 + step), in [0, 1]."""
        forget, retain = curves
        return {
            f"{prefix}area": area(self.steps, forget),
            f"{prefix}curve": [*forget],
            f"{prefix}retain_curve": [*retain],
        }

    def images_processed(self, context: Context) -> int:
        """Return the images of all curves."""
        scored = self.scored * (len(context.forget) + 1) * len(self.steps)
        return sum(3 * self.steps[-1] * batch + scored for batch in self._batches(context))

    @abstractmethod
    def _batches(self, context: Context) -> list[int]:
        """Return the number of images in a step of each curve."""


def fine_tune(
    network: nn.Module, batches: Iterator[Batch], steps: Sequence[int], rate: float
) -> Iterator[int]:
    """Take Adam steps on cross-entropy, in place, and yield after each of the named ones.

    The network stays in evaluation mode, so that its batch-norm statistics are kept; with these,
    SGD with momentum diverges at the usual rates where the class is far from the answers.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    taken = 0
    for step in steps:
        while taken < step:
            images, labels = next(batches)
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
            taken += 1
        yield step


def area(steps: Sequence[int], curve: Sequence[float]) -> float:
    """Return the area under a curve over log(1 + step), as a share of the largest possible."""
    places = [math.log1p(step) for step in steps]
    pairs = pairwise(zip(places, curve, strict=True))
    return sum((b - a) * (x + y) / 2 for (a, x), (b, y) in pairs) / (places[-1] - places[0])


@torch.no_grad()
def reset_rows(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Set the head rows of some classes to the mean feature of their images, in place.

    A row gets the mean norm and the mean bias of the others.
    """
    head = head_of(network)
    features = features_of(network, images)
    classes = labels.unique().tolist()
    others = [k for k in range(head.out_features) if k not in classes]
    norm, bias = head.weight[others].norm(dim=1).mean(), head.bias[others].mean()
    for k in classes:
        mean = features[labels == k].mean(dim=0)
        head.weight[k] = norm * mean / mean.norm().clamp(min=1e-12)
        head.bias[k] = bias


def few_shot(context: Context, shots: int) -> Callable[[int], Iterator[Batch]]:
    """Return batches of a draw: k images of each forgotten class, and as many retained ones."""

    def batches(draw: int) -> Iterator[Batch]:
        images, labels = shown(context, shots, draw)
        for others, their_labels in retained(context, len(labels), draw):
            yield torch.cat([images, others]), torch.cat([labels, their_labels])

    return batches


def shown(context: Context, shots: int, draw: int) -> Batch:
    """Return k training images of each forgotten class."""
    train, stream = context.splits["train"], context.generator("shown", draw)
    chosen = torch.cat([drawn(train.positions_of((k,)), shots, stream) for k in context.forget])
    return train.read(chosen), train.labels[chosen].to(context.device)


def retained(context: Context, count: int, draw: int) -> Iterator[Batch]:
    """Return endless batches of retained training images, classes equally likely."""
    train, stream = context.splits["train"], context.generator("retained", draw)
    pools = [pool for k in context.retained if len(pool := train.positions_of((k,)))]
    while True:
        kinds = torch.randint(len(pools), (count,), generator=stream).tolist()
        chosen = torch.stack(
            [pools[k][torch.randint(len(pools[k]), (), generator=stream)] for k in kinds]
        )
        yield train.read(chosen), train.labels[chosen].to(context.device)


def forgotten(context: Context, count: int, draw: int) -> Iterator[Batch]:
    """Return endless batches of the forgotten classes' training images."""
    train, stream = context.splits["train"], context.generator("forgotten", draw)
    pool = train.positions_of(context.forget)
    while True:
        for chosen in pool[torch.randperm(len(pool), generator=stream)].split(count):
            yield train.read(chosen), train.labels[chosen].to(context.device)


@torch.no_grad()
def accuracy_at(network: nn.Module, split: Split, positions: Tensor) -> float:
    """Return the share of some images that are answered right; a tie of n counts 1/n."""
    answers = torch.cat([network(split.read(part)).cpu() for part in positions.split(500)])
    # NaN has no credit: a copy whose fine-tuning diverged knows no class
    return float(credits(answers, split.labels[positions]).mean())


def scored_images(context: Context, count: int) -> tuple[list[Tensor], Tensor]:
    """Return positions in `test`: of `count` images of each forgotten and of all retained classes.

    The latter are equally many of each class.
    """
    pools = [context.splits["test"].positions_of((k,)) for k in range(len(context.class_names))]
    forget = [drawn(pools[k], count, context.generator("scored")) for k in context.forget]
    each, stream = max(count // len(context.retained), 1), context.generator("scored")
    return forget, torch.cat([drawn(pools[k], each, stream) for k in context.retained])


def mean_accuracy(context: Context, network: nn.Module, scored: Sequence[Tensor]) -> float:
    """Return the mean over sets of test images of the accuracy on each."""
    return statistics.fmean(accuracy_at(network, context.splits["test"], p) for p in scored)
