"""Retraining: a new network, retained images alone, and the recipe that the kit records."""

import dataclasses
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from torch import nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import stream
from geniu_lightning.training.module import GeniuModule
from geniu_lightning.training.settings import TrainingSettings
from geniu_lightning.unlearning.retrain import Retrain, steps_of_retraining
from geniu_lightning.unlearning.sources import Access

TrainerOf = Callable[[int], Trainer]


def with_recipe(kit: Kit, **changes: Any) -> Kit:
    recipe = kit.info.settings["training"] | changes
    info = dataclasses.replace(kit.info, settings=kit.info.settings | {"training": recipe})
    return Kit(kit.classifier, info, kit.generator, kit.prompts)


def fresh(kit: Kit, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(stream("init", seed))
        return kit.info.classifier.build_classifier()


@pytest.mark.parametrize("training_seed", [None, 9])
def test_every_parameter_and_buffer_starts_anew(
    kit: Kit, archive: Any, training_seed: int | None
) -> None:
    method = Retrain(forget=(1, 3), training_seed=training_seed)
    method.prepare(kit, archive.sources(Access.RETAIN, (1, 3)))
    seed = 7 if training_seed is None else training_seed
    old, new = kit.classifier.state_dict(), method.classifier.state_dict()
    expected = fresh(kit, seed).state_dict()
    assert old.keys() == new.keys() == expected.keys()
    for name, tensor in new.items():
        assert torch.equal(tensor, expected[name]), name
        assert not torch.equal(tensor, old[name]), name  # nothing of the original is left
        assert tensor.data_ptr() != old[name].data_ptr(), name
    assert archive.opened == [("retain", 12, seed)]
    assert all(p.requires_grad for p in method.classifier.parameters())


def test_building_the_network_leaves_the_global_random_state_alone(kit: Kit, archive: Any) -> None:
    before = torch.get_rng_state()
    Retrain(forget=(0,)).prepare(kit, archive.sources(Access.RETAIN, (0,)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("forget", [(0,), (1, 3)])
def test_all_retained_images_are_read_once_an_epoch_and_no_forgotten_one_ever(
    kit: Kit, archive: Any, trainer_of: TrainerOf, forget: tuple[int, ...]
) -> None:
    kept = [k for k in range(5) if k not in forget]
    Retrain(forget=forget).run(kit, archive.sources(Access.RETAIN, forget), trainer_of)
    assert {split for split, *_ in archive.opened} == {"retain"}
    counts = torch.bincount(torch.tensor(archive.read), minlength=5).tolist()
    assert counts == [2 * 9 if k in kept else 0 for k in range(5)]  # 2 epochs of 9 images a class


@pytest.mark.parametrize(
    ("epochs", "batch_size", "steps"), [(1, 45, 1), (2, 12, 6), (3, 10, 12), (1, 7, 6)]
)
def test_steps_are_epochs_times_batches(
    kit: Kit, archive: Any, trainer_of: TrainerOf, epochs: int, batch_size: int, steps: int
) -> None:
    asked: list[int] = []

    class Counted(Retrain):
        calls = 0

        def loss_terms(self, batch: Any) -> Any:
            self.calls += 1
            assert self.classifier.training  # batch statistics, as training has them
            return super().loss_terms(batch)

    of_recipe = with_recipe(kit, epochs=epochs, batch_size=batch_size)
    method = Counted(forget=(2,))
    method.run(
        of_recipe,
        archive.sources(Access.RETAIN, (2,)),  # 36 images
        lambda n: asked.append(n) or trainer_of(n),
    )
    assert asked == [steps]
    assert method.calls == method.steps == steps
    assert steps_of_retraining(of_recipe, (2,)) == steps


@pytest.mark.parametrize("schedule", ["onecycle", "none"])
def test_it_follows_the_recipe_as_a_plain_loop_does(
    kit: Kit, archive: Any, new_archive: Any, trainer_of: TrainerOf, schedule: str
) -> None:
    kit = with_recipe(kit, schedule=schedule, max_gradient_norm=0.5)
    found = Retrain(forget=(1, 3)).run(kit, archive.sources(Access.RETAIN, (1, 3)), trainer_of)

    network = fresh(kit, 7).train()
    other = new_archive()
    other.forget = (1, 3)
    loader = other.open_split("retain", 12, 7)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    course = (
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=6, cycle_momentum=False)
        if schedule == "onecycle"
        else None
    )
    for _ in range(2):
        for batch in loader:
            optimizer.zero_grad()
            F.cross_entropy(network(batch.images), batch.labels).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()
            if course is not None:
                course.step()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, msg=lambda m, n=name: n + m)


def test_where_no_image_is_forgotten_it_is_what_training_makes(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    kept = ~torch.isin(archive.labels, torch.tensor([1, 3]))
    archive.images, archive.labels = archive.images[kept], archive.labels[kept]
    oracle = Retrain(forget=(1, 3)).run(kit, archive.sources(Access.RETAIN, (1, 3)), trainer_of)

    loader = archive.open_split("retain", 12, 7)
    optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)
    original = GeniuModule(
        classifier=fresh(kit, 7),
        spec=kit.info.spec,
        settings=TrainingSettings(epochs=2, optimizer=optimizer, max_gradient_norm=1.0),
        steps_per_epoch=len(loader),
        seed=7,
    )
    trainer_of(2 * len(loader)).fit(original, loader)
    found = oracle.state_dict()
    for name, tensor in original.classifier.state_dict().items():
        torch.testing.assert_close(found[name], tensor, msg=lambda m, n=name: n + m)
    assert archive.opened[0] == archive.opened[1]


def test_with_more_epochs_it_learns_what_is_kept_and_never_answers_what_is_forgotten(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    sources = archive.sources(Access.RETAIN, (1, 3))
    result = Retrain(forget=(1, 3)).run(with_recipe(kit, epochs=20), sources, trainer_of)
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))
    answers = result(archive.images).argmax(dim=1)
    assert not torch.isin(answers, torch.tensor([1, 3])).any()
    assert (answers == archive.labels)[~gone].float().mean() > 0.9


