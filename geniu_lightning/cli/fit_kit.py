"""The fit of a kit, which training runs and the oracles of a bank share."""

import logging
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from geniu_lightning.cli.device import trainer_settings
from geniu_lightning.data.images import ImageSpec
from geniu_lightning.data.module import ImageData
from geniu_lightning.errors import KitError, SettingError
from geniu_lightning.fitting.trainer import fit, make_trainer
from geniu_lightning.kit.archive import drawn, encoded, refuse_format, refuse_too_many
from geniu_lightning.kit.distribution import Distribution
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.info import DistributionInfo, KitInfo, NetworkSpec
from geniu_lightning.runs.step_clock import StepClock
from geniu_lightning.seeds import stream
from geniu_lightning.training.codes import CodeNetworks, CodeSettings
from geniu_lightning.training.exemplars import IndexedExemplars
from geniu_lightning.training.mixtures import mixture_of
from geniu_lightning.training.module import GeniuModule
from geniu_lightning.training.settings import TrainingSettings

ENCODED_AT_ONCE = 500  # images

log = logging.getLogger(__name__)


class Networks(NamedTuple):
    """A classifier and what is trained beside it."""

    classifier: nn.Module
    generator: nn.Module | None = None
    codes: CodeNetworks | None = None


def fresh_networks(
    classifier: NetworkSpec,
    generator: NetworkSpec | None,
    codes: tuple[ImageSpec, CodeSettings] | None,
    seed: int,
    allow_custom: bool = True,
) -> Networks:
    """Return the networks with which training begins at a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(stream("init", seed))
        networks = Networks(_named("model", lambda: classifier.build_classifier(allow_custom)))
        if generator is not None:
            torch.manual_seed(stream("init_generator", seed))
            new = _named("generator", lambda: generator.build(allow_custom))
            networks = networks._replace(generator=new)
        if codes is not None:
            torch.manual_seed(stream("init_codes", seed))
            networks = networks._replace(codes=CodeNetworks(*codes))
        return networks


def _named(group: str, build: Callable[[], nn.Module]) -> nn.Module:
    """Return a new network; a wrong setting is named as the command has it."""
    try:
        return build()
    except KitError as error:
        if isinstance(error.__cause__, SettingError):
            raise error.__cause__.below(group) from error
        raise


def module_of(
    networks: Networks,
    data: ImageData,
    settings: TrainingSettings,
    seed: int,
    *,
    finished: bool = False,
    classes: Sequence[int] | None = None,
) -> GeniuModule:
    """Return the module to fit on `data.training_split`, with prompts of some classes or of all."""
    exemplars, images = None, data.indices(data.training_split)
    if networks.generator is not None:
        exemplars = IndexedExemplars(
            data.all_labels,
            images,
            partial(data.read, data.training_split),
            classes,
            num_classes=len(data.names),
            per_class=settings.proxies_per_class,
            strategy=settings.exemplar_strategy,
            seed=seed,
        )
    return GeniuModule(
        classifier=networks.classifier,
        generator=networks.generator,
        exemplars=exemplars,
        codes=networks.codes,
        spec=data.spec,
        settings=settings,
        steps_per_epoch=-(-len(images) // settings.batch_size),
        seed=seed,
        finished=finished,
    )


def fit_kit(
    label: str,
    module: GeniuModule,
    data: ImageData,
    trainer: DictConfig,
    folder: Path,
    loggers: Sequence[Logger],
    *,
    validates: bool = False,
) -> StepClock:
    """Fit a module, from its last checkpoint in the folder if there is one; return its clock."""
    clock = StepClock()
    rates = [LearningRateMonitor(logging_interval="step")] if loggers else []
    fitting = make_trainer(
        label,
        **trainer_settings(trainer),
        folder=folder,
        loggers=loggers,
        callbacks=[_checkpoints(trainer.checkpoint_every_n_steps, folder), clock, *rates],
        log_every_n_steps=module.settings.log_every_n_steps,
        max_epochs=module.update_schedule.max_epochs,
        limit_val_batches=1.0 if validates else 0,
    )
    fit(fitting, module, data, ckpt_path=_resume_point(folder))
    return clock


def archive_of(data: ImageData, info: KitInfo) -> dict[int, Tensor]:
    """Return the compressed images of each class that a kit's description counts.

    They are those of `data.training_split`, as they are before augmentation and normalisation.
    """
    if info.archive is None:
        return {}
    settings, counts = info.archive.settings, info.archive.counts
    refuse_format(settings)
    refuse_too_many(sum(counts), data.spec)
    log.info("compressing %d images, each class apart", sum(counts))
    split, parts = data.training_split, {}
    for k in (k for k, count in enumerate(counts) if count):
        own = data.indices(split)[data.labels(split) == k]
        images = data.read(split, own[drawn(len(own), k, settings.images_per_class)])
        try:
            parts[k] = encoded(images, settings)
        except SettingError as error:
            raise error.below("archive") from error
    return parts


def kit_of(
    module: GeniuModule, info: KitInfo, data: ImageData, archive: Mapping[int, Tensor]
) -> Kit:
    """Return the kit of a fitted module, with an archive and with distributions of the images."""
    prompts = None
    if module.exemplars is not None:
        prompts = module.prompts.detach().unflatten(0, (-1, module.exemplars.per_class))
    distribution = None
    if module.code_networks is not None and info.distribution is not None:
        distribution = _distribution_of(module, module.code_networks, data, info.distribution)
    networks = (module.classifier, info, module.proxy_generator)
    return Kit(*networks, prompts, archive, distribution)


def _distribution_of(
    module: GeniuModule, networks: CodeNetworks, data: ImageData, info: DistributionInfo
) -> Distribution:
    """Return the distributions of the images of `data.training_split`, a mixture a class."""
    log.info("fitting a mixture to the codes of each of %d classes", len(info.classes))
    split, mixtures = data.training_split, {}
    device = next(networks.parameters()).device
    for k in info.classes:
        own = data.indices(split)[data.labels(split) == k]
        batches = (data.read(split, some).to(device) for some in own.split(ENCODED_AT_ONCE))
        seed = stream("mixture", module.seed, k)
        mixtures[k] = mixture_of(networks.codes_of(batches), networks.settings.parts, seed)
    return Distribution(networks.decoder, mixtures)


def _checkpoints(every: int | None, folder: Path) -> ModelCheckpoint:
    # a new file each time, the old one deleted after: killed in between, one of them is whole
    return ModelCheckpoint(
        folder / "checkpoints",
        filename="{epoch}-{step}",
        monitor=None,
        save_top_k=1,
        every_n_train_steps=every,
        every_n_epochs=None if every else 1,
    )


def _resume_point(folder: Path) -> str | None:
    found = sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    whole = [path for path in found if zipfile.is_zipfile(path)]
    if not whole:
        return None
    log.info("going on from %s", whole[-1])
    return str(whole[-1])
