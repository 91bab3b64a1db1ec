"""`geniu evaluate`: from a file of weights to a verdict."""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from geniu_lightning.cli.command import run_command
from geniu_lightning.cli.oracles import is_current, oracle_bank, retrains
from geniu_lightning.cli.run import carry_out, run_folder
from geniu_lightning.cli.terminal import say
from geniu_lightning.errors import UserError
from geniu_lightning.files import sha256_of
from geniu_lightning.kit.header import KIT, forgotten, kit_metadata, kit_path
from geniu_lightning.kit.info import KitInfo
from geniu_lightning.runs.folder import WEIGHTS, RunFolder
from geniu_lightning.runs.identity import identity_of
from geniu_lightning.runs.oracles import OracleBank
from geniu_lightning.runs.revision import revision
from geniu_lightning.settings.configs import plain


def main() -> None:
    """Run the command."""
    run_command("evaluate", evaluate)


def evaluate(config: DictConfig) -> None:
    """Evaluate the weights, or the population of runs, that a configuration names."""
    if config.population:
        from geniu_lightning.cli.population import evaluate_folders

        evaluate_folders(config)
        return
    if config.weights is None or config.kit is None:
        raise UserError("name the weights and their kit: weights=FILE kit=DIR/kit.safetensors")
    weights, run = _weights(Path(config.weights).expanduser())
    path = kit_path(config.kit)
    metadata = kit_metadata(path)
    kit = KitInfo.from_json(metadata["geniu"])
    forget = forgotten(_named_classes(config, weights, kit), kit)
    bank = oracle_bank(config, kit, forget)
    if config.nulls and not config.evaluation.get("nulls"):
        raise UserError("nulls= are for evaluation=verdict or full: this one compares with none")
    nulls = [_weights(Path(one).expanduser())[0] for one in config.nulls]
    own: dict[str, Any] = {
        "kit_sha256": metadata.get("sha256"),
        "weights_sha256": sha256_of(weights),
    }
    own |= {"nulls_sha256": [sha256_of(file) for file in nulls]} if nulls else {}
    identity = identity_of(plain(config), forget=list(forget), **own)
    words = (weights.parent.name, weights.stem, "forget" + "_".join(map(str, forget)))
    folder = run_folder(config, identity, "evaluate", *words)
    if os.path.realpath(folder.path) == str(Path(os.path.realpath(weights)).parent):
        raise UserError(f"{folder.path} is the folder of the weights; choose another out=")
    trained = {**kit.settings, "seed": kit.seed}
    about = {"job": "evaluate", "revision": revision(), "trained": trained}
    folder.description = {"run": identity | about} | run
    work = partial(_evaluate_weights, config, folder, path, weights, nulls, forget, bank)
    complete = is_current(config, folder, bank)
    carry_out("evaluate", config, folder, work, force=config.force, complete=complete)


def _weights(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the file of weights, and `run` and `cost` of the run that wrote it, if one did."""
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"there are no weights at {file}")
    described = file.parent / "metrics.json"
    if file.name != WEIGHTS or not described.is_file():
        return file, {}
    try:
        found = json.loads(described.read_text())
        return file, {"run": {**found["run"]}, "cost": {**found["cost"]}}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{described} cannot be read as the metrics of a run: {error!r}") from error


def _named_classes(config: DictConfig, weights: Path, kit: KitInfo) -> Any:
    """Return the classes to forget, by index or name: as set, else as recorded in the weights."""
    if config.forget is not None:
        return config.forget
    try:
        recorded = KitInfo.from_json(kit_metadata(weights)["geniu"]).forgotten
    except UserError:
        raise UserError("these weights do not say what they forgot; set forget=[CLASS]") from None
    found = [k for k in recorded if k not in kit.forgotten]
    if recorded and not found:
        raise UserError(
            "this kit has forgotten what these weights forgot: kit= must be the one that they were"
            " unlearned from"
        )
    return found


def _evaluate_weights(
    config: DictConfig,
    folder: RunFolder,
    path: Path,
    weights: Path,
    nulls: list[Path],
    forget: tuple[int, ...],
    bank: OracleBank | None,
) -> None:
    from geniu_lightning.cli import results
    from geniu_lightning.cli.model_evaluation import evaluate_request
    from geniu_lightning.cli.request import Request
    from geniu_lightning.kit.file import Kit
    from geniu_lightning.kit.weights import classifier_from
    from geniu_lightning.tracking import loggers as trackers

    request, about = Request(config, path, forget, bank), folder.description
    classifier, *made = (
        classifier_from(file, request.kit.info.classifier, config.allow_custom)
        for file in (weights, *nulls)
    )
    stays, after = config.keeps_proxies, weights.parent / KIT
    stored: Kit | None = None
    if stays is None and "cost" in about and after.is_file():  # the run's own next kit
        stored = Kit.load(after, config.allow_custom).to(request.device)
    elif about.get("cost", {}).get("reads_prompts", True) if stays is None else stays:
        stored = request.kit
    loggers = request.loggers(folder.path, "evaluate", evaluated=about["run"])
    with trackers.closing(loggers):
        matched = retrains(about["run"].get("unlearner", {}))
        result = evaluate_request(request, classifier, stored, lambda oracles: made, matched)
        if result.missing:
            raise UserError(f"nothing was measured: {result.missing}")
        document = results.document(result, about, bank)
        trackers.show(loggers, results.write(folder.path, request, result, document))
    folder.finish()
    say(f"results: {folder.path / 'metrics.json'}")


if __name__ == "__main__":  # a job of a sweep in a process of its own
    main()
