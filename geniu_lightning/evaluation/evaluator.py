"""The evaluator: measures a model, its oracles and two controls, and decides on a verdict."""

import copy
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from geniu_lightning.evaluation.cache import FileCache, key_of
from geniu_lightning.evaluation.context import LARGEST_LOGIT, Context
from geniu_lightning.evaluation.evidence import Evidence
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Value, Values
from geniu_lightning.evaluation.metrics.accuracy import confusion, few_and_many, per_class
from geniu_lightning.evaluation.references import position, z_score
from geniu_lightning.evaluation.rows import Rows, finite, mean_of_lists
from geniu_lightning.evaluation.verdict import Decision, decide
from geniu_lightning.kit.networks import head_of, state_digest


@dataclass(frozen=True)
class Evaluation:
    """Values by their full names, such as `accuracy.test.forget`, and what follows from them."""

    values: Values = field(default_factory=dict)
    oracles: Sequence[Values] = ()  # each compared with the others
    nulls: Sequence[Values] = ()  # networks that the model's method made of oracles
    controls: Mapping[str, Values] = field(default_factory=dict)  # `original` and logit `mask`
    infos: Mapping[str, MetricInfo] = field(default_factory=dict)
    decision: Decision | None = None  # `None` where nothing was to be forgotten
    steps: dict[str, list[int]] = field(default_factory=dict)  # of the curves of a family
    # `before` and `after`, on the evaluator's split: of each class, NaN without images; and counts
    # of true class (row) and answer
    accuracies: Mapping[str, list[float]] = field(default_factory=dict)
    confusions: Mapping[str, Tensor] = field(default_factory=dict)

    def of_oracles(self, name: str) -> list[float]:
        """Return the oracles' numbers of a name; empty unless every oracle has one."""
        numbers = [v for row in self.oracles if isinstance(v := row.get(name), float)]
        return numbers if len(numbers) == len(self.oracles) else []

    @property
    def metrics(self) -> dict[str, Any]:
        """All values as `metrics.json` holds them, nested by the parts of their names.

        A leaf is `{value, direction, ideal, oracle_mean, oracle_std, z, original, position}` or
        `{absent: reason}`.
        """
        tree: dict[str, Any] = {}
        for name, value in self.values.items():
            node = tree
            *path, leaf = name.split(".")
            for part in path:
                node = node.setdefault(part, {})
            node[leaf] = self._leaf(name, value)
        return tree

    def _leaf(self, name: str, value: Value | Absent) -> dict[str, Any]:
        if isinstance(value, Absent):
            return {"absent": value.reason}
        info = self.infos[name]
        leaf: dict[str, Any] = {
            "value": value,
            "direction": info.direction,
            "ideal": info.ideal,
            **dict.fromkeys(("oracle_mean", "oracle_std", "z", "original", "position")),
        }
        original = self.controls.get("original", {}).get(name)
        leaf["original"] = None if isinstance(original, Absent) else original
        numbers = self.of_oracles(name)
        if isinstance(value, float) and numbers:
            leaf["oracle_mean"] = statistics.fmean(numbers)
            if len(numbers) > 1:
                leaf["oracle_std"] = statistics.stdev(numbers)
            leaf["z"] = z_score(value, numbers, info.epsilon)
            if isinstance(original, float):
                leaf["position"] = position(value, numbers, original, info.epsilon)
        elif isinstance(value, list):
            leaf["oracle_mean"] = mean_of_lists([row.get(name) for row in self.oracles])
        return leaf


