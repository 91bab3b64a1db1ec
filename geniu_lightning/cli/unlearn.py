"""`geniu unlearn`: from a kit to a classifier that has forgotten classes."""

import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from geniu_lightning.cli.command import run_command
from geniu_lightning.cli.jobs import is_sweep
from geniu_lightning.cli.oracles import add_oracle, is_current, oracle_bank
from geniu_lightning.cli.run import carry_out, run_folder
from geniu_lightning.cli.sweep import print_summary, retain_minus_forget, unlearning_row
from geniu_lightning.errors import BusyError, UserError
from geniu_lightning.kit.header import KIT, forgotten, kit_metadata, kit_path
from geniu_lightning.kit.info import KitInfo
from geniu_lightning.runs.identity import identity_of
from geniu_lightning.runs.oracles import FIRST_SEED
from geniu_lightning.runs.revision import revision
from geniu_lightning.settings.configs import plain

log = logging.getLogger(__name__)


def main() -> None:
    """Run the command."""
    heads = ["method", "A_f", "A_r", "time, s", "verdict"]
    run_command("unlearn", unlearn, partial(print_summary, heads=heads, row=unlearning_row))


def unlearn(config: DictConfig) -> float | None:
    """Unlearn; return A_r - A_f on `evaluation.split`, if measured, which a sweeper maximises."""
    if config.next_kit is None:  # it takes longer than many a method, and a comparison needs none
        config.next_kit = not is_sweep()
    if config.kit is None:
        raise UserError("name the kit to unlearn from: kit=FOLDER/kit.safetensors")
    path = kit_path(config.kit)
    metadata = kit_metadata(path)
    kit = KitInfo.from_json(metadata["geniu"])
    forget = forgotten(config.forget, kit)
    bank = oracle_bank(config, kit, forget)
    if config.oracles.add and bank is not None:
        seed = FIRST_SEED + config.oracles.add - 1
        config.out = str(bank.run(seed).path)
        try:
            add_oracle(config, kit, forget, bank, seed)
        except BusyError as busy:  # the same sweep, started twice, divides the work
            log.info("left to the other: %s", busy)
        return None
    identity = identity_of(plain(config), forget=list(forget), kit_sha256=metadata.get("sha256"))
    origin = Path(os.path.realpath(path)).parent
    kit_name, class_words = origin.name, "forget" + "_".join(map(str, forget))
    folder = run_folder(config, identity, "unlearn", kit_name, config.unlearner.name, class_words)
    if os.path.realpath(folder.path) == str(origin):
        raise UserError(f"{folder.path} is the folder of the kit itself; choose another out=")
    trained = {**kit.settings, "seed": kit.seed}
    about: dict[str, Any] = {"job": "unlearn", "revision": revision(), "trained": trained}
    if kit.forgotten:
        about["forgotten_before"] = list(kit.forgotten)
    folder.description = {"run": identity | about}
    lacks_kit = config.next_kit and kit.contents and not (folder.path / KIT).is_file()
    force = bool(config.force or (folder.done and lacks_kit))
    again = folder.done and not force

    def work() -> None:
        from geniu_lightning.cli.request import Request  # takes seconds, so only now
        from geniu_lightning.cli.unlearn_run import evaluate_again, unlearn_request

        step = evaluate_again if again else unlearn_request
        step(folder, Request(config, path, forget, bank))

    complete = is_current(config, folder, bank)
    if not carry_out("unlearn", config, folder, work, force=force, complete=complete):
        return None
    return retain_minus_forget(folder.path, config.evaluation.split)


if __name__ == "__main__":  # a job of a sweep in a process of its own
    main()
