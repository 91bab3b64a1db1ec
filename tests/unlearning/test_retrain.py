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
from geniu_lightning.unlearning.retrain import Retrain, steps_of_retraining
from tests.unlearning.helpers import GONE, Lab, initial


def record(kit: Kit, **changes: Any) -> None:
    """Change the kit's record of its training."""
    recipe = {"training": kit.info.settings["training"] | changes}
    kit.info = dataclasses.replace(kit.info, settings=kit.info.settings | recipe)


def test_every_parameter_and_buffer_is_fresh(lab: Lab) -> None:
    for training_seed, seed in ((None, 7), (9, 9)):
        method = Retrain(forget=GONE, training_seed=training_seed)
        state = torch.get_rng_state()
        lab.prepared(method)
        assert torch.equal(torch.get_rng_state(), state)
        old, new = lab.kit.classifier.state_dict(), method.classifier.state_dict()
        expected = initial(seed).state_dict()
        for name, tensor in new.items():
            assert torch.equal(tensor, expected[name]), name
            assert not torch.equal(tensor, old[name]), name
        assert lab.opened[-1] == ("retain", 12, seed)
        assert all(p.requires_grad for p in method.classifier.parameters())


def test_steps_are_epochs_times_batches_over_the_retain_set(lab: Lab) -> None:
    for epochs, size, steps in [(1, 45, 1), (2, 12, 6), (3, 10, 12), (1, 7, 6)]:
        lab.read.clear()
        record(lab.kit, epochs=epochs, batch_size=size)
        method = Retrain(forget=(2,))  # 36 images are retained
        result = lab.run(method)
        assert method.steps == steps == steps_of_retraining(lab.kit, (2,))
        counts = lab.counts()
        assert counts == [0 if k == 2 else epochs * 9 for k in range(5)]
        assert result.head.out_features == 5


@pytest.mark.parametrize("schedule", ["onecycle", "none"])
def test_it_follows_the_recipe_as_a_plain_loop_does(lab: Lab, schedule: str) -> None:
    record(lab.kit, schedule=schedule, max_gradient_norm=0.5)
    found = lab.run(Retrain(forget=GONE)).state_dict()
    network = initial(7).train()
    loader = lab.open_split("retain", 12, 7)
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
    lab: Lab, monkeypatch: pytest.MonkeyPatch
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
        record(lab.kit, optimizer=optimizer)
        with pytest.raises(UserError, match=r"only optimizers of torch\.optim can be taken"):
            lab.prepared(Retrain(forget=(0,)))
    lab.opened.clear()
    for settings in [
        {},
        {"training": {"epochs": 5}},
        {"training": {"batch_size": 5}},
    ]:
        lab.kit.info = dataclasses.replace(lab.kit.info, settings=settings)
        for ask in (lab.prepared, lambda method: steps_of_retraining(lab.kit, method.forget)):
            with pytest.raises(UserError, match="does not say how it was trained"):
                ask(Retrain(forget=(0,)))
    assert lab.opened == []
