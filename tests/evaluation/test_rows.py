"""Rows: what each network is compared with, when any oracle is left out, and how it is attacked."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from geniu_lightning.evaluation.cache import FileCache
from geniu_lightning.evaluation.context import Context
from geniu_lightning.evaluation.evaluator import Evaluator
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.rows import Rows
from tests.evaluation.test_evaluator import about, biased


class Given(Metric):
    """Compares with the mean over oracles."""

    infos: ClassVar = {"a": MetricInfo("oracle"), "beyond": MetricInfo("oracle")}

    def __call__(self, context: Context) -> Values:
        raise AssertionError("nothing is measured")

    def compared(self, own: Values, oracles: Sequence[Values]) -> Values:
        known = [row["a"] for row in oracles if isinstance(row.get("a"), float)]
        if not known or not isinstance(own.get("a"), float):
            return {}
        return {"beyond": own["a"] - sum(known) / len(known)}


def rows_of(measured: dict[str, dict[int | None, Values]], kin: dict[str, int]) -> Rows:
    return Rows({"x": Given()}, {who: {"x": rows} for who, rows in measured.items()}, kin, 3)


KIN = {"oracle 1": 0, "oracle 2": 1, "oracle 3": 2, "null 1": 0}


def test_peers_are_compared_with_one_another_alone() -> None:
    distances = {  # of each network from oracles 1, 2 and 3
        "unlearned": {0: 1.0, 1: 2.0, 2: 6.0},
        "oracle 1": {1: 10.0, 2: 20.0},
        "oracle 2": {0: 10.0, 2: 30.0},
        "oracle 3": {0: 20.0, 1: 30.0},
        "null 1": {0: 0.0, 1: 8.0, 2: 12.0},
    }
    rows = rows_of(
        {who: {k: {"a": v} for k, v in row.items()} for who, row in distances.items()}, KIN
    )
    assert rows.of("unlearned") == {"x.a": 3.0}
    assert [rows.of(f"oracle {k}")["x.a"] for k in (1, 2, 3)] == [15.0, 20.0, 25.0]
    # without the one that is judged, whose distances would say that others are far as well
    assert [[row["x.a"] for row in rows.peers(k)] for k in range(3)] == [
        [30.0, 30.0],
        [20.0, 20.0],
        [10.0, 10.0],
    ]
    assert rows.of("null 1")["x.a"] == 10.0  # not from the oracle that it was made of


def test_values_that_follow_from_oracles_leave_the_same_ones_out() -> None:
    values = {"unlearned": 9.0, "oracle 1": 1.0, "oracle 2": 2.0, "oracle 3": 6.0, "null 1": 5.0}
    rows = rows_of({who: {None: {"a": value}} for who, value in values.items()}, KIN)
    assert rows.of("unlearned") == {"x.a": 9.0, "x.beyond": 6.0}
    assert rows.of("oracle 1")["x.beyond"] == -3.0
    assert rows.of("null 1")["x.beyond"] == 1.0
    assert [row["x.beyond"] for row in rows.peers(0)] == [-4.0, 4.0]


def test_a_mean_over_oracles_lacks_what_one_of_them_lacks() -> None:
    absent = Absent("no images")
    rows = rows_of(
        {
            "unlearned": {
                0: {"a": 1.0, "b": [1.0, None], "c": [1.0]},
                1: {"a": absent, "b": [3.0, 4.0], "c": [1.0, 2.0]},
                2: {"a": 2.0, "b": [5.0, 6.0], "c": [1.0]},
            },
            **{f"oracle {k}": {} for k in (1, 2, 3)},
        },
        {},
    )
    found = rows.of("unlearned")
    assert (found["x.a"], found["x.b"]) == (absent, [3.0, None])
    assert isinstance(found["x.c"], Absent)
    assert rows.of("unlearned", without=[1])["x.a"] == 1.5


# ---- as the evaluator measures them -----------------------------------------------------------


class Pairs(Metric):
    """Returns the mean distance between the model's bias and the oracles'."""

    needs: ClassVar = frozenset({"oracles"})
    pairwise: ClassVar = True
    infos: ClassVar = {"distance": MetricInfo("oracle")}

    def __call__(self, context: Context) -> Values:
        own = context.unlearned.head.bias[0]
        (oracle,) = context.oracles  # one at a time
        return {"distance": float((own - oracle.head.bias[0]).abs())}


class Attack(Metric):
    """Breaks a network by its strength; has three."""

    infos: ClassVar = {"loss": MetricInfo("oracle"), "strength": MetricInfo("oracle")}

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = strength

    @property
    def variants(self) -> list[Metric]:
        return [Attack(strength) for strength in (4.0, 2.0, 1.0)]

    def too_strong(self, oracles: Sequence[Values]) -> bool:
        return sum(row["loss"] for row in oracles) / len(oracles) > 0.05

    def __call__(self, context: Context) -> Values:
        loss = self.strength * float(context.unlearned.head.bias[0]) / 100
        return {"loss": loss, "strength": self.strength}


def test_of_a_pairwise_metric_no_row_holds_a_distance_to_the_oracle_that_is_left_out() -> None:
    oracles = [biased(value) for value in (1.0, 2.0, 6.0)]
    # the first null was made of the first oracle
    nulls = {"nulls": (biased(1.5), biased(4.0))}
    given = about(*oracles, original=biased(12.0), **nulls)
    evaluator = Evaluator({"x": Pairs()})
    found = evaluator.evaluate(given.evaluating(biased(9.0)))
    assert found.values["x.distance"] == pytest.approx((8 + 7 + 3) / 3)
    assert found.of_oracles("x.distance") == pytest.approx([3, 2.5, 4.5])
    assert [row["x.distance"] for row in found.nulls] == pytest.approx([(0.5 + 4.5) / 2, 2.5])


def test_an_attack_is_made_with_the_greatest_strength_that_leaves_oracles_whole(
    tmp_path: Path,
) -> None:
    """Which oracles lose is what counts; then every network is attacked alike."""
    for biases, expected in (((1.0, 1.5), 4.0), ((1.0, 2.0), 2.0), ((9.0, 9.0), 1.0)):
        evaluator = Evaluator({"x": Attack()}, FileCache(tmp_path))
        given = about(*map(biased, biases), original=biased(50.0))
        for _ in range(2):  # measured, and from the cache
            found = evaluator.evaluate(given.evaluating(biased(3.0)))
            rows = (found.values, *found.oracles, *found.controls.values())
            assert {row["x.strength"] for row in rows} == {expected}, biases
        assert evaluator.images_left(given) == 0
    alone = Evaluator({"x": Attack()}).evaluate(about(original=biased(50.0)))
    assert alone.values["x.strength"] == 1.0
