"""The rule that marks a method as best."""

from pathlib import Path

from geniu_lightning.report.aggregate import TRIVIAL, Row, means
from geniu_lightning.report.best import RULE, best_of
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


A, B = (0.8, 0.9), (0.9, 1.0)  # always 0.1 apart, whatever the spread of each
CASES = [
    ([row("a", *A), row("b", *B)], "b"),
    ([row("a", *A), row("b", *B, verdicts={"suppressed": 2})], "a"),
    ([row("a", *A), row("b", *B, verdicts={"forgotten": 1, "suppressed": 1})], "a"),
    ([row("a", *A), row("b", *B, verdicts={"forgotten": 1})], "a"),  # a run without a verdict
    ([row("a", *A), row("b", *B, failures={3: "no memory"})], "a"),
    ([row("a", *A), row("b", *B, verdicts={"untested": 2})], "a"),
    # one lucky seed does not beat two, and many do not lose to it
    ([row("a", *A), row("b", 0.95)], "a"),
    ([row("a", *A), row("b", 0.95), row("c", 0.99, 0.99, verdicts={"suppressed": 2})], "a"),
    # differences seed by seed: the spread of the highest excuses nobody
    ([row("a", *A, seconds=1.0), row("b", *B, seconds=9.0)], "b"),
    ([row("a", 0.9, 0.8), row("b", 0.8, 0.92, seconds=9.0)], "a"),
    # one seed: nothing is known of the spread
    ([row("a", 0.89, seconds=1.0), row("b", 0.9, seconds=9.0)], "b"),
    ([row("a", 0.9, seconds=1.0), row("b", 0.9, seconds=9.0)], "a"),
    # not told apart: the clearly quicker one, else the higher
    ([row("a", 0.9, 0.8, seconds=2.0), row("b", 0.8, 0.92, seconds=2.9)], "b"),
    ([row("a", 0.9, 0.8, seconds=2.0), row("b", 0.8, 0.92, seconds=3.1)], "a"),
    ([row("a", *A, seconds=2.0), row("b", *A, seconds=1.9)], "b"),
    # differences of 1.7 and 8.7 standard errors
    ([row("a", 0.8, 0.8, 0.8), row("b", 0.8, 0.9, 0.85, seconds=9.0)], "a"),
    ([row("a", 0.8, 0.8, 0.8), row("b", 0.84, 0.86, 0.85, seconds=9.0)], "b"),
    ([row("a", 0.9, 0.8), row("b", 0.9, 0.81, seconds=1.4), row("c", 0.8, 0.92, seconds=9)], "b"),
    ([row("a", *A, seeds=(1, 2)), row("b", *B, seeds=(2, 3))], ""),
    ([row("a", *A), row("b", 0.8, 0.8, 0.8, verdicts={"suppressed": 3})], ""),
    ([row("a", *A, verdicts={"distinguishable": 2})], ""),
    ([], ""),
]


def test_the_best_is_found_by_the_rule() -> None:
    for k, (rows, best) in enumerate(CASES):
        for order in (rows, rows[::-1]):
            assert best_of(order)[0] == best, f"case {k}"


def test_why_a_row_is_marked_is_told() -> None:
    alone = best_of([row("a", *A)])[1]
    assert "the only method here with verdict forgotten for all 2 seeds" in alone
    highest = best_of([row("a", 0.8), row("b", 0.9)])[1]
    assert "forgotten for the seed, with the highest A_r." in highest
    near = best_of([row("a", 0.9, 0.8), row("b", 0.8, 0.92, seconds=2.0)])[1]
    assert near.endswith("which A_r does not tell from b, and faster.")
    slow = best_of([row("a", 0.9, 0.8), row("b", 0.8, 0.92)])[1]
    assert slow.endswith("with the highest A_r; nothing that is as good is clearly faster.")
    assert "read 1,200 training images" in best_of([row("a", 0.8, read=1200)])[1]


def test_why_no_row_is_marked_is_told() -> None:
    for rows, why in (
        ([], "there are only rows here that methods are compared with."),
        ([row("a", failures={1: "no memory"})], "every method here failed."),
        ([row("a", 0.8, verdicts={})], "no run of a method here has a verdict: that needs"),
        ([row("a", 0.8, verdicts={"damaged": 1})], "no method here has the verdict forgotten in"),
        ([row("a", 0.8, verdicts={"untested": 1})], "The verdict untested is not enough"),
        ([row("a", *A), row("b", *A, 0.8, verdicts={})], "forgets in every run (a) has fewer"),
        ([row("a", 0.8, seeds=(1,)), row("b", 0.9, seeds=(2,))], "different training seeds"),
    ):
        sentence = best_of(rows)[1]
        assert sentence.startswith("No row is marked as best: ")
        assert why in sentence


def test_no_reference_is_marked_and_nothing_among_verdicts_of_different_banks(
    tmp_path: Path,
) -> None:
    run(tmp_path / "a", "geniu", retain=0.5)
    for method in ("none", "retrain", *TRIVIAL):
        assert method in RULE
        assert f"`{method}`" in DOCUMENTED
        run(tmp_path / method, method, retain=0.99)
    assert [x.method for x in table(tmp_path).rows if x.best] == ["geniu"]
    change(run(tmp_path / "b", "finetune"), oracles=[1000, 1001, 1002])
    found = table(tmp_path)
    assert not any(x.best for x in found.rows)
    assert "not compared with the same oracles (finetune: 3, geniu: 5)" in found.conclusion
