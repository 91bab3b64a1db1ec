"""Evaluation of a run: opens the images, runs the battery, lays out what it found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from geniu_lightning.app.build import built, plain
from geniu_lightning.app.cli import say
from geniu_lightning.data.module import ImageData
from geniu_lightning.evaluation import battery
from geniu_lightning.evaluation.accuracy import confusion, per_class
from geniu_lightning.evaluation.context import Context, Split
from geniu_lightning.kit import Kit

VERSION = 1  # of metrics.json


@dataclass
class Assessment:
    """What evaluation found.

    Attributes:
        metrics: As :func:`geniu_lightning.evaluation.battery.run` returns them.
        confusion_before: Of the original on the split that the configuration names, ``(K, K)``;
            ``None`` without evaluation, or where there are no images of that split.
        confusion_after: Of the unlearned model.
        before: Accuracy of each class of the original on that split.
        after: Of the unlearned model.
    """

    metrics: dict[str, Any]
    confusion_before: Tensor | None = None
    confusion_after: Tensor | None = None
    before: list[float] | None = None
    after: list[float] | None = None


def assess(
    config: DictConfig, kit: Kit, unlearned: nn.Module, data: ImageData, forget: tuple[int, ...]
) -> Assessment:
    """Measure what the configuration names.

    Args:
        config: ``metrics`` by family, ``seed``, and the ``split`` to lay out by class.
        kit: Holds the original, on the device to work on.
        unlearned: What to measure, on the same device.
        data: The images.
        forget: Forgotten classes.
    """
    if not config.metrics:
        return Assessment({})
    device = next(kit.classifier.parameters()).device
    unlearned.to(device)

    def opened(split: str) -> Split:
        indices = data.indices(split)

        def read(positions: Tensor) -> Tensor:
            return data.spec.normalise(data.read(split, indices[positions], device))

        return Split(data.labels(split), read)

    splits = [s for s in ("test", "train", "validation") if len(data.indices(s))]
    context = Context(
        original=kit.classifier,
        unlearned=unlearned,
        forget=forget,
        class_names=data.names,
        class_counts=tuple(data.class_counts),
        splits={split: opened(split) for split in splits},
        seed=config.seed,
        on_progress=lambda text: say(f"evaluating {text}"),
    )
    metrics = battery.tree_of(
        battery.run(context, {k: built(v) for k, v in plain(config.metrics).items()})
    )
    if config.split not in splits:
        return Assessment(metrics)
    before, after = (context.outputs(net, config.split) for net in (kit.classifier, unlearned))
    classes = len(data.names)
    return Assessment(
        metrics,
        confusion(before, classes),
        confusion(after, classes),
        per_class(before, classes).tolist(),
        per_class(after, classes).tolist(),
    )


def flat(metrics: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the single numbers among metrics by dotted names."""
    found: dict[str, float] = {}
    for name, node in metrics.items():
        if not isinstance(node, dict) or "absent" in node:
            continue
        if isinstance(node.get("value"), float):
            found[prefix + name] = node["value"]
        elif "value" not in node:
            found |= flat(node, f"{prefix}{name}.")
    return found


def class_table(
    result: Assessment, kit: Kit, data: ImageData, split: str
) -> tuple[list[str], list[list[object]]]:
    """Return columns and rows of a table of classes after training."""
    measured = torch.bincount(data.labels(split), minlength=len(data.names)).tolist()
    accuracies: Sequence[object] = result.after or ["not measured"] * len(data.names)
    rows: list[list[object]] = [
        [name, count, n, accuracy]
        for name, count, n, accuracy in zip(
            data.names, kit.info.class_counts, measured, accuracies, strict=True
        )
    ]
    return ["class", "training images", f"{split} images", f"{split} accuracy"], rows
