"""Distance of the weights from those of the original and of oracles."""

import statistics
from typing import ClassVar

import torch
from torch import Tensor, nn

from geniu_lightning.evaluation.context import Context
from geniu_lightning.evaluation.metric import Metric, MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import NO_ORACLE


class WeightDistance(Metric):
    """Distance of the parameters θ from another model's θ_o, in weight space.

    - `original`, `oracle`: ‖θ - θ_o‖ / ‖θ_o‖ over all parameters, to the original, and the mean of
      that over oracles. Buffers, such as batch-norm statistics, are left out.
    - `original_cosine`, `oracle_cosine`: cos(θ, θ_o) of the same.

    Oracles start from weights of their own and are far from everything.

    Source:
        Siddiqui et al., From Dormant to Deleted, arXiv 2505.22310: a short distance from the
        original predicts that the class is relearned soon. Departure: relative distances.
    """

    needs = frozenset({"original", "oracles"})
    pairwise = True
    infos: ClassVar[dict[str, MetricInfo]] = dict.fromkeys(
        ("original", "oracle", "original_cosine", "oracle_cosine"), MetricInfo("oracle")
    )

    def __call__(self, context: Context) -> Values:
        """Measure the unlearned model."""
        own = parameters_of(context.unlearned)
        values: Values = {}
        for name, others in (("original", (context.original,)), ("oracle", context.oracles)):
            pairs = [distance_and_cosine(own, parameters_of(other)) for other in others]
            for place, key in enumerate((name, f"{name}_cosine")):
                numbers = [pair[place] for pair in pairs]
                values[key] = statistics.fmean(numbers) if numbers else NO_ORACLE
        return values


def parameters_of(network: nn.Module) -> Tensor:
    """Return all parameters as one vector, float64, on the CPU."""
    return torch.cat([p.detach().cpu().double().flatten() for p in network.parameters()])


def distance_and_cosine(own: Tensor, other: Tensor) -> tuple[float, float]:
    """Return ‖θ - θ_o‖ / ‖θ_o‖ and cos(θ, θ_o)."""
    length = other.norm()
    return ((own - other).norm() / length).item(), (own @ other / own.norm() / length).item()
