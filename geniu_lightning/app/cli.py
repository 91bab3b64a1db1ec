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
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from geniu_lightning.errors import UserError

PACKAGE = Path(__file__).parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"


def entry(
    name: str,
    job: Callable[[DictConfig, list[Path]], float | None],
    summary: Callable[[list[Path]], None] | None = None,
) -> None:
    """Run a command and end the process.

    Exit status: 0 done, 2 what was asked cannot work, 130 interrupted, 1 anything else.

    Args:
        name: Primary configuration.
        job: Carries out one composed configuration, and adds its folder to those that were visited;
            returns the value a sweeper optimises.
        summary: Told the folders of a multirun when it is over, whether or not a job failed.
    """
    visited: list[Path] = []
    sweeps: set[bool] = set()

    def told(config: DictConfig) -> float | None:
        sweeps.add(HydraConfig.get().mode == RunMode.MULTIRUN)
        try:
            return job(config, visited)
        except UserError as error:
            if True in sweeps:
                # the sweep goes on, and Hydra ends it with the first error alone
                job_words = HydraConfig.get().job.override_dirname
                sys.stderr.write(f"failed: {job_words}: {error}\n")
                raise
            refuse(error)

    def run() -> None:
        try:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(told)()
        except KeyboardInterrupt:
            raise
        except BaseException:
            conclude()
            raise
        conclude()

    def conclude() -> None:
        if True in sweeps and summary is not None and visited:
            summary(visited)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of to Hydra's own printer
    try:
        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on where a checkpoint was written\n")
        sys.exit(130)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        refuse(error)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def refuse(error: Exception) -> NoReturn:
    """Say what was asked that cannot work, and end."""
    said = str(error)
    if isinstance(error, MissingMandatoryValue):
        said = f"{error.full_key} has to be set"
    sys.stderr.write(f"error: {said}\n")
    sys.exit(2)


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
