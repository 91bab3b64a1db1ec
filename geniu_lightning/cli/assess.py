"""Evaluation of a run: opens the images, runs the battery, lays out what it found."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from geniu_lightning.cli import terminal
from geniu_lightning.data.module import ImageData
from geniu_lightning.evaluation import evaluator as battery
from geniu_lightning.evaluation import verdict as word
from geniu_lightning.evaluation.cache import FileCache, FileOutputs
from geniu_lightning.evaluation.context import (
    LARGEST_LOGIT,
    Context,
    Proxies,
    Split,
    outputs_of,
)
from geniu_lightning.evaluation.metric import Metric
from geniu_lightning.evaluation.metrics.accuracy import confusion, per_class
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import head_of
from geniu_lightning.settings.configs import built, plain
from geniu_lightning.unlearning.networks import fresh_classifier

VERSION = 1  # of metrics.json


@dataclass
class Assessment:
    """What evaluation found.

    Attributes:
        metrics: As `tree_of` returns them.
        judgement: The word and why, as `plain` returns them;
            ``None`` where nothing was unlearned.
        confusion_before: Of the original on the split that the configuration names, ``(K, K)``;
            ``None`` without evaluation, or where there are no images of that split.
        confusion_after: Of the unlearned model.
        before: Accuracy of each class of the original on that split.
        after: Of the unlearned model.
        steps: At which steps the curves of a family were read, by its name.
    """

    metrics: dict[str, Any]
    judgement: dict[str, Any] | None = None
    confusion_before: Tensor | None = None
    confusion_after: Tensor | None = None
    before: list[float] | None = None
    after: list[float] | None = None
    steps: dict[str, list[int]] = field(default_factory=dict)

    def accuracies(self) -> dict[str, list[float]]:
        """Return the accuracies of each class by `before` and `after`, where there are any."""
        both = {"before": self.before, "after": self.after}
        return {when: values for when, values in both.items() if values is not None}

    def confusions(self) -> dict[str, Tensor]:
        """Return the confusion matrices by `before` and `after`, where there are any."""
        both = {"before": self.confusion_before, "after": self.confusion_after}
        return {when: counts for when, counts in both.items() if counts is not None}


@dataclass(frozen=True)
class Yardstick:
    """What a model is compared with.

    Args:
        oracles: Models retrained without the forgotten classes, on the device to work on.
        folder: Keeps what is measured; ``None`` measures everything anew.
    """

    oracles: tuple[nn.Module, ...] = ()
    folder: Path | None = None


def assess(
    config: DictConfig,
    kit: Kit,
    unlearned: nn.Module,
    data: ImageData,
    forget: tuple[int, ...],
    yardstick: Yardstick | None = None,
    kept: Kit | None = None,
) -> Assessment:
    """Measure what the configuration names.

    Args:
        config: ``metrics`` by family, ``seed``, and the ``split`` to lay out by class.
        kit: Holds the original, on the device to work on.
        unlearned: What to measure, on the same device.
        data: The images.
        forget: Forgotten classes; none after training.
        yardstick: What to compare with.
        kept: Whose proxies are kept beside the model; ``None`` where none are.
    """
    if not config.metrics:
        return Assessment({})
    yardstick = yardstick or Yardstick()
    device = next(kit.classifier.parameters()).device
    unlearned.to(device)
    splits = _splits(data)
    store = None
    if yardstick.folder is not None:
        store = FileOutputs(yardstick.folder / "outputs", yardstick.oracles)
    context = Context(
        original=kit.classifier,
        unlearned=unlearned,
        forget=forget,
        class_names=data.names,
        class_counts=tuple(data.class_counts),
        splits={split: opened(data, split, device) for split in splits},
        oracles=yardstick.oracles,
        proxies=None if kept is None else _proxies(kept),
        fresh=partial(_fresh, kit),
        seed=config.seed,
        store=store,
    )
    metrics = {name: built(target) for name, target in plain(config.metrics).items()}
    controls = controls_of(kit, forget) if yardstick.oracles else {}
    memory = FileCache(yardstick.folder / "measured") if yardstick.folder else None
    findings = _run(context, metrics, controls, memory)
    steps = {name: getattr(metric, "steps", None) for name, metric in metrics.items()}
    read_at = {name: found for name, found in steps.items() if isinstance(found, list)}
    result = Assessment(battery.tree_of(findings), steps=read_at)
    if forget:
        result.judgement = word.plain(
            word.judge(findings, _fewest(data, forget), not kit.info.forgotten)
        )
    if config.split in splits:
        before, after = (context.outputs(net, config.split) for net in (kit.classifier, unlearned))
        classes = len(data.names)
        result.confusion_before = confusion(before, classes)
        result.confusion_after = confusion(after, classes)
        result.before = per_class(before, classes).tolist()
        result.after = per_class(after, classes).tolist()
    return result


def remember_outputs(folder: Path, network: nn.Module, data: ImageData) -> None:
    """Keep what an oracle says of all images, which every evaluation with it asks for.

    Args:
        folder: Of the `Yardstick` that it will belong to.
        network: The oracle, on the device to work on.
        data: The images.
    """
    store = FileOutputs(folder / "outputs", (network,))
    device = next(network.parameters()).device
    for split in _splits(data):
        store.put(network, split, outputs_of(network, opened(data, split, device)))


def _splits(data: ImageData) -> list[str]:
    return [s for s in ("test", "train", "validation") if len(data.indices(s))]


def _run(
    context: Context,
    metrics: dict[str, Metric],
    controls: dict[str, nn.Module],
    memory: FileCache | None,
) -> battery.Findings:
    """Run the battery; where it takes long, say so before and tell where it is."""
    split = next(iter(context.splits))
    start = time.monotonic()
    context.outputs(context.unlearned, split)
    pace = (time.monotonic() - start) / max(len(context.splits[split].labels), 1)
    seconds = pace * battery.missing_work(context, metrics, controls, memory)
    told = terminal.waiting(seconds)
    return battery.run(replace(context, on_progress=told), metrics, controls, memory)


def _fewest(data: ImageData, forget: tuple[int, ...]) -> int:
    """Return the number of test images of the forgotten class that has fewest, at least 2."""
    counts = torch.bincount(data.labels("test"), minlength=len(data.names))
    return max(int(counts[list(forget)].min()), 2)


def opened(data: ImageData, split: str, device: torch.device) -> Split:
    """Return the images of a split as metrics read them, normalised, on a device."""
    indices = data.indices(split)

    def read(positions: Tensor) -> Tensor:
        return data.spec.normalise(data.read(split, indices[positions], device))

    return Split(data.labels(split), read)


def controls_of(kit: Kit, forget: tuple[int, ...]) -> dict[str, nn.Module]:
    """Return models of which it is known what they do: nothing, and hide."""
    mask = copy.deepcopy(kit.classifier)
    head_of(mask).bias[list(forget)] = -LARGEST_LOGIT
    return {"original": kit.classifier, "mask": mask}


def _proxies(kit: Kit) -> Proxies:
    drawn = kit.proxies()
    return Proxies(kit.info.spec.normalise(drawn.images), drawn.labels)


def _fresh(kit: Kit, seed: int) -> nn.Module:
    return fresh_classifier(kit, seed).eval().requires_grad_(False)


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
