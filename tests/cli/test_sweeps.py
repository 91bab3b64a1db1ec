"""Many runs of one command: what fails, what is skipped, what is said at the end."""

import json
from pathlib import Path

import pytest
import yaml

from geniu_lightning.cli.report import main as report
from tests.cli.conftest import TINY, Command


@pytest.fixture
def bare(command: Command, tmp_path: Path) -> Path:
    """Return the folder of a classifier that was trained without a generator."""
    folder = tmp_path / "bare"
    made = command("train", *TINY, "generator=none", "evaluation=none", f"out={folder}")
    assert made.status == 0, made.err
    return folder


def test_a_method_that_fails_leaves_the_others_and_its_row_says_why(
    command: Command, bare: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep = (
        "-m",
        f"kit={bare}",
        "forget=[0]",
        "unlearner=geniu,logit_mask,none",
        f"out={tmp_path}/after/${{unlearner.name}}",
    )
    outcome = command("unlearn", *sweep)
    assert outcome.status == 2
    assert "runs of this sweep" in outcome.out
    assert "train with generator=vae" in " ".join(outcome.out.split())  # the row, folded, says why
    assert "1 of 3 failed" in outcome.out
    for name in ("logit_mask", "none"):
        assert (tmp_path / "after" / name / "done.json").is_file()
    failed = json.loads((tmp_path / "after" / "geniu" / "failed.json").read_text())
    assert "train with generator=vae" in failed["failed"]
    assert not (tmp_path / "after" / "geniu" / "metrics.json").exists()
    assert report([str(tmp_path / "after")]) == 0
    said = capfd.readouterr().out
    assert "geniu, seed 0, failed: this file holds no generator" in said
    again = command("unlearn", *sweep)
    assert again.out.count("already done") == 2


def test_a_failure_is_forgotten_when_the_run_succeeds(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    settings = (f"kit={trained}", "forget=[0]", f"out={tmp_path}", "evaluation=none")
    assert command("unlearn", *settings, "unlearner.proxies_per_class=3").status == 2
    assert (tmp_path / "failed.json").is_file()
    assert command("unlearn", *settings).status == 0
    assert not (tmp_path / "failed.json").exists()


def test_a_tuning_sweep_draws_from_the_methods_ranges_and_goes_on_where_it_was(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the sweep's folder is a relative one
    made = command("train", *TINY, "data.validation=0.2", "evaluation=none", "out=kit")
    assert made.status == 0, made.err
    sweep = ("-m", "sweep=tune", "kit=kit", "forget=[0]", "unlearner=geniu", "unlearner.steps=2")
    sweep = (*sweep, "hydra.sweeper.n_trials=3", "~unlearner.search.steps")
    outcome = command("unlearn", *sweep)
    assert outcome.status == 0, outcome.err
    assert "on test" not in outcome.out
    found = yaml.safe_load(Path("runs/tune/geniu/optimization_results.yaml").read_text())
    values = []
    for number in range(3):
        folder = Path("runs/tune/geniu") / str(number)
        run = json.loads((folder / "metrics.json").read_text())
        assert run["metrics"]["accuracy"].keys() == {"validation"}  # no test image decides
        accuracy = run["metrics"]["accuracy"]["validation"]
        values.append(accuracy["retain"]["value"] - accuracy["forget"]["value"])
    assert found["best_value"] == max(values)
    assert "unlearner.optimizer.lr" in found["best_params"]
    again = command("unlearn", *sweep)
    assert again.out.count("already done") == 3
    assert yaml.safe_load(Path("runs/tune/geniu/optimization_results.yaml").read_text()) == found


def test_the_table_of_a_tuning_sweep_shows_what_it_judged_by(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("train", *TINY, "data.validation=0.2", "evaluation=none", "out=kit").status == 0
    sweep = ("-m", "sweep=tune", "kit=kit", "unlearner=ssd", "hydra.sweeper.n_trials=1")
    outcome = command("unlearn", *sweep, "forget=[0]")
    assert outcome.status == 0, outcome.err
    (row,) = [line for line in outcome.out.splitlines() if line.strip().startswith("ssd")]
    assert float(row.split()[1]) <= 1
    other = command("unlearn", *sweep, "forget=[1]")  # its folder is another study's
    assert other.status == 2
    assert "no run ended well; the first: runs/tune/ssd/0 holds another run" in other.err
    assert "No trials are completed" not in other.err


def test_a_forced_run_that_fails_is_told_as_failed(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    out = f"out={tmp_path}/${{unlearner.name}}"
    sweep = ("-m", f"kit={trained}", "forget=[0]", "unlearner=finetune", "unlearner.steps=2", out)
    assert command("unlearn", *sweep).status == 0
    again = command("unlearn", *sweep, "force=true", "unlearner.optimizer.lr=1e30")
    assert again.status == 2
    assert "1 of 1 failed" in again.out
    assert (tmp_path / "finetune" / "done.json").is_file()  # what was there is there again


def test_tuning_without_images_held_back_is_refused(command: Command, trained: Path) -> None:
    outcome = command("unlearn", "evaluation=validation", f"kit={trained}", "forget=[0]")
    assert outcome.status == 2
    assert "train it with data.validation=0.2" in outcome.err


def test_a_method_without_ranges_cannot_be_tuned(command: Command, trained: Path) -> None:
    outcome = command(
        "unlearn", "-m", "sweep=tune", f"kit={trained}", "forget=[0]", "unlearner=none"
    )
    assert outcome.status == 2
    assert "conf/unlearner/none.yaml has no search:" in outcome.err
