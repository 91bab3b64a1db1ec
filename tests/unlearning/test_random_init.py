"""Random initialisation: all of it is new, and it follows from the unlearning seed alone."""

import dataclasses
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import NetworkSpec
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.models.resnet import ResNet18
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.random_init import RandomInit
from geniu_lightning.unlearning.sources import Access

DRAWN = {f"blocks.{i}.0.weight" for i in range(8)} | {"head.weight", "head.bias"}


def no_trainer(steps: int) -> Trainer:
    raise AssertionError("nothing is trained")


def fresh(kit: Kit, archive: Any, seed: int, forget: tuple[int, ...] = (1, 3)) -> dict[str, Tensor]:
    sources = archive.sources(Access.NONE, forget)
    return RandomInit(forget=forget, seed=seed).run(kit, sources, no_trainer).state_dict()


def drawn_at(seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AllCNN(channels=1, num_classes=5, width=4).state_dict()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> set[str]:
    assert first.keys() == second.keys()
    return {name for name, tensor in first.items() if torch.equal(tensor, second[name])}


@pytest.mark.parametrize("seed", [0, 7])
def test_weights_are_what_the_constructor_draws_at_a_seed_of_their_own(
    kit: Kit, archive: Any, seed: int
) -> None:
    found = fresh(kit, archive, seed)
    assert same(found, drawn_at(stream("init", stream("random_init", 7, seed)))) == found.keys()


@pytest.mark.parametrize("forget", [(0,), (1, 3)])
def test_whatever_training_draws_differs_from_the_kit_and_the_rest_is_as_training_begins(
    kit: Kit, archive: Any, forget: tuple[int, ...]
) -> None:
    found, old = fresh(kit, archive, 3, forget), kit.classifier.state_dict()
    assert drawn_at(0).keys() - same(drawn_at(0), drawn_at(1)) == DRAWN
    assert not DRAWN & same(found, old)
    for name in DRAWN:
        assert (found[name] != old[name]).all(), name  # no row, filter or class was spared
    for name in found.keys() - DRAWN:
        one = name.endswith(("running_var", "1.weight"))
        assert (found[name] == float(one)).all(), name


def test_weights_follow_from_both_seeds_and_from_nothing_else(kit: Kit, archive: Any) -> None:
    torch.manual_seed(1)
    first = fresh(kit, archive, 3)
    torch.manual_seed(2)
    assert same(first, fresh(kit, archive, 3, forget=(0,))) == first.keys()
    assert not DRAWN & same(first, fresh(kit, archive, 4))
    kit.info = dataclasses.replace(kit.info, seed=99)
    assert not DRAWN & same(first, fresh(kit, archive, 3))


def test_an_unlearning_seed_equal_to_the_training_seed_is_not_where_training_began(
    kit: Kit, archive: Any
) -> None:
    assert not DRAWN & same(fresh(kit, archive, kit.info.seed), drawn_at(stream("init", 7)))


def test_drawing_leaves_the_global_random_state_alone(kit: Kit, archive: Any) -> None:
    torch.manual_seed(123)  # what ran before may have left the very state that is looked for
    before = torch.get_rng_state()
    RandomInit(forget=(1, 3)).prepare(kit, archive.sources(Access.NONE, (1, 3)))
    assert torch.equal(torch.get_rng_state(), before)


def test_it_is_of_the_kits_kind(kit: Kit, archive: Any) -> None:
    spec = NetworkSpec(
        "geniu_lightning.models.resnet.ResNet18", {"channels": 1, "num_classes": 5, "width": 2}
    )
    info = dataclasses.replace(kit.info, classifier=spec, generator=None)
    other = Kit(ResNet18(channels=1, num_classes=5, width=2), info)
    method = RandomInit(forget=(1, 3))
    result = method.run(other, archive.sources(Access.NONE, (1, 3)), no_trainer)
    assert type(result) is ResNet18
    pairs = zip(result.modules(), other.classifier.modules(), strict=True)
    weights = [(a, b) for a, b in pairs if isinstance(a, nn.Conv2d | nn.Linear)]
    assert len(weights) == 21
    assert all((a.weight != b.weight).all() for a, b in weights)


def test_it_knows_no_class_and_hides_none(kit: Kit, archive: Any) -> None:
    right, answers = [], set()
    for seed in range(20):
        method = RandomInit(forget=(1, 3), seed=seed)
        network = method.run(kit, archive.sources(Access.NONE, (1, 3)), no_trainer)
        said = network(archive.images).argmax(dim=1)
        right.append((said == archive.labels).float().mean().item())
        answers |= set(said.tolist())
    assert (kit.classifier(archive.images).argmax(dim=1) == archive.labels).all()
    assert sum(right) / 20 == pytest.approx(1 / 5, abs=0.1)
    assert answers >= {1, 3}  # forgotten rows are as random as the others
    assert archive.opened == []


def test_nothing_to_forget_is_refused() -> None:
    with pytest.raises(UserError, match="there is no class to forget"):
        RandomInit(forget=())
