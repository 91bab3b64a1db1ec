from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geniu_lightning.errors import UserError
from geniu_lightning.training.schedule import UpdateSchedule


@settings(max_examples=60, deadline=None)
@given(
    batches=st.integers(1, 12),
    epochs=st.integers(2, 5),
    steps=st.integers(0, 90),
    when=st.sampled_from(["beside", "after"]),
)
def test_due_adds_up_and_is_spread_evenly(batches: int, epochs: int, steps: int, when: Any) -> None:
    cadence = UpdateSchedule(batches, epochs, with_generator=True, when=when)
    first = batches * (epochs if when == "after" else 1)
    last = batches * (epochs + (when == "after"))
    due = [cadence.due(tick, steps) for tick in range(last)]
    assert sum(due) == steps
    assert not any(due[:first])
    assert set(due[first:]) <= {steps // (last - first), -(-steps // (last - first))}


def test_without_a_generator_nothing_is_due() -> None:
    cadence = UpdateSchedule(5, 1, with_generator=False, when="after")
    assert (cadence.max_epochs, cadence.generator_steps, cadence.prompt_steps) == (1, 0, 0)
    assert cadence.due(4, cadence.generator_steps) == 0


def test_exemplars_are_chosen_in_the_first_share_of_epochs_and_at_least_once() -> None:
    half = UpdateSchedule(5, 8, with_generator=True, exemplars_until=0.5)
    assert [half.chooses_exemplars(epoch) for epoch in range(8)] == [True] * 4 + [False] * 4
    little = UpdateSchedule(5, 8, with_generator=True, exemplars_until=0.01)
    assert [little.chooses_exemplars(epoch) for epoch in (0, 1)] == [True, False]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"epochs": 0}, "training.epochs"),
        ({"every_n_steps": 0}, "training.every_n_steps"),
        ({"when": "later"}, "training.when must be one of beside, after"),
        ({"exemplars_until": 0.0}, "training.exemplars_until must lie in"),
        ({"exemplars_until": 1.5}, "training.exemplars_until must lie in"),
        ({"epochs": 1}, "at least 2: its exemplars are chosen in the epoch before"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        UpdateSchedule(**{"steps_per_epoch": 5, "epochs": 4, "with_generator": True} | settings)
