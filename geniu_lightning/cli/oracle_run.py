"""The training of one oracle: a kit of the retained classes, by the recipe of another kit."""

import dataclasses
import shutil
from typing import Any

from omegaconf import DictConfig, OmegaConf

from geniu_lightning.cli.data import recorded_data
from geniu_lightning.cli.device import device_of
from geniu_lightning.cli.fit_kit import archive_of, fit_kit, fresh_networks, kit_of, module_of
from geniu_lightning.cli.model_evaluation import store_outputs
from geniu_lightning.cli.results import VERSION
from geniu_lightning.errors import UserError
from geniu_lightning.files import write_json
from geniu_lightning.kit.header import KIT
from geniu_lightning.kit.info import KitInfo
from geniu_lightning.kit.networks import state_digest
from geniu_lightning.runs.folder import RunFolder
from geniu_lightning.runs.revision import revision
from geniu_lightning.tracking import loggers as trackers
from geniu_lightning.training.codes import recorded_codes
from geniu_lightning.training.module import GeniuModule
from geniu_lightning.training.settings import recorded_settings


def train_oracle(
    folder: RunFolder, config: DictConfig, original: KitInfo, forget: tuple[int, ...], seed: int
) -> None:
    """Train, write kit, metrics and outputs for evaluations, and mark the folder as done.

    The classifier's head and the numbers of the classes are those of the original.

    Args:
        folder: Of the oracle, in that of its bank.
        config: `trainer`, `data` and `allow_custom` of the command.
        original: Whose recipe is followed.
        forget: Classes of which no training image is read.
        seed: Training seed.
    """
    settings = recorded_settings(original.settings["training"])
    custom = bool(config.allow_custom)
    data = recorded_data(
        original,
        **config.data,
        forget=forget,
        allow_custom=custom,
        batch_size=settings.batch_size,
        seed=seed,
    )
    data.set_forget(forget)
    data.training_split = "retain"
    codes = None
    if original.distribution is not None:
        codes = data.spec, recorded_codes(original.settings.get("distribution") or {})
    networks = fresh_networks(original.classifier, original.generator, codes, seed, custom)
    info = _info(original, forget, seed, state_digest(networks.classifier))
    if networks.generator and len(info.remaining) * settings.proxies_per_class < 2:
        raise UserError("an oracle would have fewer than two prompts, too few for its generator")
    module = module_of(networks, data, settings, seed, classes=info.remaining)
    trainer = OmegaConf.merge(config.trainer, {"precision": original.settings["precision"]})
    assert isinstance(trainer, DictConfig)  # as mappings are merged
    loggers = trackers.loggers_of({"csv": {}}, folder.path, "oracle", {}, [])
    with trackers.closing(loggers):
        clock = fit_kit(f"oracle {seed}", module, data, trainer, folder.path, loggers)
    if not folder.rank_zero:
        return
    kit = kit_of(module, info, data, archive_of(data, info)).to(device_of(config.trainer))
    kit.save(folder.path / KIT)
    _write_metrics(folder, module, clock.classifier_seconds(_steps(module)), clock.cost())
    store_outputs(folder.path.parent, kit.classifier, data)
    folder.finish()
    shutil.rmtree(folder.path / "checkpoints")  # nobody goes on from them


def _info(original: KitInfo, forget: tuple[int, ...], seed: int, initial: str) -> KitInfo:
    """Return the description of an oracle's kit; counts of all classes stay, as in any kit."""
    settings = {k: v for k, v in original.settings.items() if k != "weights_sha256"}
    return dataclasses.replace(
        original,
        seed=seed,
        settings=settings | {"initial_sha256": initial},
        forgotten=forget,
        prior_taken=0.0,
        revision=revision(),
        archive=original.archive and original.archive.without(forget),
        distribution=original.distribution and original.distribution.without(forget),
    )


def _steps(module: GeniuModule) -> int:
    return module.update_schedule.epochs * module.update_schedule.steps_per_epoch


def _write_metrics(
    folder: RunFolder, module: GeniuModule, seconds: Any, training: dict[str, Any]
) -> None:
    """Write `metrics.json`; `cost.seconds` is the classifier's share, the price of retraining."""
    cost = {"seconds": seconds, "steps": _steps(module), **training}
    document = {
        "version": VERSION,
        "verdict": None,
        "verdict_reason": "an oracle is what others are compared with",
        "run": folder.description["run"] | {"revision": revision()},
        "cost": cost,
        "metrics": {},
    }
    write_json(folder.path / "metrics.json", document)
