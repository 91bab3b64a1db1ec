"""What only many models show: whether unlearned ones are told from retrained ones.

One model of each kind is a single draw. These measurements take at least 16 unlearned and 16
retrained models, each from a training seed of its own, and are functions of their outputs.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from geniu_lightning.evaluation.attacks.membership import (
    NO_SIDES,
    auc,
    mean_of,
    tpr_or_absent,
)
from geniu_lightning.evaluation.context import Outputs, log_softmax
from geniu_lightning.evaluation.metric import Absent, MetricInfo, Values
from geniu_lightning.evaluation.references import EPSILON_AREA, EPSILON_SHARE

FEWEST_MODELS = 16  # on each side
FEWEST_FOR_OWN_VARIANCE = 16  # below, images of a class have one variance together
FEWEST_FOR_HISTOGRAM = 50  # below, a histogram has no range above its own noise
BINS = 20
LARGEST_MARGIN = 100.0
VARIANCE_FLOOR = 0.05**2  # margins of models that all answer alike have none

READINGS: dict[str, MetricInfo] = {
    "auc": MetricInfo("oracle", 0.5, EPSILON_AREA),
    "tpr": MetricInfo("lower", 0.01, EPSILON_SHARE),
    "accuracy": MetricInfo("oracle", 0.5, EPSILON_SHARE),
    "mean": MetricInfo("lower"),
    "p95": MetricInfo("lower"),
    "floor": MetricInfo("oracle"),
    "floor_p95": MetricInfo("oracle"),
}
"""How the values of `assess_group` are read, by the last part of a name."""
ATTACKS = ("u_lira.auc", "u_lira.tpr", "u_lira.accuracy", "rmia.auc", "rmia.tpr")
KLOM = ("mean", "p95", "floor", "floor_p95")
NO_IMAGES = Absent("there are no images of such classes")
FEW_RETAINED = Absent("with fewer than two retained classes nothing is left to compare")

Model = Mapping[str, Outputs]


def assess_group(
    unlearned: Sequence[Model], oracles: Sequence[Model], forget: tuple[int, ...]
) -> Values:
    """Compare many unlearned models with many retrained ones.

    - ``u_lira.auc``, ``.tpr``, ``.accuracy``: `u_lira` on margins of training images;
      ``u_lira_retained`` on `retained_margin`, from which a masked logit hides nothing.
    - ``rmia.auc``, ``.tpr``: `rmia`, mean over unlearned models; ``rmia_retained`` with
      probabilities over retained classes, and the oracles' largest of these as label.
    - ``klom.<split>_<part>.mean``, ``.p95``: mean and 95th percentile of `klom` over images
      of ``forget`` or ``retain`` classes; ``klom_gaussian`` with fewer than 50 models in each
      half. ``.floor`` and ``.floor_p95`` are the same between two halves of the oracles. As the
      estimate falls with the number of models, halves of the unlearned ones are compared with
      halves of the oracles, so that equally many models stand on each side of every number.

    Each is found within a class, then the mean is taken over classes that have images.

    Args:
        unlearned: What each says of ``test`` and ``train``. Models that come from one training
            seed are not independent: give one of each.
        oracles: Likewise.
        forget: Forgotten classes.

    Returns:
        By name. All are absent if one side has too few models.

    Raises:
        ValueError: If models speak of different images.
    """
    sides = {"unlearned": unlearned, "retrained": oracles}
    for kind, models in sides.items():
        if len(models) < FEWEST_MODELS:
            few = f"the group needs at least {FEWEST_MODELS} {kind} models, there are {len(models)}"
            return dict.fromkeys(_names(min(map(len, sides.values())) // 2), Absent(few))
    for split in ("test", "train"):
        labels = [model[split].labels for model in (*unlearned, *oracles)]
        if not all(torch.equal(labels[0], other) for other in labels):
            raise ValueError(f"the models do not speak of the same {split} images")
    everything = range(oracles[0]["train"].logits.shape[1])
    retained = tuple(k for k in everything if k not in forget)
    values: Values = {}
    for suffix, kept in (("", None), ("_retained", retained)):
        rows = [_attacks(unlearned, oracles, k, kept) for k in forget]
        for name in ATTACKS:
            attack, _, value = name.partition(".")
            found = mean_of([row[name] for row in rows if row]) if any(rows) else NO_SIDES
            values[f"{attack}{suffix}.{value}"] = found
    for split in ("test", "train"):
        for part, classes in (("forget", forget), ("retain", retained)):
            values |= _klom_values(unlearned, oracles, split, part, classes)
    return values


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return φ = log(p_y / (1 - p_y)) = z_y - log Σ_{c≠y} exp z_c, float64, shape ``(X,)``.

    Args:
        logits: Shape ``(X, K)``, K ≥ 2.
        labels: Classes y, int64, shape ``(X,)``.
    """
    columns = labels[:, None]
    mine = logits.double().gather(1, columns).squeeze(1)
    return mine - logits.double().scatter(1, columns, -math.inf).logsumexp(dim=1)


