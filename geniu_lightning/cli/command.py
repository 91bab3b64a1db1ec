"""The frame of the commands that Hydra composes: entry, exit statuses, errors in one sentence.

Nothing heavy is imported here: a wrong setting is refused, and a finished run skipped, at once.
"""

import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeGuard

import hydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from geniu_lightning.cli.device import settle_precision
from geniu_lightning.cli.jobs import is_sweep
from geniu_lightning.cli.settings import REMOVED, RENAMED, check_settings, keys_of, unknown_key
from geniu_lightning.cli.sweep import UNENDED, Note, notes_of_sweep, reason_of
from geniu_lightning.cli.wandb_group import group_of
from geniu_lightning.errors import Terminated, UserError
from geniu_lightning.fitting.messages import messages
from geniu_lightning.runs.folder import finished_kits
from geniu_lightning.runs.processes import is_rank_zero
from geniu_lightning.settings.configs import CONF

PLACES = (  # errors of the system that say that a place cannot be used
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOSPC, errno.EDQUOT, errno.EIO),
)
Job = Callable[[DictConfig], float | None]
Summary = Callable[[list[Note]], None]


def run_command(name: str, job: Job, summary: Summary | None = None) -> None:
    """Run a command, by the name of its primary configuration, and end the process.

    Exit status: 0 done, 2 the settings cannot work, 130 interrupted, 143 terminated, 1 anything
    else.

    Args:
        name: Of the configuration.
        job: Carries out one composed configuration; fills in its `out` as soon as the run's folder
            is known, and returns the value that a sweeper maximises.
        summary: Prints what became of the jobs of a sweep.
    """
    words = tuple(sys.argv[1:])  # kept here: a launcher may run a job where there are others

    asked_to_end: list[bool] = []

    def checked_job(config: DictConfig) -> float | None:
        try:
            check_settings(name, config)
            with messages(is_rank_zero(config.trainer)):
                settle_precision(config.trainer)
                wandb = (config.get("logger") or {}).get("wandb")
                if is_sweep() and wandb is not None and wandb.group is None:
                    wandb.group = group_of(name, words)
                return job(config)
        except Exception as error:
            if asked_to_end:  # libraries make errors of their own of what is raised in them
                raise Terminated from error
            if is_sweep() or not _is_a_users(error):  # a sweep goes on; its callback notes it
                raise
            refuse(error)  # before Hydra prints a message of its own

    register_resolvers()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of to Hydra's own printer
    try:
        with _terminable(asked_to_end):
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(checked_job)()
    except KeyboardInterrupt as error:
        _summarise(summary)
        word, status = (
            ("terminated", 143) if isinstance(error, Terminated) else ("interrupted", 130)
        )
        sys.stderr.write(f"{word}; the same command goes on where a checkpoint was written\n")
        sys.exit(status)
    except Exception as error:
        _fail(error, _summarise(summary), name)
    _summarise(summary)


@contextmanager
def _terminable(asked: list[bool]) -> Iterator[None]:
    """Raise `Terminated` at SIGTERM in a block, and note it in a list.

    Not on Slurm, where jobs are queued again by this signal.
    """
    before = signal.getsignal(signal.SIGTERM)
    if before is not signal.SIG_DFL or "SLURM_JOB_ID" in os.environ:
        yield
        return

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
        asked.append(True)
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def register_resolvers() -> None:
    """Let sweeps go over the kits below a folder, `${kits:FOLDER}`, and 1 to N, `${upto:N}`."""
    OmegaConf.register_new_resolver("kits", kits_below, replace=True)
    OmegaConf.register_new_resolver(
        "upto", lambda n: ",".join(str(k + 1) for k in range(n)), replace=True
    )


def kits_below(folder: str) -> str:
    """Return the kits of finished training runs below a folder, as choices of a sweep."""
    found = finished_kits(Path(folder).expanduser())
    if not found:
        raise UserError(f"there is no kit below {folder}; train.py makes them, sweep=grid many")
    return ",".join("'" + str(run).replace("'", r"\'") + "'" for run in found)


def refuse(error: Exception, command: str = "") -> NoReturn:
    """Print in one sentence which setting cannot work, and end with status 2."""
    sys.stderr.write(f"error: {sentence_of(error, command)}\n")
    sys.exit(2)


def sentence_of(error: Exception, command: str = "") -> str:
    """Return the sentence of an error; an unknown key is compared with those of the command."""
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has to be set"
    if isinstance(error, MissingConfigException) and error.options:
        file = str(error.missing_cfg_file)
        if file in RENAMED | REMOVED:
            return str(unknown_key(file, ()))
        return f"there is no {file}; there are {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        key, equals, _ = error.override.partition("=")
        if not equals:
            return f"{error.override} is no setting: settings are written KEY=VALUE"
        return (
            f"{error.override} cannot be read: a value with =, commas, brackets or spaces has to be"
            f" quoted, \"{key}='...'\""
        )
    if _is_of_a_place(error):
        return f"{error.filename} cannot be used: {error.strerror}"
    if _names_no_file(error):
        groups = ["", *(folder.name for folder in CONF.iterdir())]
        pairs = [word.split("=") for word in sys.argv[1:] if word.partition("=")[0] in groups]
        wrong = (pair for pair in pairs if not (CONF / f"{'/'.join(pair)}.yaml").exists())
        return f"{', '.join(map('='.join, wrong))}: a group is chosen by the name of a file of it"
    unknown = re.match(r"Could not override '([^']+)'", str(error))
    if command and isinstance(error, ConfigCompositionException) and unknown:
        return str(unknown_key(unknown[1], keys_of(command, sys.argv[1:]), command))
    return str(error)


def _names_no_file(error: Exception) -> bool:
    """Whether an error is Hydra's of a group that is null or a number, `data=null`."""
    return str(error).startswith("Config group override must be")


def _is_a_users(error: Exception) -> bool:
    """Whether an error is the user's to mend, and printed as one sentence."""
    known = isinstance(error, UserError | HydraException | OmegaConfBaseException)
    return known or _names_no_file(error) or _is_of_a_place(error)


def _is_of_a_place(error: Exception) -> TypeGuard[OSError]:
    """Whether an error says that a file or folder, which it names, cannot be used."""
    return isinstance(error, OSError) and error.errno in PLACES and bool(error.filename)


def _summarise(summary: Summary | None) -> list[Note]:
    notes = notes_of_sweep()
    if summary is not None and notes:
        summary(notes)
    return notes


def _fail(error: Exception, notes: list[Note], command: str) -> NoReturn:
    """End with the status of the error; failed jobs of a sweep have printed theirs."""
    reasons = [note.failed for note in notes if note.failed]
    printed = reason_of(error) in reasons
    if reasons and len(reasons) == len(notes) and not printed and UNENDED not in reasons:
        # a sweeper lacks any result
        refuse(UserError(f"no run ended well; the first: {reasons[0]}"))
    if _is_a_users(error):
        refuse(error, command)
    if not printed:
        traceback.print_exc()
    sys.exit(1)
