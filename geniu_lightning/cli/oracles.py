"""The oracles of a command: the bank that its configuration names, completed and opened."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from geniu_lightning.errors import SettingError
from geniu_lightning.runs.oracles import OracleBank
from geniu_lightning.runs.processes import is_rank_zero, single_process

if TYPE_CHECKING:  # torch takes seconds: a refusal or a finished run does not need it
    from torch import nn

    from geniu_lightning.cli.request import Request


log = logging.getLogger(__name__)


def oracle_bank(
    config: DictConfig,
    kit: dict[str, Any],  # any JSON value
    forget: Sequence[int],
) -> OracleBank | None:
    """Return the bank that an evaluation compares with; `None` if it compares with none.

    Args:
        config: `evaluation.bank`, `oracles` and `trainer`.
        kit: The kit's description.
        forget: Forgotten classes.

    Raises:
        UserError: If a setting is wrong, or as `OracleBank`.
    """
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


def opened_oracles(
    request: Request, bank: OracleBank, train_oracle: Callable[[int], None]
) -> dict[int, nn.Module]:
    """Return the oracles of a bank by training seed, on the request's device.

    Trains the missing ones by `train_oracle` if the evaluation asks for that, else tells how to.
    """
    from geniu_lightning.kit.file import Kit

    config = request.config

    def train(seed: int) -> None:
        log.info("training the oracle of seed %d, %d missing", seed, len(bank.missing()))
        train_oracle(seed)

    if bank.train_missing:
        bank.complete(train)
    seeds = bank.trained()
    if len(seeds) < len(bank.seeds):
        forget = ",".join(map(str, request.forget))
        log.info(
            "%d of %d oracles exist, and without them no verdict tells forgetting from suppression;"
            " train them with: python unlearn.py sweep=oracles 'kit=%s' 'forget=[%s]'"
            " 'oracles.folder=%s' oracles.count=%d",
            *(len(seeds), len(bank.seeds), request.path, forget),
            *(config.oracles.folder, len(bank.seeds)),
        )
    kits = {seed: Kit.load(bank.weights(seed), config.allow_custom) for seed in seeds}
    return {seed: kit.to(request.device).classifier for seed, kit in kits.items()}
