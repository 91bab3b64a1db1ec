"""A process that has imported everything and forks a command for each line of words in JSON.

It answers with the child's process id, and after that with its exit status. Killing dozens of
commands takes seconds this way, where each would import torch for as long.
"""

import json
import os
import signal
import sys

import pytorch_lightning  # noqa: F401
import sklearn.datasets  # noqa: F401

import geniu_lightning.cli.train_run
import geniu_lightning.cli.unlearn_run  # noqa: F401
from geniu_lightning.cli.main import main


def child(words: list[str]) -> None:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.argv = ["geniu", *words]
    status = 1
    try:
        main()
        status = 0
    except SystemExit as ending:
        status = int(ending.code or 0)
    finally:
        os._exit(status)


if __name__ == "__main__":
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            child(json.loads(line))
        sys.stdout.write(f"{process}\n")
        sys.stdout.flush()
        _, status = os.waitpid(process, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
