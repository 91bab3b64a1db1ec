"""The bank of oracles: kits trained without the forgotten classes, for all evaluations."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from geniu_lightning.errors import BusyError, UserError
from geniu_lightning.kit.header import KIT
from geniu_lightning.kit.info import KitInfo
from geniu_lightning.report.problem import PLACES, RECIPE
from geniu_lightning.runs.folder import RunFolder
from geniu_lightning.runs.identity import name_of
from geniu_lightning.settings.checked import PositiveInt, checked
from geniu_lightning.version import __version__

FIRST_SEED = 1000  # training seeds of oracles; kits have others
SECONDS_BETWEEN_LOOKS = 2.0
PARTS = ("data_fingerprint", "class_counts", "spec", "classifier", "generator")  # of a description
INCIDENTAL = ("_target_", "_convert_", "log_every_n_steps")  # of the settings of training

log = logging.getLogger(__name__)


@checked
class OracleBank:
    """Oracles of one problem: data set, imbalance, networks, recipe and forgotten classes.

    Each is a kit, in a folder named by its training seed.

    Args:
        root: Folder of all banks.
        kit: Description of a kit.
        forget: Forgotten classes.
        count: Number of oracles to compare with.
        train_missing: Whether an evaluation trains the missing ones, as one process can alone;
            else it does without them.
        one_process: Whether the run has one process.
        rank_zero: Whether this process is the one that writes.
    """

    def __init__(
        self,
        root: Path,
        kit: KitInfo,
        forget: Sequence[int],
        *,
        count: PositiveInt = 5,
        train_missing: bool = False,
        one_process: bool = True,
        rank_zero: bool = True,
    ) -> None:
        self.train_missing = train_missing
        self.rank_zero = rank_zero
        self.identity = _identity(kit, forget)
        data = self.identity["data"].get("name", "data")
        network = self.identity["classifier"]["target"].rpartition(".")[2]
        words = (data, network, "forget" + "_".join(map(str, sorted(forget))))
        self.folder = root / name_of(self.identity, *words)
        self.seeds = [FIRST_SEED + k for k in range(count)]
        if train_missing and not one_process and self.missing():
            raise UserError(
                "oracles are missing, and a run of several processes cannot train them; train them"
                " before: python unlearn.py -m sweep=oracles with the same kit"
            )

    def run(self, seed: int) -> RunFolder:
        """Return the run folder of the oracle of a training seed."""
        folder = RunFolder(
            self.folder / str(seed), self.identity | {"training_seed": seed}, self.rank_zero
        )
        folder.description = {"run": folder.identity | {"job": "oracle"}}
        return folder

    def trained(self) -> list[int]:
        """Return the training seeds of the oracles that exist."""
        return [seed for seed in self.seeds if self.run(seed).done]

    def missing(self) -> list[int]:
        """Return the training seeds of the oracles that do not exist."""
        return sorted(set(self.seeds) - set(self.trained()))

    def expected(self) -> list[int]:
        """Return the training seeds that an evaluation would compare with."""
        return self.seeds if self.train_missing else self.trained()

    def kit(self, seed: int) -> Path:
        """Return the file of an oracle's kit."""
        return self.folder / str(seed) / KIT

    def seconds(self) -> list[float]:
        """Return the training time of each oracle's classifier, where it was measured."""
        files = [self.folder / str(seed) / "metrics.json" for seed in self.trained()]
        found = [json.loads(file.read_text())["cost"]["seconds"] for file in files]
        return [seconds for seconds in found if isinstance(seconds, float)]

    def complete(self, train: Callable[[int], None]) -> None:
        """Train the missing oracles; wait for those that another process trains."""
        while missing := self.missing():
            busy = 0
            for seed in missing:
                try:
                    train(seed)
                except BusyError:
                    busy += 1
            if busy == len(missing):
                log.info("waiting for another process, which trains oracles in %s", self.folder)
                time.sleep(SECONDS_BETWEEN_LOOKS)


def _identity(kit: KitInfo, forget: Sequence[int]) -> dict[str, Any]:
    described = json.loads(kit.to_json())  # as it will be read again
    settings = described["settings"]
    try:
        training = {k: settings["training"][k] for k in RECIPE}
        if kit.generator is not None:
            training |= {k: v for k, v in settings["training"].items() if k not in INCIDENTAL}
        contents: dict[str, Any] = {}
        if kit.archive is not None:
            contents["archive"] = described["archive"]["settings"]
        if kit.distribution is not None:
            contents["distribution"] = settings["distribution"]
        return {
            "data": {k: v for k, v in settings["data"].items() if k not in PLACES},
            **{k: described[k] for k in PARTS},
            **contents,
            "imbalance": settings["imbalance"],
            "training": training,
            "precision": settings["precision"],
            "forget": sorted(forget),
            "library": __version__,
        }
    except KeyError as error:
        raise UserError(f"the kit does not say how it was trained: no {error}") from error
