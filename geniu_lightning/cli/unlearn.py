"""`geniu unlearn`: from a kit to a classifier that has forgotten classes."""

from __future__ import annotations

import dataclasses
import json
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from geniu_lightning.cli.command import run_command
from geniu_lightning.cli.jobs import is_sweep
from geniu_lightning.cli.results import retain_minus_forget, unlearning_row
from geniu_lightning.cli.run import carry_out, run_folder
from geniu_lightning.cli.sweep import print_summary
from geniu_lightning.errors import BusyError, DataNotFoundError, UserError
from geniu_lightning.files import now
from geniu_lightning.kit.header import KIT, description_of, forgotten, kit_metadata, kit_path
from geniu_lightning.runs.folder import WEIGHTS, RunFolder, compared_with
from geniu_lightning.runs.identity import identity_of
from geniu_lightning.runs.oracles import FIRST_SEED, Bank
from geniu_lightning.runs.processes import single_process
from geniu_lightning.runs.revision import revision
from geniu_lightning.settings.configs import (
    built,
    method_settings,
    methods_without_data,
    plain,
)

if TYPE_CHECKING:  # torch and Lightning take seconds: a refusal or a finished run needs neither
    from pytorch_lightning import Trainer
    from pytorch_lightning.loggers import Logger
    from torch import nn

    from geniu_lightning.cli.request import Request
    from geniu_lightning.data.module import ImageData
    from geniu_lightning.kit.file import Kit
    from geniu_lightning.unlearning.base import Unlearner

log = logging.getLogger(__name__)


def main() -> None:
    """Run the command."""
    heads = ["method", "A_f", "A_r", "time, s", "verdict"]
    run_command("unlearn", unlearn, lambda notes: print_summary(notes, heads, unlearning_row))


def unlearn(config: DictConfig) -> float | None:
    """Carry out one configuration.

    Returns:
        A_r - A_f on `evaluation.split`, which a sweeper maximises; `None` if it was not measured.
    """
    if config.next_kit is None:  # it takes longer than many a method, and a comparison needs none
        config.next_kit = not is_sweep()
    if config.kit is None:
        raise UserError("name the kit to unlearn from: kit=FOLDER/kit.safetensors")
    path = kit_path(config.kit)
    metadata = kit_metadata(path)
    kit = description_of(metadata)
    forget = forgotten(config.forget, kit)
    compares = config.evaluation.bank or config.oracles.add
    bank = Bank(config, kit, forget) if compares else None
    if config.oracles.add and bank is not None:
        seed = FIRST_SEED + config.oracles.add - 1
        config.out = str(bank.run(seed).path)
        try:
            add_oracle(config, path, forget, bank, seed)
        except BusyError as busy:  # the same sweep, started twice, divides the work
            log.info("left to the other: %s", busy)
        return None
    identity = identity_of(plain(config), forget=list(forget), kit_sha256=metadata.get("sha256"))
    kit_name, class_words = path.resolve().parent.name, "forget" + "_".join(map(str, forget))
    folder = run_folder(config, identity, "unlearn", kit_name, config.unlearner.name, class_words)
    if folder.path.resolve() == path.resolve().parent:
        raise UserError(f"{folder.path} is the folder of the kit itself; choose another out=")
    folder.description = {"run": identity | _about(kit)}
    lacks_kit = config.next_kit and kit.get("generator") and not (folder.path / KIT).is_file()
    force = bool(config.force or (folder.done and lacks_kit))
    compared = bank is None or (folder.done and compared_with(folder.path) == bank.expected())
    evaluates_again = folder.done and not force
    step = _evaluate_again if evaluates_again else _unlearn_in
    work = partial(step, folder, config, path, forget, bank)
    if not carry_out("unlearn", config, folder, work, force=force, complete=compared):
        return None
    return retain_minus_forget(folder.path, config.evaluation.split)


def _about(kit: dict[str, Any]) -> dict[str, Any]:
    """Return what a run's record says beside its identity."""
    trained = kit.get("settings", {}) | {"seed": kit.get("seed")}
    about = {"job": "unlearn", "revision": revision(), "trained": trained}
    if before := kit.get("forgotten"):
        about["forgotten_before"] = before
    return about


