"""The evaluator: measures a model, its oracles and two controls, and decides on a verdict."""

import copy
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from geniu_lightning.evaluation.cache import FileCache, key_of
from geniu_lightning.evaluation.context import LARGEST_LOGIT, Context
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Value, Values
from geniu_lightning.evaluation.metrics.accuracy import confusion, per_class
from geniu_lightning.evaluation.references import position, z_score
from geniu_lightning.evaluation.verdict import Decision, decide
from geniu_lightning.kit.networks import head_of, state_digest


@dataclass(frozen=True)
class Evaluation:
    """Values by their full names, such as `accuracy.test.forget`, and what follows from them."""

    values: Values = field(default_factory=dict)
    oracles: Sequence[Values] = ()  # each compared with the others
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
            leaf["oracle_mean"] = _mean_of_lists([row.get(name) for row in self.oracles])
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
        """Measure the model and, where there are oracles, these and the controls."""
        measured: dict[str, dict[str, Values]] = {}
        for who, network in _networks(context).items():
            about = context.evaluating(network)
            measured[who] = {
                family: self._measure(about, family, metric, who)
                for family, metric in self._metrics_of(who).items()
            }
        values = {who: self._named(who, measured) for who in measured}
        oracles = [row for who, row in values.items() if who.startswith("oracle ")]
        controls = {who: row for who, row in values.items() if who in ("original", "mask")}
        names = (full.partition(".") for row in values.values() for full in row)
        infos = {"".join(full): self.metrics[full[0]].info(full[2]) for full in names}
        model = values["unlearned"]
        decision = None
        if context.forget:
            fewest = _fewest_test_images(context)
            decision = decide(model, oracles, controls, infos, fewest, context.intact)
        steps = {k: found for k, metric in self.metrics.items() if (found := metric.curve_steps)}
        return Evaluation(
            model, oracles, controls, infos, decision, steps, **self._by_class(context)
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
                known = self.cache and self.cache.get(key_of(about, family, metric))
                total += 0 if known else metric.images_processed(about)
        return total

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
            found = {name: _finite(value) for name, value in values.items()}
            if self.cache is not None:
                self.cache.put(key, found)
        return found

    def _named(self, who: str, measured: Mapping[str, Mapping[str, Values]]) -> Values:
        """Return the values of one model by full names, with those that need the oracles'."""
        others = [row for other, row in measured.items() if "oracle " in other and other != who]
        direct: Values = {}
        derived: Values = {}
        for family, own in measured[who].items():
            theirs = [row[family] for row in others if family in row]
            more = self.metrics[family].compared(own, theirs)
            direct |= {f"{family}.{name}": value for name, value in own.items()}
            derived |= {f"{family}.{name}": _finite(value) for name, value in more.items()}
        return direct | derived

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
    return found | {f"oracle {k}": oracle for k, oracle in enumerate(context.oracles, 1)}


def _states(context: Context, metric: Metric) -> list[object]:
    """Return weights, buffers, modes and gradient flags of the models that a metric is handed."""
    found: list[object] = []
    for network in (context.unlearned, *[context.original][: "original" in metric.needs]):
        modes = [module.training for module in network.modules()]
        found.append(
            (state_digest(network), modes, [p.requires_grad for p in network.parameters()])
        )
    return found


def _fewest_test_images(context: Context) -> int:
    if "test" not in context.splits:
        return 2
    return max(min(len(context.splits["test"].positions_of((k,))) for k in context.forget), 2)


def _finite(value: Value | Absent) -> Value | Absent:
    """Return a value as a float or list; `Absent` for NaN and infinity."""
    if isinstance(value, float | int) and not math.isfinite(value):
        return Absent(f"the value is {value}")
    if isinstance(value, list) and not all(v is None or math.isfinite(v) for v in value):
        return Absent("some of the values are not finite numbers")
    return float(value) if isinstance(value, int) else value


def _mean_of_lists(lists: list[Any]) -> list[float | None] | None:
    """Return the mean at each place; `None` unless all are lists of one length."""
    if not lists or not all(isinstance(x, list) and len(x) == len(lists[0]) for x in lists):
        return None
    return [
        None if any(x is None for x in column) else statistics.fmean(column)
        for column in zip(*lists, strict=True)
    ]
