"""What is read of runs: all versions of their files, what failed, what is no run."""

import json
from pathlib import Path
from typing import Any

import pytest

from geniu_lightning.cli.report import main
from geniu_lightning.errors import UserError
from geniu_lightning.report.load import find, find_training
from geniu_lightning.report.tables import tables
from geniu_lightning.report.values import sheets
from tests.report.examples import SETTING, change, failed, kit, run, table


def test_files_of_earlier_versions_read_as_those_of_version_3(tmp_path: Path) -> None:
    oracles = {
        **{"forgotten": 4, "forgotten in the model only": 1, "distinguishable": 1, "untested": 2},
        **{"suppressed": 1, "damaged": 3, "damaged and retained": 1},
    }
    folder = change(
        run(tmp_path / "a", "geniu", verdict="suppressed"),
        controls={"original": "retained", "mask": "inconclusive"},
        oracle_verdicts=oracles,
    )
    (new,) = find([folder])
    finding = {"question": "inside", "name": "head.repair", "value": 0.5, "oracles": 0.125}
    tolerances = [
        {"name": name, "allowed": 0.25, "reach": reach}
        for name, reach in (("probe.recall", 0.25), ("head.repair", 0.875), ("head.x", None))
    ]
    before: dict[str, Any] = {"verdict_reason": None, "findings": None, "attacks": None}
    change(
        folder,
        version=2,
        **before | {"reason": "because geniu", "deciding": [finding], "tolerances": tolerances},
    )
    (second,) = find([folder])
    change(
        folder,
        version=1,
        word="hides",
        word_reason="because geniu",
        controls={"original": "keeps", "mask": "invalid"},
        oracle_words={
            **{"forgets": 4, "forgets in the model, not in the system": 1, "scars": 1},
            **{"not refuted": 2, "hides": 1, "destroys": 3, "destroys without forgetting": 1},
        },
        bands=tolerances,
        verdict=None,
        reason=None,
        oracle_verdicts=None,
        tolerances=None,
    )
    (old,) = find([folder])
    for one in (new, second, old):
        assert (one.verdict, one.original_verdict) == ("suppressed", "retained")
        assert one.document["oracle_verdicts"] == oracles
        assert one.document["verdict_reason"] == "because geniu"
        assert (one.findings[0]["name"], one.findings[0]["reference"]) == ("head.repair", 0.125)
    assert [one.findings[0]["against"] for one in (new, second, old)] == ["nulls"] + 2 * ["oracles"]
    assert [one.powerless for one in (new, second, old)] == [["features"], ["probe"], ["probe"]]
    assert old.document["controls"] == new.document["controls"]
    assert sheets([folder])[0].title.endswith("geniu, suppressed")


def test_runs_of_several_problems_share_no_table(tmp_path: Path) -> None:
    """Neither over seeds, nor over methods, nor in the row of the original."""
    for name, one, other in (
        ("data.source.hub_id", "OWNER/A", "OWNER/B"),
        ("training.max_gradient_norm", None, 1.0),
        ("precision", "32-true", "bf16-mixed"),
    ):
        runs = tmp_path / name
        for seed, value in ((1, one), (2, other)):
            for method in ("geniu", f"only{seed}"):
                changed: dict[str, Any] = {f"run__trained__{name.replace('.', '__')}": value}
                change(run(runs / f"{method}{seed}", method, seed), **changed)
        found = sorted(tables(find([runs])), key=lambda table: table.runs[0].seed)
        for seed, value, of_problem in zip((1, 2), (one, other), found, strict=True):
            assert of_problem.setting == f"{SETTING}, {name} {'null' if value is None else value}"
            seeds = {x.method: x.seeds for x in of_problem.rows if x.seeds and x.role != "oracles"}
            assert seeds == {"none": (seed,), "geniu": (seed,), f"only{seed}": (seed,)}


