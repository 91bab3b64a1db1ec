"""The evaluation of one model for any command: images and oracles opened, the Evaluator run."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from geniu_lightning.cli import terminal
from geniu_lightning.cli.oracles import add_oracle, expected_nulls
from geniu_lightning.cli.request import Request
from geniu_lightning.cli.results import Result
from geniu_lightning.data.module import ImageData
from geniu_lightning.errors import DataNotFoundError
from geniu_lightning.evaluation.advice import advice
from geniu_lightning.evaluation.cache import FileCache, FileOutputs
from geniu_lightning.evaluation.context import Context, Proxies, Split, outputs_of
from geniu_lightning.evaluation.evaluator import Evaluation, Evaluator
from geniu_lightning.evaluation.references import resolution
from geniu_lightning.kit.file import Kit
from geniu_lightning.runs.oracles import OracleBank
from geniu_lightning.settings.configs import built, plain
from geniu_lightning.unlearning.networks import fresh_classifier

SPLITS = ("test", "train", "validation")
log = logging.getLogger(__name__)


# networks that a method makes of oracles, whose kits are given by training seed
Nulls = Callable[[Mapping[int, Kit]], Sequence[nn.Module]]


def evaluate_request(
    request: Request, classifier: nn.Module, stored: Kit | None, nulls: Nulls, matched: bool
) -> Result:
    """Evaluate a request's model, with the kit that stays stored with it, if one does.

    `nulls` is called only if the evaluation compares with null runs; `matched` says that the model
    was made as oracles are.
    """
    if not request.config.evaluation.metrics:
        return Result(Evaluation(), missing="evaluation=none")
    try:
        data = request.images()
    except DataNotFoundError as error:
        log.warning("evaluation is left out, until the same command finds the images: %s", error)
        return Result(Evaluation(), missing=str(error))
    bank = request.bank
    if bank is not None and request.config.evaluation.get("nulls"):
        _announce(request, data, bank)
    oracles = _opened_oracles(request, bank) if bank is not None else {}
    made = nulls(oracles) if expected_nulls(request.config, bank) else ()
    found = evaluate_model(
        request.config.evaluation,
        request.kit,
        classifier,
        data,
        request.forget,
        oracles=[oracle.classifier for oracle in oracles.values()],
        nulls=made,
        matched=matched,
        folder=bank.folder if bank and oracles else None,
        stored=stored,
    )
    return Result(found, list(oracles), len(made))


def _announce(request: Request, data: ImageData, bank: OracleBank) -> None:
    """Say what a comparison will be able to resolve, before anything is trained for it."""
    counts = data.labels("test").bincount(minlength=len(data.names))
    images, oracles = int(counts[list(request.forget)].min()), len(bank.expected())
    nulls = expected_nulls(request.config, bank)
    log.info(
        "%s: %d test images, %d oracles, %d null runs; a share of so many images has a standard"
        " deviation of up to %.3f",
        *(request.named, images, oracles, nulls, resolution(0.5, max(images, 2))),
    )
    if text := advice(images, oracles):
        log.info("%s", text)


def _opened_oracles(request: Request, bank: OracleBank) -> dict[int, Kit]:
    """Return the oracles' kits of a bank by training seed, on the request's device.

    Trains the missing ones if the evaluation asks for that, else tells how to.
    """

    def train(seed: int) -> None:
        log.info("training the oracle of seed %d, %d missing", seed, len(bank.missing()))
        add_oracle(request.config, request.kit.info, request.forget, bank, seed)

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
            *(request.config.oracles.folder, len(bank.seeds)),
        )
    custom = request.config.allow_custom
    return {seed: Kit.load(bank.kit(seed), custom).to(request.device) for seed in seeds}


def evaluate_model(
    config: DictConfig,
    kit: Kit,
    classifier: nn.Module,
    data: ImageData,
    forget: tuple[int, ...],
    *,
    oracles: Sequence[nn.Module] = (),
    nulls: Sequence[nn.Module] = (),
    matched: bool = False,
    folder: Path | None = None,
    stored: Kit | None = None,
) -> Evaluation:
    """Return the evaluation of a model by the metrics that a configuration names.

    All is done on the device of the kit, which holds the original. A `folder` holds the cache.
    `stored` is the kit whose proxies stay with the model, if one does.
    """
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
        class_counts=kit.info.class_counts,
        splits={s: split_of(data, s, device) for s in SPLITS if len(data.indices(s))},
        oracles=tuple(oracles),
        nulls=tuple(network.to(device) for network in nulls),
        matched=matched,
        proxies=proxies,
        fresh=lambda seed: fresh_classifier(kit, seed).eval().requires_grad_(False),
        seed=config.seed,
        intact=not kit.info.forgotten,
        store=None if folder is None else FileOutputs(folder / "outputs", tuple(oracles)),
    )
    metrics = {
        name: built(target, f"evaluation.metrics.{name}")
        for name, target in plain(config.metrics).items()
    }
    cache = None if folder is None else FileCache(folder / "measured")
    evaluator = Evaluator(metrics, cache, config.split)
    progress = terminal.waiting(evaluator.seconds_left(context))
    return evaluator.evaluate(replace(context, on_progress=progress))


def split_of(data: ImageData, split: str, device: torch.device) -> Split:
    """Return the images of a split as metrics read them, normalised, on a device."""
    indices = data.indices(split)

    def read(positions: Tensor) -> Tensor:
        return data.spec.normalise(data.read(split, indices[positions], device))

    return Split(data.labels(split), read)


def store_outputs(folder: Path, oracle: nn.Module, data: ImageData) -> None:
    """Store an oracle's outputs on all images in the folder of its bank, for all evaluations."""
    store = FileOutputs(folder / "outputs", (oracle,))
    device = next(oracle.parameters()).device
    for split in SPLITS:
        if len(data.indices(split)):
            store.put(oracle, split, outputs_of(oracle, split_of(data, split, device)))
