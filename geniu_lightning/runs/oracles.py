"""The bank of oracles: models retrained without the forgotten classes, shared by all evaluations.

Nothing heavy is imported here: whether a run has to be judged anew is told before torch is.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from geniu_lightning.errors import UserError
from geniu_lightning.runs.folder import WEIGHTS, RunFolder
from geniu_lightning.runs.processes import is_rank_zero, single_process
from geniu_lightning.version import __version__

FIRST_SEED = 1000  # training seeds of oracles; kits have others
RECIPE = ("batch_size", "epochs", "optimizer", "schedule", "max_gradient_norm")


class Bank:
    """Oracles of one problem: data set, imbalance, network, recipe and forgotten classes.

    Args:
        config: ``oracles``, with the ``folder`` of all banks and the ``count`` of oracles to
            compare with; ``evaluation.bank`` and ``trainer``.
        kit: A kit's description, as JSON values.
        forget: Forgotten classes.

    Attributes:
        folder: Of this problem, named by what its oracles depend on.
        seeds: Training seeds of its oracles.
        complete: Whether the evaluation wants all of them, and so trains those that are missing.
        identity: What they have in common.

    Raises:
        UserError: If the count is below one, the kit does not say how it was trained, or oracles
            are missing that this run cannot train.
    """

    def __init__(self, config: DictConfig, kit: dict[str, Any], forget: Sequence[int]) -> None:
        count = config.oracles.count
        if not isinstance(count, int) or count < 1:
            raise UserError(f"oracles.count must be at least 1, got {count}")
        self.rank_zero = is_rank_zero(config.trainer)
        wanted = config.evaluation.get("bank")
        if wanted not in (None, "use", "build"):
            raise UserError(f"evaluation.bank is use, build or null, got {wanted}")
        self.complete = wanted == "build"
        self.identity = _identity(kit, forget)
        data = self.identity["data"].get("name", "data")
        network = self.identity["classifier"]["target"].rpartition(".")[2]
        words = f"{data}-{network}-forget{'_'.join(map(str, sorted(forget)))}"
        text = json.dumps(self.identity, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        name = re.sub(r"[^\w.-]+", "_", words)[:80]
        self.folder = Path(config.oracles.folder).expanduser() / f"{name}-{digest}"
        self.seeds = [FIRST_SEED + k for k in range(count)]
        if self.complete and not single_process(config.trainer) and self.trained() != self.seeds:
            raise UserError(
                "oracles are missing, and several processes cannot train them in the midst of a"
                " run; train them before: python unlearn.py -m sweep=oracles with the same kit"
            )

    def run(self, seed: int) -> RunFolder:
        """Return the folder of the oracle of a training seed."""
        folder = RunFolder(
            self.folder / str(seed), self.identity | {"training_seed": seed}, self.rank_zero
        )
        folder.description = {"run": folder.identity | {"job": "oracle"}}
        return folder

    def trained(self) -> list[int]:
        """Return the training seeds of the oracles that are there."""
        return [seed for seed in self.seeds if self.run(seed).done]

    def expected(self) -> list[int]:
        """Return the training seeds that an evaluation would compare with."""
        return self.seeds if self.complete else self.trained()

    def weights(self, seed: int) -> Path:
        """Return where the weights of an oracle are."""
        return self.folder / str(seed) / WEIGHTS

    def seconds(self) -> list[float]:
        """Return how long each of the oracles that are there took to train."""
        files = [self.folder / str(seed) / "metrics.json" for seed in self.trained()]
        return [json.loads(file.read_text())["cost"]["seconds"] for file in files]


def _identity(kit: dict[str, Any], forget: Sequence[int]) -> dict[str, Any]:
    """Return all that an oracle follows from, but for its training seed."""
    try:
        settings = kit["settings"]
        return {
            "data": {
                k: v for k, v in settings["data"].items() if k not in ("root", "cache_folder")
            },
            "data_fingerprint": kit["data_fingerprint"],
            "class_counts": list(kit["class_counts"]),
            "imbalance": settings["imbalance"],
            "spec": kit["spec"],
            "classifier": kit["classifier"],
            "recipe": {k: settings["training"][k] for k in RECIPE},
            "precision": settings["precision"],
            "forget": sorted(forget),
            "library": __version__,
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the kit does not say how it was trained: no {error}") from error
