"""A training of a few steps on generated images, shared by the tests."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.data.loader import IndexLoader
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.models.vae import VAE
from geniu_lightning.training.codes import CodeNetworks, CodeSettings
from geniu_lightning.training.exemplars import IndexedExemplars
from geniu_lightning.training.module import GeniuModule
from geniu_lightning.training.settings import TrainingSettings

CLASSES, PER_CLASS, SIZE = 3, 2, 16
BATCH, BATCHES, EPOCHS = 6, 4, 3
SPEC = ImageSpec.of(SIZE, 1, 0.4, 0.3)
LABELS = torch.tensor([0] * 10 + [1] * 8 + [2] * 6)
PIXELS = (
    torch.randint(0, 85, (len(LABELS), 1, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    + 85 * LABELS.view(-1, 1, 1, 1)
).to(torch.uint8)
IMAGES = PIXELS / 255
# the tests' own settings, so that a change of the defaults cannot move them
SETTINGS: dict[str, Any] = {
    "epochs": EPOCHS,
    "optimizer": partial(torch.optim.Adam, lr=0.01),
    "schedule": "onecycle",
    "generator_optimizer": partial(torch.optim.Adam, lr=0.001),
    "prompt_optimizer": partial(torch.optim.Adam, lr=0.1),
    "proxies_per_class": PER_CLASS,
    "every_n_steps": 2,
    "min_generator_steps": 10,
    "prompt_batch": 4,
    "exemplars_until": 0.67,
}


class DroppedOut(AllCNN):
    """A classifier that draws random numbers while it is trained."""

    def features(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(super().features(images), 0.3, self.training)


def networks(kind: type[AllCNN] = AllCNN) -> tuple[AllCNN, VAE]:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return kind(1, CLASSES, width=2), VAE(1, SIZE, latent=8)


def images_of(classes: Sequence[int]) -> Tensor:
    return torch.isin(LABELS, torch.tensor(list(classes))).nonzero().flatten()


def loader_of(augmented: bool = False, classes: Sequence[int] = range(CLASSES)) -> IndexLoader:
    def read(rows: Tensor, augmentation: int | None) -> tuple[Tensor, Tensor]:
        images = IMAGES[rows]
        if augmented:
            assert augmentation is not None  # as the loader has a seed
            rng = torch.Generator().manual_seed(augmentation)
            images = images + 0.1 * torch.randn(images.shape, generator=rng)
        return SPEC.normalise(images), LABELS[rows]

    return IndexLoader(read, images_of(classes), BATCH, 3)


def module_of(
    *,
    with_generator: bool = True,
    kind: type[AllCNN] = AllCNN,
    finished: bool = False,
    classes: Sequence[int] | None = None,
    read: Callable[[Tensor], Tensor] = IMAGES.__getitem__,
    codes: CodeSettings | None = None,
    **changed: Any,
) -> GeniuModule:
    classifier, vae = networks(kind)
    torch.manual_seed(12)
    settings = TrainingSettings(**SETTINGS | changed)
    exemplars = IndexedExemplars(
        LABELS,
        torch.arange(len(LABELS)) if classes is None else images_of(classes),
        read,
        classes,
        num_classes=CLASSES,
        per_class=PER_CLASS,
        strategy=settings.exemplar_strategy,
        seed=3,
    )
    return GeniuModule(
        classifier=classifier,
        generator=vae if with_generator else None,
        exemplars=exemplars if with_generator else None,
        codes=codes and CodeNetworks(SPEC, codes),
        spec=SPEC,
        settings=settings,
        steps_per_epoch=BATCHES,
        seed=3,
        finished=finished,
    )


def trainer_of(module: GeniuModule, folder: Path, *callbacks: Callback, **more: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_epochs=module.update_schedule.max_epochs,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **{"devices": 1, "limit_val_batches": 0, "logger": False} | more,
    )


def fit(module: GeniuModule, folder: Path, *callbacks: Callback, **more: Any) -> Trainer:
    trainer = trainer_of(module, folder, *callbacks)
    trainer.fit(module, more.pop("data", None) or loader_of(), **more)
    return trainer


def part(module: GeniuModule, name: str) -> dict[str, Tensor]:
    """Return copies of the tensors of the classifier, the generator or the prompts."""
    return {k: v.clone() for k, v in module.state_dict().items() if k.startswith(name)}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


PARTS = ("classifier", "proxy_generator", "prompts")


class Moves(Callback):
    """Records at which steps each part moved, and the state after each epoch."""

    def __init__(self) -> None:
        self.moved: dict[str, list[int]] = {name: [] for name in PARTS}
        self.after_epoch: list[dict[str, dict[str, Tensor]]] = []

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        self.before = self.start = {name: part(module, name) for name in PARTS}
        self.step = 0

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        now = {name: part(module, name) for name in PARTS}
        for name in PARTS:
            if not same(now[name], self.before[name]):
                self.moved[name].append(self.step)
        self.before = now
        self.step += 1

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        self.after_epoch.append(self.before)


def tensors_in(thing: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(thing, Tensor):
        yield path, thing
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield from tensors_in(value, f"{path}/{key}")
    elif isinstance(thing, list | tuple | set):
        for key, value in enumerate(thing):
            yield from tensors_in(value, f"{path}/{key}")
    else:
        assert thing is None or isinstance(thing, int | float | str | bool), f"{path}: {thing!r}"
