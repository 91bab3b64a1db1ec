"""Messages of the package's loggers, plain on standard output."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PACKAGE = "geniu_lightning"


class _Output(logging.Handler):
    """Writes to whatever `sys.stdout` is at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stdout.write(self.format(record) + "\n")
        sys.stdout.flush()


@contextmanager
def messages(shown: bool = True) -> Iterator[None]:
    """Print the package's messages within a block.

    Args:
        shown: Print notices and progress too, not only warnings: true in a run's first process.
    """
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
