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
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from geniu_lightning.app.sweep import join_group
from geniu_lightning.errors import UserError

PACKAGE = Path(__file__).parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"


def entry(
    name: str,
    job: Callable[[DictConfig, list[Path]], float | None],
    summary: Callable[[dict[Path, str]], None] | None = None,
) -> None:
    """Run a command and end the process.

    Exit status: 0 done, 2 what was asked cannot work, 130 interrupted, 1 anything else.

    Args:
        name: Primary configuration.
        job: Carries out one composed configuration, and adds its folder to those that were visited;
            returns the value a sweeper optimises.
        summary: Told the folders of a multirun when it is over, and why each failed, which is
            empty where it ended well.
    """
    visited: list[Path] = []
    failures: dict[Path, Exception] = {}
    sweeps: set[bool] = set()
    words = tuple(sys.argv[1:])  # kept here, for a launcher may run a job where there are others

    def told(config: DictConfig) -> float | None:
        sweeps.add(HydraConfig.get().mode == RunMode.MULTIRUN)
        earlier = len(visited)
        try:
            join_group(config, name, words)
            return job(config, visited)
        except Exception as error:
            if True not in sweeps:
                if isinstance(error, UserError):  # before Hydra prints words of its own
                    refuse(error)
                raise
            # the sweep goes on, and Hydra ends it with the first error alone
            if len(visited) > earlier:
                failures[visited[-1]] = error
            if not isinstance(error, UserError):
                traceback.print_exc()
            which = HydraConfig.get().job.override_dirname
            sys.stderr.write(f"failed: {which}: {str(error) or type(error).__name__}\n")
            raise

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
            told_why = {folder: failures.get(folder) for folder in visited}
            summary(
                {
                    folder: "" if error is None else str(error) or type(error).__name__
                    for folder, error in told_why.items()
                }
            )

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of to Hydra's own printer
    try:
        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on where a checkpoint was written\n")
        sys.exit(130)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        refuse(error)
    except Exception as error:
        if error not in failures.values():  # those have been told
            if failures and len(failures) == len(set(visited)):  # a sweeper misses any result
                refuse(UserError(f"no run ended well; the first: {next(iter(failures.values()))}"))
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
