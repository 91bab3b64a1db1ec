"""``python -m geniu_lightning.evaluation``: from weights to a word, whoever made them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from geniu_lightning.cli.command import run_command
from geniu_lightning.cli.run import carry_out, run_folder
from geniu_lightning.cli.terminal import say
from geniu_lightning.errors import UserError
from geniu_lightning.files import sha256_of
from geniu_lightning.kit.header import KIT, description_of, forgotten, kit_metadata, kit_path
from geniu_lightning.runs.folder import WEIGHTS, RunFolder, compared_with
from geniu_lightning.runs.identity import identity_of
from geniu_lightning.runs.oracles import Bank
from geniu_lightning.runs.revision import revision
from geniu_lightning.settings.configs import plain

if TYPE_CHECKING:
    from geniu_lightning.kit.file import Kit


def main() -> None:
    """Run the command."""
    run_command("evaluate", evaluate)


def evaluate(config: DictConfig) -> None:
    """Judge the weights, or the group of runs, that a configuration names."""
    if config.population:
        if (config.get("logger") or {}).get("wandb") is not None:
            raise UserError("logger= is for single weights: what is found of a group is a file")
        _evaluate_group(config)
        return
    if config.weights is None or config.kit is None:
        raise UserError("name what to judge and its kit: weights=FILE kit=DIR/kit.safetensors")
    weights, run = _weights(Path(config.weights).expanduser())
    path = kit_path(config.kit)
    metadata = kit_metadata(path)
    kit = description_of(metadata)
    forget = forgotten(_wanted(config, weights, kit), kit)
    bank = Bank(config, kit, forget) if config.evaluation.get("bank") else None
    own = {"kit_sha256": metadata.get("sha256"), "weights_sha256": sha256_of(weights)}
    identity = identity_of(plain(config), forget=list(forget), **own)
    words = (weights.parent.name, weights.stem, "forget" + "_".join(map(str, forget)))
    folder = run_folder(config, identity, "evaluate", *words)
    if folder.path.resolve() == weights.resolve().parent:
        raise UserError(f"{folder.path} is the folder of the weights; choose another out=")
    trained = kit.get("settings", {}) | {"seed": kit.get("seed")}
    about = {"job": "evaluate", "revision": revision(), "trained": trained}
    folder.description = {"run": identity | about} | run
    work = partial(_judge, config, folder, path, weights, forget, bank)
    complete = bank is None or (folder.done and _compared(folder.path, bank))
    carry_out("evaluate", config, folder, work, force=config.force, complete=complete)


def _compared(folder: Path, bank: Bank) -> bool:
    return compared_with(folder) == bank.expected()


def _weights(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the file of weights, and what the run that wrote it says of itself."""
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"there are no weights at {file}")
    described = file.parent / "metrics.json"
    if file.name != WEIGHTS or not described.is_file():
        return file, {}
    try:
        found = json.loads(described.read_text())
        return file, {"run": found["run"], "cost": found["cost"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{described} cannot be read as the metrics of a run: {error!r}") from error


def _wanted(
    config: DictConfig, weights: Path, kit: dict[str, Any]
) -> Any:  # classes as they may be named
    if config.forget is not None:
        return config.forget
    try:
        gone = description_of(kit_metadata(weights))["forgotten"]
    except (UserError, KeyError):
        raise UserError("these weights do not say what they forgot; set forget=[CLASS]") from None
    wanted = [k for k in gone if k not in kit.get("forgotten", ())]
    if gone and not wanted:
        raise UserError(
            "this kit has forgotten what these weights forgot: kit= must be the one that they were"
            " unlearned from"
        )
    return wanted


def _judge(
    config: DictConfig,
    run: RunFolder,
    path: Path,
    weights: Path,
    forget: tuple[int, ...],
    bank: Bank | None,
) -> None:
    from geniu_lightning.cli.judge import Judge
    from geniu_lightning.cli.request import Request
    from geniu_lightning.cli.unlearn import add_oracle
    from geniu_lightning.kit.weights import classifier_from
    from geniu_lightning.tracking import loggers as trackers

    folder, description = run.path, run.description
    request = Request(config, path, forget)
    classifier = classifier_from(weights, request.kit.info.classifier, config.allow_custom)
    kept = _kept(config, request.kit, weights, description)

    def train_oracle(bank: Bank, seed: int) -> None:
        add_oracle(config, path, forget, bank, seed)

    facts = request.facts() | {"revision": revision(), "judged": description["run"]}
    loggers = trackers.loggers_of(config, folder, "evaluate", facts, request.tags())
    with trackers.closing(loggers):
        judge = Judge(request, bank, train_oracle)
        result = judge.judge(classifier, kept)
        if not result.metrics:
            raise UserError(f"nothing was measured: {result.missing}")
        judge.write(folder, result, judge.document(result, description))
        trackers.show(loggers, result.shown(request, description.get("cost", {})))
    say(f"results: {folder / 'metrics.json'}")
    run.finish()


def _kept(config: DictConfig, kit: Kit, weights: Path, description: dict[str, Any]) -> Kit | None:
    """Return the kit that is kept beside weights: the next one, where their run wrote one."""
    keeps, after = config.keeps_proxies, weights.parent / KIT
    if keeps is None and "cost" in description and after.is_file():
        device = next(kit.classifier.parameters()).device
        return type(kit).load(after, config.allow_custom).to(device)
    if keeps is None:
        keeps = description.get("cost", {}).get("reads_prompts", True)
    return kit if keeps else None


def _evaluate_group(config: DictConfig) -> None:
    if config.out is None:
        raise UserError("say where the results of the group are to be written: out=FOLDER")
    from geniu_lightning.cli.device import begin
    from geniu_lightning.cli.population import judge_group

    folders = [config.population] if isinstance(config.population, str) else list(config.population)
    begin(config.trainer)
    out = Path(config.out).expanduser()
    judge_group(config, [Path(folder).expanduser() for folder in folders], out)
