"""SCRUB: the order of steps, the distance, and who moves."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.scrub import Scrub
from geniu_lightning.unlearning.sources import Access, Sources, UnlearnBatch, marked

TrainerOf = Callable[[int], Trainer]
adam = partial(torch.optim.Adam, lr=3e-3)


class Watched(Scrub):
    """Remembers the batches that it was given."""

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        self.seen = [*getattr(self, "seen", []), batch]
        return super().loss_terms(batch)


def test_terms_are_the_documented_formula_on_either_side() -> None:
    torch.manual_seed(1)
    now, original = 3 * torch.randn(6, 5), 3 * torch.randn(6, 5)
    labels = torch.tensor([1, 3, 1, 0, 2, 4])
    method = Scrub(forget=(1, 3), alpha=0.3, gamma=0.7, temperature=3.0, optimizer=adam)
    z, z_t = now.double().numpy(), original.double().numpy()
    distance = 9 * rel_entr(softmax(z_t / 3, axis=1), softmax(z / 3, axis=1)).sum(axis=1)
    loss = -log_softmax(z, axis=1)[range(6), labels]
    found = {}
    for side in (slice(0, 3), slice(3, 6)):
        method.teacher = lambda images, side=side: original[side]
        found |= method.loss_terms(marked(now[side], labels[side], (1, 3)))
    expected = {
        "forget": -np.mean(distance[:3]),
        "retain_distance": 0.3 * np.mean(distance[3:]),
        "retain": 0.7 * np.mean(loss[3:]),
    }
    assert {k: v.item() for k, v in found.items()} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("source", ["data", "proxies"])
def test_max_steps_come_first_in_their_rounds_and_repair_comes_last(
    kit: Kit, archive: Any, trainer_of: TrainerOf, source: str
) -> None:
    counts = {"rounds": 3, "max_rounds": 2, "max_steps": 2, "min_steps": 3}
    method = Watched(forget=(1, 3), optimizer=adam, batch_size=6, source=source, **counts)
    method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    assert method.steps == len(method.seen) == 2 * 2 + 3 * 3
    assert all(len(set(batch.forget.tolist())) == 1 for batch in method.seen)
    order = "".join("f" if batch.forget[0] else "r" for batch in method.seen)
    assert order == "ff" + "rrr" + "ff" + "rrr" + "rrr"


def test_each_side_goes_on_where_its_last_round_left_it(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    # 18 forgotten images and 27 retained ones in batches of 9: two and three batches an epoch
    counts = {"rounds": 3, "max_rounds": 2, "max_steps": 1, "min_steps": 1}
    method = Watched(forget=(1, 3), optimizer=adam, batch_size=9, **counts)
    method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    for gone, images in ((True, 18), (False, 27)):
        seen = torch.cat([b.images for b in method.seen if b.forget[0] == gone])
        assert len(seen) == len(seen.flatten(1).unique(dim=0)) == images  # none came twice


def test_steps_move_the_student_and_leave_the_teacher(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = Scrub(forget=(1, 3), optimizer=adam, rounds=1, max_rounds=0, min_steps=1, batch_size=9)
    result = method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    assert not torch.equal(result.head.weight, kit.classifier.head.weight)
    taught = method.teacher.network.state_dict()
    assert all(torch.equal(t, taught[name]) for name, t in kit.classifier.state_dict().items())


class Nudged(Scrub):
    """Is a little away from its teacher, so that rounding does not say which way is away."""

    def prepare(self, kit: Kit, sources: Sources) -> None:
        super().prepare(kit, sources)
        with torch.no_grad():
            self.classifier.head.bias[list(self.forget)] -= 0.1


def test_rounds_forget_and_keep(kit: Kit, archive: Any, trainer_of: TrainerOf) -> None:
    method = Nudged(
        forget=(1, 3),
        optimizer=adam,
        rounds=3,
        max_rounds=2,
        max_steps=5,
        min_steps=8,
        batch_size=9,
        max_gradient_norm=1.0,
    )
    result = method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))
    right = result(archive.images).argmax(dim=1) == archive.labels
    assert method.access == Access.FORGET | Access.RETAIN
    assert right[gone].float().mean() < 0.5
    assert right[~gone].float().mean() > 0.8


@pytest.mark.parametrize(
    "settings",
    [{"rounds": 0}, {"max_rounds": 6}, {"max_rounds": -1}, {"max_steps": 0}, {"min_steps": 0}],
)
def test_a_schedule_that_cannot_be_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"unlearner\.rounds, max_steps and min_steps must be"):
        Scrub(forget=(1,), optimizer=adam, **settings)


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(UserError, match=r"unlearner\.temperature must be above 0, got 0"):
        Scrub(forget=(1,), optimizer=adam, temperature=0)
