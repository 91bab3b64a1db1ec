"""What unlearning costs: time, memory, and what has to be kept until the day of the request."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from geniu_lightning.kit.file import Kit
from geniu_lightning.training.module import GeniuModule
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.sources import Access

MOST_SECONDS = 60.0  # that repeated timings may take together
Cost = dict[str, Any]  # JSON values; ``{"absent": reason}`` where there is none


class PeakMemory:
    """Largest memory that a span of work added to what there was before.

    On a GPU that of tensors; else the resident set of the process, which Linux alone tells, and
    which memory that was freed before and is used again does not raise.

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.added: int | None = None
        self._before: int | None = None

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            self._before = _forget_peak()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            peak: int | None = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = _status("VmHWM")
        if peak is not None and self._before is not None:
            self.added = max(peak - self._before, 0)


def _forget_peak() -> int | None:
    """Begin a new peak of the resident set; return the set's bytes now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # see proc(5)
    except OSError:
        return None
    return _status("VmRSS")


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else None


class StepClock(Callback):
    """Seconds of training steps, apart for those with and those without generator and prompts."""

    def __init__(self) -> None:
        self.plain: list[float] = []
        self.all: list[float] = []
        self.resumed = False
        self.finished = False
        self._start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notice a training whose first steps were another process's."""
        self.resumed = trainer.global_step > 0

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock."""
        seconds = time.perf_counter() - self._start
        assert isinstance(pl_module, GeniuModule)
        self.finished = pl_module.finished
        schedule = pl_module.update_schedule
        step = trainer.current_epoch * schedule.steps_per_epoch + batch_idx
        self.all.append(seconds)
        if not any(schedule.updates.at(step)):
            self.plain.append(seconds)

    def cost(self) -> Cost:
        """Return all steps' seconds, and which part more they are than steps of a classifier."""
        overhead: Any = {"absent": "no step trained the classifier alone"}
        if self.finished:
            overhead = {"absent": "the classifier was trained elsewhere"}
        elif self.resumed:
            overhead = {"absent": "training was resumed, and earlier steps were not timed"}
        elif len(self.plain) > 1:
            alone = statistics.fmean(self.plain[1:]) * len(self.all)  # the first one warms up
            overhead = sum(self.all) / alone - 1
        return {"step_seconds": sum(self.all), "generator_overhead": overhead}


def repeated(
    first: float, count: int, once: Callable[[int], float], most: float = MOST_SECONDS
) -> list[float]:
    """Return seconds of one piece of work, done again until there are enough timings.

    Args:
        first: Seconds it took already.
        count: How many timings are wanted.
        once: Does it again, given which timing this is; returns its seconds.
        most: No further one is begun that would take the sum beyond.
    """
    seconds = [first]
    while len(seconds) < count and sum(seconds) + first <= most:
        seconds.append(once(len(seconds) + 1))
    return seconds


def cost_of(
    unlearner: Unlearner, kit: Kit, kit_path: Path, seconds: Sequence[float], reads: int
) -> Cost:
    """Return what a run cost, as ``metrics.json`` holds it.

    Args:
        unlearner: The method, having run.
        kit: What it began with.
        kit_path: Its file; the training that wrote it may have left its own cost beside it.
        seconds: Of each time that unlearning was done; their median is what is told.
        reads: Training images that were read, all processes together.
    """
    return {
        "seconds": statistics.median(seconds),
        "seconds_each": list(seconds),
        "steps": unlearner.steps,
        "training_images_read": reads,
        "access": str(unlearner.access),
        "reads_prompts": kit.prompts_read,
        "bytes_kept": bytes_kept(unlearner, kit),
        "training_overhead": _overhead(kit, kit_path),
    }


def bytes_kept(unlearner: Unlearner, kit: Kit) -> int:
    """Return the bytes that have to be kept for a method beside the classifier.

    Images count a byte a pixel and channel; generator and prompts what their tensors take.
    """
    total = 0
    if kit.prompts_read and kit.generator is not None and kit.prompts is not None:
        tensors = [*kit.generator.state_dict().values(), kit.prompts]
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    spec, counts = kit.info.spec, kit.info.class_counts
    gone = sum(counts[k] for k in unlearner.forget)
    images = gone if Access.FORGET in unlearner.access else 0
    if Access.RETAIN in unlearner.access:
        images += sum(counts) - gone if unlearner.stored is None else unlearner.stored
    return total + images * spec.channels * spec.size**2


def _overhead(kit: Kit, path: Path) -> Any:  # a number or an absence
    if not kit.prompts_read:
        return 0.0
    try:
        document = json.loads((path.parent / "metrics.json").read_text())
        return document["cost"]["generator_overhead"]
    except (OSError, ValueError, KeyError, TypeError):
        return {"absent": "the training run's own metrics.json is not beside the kit"}
