"""The Python interface: from a kit and classes to a classifier that has forgotten them."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from geniu_lightning.data.classes import labelled
from geniu_lightning.data.given import GivenImages, Images, refuse_misfits, tensors_of
from geniu_lightning.data.loader import IndexLoader
from geniu_lightning.errors import DataNotFoundError
from geniu_lightning.fitting.messages import PACKAGE, messages, quietly
from geniu_lightning.fitting.trainer import make_trainer
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.header import forgotten, kit_path
from geniu_lightning.settings.configs import built, instead_of_data, method_settings
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.sources import Sources


@dataclass(frozen=True)
class Cost:
    """Cost of unlearning, and what the next request has to know.

    Attributes:
        seconds: From the inputs in memory to final weights.
        steps: Updates of the classifier.
        training_images_read: Reads of training images; 0 for methods that read the kit alone.
        prior_taken: Share of the imbalance that was removed from the logits, for `next_kit`; 0 with
            most methods.
    """

    seconds: float
    steps: int
    training_images_read: int
    prior_taken: float


class Unlearned(NamedTuple):
    """A new network in evaluation mode, without gradients, and the cost of unlearning."""

    classifier: nn.Module
    cost: Cost


def load_kit(path: str | Path, allow_custom: bool = False) -> Kit:
    """Read and verify a kit.

    Args:
        path: The file, or the folder of the training run that wrote it.
        allow_custom: Build networks from outside this package too, which runs their code.

    Returns:
        The kit, on the CPU; `kit.to(device)` moves it, and unlearning runs there.
    """
    return Kit.load(kit_path(str(path)), allow_custom)


def unlearn(
    kit: Kit,
    forget: int | str | Sequence[int | str],
    method: str = "geniu",
    *,
    data: Images | None = None,
    seed: int = 0,
    **settings: Any,  # of the method: whatever its yaml has
) -> Unlearned:
    """Return a classifier that has forgotten classes; the kit stays as it is.

    No file is written. A line of progress is printed every few seconds, or logged where the user
    has set up logging.

    Args:
        kit: Of the trained classifier.
        forget: Classes by index or name; those that the kit has forgotten already are added.
        method: Name of a file in `conf/unlearner`.
        data: The labelled training images, forgotten ones too, as the classifier reads them:
            normalised floats `(N, C, H, W)` and integer labels `(N,)`. Read once, into memory,
            and only by a method that reads images.
        seed: Unlearning seed, of all that the method draws. The global random state stays as it is.
        **settings: Replace those of the method's yaml. A mapping replaces single values of one that
            is there, such as `optimizer={"lr": 1e-3}`.

    Returns:
        The classifier, on the kit's device, and the cost.

    Raises:
        UserError: If there is no such class, method or setting; `DataNotFoundError` if the method
            reads images and there is no `data`; `TrainingDivergedError` at a loss that is no
            finite number.
    """
    names = kit.info.class_names
    if isinstance(forget, np.generic | np.ndarray | Tensor):
        forget = forget.tolist()
    gone = forgotten(forget, kit.info)
    unlearner = _method(method, settings, gone, seed)
    images: GivenImages | None = None
    if unlearner.access:
        with torch.random.fork_rng():  # a loader draws from the global state, though in vain
            images = _images(data, kit, gone, method, unlearner)
    device = next(kit.classifier.parameters()).device
    label = f"forgetting {labelled(gone, names)} with {method}"
    recorded = kit.info.settings.get("precision") if unlearner.from_scratch else None

    def trainer(steps: int) -> Trainer:
        return make_trainer(
            label,
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision=recorded,
            max_steps=steps,
            enable_checkpointing=False,
        )

    def open_split(split: str, batch_size: int, seed: int | None, limit: int | None) -> IndexLoader:
        assert images is not None  # a method without access asks for none
        return images.open(split, batch_size, seed, limit)

    sources = Sources(unlearner.access, gone, open_split)
    # progress is printed, unless the user's logging takes the messages
    printing = nullcontext() if logging.getLogger(PACKAGE).hasHandlers() else messages()
    with quietly(), printing, torch.random.fork_rng(), torch.enable_grad():
        classifier = unlearner.run(kit, sources, trainer).to(device)
    reads = images.reads if images is not None else 0
    cost = Cost(unlearner.clock.seconds, unlearner.steps, reads, unlearner.prior_taken)
    return Unlearned(classifier, cost)


def _method(
    name: str, settings: Mapping[str, Any], forget: tuple[int, ...], seed: int
) -> Unlearner:
    defaults = method_settings(name)
    objects = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and isinstance(defaults.get(key), dict):
            defaults[key] |= value
        else:
            defaults.pop(key, None)
            objects[key] = value
    # what the user made is handed over as it is: Hydra would turn a dataclass into a dictionary
    make = built(defaults | {"_partial_": True}, forget=forget, seed=seed)
    return cast(Unlearner, make(**objects))


def _images(
    data: Images | None, kit: Kit, forget: tuple[int, ...], method: str, unlearner: Unlearner
) -> GivenImages:
    if data is None:
        reads = f"{method} reads {unlearner.access}"
        raise DataNotFoundError(f"{reads}: pass data=; {instead_of_data()}")
    images, labels = tensors_of(data)
    refuse_misfits(images, labels, kit.info.spec, len(kit.info.class_names))
    device = next(kit.classifier.parameters()).device
    return GivenImages(images.to(device), labels.cpu().long(), forget)