def _unlearn_in(
    folder: RunFolder, config: DictConfig, path: Path, forget: tuple[int, ...], bank: Bank | None
) -> Request:
    """Unlearn, write the weights, evaluate, and mark the folder as done if nothing is missing."""
    from geniu_lightning.cli.request import Request
    from geniu_lightning.fitting.distributed import total_over_ranks
    from geniu_lightning.fitting.memory import PeakMemory
    from geniu_lightning.runs.cost import cost_of
    from geniu_lightning.tracking import loggers as trackers
    from geniu_lightning.training.next_kit import all_forgotten

    request = Request(config, path, forget)
    if config.next_kit:  # refused before anything takes long
        all_forgotten(request.kit, forget)
    if config.evaluation.metrics and "data" not in request.kit.info.settings:
        raise UserError(
            "the kit does not say which data it was trained on, so nothing can be measured: set"
            " evaluation=none"
        )
    loggers = _loggers(folder, request)
    whole = False
    with trackers.closing(loggers):
        unlearner = _unlearner(request)
        if folder.rank_zero:
            names, method = ", ".join(request.names), config.unlearner.name
            log.info("forgetting %s with %s, which reads %s", names, method, unlearner.access)
        with PeakMemory(request.device) as memory:
            classifier = _run(unlearner, request, folder.path, loggers)
        reads = total_over_ranks(sum(request.data.reads.values()) if request.data else 0)
        if folder.rank_zero:
            seconds = _timings(unlearner.clock.seconds, request, folder.path)
            cost = cost_of(unlearner, request.kit, path, seconds, reads)
            cost["peak_memory_bytes"] = (
                {"absent": "this system does not tell a process its peak of memory"}
                if memory.added is None
                else memory.added
            )
            prior_taken = unlearner.prior_taken
            after = _write_weights(folder.path, request, classifier, prior_taken, cost)
            whole = _evaluate(folder, request, bank, classifier, after, cost, loggers)
    if whole:  # and wandb's file is written, too
        folder.finish()
    return request


def _loggers(folder: RunFolder, request: Request) -> list[Logger]:
    from geniu_lightning.tracking import loggers as trackers

    config = request.config
    tags = [config.unlearner.name, *request.tags(), f"seed {config.seed}"]
    facts = request.facts() | {"revision": revision()}
    return trackers.loggers_of(config, folder.path, "unlearn", facts, tags)


def _unlearner(request: Request) -> Unlearner:
    """Return the method of the settings."""
    settings = plain(request.config.unlearner)
    for of_the_command in ("name", "search"):
        settings.pop(of_the_command, None)
    method: Unlearner = built(
        settings, "unlearner", forget=request.forget, seed=request.config.seed
    )
    return method


def _run(
    unlearner: Unlearner,
    request: Request,
    folder: Path,
    loggers: list[Logger],
    label: str = "unlearning",
) -> nn.Module:
    """Return the classifier that a method makes of a kit's."""
    from geniu_lightning.cli.device import trainer_settings
    from geniu_lightning.fitting.trainer import make_trainer
    from geniu_lightning.unlearning.sources import Sources

    settings = trainer_settings(request.config.trainer)
    recorded = request.kit.info.settings.get("precision")
    if unlearner.from_scratch and recorded is not None:
        settings["precision"] = recorded

    def trainer(steps: int) -> Trainer:
        return make_trainer(
            label,
            **settings,
            folder=folder,
            loggers=loggers,
            max_steps=steps,
            enable_checkpointing=False,
        )

    def open_split(split: str, batch_size: int, seed: int | None, limit: int | None) -> Any:
        return data.loader(
            split, batch_size=batch_size, seed=seed, limit=limit, device=request.device
        )

    if unlearner.access:
        data = _images_for(unlearner, request)
    return unlearner.run(
        request.kit, Sources(unlearner.access, request.forget, open_split), trainer
    )


def _images_for(unlearner: Unlearner, request: Request) -> ImageData:
    """Return the kit's images for a method that reads some.

    Raises:
        DataNotFoundError: If they are nowhere, with the methods that would work.
    """
    try:
        return request.images()
    except DataNotFoundError as error:
        always, with_proxies = methods_without_data()
        raise DataNotFoundError(
            f"{request.config.unlearner.name} reads {unlearner.access}, and {error}; methods that"
            f" read none are {', '.join(always)}, and with unlearner.source=proxies"
            f" {', '.join(with_proxies)}"
        ) from error


def _timings(first: float, request: Request, folder: Path) -> list[float]:
    """Return seconds of unlearning, repeated as often as the evaluation asks for."""
    from geniu_lightning.runs.cost import repeated

    def once(number: int) -> float:
        unlearner = _unlearner(request)
        _run(unlearner, request, folder, [], f"timing {number}")
        return unlearner.clock.seconds

    alone = single_process(request.config.trainer)  # the other processes have gone on
    return repeated(first, request.config.evaluation.get("timings", 1) if alone else 1, once)


