"""Answers to images of forgotten classes, and the share that the largest class attracts."""

import math
import statistics
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from geniu_lightning.evaluation.context import Context, Outputs, entropy, log_softmax
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import (
    NO_ORACLE,
    SplitName,
    balanced_mean,
    lacking,
    shares,
)
from geniu_lightning.settings.checked import checked

DIGITS = 12  # beyond them shares differ by rounding, which would decide ranks


@checked
@dataclass(frozen=True)
class Confusion(Metric):
    """Answers of a model to images of forgotten classes.

    With several forgotten classes each is measured alone, and the mean over them is given. v_c is
    the share of a forgotten class's images answered as class c, ties divided; n_c is the number of
    c's training images; q is softmax over the logits of retained classes alone.

    - `profile`: v, shape `(K,)`, sums to 1.
    - `distance`: total variation ½ Σ_c abs(v_c - v_c of an oracle), mean over oracles.
    - `attractor`: Σ v_j over all retained classes j with the largest n; `attractor_retained`: the
      same share among images of the other retained classes, mean over these classes.
    - `rank_correlation`: Spearman's, of v_c and n_c over retained classes.
    - `retained_entropy`: mean entropy of q, in nats. `retained_top1`: mean largest q.
    """

    needs = frozenset({"oracles"})
    pairwise = True
    infos: ClassVar[dict[str, MetricInfo]] = {
        name: MetricInfo("oracle")
        for name in (
            *("profile", "distance", "attractor", "attractor_retained", "rank_correlation"),
            *("retained_entropy", "retained_top1"),
        )
    }

    split: SplitName = "test"

    def __call__(self, context: Context) -> Values:
        """Measure the unlearned model."""
        nothing = lacking(context, self.split, context.forget)
        if nothing is None and not context.retained:
            nothing = Absent("no class is retained")
        if nothing is not None:
            return dict.fromkeys(self.infos, nothing)
        outputs = context.outputs(context.unlearned, self.split)
        forgotten = outputs.of(context.forget)
        profile = answers(forgotten, context.forget)
        retained = list(context.retained)
        restricted = log_softmax(forgotten.logits[:, retained])

        def mean(values: Tensor) -> float:
            return balanced_mean(values, forgotten.labels, context.forget).item()

        return {
            "profile": profile.tolist(),
            "distance": self._distance(forgotten, context),
            **attraction(outputs, profile, context),
            "rank_correlation": rank_correlation(
                profile[retained], [context.class_counts[k] for k in retained]
            ),
            "retained_entropy": mean(entropy(restricted)),
            "retained_top1": mean(restricted.max(dim=1).values.exp()),
        }

    def _distance(self, forgotten: Outputs, context: Context) -> float | Absent:
        if not context.oracles:
            return NO_ORACLE
        found = []
        for oracle in context.oracles:
            theirs = context.outputs(oracle, self.split).of(context.forget)
            # class by class: in a common profile two that changed places would cancel out
            found += [
                total_variation(answers(forgotten, (k,)), answers(theirs, (k,)))
                for k in context.forget
                if (forgotten.labels == k).any()
            ]
        return statistics.fmean(found)


def answers(outputs: Outputs, classes: tuple[int, ...]) -> Tensor:
    """Return the share of images answered as each class, `(K,)`, mean over some true classes."""
    return balanced_mean(shares(outputs.logits), outputs.labels, classes)


def total_variation(one: Tensor, other: Tensor) -> float:
    """Return ½ Σ_c abs(v_c - w_c) of two distributions of shape `(K,)`, in [0, 1]."""
    return ((one - other).abs().sum() / 2).item()


def attraction(outputs: Outputs, profile: Tensor, context: Context) -> dict[str, float | Absent]:
    """Return `attractor` and `attractor_retained`; `profile` is that of forgotten images."""
    counts, retained = context.class_counts, context.retained
    most = max(counts[k] for k in retained)
    largest = [k for k in retained if counts[k] == most]
    others = tuple(k for k in retained if counts[k] < most)
    if not others:
        none = Absent("no retained class has more training images than another")
        return {"attractor": none, "attractor_retained": none}
    drawn = answers(outputs, others)[largest].sum().item()
    unseen = Absent("the split has no image of the smaller retained classes")
    return {
        "attractor": profile[largest].sum().item(),
        "attractor_retained": unseen if math.isnan(drawn) else drawn,
    }


def rank_correlation(profile: Tensor, counts: list[int]) -> float | Absent:
    """Return Spearman's correlation of shares `(R,)` and numbers of training images."""
    from scipy.stats import spearmanr

    rounded = profile.numpy().round(DIGITS)
    if len(set(counts)) < 2:
        return Absent("all retained classes have the same number of training images")
    if len(set(rounded.tolist())) < 2:
        return Absent("all retained classes get the same share of the answers")
    return float(spearmanr(rounded, counts).statistic)
