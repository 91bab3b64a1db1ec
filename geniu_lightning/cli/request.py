"""An unlearning request: a kit, the classes to forget, its images, and oracles to compare with."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from geniu_lightning.cli.data import recorded_data
from geniu_lightning.cli.device import device_of
from geniu_lightning.data.classes import labelled
from geniu_lightning.data.module import ImageData
from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.runs.oracles import OracleBank
from geniu_lightning.runs.revision import revision
from geniu_lightning.settings.configs import plain
from geniu_lightning.tracking.loggers import loggers_of


class Request:
    """One kit and the classes that it is to forget; `bank` is what its model is compared with."""

    def __init__(
        self,
        config: DictConfig,
        path: Path,
        forget: tuple[int, ...],
        bank: OracleBank | None = None,
    ) -> None:
        self.config = config
        self.path = path
        self.forget = forget
        self.bank = bank
        self.device: torch.device = device_of(config.trainer)
        self.kit = Kit.load(path, config.allow_custom).to(self.device)
        self.data: ImageData | None = None
        held = self.kit.info.settings.get("data", {}).get("validation")
        if config.evaluation.metrics and config.evaluation.split == "validation" and not held:
            raise UserError(
                "evaluation=validation needs a kit whose training held images back: train it with"
                " data.validation=0.2"
            )

    @property
    def names(self) -> list[str]:
        """Names of the forgotten classes."""
        return [self.kit.info.class_names[k] for k in self.forget]

    @property
    def named(self) -> str:
        """The forgotten classes in words, by index and name."""
        return "class " + labelled(self.forget, self.kit.info.class_names)

    def loggers(self, folder: Path, job: str, *tags: str, **facts: Any) -> list[Logger]:
        """Return the loggers of a run on this request, with further tags and facts of the run."""
        info, config = self.kit.info, plain(self.config)
        about = {
            "forget": list(self.forget),
            "forget_names": self.names,
            "trained": info.settings | {"seed": info.seed, "revision": info.revision},
            "data_fingerprint": info.data_fingerprint,
            "revision": revision(),
        }
        data = info.settings.get("data", {}).get("name")
        words = [*tags, *filter(None, [data]), *(f"forget {name}" for name in self.names)]
        return loggers_of(config.get("logger"), folder, job, config | about | facts, words)

    def images(self) -> ImageData:
        """Return the kit's images, opened at the first call."""
        if self.data is None:
            config = self.config
            self.data = recorded_data(
                self.kit.info,
                **config.data,
                forget=self.forget,
                allow_custom=config.allow_custom,
            )
            self.data.set_forget(self.forget)
            self.data.place(self.device)
        return self.data
