"""Progress of a fit: a bar on a screen, lines in a file or pipe."""

import logging
import sys
import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 5.0


def progress_bar(label: str) -> Callback:
    """Return a progress bar for a screen, or one that logs lines where there is no screen."""
    if sys.stdout.isatty():
        return RichProgressBar(refresh_rate=10, leave=False)
    return ProgressLines(label)


class ProgressLines(ProgressBar):
    """Logs the first epoch or step after every few seconds, and the last epoch, after a label."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label
        self._enabled = True
        self._last = 0.0

    def disable(self) -> None:
        """Log nothing: Lightning calls this on all ranks but the first."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, so that a fit by steps that takes no time logs nothing."""
        if trainer.max_steps > 0:
            self._last = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Log the step of a fit by steps."""
        if trainer.max_steps > 0:
            self._log(trainer, pl_module, f"step {trainer.global_step}/{trainer.max_steps}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch of a fit by epochs."""
        if trainer.max_steps <= 0:
            of = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
            last = trainer.current_epoch + 1 == trainer.max_epochs
            self._log(trainer, pl_module, f"epoch {trainer.current_epoch + 1}{of}", always=last)

    def _log(
        self, trainer: Trainer, module: LightningModule, position: str, always: bool = False
    ) -> None:
        now = time.monotonic()
        if not self._enabled or not (always or now - self._last > SECONDS_BETWEEN_LINES):
            return
        self._last = now
        values = "  ".join(
            f"{name.split('/', 1)[-1]} {value:.3f}"
            for name, value in self.get_metrics(trainer, module).items()
            if isinstance(value, float)
        )
        log.info("%s  %s  %s", self.label, position, values)
