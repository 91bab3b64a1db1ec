"""Fine-tuning of a copy of a model: the images that are drawn, the steps and the score."""

import math
import statistics
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from geniu_lightning.errors import SettingError
from geniu_lightning.evaluation.context import Context, Split, drawn
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import credits, lacking
from geniu_lightning.evaluation.references import EPSILON_AREA
from geniu_lightning.kit.networks import features_of, head_of
from geniu_lightning.settings.checked import NonNegativeInt, Positive, PositiveInt, checked

STEPS = (0, 1, 4, 12, 32)
RATES = {"adam": (1e-3, 3e-4, 1e-4), "sgd": (1e-2, 3e-3, 1e-3)}
WARM_UP = 8  # steps in which the rate rises to its full height
LARGEST_GRADIENT = 1.0  # norm; a class far from the answers has a loss of many nats
LARGEST_LOSS = 0.05  # of A_r: an attack that costs an oracle more breaks what it measures
Optimizer = Literal["adam", "sgd"]
Curves = tuple[list[float], list[float]]  # A_f and A_r at each of the steps


@dataclass(frozen=True)
class Batch:
    """Images to take a step on."""

    images: Tensor  # normalised, (N, C, H, W)
    labels: Tensor  # (N,)
    weights: Tensor  # of their losses, (N,), sum 1


@checked
@dataclass(frozen=True)
class Relearning(Metric):
    """Base of the attacks whose values are curves over fine-tuning steps.

    Without augmentation; every model is shown the same images in the same order. `loss` is the
    largest loss of A_r at any step of any curve, `rate` the learning rate. An attack is made with
    the largest of its rates at which oracles lose at most 0.05 of A_r, mean over them: a network
    that the attack breaks does not measure the class.
    """

    infos: ClassVar[dict[str, MetricInfo]] = {
        "area": MetricInfo("oracle", epsilon=EPSILON_AREA),
        "curve": MetricInfo("oracle"),
        "retain_curve": MetricInfo("oracle"),
        "loss": MetricInfo("oracle"),
        "rate": MetricInfo("oracle"),
    }

    steps: Annotated[Sequence[NonNegativeInt], Field(min_length=2)] = STEPS  # when measured
    optimizer: Optimizer = "adam"
    head_alone: bool = False  # leave all other layers as they are
    rates: Sequence[Positive] | None = None  # descending; `None`: those of `RATES`
    draws: PositiveInt = 1  # of images; values are means over them
    scored: PositiveInt = 200  # test images of each forgotten class, and of all retained
    retained: PositiveInt = 32  # retained images in a step
    share: Annotated[float, Field(gt=0, lt=1)] = 0.2  # of a step's loss that forgotten classes have

    def __post_init__(self) -> None:
        if self.steps[0] != 0 or list(self.steps) != sorted(set(self.steps)):
            raise SettingError(f"must ascend from 0, got {list(self.steps)}", "steps")
        if not self._rates or list(self._rates) != sorted(self._rates, reverse=True):
            raise SettingError(f"must descend, got {list(self._rates)}", "rates")

    @property
    def _rates(self) -> Sequence[float]:
        return RATES[self.optimizer] if self.rates is None else self.rates

    @property
    def curve_steps(self) -> list[int]:
        """Fine-tuning steps of the curves."""
        return list(self.steps)

    @property
    def variants(self) -> list[Metric]:
        """The attack at each of its rates, the largest first."""
        return [replace(self, rates=[rate]) for rate in self._rates]

    def too_strong(self, oracles: Sequence[Values]) -> bool:
        """Whether the attack breaks oracles, by their values."""
        losses = [loss for row in oracles if isinstance(loss := row.get("loss"), float)]
        return bool(losses) and statistics.fmean(losses) > LARGEST_LOSS

    def curves(
        self,
        context: Context,
        batches: Callable[[int], Iterator[Batch]],
        *,
        prepare: Callable[[nn.Module, int], None] = lambda network, draw: None,
    ) -> Curves:
        """Return A_f and A_r of the fine-tuned model at each of the steps, means over draws.

        `batches` of a draw are endless; `prepare` changes the copy before the first step.
        """
        test = context.splits["test"]
        scored, others = scored_images(context, self.scored)
        forget: list[list[float]] = [[] for _ in self.steps]
        retain: list[list[float]] = [[] for _ in self.steps]
        for draw in range(self.draws):
            network = context.copy_of(context.unlearned)
            prepare(network, draw)
            taken = fine_tune(
                network, batches(draw), self.steps, self._rates[-1], self.optimizer, self.head_alone
            )
            for place, _ in enumerate(taken):
                forget[place].append(mean_accuracy(context, network, scored))
                retain[place].append(accuracy_at(network, test, others))
        return [statistics.fmean(x) for x in forget], [statistics.fmean(x) for x in retain]

    def values(self, curves: Mapping[str, Curves]) -> Values:
        """Return the values of curves by prefix, and of the attack as a whole."""
        found: Values = {}
        for prefix, (forget, retain) in curves.items():
            found |= {
                f"{prefix}area": area(self.steps, forget),
                f"{prefix}curve": [*forget],
                f"{prefix}retain_curve": [*retain],
            }
        loss = max(retain[0] - min(retain) for _, retain in curves.values())
        return found | {"loss": loss, "rate": float(self._rates[-1])}

    def images_processed(self, context: Context) -> int:
        """Return the images of all curves."""
        scored = self.scored * (len(context.forget) + 1) * len(self.steps)
        passes = 1 if self.head_alone else 3
        each = (self.steps[-1] * passes * batch + scored for batch in self._batches(context))
        return self.draws * sum(each)

    @abstractmethod
    def _batches(self, context: Context) -> list[int]:
        """Return the number of images in a step of each curve."""


