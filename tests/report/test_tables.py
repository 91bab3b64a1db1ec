"""Which rows a table has, and which of them is marked."""

import json
from pathlib import Path

import pytest

from geniu_lightning.cli.report import main
from geniu_lightning.errors import UserError
from geniu_lightning.report import runs
from geniu_lightning.report.figures import curves_of
from geniu_lightning.report.rows import Row, gather, means
from geniu_lightning.report.runs import find
from geniu_lightning.report.tables import RULE, TRIVIAL, Line, Table, best_of, tables
from geniu_lightning.runs.oracles import RECIPE
from tests.report.examples import (
    AREA,
    CURVE,
    SETTING,
    change,
    failed,
    relearned,
    run,
    trained_with,
    unlearned_with,
)

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()


def table(folder: Path) -> Table:
    (found,) = tables(find([folder]))
    return found


def line(folder: Path, method: str) -> Line:
    (found,) = [one for one in table(folder).lines if one.row.method == method]
    return found


# ---- which runs belong together --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("data.source.hub_id", "OWNER/A", "OWNER/B"),
        ("data.validation", 0.0, 0.25),
        ("data.flip", "false", "true"),
        ("data.image_size", 32, 28),
        ("model.norm", "batch", "none"),
        ("training.epochs", 3, 30),
        ("training.max_gradient_norm", "null", 1.0),
        ("precision", "32-true", "bf16-mixed"),
    ],
)
def test_runs_of_several_problems_share_no_table(
    tmp_path: Path, name: str, one: object, other: object
) -> None:
    """Neither over seeds, nor over methods, nor in the row of the original."""
    for seed, value in ((1, one), (2, other)):
        for method in ("geniu", f"only{seed}"):
            folder = run(tmp_path / f"{method}{seed}", method, seed)
            written = {"null": None, "true": True, "false": False}.get(str(value), value)
            trained_with(folder, **{name.replace(".", "__"): written})
    first, second = sorted(tables(find([tmp_path])), key=lambda table: table.runs[0].seed)
    assert first.setting == f"{SETTING}, {name} {one}"
    assert second.setting == f"{SETTING}, {name} {other}"
    for seed, found in ((1, first), (2, second)):
        rows = {x.row.method: x.row for x in found.lines if x.row.seeds and x.role != "oracles"}
        assert {method: row.seeds for method, row in rows.items()} == {
            "none": (seed,),
            "geniu": (seed,),
            f"only{seed}": (seed,),
        }


def test_where_images_lie_and_how_prompts_were_trained_make_no_other_problem(
    tmp_path: Path,
) -> None:
    run(tmp_path / "a", "geniu")
    elsewhere = {"data__root": "/elsewhere", "data__cache_folder": "/cache"}
    trained_with(run(tmp_path / "b", "post_hoc"), training__when="after", **elsewhere)
    assert table(tmp_path).setting == SETTING


def test_what_makes_a_problem_is_what_a_bank_is_made_for() -> None:
    assert runs.RECIPE == RECIPE


