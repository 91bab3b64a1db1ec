"""Which rows a table has, and which of them is marked."""

from pathlib import Path

import pytest

from geniu_lightning.app.oracles import RECIPE
from geniu_lightning.report import runs
from geniu_lightning.report.__main__ import main
from geniu_lightning.report.best import best_of
from geniu_lightning.report.rows import Row
from geniu_lightning.report.runs import find
from geniu_lightning.report.tables import Line, Table, tables
from tests.report.examples import SETTING, change, failed, run, trained_with


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


# ---- rows to compare with --------------------------------------------------------------------


def test_oracles_are_read_off_the_runs_that_were_compared_with_them(tmp_path: Path) -> None:
    for seed in (1, 2):
        run(tmp_path / f"{seed}", "geniu", seed)
    row = line(tmp_path, "oracles (5)").row
    assert row.mean["accuracy.test.retain"] == 0.875
    assert row.std["accuracy.test.retain"] == 0.0625
    assert row.mean["cost.seconds"] == 16.0
    assert row.words == {"forgets": 4, "scars": 1}
    assert len(row.seeds) == 5


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
    retain: float,
    seconds: float = 1.0,
    words: dict[str, int] | None = None,
    *,
    std: float | None = None,
    read: float = 0.0,
    failures: dict[int, str] | None = None,
) -> Row:
    mean = {"accuracy.test.retain": retain, "cost.seconds": seconds}
    spread = {} if std is None else {"accuracy.test.retain": std}
    return Row(
        "",
        method,
        (1, 2),
        mean | {"cost.training_images_read": read},
        spread,
        {"forgets": 2} if words is None else words,
        failures or {},
    )


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([row("a", 0.8), row("b", 0.9)], "b"),
        ([row("a", 0.8), row("b", 0.9, words={"hides": 2})], "a"),
        ([row("a", 0.8), row("b", 0.9, words={"forgets": 1, "hides": 1})], "a"),
        ([row("a", 0.8), row("b", 0.9, words={"forgets": 1})], "a"),  # a seed without a word
        ([row("a", 0.8), row("b", 0.9, failures={3: "no memory"})], "a"),
        ([row("a", 0.8), row("b", 0.9, words={"not refuted": 2})], "a"),
        ([row("a", 0.875, 1.0), row("b", 0.9, 2.0, std=0.025)], "a"),
        ([row("a", 0.875, 3.0), row("b", 0.9, 2.0, std=0.025)], "b"),
        ([row("a", 0.874, 1.0), row("b", 0.9, 2.0, std=0.025)], "b"),
        ([row("a", 0.875, 1.0, std=0.9), row("b", 0.9, 2.0)], "b"),  # the spread of the highest
        ([row("a", 0.9, 2.0), row("b", 0.9, 1.0)], "b"),
        ([row("a", 0.9, words={"scars": 2})], ""),
        ([], ""),
    ],
)
def test_the_best_is_found_by_the_rule(rows: list[Row], best: str) -> None:
    assert best_of(rows)[0] == best


def test_why_a_row_is_marked_or_none_is_told() -> None:
    assert "the only method here" in best_of([row("a", 0.8)])[1]
    assert "with the highest A_r" in best_of([row("a", 0.8), row("b", 0.9)])[1]
    near = best_of([row("a", 0.89, 1.0), row("b", 0.9, 2.0, std=0.1)])[1]
    assert near == (
        "Best: a, one of 2 whose word is forgets for every seed, as good as b within its spread,"
        " and faster."
    )
    assert "read 1,200 training images" in best_of([row("a", 0.8, read=1200)])[1]
    assert "Not refuted is not enough" in best_of([row("a", 0.8, words={"not refuted": 2})])[1]
    assert "needs retrained oracles" in best_of([row("a", 0.8, words={})])[1]
    assert best_of([row("a", 0.8, words={"hides": 2})])[1].endswith("forgets for every seed.")


def test_nothing_is_best_among_words_of_different_banks(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu")
    change(run(tmp_path / "b", "finetune"), oracles=[1000, 1001, 1002])
    found = table(tmp_path)
    assert not any(x.best for x in found.lines)
    assert "not compared with the same oracles (finetune: 3, geniu: 5)" in found.verdict


@pytest.mark.parametrize("method", ["none", "retrain", "logit_mask", "zero_head", "random_init"])
def test_no_oracle_and_no_mask_is_marked(tmp_path: Path, method: str) -> None:
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
