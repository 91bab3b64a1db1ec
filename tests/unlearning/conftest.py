"""A kit small enough to unlearn from in a tenth of a second, and training images behind a gate."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from torch import Tensor, nn

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.data.loader import IndexLoader
from geniu_lightning.kit.file import Kit, KitInfo
from geniu_lightning.kit.networks import NetworkSpec, state_digest
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.sources import Access, Sources

CLASSES, PER_CLASS, SIZE = 5, 2, 16
IMAGES_PER_CLASS = 9
SEED = 7  # of the training that never was
RECIPE = {
    "batch_size": 12,
    "epochs": 2,
    "schedule": "onecycle",
    "max_gradient_norm": 1.0,
    "optimizer": {
        "_target_": "torch.optim.SGD",
        "_partial_": True,
        "lr": 0.05,
        "momentum": 0.9,
        "weight_decay": 5e-4,
    },
}

SPEC = ImageSpec.of(SIZE, 1, 0.2, 0.4)


def pictures(labels: Tensor, seed: int) -> Tensor:
    """Return images in [0, 1]: a bright band whose place is the class, and noise."""
    noise = torch.rand(len(labels), 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    rows = torch.arange(SIZE).view(1, 1, SIZE, 1)
    band = (rows - 3 * labels.view(-1, 1, 1, 1)).abs() <= 2
    return 0.7 * band + 0.3 * noise


class Archive:
    """Training images, opened as the app opens them; remembers what was opened and read."""

    def __init__(self) -> None:
        self.labels = torch.arange(CLASSES).repeat(IMAGES_PER_CLASS)
        self.images = SPEC.normalise(pictures(self.labels, seed=11))
        self.opened: list[tuple[str, int, int]] = []
        self.limits: list[int | None] = []
        self.read: list[int] = []  # labels, in the order of reading
        self.forget: tuple[int, ...] = ()

    def sources(self, access: Access, forget: tuple[int, ...]) -> Sources:
        self.forget = forget
        return Sources(access, forget, self.open_split)

    def open_split(
        self, split: str, batch_size: int, seed: int | None, limit: int | None = None
    ) -> IndexLoader:
        self.opened.append((split, batch_size, seed))
        self.limits.append(limit)
        gone = torch.isin(self.labels, torch.tensor(self.forget))
        indices = {"forget": gone, "retain": ~gone}[split].nonzero().flatten()[:limit]

        def read(chosen: Tensor, augmentation: int | None) -> tuple[Tensor, Tensor]:
            self.read += self.labels[chosen].tolist()
            return self.images[chosen], self.labels[chosen]

        return IndexLoader(read, indices, batch_size, seed)


@pytest.fixture(scope="session")
def fitted_kit() -> Kit:
    """Return a kit whose classifier is sure of every proxy; shared, so not to be handed out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same bits on every machine with as many as it likes
    with torch.random.fork_rng():
        torch.manual_seed(54)
        specs = (
            NetworkSpec(
                "geniu_lightning.models.allcnn.AllCNN",
                {"channels": 1, "num_classes": CLASSES, "width": 4},
            ),
            NetworkSpec(
                "geniu_lightning.models.vae.VAE",
                {"channels": 1, "image_size": SIZE, "latent": 8},
            ),
        )
        kit = Kit(
            specs[0].build_classifier(),
            KitInfo(
                classifier=specs[0],
                generator=specs[1],
                class_names=tuple("abcde"),
                spec=SPEC,
                class_counts=(IMAGES_PER_CLASS,) * CLASSES,
                data_fingerprint="none",
                seed=SEED,
                settings={
                    "training": RECIPE,
                    "precision": "32-true",
                    "initial_sha256": _first_digest(specs[0]),
                },
            ),
            specs[1].build(),
            torch.randn(CLASSES, PER_CLASS, 1, SIZE, SIZE),
        )
        _fit(kit)
    torch.set_num_threads(threads)
    return kit


def _first_digest(classifier: NetworkSpec) -> str:
    """Hash the weights that training with the kit's seed begins with, as training records them."""
    with torch.random.fork_rng():
        torch.manual_seed(stream("init", SEED))
        return state_digest(classifier.build_classifier())


def _fit(kit: Kit) -> None:
    """Teach the generator to show each class, and the classifier to tell them apart.

    In 64 bits: in 32 the rounding of one processor or another grows into another kit altogether.
    """
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    shown = pictures(labels, seed=5)
    prompts = kit.prompts.flatten(0, 1)
    prompts, shown = prompts.double(), shown.double()
    _descend(
        kit.generator, 40, lambda network: F.mse_loss(network(prompts, sample=False).images, shown)
    )
    seen = [pictures(labels, seed) for seed in range(20, 24)]
    images = SPEC.normalise(torch.cat([kit.proxies().images, *seen])).double()
    _descend(kit.classifier, 60, lambda network: F.cross_entropy(network(images), labels.repeat(5)))


def _descend(network: nn.Module, steps: int, loss: Callable[[nn.Module], Tensor]) -> None:
    network.double().train().requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(network).backward()
        optimizer.step()
    network.float().eval().requires_grad_(False)


@pytest.fixture
def kit(fitted_kit: Kit) -> Kit:
    """Return a kit of the test's own."""
    return copy.deepcopy(fitted_kit)


@pytest.fixture(scope="session")
def new_archive() -> type[Archive]:
    return Archive


@pytest.fixture
def archive() -> Archive:
    return Archive()


@pytest.fixture(scope="session")
def trainer_of() -> Callable[[int], Trainer]:
    """Return what makes a real trainer for a number of steps, as the app does."""

    def make(steps: int, **more: Any) -> Trainer:
        settings = {"logger": False} | more
        return Trainer(
            max_steps=steps,
            max_epochs=-1,
            accelerator="cpu",
            devices=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            **settings,
        )

    return make
