"""Runs the metrics that the configuration names, and writes down how each is to be read."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import nn

from geniu_lightning.evaluation.context import Context

Direction = Literal["lower", "higher", "oracle"]


@dataclass(frozen=True)
class Reading:
    """How a value is to be read.

    Args:
        direction: Which way is better; ``oracle`` is towards the retrained models' value.
        ideal: The best value; ``None`` is the oracles' own.
    """

    direction: Direction
    ideal: float | None = None


@dataclass(frozen=True)
class Absent:
    """A metric that cannot be computed, and why."""

    reason: str


Value = float | list[float | None]


class Metric(Protocol):
    """One family of measurements."""

    def reading(self, name: str) -> Reading:
        """Return how the value ``name`` is to be read."""

    def __call__(self, context: Context) -> dict[str, Value | Absent]:
        """Measure, with names whose parts are divided by dots, such as ``test.forget``."""


def run(context: Context, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """Measure everything.

    Args:
        context: What may be looked at.
        metrics: By the name of their family.

    Returns:
        Nested by family and name; at the leaves ``{value, direction, ideal, oracle_mean,
        oracle_std, z}`` or ``{absent: reason}``.

    Raises:
        RuntimeError: If a metric changed a model that it measured.
    """
    tree: dict[str, Any] = {}
    before = [fingerprint(context.original), fingerprint(context.unlearned)]
    for family, metric in metrics.items():
        for name, value in metric(context).items():
            node = tree.setdefault(family, {})
            *path, leaf = name.split(".")
            for part in path:
                node = node.setdefault(part, {})
            node[leaf] = _entry(value, metric.reading(name))
        if [fingerprint(context.original), fingerprint(context.unlearned)] != before:
            raise RuntimeError(f"the metric {family} changed a model that it measured")
    return tree


def _entry(value: Value | Absent, reading: Reading) -> dict[str, Any]:
    if isinstance(value, Absent):
        return {"absent": value.reason}
    return {
        "value": value,
        "direction": reading.direction,
        "ideal": reading.ideal,
        "oracle_mean": None,
        "oracle_std": None,
        "z": None,
    }


def fingerprint(network: nn.Module) -> str:
    """Return SHA-256 over all parameters, buffers and modes: equal where the networks are."""
    digest = hashlib.sha256()
    for name, module in network.named_modules():
        digest.update(f"{name}|{module.training}".encode())
    tensors = [*network.named_parameters(), *network.named_buffers()]
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(f"{name}|{tensor.dtype}|{tensor.requires_grad}".encode())
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()
