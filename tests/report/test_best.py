"""The rule that marks a method as best."""

import math
from pathlib import Path

import numpy as np
from scipy.stats import ttest_rel

from geniu_lightning.report.aggregate import TRIVIAL, Row, means
from geniu_lightning.report.best import LEVEL, RULE, best_of, told_apart
from tests.report.examples import change, run, table

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()


def row(
    method: str,
    *retain: float,
    seconds: float = 1.0,
    verdicts: dict[str, int] | None = None,
    seeds: tuple[int, ...] = (),
    read: float = 0.0,
    failures: dict[int, str] | None = None,
) -> Row:
    """Return a row that has forgotten, with A_r of each seed; seeds are 1, 2, … if not given."""
    seeds = seeds or tuple(range(1, len(retain) + 1))
    names = ("accuracy.test.retain", "cost.seconds", "cost.training_images_read")
    each = {
        seed: dict(zip(names, (value, seconds, read), strict=True))
        for seed, value in zip(seeds, retain, strict=True)
    }
    return Row(
        "",
        method,
        seeds=seeds,
        mean=means([*each.values()]),
        verdicts={"forgotten": len(seeds)} if verdicts is None else verdicts,
        failures=failures or {},
        each=each,
        runs=len(seeds),
    )


A, B = (0.6, 0.7, 0.8), (0.7, 0.8, 0.901)  # 0.1 apart, whatever the spread of each
C = (0.8, 0.7, 0.6)  # as good as A, seed by seed
THREE = {"suppressed": 3}
CASES = [
    ([row("a", *A), row("b", *B)], "b"),
    ([row("a", *A), row("b", *B, verdicts=THREE)], "a"),
    ([row("a", *A), row("b", *B, verdicts={"forgotten": 2, "suppressed": 1})], "a"),
    ([row("a", *A), row("b", *B, verdicts={"forgotten": 2})], "a"),  # a run without a verdict
    ([row("a", *A), row("b", *B, failures={4: "no memory"})], "a"),
    ([row("a", *A), row("b", *B, verdicts={"untested": 3})], "a"),
    # fewer than three seeds show no spread to compare by
    ([row("a", *A[:2]), row("b", *B[:2])], ""),
    ([row("a", 0.9)], ""),
    # one lucky seed does not beat three, and many do not lose to it
    ([row("a", *A), row("b", 1.0)], "a"),
    ([row("a", *A), row("b", 1.0), row("c", *B, verdicts=THREE)], "a"),
    # differences seed by seed: the spread of the highest excuses nobody
    ([row("a", *A), row("b", *B, seconds=9.0)], "b"),
    ([row("a", *A), row("b", 0.6, 0.7, 0.82, seconds=9.0)], "a"),
    ([row("a", *A), row("b", 0.61, 0.71, 0.81, seconds=9.0)], "a"),  # no spread, no error
    # p = 0.02 is enough for one comparison and, with Holm, not for the least of three
    ([row("a", *A), row("b", 0.7, 0.8, 0.95, seconds=9.0)], "b"),
    ([row("a", *A), row("b", 0.7, 0.8, 0.95, seconds=9.0), row("c", *C, seconds=9.0)], "a"),
    # not told apart: the clearly quicker one, else the higher
    ([row("a", *A, seconds=2.0), row("b", 0.8, 0.7, 0.61, seconds=2.9)], "b"),
    ([row("a", *A, seconds=2.0), row("b", 0.8, 0.7, 0.61, seconds=3.1)], "a"),
    ([row("a", *A, seconds=2.0), row("b", *A, seconds=1.9)], "b"),
    ([row("a", *A, seeds=(1, 2, 3)), row("b", *B, seeds=(2, 3, 4))], ""),
    ([row("a", *A), row("b", *A, 0.8, verdicts={"suppressed": 4})], ""),
    ([row("a", *A, verdicts={"distinguishable": 3})], ""),
    ([], ""),
]


def test_the_best_is_found_by_the_rule() -> None:
    for k, (rows, best) in enumerate(CASES):
        for order in (rows, rows[::-1]):
            assert best_of(order)[0] == best, f"case {k}"


