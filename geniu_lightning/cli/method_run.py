"""One run of a method on a kit: the method made of its settings, its images opened, its trainer."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger
from torch import nn

from geniu_lightning.cli.device import trainer_settings
from geniu_lightning.cli.request import Request
from geniu_lightning.data.module import ImageData
from geniu_lightning.errors import DataNotFoundError
from geniu_lightning.fitting.trainer import make_trainer
from geniu_lightning.kit.file import Kit
from geniu_lightning.settings.configs import built, instead_of_data, plain
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.sources import Sources


def method_of(config: DictConfig, forget: tuple[int, ...], seed: int) -> Unlearner:
    """Return the method that a configuration names, for one run."""
    settings = plain(config.unlearner)
    del settings["name"]
    method: Unlearner = built(settings, "unlearner", forget=forget, seed=seed)
    return method


def run_method(
    unlearner: Unlearner,
    request: Request,
    kit: Kit,
    folder: Path,
    loggers: list[Logger],
    label: str,
) -> nn.Module:
    """Return the classifier that a method makes of a kit, with the images of a request."""
    settings = trainer_settings(request.config.trainer)
    recorded = kit.info.settings.get("precision")
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
        if not len(data.indices(split)):
            name = request.config.unlearner.name
            raise DataNotFoundError(
                f"{name} reads the {split} images, which are missing; {instead_of_data()}"
            )
        return data.loader(
            split, batch_size=batch_size, seed=seed, limit=limit, device=request.device
        )

    if unlearner.access:
        data = _images_for(unlearner, request)
    sources = Sources(unlearner.access, request.forget, open_split)
    return unlearner.run(kit, sources, trainer)


def _images_for(unlearner: Unlearner, request: Request) -> ImageData:
    """Return the kit's images; if they are nowhere, the error names the methods that would work."""
    try:
        return request.images()
    except DataNotFoundError as error:
        reads = f"{request.config.unlearner.name} reads {unlearner.access}"
        raise DataNotFoundError(f"{reads}, and {error}; {instead_of_data()}") from error