def _write_weights(
    folder: Path,
    request: Request,
    classifier: nn.Module,
    prior_taken: float,
    cost: dict[str, Any],
) -> Kit | None:
    """Write the weights and, if it is wanted, the kit for the next request; return that kit."""
    from geniu_lightning.kit.file import Kit
    from geniu_lightning.training.next_kit import next_kit
    from geniu_lightning.unlearning.base import Clock

    kit, forget, config = request.kit, request.forget, request.config
    info = dataclasses.replace(
        kit.info,
        generator=None,
        forgotten=forget,
        prior_taken=kit.info.prior_taken + prior_taken,
        revision=revision(),
    )
    Kit(classifier, info).save(folder / WEIGHTS)
    cost["ended"] = now()
    kit.to(request.device)
    if not config.next_kit or kit.prompts is None:
        return None
    log.info("training the kit for the next request, without %s", ", ".join(request.names))
    clock = Clock()
    with clock:
        after = next_kit(kit, classifier.to(request.device), forget, config.seed, prior_taken)
    cost["next_kit_seconds"] = clock.seconds
    after.info = dataclasses.replace(after.info, revision=revision())
    after.save(folder / KIT)
    return after


def _evaluate_again(
    folder: RunFolder, config: DictConfig, path: Path, forget: tuple[int, ...], bank: Bank | None
) -> None:
    """Evaluate the weights of a finished run, because there are other oracles than at first."""
    from geniu_lightning.cli.request import Request
    from geniu_lightning.kit.file import Kit
    from geniu_lightning.tracking import loggers as trackers

    if not folder.rank_zero:
        return
    request = Request(config, path, forget)
    log.info("evaluating %s again: there are other oracles than at first", folder.path)
    cost = json.loads((folder.path / "metrics.json").read_text())["cost"]
    weights, after = Kit.load(folder.path / WEIGHTS, config.allow_custom), None
    if (folder.path / KIT).is_file():
        after = Kit.load(folder.path / KIT, config.allow_custom).to(request.device)
    loggers = _loggers(folder, request)
    with trackers.closing(loggers):
        whole = _evaluate(folder, request, bank, weights.classifier, after, cost, loggers)
    if whole:
        folder.finish()


def _evaluate(
    folder: RunFolder,
    request: Request,
    bank: Bank | None,
    classifier: nn.Module,
    after: Kit | None,
    cost: dict[str, Any],
    loggers: list[Logger],
) -> bool:
    """Evaluate, write what was found, and return whether nothing is missing.

    Args:
        folder: Of the run.
        request: The kit and the forgotten classes.
        bank: Oracles to compare with.
        classifier: The unlearned one.
        after: The kit for the next request, which then takes the place of the old one.
        cost: As `metrics.json` holds it.
        loggers: Receive what was found.
    """
    from geniu_lightning.cli.judge import Judge
    from geniu_lightning.cli.terminal import say
    from geniu_lightning.receipt import facts as receipt
    from geniu_lightning.tracking import loggers as trackers

    config = request.config

    def train_oracle(bank: Bank, seed: int) -> None:
        add_oracle(config, request.path, request.forget, bank, seed)

    judge = Judge(request, bank, train_oracle)
    stored = request.kit if after is None and cost["reads_prompts"] else after
    result = judge.judge(classifier, stored)
    document = judge.document(result, folder.description | {"cost": cost})
    receipt.write(folder, request, result, document)
    judge.write(folder.path, result, document)  # the last: what is there counts as evaluated
    trackers.show(loggers, result.shown(request, cost))
    say(
        f"{cost['seconds']:.2f} s, {cost['steps']} steps,"
        f" {cost['training_images_read']:,} training images read"
    )
    say(f"weights: {folder.path / WEIGHTS}")
    return bool(result.metrics) or not config.evaluation.metrics


def add_oracle(
    config: DictConfig, path: Path, forget: tuple[int, ...], bank: Bank, seed: int
) -> None:
    """Train one oracle of a bank, unless it is there.

    Raises:
        BusyError: If another process trains it.
    """
    job = OmegaConf.merge(
        OmegaConf.masked_copy(config, ["trainer", "data", "allow_custom"]),
        {
            "unlearner": method_settings("retrain") | {"name": "retrain", "training_seed": seed},
            "evaluation": {"metrics": {}, "split": "test", "bank": None},
            "logger": {"csv": {}},
            "seed": 0,
            "next_kit": False,
            "out": None,
        },
    )
    assert isinstance(job, DictConfig)  # as mappings are merged
    folder = bank.run(seed)
    carry_out("unlearn", job, folder, partial(_train_oracle, folder, job, path, forget, bank))


def _train_oracle(
    folder: RunFolder, job: DictConfig, path: Path, forget: tuple[int, ...], bank: Bank
) -> None:
    from geniu_lightning.cli import assess
    from geniu_lightning.kit.file import Kit

    request = _unlearn_in(folder, job, path, forget, None)
    if folder.rank_zero:
        oracle = Kit.load(folder.path / WEIGHTS, job.allow_custom).to(request.device)
        assess.remember_outputs(bank.folder, oracle.classifier, request.images())


if __name__ == "__main__":  # a job of a sweep in a process of its own
    main()
