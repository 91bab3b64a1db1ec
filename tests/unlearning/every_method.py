"""Every method by its configuration, small enough to be run many times."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning import Trainer
from torch import nn

from geniu_lightning.cli.data import recorded_data
from geniu_lightning.data.module import ImageData
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.sources import Sources

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "unlearner").glob("*.yaml"))
COUNTS = {"steps", "impair_steps", "repair_steps", "noise_steps", "max_steps", "min_steps"}


def built(path: Path, forget: tuple[int, ...], most: int = 3, **more: Any) -> Unlearner:
    """Build a method as the app does, with no more than so many steps of each kind."""
    settings = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    assert isinstance(settings, dict)
    assert settings.pop("name") == path.stem
    for name in COUNTS & settings.keys():
        settings[name] = most if settings[name] is None else min(settings[name], most)
    method = instantiate(settings, **{"forget": forget, "seed": 5} | more)
    assert isinstance(method, Unlearner)
    return method


def digest(kit: Kit) -> str:
    """Hash all parameters, buffers and prompts of a kit, and the modes of its networks."""
    found = hashlib.sha256()
    assert kit.generator is not None
    assert kit.prompts is not None
    for network in (kit.classifier, kit.generator):
        named = [*network.named_parameters(), *network.named_buffers()]
        for name, tensor in named:
            found.update(f"{name}{tuple(tensor.shape)}{tensor.requires_grad}".encode())
            found.update(tensor.detach().numpy().tobytes())
        found.update(str([m.training for m in network.modules()]).encode())
    found.update(kit.prompts.numpy().tobytes())
    return found.hexdigest()


def run_on_its_images(
    method: Unlearner, kit: Kit, root: Path | None, trainer_of: Callable[[int], Trainer]
) -> tuple[nn.Module, ImageData]:
    """Run a method on the images that a kit was trained on; return these too, and their reads."""
    data = recorded_data(kit.info, str(root) if root else None)
    data.set_forget(method.forget)

    def open_split(split: str, batch_size: int, seed: int | None, limit: int | None) -> Any:
        return data.loader(split, batch_size=batch_size, seed=seed, limit=limit)

    return method.run(kit, Sources(method.access, method.forget, open_split), trainer_of), data
