"""One unlearning run: from a request to weights, next kit, metrics and receipt."""

import dataclasses
import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from torch import nn

from geniu_lightning.cli import results
from geniu_lightning.cli.method_run import method_of, run_method
from geniu_lightning.cli.model_evaluation import evaluate_request
from geniu_lightning.cli.nulls import null_runs
from geniu_lightning.cli.oracles import retrains
from geniu_lightning.cli.request import Request
from geniu_lightning.cli.terminal import say
from geniu_lightning.errors import UserError
from geniu_lightning.files import now
from geniu_lightning.fitting.distributed import total_over_ranks
from geniu_lightning.fitting.memory import PeakMemory
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.header import KIT
from geniu_lightning.receipt import page as receipt
from geniu_lightning.receipt.facts import facts_of
from geniu_lightning.runs.cost import cost_of, repeated
from geniu_lightning.runs.folder import WEIGHTS, RunFolder
from geniu_lightning.runs.processes import single_process
from geniu_lightning.runs.revision import revision
from geniu_lightning.tracking import loggers as trackers
from geniu_lightning.training.next_kit import all_forgotten, next_kit
from geniu_lightning.unlearning.base import Clock

log = logging.getLogger(__name__)


def unlearn_request(folder: RunFolder, request: Request) -> nn.Module:
    """Unlearn, write weights and next kit, evaluate; mark the folder as done if all was measured.

    Returns:
        The unlearned classifier.
    """
    config = request.config
    if config.next_kit:  # refused before anything takes long
        all_forgotten(request.kit, request.forget)
    if config.evaluation.metrics and "data" not in request.kit.info.settings:
        raise UserError(
            "the kit does not say which data it was trained on, so nothing can be measured: set"
            " evaluation=none"
        )
    loggers = _loggers(folder, request)
    whole = False
    with trackers.closing(loggers):
        unlearner = method_of(config, request.forget, config.seed)
        if folder.rank_zero:
            method, access = config.unlearner.name, unlearner.access
            log.info("forgetting %s with %s, which reads %s", request.named, method, access)
        with PeakMemory(request.device) as memory:
            classifier = run_method(
                unlearner, request, request.kit, folder.path, loggers, "unlearning"
            )
        reads = total_over_ranks(sum(request.data.reads.values()) if request.data else 0)
        if folder.rank_zero:
            seconds = _timings(unlearner.clock.seconds, request, folder.path)
            cost = cost_of(unlearner, request.kit, request.path, seconds, reads)
            unknown = {"absent": "this system does not tell a process its peak of memory"}
            cost["peak_memory_bytes"] = unknown if memory.added is None else memory.added
            after = _write_weights(folder.path, request, classifier, unlearner.prior_taken, cost)
            whole = _evaluate(folder, request, classifier, after, cost, loggers)
    if whole:  # and wandb's file is written, too
        folder.finish()
    return classifier


def evaluate_again(folder: RunFolder, request: Request) -> None:
    """Evaluate the weights of a finished run, as it would now be compared with other models."""
    if not folder.rank_zero:
        return
    log.info("evaluating %s again: there are other oracles or null runs than at first", folder.path)
    cost = json.loads((folder.path / "metrics.json").read_text())["cost"]
    custom, after = request.config.allow_custom, None
    weights = Kit.load(folder.path / WEIGHTS, custom)
    if (folder.path / KIT).is_file():
        after = Kit.load(folder.path / KIT, custom).to(request.device)
    loggers = _loggers(folder, request)
    with trackers.closing(loggers):
        whole = _evaluate(folder, request, weights.classifier, after, cost, loggers)
    if whole:
        folder.finish()


def _loggers(folder: RunFolder, request: Request) -> list[Logger]:
    config = request.config
    return request.loggers(folder.path, "unlearn", config.unlearner.name, f"seed {config.seed}")


def _timings(first: float, request: Request, folder: Path) -> list[float]:
    """Return seconds of unlearning, repeated as often as the evaluation asks for."""

    def once(number: int) -> float:
        unlearner = method_of(request.config, request.forget, request.config.seed)
        run_method(unlearner, request, request.kit, folder, [], f"timing {number}")
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
    kit, forget, config = request.kit, request.forget, request.config
    info = kit.info.of_weights(
        forgotten=forget,
        prior_taken=kit.info.prior_taken + prior_taken,
        revision=revision(),
    )
    Kit(classifier, info).save(folder / WEIGHTS)
    cost["ended"] = now()
    kit.to(request.device)
    if not config.next_kit or not kit.info.contents:
        return None
    log.info("making the kit for the next request, without %s", request.named)
    clock = Clock()
    with clock:
        after = next_kit(kit, classifier.to(request.device), forget, config.seed, prior_taken)
    cost["next_kit_seconds"] = clock.seconds
    after.info = dataclasses.replace(after.info, revision=revision())
    after.save(folder / KIT)
    return after


def _evaluate(
    folder: RunFolder,
    request: Request,
    classifier: nn.Module,
    after: Kit | None,
    cost: dict[str, Any],
    loggers: list[Logger],
) -> bool:
    """Evaluate, write metrics, receipt and pictures, print tables; whether nothing is missing."""
    # the kit that stays with the weights: the next one, else the one that was read
    stored = request.kit if after is None and cost["reads_prompts"] else after
    nulls = partial(null_runs, request, cost["seconds"])
    matched = retrains(request.config.unlearner)
    result = evaluate_request(request, classifier, stored, nulls, matched)
    document = results.document(result, folder.description | {"cost": cost}, request.bank)
    page = None
    if document["run"]["job"] != "oracle":  # nobody asked an oracle to forget
        before = result.evaluation.accuracies.get("before")
        weights = folder.path / WEIGHTS
        facts = facts_of(weights, document, request.kit, request.path, before, revision())
        page = receipt.write(folder.path, facts)
    # last: then it counts as evaluated
    trackers.show(loggers, results.write(folder.path, request, result, document))
    images = f"{cost['training_images_read']:,} training images read"
    if archived := cost["archived_images_read"]:
        images += f", and {archived:,} of the kit's archive"
    say(f"{cost['seconds']:.2f} s, {cost['steps']} steps, {images}")
    say(f"weights: {folder.path / WEIGHTS}")
    if page is not None:
        say(f"receipt: {page}")
    return not result.missing or not request.config.evaluation.metrics
