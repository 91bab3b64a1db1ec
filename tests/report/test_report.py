"""What is read of runs, how it is gathered over seeds, and what is printed."""

import json
from pathlib import Path

import pytest

from geniu_lightning.cli.report import main
from geniu_lightning.errors import UserError
from geniu_lightning.report.rows import gather
from geniu_lightning.report.runs import find, trained
from geniu_lightning.report.values import sheets
from tests.report.examples import (
    CURVE,
    SETTING,
    change,
    failed,
    kit,
    leaf,
    relearned,
    run,
    trained_with,
    unlearned_with,
)


def test_seeds_are_gathered_and_training_runs_left_out(tmp_path: Path) -> None:
    for seed, value in ((1, 0.1), (2, 0.3), (3, 0.2)):
        run(tmp_path / f"{seed}", "geniu", seed, forget=value)
    kit(tmp_path / "train", 1, b"")
    (row,) = gather(find([tmp_path]))
    assert row.seeds == (1, 2, 3)
    assert row.mean["accuracy.test.forget"] == pytest.approx(0.2)
    assert row.std["accuracy.test.forget"] == pytest.approx(0.1)  # divisor n - 1
    assert row.setting == SETTING


def test_runs_on_other_images_are_another_setting(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu")
    trained_with(run(tmp_path / "b", "geniu"), imbalance__seed=7)
    settings = [row.setting for row in gather(find([tmp_path]))]
    assert [", seed 7)" in setting for setting in settings] == [False, True]


def test_one_seed_twice_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu")
    run(tmp_path / "b", "geniu")
    with pytest.raises(UserError, match="the same method on one kit; name one"):
        gather(find([tmp_path]))


def test_what_failed_and_was_done_elsewhere_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "a", "geniu")
    for folder, seed in (("b", 1), ("c", 2)):
        failed(tmp_path / folder, "geniu", seed, "why")
        file = tmp_path / folder / "failed.json"
        document = json.loads(file.read_text())
        document["run"]["unlearner"]["steps"] = 9  # what fails is often another setting
        file.write_text(json.dumps(document))
    (row,) = gather(find([tmp_path]))
    assert row.seeds == (1,)
    assert row.failures == {2: "why"}


def test_a_narrow_screen_still_shows_every_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for seed, value in ((1, 0.1), (2, 0.3)):
        run(tmp_path / f"{seed}", "synthetic_embeddings", seed, forget=value)
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "synthetic_embeddings" in said
    assert "0.2000" in said
    assert "0.1414" in said
    assert "…" not in said


def test_runs_of_one_name_and_other_settings_are_not_averaged(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu", 1)
    unlearned_with(run(tmp_path / "b", "geniu", 2), unlearner={"name": "geniu", "steps": 30})
    with pytest.raises(UserError, match="not the same experiment"):
        gather(find([tmp_path]))


def test_an_absent_value_is_no_number_and_one_seed_has_no_spread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "a", "geniu", forget=None)
    (row,) = gather(find([tmp_path]))
    assert "accuracy.test.forget" not in row.mean
    assert row.std == {}
    assert main([str(tmp_path), "--markdown"]) == 0
    assert "| geniu (best) | 1 | - | 0.9000 | - |" in capsys.readouterr().out


def test_a_value_that_some_seeds_lack_says_how_many_have_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, value in ((1, 0.1), (2, 0.3), (3, None)):
        run(tmp_path / f"{seed}", "geniu", seed, forget=value)
    assert main([str(tmp_path), "--markdown"]) == 0
    said = capsys.readouterr().out
    assert "| geniu (best) | 3 | 0.2000 ± 0.1414 (2) | 0.9000 ± 0.0000 | - |" in said
    assert "| 2.00 ± 0.00 |" in said


