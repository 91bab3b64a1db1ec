"""Random_init: weights of a seed of their own."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import NetworkSpec
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.models.resnet import ResNet18
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.random_init import RandomInit
from tests.unlearning.helpers import (
    GONE,
    no_trainer,
    run,
)


@pytest.fixture
def images(archive: Any) -> Tensor:
    """Return images of every class, mixtures of two, and noise of every size."""
    noise = torch.randn(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    mixed = (archive.images[:, None] + archive.images[None]).flatten(0, 1) / 2
    loud = noise * torch.linspace(0.1, 1000, 60).view(-1, 1, 1, 1)
    return torch.cat([archive.images, mixed, loud])


DRAWN = {f"blocks.{i}.0.weight" for i in range(8)} | {"head.weight", "head.bias"}


def fresh(kit: Kit, archive: Any, seed: int, forget: tuple[int, ...] = GONE) -> dict[str, Tensor]:
    return run(RandomInit(forget=forget, seed=seed), kit, archive, no_trainer).state_dict()


def drawn_at(seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AllCNN(channels=1, num_classes=5, width=4).state_dict()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in first.items() if torch.equal(tensor, second[name])}


def test_weights_are_drawn_at_a_seed_of_both_seeds_and_nothing_else(kit: Kit, archive: Any) -> None:
    for seed in (0, 7):  # the kit's training seed is 7, too
        found = fresh(kit, archive, seed)
        assert same(found, drawn_at(stream("init", stream("random_init", 7, seed)))) == {*found}
        assert not DRAWN & same(found, drawn_at(stream("init", 7)))  # where training began
    old = kit.classifier.state_dict()
    for name, tensor in found.items():
        if name in DRAWN:
            assert (tensor != old[name]).all(), name  # no row, filter or class was spared
        else:
            one = name.endswith(("running_var", "1.weight"))
            assert (tensor == float(one)).all(), name
    torch.manual_seed(2)
    before = torch.get_rng_state()
    RandomInit(forget=GONE).prepare(kit, archive.sources(RandomInit.access, GONE))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(found, fresh(kit, archive, 7, forget=(0,))) == {*found}
    assert not DRAWN & same(found, fresh(kit, archive, 4))
    kit.info = dataclasses.replace(kit.info, seed=99)
    assert not DRAWN & same(found, fresh(kit, archive, 7))


def test_it_is_of_the_kits_architecture_and_knows_no_class(kit: Kit, archive: Any) -> None:
    right, answers = [], set()
    for seed in range(20):
        network = run(RandomInit(forget=GONE, seed=seed), kit, archive, no_trainer)
        found = network(archive.images).argmax(dim=1)
        right.append((found == archive.labels).float().mean().item())
        answers |= set(found.tolist())
    assert sum(right) / 20 == pytest.approx(1 / 5, abs=0.1)
    assert answers >= {*GONE}  # their rows are as random as the others
    sizes = {"channels": 1, "num_classes": 5, "width": 2}
    spec = NetworkSpec("geniu_lightning.models.resnet.ResNet18", sizes)
    other = Kit(ResNet18(**sizes), dataclasses.replace(kit.info, classifier=spec, generator=None))
    result = run(RandomInit(forget=GONE), other, archive, no_trainer)
    assert type(result) is ResNet18
    pairs = zip(result.modules(), other.classifier.modules(), strict=True)
    weights = [(a, b) for a, b in pairs if isinstance(a, nn.Conv2d | nn.Linear)]
    assert len(weights) == 21
    assert all((a.weight != b.weight).all() for a, b in weights)
