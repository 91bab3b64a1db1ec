"""Copies of training images among the stored proxies."""

import math
import statistics
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from geniu_lightning.evaluation.attacks.probing import NO_PROXIES, cosines
from geniu_lightning.evaluation.context import CHUNK, Context, Split, outputs_of
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values

NORMAL = 1.959964  # 97.5 % quantile of the normal distribution

# distances of some proxies from some images: (split, positions in it, positions of proxies)
Measure = Callable[[str, Tensor, Tensor], Tensor]


class Copying(Metric):
    """Distances of proxies from training images, compared with those from unseen ones.

    d_tr and d_te are a proxy's distances from the nearest training and the nearest test image of
    its class: `pixel` (Euclidean, of normalised pixels) and `feature` (one minus cosine, in
    features of the first oracle, which has nothing to do with the proxies). Means over `forget` or
    `retain` classes.

    - `nearer`: P(d_tr < d_te) + ½ P(d_tr = d_te) with equally many images on both sides; above 0.5
      is copying. `nearer_low`, `nearer_high`: Wilson's 95 % interval.
    - `ratio`: median of d_tr / d_te with all images, 1 where both are 0; `smallest_ratio`: its 1 %
      quantile over proxies.
    - `exemplar`: share of proxies whose nearest image is a training image, minus n_tr / (n_tr +
      n_te).

    Source:
        After Meehan et al., A Non-Parametric Test to Detect Data-Copying in Generative Models,
        arXiv 2004.05675. Departure: they compare a generated image's distance from training images
        with an unseen image's; here one proxy's two distances are compared.
    """

    needs = frozenset({"proxies", "oracles"})
    subject = "proxies"
    infos: ClassVar[dict[str, MetricInfo]] = {
        **dict.fromkeys(("nearer", "nearer_low", "nearer_high"), MetricInfo("lower", 0.5)),
        "ratio": MetricInfo("higher"),
        "smallest_ratio": MetricInfo("higher"),
        "exemplar": MetricInfo("lower", 0.0),
    }

    def __call__(self, context: Context) -> Values:
        """Measure the proxies."""
        values: Values = {}
        for space in ("pixel", "feature"):
            measure = _measure(space, context)
            for group, classes in (("forget", context.forget), ("retain", context.retained)):
                found = _group(context, classes, measure)
                row = dict.fromkeys(self.infos, found) if isinstance(found, Absent) else found
                values |= {f"{space}.{group}.{name}": value for name, value in row.items()}
        return values


def _group(
    context: Context, classes: tuple[int, ...], measure: Measure | Absent
) -> Values | Absent:
    if isinstance(measure, Absent):
        return measure
    assert context.proxies is not None
    pairs = []
    for k in classes:
        mine = context.proxies.split.positions_of((k,))
        places = {s: context.splits[s].positions_of((k,)) for s in ("train", "test")}
        if len(mine) and all(len(found) for found in places.values()):
            train, test = (measure(split, found, mine) for split, found in places.items())
            pairs.append((train, test))
    if not pairs:
        return Absent("no such class has proxies, training images and unseen images")
    return copying(pairs)


def copying(pairs: list[tuple[Tensor, Tensor]]) -> Values:
    """Return the values of `Copying` for one group.

    `pairs` are, of each class, distances of its P proxies from its n training images and from its m
    unseen ones, float64, shapes `(P, n)` and `(P, m)`.
    """
    share = statistics.fmean(nearer(*pair).mean().item() for pair in pairs)
    # number of proxies in one class that would give a mean over classes the same certainty
    count = len(pairs) ** 2 / sum(1 / len(train) for train, _ in pairs)
    low, high = wilson(share, count)
    ratios: list[list[float]] = []
    excess: list[float] = []
    for train, unseen in pairs:
        first, second = train.min(dim=1).values, unseen.min(dim=1).values
        each = torch.where((first == 0) & (second == 0), 1.0, first / second)
        ratios.append(each.sort().values.tolist())
        closer = ((first < second).double() + (first <= second).double()).mean().item() / 2
        excess.append(closer - train.shape[1] / (train.shape[1] + unseen.shape[1]))
    ratio = statistics.fmean(statistics.median(numbers) for numbers in ratios)
    everything = sorted(number for numbers in ratios for number in numbers)
    smallest = everything[(len(everything) - 1) // 100]
    equal = Absent("the proxies are themselves unseen images")
    return {
        "nearer": share,
        "nearer_low": low,
        "nearer_high": high,
        "ratio": ratio if math.isfinite(ratio) else equal,
        "smallest_ratio": smallest if math.isfinite(smallest) else equal,
        "exemplar": statistics.fmean(excess),
    }


def nearer(train: Tensor, unseen: Tensor) -> Tensor:
    """Return the chance that each proxy is nearer to training images than to as many unseen ones.

    Over all draws of n images from the larger side's N: with r at least as near as the other side's
    nearest, all are missed in C(N - r, n) of C(N, n) cases. Equal distances count half. Distances
    `(P, n)` and `(P, m)`; float64, shape `(P,)`.
    """
    if train.shape[1] > unseen.shape[1]:
        return 1 - nearer(unseen, train)
    nearest = train.min(dim=1, keepdim=True).values
    missed = [
        _missed(unseen.shape[1], closer.sum(dim=1), train.shape[1])
        for closer in (unseen < nearest, unseen <= nearest)
    ]
    return (missed[0] + missed[1]) / 2


def _missed(total: int, marked: Tensor, drawn: int) -> Tensor:
    """Return the chance that a draw holds none of the marked items."""
    whole = torch.tensor(float(total), dtype=torch.float64)
    left = whole - marked
    # differences of equal terms first, so that a chance of 1 is 1
    logarithm = (torch.lgamma(left + 1) - torch.lgamma(whole + 1)) - (
        torch.lgamma((left - drawn).clamp(min=0) + 1) - torch.lgamma(whole - drawn + 1)
    )
    return torch.where(left < drawn, 0.0, logarithm.exp()).clamp(max=1.0)


def wilson(share: float, count: float) -> tuple[float, float]:
    """Return the 95 % interval of a share of `count` independent trials (Wilson, JASA 1927)."""
    square = NORMAL**2 / count
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(square * share * (1 - share) + square**2 / 4) / (1 + square)
    return middle - half, middle + half


@torch.no_grad()
def pixel_distances(images: Tensor, split: Split, positions: Tensor) -> Tensor:
    """Return Euclidean distances of images `(P, C, H, W)` and of N images of a split, `(P, N)`."""
    first = images.flatten(1).float()
    exact = "donot_use_mm_for_euclid_dist"  # by products a copy would have a distance above 0
    parts = [
        torch.cdist(first, split.read(some).flatten(1).float(), compute_mode=exact).cpu()
        for some in positions.split(CHUNK)
    ]
    return torch.cat(parts, dim=1).double()


def _measure(space: str, context: Context) -> Measure | Absent:
    proxies = context.proxies
    if proxies is None:
        return NO_PROXIES
    for split in ("train", "test"):
        if split not in context.splits:
            return Absent(f"the run has no {split} images")
    if space == "pixel":
        return lambda split, places, mine: pixel_distances(
            proxies.images[mine], context.splits[split], places
        )
    if not context.oracles:
        return Absent("there is no oracle to measure distances with")
    oracle = context.oracles[0]
    own = outputs_of(oracle, proxies.split).features
    # beyond these digits equal images differ by rounding
    return lambda split, places, mine: (
        1 - cosines(own[mine], context.outputs(oracle, split).features[places])
    ).round(decimals=12)
