"""Distances of the answers from those of oracles, and from those of untrained networks."""

import math
import statistics
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from geniu_lightning.evaluation.context import Context, Outputs, Split, outputs_of
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import balanced_mean, lacking, shares
from geniu_lightning.settings.checked import PositiveInt, checked

LOG2 = math.log(2)
GROUPS = ("test_forget", "train_forget", "test_retain")


class Divergence(Metric):
    """Distances between the model's answers and each oracle's, in three groups of images.

    For each image and each oracle o, with p the model's probabilities:

    - `js`: Jensen-Shannon divergence in nats, in [0, log 2].
    - `kl`: KL(o to p) = Σ_c o_c log(o_c / p_c) in nats; `kl_median` is the median image's, for
      a few saturated ones rule the mean.
    - `kl_reverse`: KL(p to o), in nats.
    - `activation`: Euclidean norm of p - o, in [0, √2] (arXiv 2205.08096, activation distance).
    - `agreement`: whether both answer the same class, in [0, 1].

    Then the mean over images of each class, over classes, and over oracles. Oracles are never
    averaged into one distribution: a mixture of them is none of them.

    The groups are `test_forget`, `train_forget` and `test_retain`. None has 0 as its ideal
    (1 for agreement): two oracles differ as well. Blind to features and to the
    head. A flat distribution is near to everything, so a small distance to the original is no
    proof of memory.
    """

    needs = frozenset({"oracles"})
    infos: ClassVar[dict[str, MetricInfo]] = {
        "js": MetricInfo("oracle", epsilon=0.005),
        "kl": MetricInfo("oracle"),
        "kl_median": MetricInfo("oracle"),
        "kl_reverse": MetricInfo("oracle"),
        "activation": MetricInfo("oracle"),
        "agreement": MetricInfo("oracle"),
    }

    def __call__(self, context: Context) -> Values:
        """Measure the unlearned model."""
        values: Values = {}
        for group in GROUPS:
            split, _, kind = group.partition("_")
            classes = context.forget if kind == "forget" else context.retained
            nothing = lacking(context, split, classes)
            if nothing is None and not context.oracles:
                nothing = Absent("there is no oracle to compare with")
            if nothing is not None:
                values |= {f"{group}.{name}": nothing for name in self.infos}
                continue
            model = context.outputs(context.unlearned, split).of(classes)
            rows = [
                compare(model, context.outputs(oracle, split).of(classes), classes)
                for oracle in context.oracles
            ]
            values |= {
                f"{group}.{name}": statistics.fmean(row[name] for row in rows)
                for name in self.infos
            }
        return values


@checked
@dataclass(frozen=True)
class RandomTeacher(Metric):
    """Zero retrain forgetting (ZRF): similarity of the answers to an untrained network's.

    1 - JS(p, t) / log 2 as `normalised`, in [0, 1], and 1 - JS(p, t) in nats as `nats`, in
    [1 - log 2, 1], t being an untrained network's probabilities: the mean over test images of each
    forgotten class, over these classes, and over several such networks (arXiv 2205.08096).

    Not better when higher: an oracle is confident about classes that it has never seen, and is
    well below 1. Blind to forgetting itself, as it rewards noise: a model that guesses is at 1.

    Args:
        teachers: Number of untrained networks.
    """

    needs = frozenset({"fresh"})
    infos: ClassVar[dict[str, MetricInfo]] = {
        "normalised": MetricInfo("oracle"),
        "nats": MetricInfo("oracle"),
    }

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
        divergence = statistics.fmean(
            balanced_mean(
                js(model.log_probabilities, teacher.log_probabilities),
                model.labels,
                context.forget,
            ).item()
            for teacher in (self._teacher(context, k) for k in range(self.teachers))
        )
        return {"normalised": 1 - divergence / LOG2, "nats": 1 - divergence}

    def _teacher(self, context: Context, number: int) -> Outputs:
        """Return an untrained network's outputs on the forgotten classes' test images."""
        seed = context.generator("random teacher", number).initial_seed()

        def answers() -> Outputs:
            assert context.fresh is not None
            devices = [context.device] if context.device.type == "cuda" else []
            with torch.random.fork_rng(devices):  # initialisation may draw from global generators
                network = context.fresh(seed)
            split = context.splits["test"]
            mine = split.positions_of(context.forget)
            images = Split(split.labels[mine], lambda positions: split.read(mine[positions]))
            return outputs_of(network.to(context.device).eval(), images)

        return context.once(("random teacher", seed, context.forget), answers)


