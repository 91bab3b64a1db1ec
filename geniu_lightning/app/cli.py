"""The two commands' common frame: where configurations lie, and what a failure looks like.

Nothing heavy is imported here, so that a wrong word on the command line is refused at once.
"""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from geniu_lightning.errors import UserError

PACKAGE = Path(__file__).parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"


def entry(name: str, job: Callable[[DictConfig], float | None]) -> None:
    """Run a command and end the process: 0 done, 2 what was asked cannot work, 1 anything else.

    Args:
        name: Primary configuration.
        job: Carries out one composed configuration; returns the value a sweeper optimises.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of to Hydra's own printer
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(job)()
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
