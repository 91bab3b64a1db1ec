"""An unlearning request: a kit, the classes to forget, and the images of the kit."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from geniu_lightning.cli.data import decoding_progress, recorded_data
from geniu_lightning.cli.device import device_of
from geniu_lightning.data.module import ImageData
from geniu_lightning.errors import DataNotFoundError, UserError
from geniu_lightning.kit.file import Kit


class Request:
    """One kit and the classes that it is to forget.

    Args:
        config: `evaluation`, `data`, `trainer` and `allow_custom`.
        path: The kit's file.
        forget: Forgotten classes.

    Attributes:
        kit: On `device`.
        device: This process's own.
        data: The kit's images; `None` before the first call of `images`.

    Raises:
        UserError: If the kit cannot be read, or has no validation images and evaluation needs some.
    """

    def __init__(self, config: DictConfig, path: Path, forget: tuple[int, ...]) -> None:
        self.config = config
        self.path = path
        self.forget = forget
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

    def facts(self) -> dict[str, Any]:
        """Return the facts of a run on this request that its configuration does not hold."""
        info = self.kit.info
        return {
            "forget": list(self.forget),
            "forget_names": self.names,
            "trained": info.settings | {"seed": info.seed, "revision": info.revision},
            "data_fingerprint": info.data_fingerprint,
        }

    def tags(self) -> list[str]:
        """Return the tags of a run on this request."""
        data = self.kit.info.settings.get("data", {}).get("name")
        return [*([data] if data else []), *(f"forget {name}" for name in self.names)]

    def images(self) -> ImageData:
        """Return the kit's images, opened at the first call.

        Raises:
            DataNotFoundError: If they are not found.
        """
        if self.data is None:
            info = self.kit.info
            self.data = recorded_data(
                info.settings,
                self.config.data.root,
                self.config.data.name,
                self.config.allow_custom,
                on_decode=decoding_progress(),
            )
            if self.data.fingerprint != info.data_fingerprint:
                raise DataNotFoundError(
                    "the images found are not those that the kit was trained on (their fingerprint"
                    f" is {self.data.fingerprint[:12]}…, the kit's"
                    f" {info.data_fingerprint[:12]}…); set data.root and data.name"
                )
            self.data.set_forget(self.forget)
            self.data.place(self.device)
        return self.data