def kl(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(p to q) = Σ_c p_c log(p_c / q_c) of each image, the expectation being p's.

    Args:
        first: Logarithms of p, float64, shape `(N, K)`; may be minus infinity.
        second: Logarithms of q, likewise.

    Returns:
        In nats, shape `(N,)`; infinite where q excludes what p does not.
    """
    _check(first, second)
    return _terms(first, second).sum(dim=1).clamp(min=0)  # rounding


def js(first: Tensor, second: Tensor) -> Tensor:
    """Return ½ KL(p to m) + ½ KL(q to m) of each image, m = (p + q) / 2.

    Computed from logarithms, so that no small probability becomes 0. This is the divergence, not
    the distance that is its root.

    Args:
        first: Logarithms of p, float64, shape `(N, K)`; may be minus infinity.
        second: Logarithms of q, likewise.

    Returns:
        In nats, in [0, log 2], shape `(N,)`.
    """
    _check(first, second)
    middle = torch.logaddexp(first, second) - LOG2
    found = (_terms(first, middle) + _terms(second, middle)).sum(dim=1) / 2
    return found.clamp(0, LOG2)  # rounding


def activation_distance(first: Tensor, second: Tensor) -> Tensor:
    """Return the Euclidean norm of p - q of each image, in [0, √2], shape `(N,)`.

    In spite of its name it compares probabilities. A mean of it is a mean of norms.

    Args:
        first: Logarithms of p, float64, shape `(N, K)`.
        second: Logarithms of q, likewise.
    """
    _check(first, second)
    distance: Tensor = torch.linalg.vector_norm(first.exp() - second.exp(), dim=1)
    return distance


def agreement(first: Tensor, second: Tensor) -> Tensor:
    """Return the chance that two models answer the same class, ties being drawn by lot.

    Args:
        first: Log-probabilities, shape `(N, K)`.
        second: Likewise.

    Returns:
        In [0, 1], shape `(N,)`.
    """
    return (shares(first) * shares(second)).sum(dim=1)


def compare(model: Outputs, oracle: Outputs, classes: tuple[int, ...]) -> dict[str, float]:
    """Return the values of `Divergence` for one oracle and one group of images."""
    ours, theirs = model.log_probabilities, oracle.log_probabilities
    forward = kl(theirs, ours)
    each = {
        "js": js(ours, theirs),
        "kl": forward,
        "kl_reverse": kl(ours, theirs),
        "activation": activation_distance(ours, theirs),
        "agreement": agreement(ours, theirs),
    }
    values = {k: balanced_mean(v, model.labels, classes).item() for k, v in each.items()}
    found = [forward[model.labels == k] for k in classes]
    values["kl_median"] = statistics.fmean(
        statistics.median(part.tolist()) for part in found if len(part)
    )
    return values


def _terms(first: Tensor, second: Tensor) -> Tensor:
    """Return p_c log(p_c / q_c), which is 0 where p_c is, whatever q_c."""
    share = first.exp()
    return torch.where(share > 0, share * (first - second), 0.0)


def _check(*tensors: Tensor) -> None:
    """Refuse probabilities and logits in place of logarithms of probabilities."""
    for tensor in tensors:
        totals = tensor.exp().sum(dim=1)
        assert torch.allclose(totals, torch.ones_like(totals), atol=1e-4), "no log-probabilities"
