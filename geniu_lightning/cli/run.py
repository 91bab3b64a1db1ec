"""One run in its folder: the steps before the work that all commands share."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from geniu_lightning.cli.jobs import needs_own_process, run_in_own_process
from geniu_lightning.runs.folder import RunFolder
from geniu_lightning.runs.identity import name_of
from geniu_lightning.runs.processes import is_rank_zero

log = logging.getLogger(__name__)


def run_folder(
    config: DictConfig, identity: dict[str, Any], command: str, *words: object
) -> RunFolder:
    """Return a run's folder: `out`, or `runs/COMMAND/WORDS-HASH` with a hash of the identity."""
    path = config.out or Path(config.runs) / command / name_of(identity, *words)
    return RunFolder(Path(path).expanduser(), identity, is_rank_zero(config.trainer))


def carry_out(
    command: str,
    config: DictConfig,
    folder: RunFolder,
    work: Callable[[], object],
    *,
    force: bool = False,
    complete: bool = True,
) -> bool:
    """Do a run's work in its folder, unless it is done already.

    The work marks the folder as done (`RunFolder.finish`); an error of it is recorded there.

    Fills in `config.out`, where a sweep's note finds it. In a sweep, work of several processes is
    done by `geniu COMMAND` in another process. The folder needs no more work if it is done and
    `complete`, unless forced. Returns whether this process is rank zero and the folder is done.
    """
    config.out = str(folder.path)
    if folder.done and complete and not force:
        hint = " (force=true does it again)" if "force" in config else ""  # which no oracle has
        log.info("already done: %s%s", folder.path, hint)
    elif needs_own_process(config.trainer):
        run_in_own_process(command, config, folder)
    else:
        from geniu_lightning.cli.device import begin

        with folder.lock(force):
            begin(config.trainer)
            work()
    return folder.rank_zero and folder.done
