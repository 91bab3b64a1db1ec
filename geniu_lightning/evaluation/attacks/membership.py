"""Membership inference: training images against test images of the same class."""

import math
import statistics
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from geniu_lightning.evaluation.context import Context, Outputs, entropy, log_softmax
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.references import EPSILON_AREA, EPSILON_SHARE

SCORES = (
    *("loss", "confidence", "entropy", "modified_entropy"),
    *("retained_confidence", "retained_entropy"),
)
FEWEST_NON_MEMBERS = 100  # below, a rate of 1 % allows no false positive at all
FEW_RETAINED = Absent("with fewer than two retained classes nothing is left to compare")
NO_SIDES = Absent("no such class has both training and test images")


class Membership(Metric):
    """Membership inference within each forgotten class, all values in [0, 1].

    Members are the training images of a class, non-members the test images of the same class, so
    that the class itself is no signal. Nothing is fitted: a score of `scores` orders the images.

    - `<score>.auc`: P(member above non-member) + P(tie)/2. `<score>.leak`: 1/2 + |auc - 1/2|.
    - `<score>.tpr`: share of members found at a false positive rate of at most 0.01.
    - `standard_error`: of `auc` by chance alone, for these numbers of images.
    - `retained_control`: the loss on retained classes, which are members of an oracle too.

    With several forgotten classes each value is the mean over those with images on both sides.

    Sources: loss, arXiv 1709.01604; confidence and entropy, arXiv 1806.01246; modified entropy,
    arXiv 2003.10595; rates at few false positives, arXiv 2112.03570.
    """

    infos: ClassVar[dict[str, MetricInfo]] = {
        "auc": MetricInfo("oracle", 0.5, EPSILON_AREA),
        "leak": MetricInfo("lower", 0.5, EPSILON_AREA),
        "tpr": MetricInfo("lower", 0.01, EPSILON_SHARE),
        "standard_error": MetricInfo("oracle"),
        # oracles, too, remember images of retained classes
        "retained_control.auc": MetricInfo("oracle", None, EPSILON_AREA),
        "retained_control.leak": MetricInfo("oracle", None, EPSILON_AREA),
    }

    def __call__(self, context: Context) -> Values:
        """Attack the model."""
        names = [f"{score}.{value}" for score in SCORES for value in ("auc", "leak", "tpr")]
        control = ["retained_control.auc", "retained_control.leak"]
        for split in ("train", "test"):
            if split not in context.splits:
                missing = Absent(f"the run has no {split} images")
                return dict.fromkeys([*names, "standard_error", *control], missing)
        train, test = (context.outputs(context.unlearned, name) for name in ("train", "test"))
        forgotten = sides(train, test, context.forget)
        found = [_of_class(a, b, context.retained) for _, a, b in forgotten]
        values: Values = {name: mean_of([row[name] for row in found]) for name in names}
        errors = [standard_error(len(a.labels), len(b.labels)) for _, a, b in forgotten]
        values["standard_error"] = (
            math.hypot(*errors) / len(errors) if errors else NO_SIDES  # classes are independent
        )
        areas = [auc(own(a), own(b)) for _, a, b in sides(train, test, context.retained)]
        values["retained_control.auc"] = mean_of(areas)
        values["retained_control.leak"] = mean_of([leak(area) for area in areas])
        return values


def sides(
    train: Outputs, test: Outputs, classes: tuple[int, ...]
) -> list[tuple[int, Outputs, Outputs]]:
    """Return class, members and non-members of each class that has both."""
    rows = [(k, train.of((k,)), test.of((k,))) for k in classes]
    return [(k, a, b) for k, a, b in rows if len(a.labels) and len(b.labels)]


def _of_class(members: Outputs, others: Outputs, retained: tuple[int, ...]) -> Values:
    ours, theirs = (scores(side, retained) for side in (members, others))
    values: Values = {}
    for score in SCORES:
        row: Values = dict.fromkeys(("auc", "leak", "tpr"), FEW_RETAINED)
        if score in ours:
            area, rate = auc(ours[score], theirs[score]), tpr(ours[score], theirs[score])
            row = {"auc": area, "leak": leak(area), "tpr": rate}
        values |= {f"{score}.{name}": value for name, value in row.items()}
    return values


