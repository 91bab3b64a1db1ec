"""The oracles of a command: the bank that its configuration names, and the training of one."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from geniu_lightning.cli.run import carry_out
from geniu_lightning.errors import SettingError, UserError
from geniu_lightning.kit.info import KitInfo
from geniu_lightning.runs.folder import RunFolder
from geniu_lightning.runs.oracles import OracleBank
from geniu_lightning.runs.processes import is_rank_zero, single_process
from geniu_lightning.settings.configs import method_settings


def oracle_bank(config: DictConfig, kit: KitInfo, forget: Sequence[int]) -> OracleBank | None:
    """Return the bank that an evaluation compares with; `None` if it compares with none."""
    wanted = config.evaluation.bank
    if wanted is None and not config.oracles.get("add"):
        return None
    try:
        return OracleBank(
            Path(config.oracles.folder).expanduser(),
            kit,
            forget,
            count=config.oracles.count,
            train_missing=wanted == "build",
            one_process=single_process(config.trainer),
            rank_zero=is_rank_zero(config.trainer),
        )
    except SettingError as error:
        raise error.below("oracles") from error


def retrains(unlearner: Mapping[str, Any]) -> bool:
    """Whether a method, by its settings, makes models as oracles are made: these are its nulls."""
    return bool(unlearner.get("_target_") == method_settings("retrain")["_target_"])


def expected_nulls(config: DictConfig, bank: OracleBank | None) -> int:
    """Return the number of null runs that an evaluation would compare with."""
    if bank is None or not config.evaluation.get("nulls"):
        return 0
    if "nulls" in config:  # weights from elsewhere: their user brings them
        return len(config.nulls)
    if retrains(config.unlearner):
        return 0
    oracles, wanted = len(bank.expected()), config.oracles.nulls
    number: int = oracles if wanted is None else min(wanted, oracles)
    if number and not single_process(config.trainer):
        raise UserError(
            "a run of several processes cannot do null runs: set oracles.nulls=0, or use one device"
        )
    return number


def is_current(config: DictConfig, folder: RunFolder, bank: OracleBank | None) -> bool:
    """Whether a run was compared with the oracles and null runs that it would be with now."""
    if bank is None:
        return True
    now = (bank.expected(), expected_nulls(config, bank))
    if not folder.done:
        return False
    document = json.loads((folder.path / "metrics.json").read_text())
    return (document.get("oracles", []), document.get("nulls", 0)) == now


def add_oracle(
    config: DictConfig, kit: KitInfo, forget: tuple[int, ...], bank: OracleBank, seed: int
) -> None:
    """Train one oracle of a bank, unless it is there or another process does (`BusyError`)."""
    job = OmegaConf.masked_copy(config, ["trainer", "data", "allow_custom"])
    job.out = None
    folder = bank.run(seed)

    def train() -> None:
        from geniu_lightning.cli.oracle_run import train_oracle  # takes seconds, so only now

        train_oracle(folder, job, kit, forget, seed)

    carry_out("unlearn", job, folder, train)