def test_the_head_keeps_its_width(kit: Kit, archive: Any, trainer_of: TrainerOf) -> None:
    sources = archive.sources(Access.RETAIN, (0, 1, 2))
    result = Retrain(forget=(0, 1, 2)).run(kit, sources, trainer_of)
    assert result.head.out_features == 5


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "torch.optim.Nonsense",
        "torch.optim.lr_scheduler",
        "torch.optim.swa_utils.AveragedModel",
        "torch.optim.lr_scheduler.os.system",
        "SGD",
        "",
        None,
    ],
)
def test_what_is_no_optimizer_of_torch_is_refused_and_not_called(
    kit: Kit, archive: Any, monkeypatch: pytest.MonkeyPatch, target: str | None
) -> None:
    def called(*_: object) -> int:
        raise AssertionError("the kit ran a command")

    monkeypatch.setattr(os, "system", called)
    bad = with_recipe(kit, optimizer={"_target_": target, "_partial_": True, "command": "true"})
    with pytest.raises(UserError, match=r"only optimizers of torch\.optim can be taken from a kit"):
        Retrain(forget=(0,)).prepare(bad, archive.sources(Access.RETAIN, (0,)))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"training": None},
        {"training": {"epochs": 5}},
        {"training": {"epochs": 0, "batch_size": 8}},
        {"training": {"epochs": 5, "batch_size": "few"}},
    ],
)
def test_a_kit_without_a_recipe_is_refused(
    kit: Kit, archive: Any, settings: dict[str, Any]
) -> None:
    bare = Kit(kit.classifier, dataclasses.replace(kit.info, settings=settings, generator=None))
    with pytest.raises(UserError, match="does not say how it was trained"):
        steps_of_retraining(bare, (0,))
    with pytest.raises(UserError, match="does not say how it was trained"):
        Retrain(forget=(0,)).prepare(bare, archive.sources(Access.RETAIN, (0,)))
    assert archive.opened == []
