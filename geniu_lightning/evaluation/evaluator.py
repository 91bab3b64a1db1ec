"""Runs the metrics that the configuration names, on the model, its oracles and two controls."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from geniu_lightning.evaluation.cache import Cache, fingerprint, key_of
from geniu_lightning.evaluation.context import Context
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Value, Values
from geniu_lightning.evaluation.references import position, z_score


@dataclass(frozen=True)
class Findings:
    """Values by their full names, such as ``accuracy.test.forget``, of all models looked at.

    Attributes:
        unlearned: Of the model that is judged.
        oracles: Of each oracle, judged by the others.
        controls: Of the original and of its logit mask, by these names; empty without oracles.
        readings: How each is read.
    """

    unlearned: Values
    oracles: list[Values] = field(default_factory=list)
    controls: dict[str, Values] = field(default_factory=dict)
    readings: dict[str, MetricInfo] = field(default_factory=dict)

    def of_oracles(self, name: str) -> list[float]:
        """Return the oracles' numbers of a name; empty unless every one has it."""
        found = [values.get(name) for values in self.oracles]
        numbers = [value for value in found if isinstance(value, float)]
        return numbers if len(numbers) == len(found) else []


def run(
    context: Context,
    metrics: Mapping[str, Metric],
    controls: Mapping[str, nn.Module] | None = None,
    memory: Cache | None = None,
) -> Findings:
    """Measure everything on the model, and, with oracles, on these and the controls.

    Args:
        context: What may be looked at.
        metrics: By the name of their family.
        controls: Models whose answer is known: ``original`` and ``mask``.
        memory: Of what was measured before; ``None`` measures everything anew.

    Raises:
        RuntimeError: If a metric changed a model that it measured, or looked at what it did not
            declare.
    """
    shared = _shared(context, controls or {})
    measured = {
        name: _row(context.judging(network), _about(name, metrics), memory, name)
        for name, network in ({"unlearned": context.unlearned} | shared).items()
    }
    values = {name: _named(row) for name, row in measured.items()}
    for name, row in measured.items():
        others = [m for other, m in measured.items() if "oracle " in other and other != name]
        for family, metric in _about(name, metrics).items():
            theirs = [other[family] for other in others if family in other]
            more = metric.conclude(row[family], theirs)
            values[name] |= _named({family: {k: _checked(v) for k, v in more.items()}})
    readings = {
        f"{family}.{name}": metric.reading(name)
        for family, metric in metrics.items()
        for row in values.values()
        for full in row
        if (name := full.removeprefix(f"{family}.")) != full
    }
    return Findings(
        values["unlearned"],
        [row for name, row in values.items() if name.startswith("oracle ")],
        {name: values[name] for name in shared if not name.startswith("oracle ")},
        readings,
    )


def missing_work(
    context: Context,
    metrics: Mapping[str, Metric],
    controls: Mapping[str, nn.Module],
    memory: Cache | None,
) -> int:
    """Return how many images `run` would push through networks, an estimate."""
    networks = {"unlearned": context.unlearned} | _shared(context, controls)
    total = 0
    for name, network in networks.items():
        about = context.judging(network)
        for family, metric in _about(name, metrics).items():
            known = memory is not None and memory.recall(key_of(about, family, metric))
            total += 0 if known else metric.work(about)
    return total


def _shared(context: Context, controls: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return what is measured beside the model, by the names that progress and findings use."""
    if not context.oracles:  # controls say what a word means, and there is none without oracles
        return {}
    return {**controls, **{f"oracle {k + 1}": o for k, o in enumerate(context.oracles)}}


def _about(who: str, metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Return the metrics that say something of a model: proxies are the method's alone."""
    return {k: m for k, m in metrics.items() if who == "unlearned" or m.about == "model"}


def _row(
    context: Context, metrics: Mapping[str, Metric], memory: Cache | None, who: str
) -> dict[str, Values]:
    row: dict[str, Values] = {}
    for family, metric in metrics.items():
        key = "" if memory is None else key_of(context, family, metric)
        found = None if memory is None else memory.recall(key)
        if found is None:
            context.on_progress(f"{family} of {who}")
            before = _models_of(context, metric)
            found = {
                name: _checked(value)
                for name, value in metric(context.showing(metric.needs)).items()
            }
            if _models_of(context, metric) != before:
                raise RuntimeError(f"the metric {family} changed a model that it measured")
            if memory is not None:
                memory.keep(key, found)
        row[family] = found
    return row


def _named(row: Mapping[str, Values]) -> Values:
    return {f"{family}.{name}": v for family, found in row.items() for name, v in found.items()}


def _models_of(context: Context, metric: Metric) -> list[str]:
    models = [context.unlearned]
    if "original" in metric.needs:
        models.append(context.original)
    return [fingerprint(network) for network in models]


def _checked(value: Value | Absent) -> Value | Absent:
    """Let no value pass for a number that is none."""
    if isinstance(value, float | int) and not math.isfinite(value):
        return Absent(f"the value is {value}")
    if isinstance(value, list) and not all(v is None or math.isfinite(v) for v in value):
        return Absent("some of the values are no finite numbers")
    return float(value) if isinstance(value, int) else value


def tree_of(findings: Findings) -> dict[str, Any]:
    """Return findings as ``metrics.json`` holds them.

    Returns:
        Nested by the parts of names; at the leaves ``{value, direction, ideal, oracle_mean,
        oracle_std, z, original, position}`` or ``{absent: reason}``.
    """
    tree: dict[str, Any] = {}
    for name, value in findings.unlearned.items():
        node = tree
        *path, leaf = name.split(".")
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = _entry(findings, name, value)
    return tree


def _entry(findings: Findings, name: str, value: Value | Absent) -> dict[str, Any]:
    if isinstance(value, Absent):
        return {"absent": value.reason}
    reading = findings.readings[name]
    entry: dict[str, Any] = {
        "value": value,
        "direction": reading.direction,
        "ideal": reading.ideal,
        **dict.fromkeys(("oracle_mean", "oracle_std", "z", "original", "position")),
    }
    original = findings.controls.get("original", {}).get(name)
    if original is not None and not isinstance(original, Absent):
        entry["original"] = original
    numbers = findings.of_oracles(name)
    if isinstance(value, float) and numbers:
        entry["oracle_mean"] = statistics.fmean(numbers)
        if len(numbers) > 1:
            entry["oracle_std"] = statistics.stdev(numbers)
        entry["z"] = z_score(value, numbers, reading.epsilon)
        if isinstance(original, float):
            entry["position"] = position(value, numbers, original, reading.epsilon)
    elif isinstance(value, list):
        entry["oracle_mean"] = _mean_of_lists([row.get(name) for row in findings.oracles])
    return entry


def _mean_of_lists(lists: list[Any]) -> list[float | None] | None:
    """Return the mean in each place; ``None`` unless all are lists of one length."""
    if not lists or not all(isinstance(x, list) and len(x) == len(lists[0]) for x in lists):
        return None
    return [
        None if any(x is None for x in column) else statistics.fmean(column)
        for column in zip(*lists, strict=True)
    ]