def test_of_evaluations_of_one_run_the_fuller_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/evaluation.md has it: fast, then full, then judged from its weights."""
    run(tmp_path / "fast", "geniu", retain=0.5, word="not refuted")
    relearned(run(tmp_path / "full", "geniu", retain=0.75), CURVE, AREA)
    run(tmp_path / "judged", "geniu", retain=0.5, word="not refuted")
    found = table(tmp_path)
    assert [one.folder.name for one in found.runs] == ["full"]
    row = line(tmp_path, "geniu").row
    assert (row.seeds, row.runs, row.mean["accuracy.test.retain"]) == ((1,), 1, 0.75)
    assert row.words == {"forgets": 1}
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().err
    for name in ("fast", "judged"):
        assert f"{tmp_path / name} is left out: the same run is judged no less fully in" in said


def test_unlearning_seeds_of_a_kit_are_averaged_within_it(tmp_path: Path) -> None:
    for seed, drawn, retain, word in (
        (1, 0, 0.5, "forgets"),
        (1, 1, 0.75, "hides"),
        (1, 2, 1.0, "forgets"),
        (2, 0, 0.25, "forgets"),
    ):
        folder = run(tmp_path / f"{seed}-{drawn}", "geniu", seed, retain=retain, word=word)
        unlearned_with(folder, seed=drawn)
    found = line(tmp_path, "geniu")
    assert found.row.seeds == (1, 2)
    assert found.row.mean["accuracy.test.retain"] == 0.5  # of 0.75 and 0.25
    assert found.row.std["accuracy.test.retain"] == pytest.approx(0.125**0.5)
    assert found.row.counts["accuracy.test.retain"] == 2
    assert found.words == "forgets 3/4, hides 1/4"
    with pytest.raises(UserError, match="the same method on one kit"):
        gather(find([tmp_path]))  # methods judged by many models need one a kit


def test_a_curve_is_averaged_within_a_kit_first(tmp_path: Path) -> None:
    for seed, drawn, level in ((1, 0, 0.0), (1, 1, 0.5), (2, 0, 1.0)):
        folder = run(tmp_path / f"{seed}-{drawn}", "geniu", seed)
        relearned(unlearned_with(folder, seed=drawn), [level] * 7, level)
    curves = curves_of(table(tmp_path))
    assert curves is not None
    assert curves.methods["geniu"] == [0.625] * 7


def test_a_failure_with_another_unlearning_seed_is_told(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu")
    failed(tmp_path / "b", "geniu", 1, "no memory")
    assert table(tmp_path).failures == []
    document = json.loads((tmp_path / "b" / "failed.json").read_text())
    document["run"]["seed"] = 1
    (tmp_path / "b" / "failed.json").write_text(json.dumps(document))
    assert table(tmp_path).failures == ["geniu, seed 1, failed: no memory"]


def test_two_kits_of_one_seed_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu")
    unlearned_with(run(tmp_path / "b", "geniu"), kit_sha256="of another machine")
    with pytest.raises(UserError, match="kits of the same training seed; name one"):
        table(tmp_path)


# ---- rows to compare with --------------------------------------------------------------------


def test_oracles_are_read_off_the_runs_that_were_compared_with_them(tmp_path: Path) -> None:
    for seed in (1, 2):
        run(tmp_path / f"{seed}", "geniu", seed)
    row = line(tmp_path, "oracles (5)").row
    assert row.mean["accuracy.test.retain"] == 0.875
    assert row.std["accuracy.test.retain"] == 0.0625
    assert row.mean["cost.seconds"] == 16.0
    assert len(row.seeds) == 5


def test_words_of_oracles_are_those_of_all_kits_and_evaluations(tmp_path: Path) -> None:
    for method in ("geniu", "finetune"):  # which are told the same of the oracles
        for seed, words in (
            (1, {"forgets": 5}),
            (2, {"forgets": 5}),
            (3, {"scars": 4, "hides": 1}),
        ):
            change(run(tmp_path / f"{method}{seed}", method, seed), oracle_words=words)
    assert line(tmp_path, "oracles (5)").words == "forgets 10/15, scars 4/15, hides 1/15"
    fast = change(run(tmp_path / "fast", "none", 1), oracle_words={"not refuted": 5})
    unlearned_with(fast, evaluation={"timings": 1})
    assert line(tmp_path, "oracles (5)").words.endswith("not refuted 5/20, scars 4/20, hides 1/20")
    change(run(tmp_path / "masked", "logit_mask", 1), cost={"reads_prompts": False})
    assert line(tmp_path, "oracles (5)").words.startswith("forgets 14/25")  # no kept prompts here


def test_each_bank_of_oracles_has_a_row(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu")
    change(run(tmp_path / "b", "finetune"), oracles=[1000, 1001, 1002])
    oracles = [x.row.method for x in table(tmp_path).lines if x.role == "oracles"]
    assert oracles == ["oracles (3)", "oracles (5)"]


def test_a_bank_of_several_kits_has_one_row(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu")
    trained_with(run(tmp_path / "b", "post_hoc"), training__when="after")
    oracles = [x.row.method for x in table(tmp_path).lines if x.role == "oracles"]
    assert oracles == ["oracles (5)"]


def test_the_original_is_read_off_other_runs_where_none_was_not_run(tmp_path: Path) -> None:
    for method in ("geniu", "finetune"):
        for seed in (1, 2):
            run(tmp_path / f"{method}{seed}", method, seed)
    original = line(tmp_path, "none")
    assert original.label == "none (before)"
    assert original.row.seeds == (1, 2)
    assert original.row.mean["accuracy.test.retain"] == 0.9375  # of 0.875 and 1, once a kit
    assert original.row.counts["accuracy.test.retain"] == 2
    assert original.words == "keeps 2/2"
    run(tmp_path / "none", "none", retain=0.5)
    assert line(tmp_path, "none").row.mean["accuracy.test.retain"] == 0.5


def test_what_was_not_run_is_told_apart_from_what_failed(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu")
    failed(tmp_path / "b", "random_init", 1, "no memory")
    found = table(tmp_path)
    words = {x.row.method: x.words for x in found.lines}
    assert words["logit_mask"] == "not run"
    assert words["random_init"] == "failed"
    assert found.failures == ["random_init, seed 1, failed: no memory"]


def test_a_baseline_is_known_under_another_name(tmp_path: Path) -> None:
    run(tmp_path / "a", "mine", target="geniu_lightning.unlearning.retrain.Retrain")
    run(tmp_path / "b", "masked", target="geniu_lightning.unlearning.logit_mask.LogitMask")
    found = {x.row.method: x for x in table(tmp_path).lines}
    assert found["mine"].role == "retrain"
    assert found["masked"].role == "trivial"
    assert "logit_mask" not in found
    assert not any(x.best for x in found.values())


# ---- the mark --------------------------------------------------------------------------------


def row(
    method: str,
    *retain: float,
    seconds: float = 1.0,
    words: dict[str, int] | None = None,
    seeds: tuple[int, ...] = (),
    read: float = 0.0,
    failures: dict[int, str] | None = None,
) -> Row:
    """A row that has forgotten, with A_r of each seed; 1, 2, … unless the seeds are said."""
    seeds = seeds or tuple(range(1, len(retain) + 1))
    names = ("accuracy.test.retain", "cost.seconds", "cost.training_images_read")
    each = {
        seed: dict(zip(names, (value, seconds, read), strict=True))
        for seed, value in zip(seeds, retain, strict=True)
    }
    words = {"forgets": len(seeds)} if words is None else words
    mean = means([*each.values()])
    return Row("", method, seeds, mean, {}, words, failures or {}, each=each, runs=len(seeds))


A, B = (0.8, 0.9), (0.9, 1.0)  # always 0.1 apart, whatever the spread of each


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([row("a", *A), row("b", *B)], "b"),
        ([row("a", *A), row("b", *B, words={"hides": 2})], "a"),
        ([row("a", *A), row("b", *B, words={"forgets": 1, "hides": 1})], "a"),
        ([row("a", *A), row("b", *B, words={"forgets": 1})], "a"),  # a run without a word
        ([row("a", *A), row("b", *B, failures={3: "no memory"})], "a"),
        ([row("a", *A), row("b", *B, words={"not refuted": 2})], "a"),
        # one lucky seed does not beat two, and many do not lose to it
        ([row("a", *A), row("b", 0.95)], "a"),
        ([row("a", *A), row("b", 0.95), row("c", 0.99, 0.99, words={"hides": 2})], "a"),
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
        (
            [
                row("a", 0.9, 0.80, seconds=1.0),
                row("b", 0.9, 0.81, seconds=1.4),
                row("c", 0.8, 0.92, seconds=9.0),
            ],
            "b",
        ),
        ([row("a", *A, seeds=(1, 2)), row("b", *B, seeds=(2, 3))], ""),
        ([row("a", *A), row("b", 0.8, 0.8, 0.8, words={"hides": 3})], ""),
        ([row("a", *A, words={"scars": 2})], ""),
        ([], ""),
    ],
)
def test_the_best_is_found_by_the_rule(rows: list[Row], best: str) -> None:
    assert best_of(rows)[0] == best
    assert best_of(rows[::-1])[0] == best


def test_why_a_row_is_marked_is_told() -> None:
    alone = best_of([row("a", *A)])[1]
    assert "the only method here whose word is forgets with all 2 seeds" in alone
    highest = best_of([row("a", 0.8), row("b", 0.9)])[1]
    assert "forgets with the one seed, with the highest A_r." in highest
    near = best_of([row("a", 0.9, 0.8), row("b", 0.8, 0.92, seconds=2.0)])[1]
    assert near == (
        "Best: a, one of 2 whose word is forgets with all 2 seeds, which A_r does not tell from b,"
        " and faster."
    )
    slow = best_of([row("a", 0.9, 0.8), row("b", 0.8, 0.92)])[1]
    assert slow.endswith("with the highest A_r; nothing that is as good is clearly faster.")
    assert "read 1,200 training images" in best_of([row("a", 0.8, read=1200)])[1]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], "there is nothing here but what methods are compared with."),
        ([row("a", failures={1: "no memory"})], "every method here failed."),
        (
            [row("a", 0.8, words={})],
            "no run of a method here has a word: that needs retrained oracles",
        ),
        ([row("a", 0.8, words={"hides": 1})], "no method here has the word forgets in every run."),
        ([row("a", 0.8, words={"not refuted": 1})], "Not refuted is not enough"),
        ([row("a", *A), row("b", 0.8, 0.8, 0.8, words={})], "forgets in every run (a) has fewer"),
        ([row("a", 0.8, seeds=(1,)), row("b", 0.9, seeds=(2,))], "different training seeds"),
    ],
)
def test_why_no_row_is_marked_is_told(rows: list[Row], why: str) -> None:
    said = best_of(rows)[1]
    assert said.startswith("No row is marked as best: ")
    assert why in said
    assert ("oracles" in said) == ("oracles" in why)


def test_nothing_is_best_among_words_of_different_banks(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu")
    change(run(tmp_path / "b", "finetune"), oracles=[1000, 1001, 1002])
    found = table(tmp_path)
    assert not any(x.best for x in found.lines)
    assert "not compared with the same oracles (finetune: 3, geniu: 5)" in found.verdict


@pytest.mark.parametrize("method", ["none", "retrain", *TRIVIAL])
def test_no_oracle_and_no_mask_is_marked(tmp_path: Path, method: str) -> None:
    assert method in RULE
    assert f"`{method}`" in DOCUMENTED
    run(tmp_path / "a", method, retain=0.99)
    run(tmp_path / "b", "geniu", retain=0.5)
    marked = [x.row.method for x in table(tmp_path).lines if x.best]
    assert marked == ["geniu"]


def test_the_mark_and_its_reason_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "a", "geniu")
    for form in ([], ["--markdown"]):
        assert main([str(tmp_path), *form]) == 0
        printed = capsys.readouterr().out
        assert "geniu (best)" in printed
        assert "Best: geniu, the only method here" in printed
        assert "The rule for (best)" in printed
