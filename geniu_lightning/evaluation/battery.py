"""Runs the metrics that the configuration names, on the model, its oracles and two controls."""

import hashlib
import inspect
import json
import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from geniu_lightning.evaluation.context import Context, Part
from geniu_lightning.evaluation.statistics import EPSILON_SHARE, position, z_score

Direction = Literal["lower", "higher", "oracle"]
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Reading:
    """How a value is to be read.

    Args:
        direction: Which way is better; ``oracle`` is towards the retrained models' value.
        ideal: The best value; ``None`` is the oracles' own.
        epsilon: The smallest difference that means anything.
    """

    direction: Direction
    ideal: float | None = None
    epsilon: float = EPSILON_SHARE


@dataclass(frozen=True)
class Absent:
    """A metric that cannot be computed, and why."""

    reason: str


Value = float | list[float | None]
Values = dict[str, Value | Absent]


class Metric(ABC):
    """One family of measurements: a function of the context, with how its values are read.

    Attributes:
        needs: What it looks at beside the model, the images and the settings; the rest is hidden
            from it. What oracles show is remembered as long as these are the same.
        readings: By the last part of a value's name.
    """

    needs: ClassVar[frozenset[Part]] = frozenset()
    readings: ClassVar[Mapping[str, Reading]] = {}

    def reading(self, name: str) -> Reading:
        """Return how the value ``name`` is to be read."""
        return self.readings[name.rpartition(".")[2]]

    def work(self, context: Context) -> int:
        """Return about how many images it pushes through a network, one to train on as three."""
        return 0

    @abstractmethod
    def __call__(self, context: Context) -> Values:
        """Measure, with names whose parts are divided by dots, such as ``test.forget``."""

    def conclude(self, own: Values, oracles: Sequence[Values]) -> Values:
        """Return further values, which follow from the model's own and from the oracles'."""
        return {}


class Memory(Protocol):
    """Remembers what was found of models that many evaluations share."""

    def recall(self, key: str) -> Values | None:
        """Return what was found, or nothing."""

    def keep(self, key: str, values: Values) -> None:
        """Remember it."""


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
    readings: dict[str, Reading] = field(default_factory=dict)

    def of_oracles(self, name: str) -> list[float]:
        """Return the oracles' numbers of a name; empty unless every one has it."""
        found = [values.get(name) for values in self.oracles]
        numbers = [value for value in found if isinstance(value, float)]
        return numbers if len(numbers) == len(found) else []


def run(
    context: Context,
    metrics: Mapping[str, Metric],
    controls: Mapping[str, nn.Module] | None = None,
    memory: Memory | None = None,
) -> Findings:
    """Measure everything on the model, and, with oracles, on these and the controls.

    Args:
        context: What may be looked at.
        metrics: By the name of their family.
        controls: Models whose answer is known: ``original`` and ``mask``.
        memory: Of oracles and controls; ``None`` measures them anew.

    Raises:
        RuntimeError: If a metric changed a model that it measured, or looked at what it did not
            declare.
    """
    shared = dict(controls or {}) if context.oracles else {}
    shared |= {f"oracle {k + 1}": oracle for k, oracle in enumerate(context.oracles)}
    measured = {
        name: _row(context.judging(network), metrics, memory, name)
        for name, network in ({"unlearned": context.unlearned} | shared).items()
    }
    values = {name: _named(row) for name, row in measured.items()}
    for name, row in measured.items():
        others = [m for other, m in measured.items() if "oracle " in other and other != name]
        for family, metric in metrics.items():
            more = metric.conclude(row[family], [other[family] for other in others])
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
    memory: Memory | None,
) -> int:
    """Return how many images :func:`run` would push through networks, an estimate."""
    networks = [context.unlearned, *controls.values(), *context.oracles]
    total = 0
    for network in networks:
        about = context.judging(network)
        for family, metric in metrics.items():
            known = memory is not None and memory.recall(_key(about, family, metric))
            total += 0 if known else metric.work(about)
    return total


def _row(
    context: Context, metrics: Mapping[str, Metric], memory: Memory | None, who: str
) -> dict[str, Values]:
    row: dict[str, Values] = {}
    for family, metric in metrics.items():
        key = "" if memory is None else _key(context, family, metric)
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
            if memory is not None and who != "unlearned":
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


def _key(context: Context, family: str, metric: Metric) -> str:
    """Return what a result depends on, in a form that names a file."""
    needs: dict[str, Any] = {}
    if "original" in metric.needs:
        needs["original"] = fingerprint(context.original)
    if "oracles" in metric.needs:
        needs["oracles"] = [fingerprint(oracle) for oracle in context.oracles]
    if "proxies" in metric.needs and context.proxies is not None:
        needs["proxies"] = [digest_of(context.proxies.images), digest_of(context.proxies.labels)]
    parts = {
        "family": family,
        "code": _code_of(type(metric)),
        "settings": vars(metric),
        "model": fingerprint(context.unlearned),
        "forget": context.forget,
        "counts": context.class_counts,
        "seed": context.seed,
        "splits": {name: digest_of(split.labels) for name, split in context.splits.items()},
        **needs,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _code_of(metric: type) -> str:
    """Return a hash of the files that a metric's result follows from: this room and its own."""
    files = {*HERE.glob("*.py"), Path(inspect.getfile(metric))}
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda path: path.name):
        digest.update(file.read_bytes())
    return digest.hexdigest()


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


def fingerprint(network: nn.Module) -> str:
    """Return SHA-256 over all parameters, buffers and modes: equal where the networks are."""
    digest = hashlib.sha256()
    for name, module in network.named_modules():
        digest.update(f"{name}|{module.training}".encode())
    tensors = [*network.named_parameters(), *network.named_buffers()]
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(f"{name}|{tensor.dtype}|{tensor.requires_grad}".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def digest_of(tensor: Tensor) -> str:
    """Return SHA-256 over shape and bytes."""
    return hashlib.sha256(f"{tuple(tensor.shape)}".encode() + _bytes_of(tensor)).hexdigest()


def _bytes_of(tensor: Tensor) -> bytes:
    return bytes(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
