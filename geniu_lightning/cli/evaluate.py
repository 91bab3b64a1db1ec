"""`geniu evaluate`: from weights to a verdict; and the evaluation of a model for any command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from geniu_lightning.cli.command import entry, say
from geniu_lightning.cli.oracles import opened_oracles, oracle_bank
from geniu_lightning.errors import DataNotFoundError, UserError
from geniu_lightning.files import sha256_of
from geniu_lightning.kit.header import KIT, description_of, forgotten, kit_metadata, kit_path
from geniu_lightning.runs.folder import (
    WEIGHTS,
    RunFolder,
    compared_with,
    folder_of,
    identity_of,
    revision,
)
from geniu_lightning.runs.oracles import OracleBank
from geniu_lightning.settings.configs import built, plain

if TYPE_CHECKING:  # torch takes seconds: a refusal or a finished run does not need it
    import torch
    from torch import Tensor, nn

    from geniu_lightning.cli.request import Request
    from geniu_lightning.cli.results import Result
    from geniu_lightning.data.module import ImageData
    from geniu_lightning.evaluation.context import Split
    from geniu_lightning.evaluation.evaluator import Evaluation
    from geniu_lightning.kit.file import Kit

SPLITS = ("test", "train", "validation")


def main() -> None:
    """Run the command."""
    entry("evaluate", evaluate)


def evaluate(config: DictConfig, visited: list[Path]) -> None:
    """Evaluate the weights, or the population of runs, that a configuration names."""
    if config.population:
        from geniu_lightning.cli.population import evaluate_folders

        evaluate_folders(config, visited)
        return
    if config.weights is None or config.kit is None:
        raise UserError("name the weights and their kit: weights=FILE kit=DIR/kit.safetensors")
    weights, run = _weights(Path(config.weights).expanduser())
    path = kit_path(config.kit)
    metadata = kit_metadata(path)
    kit = description_of(metadata)
    forget = forgotten(_named_classes(config, weights, kit), kit)
    bank = oracle_bank(config, kit, forget)
    own = {"kit_sha256": metadata.get("sha256"), "weights_sha256": sha256_of(weights)}
    identity = identity_of(config, forget=list(forget), **own)
    words = (weights.parent.name, weights.stem, "forget" + "_".join(map(str, forget)))
    folder = folder_of(config, identity, "evaluate", *words)
    if folder.path.resolve() == weights.resolve().parent:
        raise UserError(f"{folder.path} is the folder of the weights; choose another out=")
    trained = kit.get("settings", {}) | {"seed": kit.get("seed")}
    about = {"job": "evaluate", "revision": revision(), "trained": trained}
    folder.description = {"run": identity | about} | run
    visited.append(folder.path)
    current = bank is None or (folder.done and compared_with(folder.path) == bank.expected())
    if folder.done and not config.force and current:
        say(f"already done: {folder.path} (force=true does it again)")
        return
    with folder.claim(config.force):
        _evaluate_weights(config, folder, path, weights, forget, bank)
        folder.finish()


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
        return file, {"run": found["run"], "cost": found["cost"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{described} cannot be read as the metrics of a run: {error!r}") from error


def _named_classes(config: DictConfig, weights: Path, kit: dict[str, Any]) -> Any:
    """Return the classes to forget, by index or name: as set, else as recorded in the weights."""
    if config.forget is not None:
        return config.forget
    try:
        recorded = description_of(kit_metadata(weights))["forgotten"]
    except (UserError, KeyError):
        raise UserError("these weights do not say what they forgot; set forget=[CLASS]") from None
    found = [k for k in recorded if k not in kit.get("forgotten", ())]
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
    forget: tuple[int, ...],
    bank: OracleBank | None,
) -> None:
    from geniu_lightning.cli import results
    from geniu_lightning.cli.request import Request
    from geniu_lightning.kit.weights import classifier_from
    from geniu_lightning.tracking import loggers as trackers

    request, about = Request(config, path, forget), folder.description
    classifier = classifier_from(weights, request.kit.info.classifier, config.allow_custom)
    stored = _stored_kit(config, request.kit, weights, about)
    facts = request.facts() | {"revision": revision(), "evaluated": about["run"]}
    loggers = trackers.loggers_of(config, folder.path, "evaluate", facts, request.tags())
    with trackers.closing(loggers):
        result = evaluate_request(request, bank, classifier, stored)
        if result.missing:
            raise UserError(f"nothing was measured: {result.missing}")
        results.write(folder.path, request, result, results.document(result, about, bank))
        trackers.show(loggers, results.shown(result, request, about.get("cost", {})))
    say(f"results: {folder.path / 'metrics.json'}")


def _stored_kit(
    config: DictConfig, kit: Kit, weights: Path, about: dict[str, Any]
) -> Kit | None:  # the kit whose proxies stay with the weights
    """Return the kit that stays with weights: the next one, where their run wrote one."""
    stays, after = config.keeps_proxies, weights.parent / KIT
    if stays is None and "cost" in about and after.is_file():
        device = next(kit.classifier.parameters()).device
        return type(kit).load(after, config.allow_custom).to(device)
    if stays is None:
        stays = about.get("cost", {}).get("reads_prompts", True)
    return kit if stays else None


def evaluate_request(
    request: Request, bank: OracleBank | None, classifier: nn.Module, stored: Kit | None
) -> Result:
    """Open images and oracles, and evaluate a model.

    Args:
        request: The kit, what is forgotten, and the configuration.
        bank: Of oracles to compare with; `None` compares with none.
        classifier: The unlearned model.
        stored: The kit that stays with the model, if one does.
    """
    from geniu_lightning.cli.results import Result
    from geniu_lightning.evaluation.evaluator import Evaluation

    if not request.config.evaluation.metrics:
        return Result(Evaluation(), missing="evaluation=none")
    try:
        data = request.images()
    except DataNotFoundError as error:
        say(f"evaluation is left out, until the same command finds the images: {error}")
        return Result(Evaluation(), missing=str(error))
    oracles = {} if bank is None else opened_oracles(request, bank)
    found = evaluate_model(
        request.config.evaluation,
        request.kit,
        classifier,
        data,
        request.forget,
        oracles=tuple(oracles.values()),
        folder=bank.folder if bank and oracles else None,
        stored=stored,
    )
    return Result(found, list(oracles))


def evaluate_model(
    config: DictConfig,
    kit: Kit,
    classifier: nn.Module,
    data: ImageData,
    forget: tuple[int, ...],
    *,
    oracles: Sequence[nn.Module] = (),
    folder: Path | None = None,
    stored: Kit | None = None,
) -> Evaluation:
    """Return the evaluation of a model by the metrics that a configuration names.

    Args:
        config: `metrics` by family, `seed`, and the `split` that is laid out by class.
        kit: Holds the original, on the device to work on.
        classifier: The model; moved to that device.
        data: The images.
        forget: Forgotten classes; none after training.
        oracles: Models retrained without them, on the same device.
        folder: Holds the cache; `None` measures everything anew.
        stored: The kit whose proxies stay with the model, if one does.
    """
    from geniu_lightning.cli import terminal
    from geniu_lightning.evaluation.cache import FileCache, FileOutputs
    from geniu_lightning.evaluation.context import Context, Proxies
    from geniu_lightning.evaluation.evaluator import Evaluation, Evaluator
    from geniu_lightning.unlearning.networks import fresh_classifier

    if not config.metrics:
        return Evaluation()
    device = next(kit.classifier.parameters()).device
    proxies = None
    if stored is not None and stored.prompts is not None:
        decoded = stored.proxies()
        proxies = Proxies(stored.info.spec.normalise(decoded.images), decoded.labels)
    context = Context(
        original=kit.classifier,
        unlearned=classifier.to(device),
        forget=forget,
        class_names=data.names,
        class_counts=tuple(data.class_counts),
        splits={s: split_of(data, s, device) for s in SPLITS if len(data.indices(s))},
        oracles=tuple(oracles),
        proxies=proxies,
        fresh=lambda seed: fresh_classifier(kit, seed).eval().requires_grad_(False),
        seed=config.seed,
        intact=not kit.info.forgotten,
        store=None if folder is None else FileOutputs(folder / "outputs", tuple(oracles)),
    )
    metrics = {
        name: built(target, f"evaluation.metrics.{name}", _convert_="all")
        for name, target in plain(config.metrics).items()
    }
    cache = None if folder is None else FileCache(folder / "measured")
    evaluator = Evaluator(metrics, cache, config.split)
    progress = terminal.waiting(evaluator.seconds_left(context))
    return evaluator.evaluate(replace(context, on_progress=progress))


def split_of(data: ImageData, split: str, device: torch.device) -> Split:
    """Return the images of a split as metrics read them, normalised, on a device."""
    from geniu_lightning.evaluation.context import Split

    indices = data.indices(split)

    def read(positions: Tensor) -> Tensor:
        return data.spec.normalise(data.read(split, indices[positions], device))

    return Split(data.labels(split), read)


def store_outputs(folder: Path, oracle: nn.Module, data: ImageData) -> None:
    """Store an oracle's outputs on all images in the folder of its bank, for all evaluations."""
    from geniu_lightning.evaluation.cache import FileOutputs
    from geniu_lightning.evaluation.context import outputs_of

    store = FileOutputs(folder / "outputs", (oracle,))
    device = next(oracle.parameters()).device
    for split in SPLITS:
        if len(data.indices(split)):
            store.put(oracle, split, outputs_of(oracle, split_of(data, split, device)))
