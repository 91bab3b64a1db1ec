"""One training run: from settings to a kit, metrics and pictures."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from geniu_lightning.cli import terminal
from geniu_lightning.cli.data import data_of
from geniu_lightning.cli.device import device_of
from geniu_lightning.cli.fit_kit import archive_of, fit_kit, fresh_networks, kit_of, module_of
from geniu_lightning.cli.model_evaluation import evaluate_model
from geniu_lightning.cli.results import VERSION
from geniu_lightning.data.classes import labelled
from geniu_lightning.data.module import ImageData
from geniu_lightning.errors import SettingError, UserError
from geniu_lightning.files import write_json
from geniu_lightning.kit.archive_info import ArchiveSettings
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.header import KIT
from geniu_lightning.kit.info import DistributionInfo, KitInfo, NetworkSpec
from geniu_lightning.kit.networks import state_digest
from geniu_lightning.kit.weights import classifier_from
from geniu_lightning.report import pictures
from geniu_lightning.runs.folder import RunFolder
from geniu_lightning.runs.revision import revision
from geniu_lightning.runs.step_clock import StepClock
from geniu_lightning.settings.configs import built, plain
from geniu_lightning.tracking import loggers as trackers
from geniu_lightning.tracking.charts import Shown, numbers_of
from geniu_lightning.training.module import GeniuModule
from geniu_lightning.training.settings import TrainingSettings

log = logging.getLogger(__name__)


def train_in(folder: RunFolder, config: DictConfig) -> None:
    """Train, write the kit, evaluate, and mark the folder as done."""
    settings = plain(config)
    batch = {"batch_size": config.training.batch_size, "seed": config.seed}
    data = data_of(settings["data"], settings["imbalance"], **batch)
    if lacking := [k for k, count in enumerate(data.class_counts) if not count]:
        raise UserError(f"there is no training image of {labelled(lacking, data.names)}")
    module, info = _module(config, data, folder.identity)
    # before the fit: what cannot be compressed as wanted is refused in time
    archive = archive_of(data, info) if folder.rank_zero else {}
    facts = settings | {"revision": revision(), "data_fingerprint": data.fingerprint}
    tags = [config.data.name, f"seed {config.seed}"]
    loggers = trackers.loggers_of(settings.get("logger"), folder.path, "train", facts, tags)
    with trackers.closing(loggers):
        validates = len(data.indices("validation")) > 0
        clock = StepClock()
        if module.fits:
            clock = fit_kit(
                "training", module, data, config.trainer, folder.path, loggers, validates=validates
            )
        if folder.rank_zero:
            kit = kit_of(module, info, data, archive).to(device_of(config.trainer))
            cost = {"training_images": len(data.indices("train")), **clock.cost()}
            _hand_over(config, folder, data, kit, cost, loggers)
    if folder.rank_zero:  # now that all is written, wandb's file too
        folder.finish()


def network_spec(config: DictConfig, group: str, **fitted: Any) -> NetworkSpec:
    """Return the class and arguments of a group's network, with those that the data decide."""
    if config.get("_target_") is None:
        raise SettingError("must name a network", key=f"{group}._target_")
    arguments = plain(config)
    return NetworkSpec(arguments.pop("_target_"), arguments | fitted)


def _module(
    config: DictConfig, data: ImageData, identity: dict[str, Any]
) -> tuple[GeniuModule, KitInfo]:
    """Return the module to fit, and the description of its kit."""
    classes, channels = len(data.names), data.spec.channels
    spec = network_spec(config.model, "model", channels=channels, num_classes=classes)
    generator_spec = None
    if config.generator is not None:
        form = {"channels": channels, "image_size": data.spec.size}
        generator_spec = network_spec(config.generator, "generator", **form)
    codes = None
    if config.distribution is not None:
        codes = data.spec, built(config.distribution, "distribution")
    networks = fresh_networks(spec, generator_spec, codes, config.seed)
    begun = {"initial_sha256": state_digest(networks.classifier)}
    settings: TrainingSettings = built(config.training, "training")
    if config.weights is not None:
        weights = Path(config.weights).expanduser()
        classifier = classifier_from(weights, spec, allow_custom=True).requires_grad_(True)
        networks = networks._replace(classifier=classifier)
        begun = {"weights_sha256": identity["weights_sha256"]}  # where those began is not known
        # one epoch, which yields the scores that exemplars are chosen by
        settings = dataclasses.replace(settings, epochs=1)
    finished = config.weights is not None
    try:
        module = module_of(networks, data, settings, config.seed, finished=finished)
    except SettingError as error:
        raise error.below("training") from error
    distribution = None if networks.codes is None else networks.codes.described(range(classes))
    return module, _info(config, data, spec, generator_spec, begun, distribution)


