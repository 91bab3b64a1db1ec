"""Retrain: the recipe that it follows, and the kits that it refuses."""

import dataclasses
import os
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.retrain import Retrain, steps_of_retraining
from geniu_lightning.unlearning.sources import Access
from tests.unlearning.helpers import (
    GONE,
    TrainerOf,
    prepared,
    run,
)


def with_recipe(kit: Kit, **changes: Any) -> Kit:
    recipe = kit.info.settings["training"] | changes
    info = dataclasses.replace(kit.info, settings=kit.info.settings | {"training": recipe})
    return Kit(kit.classifier, info, kit.generator, kit.prompts)


def fresh(kit: Kit, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(stream("init", seed))
        return kit.info.classifier.build_classifier()


def test_every_parameter_and_buffer_is_fresh(kit: Kit, archive: Any) -> None:
    for training_seed, seed in ((None, 7), (9, 9)):
        method = Retrain(forget=GONE, training_seed=training_seed)
        state = torch.get_rng_state()
        method.prepare(kit, archive.sources(Access.RETAIN, GONE))
        assert torch.equal(torch.get_rng_state(), state)
        old, new = kit.classifier.state_dict(), method.classifier.state_dict()
        expected = fresh(kit, seed).state_dict()
        for name, tensor in new.items():
            assert torch.equal(tensor, expected[name]), name
            assert not torch.equal(tensor, old[name]), name
        assert archive.opened[-1] == ("retain", 12, seed)
        assert all(p.requires_grad for p in method.classifier.parameters())


def test_steps_are_epochs_times_batches_over_the_retain_set(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    for epochs, size, steps in [(1, 45, 1), (2, 12, 6), (3, 10, 12), (1, 7, 6)]:
        archive.read.clear()
        taught = with_recipe(kit, epochs=epochs, batch_size=size)
        method = Retrain(forget=(2,))  # 36 images are retained
        result = run(method, taught, archive, trainer_of)
        assert method.steps == steps == steps_of_retraining(taught, (2,))
        counts = torch.bincount(torch.tensor(archive.read), minlength=5).tolist()
        assert counts == [0 if k == 2 else epochs * 9 for k in range(5)]
        assert result.head.out_features == 5


@pytest.mark.parametrize("schedule", ["onecycle", "none"])
def test_it_follows_the_recipe_as_a_plain_loop_does(
    kit: Kit, archive: Any, new_archive: Any, trainer_of: TrainerOf, schedule: str
) -> None:
    kit = with_recipe(kit, schedule=schedule, max_gradient_norm=0.5)
    found = run(Retrain(forget=GONE), kit, archive, trainer_of).state_dict()
    network, other = fresh(kit, 7).train(), new_archive()
    other.forget = GONE
    loader = other.open_split("retain", 12, 7)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, total_steps=6, cycle_momentum=False)
    scheduler = one_cycle(optimizer, 0.05) if schedule == "onecycle" else None
    for _ in range(2):
        for batch in loader:
            optimizer.zero_grad()
            F.cross_entropy(network(batch.images), batch.labels).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(found[name], tensor)


def test_a_kit_of_a_stranger_runs_no_command_and_needs_a_recipe(
    kit: Kit, archive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def called(*_: object) -> int:
        raise AssertionError("the kit ran a command")

    monkeypatch.setattr(os, "system", called)
    for target in [
        *("os.system", "builtins.eval", "torch.optim.Nonsense", "torch.optim.lr_scheduler"),
        *("torch.optim.swa_utils.AveragedModel", "torch.optim.lr_scheduler.os.system", "SGD", ""),
        None,
    ]:
        optimizer = {"_target_": target, "_partial_": True, "command": "true"}
        bad = with_recipe(kit, optimizer=optimizer)
        with pytest.raises(UserError, match=r"only optimizers of torch\.optim can be taken"):
            prepared(Retrain(forget=(0,)), bad, archive)
    archive.opened.clear()
    for settings in [
        {},
        {"training": None},
        {"training": {"epochs": 5}},
        {"training": {"epochs": 0, "batch_size": 8}},
        {"training": {"epochs": 5, "batch_size": "few"}},
    ]:
        info = dataclasses.replace(kit.info, settings=settings, generator=None)
        bare = Kit(kit.classifier, info)
        for ask in (partial(steps_of_retraining, forget=(0,)), None):
            with pytest.raises(UserError, match="does not say how it was trained"):
                ask(bare) if ask else prepared(Retrain(forget=(0,)), bare, archive)
    assert archive.opened == []
