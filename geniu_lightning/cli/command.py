"""The two commands' common frame: where configurations lie, and what a failure looks like.

Nothing heavy is imported here, so that a wrong word on the command line is refused at once.
"""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from geniu_lightning.cli.device import settle
from geniu_lightning.cli.sweeps import UNENDED, Note, Notes, is_sweep, reason_of
from geniu_lightning.cli.wandb_group import join_group
from geniu_lightning.errors import UserError
from geniu_lightning.runs.folder import kits_below
from geniu_lightning.settings.configs import CONF


def entry(
    name: str,
    job: Callable[[DictConfig, list[Path]], float | None],
    summary: Callable[[list[Note]], None] | None = None,
) -> None:
    """Run a command and end the process.

    Exit status: 0 done, 2 what was asked cannot work, 130 interrupted, 1 anything else.

    Args:
        name: Primary configuration.
        job: Carries out one composed configuration, and adds its folder to those that were visited;
            returns the value a sweeper optimises.
        summary: Told what the jobs of a sweep told when it is over.
    """
    notes = Notes()
    words = tuple(sys.argv[1:])  # kept here, for a launcher may run a job where there are others

    def told(config: DictConfig) -> float | None:
        visited: list[Path] = []
        try:
            with notes.of_job(config, visited):
                settle(config.trainer)
                join_group(config, name, words)
                return job(config, visited)
        except Exception as error:
            if not is_sweep():
                if isinstance(error, UserError):  # before Hydra prints words of its own
                    refuse(error)
                raise
            # the sweep goes on, and Hydra ends it with the first error alone
            if not isinstance(error, UserError):
                traceback.print_exc()
            which = HydraConfig.get().job.override_dirname
            sys.stderr.write(f"failed: {which}: {reason_of(error)}\n")
            raise

    register_resolvers()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of to Hydra's own printer
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(told)()
    except KeyboardInterrupt:
        conclude(notes.collect(), summary)
        sys.stderr.write("interrupted; the same command goes on where a checkpoint was written\n")
        sys.exit(130)
    except Exception as error:
        _fail(error, conclude(notes.collect(), summary))
    conclude(notes.collect(), summary)


def register_resolvers() -> None:
    """Let sweeps go over the kits below a folder, ``${kits:FOLDER}``, and 1 to N, ``${upto:N}``."""
    OmegaConf.register_new_resolver("kits", kits_below, replace=True)
    OmegaConf.register_new_resolver(
        "upto", lambda n: ",".join(str(k + 1) for k in range(n)), replace=True
    )


def conclude(notes: list[Note], summary: Callable[[list[Note]], None] | None) -> list[Note]:
    """Show what the jobs of a sweep found, and return their notes."""
    if summary is not None and notes:
        # one of several jobs that are the same run is enough
        summary(list({note.folder or note.number: note for note in notes}.values()))
    return notes


def _fail(error: Exception, notes: list[Note]) -> NoReturn:
    """End with what the error asks for; jobs that failed have told of it."""
    reasons = [note.failed for note in notes if note.failed]
    told = reason_of(error) in reasons
    if reasons and len(reasons) == len(notes) and not told and UNENDED not in reasons:
        # a sweeper misses any result
        refuse(UserError(f"no run ended well; the first: {reasons[0]}"))
    if isinstance(error, UserError | HydraException | OmegaConfBaseException):
        refuse(error)
    if not told:
        traceback.print_exc()
    sys.exit(1)


def refuse(error: Exception) -> NoReturn:
    """Say what was asked that cannot work, and end."""
    said = str(error)
    if isinstance(error, MissingMandatoryValue):
        said = f"{error.full_key} has to be set"
    elif isinstance(error, MissingConfigException) and error.options:
        said = f"there is no {error.missing_cfg_file}; there are {', '.join(error.options)}"
    sys.stderr.write(f"error: {said}\n")
    sys.exit(2)


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
