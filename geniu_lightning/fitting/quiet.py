"""Messages of other packages that come with every fit and that nobody can act on."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LEVELS = {  # from which level each logger is heard
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
)


def quiet() -> None:
    """Silence them in this process."""
    for name, level in LEVELS.items():
        logging.getLogger(name).setLevel(level)
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)


@contextmanager
def quietly() -> Iterator[None]:
    """Silence them within a block."""
    levels = {name: logging.getLogger(name).level for name in LEVELS}
    with warnings.catch_warnings():
        quiet()
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