class Evaluator:
    """Evaluates models by metrics, by the names of their families; lays `split` out by class."""

    def __init__(
        self, metrics: Mapping[str, Metric], cache: FileCache | None = None, split: str = "test"
    ) -> None:
        self.metrics = metrics
        self.cache = cache
        self.split = split

    def evaluate(self, context: Context) -> Evaluation:
        """Measure the model and, where there are oracles, these, the nulls and the controls."""
        oracles_of = {f"oracle {k + 1}": k for k in range(len(context.oracles))}
        made_of = {f"null {k + 1}": k for k in range(len(context.nulls))}
        rows = self.measured(context, _networks(context), oracles_of | made_of)
        oracles = [rows.of(f"oracle {k}") for k in range(1, len(context.oracles) + 1)]
        nulls = [rows.of(f"null {k}") for k in range(1, len(context.nulls) + 1)]
        controls = {who: rows.of(who) for who in ("original", "mask") if who in rows.measured}
        model = rows.of("unlearned")
        everyone = (model, *oracles, *controls.values())
        names = (full.partition(".") for row in everyone for full in row)
        infos = {"".join(full): self.metrics[full[0]].info(full[2]) for full in names}
        decision = None
        if context.forget:
            decision = decide(
                Evidence(
                    model,
                    oracles,
                    [rows.peers(k) for k in range(len(oracles))],
                    controls,
                    infos,
                    images_of(context),
                    nulls,
                    context.matched,
                    context.intact,
                )
            )
        steps = {k: found for k, metric in self.metrics.items() if (found := metric.curve_steps)}
        return Evaluation(
            model, oracles, nulls, controls, infos, decision, steps, **self._by_class(context)
        )

    def seconds_left(self, context: Context) -> float:
        """Return about how long `evaluate` takes, by the pace of one pass over a split."""
        split = next(iter(context.splits))
        start = time.monotonic()
        context.outputs(context.unlearned, split)
        pace = (time.monotonic() - start) / max(len(context.splits[split].labels), 1)
        return pace * self.images_left(context)

    def images_left(self, context: Context) -> int:
        """Return about how many images go through networks for values that are not cached."""
        total = 0
        for who, network in _networks(context).items():
            about = context.evaluating(network)
            for family, metric in self._metrics_of(who).items():
                keys = [key_of(one, family, v) for v in metric.variants for one in _pairs(about, v)]
                known = self.cache and any(self.cache.get(key) for key in keys)
                total += 0 if known else metric.images_processed(about)
        return total

    def measured(
        self, context: Context, networks: Mapping[str, nn.Module], kin: Mapping[str, int]
    ) -> Rows:
        """Return the values of networks; of `kin`, see `Rows`."""
        metrics = {k: self._strongest(context, k, metric) for k, metric in self.metrics.items()}
        measured = {
            who: {
                family: self._of_family(context, family, metrics[family], who, network)
                for family in self._metrics_of(who)
            }
            for who, network in networks.items()
        }
        return Rows(metrics, measured, kin, len(context.oracles))

    def _strongest(self, context: Context, family: str, metric: Metric) -> Metric:
        """Return a metric at the greatest of its strengths that leaves oracles whole.

        The first three are tried, so that a bank that grows does not change it.
        """
        *stronger, weakest = metric.variants
        oracles = {f"oracle {k}": oracle for k, oracle in enumerate(context.oracles[:3], 1)}
        for variant in stronger:
            rows = [
                self._measure(context.evaluating(oracle), family, variant, who)
                for who, oracle in oracles.items()
            ]
            if rows and not variant.too_strong(rows):
                return variant
        return weakest

    def _of_family(
        self, context: Context, family: str, metric: Metric, who: str, network: nn.Module
    ) -> dict[int | None, Values]:
        """Return a network's values of a family; of a pairwise metric with each oracle alone."""
        about = context.evaluating(network)
        if not metric.pairwise or not about.oracles:
            return {None: self._measure(about, family, metric, who)}
        numbers = [k for k, oracle in enumerate(context.oracles) if oracle is not network]
        return {
            k: self._measure(one, family, metric, who)
            for k, one in zip(numbers, _pairs(about, metric), strict=True)
        }

    def _metrics_of(self, who: str) -> dict[str, Metric]:
        # proxies are the unlearned model's alone
        return {k: m for k, m in self.metrics.items() if who == "unlearned" or m.subject == "model"}

    def _measure(self, context: Context, family: str, metric: Metric, who: str) -> Values:
        key = "" if self.cache is None else key_of(context, family, metric)
        found = None if self.cache is None else self.cache.get(key)
        if found is None:
            context.on_progress(f"{family} of {who}")
            before = _states(context, metric)
            values = metric(context.restricted_to(metric.needs))
            if _states(context, metric) != before:
                raise RuntimeError(f"the metric {family} changed a model that it measured")
            found = {name: finite(value) for name, value in values.items()}
            if self.cache is not None:
                self.cache.put(key, found)
        return found

    def _by_class(self, context: Context) -> dict[str, Any]:
        if not self.metrics or self.split not in context.splits:
            return {}
        networks = {"before": context.original, "after": context.unlearned}
        outputs = {when: context.outputs(net, self.split) for when, net in networks.items()}
        classes = len(context.class_names)
        return {
            "accuracies": {k: per_class(out, classes).tolist() for k, out in outputs.items()},
            "confusions": {k: confusion(out, classes) for k, out in outputs.items()},
        }


@torch.no_grad()
def masked(network: nn.Module, forget: Sequence[int]) -> nn.Module:
    """Return a copy whose head never answers some classes, the control that only suppresses."""
    mask = copy.deepcopy(network)
    head_of(mask).bias[list(forget)] = -LARGEST_LOGIT
    return mask


def _networks(context: Context) -> dict[str, nn.Module]:
    found = {"unlearned": context.unlearned}
    if context.oracles:
        found["original"] = context.original
        found["mask"] = masked(context.original, context.forget)
        found |= {f"null {k}": null for k, null in enumerate(context.nulls, 1)}
    return found | {f"oracle {k}": oracle for k, oracle in enumerate(context.oracles, 1)}


def _pairs(context: Context, metric: Metric) -> list[Context]:
    """Return the context as a metric sees it: with one oracle at a time if it is pairwise."""
    if not metric.pairwise or not context.oracles:
        return [context]
    return [replace(context, oracles=(oracle,)) for oracle in context.oracles]


def _states(context: Context, metric: Metric) -> list[object]:
    """Return weights, buffers, modes and gradient flags of the models that a metric is handed."""
    found: list[object] = []
    for network in (context.unlearned, *[context.original][: "original" in metric.needs]):
        modes = [module.training for module in network.modules()]
        found.append(
            (state_digest(network), modes, [p.requires_grad for p in network.parameters()])
        )
    return found


def images_of(context: Context) -> dict[str, int]:
    """Return the test images that shares are of, at least two of each kind."""
    if "test" not in context.splits:
        return dict.fromkeys(("forget", "retain", "minority", "worst"), 2)
    labels = context.splits["test"].labels
    each = torch.bincount(labels, minlength=len(context.class_names)).tolist()
    retained = [each[k] for k in context.retained]
    minority = [each[k] for k in few_and_many(context.class_counts, context.retained)[0]]
    found = {
        "forget": min(each[k] for k in context.forget),
        "retain": sum(retained),
        "minority": sum(minority),
        "worst": min(retained, default=0),
    }
    return {name: max(count, 2) for name, count in found.items()}
