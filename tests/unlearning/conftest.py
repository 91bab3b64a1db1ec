"""A kit small enough to unlearn from in a tenth of a second."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geniu_lightning.kit.archive_info import ArchiveInfo
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.info import KitInfo, NetworkSpec
from geniu_lightning.kit.networks import state_digest
from tests.unlearning.helpers import (
    CLASSES,
    LOSSLESS,
    PER_CLASS,
    SIZE,
    SPEC,
    Lab,
    archived,
    initial,
    pictures,
)

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
                class_counts=(9,) * CLASSES,
                archive=ArchiveInfo(LOSSLESS, (9,) * CLASSES),
                data_fingerprint="none",
                seed=SEED,
                settings={
                    "training": RECIPE,
                    "precision": "32-true",
                    "initial_sha256": state_digest(initial(SEED)),
                },
            ),
            specs[1].build(),
            torch.randn(CLASSES, PER_CLASS, 1, SIZE, SIZE),
            {k: archived(pictures(torch.full((9,), k), 30 + k)) for k in range(CLASSES)},
        )
        _fit(kit)
    torch.set_num_threads(threads)
    return kit


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


@pytest.fixture
def lab(kit: Kit) -> Lab:
    return Lab(kit)
