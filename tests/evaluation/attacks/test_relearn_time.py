"""Relearn time: counted in steps, and never a number where it is not known."""

import pytest
from torch import nn

from geniu_lightning.evaluation.attacks.relearn_time import RelearnTime
from geniu_lightning.evaluation.metric import Absent
from tests.evaluation.attacks.taught import about


def test_steps_are_counted_and_their_ratio_is_small_where_knowledge_was_left(
    models: dict[str, nn.Module],
) -> None:
    metric = RelearnTime(rate=3e-3, draws=2, scored=40, batch=30)
    rows = {name: metric(about(models, name)) for name in models if name != "mask"}
    oracles = [rows["oracle11"], rows["oracle12"]]
    assert rows["original"]["steps"] == 0.0  # measured before the first step, too
    assert metric.compared(rows["original"], oracles) == {"ain": 0.0}
    assert metric.compared(rows["suppressed"], oracles)["ain"] < 0.8
    assert 0.5 < metric.compared(oracles[0], oracles[1:])["ain"] < 2
    short = RelearnTime(budget=1, rate=1e-6, draws=1, scored=40)
    late = {"steps": Absent("not relearned within 1 steps")}
    assert short(about(models, "oracle11")) == late


def test_a_count_that_is_censored_gives_a_bound() -> None:
    late = Absent("not relearned within 100 steps")
    for own, oracles, expected in (
        (4.0, [2.0, 6.0], 1.0),
        (4.0, [2.0, None, 8.0], 0.5),  # the censored one is the slowest
        (None, [2.0, 6.0], "above 25.00"),
        (4.0, [2.0, None, None], "below 0.04"),
        (None, [2.0, None], "neither"),
        (4.0, [], "no oracles"),
        (4.0, [0.0, 0.0], "at once"),
    ):
        row, *others = [{"steps": late if v is None else v} for v in (own, *oracles)]
        (found,) = RelearnTime().compared(row, others).values()
        if isinstance(expected, str):
            assert isinstance(found, Absent), (own, oracles)
            assert expected in found.reason
        else:
            assert found == pytest.approx(expected)