def mean_of(values: Sequence[object]) -> float | Absent:
    """Return the mean over classes or models; absent if one is, or if there are none."""
    absent = [value for value in values if isinstance(value, Absent)]
    if absent:
        return absent[0]
    numbers = [value for value in values if isinstance(value, float)]
    return statistics.fmean(numbers) if numbers else NO_SIDES


def scores(outputs: Outputs, retained: tuple[int, ...]) -> dict[str, Tensor]:
    """Return scores that are expected to be higher for members, float64, each of shape `(N,)`.

    With p the probabilities and q those renormalised over retained classes, in nats: `loss` log p_y
    · `confidence` log max p · `entropy` Σ p log p · `modified_entropy`, negated ·
    `retained_confidence` and `retained_entropy` of q, missing for fewer than two retained classes.
    """
    everything = log_softmax(outputs.logits)
    found = {
        "loss": own(outputs),
        "confidence": everything.max(dim=1).values,
        "entropy": -entropy(everything),
        "modified_entropy": -modified_entropy(everything, outputs.labels),
    }
    if len(retained) > 1:
        rest = log_softmax(outputs.logits[:, list(retained)])
        found["retained_confidence"] = rest.max(dim=1).values
        found["retained_entropy"] = -entropy(rest)
    return found


def own(outputs: Outputs) -> Tensor:
    """Return the log-probability of each image's own class, float64, shape `(N,)`."""
    return log_softmax(outputs.logits).gather(1, outputs.labels[:, None]).squeeze(1)


def modified_entropy(logs: Tensor, labels: Tensor) -> Tensor:
    """Return the modified entropy (arXiv 2003.10595), nats, shape `(N,)`.

    M = -(1 - p_y) log p_y - Σ_{c≠y} p_c log(1 - p_c): large for a confident wrong answer, unlike
    the entropy. Of finite logarithms, float64, `(N, K)`.
    """
    columns = labels[:, None]
    top = logs.argmax(dim=1, keepdim=True)
    # 1 - p cancels where p is near 1, which only the largest can be: there it is the others' sum
    rest = torch.log1p(-logs.exp().scatter(1, top, 0.0))
    rest = rest.scatter(1, top, logs.scatter(1, top, -math.inf).logsumexp(dim=1, keepdim=True))
    others = (logs.exp() * rest).scatter(1, columns, 0.0).sum(dim=1)
    mine = rest.gather(1, columns).exp() * logs.gather(1, columns)
    return -(mine.squeeze(1) + others)


def auc(members: Tensor, non_members: Tensor) -> float:
    """Return P(member above non-member) + P(tie)/2, the area under the ROC curve."""
    ordered = non_members.sort().values
    below = torch.searchsorted(ordered, members.contiguous())
    not_above = torch.searchsorted(ordered, members.contiguous(), right=True)
    # counted in whole numbers, so that equal sides give exactly one half
    return int((below + not_above).sum()) / (2 * len(members) * len(ordered))


def leak(area: float) -> float:
    """Return the area for an attacker who may negate the score."""
    return 0.5 + abs(area - 0.5)


def tpr(members: Tensor, non_members: Tensor) -> float | Absent:
    """Return the largest share of members above a threshold that at most 1 % of the others pass.

    Thresholds lie between scores, without interpolation: with all scores tied nothing is found.
    """
    if len(non_members) < FEWEST_NON_MEMBERS:
        return Absent(
            f"a false positive rate of 1 % needs at least {FEWEST_NON_MEMBERS} non-members of the"
            f" class, there are {len(non_members)}"
        )
    first_refused = non_members.sort(descending=True).values[len(non_members) // 100]
    return int((members > first_refused).sum()) / len(members)


def standard_error(members: int, non_members: int) -> float:
    """Return the deviation of `auc` when both sides follow one law (Mann–Whitney)."""
    return math.sqrt((members + non_members + 1) / (12 * members * non_members))
