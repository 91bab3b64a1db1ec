"""How runs are gathered over seeds, and which rows a table has."""

from pathlib import Path

import pytest

from geniu_lightning.cli.report import main
from geniu_lightning.errors import UserError
from geniu_lightning.report.aggregate import gather
from geniu_lightning.report.curves import relearning
from geniu_lightning.report.load import find
from tests.report.examples import AREA, CURVE, change, failed, kit, relearned, row, run, table

RETAIN = "accuracy.test.retain"


def test_seeds_are_gathered_and_training_runs_left_out(tmp_path: Path) -> None:
    for seed, value in ((1, 0.1), (2, 0.3), (3, 0.2), (4, None)):
        run(tmp_path / f"{seed}", "geniu", seed, forget=value)
    kit(tmp_path / "train", 1)
    (found,) = gather(find([tmp_path]))
    assert found.seeds == (1, 2, 3, 4)
    assert found.mean["accuracy.test.forget"] == pytest.approx(0.2)
    assert found.std["accuracy.test.forget"] == pytest.approx(0.1)  # divisor n - 1
    assert found.count["accuracy.test.forget"] == 3
    assert "accuracy.test.forget" not in found.each[4]


def test_runs_that_cannot_be_averaged_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu")
    other = run(tmp_path / "b", "geniu")
    with pytest.raises(UserError, match="the same method on one kit; name one"):
        gather(find([tmp_path]))
    change(other, run__kit_sha256="of another machine")
    with pytest.raises(UserError, match="kits of the same training seed; name one"):
        table(tmp_path)
    change(other, run__trained__seed=2, run__unlearner__steps=30)
    with pytest.raises(UserError, match="not the same experiment"):
        gather(find([tmp_path]))


def test_of_evaluations_of_one_run_the_fuller_counts(tmp_path: Path) -> None:
    """As docs/evaluation.md has it: fast, then full, then from its weights in another folder."""
    run(tmp_path / "fast", "geniu", retain=0.5, verdict="untested")
    relearned(run(tmp_path / "full", "geniu", retain=0.75), CURVE, AREA)
    run(tmp_path / "later", "geniu", retain=0.5, verdict="untested")
    found = table(tmp_path)
    assert [one.folder.name for one in found.runs] == ["full"]
    assert [one.partition(" ")[0] for one in found.left_out] == [
        str(tmp_path / name) for name in ("fast", "later")
    ]
    assert row(tmp_path, "geniu").mean[RETAIN] == 0.75
    assert row(tmp_path, "geniu").verdicts == {"forgotten": 1}


def test_unlearning_seeds_of_a_kit_are_averaged_within_it(tmp_path: Path) -> None:
    for seed, drawn, retain, verdict in (
        (1, 0, 0.5, "forgotten"),
        (1, 1, 0.75, "suppressed"),
        (1, 2, 1.0, "forgotten"),
        (2, 0, 0.25, "forgotten"),
    ):
        folder = run(tmp_path / f"{seed}-{drawn}", "geniu", seed, retain=retain, verdict=verdict)
        relearned(change(folder, run__seed=drawn), [retain] * 7, retain)
    found = row(tmp_path, "geniu")
    assert (found.seeds, found.count[RETAIN], found.mean[RETAIN]) == ((1, 2), 2, 0.5)
    assert found.std[RETAIN] == pytest.approx(0.125**0.5)  # of 0.75 and 0.25
    assert found.verdict == "forgotten 3/4, suppressed 1/4"
    figure = relearning(table(tmp_path))
    assert figure is not None
    (line, *_) = figure.axes[0].get_lines()
    assert (line.get_label(), [*line.get_ydata()]) == ("geniu", [0.5] * 7)
    with pytest.raises(UserError, match="the same method on one kit"):
        gather(find([tmp_path]))  # a population needs one run a kit


