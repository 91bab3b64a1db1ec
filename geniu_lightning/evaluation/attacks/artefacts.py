"""What the proxies that a method keeps give away of the images they stand for."""

import math
import statistics
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geniu_lightning.errors import UserError
from geniu_lightning.evaluation.context import CHUNK, Context, Proxies, Split, outputs_of
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import confusion, mean_over, per_class
from geniu_lightning.evaluation.metrics.representation import cosines, outputs_on_proxies

NO_PROXIES = Absent("the method keeps no proxies")
NOT_OF_F = Absent("no proxies of forgotten classes are kept")
NORMAL = 1.959964  # 97.5 % quantile of the normal distribution

# distances of some proxies from some images: (split, positions in it, positions of proxies)
Measure = Callable[[str, Tensor, Tensor], Tensor]


class Copying(Metric):
    """Whether proxies lie nearer to training images than to unseen ones of their class.

    d_tr and d_te are a proxy's distances from the nearest training and the nearest test image of
    its class. Groups are ``pixel`` (Euclidean, of normalised pixels) and ``feature`` (one minus
    cosine, in features of the first oracle, a network that has nothing to do with the proxies), and
    in each ``forget`` and ``retain``: means over these classes.

    - ``nearer``: P(d_tr < d_te) + ½ P(d_tr = d_te) with equally many images on both sides, in
      [0, 1]; above 0.5 is copying. ``nearer_low``, ``nearer_high``: Wilson's 95 % interval; too
      narrow where proxies share a nearest image.
    - ``ratio``: median of d_tr / d_te with all images; ``smallest_ratio``: its 1 % quantile over
      all proxies of the group, with up to 100 of them the smallest. Near 0 is a copy. The side with
      more images has the smaller distances, so 1 is no ideal.
    - ``exemplar``: share of proxies whose nearest image among all is a training image, minus
      n_tr / (n_tr + n_te), which is expected of proxies that know nothing of which is which.

    All of this is about the proxies, and the same whichever model is judged. ``nearer`` is blunt
    where training images are many more than unseen ones, as the copied one is mostly not drawn: of
    exact copies it says (1 + n_te / n_tr) / 2; the last three see these. Blind to copies of parts,
    in pixels also to shifted or mirrored ones. An oracle has learned retained training images, so
    in its features ``retain`` is not as fair as ``forget``.

    Source:
        After Meehan et al., A Non-Parametric Test to Detect Data-Copying in Generative Models,
        arXiv 2004.05675. Departure: they compare a generated image's distance from training images
        with an unseen image's; here one proxy's two distances are compared.
    """

    needs = frozenset({"proxies", "oracles"})
    about = "proxies"
    readings: ClassVar[dict[str, MetricInfo]] = {
        "nearer": MetricInfo("lower", 0.5),
        "nearer_low": MetricInfo("lower", 0.5),
        "nearer_high": MetricInfo("lower", 0.5),
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
                found = self._group(context, classes, measure)
                values |= {f"{space}.{group}.{name}": value for name, value in found.items()}
        return values

    def _group(
        self, context: Context, classes: tuple[int, ...], measure: Measure | Absent
    ) -> Values:
        if isinstance(measure, Absent):
            return dict.fromkeys(self.readings, measure)
        assert context.proxies is not None
        labels = context.proxies.labels.cpu()
        pairs = []
        for k in classes:
            mine = (labels == k).nonzero().flatten()
            places = {s: context.splits[s].positions_of((k,)) for s in ("train", "test")}
            if len(mine) and all(len(found) for found in places.values()):
                train, test = (measure(split, found, mine) for split, found in places.items())
                pairs.append((train, test))
        if not pairs:
            none = Absent("no such class has proxies, training images and unseen images")
            return dict.fromkeys(self.readings, none)
        return copying(pairs)


class Knowledge(Metric):
    """What a new network learns of a class from proxies alone, and whether these are still drawn.

    An untrained network is trained on the kept proxies (Adam, cross-entropy, every class with
    proxies equally often in a batch) and tested on real test images.

    - ``forget`` (A_f), ``retain`` (A_r): means of classes' accuracies, ties divided. A_f is about
      1/K where the proxies say nothing, and above that where they carry the class out of the model;
      absent where none of a forgotten class are kept. A_r tells that the training worked at all.
    - ``net``: A_f minus the share of retained images that are taken for the same classes, mean over
      these, in [-1, 1]; 0 where the answer does not depend on the image.
    - ``drawn``: share of kept proxies of forgotten classes which the original still calls by their
      class, mean over these classes: what is asked to forget can still be drawn.

    All of this is about the proxies, and the same whichever model is judged. Blind to knowledge
    that needs more steps, another network or the old weights to come out.

    Args:
        steps: Of training.
        rate: Adam's learning rate.
        batch: Proxies a step, drawn with replacement.

    Source:
        Ravuri and Vinyals, Classification Accuracy Score for Conditional Generative Models, arXiv
        1905.10887: train on generated, test on real images.
    """

    needs = frozenset({"proxies", "fresh", "original"})
    about = "proxies"
    readings: ClassVar[dict[str, MetricInfo]] = {
        "forget": MetricInfo("lower", 0.0),
        "net": MetricInfo("lower", 0.0),
        "retain": MetricInfo("higher", 1.0),
        "drawn": MetricInfo("lower", 0.0),
    }

    def __init__(self, steps: int = 200, rate: float = 1e-3, batch: int = 64) -> None:
        if steps < 1 or batch < 1 or not rate > 0:
            raise UserError(
                f"steps, batch and rate must be above 0, got {steps}, {batch} and {rate}"
            )
        self.steps, self.rate, self.batch = steps, rate, batch

    def work(self, context: Context) -> int:
        """Return how many images the training takes, each as three."""
        able = context.proxies is not None and context.fresh is not None
        return 3 * self.steps * self.batch if able else 0

    def __call__(self, context: Context) -> Values:
        """Measure the proxies."""
        if context.proxies is None:
            return dict.fromkeys(self.readings, NO_PROXIES)
        if not torch.isin(context.proxies.labels.cpu(), torch.tensor(context.forget)).any():
            return dict.fromkeys(self.readings, NOT_OF_F)  # 0, whatever these show
        return {**self._learned(context, context.proxies), "drawn": _drawn(context)}

    def _learned(self, context: Context, proxies: Proxies) -> Values:
        names = ("forget", "net", "retain")
        if context.fresh is None:
            return dict.fromkeys(names, Absent("there is no way to make an untrained network"))
        if "test" not in context.splits:
            return dict.fromkeys(names, Absent("the run has no test images"))
        if len(proxies.labels.unique()) < 2:
            return dict.fromkeys(names, Absent("proxies of at least two classes are needed"))
        draws = context.generator("knowledge")
        devices = [context.device] if context.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # initialisation and dropout draw from global ones
            torch.manual_seed(draws.initial_seed())
            network = context.fresh(draws.initial_seed()).to(context.device)
            fit(network, proxies, self.steps, self.rate, self.batch, draws)
        try:
            outputs = outputs_of(network, context.splits["test"])
        except UserError:
            return dict.fromkeys(names, Absent("training on the proxies diverged"))
        counts = confusion(outputs, len(context.class_names))
        each = counts.diagonal() / counts.sum(dim=1)
        others = counts[list(context.retained)].sum(dim=0) / counts[list(context.retained)].sum()
        return {
            "forget": mean_over(each, context.forget),
            "net": mean_over(each - others, context.forget),
            "retain": mean_over(each, context.retained),
        }


def fit(
    network: nn.Module,
    proxies: Proxies,
    steps: int,
    rate: float,
    batch: int,
    generator: torch.Generator,
) -> None:
    """Train a network on proxies, classes equally often, and leave it in evaluation mode.

    Args:
        network: To be trained, on the proxies' device.
        proxies: All there is to learn from.
        steps: Of Adam.
        rate: Its learning rate.
        batch: Proxies a step, drawn with replacement.
        generator: Draws them, on the CPU.
    """
    labels = proxies.labels.cpu()
    chances = 1 / torch.bincount(labels)[labels]
    network.train().requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), rate)
    with torch.enable_grad():
        for _ in range(steps):
            rows = torch.multinomial(chances, batch, replacement=True, generator=generator)
            rows = rows.to(proxies.images.device)
            loss = F.cross_entropy(
                network(proxies.images[rows]), labels.to(proxies.images.device)[rows]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval().requires_grad_(False)


def copying(pairs: list[tuple[Tensor, Tensor]]) -> Values:
    """Return the values that `Copying` describes for one group.

    Args:
        pairs: For each class, distances of its P proxies from its n training images and from its m
            unseen ones, float64, shapes ``(P, n)`` and ``(P, m)``, P, n and m above 0.
    """
    share = statistics.fmean(nearer(*pair).mean().item() for pair in pairs)
    # a mean over classes is as certain as so many proxies in one class
    count = len(pairs) ** 2 / sum(1 / len(train) for train, _ in pairs)
    low, high = wilson(share, count)
    each = [ratios(*pair).sort().values.tolist() for pair in pairs]
    ratio = statistics.fmean(statistics.median(numbers) for numbers in each)
    everything = sorted(number for numbers in each for number in numbers)
    smallest = everything[(len(everything) - 1) // 100]
    equal = Absent("the proxies are themselves unseen images")
    return {
        "nearer": share,
        "nearer_low": low,
        "nearer_high": high,
        "ratio": ratio if math.isfinite(ratio) else equal,
        "smallest_ratio": smallest if math.isfinite(smallest) else equal,
        "exemplar": statistics.fmean(exemplar(*pair) for pair in pairs),
    }


def nearer(train: Tensor, unseen: Tensor) -> Tensor:
    """Return how likely each proxy is nearer to training images than to as many unseen ones.

    The larger side is cut to the size of the smaller one by a draw; the mean over all draws has a
    closed form: of N images with r at least as near as the other side's nearest, n drawn ones miss
    all r in C(N - r, n) of C(N, n) cases.

    Args:
        train: Distances of P proxies, shape ``(P, n)``.
        unseen: Likewise, shape ``(P, m)``.

    Returns:
        float64, in [0, 1], shape ``(P,)``; equal distances count half.
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
    """Return the chance that none of some marked things is among those drawn of all."""
    whole = torch.tensor(float(total), dtype=torch.float64)
    left = whole - marked
    # differences of equal terms first, so that a chance of 1 is 1
    logarithm = (torch.lgamma(left + 1) - torch.lgamma(whole + 1)) - (
        torch.lgamma((left - drawn).clamp(min=0) + 1) - torch.lgamma(whole - drawn + 1)
    )
    return torch.where(left < drawn, 0.0, logarithm.exp()).clamp(max=1.0)


def ratios(train: Tensor, unseen: Tensor) -> Tensor:
    """Return d_tr / d_te of each proxy, shape ``(P,)``; 1 where both are 0. Arguments as above."""
    first, second = train.min(dim=1).values, unseen.min(dim=1).values
    return torch.where((first == 0) & (second == 0), 1.0, first / second)


def exemplar(train: Tensor, unseen: Tensor) -> float:
    """Return by how much too often a training image is the nearest of all. Arguments as above."""
    first, second = train.min(dim=1).values, unseen.min(dim=1).values
    share = ((first < second).double() + (first <= second).double()).mean().item() / 2
    return share - train.shape[1] / (train.shape[1] + unseen.shape[1])


def wilson(share: float, count: float) -> tuple[float, float]:
    """Return the 95 % interval of a share of ``count`` independent trials (Wilson, JASA 1927)."""
    square = NORMAL**2 / count
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(square * share * (1 - share) + square**2 / 4) / (1 + square)
    return middle - half, middle + half


@torch.no_grad()
def pixel_distances(images: Tensor, split: Split, positions: Tensor) -> Tensor:
    """Return Euclidean distances, float64, on the CPU, shape ``(P, N)``.

    Args:
        images: Of P proxies, shape ``(P, C, H, W)``.
        split: Read in parts, as not all of it may fit into memory.
        positions: Of N images of the split.
    """
    first = images.flatten(1).float()
    parts = [
        # products of matrices would give a copy a distance above 0
        torch.cdist(
            first,
            split.read(some).flatten(1).float(),
            compute_mode="donot_use_mm_for_euclid_dist",
        ).cpu()
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
    kept = outputs_on_proxies(oracle, proxies).features
    # beyond these digits equal images differ by rounding
    return lambda split, places, mine: (
        1 - cosines(kept[mine], context.outputs(oracle, split).features[places])
    ).round(decimals=12)


def _drawn(context: Context) -> float | Absent:
    assert context.proxies is not None
    each = per_class(
        outputs_on_proxies(context.original, context.proxies), len(context.class_names)
    )
    kept = [k for k in context.forget if not each[k].isnan()]
    return each[kept].mean().item() if kept else NOT_OF_F