def fine_tune(
    network: nn.Module,
    batches: Iterator[Batch],
    steps: Sequence[int],
    rate: float,
    optimizer: Optimizer = "adam",
    head_alone: bool = False,
) -> Iterator[int]:
    """Take steps on the weighted cross-entropy, in place, and yield after each of the named ones.

    The network stays in evaluation mode, so that its batch-norm statistics are kept. The rate rises
    over the first eight steps and the gradient's norm is bounded by 1: the first gradients of a
    class that is far from the answers would break the network.
    """
    parameters = list((head_of(network) if head_alone else network).parameters())
    making: Callable[..., torch.optim.Optimizer]
    making = torch.optim.Adam if optimizer == "adam" else partial(torch.optim.SGD, momentum=0.9)
    updates, taken = making(parameters, lr=rate), 0
    for step in steps:
        while taken < step:
            batch = next(batches)
            updates.param_groups[0]["lr"] = rate * min((taken + 1) / WARM_UP, 1)
            updates.zero_grad()
            with torch.set_grad_enabled(not head_alone):
                features = features_of(network, batch.images)
            losses = F.cross_entropy(head_of(network)(features), batch.labels, reduction="none")
            (batch.weights * losses).sum().backward()
            nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
            updates.step()
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


def mixed(context: Context, attack: Relearning, shots: int) -> Callable[[int], Iterator[Batch]]:
    """Return batches of a draw: k images of each forgotten class and retained ones."""

    def batches(draw: int) -> Iterator[Batch]:
        images, labels = shown(context, shots, draw)
        for others in retained(context, attack.retained, draw):
            yield joined(images, labels, others, attack.share)

    return batches


def joined(images: Tensor, labels: Tensor, others: Batch, share: float) -> Batch:
    """Return a batch of images, whose losses weigh `share` together, and of others."""
    weights = torch.full((len(labels),), share / len(labels), device=others.weights.device)
    return Batch(
        torch.cat([images, others.images]),
        torch.cat([labels, others.labels]),
        torch.cat([weights, (1 - share) * others.weights]),
    )


def shown(context: Context, shots: int, draw: int) -> tuple[Tensor, Tensor]:
    """Return k training images of each forgotten class, and their labels."""
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
        yield _even(context, chosen)


def forgotten(context: Context, count: int, draw: int) -> Iterator[Batch]:
    """Return endless batches of the forgotten classes' training images."""
    train, stream = context.splits["train"], context.generator("forgotten", draw)
    pool = train.positions_of(context.forget)
    while True:
        for chosen in pool[torch.randperm(len(pool), generator=stream)].split(count):
            yield _even(context, chosen)


def _even(context: Context, chosen: Tensor) -> Batch:
    train, device = context.splits["train"], context.device
    weights = torch.full((len(chosen),), 1 / len(chosen), device=device)
    return Batch(train.read(chosen), train.labels[chosen].to(device), weights)


@torch.no_grad()
def accuracy_at(network: nn.Module, split: Split, positions: Tensor) -> float:
    """Return the share of some images that are answered right; a tie of n counts 1/n."""
    answers = torch.cat([network(split.read(part)).cpu() for part in positions.split(500)])
    # NaN has no credit: a copy whose fine-tuning diverged knows no class
    return float(credits(answers, split.labels[positions]).mean())


def missing(context: Context) -> Absent | None:
    """Return which images of the forgotten classes an attack lacks; `None` if it can be made."""
    return lacking(context, "train", context.forget) or lacking(context, "test", context.forget)


def scored_images(context: Context, count: int) -> tuple[list[Tensor], Tensor]:
    """Return positions in `test`: of `count` images of each forgotten and of all retained classes.

    The latter are equally many of each class. A forgotten class without images is left out.
    """
    pools = [context.splits["test"].positions_of((k,)) for k in range(len(context.class_names))]
    there = [pools[k] for k in context.forget if len(pools[k])]
    forget = [drawn(pool, count, context.generator("scored")) for pool in there]
    each, stream = max(count // len(context.retained), 1), context.generator("scored")
    return forget, torch.cat([drawn(pools[k], each, stream) for k in context.retained])


def mean_accuracy(context: Context, network: nn.Module, scored: Sequence[Tensor]) -> float:
    """Return the mean over sets of test images of the accuracy on each."""
    return statistics.fmean(accuracy_at(network, context.splits["test"], p) for p in scored)
