"""Distances of the answers from those of oracles, and from those of untrained networks."""

import math
import statistics
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from geniu_lightning.evaluation.context import Context, Outputs, outputs_of
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import NO_ORACLE, balanced_mean, lacking, shares
from geniu_lightning.settings.checked import PositiveInt, checked

LOG2 = math.log(2)
GROUPS = ("test_forget", "train_forget", "test_retain")


class Divergence(Metric):
    """Distances between the model's answers and each oracle's, in three groups of images.

    For each image and each oracle o, with p the model's probabilities, in nats:

    - `js`: Jensen-Shannon divergence. `kl`: KL(o to p), `kl_reverse`: KL(p to o); `kl_median` is
      the median image's KL(o to p), for a few saturated ones rule the mean.
    - `activation`: Euclidean norm of p - o, in [0, √2] (arXiv 2205.08096, activation distance).
    - `agreement`: whether both answer the same class, ties being drawn by lot.

    Then the mean over images of each class, over classes, and over oracles. Oracles are never
    averaged into one distribution: a mixture of them is none of them.
    """

    needs = frozenset({"oracles"})
    pairwise = True
    infos: ClassVar[dict[str, MetricInfo]] = {
        "js": MetricInfo("oracle", epsilon=0.005),
        **dict.fromkeys(
            ("kl", "kl_median", "kl_reverse", "activation", "agreement"), MetricInfo("oracle")
        ),
    }

    def __call__(self, context: Context) -> Values:
        """Measure the unlearned model."""
        values: Values = {}
        for group in GROUPS:
            split, _, kind = group.partition("_")
            classes = context.forget if kind == "forget" else context.retained
            nothing = lacking(context, split, classes) or (None if context.oracles else NO_ORACLE)
            if nothing is not None:
                values |= {f"{group}.{name}": nothing for name in self.infos}
                continue
            model = context.outputs(context.unlearned, split).of(classes)
            oracles = [context.outputs(oracle, split).of(classes) for oracle in context.oracles]
            rows = [compare(model, oracle, classes) for oracle in oracles]
            for name in self.infos:
                values[f"{group}.{name}"] = statistics.fmean(row[name] for row in rows)
        return values


@checked
@dataclass(frozen=True)
class RandomTeacher(Metric):
    """Zero retrain forgetting (ZRF): similarity of the answers to an untrained network's.

    1 - JS(p, t) / log 2 as `normalised` and 1 - JS(p, t) in nats as `nats`, t being an untrained
    network's probabilities: the mean over test images of each forgotten class, over these classes,
    and over several such `teachers` (arXiv 2205.08096). Rewards noise: not better when higher.
    """

    needs = frozenset({"fresh"})
    infos: ClassVar[dict[str, MetricInfo]] = dict.fromkeys(
        ("normalised", "nats"), MetricInfo("oracle")
    )

    teachers: PositiveInt = 3

    def images_processed(self, context: Context) -> int:
        """Return the images that the untrained networks answer."""
        split = context.splits.get("test")
        return self.teachers * len(split.positions_of(context.forget)) if split else 0

    def __call__(self, context: Context) -> Values:
        """Measure the unlearned model."""
        nothing = lacking(context, "test", context.forget)
        if nothing is None and context.fresh is None:
            nothing = Absent("there is no way to make an untrained network")
        if nothing is not None:
            return dict.fromkeys(self.infos, nothing)
        model = context.outputs(context.unlearned, "test").of(context.forget)
        teachers = (self._teacher(context, k) for k in range(self.teachers))
        each = (js(model.log_probabilities, one.log_probabilities) for one in teachers)
        divergence = statistics.fmean(
            balanced_mean(one, model.labels, context.forget).item() for one in each
        )
        return {"normalised": 1 - divergence / LOG2, "nats": 1 - divergence}

    def _teacher(self, context: Context, number: int) -> Outputs:
        """Return an untrained network's outputs on the forgotten classes' test images."""
        seed = context.generator("random teacher", number).initial_seed()

        def answers() -> Outputs:
            assert context.fresh is not None
            split = context.splits["test"]
            return outputs_of(context.fresh(seed), split.at(split.positions_of(context.forget)))

        return context.once(("random teacher", seed, context.forget), answers)


def kl(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(p to q) = Σ_c p_c log(p_c / q_c) of each image, in nats, shape `(N,)`.

    Of finite logarithms of p and q, float64, `(N, K)`.
    """
    return (first.exp() * (first - second)).sum(dim=1).clamp(min=0)  # rounding


def js(first: Tensor, second: Tensor) -> Tensor:
    """Return ½ KL(p to m) + ½ KL(q to m) of each image, m = (p + q) / 2, in nats, shape `(N,)`.

    From logarithms, so that no small probability becomes 0; not the distance that is its root.
    """
    middle = torch.logaddexp(first, second) - LOG2
    terms = first.exp() * (first - middle) + second.exp() * (second - middle)
    return (terms.sum(dim=1) / 2).clamp(0, LOG2)  # rounding


def compare(model: Outputs, oracle: Outputs, classes: tuple[int, ...]) -> dict[str, float]:
    """Return the values of `Divergence` for one oracle and one group of images."""
    ours, theirs = model.log_probabilities, oracle.log_probabilities
    forward = kl(theirs, ours)
    each = {
        "js": js(ours, theirs),
        "kl": forward,
        "kl_reverse": kl(ours, theirs),
        "activation": torch.linalg.vector_norm(ours.exp() - theirs.exp(), dim=1),
        "agreement": (shares(ours) * shares(theirs)).sum(dim=1),
    }
    values = {k: balanced_mean(v, model.labels, classes).item() for k, v in each.items()}
    found = [forward[model.labels == k].tolist() for k in classes]
    values["kl_median"] = statistics.fmean(statistics.median(part) for part in found if part)
    return values
