"""Two phases: their order, their rates, and that the second begins with a new optimizer."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.phases import TwoPhases
from geniu_lightning.unlearning.sources import (
    Access,
    ChainBatches,
    RepeatBatch,
    Sources,
    UnlearnBatch,
)
from geniu_lightning.unlearning.tuning import Tuning

TrainerOf = Callable[[int], Trainer]
adam = partial(torch.optim.Adam, lr=2e-3)
sgd = partial(torch.optim.SGD, lr=1e-2, momentum=0.9)


class Toy(TwoPhases, Tuning):
    """Away from the forgotten proxies, then towards the retained ones."""

    sides = Access.FORGET | Access.RETAIN

    def __init__(self, **settings: Any) -> None:
        defaults = {"forget": (1, 3), "source": "proxies", "optimizer": adam, "repair_rate": 5e-4}
        super().__init__(**defaults | settings)
        self.seen: list[tuple[bool, float, int]] = []

    def stream(self, kit: Kit, sources: Sources, sides: Access, steps: int) -> Any:
        counts = ((Access.FORGET, self.impair_steps), (Access.RETAIN, self.repair_steps))
        return ChainBatches([RepeatBatch(self.proxies(kit, side), count) for side, count in counts])

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        optimizer = self.trainer.optimizers[0]
        rate = optimizer.param_groups[0]["lr"]
        self.seen.append((bool(batch.forget.all()), rate, len(optimizer.state)))
        own = self.classifier(batch.images).log_softmax(dim=1)
        own = own.gather(1, batch.labels[:, None]).mean()
        return {"own": own if batch.forget.all() else -own}


def run(method: Toy, kit: Kit, archive: Any, trainer_of: TrainerOf) -> nn.Module:
    return method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)


@pytest.mark.parametrize(("impair", "repair"), [(3, 4), (0, 3), (3, 0), (1, 1)])
def test_one_phase_is_over_before_the_other_begins_and_each_has_its_rate(
    kit: Kit, archive: Any, trainer_of: TrainerOf, impair: int, repair: int
) -> None:
    method = Toy(impair_steps=impair, repair_steps=repair)
    run(method, kit, archive, trainer_of)
    assert [gone for gone, *_ in method.seen] == [True] * impair + [False] * repair
    rates = [rate for _, rate, _ in method.seen]
    assert rates == pytest.approx([2e-3] * impair + [5e-4] * repair)


@pytest.mark.parametrize("optimizer", [adam, sgd])
def test_both_phases_are_what_two_runs_with_an_optimizer_each_are(
    kit: Kit, archive: Any, trainer_of: TrainerOf, optimizer: Any
) -> None:
    both = run(
        Toy(impair_steps=3, repair_steps=3, optimizer=optimizer), kit, archive, trainer_of
    ).state_dict()
    impaired = run(
        Toy(impair_steps=3, repair_steps=0, optimizer=optimizer), kit, archive, trainer_of
    )
    kit.classifier = impaired
    second = partial(optimizer, lr=5e-4)
    mended = run(Toy(impair_steps=0, repair_steps=3, optimizer=second), kit, archive, trainer_of)
    for name, tensor in mended.state_dict().items():
        torch.testing.assert_close(both[name], tensor, rtol=1e-5, atol=1e-7)


def test_the_optimizer_remembers_within_a_phase_but_not_across(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = Toy(impair_steps=2, repair_steps=2)
    run(method, kit, archive, trainer_of)
    assert [held > 0 for *_, held in method.seen] == [False, True, False, True]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"impair_steps": -1}, "unlearner.impair_steps must be at least 0, got -1"),
        ({"repair_steps": -2}, "unlearner.repair_steps must be at least 0, got -2"),
        ({"repair_rate": 0.0}, "unlearner.repair_rate must be above 0, got 0.0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Toy(**{"impair_steps": 1, "repair_steps": 1} | settings)


def test_a_first_rate_of_nothing_is_refused(kit: Kit, archive: Any, trainer_of: TrainerOf) -> None:
    still = partial(torch.optim.SGD, lr=0.0)
    with pytest.raises(UserError, match=r"unlearner.optimizer.lr must be above 0"):
        run(Toy(impair_steps=1, repair_steps=1, optimizer=still), kit, archive, trainer_of)