def test_what_makes_no_other_problem_and_what_another_setting(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu")
    change(
        run(tmp_path / "b", "post_hoc"),
        run__trained__training__when="after",
        run__trained__data__root="/elsewhere",
        run__trained__data__cache_folder="/cache",
    )
    assert table(tmp_path).setting == SETTING
    change(run(tmp_path / "c", "geniu"), run__trained__imbalance__seed=7)
    change(run(tmp_path / "d", "geniu"), run__forget=[0, 2], run__forgotten_before=[2])
    assert [found.setting for found in tables(find([tmp_path]))] == [
        SETTING,
        f"{SETTING} after [2]",
        SETTING.replace("0.1)", "0.1, seed 7)"),
    ]


def test_a_run_whose_later_evaluation_failed_keeps_its_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run(tmp_path / "a", "geniu", retain=0.75)
    failure = {"run": {"job": "unlearn"}, "failed": "no\nmemory"}
    (folder / "failed.json").write_text(json.dumps(failure))
    (found,) = find([tmp_path])
    assert (found.numbers["value"]["accuracy.test.retain"], found.failed) == (0.75, "")
    assert table(tmp_path).failures == [
        "geniu, seed 1, has its earlier values, for its later evaluation failed: no memory"
    ]
    (folder / "done.json").unlink()  # then the values are of a run that never ended
    with pytest.raises(UserError, match="no finished unlearning run"):
        find([tmp_path])
    assert "left out: " in caplog.text


def test_the_backup_of_a_run_that_is_repeated_is_no_run(tmp_path: Path) -> None:
    runs = tmp_path / ".hidden"  # a folder that is named may be called so
    run(runs / "a", "geniu")
    run(runs / "a" / ".replaced", "geniu")
    kit(runs / "kit" / ".replaced", 1)
    assert [one.folder for one in find([runs])] == [runs / "a"]
    assert find_training([runs]) == []
    assert [sheet.title.partition(":")[0] for sheet in sheets([runs])] == [str(runs / "a")]


def test_what_cannot_work_is_told_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kit(tmp_path / "kit", 1)
    assert main([str(tmp_path)]) == 2
    assert "no finished unlearning run" in capsys.readouterr().err
    assert main([str(tmp_path), "--values"]) == 2
    assert "no evaluated run" in capsys.readouterr().err
    failed(tmp_path / "a", "geniu", 1, "why")
    missing = [str(tmp_path / name) for name in ("b", "a/failed.json")]
    for more in ([], ["--values"]):
        assert main([str(tmp_path), *missing, *more]) == 2
        assert f"there is no folder {', '.join(missing)}" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path / "good", "geniu\x1b[31m")
    (kit(tmp_path / "kit", 1) / "proxies.png").write_bytes(b"no picture")
    broken = {
        "empty": "",
        "half": '{"version": 2, "run": {',
        "foreign": '["a list"]',
        "other": '{"run": {"job": "unlearn"}}',
        "deep": "[" * 100_000,
        "binary": "\x00\ud800",
    }
    for name, text in broken.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(text, errors="surrogatepass")
        (tmp_path / name / "proxies.png").touch()
    for name, changed in (
        ("newer", {"version": 99}),
        ("seed", {"run__trained__seed": [1]}),
        ("own seed", {"run__seed": [1]}),
        ("verdict", {"verdict": ["suppressed"]}),
        ("oracles", {"oracles": [[1]]}),
        ("findings", {"findings": ["a text"]}),
        ("attacks", {"attacks": [{"name": "relearning.k10.area"}]}),
    ):
        change(run(tmp_path / name, "geniu"), **changed)
    for more in ([], ["--html", str(tmp_path / "page.html")]):
        caplog.clear()
        assert main([str(tmp_path), *more]) == 0, more
        for name in ("newer", "seed", "own seed", "verdict", "oracles", "findings", "attacks"):
            assert f"{tmp_path / name / 'metrics.json'} cannot be read" in caplog.text, (name, more)
    for more in ([], ["--values"], ["--html", str(tmp_path / "page.html")]):
        caplog.clear()
        assert main([str(tmp_path), *more]) == 0, more
        assert r"geniu\x1b[31m" in capsys.readouterr().out
        assert ("proxies.png cannot be read" in caplog.text) == ("--html" in more)
        for name in broken:
            assert f"{tmp_path / name / 'metrics.json'} cannot be read" in caplog.text, (name, more)