def test_of_equal_methods_any_are_told_apart_in_at_most_one_table_in_twenty() -> None:
    tables, draws = 1000, np.random.default_rng(0)
    for methods in (2, 4):
        for seeds in (3, 5, 10):
            spread = np.linspace(0.004, 0.016, methods)[:, None]
            # A_r of 324 images, which few seeds may show without spread
            for grid in (None, 324):
                wrong = 0
                for _ in range(tables):
                    noise = spread * draws.normal(size=(methods, seeds))
                    found = 0.9 + draws.normal(0, 0.02, seeds) + noise
                    wrong += bool(
                        told_apart(found if grid is None else (found * grid).round() / grid)
                    )
                assert wrong <= tables * (LEVEL + 3 * math.sqrt(LEVEL * 0.95 / tables))


def test_methods_that_differ_are_told_apart_as_scipy_does() -> None:
    first, *others = np.random.default_rng(1).normal(size=(4, 5)) * 0.01 + [
        [0.9],
        [0.8],
        [0.89],
        [0.9],
    ]
    apart = told_apart([first, *others])
    assert (0, 1) in apart
    assert (0, 3) not in apart
    for other in others:
        p = ttest_rel(first, other).pvalue
        assert bool(told_apart([first, other])) == (p <= LEVEL)


def test_why_a_row_is_marked_is_told() -> None:
    alone = best_of([row("a", *A)])[1]
    assert "the only method here with verdict forgotten for all 3 seeds" in alone
    assert "seeds, with the highest A_r." in best_of([row("a", *A), row("b", *B)])[1]
    near = best_of([row("a", *A), row("b", 0.8, 0.7, 0.61, seconds=2.0)])[1]
    assert near.endswith("which A_r does not tell from b, and faster.")
    slow = best_of([row("a", *A), row("b", 0.8, 0.7, 0.61)])[1]
    assert slow.endswith("with the highest A_r; nothing that is as good is clearly faster.")
    assert "read 1,200 training images" in best_of([row("a", *A, read=1200)])[1]


def test_why_no_row_is_marked_is_told() -> None:
    for rows, why in (
        ([], "there are only rows here that methods are compared with."),
        ([row("a", failures={1: "no memory"})], "every method here failed."),
        ([row("a", 0.8, verdicts={})], "no run of a method here has a verdict: that needs"),
        ([row("a", 0.8, verdicts={"damaged": 1})], "no method here has the verdict forgotten in"),
        ([row("a", 0.8, verdicts={"untested": 1})], "untested is not enough"),
        ([row("a", *A), row("b", *A, 0.8, verdicts={})], "forgets in every run (a) has fewer"),
        (
            [row("a", *A[:2]), row("b", *B[:2])],
            "2 training seeds are too few to compare methods: 3 are needed",
        ),
        ([row("a", *A), row("b", *B, seeds=(2, 3, 4))], "different training seeds"),
    ):
        sentence = best_of(rows)[1]
        assert sentence.startswith("No row is marked as best: ")
        assert why in sentence


def test_no_reference_is_marked_and_nothing_among_verdicts_of_different_origin(
    tmp_path: Path,
) -> None:
    def runs(method: str, retain: float) -> list[Path]:
        return [run(tmp_path / f"{method}-{k}", method, k, retain=retain) for k in (1, 2, 3)]

    runs("geniu", 0.5)
    for method in ("none", "retrain", *TRIVIAL):
        assert method in RULE
        assert f"`{method}`" in DOCUMENTED
        runs(method, 0.99)
    assert [x.method for x in table(tmp_path).rows if x.best] == ["geniu"]
    *_, last = runs("finetune", 0.5)
    change(last, run__evaluation__metrics={"cka": {}})
    found = table(tmp_path)
    assert not any(x.best for x in found.rows)
    assert "not all evaluated with the same metrics (only some with cka)" in found.conclusion
    change(last, oracles=[1000, 1001, 1002])
    found = table(tmp_path)
    assert not any(x.best for x in found.rows)
    assert "not compared with the same oracles (finetune: 3 and 5, geniu: 5)" in found.conclusion