def retained_margin(logits: Tensor, retained: tuple[int, ...]) -> Tensor:
    """Return `margin` among retained classes of the largest of them, shape ``(X,)``.

    It needs no label, and sees behind the masked logit of a forgotten class.
    """
    kept = logits[:, list(retained)]
    return margin(kept, kept.argmax(dim=1))


def u_lira(unlearned: Tensor, oracles: Tensor) -> Values:
    """Tell unlearned models from retrained ones by likelihood ratios (arXiv 2403.01218).

    For each image a normal law of the margin is fitted to half of each kind of models, the
    score is log N(φ; unlearned) - log N(φ; oracles) on the other half, and the halves, models at
    even and at odd places, change roles. With fewer than 16 models to fit, all images have one
    variance together; fits of so few are rough.

    Blind to what margins do jointly over images, and to features. A masked logit is told by its
    depth alone, whatever is behind it: `retained_margin` looks there.

    Args:
        unlearned: Margins of images of one class, float64, shape ``(N, X)``, N ≥ 4.
        oracles: Margins of the same images, shape ``(M, X)``, M ≥ 4.

    Returns:
        ``auc`` and ``tpr`` (at a false positive rate of at most 0.01) over pairs of image and
        model, ``accuracy``: balanced, of the ratio's sign, mean over images; ½ by chance.
    """
    ours: list[Tensor] = []
    theirs: list[Tensor] = []
    for fitted, held in ((0, 1), (1, 0)):
        laws = [_normal(models[fitted::2]) for models in (unlearned, oracles)]
        for scores, models in ((ours, unlearned), (theirs, oracles)):
            first, second = (_log_density(models[held::2], *law) for law in laws)
            scores.append(first - second)
    members, others = torch.cat(ours), torch.cat(theirs)
    found = [(1 + sign * side.sign()).mean() / 2 for sign, side in ((1, members), (-1, others))]
    return {
        "auc": auc(members.flatten(), others.flatten()),
        "tpr": tpr_or_absent(members.flatten(), others.flatten()),
        "accuracy": float(sum(found) / 2),
    }


