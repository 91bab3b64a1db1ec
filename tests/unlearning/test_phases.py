"""Two phases: the order, the rates, and the optimizer's state."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from geniu_lightning.errors import SettingError
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.impair_repair import ImpairRepair
from tests.unlearning.helpers import GONE, Lab


class Watched(ImpairRepair):
    """Notes at each step the labels, the learning rate, and whether the optimizer has a state."""

    def __init__(self, **settings: Any) -> None:
        quick = partial(torch.optim.Adam, lr=2e-3)
        defaults = {"forget": GONE, "batch_size": 9, "optimizer": quick, "repair_rate": 5e-4}
        super().__init__(**defaults | settings)
        self.seen: list[tuple[set[int], float, bool]] = []

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        optimizer = self.trainer.optimizers[0]
        rate = optimizer.param_groups[0]["lr"]
        self.seen.append(({*batch.labels.tolist()}, rate, len(optimizer.state) > 0))
        return super().loss_terms(batch)


def test_one_phase_ends_before_the_other_begins_and_each_has_its_rate(lab: Lab) -> None:
    for impair, repair in [(3, 4), (0, 3), (3, 0), (1, 1)]:
        method = Watched(impair_steps=impair, repair_steps=repair, source="proxies")
        lab.run(method)
        phases, rates, states = zip(*method.seen, strict=True)
        assert list(phases) == [{1, 3}] * impair + [{0, 2, 4}] * repair
        assert rates == pytest.approx([2e-3] * impair + [5e-4] * repair)
        # the optimizer's state lasts within a phase, not across
        expected = [step > 0 for count in (impair, repair) for step in range(count)]
        assert list(states) == expected
    assert lab.opened == []
    lab.run(Watched(impair_steps=3, repair_steps=4))
    assert [label in GONE for label in lab.read] == [True] * 27 + [False] * 36


def test_rates_and_steps_below_their_bounds_are_refused(lab: Lab) -> None:
    with pytest.raises(SettingError, match="impair_steps must be greater than or equal to 0"):
        Watched(impair_steps=-1, repair_steps=1)
    still = partial(torch.optim.SGD, lr=0.0)
    with pytest.raises(SettingError, match=r"unlearner.optimizer.lr must be greater than 0"):
        lab.run(Watched(impair_steps=1, repair_steps=1, optimizer=still))
