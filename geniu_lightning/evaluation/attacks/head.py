"""Attacks on the last layer: its row of the class, repaired or transplanted."""

import math
import statistics
from typing import ClassVar

from torch import Tensor, nn

from geniu_lightning.evaluation.context import LARGEST_LOGIT, Context, Outputs
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import lacking, mean_over, per_class
from geniu_lightning.kit.networks import head_of

RESOLUTION = 1e-6  # a mean of 32-bit features this near to another, relatively, is the same


class Head(Metric):
    """Attack on the last layer: row w_f and bias b_f of a forgotten class f.

    Means are over retained classes R. With several forgotten classes the first three values are
    means over them, and repair and transplant treat all of them at once.

    - `bias_anomaly`: (b_f - mean b) / sd b, divisor of the variance R - 1.
    - `row_norm`: ‖w_f‖ / mean ‖w‖.
    - `alignment`: cos(w_f, μ_f - μ), μ_f the mean feature of f's test images, μ that of all.
    - `repair`, `repair_retain`: A_f and A_r on test after b_f is set to mean b and w_f scaled to
      mean ‖w‖ (a row of zeros stays): needs no data and no training.
    - `transplant`, `transplant_retain`: after the original's w_f and b_f are put in.

    Source:
        Classification-Head Bias in Class-Level Machine Unlearning, arXiv 2605.08730, and An
        Illusion of Unlearning?, arXiv 2604.08271, look at the last layer; the formulas are ours.
    """

    needs = frozenset({"original"})
    infos: ClassVar[dict[str, MetricInfo]] = {
        "bias_anomaly": MetricInfo("oracle", epsilon=0.1),  # in standard deviations
        "row_norm": MetricInfo("oracle", epsilon=0.02),
        "alignment": MetricInfo("oracle", epsilon=0.02),
        **dict.fromkeys(
            ("repair", "repair_retain", "transplant", "transplant_retain"), MetricInfo("oracle")
        ),
    }

    def __call__(self, context: Context) -> Values:
        """Measure the unlearned model."""
        nothing = lacking(context, "test", context.forget)
        if nothing is None and not context.retained:
            nothing = Absent("no class is retained")
        if nothing is not None:
            return dict.fromkeys(self.infos, nothing)
        outputs = context.outputs(context.unlearned, "test")
        features = outputs.features.double()
        centre = features.mean(dim=0)
        weight, bias = rows_of(context.unlearned)
        forget, retained = context.forget, context.retained
        repaired = repair(weight, bias, forget, retained)
        transplanted = weight.clone(), bias.clone()
        for ours, theirs in zip(transplanted, rows_of(context.original), strict=True):
            ours[list(forget)] = theirs[list(forget)]
        values: Values = {
            "bias_anomaly": _mean(
                [bias_anomaly(bias, k, retained) for k in forget],
                "the biases of retained classes do not differ",
            ),
            "row_norm": _mean(
                [row_norm(weight, k, retained) for k in forget],
                "the rows of retained classes are zero",
            ),
            "alignment": _mean(
                [alignment(weight[k], features[outputs.labels == k], centre) for k in forget],
                "a forgotten class has a row of zeros, or features like those of all others",
            ),
        }
        for name, (new_weight, new_bias) in (
            ("repair", repaired),
            ("transplant", transplanted),
        ):
            each = accuracies(outputs, new_weight, new_bias)
            values[name] = mean_over(each, forget)
            values[f"{name}_retain"] = mean_over(each, retained)
        return values


def rows_of(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the last layer's rows `(K, D)` and biases `(K,)` within ±10⁴, float64, on the CPU."""
    head = head_of(network)
    bias = head.bias.detach().cpu().double().clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
    return head.weight.detach().cpu().double(), bias


def accuracies(outputs: Outputs, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the accuracy of each class, `(K,)`, with another last layer."""
    # in 32 bits, as a network's own: the rounding of a scaled row would decide between equals
    logits = (outputs.features.double() @ weight.T + bias).float()
    return per_class(Outputs(logits, outputs.features, outputs.labels), len(weight))


def bias_anomaly(bias: Tensor, label: int, retained: tuple[int, ...]) -> float:
    """Return how many standard deviations a bias is from retained classes' mean; NaN if none."""
    others: list[float] = bias[list(retained)].tolist()
    if len(others) < 2 or min(others) == max(others):
        return math.nan
    return (float(bias[label]) - statistics.fmean(others)) / statistics.stdev(others)


def row_norm(weight: Tensor, label: int, retained: tuple[int, ...]) -> float:
    """Return a row's norm over the mean norm of retained rows; NaN if these are zero."""
    norms = weight.norm(dim=1)
    mean = norms[list(retained)].mean()
    return float(norms[label] / mean) if mean > 0 else math.nan


def alignment(row: Tensor, features: Tensor, centre: Tensor) -> float:
    """Return the cosine of a row `(D,)` and the mean of `(N, D)` from a centre; NaN if one is 0."""
    mean = features.mean(dim=0)
    away = mean - centre
    if not away.norm() > RESOLUTION * mean.norm():
        return math.nan
    return float(row @ away / (row.norm() * away.norm()))


def repair(
    weight: Tensor, bias: Tensor, forget: tuple[int, ...], retained: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Return rows and biases, the forgotten ones at the retained rows' mean norm and mean bias."""
    weight, bias = weight.clone(), bias.clone()
    usual = weight[list(retained)].norm(dim=1).mean()
    for k in forget:
        length = weight[k].norm()
        weight[k] *= usual / length if length > 0 else 1.0
        bias[k] = bias[list(retained)].mean()
    return weight, bias


def _mean(values: list[float], reason: str) -> float | Absent:
    """Return the mean; absent if one is NaN, as a mean over fewer classes is another quantity."""
    return Absent(reason) if any(math.isnan(v) for v in values) else statistics.fmean(values)