def test_a_failure_counts_unless_the_run_ended_well_elsewhere(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu")
    again = failed(tmp_path / "b", "geniu", 1, "no memory")
    change(again, "failed.json", run__unlearner__steps=9)  # what fails is often another setting
    assert table(tmp_path).failures == []
    change(again, "failed.json", run__seed=1)  # with another unlearning seed it is another run
    failed(tmp_path / "c", "random_init", 2, "no\nmemory")
    assert table(tmp_path).failures == [
        "random_init, seed 2, failed: no memory",
        "geniu, seed 1, failed: no memory",
    ]
    verdicts = {x.method: x.verdict for x in table(tmp_path).rows}
    assert (verdicts["logit_mask"], verdicts["random_init"]) == ("not run", "failed")


def test_oracles_are_read_off_the_runs_that_were_compared_with_them(tmp_path: Path) -> None:
    for method in ("geniu", "finetune"):  # each of which has the verdicts on all oracles
        for seed, verdicts in ((1, {"forgotten": 5}), (2, {"distinguishable": 4, "damaged": 1})):
            change(run(tmp_path / f"{method}{seed}", method, seed), oracle_verdicts=verdicts)
    found = row(tmp_path, "oracles (5)")
    assert (found.mean[RETAIN], found.std[RETAIN]) == (0.875, 0.0625)
    assert (found.mean["cost.seconds"], len(found.seeds)) == (16.0, 5)
    assert found.verdict == "forgotten 5/10, distinguishable 4/10, damaged 1/10"
    # other evaluations of the same kits, and a kit that was trained otherwise for this problem
    fast = change(run(tmp_path / "fast", "none"), run__evaluation={"timings": 1, "metrics": {}})
    change(fast, oracle_verdicts={"untested": 5}, run__trained__training__when="after")
    assert row(tmp_path, "oracles (5)").verdict.endswith(
        "untested 5/15, distinguishable 4/15, damaged 1/15"
    )
    change(run(tmp_path / "masked", "logit_mask"), cost__reads_prompts=False)
    assert row(tmp_path, "oracles (5)").verdict.startswith("forgotten 9/20")
    change(run(tmp_path / "few", "salun"), oracles=[1000, 1001, 1002])
    oracles = [x.method for x in table(tmp_path).rows if x.role == "oracles"]
    assert oracles == ["oracles (3)", "oracles (5)"]


def test_the_original_is_read_off_other_runs_where_none_was_not_run(tmp_path: Path) -> None:
    for method in ("geniu", "finetune"):
        for seed in (1, 2):
            run(tmp_path / f"{method}{seed}", method, seed)
    relearned(tmp_path / "finetune1", CURVE, AREA)  # an evaluation of more metrics counts
    found = row(tmp_path, "none")
    assert found.mean["relearning.k10.area"] == 1.0
    assert (found.label, found.seeds, found.verdict) == ("none (before)", (1, 2), "retained 2/2")
    assert (found.mean[RETAIN], found.count[RETAIN]) == (0.9375, 2)  # of 0.875 and 1, once a kit
    run(tmp_path / "none", "none", retain=0.5)
    assert row(tmp_path, "none").mean[RETAIN] == 0.5


def test_references_come_first_and_a_baseline_is_known_under_another_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method in ("retrain", "zzz", "zero_head", "none", "aaa"):
        change(run(tmp_path / method, method, verdict=None), oracles=[])
    run(tmp_path / "b", "masked", target="geniu_lightning.unlearning.logit_mask.LogitMask")
    change(tmp_path / "b", oracles=[])
    assert main([str(tmp_path), "--markdown"]) == 0
    lines = [line.split("|")[1:] for line in capsys.readouterr().out.splitlines()[4:12]]
    assert [(line[0].strip(), line[-2].strip()) for line in lines] == [
        ("oracles", "not run"),
        ("retrain (oracle)", "-"),
        ("none (before)", "-"),
        ("random_init", "not run"),
        ("masked", "forgotten 1/1"),
        ("zero_head", "-"),
        ("aaa", "-"),
        ("zzz", "-"),
    ]
    assert not any(x.best for x in table(tmp_path).rows)
