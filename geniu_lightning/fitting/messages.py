"""Messages: those of other packages are silenced, our own are printed."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

PACKAGE = "geniu_lightning"
LEVELS = {  # from which level a logger of others is heard
    "pytorch_lightning": logging.WARNING,
    "lightning_fabric": logging.WARNING,
    "lightning": logging.WARNING,
    "torch.distributed": logging.WARNING,
    "matplotlib": logging.WARNING,
    "pytorch_lightning.utilities.rank_zero": logging.ERROR,
}
WARNINGS = (
    ".*LeafSpec.*",
    ".*does not have many workers.*",
    ".*`srun` command is available.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*lr_scheduler.step.*before.*optimizer.step.*",
    ".*Experiment logs directory.*",
    ".*no pre-optimization state was saved.*",
    ".*in eval mode at the start of training.*",
    ".*smaller than the logging interval.*",
)


def quiet() -> None:
    """Silence what other packages say with every fit and nobody can act on."""
    for name, level in LEVELS.items():
        logging.getLogger(name).setLevel(level)
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)


@contextmanager
def quietly() -> Iterator[None]:
    """Be `quiet` within a block."""
    levels = {name: logging.getLogger(name).level for name in LEVELS}
    with warnings.catch_warnings():
        quiet()
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


class _Output(logging.Handler):
    """Writes to whatever `sys.stdout` is at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stdout.write(self.format(record) + "\n")
        sys.stdout.flush()


@contextmanager
def messages(shown: bool = True) -> Iterator[None]:
    """Print our own messages, or warnings alone, plain, on standard output within a block."""
    logger = logging.getLogger(PACKAGE)
    before = (logger.level, logger.propagate)
    handler = _Output()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if shown else logging.WARNING)
    logger.propagate = False  # Hydra gives the root logger a handler of its own in a sweep
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