def _info(
    config: DictConfig,
    data: ImageData,
    classifier: NetworkSpec,
    generator: NetworkSpec | None,
    begun: dict[str, str],
    distribution: DistributionInfo | None,
) -> KitInfo:
    """Return the kit's description; made before training, so that it is refused in time."""
    counts = tuple(data.class_counts)
    archive: ArchiveSettings | None = config.archive and built(config.archive, "archive")
    images = {k: v for k, v in plain(config.data).items() if k != "root"}  # which is this machine's
    groups = ("imbalance", "model", "training", *(["distribution"] if distribution else []))
    return KitInfo(
        classifier=classifier,
        generator=generator,
        class_names=data.names,
        spec=data.spec,
        class_counts=counts,
        data_fingerprint=data.fingerprint,
        seed=config.seed,
        settings={
            "data": images,
            **{k: plain(config[k]) for k in groups},
            "precision": str(config.trainer.precision),
            **begun,
        },
        revision=revision(),
        class_fingerprints=data.class_fingerprints,
        archive=archive.of_counts(counts) if archive else None,
        distribution=distribution,
    )


def _hand_over(
    config: DictConfig,
    folder: RunFolder,
    data: ImageData,
    kit: Kit,
    cost: dict[str, Any],
    loggers: list[Logger],
) -> None:
    """Write kit, metrics and pictures, and print the accuracy of each class."""
    kit.save(folder.path / KIT)
    drawn: dict[str, Path] = {}
    if kit.prompts is not None:  # but no exemplar: training images stay where they were
        drawn["proxies"] = folder.path / "proxies.png"
        proxies = kit.proxies().images.view(*kit.prompts.shape)
        pictures.grid(proxies, data.names, "proxies", drawn["proxies"])
    if kit.distribution is not None:
        drawn["samples"] = folder.path / "samples.png"
        pictures.grid(kit.sample_grid(), data.names, "samples", drawn["samples"])
    found = evaluate_model(config.evaluation, kit, kit.classifier, data, forget=())
    document = {
        "version": VERSION,
        "verdict": None,
        "verdict_reason": "nothing was unlearned",
        "run": folder.identity | {"job": "train", "revision": revision()},
        "cost": cost,
        "metrics": found.metrics,
    }
    write_json(folder.path / "metrics.json", document)
    split = config.evaluation.split
    if found.confusions:
        path = folder.path / "confusion.png"
        pictures.confusion(found.confusions["before"], data.names, f"original, {split}", path)
    shown = Shown(numbers_of(found.metrics, cost), found, data.names, (), split, drawn)
    trackers.show(loggers, shown)
    measured = torch.bincount(data.labels(split), minlength=len(data.names)).tolist()
    accuracies: Sequence[object] = found.accuracies.get("after", len(measured) * ["not measured"])
    columns = ["class", "training images", f"{split} images", f"{split} accuracy"]
    classes = (labelled([k], data.names) for k in range(len(data.names)))
    rows = zip(classes, kit.info.class_counts, measured, accuracies, strict=True)
    terminal.table(f"trained on {data.name}", columns, [*rows])
    if kit.archive:
        size = sum(part.numel() for part in kit.archive.values()) / sum(kit.info.class_counts)
        terminal.say(f"archive: {size:.1f} bytes a training image, as confidential as the images")
    terminal.say(f"kit: {folder.path / KIT}")
