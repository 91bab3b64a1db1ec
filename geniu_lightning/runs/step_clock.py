"""Seconds of training steps, and what generator and prompts add to them."""

import statistics
import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from geniu_lightning.training.module import GeniuModule


class StepClock(Callback):
    """Times training steps, apart for those with and those without generator and prompts."""

    def __init__(self) -> None:
        self.plain: list[float] = []
        self.all: list[float] = []
        self.reading: list[float] = []  # of the batch, between two steps of an epoch
        self.resumed = False
        self.finished = False
        self._start = 0.0
        self._end = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note whether an earlier process did the first steps."""
        self.resumed = trainer.global_step > 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last step: a checkpoint was written since."""
        self._end = 0.0

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Start the clock."""
        self._start = time.perf_counter()
        if self._end:
            self.reading.append(self._start - self._end)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock."""
        self._end = time.perf_counter()
        seconds = self._end - self._start
        assert isinstance(pl_module, GeniuModule)
        self.finished = pl_module.finished
        schedule = pl_module.update_schedule
        step = trainer.current_epoch * schedule.steps_per_epoch + batch_idx
        self.all.append(seconds)
        if not any(schedule.updates.at(step)):
            self.plain.append(seconds)

    def cost(self) -> dict[str, Any]:
        """Return the seconds of all steps, and their excess over steps of the classifier alone.

        The excess is a fraction; `{"absent": reason}` where it was not measured.
        """
        overhead: Any = {"absent": "no step trained the classifier alone"}
        if self.finished:
            overhead = {"absent": "the classifier was trained elsewhere"}
        elif self.resumed:
            overhead = {"absent": "training was resumed, and earlier steps were not timed"}
        elif len(self.plain) > 1:
            alone = statistics.fmean(self.plain[1:]) * len(self.all)  # the first one warms up
            overhead = sum(self.all) / alone - 1
        return {"step_seconds": sum(self.all), "generator_overhead": overhead}

    def classifier_seconds(self, steps: int) -> Any:  # a number or an absence
        """Return the seconds of steps that read a batch and train the classifier alone."""
        if len(self.plain) < 2 or not self.reading:
            return {"absent": "no step trained the classifier alone"}
        return steps * (statistics.fmean(self.plain[1:]) + statistics.fmean(self.reading))