def test_references_come_before_the_methods(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method in ("retrain", "zzz", "zero_head", "none", "aaa"):
        change(run(tmp_path / method, method, word=None), oracles=[])
    main([str(tmp_path), "--markdown"])
    lines = [line.split("|")[1:] for line in capsys.readouterr().out.splitlines()[4:12]]
    assert [line[0].strip() for line in lines] == [
        "oracles",
        "retrain (oracle)",
        "none (before)",
        "logit_mask",
        "random_init",
        "zero_head",
        "aaa",
        "zzz",
    ]
    missing = [line[0].strip() for line in lines if line[-2].strip() == "not run"]
    assert missing == ["oracles", "logit_mask", "random_init"]


def test_nothing_and_nonsense_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "no finished unlearning run" in capsys.readouterr().err
    (tmp_path / "metrics.json").write_text("{}")
    assert main([str(tmp_path)]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_each_folder_that_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "a", "geniu")
    wrong = [tmp_path / "b", tmp_path / "a" / "metrics.json"]
    for more in ([], ["--values"]):
        assert main([str(tmp_path), *map(str, wrong), *more]) == 2
        assert f"there is no folder {wrong[0]}, {wrong[1]}" in capsys.readouterr().err


def test_a_run_judged_anew_in_vain_keeps_its_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path / "a", "geniu", retain=0.75)
    (folder / "failed.json").write_text(
        json.dumps({"run": {"job": "unlearn"}, "failed": "no\nmemory"})
    )
    (folder / "done.json").write_text("{}")
    assert main([str(tmp_path), "--markdown"]) == 0
    said = capsys.readouterr().out
    assert "| geniu (best) | 1 | 0.1250 | 0.7500 |" in said
    assert "geniu, seed 1, has its earlier values, for judging it anew failed: no memory" in said
    (folder / "done.json").unlink()  # then the values are of a run that never ended
    with pytest.raises(UserError, match="cannot be read"):
        find([tmp_path])


def test_what_a_run_that_is_done_anew_set_aside_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / ".hidden"  # a folder that is named may be called so
    run(runs / "a", "geniu")
    run(runs / "a" / ".replaced", "geniu")
    kit(runs / "kit" / ".replaced", 1, b"")
    assert [one.folder for one in find([runs])] == [runs / "a"]
    assert trained([runs]) == []
    assert [sheet.title.partition(":")[0] for sheet in sheets([runs])] == [str(runs / "a")]


def test_the_values_of_a_run_without_images_are_told_to_be_absent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = {"accuracy": {"absent": "the images are nowhere"}}
    change(run(tmp_path / "a", "geniu"), metrics=nothing, word=None)
    run(tmp_path / "b", "finetune")
    assert main([str(tmp_path), "--values", "--markdown"]) == 0
    said = capsys.readouterr().out
    assert "absent: accuracy.*: the images are nowhere" in said
    assert "finetune, forgets" in said


@pytest.mark.parametrize("more", [[], ["--markdown"], ["--values"], ["--values", "--markdown"]])
def test_brackets_and_lines_of_a_run_are_printed_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    run(tmp_path / "[ship]" / "[" / "x]", "[b]m[/x]:ship:")
    change(tmp_path / "[ship]" / "[" / "x]", metrics={"cka": {"absent": "no\nlayers"}})
    failed(tmp_path / "c", "scrub", 1, "no\nmemory")
    assert main([str(tmp_path), *more]) == 0
    said = capsys.readouterr().out
    assert "[b]m[/x]:ship:" in said
    if "--values" in more:
        assert "[ship]/[/x]:[b]m[/x]:ship:,forgets" in "".join(said.split())
        assert "absent: cka.*: no layers\n" in said
    else:
        assert "scrub, seed 1, failed: no memory\n" in said


def test_words_are_counted_and_never_averaged_into_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, word in ((1, "hides"), (2, "forgets"), (3, "hides"), (4, None)):
        folder = run(tmp_path / f"{seed}", "geniu", seed, word=word)
        if seed == 1:
            relearned(folder, CURVE, 0.625)
    (row,) = gather(find([tmp_path]))
    assert row.words == {"hides": 2, "forgets": 1}
    assert main([str(tmp_path), "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert "hides 2/4, forgets 1/4" in printed
    assert "| A_f train | relearned | time, s |" in printed  # no column that nobody has
    assert "0.6250" in printed


def test_all_values_of_a_run_stand_beside_those_of_oracles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kit(tmp_path / "kit", 1, b"")
    area = leaf(0.625, oracle_mean=0.0625, oracle_std=0.03125, z=16.44, original=1.0, position=0.6)
    metrics = {
        "relearning": {"k10": {"area": area, "curve": area | {"value": [0.0, 1.0]}}},
        "probe": {"recall": {"absent": "no test images"}, "retain": area | {"value": -4321.25}},
        "cka": {"a": {"b": {"absent": "no oracles"}, "c": {"absent": "no oracles"}}},
    }
    change(run(tmp_path / "a", "geniu", word="hides"), metrics=metrics)
    assert main([str(tmp_path), "--values", "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert "geniu, hides**" in printed
    line = (
        "| relearning.k10.area | 0.6250 | 0.0625 | 0.0312 | 16.4 | 1.0000 | 0.6000 | oracle | - |"
    )
    assert line in printed
    assert "absent: probe.recall: no test images" in printed
    assert "absent: cka.*: no oracles" in printed
    assert "| probe.retain | -4321 |" in printed
    assert printed.count("**") == 2  # a training run is none
    assert main([str(tmp_path / "kit"), "--values"]) == 2
    assert "no judged run" in capsys.readouterr().err
