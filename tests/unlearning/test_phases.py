"""Phases: the order, the rates, and the optimizer's state."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from geniu_lightning.errors import SettingError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.batches import CombinedBatches, UnlearnBatch
from geniu_lightning.unlearning.phases import TwoPhases
from geniu_lightning.unlearning.sources import Access, Sources
from geniu_lightning.unlearning.tuning import Tuning
from tests.unlearning.helpers import GONE, Lab


class Toy(TwoPhases, Tuning):
    """Away from the forget classes' proxies, then towards the retained ones."""

    sides = Access.FORGET | Access.RETAIN

    def __init__(self, **settings: Any) -> None:
        quick = partial(torch.optim.Adam, lr=2e-3)
        defaults = {"forget": GONE, "source": "proxies", "optimizer": quick, "repair_rate": 5e-4}
        super().__init__(**defaults | settings)
        self.seen: list[tuple[bool, float, bool]] = []

    def make_batches(self, kit: Kit, sources: Sources, sides: Access, steps: int) -> Any:
        make = super().make_batches
        parts = [make(kit, sources, side, steps) for side in sides]
        return CombinedBatches(parts, [[0]] * self.impair_steps + [[1]] * self.repair_steps)

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        optimizer = self.trainer.optimizers[0]
        rate = optimizer.param_groups[0]["lr"]
        self.seen.append((bool(batch.forget.all()), rate, len(optimizer.state) > 0))
        own = self.classifier(batch.images).log_softmax(dim=1)
        own = own.gather(1, batch.labels[:, None]).mean()
        return {"own": own if batch.forget.all() else -own}


def test_one_phase_ends_before_the_other_begins_and_each_has_its_rate(lab: Lab) -> None:
    for impair, repair in [(3, 4), (0, 3), (3, 0), (1, 1)]:
        method = Toy(impair_steps=impair, repair_steps=repair)
        lab.run(method)
        phases, rates, states = zip(*method.seen, strict=True)
        assert list(phases) == [True] * impair + [False] * repair
        assert rates == pytest.approx([2e-3] * impair + [5e-4] * repair)
        # the optimizer's state lasts within a phase, not across
        expected = [step > 0 for count in (impair, repair) for step in range(count)]
        assert list(states) == expected


def test_rates_and_steps_below_their_bounds_are_refused(lab: Lab) -> None:
    with pytest.raises(SettingError, match="impair_steps must be greater than or equal to 0"):
        Toy(impair_steps=-1, repair_steps=1)
    still = partial(torch.optim.SGD, lr=0.0)
    with pytest.raises(SettingError, match=r"unlearner.optimizer.lr must be greater than 0"):
        lab.run(Toy(impair_steps=1, repair_steps=1, optimizer=still))