def _normal(margins: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each image, shapes ``(X,)``."""
    variance = margins.var(dim=0)
    if len(margins) < FEWEST_FOR_OWN_VARIANCE:
        variance = variance.mean().expand_as(variance)
    return margins.mean(dim=0), variance.clamp(min=VARIANCE_FLOOR)


def _log_density(margins: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return -((margins - mean) ** 2 / variance + variance.log()) / 2


def rmia(
    members: Tensor,
    member_references: Tensor,
    unseen: Tensor,
    unseen_references: Tensor,
    a: float = 0.3,
    gamma: float = 2.0,
) -> Values:
    """Attack membership relative to a population (RMIA, offline form, arXiv 2312.03262).

    r(x) = p(y|x) / ½((1 + a) mean_s p_s(y|x) + 1 - a), and the score of x is the share of x' in a
    population with r(x) / r(x') ≥ γ. Half of the unseen images are the population, the others
    the non-members; then these halves, images at even and at odd places, change roles.

    Where oracles give a forgotten class no probability, the denominator is the same for all
    images, and the attack is about that on the model's confidence alone.

    Args:
        members: log p(y|x) in nats of the judged model, training images, shape ``(D,)``.
        member_references: Of the oracles on these, shape ``(S, D)``.
        unseen: Of the judged model on test images of the same class, shape ``(T,)``, T ≥ 2.
        unseen_references: Of the oracles on these, shape ``(S, T)``.
        a: Slope of what a model that had seen an image would give it, in [0, 1].
        gamma: How much likelier than another an image has to be.

    Returns:
        ``auc`` and ``tpr`` at a false positive rate of at most 0.01.
    """
    ours = members - _reference(member_references, a)
    theirs = unseen - _reference(unseen_references, a)
    rows: list[Values] = []
    for population, others in ((theirs[0::2], theirs[1::2]), (theirs[1::2], theirs[0::2])):
        ordered = population.sort().values
        shares = [
            torch.searchsorted(ordered, side - math.log(gamma), right=True) / len(ordered)
            for side in (ours, others)
        ]
        rows.append({"auc": auc(*shares), "tpr": tpr_or_absent(*shares)})
    return {name: mean_of([row[name] for row in rows]) for name in ("auc", "tpr")}


def _reference(logs: Tensor, a: float) -> Tensor:
    """Return log of what models with and without the image would give it, shape ``(X,)``."""
    return (((1 + a) * logs.double().exp().mean(dim=0) + 1 - a) / 2).log()


def klom(unlearned: Tensor, oracles: Tensor) -> Tensor:
    """Return KL(unlearned to oracles) of each image's margins (KLoM, arXiv 2410.23232).

    Margins are clipped to ±100. By `histogram_kl` with at least 50 models on both sides, by
    `gaussian_kl` below. Not 0 for equal laws: it needs its floor beside it. Blind to
    features and to what margins do jointly over images.

    Args:
        unlearned: Margins, shape ``(N, X)``, N ≥ 2.
        oracles: Margins, shape ``(M, X)``, M ≥ 2.

    Returns:
        In nats, shape ``(X,)``.
    """
    few = min(len(unlearned), len(oracles)) < FEWEST_FOR_HISTOGRAM
    estimate = gaussian_kl if few else histogram_kl
    limits = (-LARGEST_MARGIN, LARGEST_MARGIN)
    return estimate(unlearned.double().clamp(*limits), oracles.double().clamp(*limits))


def histogram_kl(first: Tensor, second: Tensor) -> Tensor:
    """Return Σ_b P_b log(P_b / Q_b) over 20 equal bins of the pooled range, shape ``(X,)``.

    The largest value is in the last bin, and ½ is added to each count, so that it stays finite.

    Args:
        first: Draws of P, shape ``(N, X)``.
        second: Draws of Q, shape ``(M, X)``.
    """
    low = torch.minimum(first.amin(dim=0), second.amin(dim=0))
    high = torch.maximum(first.amax(dim=0), second.amax(dim=0))
    width = torch.where(high > low, high - low, 1.0)
    shares = []
    for draws in (first, second):
        bins = ((draws - low) / width * BINS).long().clamp(max=BINS - 1)
        counts = torch.full((BINS, draws.shape[1]), 0.5, dtype=torch.float64)
        counts.scatter_add_(0, bins, torch.ones_like(draws, dtype=torch.float64))
        shares.append(counts / counts.sum(dim=0))
    return (shares[0] * (shares[0] / shares[1]).log()).sum(dim=0)


def gaussian_kl(first: Tensor, second: Tensor) -> Tensor:
    """Return KL of normal laws, ½(log(v₂/v₁) + (v₁ + (m₁ - m₂)²)/v₂ - 1), shape ``(X,)``.

    Variances have the divisor N - 1 and are at least 0.05².

    Args:
        first: Draws of the first law, shape ``(N, X)``, N ≥ 2.
        second: Draws of the second, shape ``(M, X)``, M ≥ 2.
    """
    ours, theirs = (draws.var(dim=0).clamp(min=VARIANCE_FLOOR) for draws in (first, second))
    apart = (first.mean(dim=0) - second.mean(dim=0)) ** 2
    return ((theirs / ours).log() + (ours + apart) / theirs - 1) / 2


# ---- from outputs to values --------------------------------------------------------------------


def _attacks(
    unlearned: Sequence[Model],
    oracles: Sequence[Model],
    forgotten: int,
    retained: tuple[int, ...] | None,
) -> Values:
    """Return :data:`ATTACKS` on one class, seen through some retained classes or through all."""
    if retained is not None and len(retained) < 2:
        return dict.fromkeys(ATTACKS, FEW_RETAINED)
    images = {split: oracles[0][split].of((forgotten,)).labels for split in ("train", "test")}
    if not len(images["train"]):
        return {}

    margins = (
        torch.stack([_margin(model["train"].of((forgotten,)), retained) for model in models])
        for models in (unlearned, oracles)
    )
    told = u_lira(*margins)
    values: Values = {f"u_lira.{name}": value for name, value in told.items()}
    if len(images["test"]) < 2:
        return values | dict.fromkeys(("rmia.auc", "rmia.tpr"), NO_SIDES)
    judged: list[Tensor] = []
    references: list[Tensor] = []
    for split in ("train", "test"):
        logs = [
            [_logs(model[split].of((forgotten,)), retained) for model in models]
            for models in (unlearned, oracles)
        ]
        label = images[split][:, None]
        if retained is not None:
            label = torch.stack([one.exp() for one in logs[1]]).mean(dim=0).argmax(1, keepdim=True)
        for side, models in zip((judged, references), logs, strict=True):
            side.append(torch.stack([one.gather(1, label).squeeze(1) for one in models]))
    rows = [
        rmia(members, references[0], unseen, references[1])
        for members, unseen in zip(*judged, strict=True)
    ]
    return values | {f"rmia.{name}": mean_of([row[name] for row in rows]) for name in rows[0]}


def _margin(outputs: Outputs, retained: tuple[int, ...] | None) -> Tensor:
    if retained is None:
        return margin(outputs.logits, outputs.labels)
    return retained_margin(outputs.logits, retained)


def _logs(outputs: Outputs, retained: tuple[int, ...] | None) -> Tensor:
    logits = outputs.logits if retained is None else outputs.logits[:, list(retained)]
    return log_softmax(logits)


def _klom_family(models: int) -> str:
    return "klom_gaussian" if models < FEWEST_FOR_HISTOGRAM else "klom"


def _klom_values(
    unlearned: Sequence[Model],
    oracles: Sequence[Model],
    split: str,
    part: str,
    classes: tuple[int, ...],
) -> Values:
    half = min(len(unlearned), len(oracles)) // 2
    prefix = f"{_klom_family(half)}.{split}_{part}"
    labels = oracles[0][split].of(classes).labels
    if not len(labels):
        return {f"{prefix}.{name}": NO_IMAGES for name in KLOM}
    ours, theirs = (
        torch.stack([_margin(model[split].of(classes), None) for model in side])
        for side in (unlearned, oracles)
    )
    (first, second), (one, other) = (
        (side[0::2][:half], side[1::2][:half]) for side in (ours, theirs)
    )
    pairs = {
        ("mean", "p95"): [(first, one), (first, other), (second, one), (second, other)],
        ("floor", "floor_p95"): [(one, other), (other, one)],
    }
    values: Values = {}
    for names, compared in pairs.items():
        each = [klom(a, b) for a, b in compared]
        groups = [divergence[labels == k] for divergence in each for k in labels.unique()]
        values[f"{prefix}.{names[0]}"] = mean_of([float(group.mean()) for group in groups])
        values[f"{prefix}.{names[1]}"] = mean_of([float(group.quantile(0.95)) for group in groups])
    return values


def _names(half: int) -> list[str]:
    """Return all names of a group of which each half has so many models."""
    attacks = [name.replace(".", f"{form}.") for form in ("", "_retained") for name in ATTACKS]
    places = [f"{split}_{part}" for split in ("test", "train") for part in ("forget", "retain")]
    family = _klom_family(half)
    return attacks + [f"{family}.{place}.{name}" for place in places for name in KLOM]
