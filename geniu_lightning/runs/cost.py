"""Cost of unlearning: time, reads, and the bytes that have to be stored until the request."""

import json
import statistics
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.sources import Access

MOST_SECONDS = 60.0  # that repeated timings may take together


def repeated(first: float, count: int, once: Callable[[int], float]) -> list[float]:
    """Return seconds of work that is repeated until there are `count` timings or a minute is over.

    `once` repeats it, given the number of the timing from 2.
    """
    seconds = [first]
    while len(seconds) < count and sum(seconds) + first <= MOST_SECONDS:
        seconds.append(once(len(seconds) + 1))
    return seconds


def cost_of(
    unlearner: Unlearner, kit: Kit, kit_path: Path, seconds: Sequence[float], reads: int
) -> dict[str, Any]:
    """Return the `cost` of `metrics.json`; `{"absent": reason}` where a value is missing."""
    return {
        "seconds": statistics.median(seconds),
        "seconds_each": list(seconds),
        "steps": unlearner.steps,
        "training_images_read": reads,
        "access": str(unlearner.access),
        "reads_prompts": kit.prompts_read,
        "archived_images_read": _archived(kit, kit.archived_read),
        "archived_forgotten_read": _archived(kit, kit.archived_read & {*unlearner.forget}),
        "draws_samples": kit.samples_drawn,
        "bytes_kept": bytes_kept(unlearner, kit),
        "training_overhead": _training_overhead(kit, kit_path),
    }


def _archived(kit: Kit, classes: Collection[int]) -> int:
    """Return how many images of some classes a kit's archive has."""
    return 0 if kit.info.archive is None else sum(kit.info.archive.counts[k] for k in classes)


def bytes_kept(unlearner: Unlearner, kit: Kit) -> int:
    """Return the bytes that a method needs stored in addition to the classifier.

    An image counts one byte a pixel and channel; generator, prompts, distributions and archive
    count their tensors.
    """
    total = 0
    if kit.prompts_read and kit.generator is not None and kit.prompts is not None:
        tensors = [*kit.generator.state_dict().values(), kit.prompts]
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if kit.samples_drawn and kit.distribution is not None:
        total += sum(tensor.nbytes for tensor in kit.distribution.tensors.values())
    if kit.archived_read:
        total += sum(part.numel() for part in kit.archive.values())
    spec, counts = kit.info.spec, kit.info.class_counts
    forgotten = sum(counts[k] for k in unlearner.forget)
    images = forgotten if Access.FORGET in unlearner.access else 0
    if Access.RETAIN in unlearner.access:
        images += sum(counts) - forgotten if unlearner.stored is None else unlearner.stored
    return total + images * spec.channels * spec.size**2


def _training_overhead(kit: Kit, path: Path) -> Any:  # a number or an absence
    if not kit.prompts_read:
        return 0.0
    try:
        document = json.loads((path.parent / "metrics.json").read_text())
        return document["cost"]["generator_overhead"]
    except (OSError, ValueError, KeyError, TypeError):
        return {"absent": "the training run's own metrics.json is not beside the kit"}
