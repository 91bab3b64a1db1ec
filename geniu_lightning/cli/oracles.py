"""The oracles of a command: the bank that its configuration names, completed and opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from geniu_lightning.cli.command import say
from geniu_lightning.errors import SettingError
from geniu_lightning.runs.folder import leads_run, single_process
from geniu_lightning.runs.oracles import OracleBank

if TYPE_CHECKING:  # torch takes seconds: a refusal or a finished run does not need it
    from torch import nn

    from geniu_lightning.cli.request import Request


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
    wanted = config.evaluation.get("bank")
    if wanted not in (None, "use", "build"):
        raise SettingError(f"must be use, build or null, got {wanted}", "evaluation.bank")
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
            rank_zero=leads_run(config.trainer),
        )
    except SettingError as error:
        raise error.below("oracles") from error


def opened_oracles(request: Request, bank: OracleBank) -> dict[int, nn.Module]:
    """Return the oracles of a bank by training seed, on the request's device.

    Trains the missing ones if the evaluation asks for that, else tells how to.
    """
    from geniu_lightning.cli.unlearn import add_oracle
    from geniu_lightning.kit.file import Kit

    config = request.config

    def train(seed: int) -> None:
        say(f"training the oracle of seed {seed}, {len(bank.missing())} missing")
        add_oracle(config, request.path, request.forget, bank, seed)

    if bank.train_missing:
        bank.complete(train)
    seeds = bank.trained()
    if len(seeds) < len(bank.seeds):
        forget = ",".join(map(str, request.forget))
        say(
            f"{len(seeds)} of {len(bank.seeds)} oracles exist, and without them no verdict tells"
            " forgetting from hiding; train them with: python unlearn.py"
            f" sweep=oracles 'kit={request.path}' 'forget=[{forget}]'"
            f" 'oracles.folder={config.oracles.folder}' oracles.count={len(bank.seeds)}"
        )
    kits = {seed: Kit.load(bank.weights(seed), config.allow_custom) for seed in seeds}
    return {seed: kit.to(request.device).classifier for seed, kit in kits.items()}
