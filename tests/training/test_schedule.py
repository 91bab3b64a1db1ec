"""The schedule of updates: they add up, are spread evenly, and begin where exemplars are."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geniu_lightning.errors import SettingError
from geniu_lightning.training.schedule import TrainingSchedule, Updates, UpdateSchedule
from geniu_lightning.training.settings import ProxySettings


@settings(max_examples=60, deadline=None)
@given(
    first=st.integers(0, 9), steps=st.integers(1, 40), prompts=st.integers(0, 40),
    generator=st.integers(0, 90),
)  # fmt: skip
def test_updates_add_up_and_are_spread_evenly(
    first: int, steps: int, prompts: int, generator: int
) -> None:
    schedule = UpdateSchedule(first, steps, Updates(prompts, generator))
    found = [schedule.at(step) for step in range(first + steps + 3)]
    assert set(found[:first] + found[first + steps :]) <= {(0, 0)}
    for column, total in enumerate((prompts, generator)):
        counts = [updates[column] for updates in found[first : first + steps]]
        assert sum(counts) == total
        assert set(counts) <= {total // steps, -(-total // steps)}
        left = [sum(u[column] for u in found[step:]) for step in range(len(found))]
        assert [schedule.left(step)[column] for step in range(len(found))] == left


def test_how_many_updates_there_are_and_when() -> None:
    def schedule(epochs: int = 3, with_generator: bool = True, **changed: Any) -> TrainingSchedule:
        settings = ProxySettings(**{"every_n_steps": 2} | changed)
        return TrainingSchedule(settings, 4, epochs, with_generator)

    for least, every, prompts, generator in (
        (0, 2, 4, 4),  # eight steps, every second
        (10, 2, 5, 10),  # the least number is more
        (40, 2, 8, 40),  # no more updates of prompts than steps
        (1, 100, 1, 1),  # at least one
    ):
        found = schedule(min_generator_steps=least, every_n_steps=every).updates
        assert found == UpdateSchedule(4, 8, Updates(prompts, generator))
    after = schedule(when="after", min_generator_steps=7)
    assert (after.max_epochs, after.updates) == (4, UpdateSchedule(12, 4, Updates(3, 7)))
    alone = schedule(with_generator=False, epochs=1)
    assert (alone.max_epochs, alone.updates.at(3)) == (1, (0, 0))
    for share, choices in ((0.01, 1), (0.5, 4), (1.0, 8)):
        long = schedule(epochs=8, exemplars_until=share)
        assert [long.chooses_exemplars(k) for k in range(8)] == [k < choices for k in range(8)]
    with pytest.raises(SettingError, match="epochs must be at least 2, got 1"):
        schedule(epochs=1)
    with pytest.raises(SettingError, match="exemplars_until must be less than or equal to 1"):
        schedule(exemplars_until=1.5)
