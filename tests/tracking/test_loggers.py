"""What a dashboard is told: read back from the files that wandb writes without a network."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from geniu_lightning.tracking import workspace
from geniu_lightning.tracking.history import History
from geniu_lightning.tracking.loggers import WandbRun, wandb_id
from tests.commands import TINY, Command, started_and_at_its_first_checkpoint
from tests.tracking.offline import BLOCK, OfflineRun, offline_runs, superseded_runs

EACH_STEP = "training.log_every_n_steps=1"
ATTACK = (
    "+evaluation.metrics.retain_only={_target_:geniu_lightning.evaluation.attacks.relearning.RetainOnly,"
    "steps:[0,1,3],draws:1,scored:20}"
)


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def mark_as_synced(folder: Path) -> None:
    """Mark the one file of a run as wandb does when it has sent it."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    file.with_name(f"{file.name}.synced").touch()


def the_run(folder: Path) -> OfflineRun:
    (found,) = offline_runs(folder)
    return found


@pytest.fixture(scope="module")
def forgot(trained: Path, bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was compared with oracles and attacked, logged without a network."""
    import sys

    from geniu_lightning.cli.unlearn import main

    folder = tmp_path_factory.mktemp("forgot")
    before = sys.argv
    sys.argv = ["unlearn.py", f"kit={trained}", "forget=[0]", "evaluation=accuracy", ATTACK]
    sys.argv += ["evaluation.bank=use", f"oracles.folder={bank}", "oracles.count=3"]
    sys.argv += ["logger=wandb", "logger.wandb.group=sweep7", "logger.wandb.tags=[mine]"]
    sys.argv += ["trainer.threads=1", f"out={folder}"]
    try:
        main()
    finally:
        sys.argv = before
    return folder


def test_a_run_says_what_it_is(forgot: Path, trained: Path) -> None:
    found = the_run(forgot)
    run = found.run
    assert (run.run_group, run.job_type, run.run_id) == ("sweep7", "unlearn", wandb_id(forgot))
    assert set(run.tags) == {"geniu", "digits", "forget 0", "seed 0", "mine"}
    assert found.config["unlearner"]["name"] == "geniu"
    assert found.config["out"] == str(forgot)  # all of the configuration, resolved
    assert found.config["forget_names"] == ["0"]
    assert found.config["trained"]["seed"] == 1
    assert found.config["revision"]
    assert found.config["data_fingerprint"]
    assert found.exits == [0]


def test_every_value_stands_beside_the_oracles(forgot: Path) -> None:
    summary, document = the_run(forgot).summary, metrics_of(forgot)
    leaf = document["metrics"]["accuracy"]["test"]["retain"]
    assert len(document["oracles"]) == 3
    names = {"": "value", ".oracles": "oracle_mean", ".oracles_std": "oracle_std", ".z": "z"}
    for ending, key in names.items():
        assert summary[f"accuracy.test.retain{ending}"] == leaf[key]
    assert summary["word"] == document["word"]
    assert summary["word_reason"] == document["word_reason"]
    assert summary["cost.seconds"] == document["cost"]["seconds"]
    assert summary["cost.retrain_seconds"] == document["cost"]["retrain_seconds"]


def test_classes_are_a_table_and_bars(forgot: Path) -> None:
    found, tree = the_run(forgot), metrics_of(forgot)["metrics"]["accuracy"]["test"]["per_class"]
    columns, rows = found.table("classes/table")
    assert columns == ["class", "side", "before", "after", "oracles"]
    assert [row[1] for row in rows] == ["forget"] + 9 * ["retain"]
    assert [row[3] for row in rows] == tree["value"]
    assert [row[4] for row in rows] == tree["oracle_mean"]
    for k, when in enumerate(("before", "after", "oracles"), start=2):
        assert found.table(f"classes/{when}_table")[1] == [[row[0], row[k]] for row in rows]
        assert found.chart(f"classes/{when}")["panelDefId"] == "wandb/bar/v0"


def test_confusion_is_wandbs_own_chart(forgot: Path) -> None:
    found = the_run(forgot)
    assert found.chart("confusion/after")["panelDefId"] == "wandb/confusion_matrix/v1"
    columns, rows = found.table("confusion/after_table")
    assert columns == ["Actual", "Predicted", "nPredictions"]
    right = {row[0]: row[2] for row in rows if row[0] == row[1]}
    of = {name: sum(row[2] for row in rows if row[0] == name) for name in right}
    accuracies = metrics_of(forgot)["metrics"]["accuracy"]["test"]["per_class"]["value"]
    assert [right[name] / of[name] for name in right] == pytest.approx(accuracies)
    assert not list(found.files.glob("media/images/*"))  # not a second time as a picture


def test_curves_of_an_attack_are_lines_of_model_and_oracles(forgot: Path) -> None:
    found = the_run(forgot)
    leaf = metrics_of(forgot)["metrics"]["retain_only"]["curve"]
    assert found.chart("curves/retain_only.curve")["panelDefId"] == "wandb/lineseries/v0"
    columns, rows = found.table("curves/retain_only.curve_table")
    assert columns == ["step", "lineKey", "lineVal"]
    lines = {"model": "value", "oracles": "oracle_mean", "original": "original"}
    expected = {who: list(zip((0, 1, 3), leaf[key], strict=True)) for who, key in lines.items()}
    assert {who: [(x, y) for x, w, y in rows if w == who] for who in lines} == expected


def test_the_dashboard_shows_what_is_logged_under_its_name(forgot: Path) -> None:
    found = the_run(forgot)
    for name, (kind, fields) in workspace.CLASSES.items():
        drawn = found.chart(name)
        assert (drawn["panelDefId"], drawn["fieldSettings"]) == (kind, fields)
        assert found.table(f"{name}_table")[0] == list(fields.values())
    curve = found.chart("curves/retain_only.curve")
    kind, fields = workspace.ATTACKS["curves/retain_only.curve"]
    assert (curve["panelDefId"], curve["fieldSettings"]) == (kind, fields)
    attacked = (workspace.BACK, f"{workspace.BACK}.area")
    for name in (*workspace.PINNED, *workspace.BESIDE_ORACLES.values()):
        assert name in found.summary or name.startswith(attacked)
    assert {f"cost.{name}" for name in workspace.COSTS} <= found.summary.keys()


@pytest.mark.parametrize("synced", [False, True])
def test_judged_anew_it_is_the_same_run_one_row_later(
    command: Command, forgot: Path, trained: Path, bank: Path, tmp_path: Path, synced: bool
) -> None:
    again = tmp_path / "again"
    shutil.copytree(forgot, again)
    if synced:
        mark_as_synced(again)
    words = (f"kit={trained}", "forget=[0]", "evaluation=accuracy", ATTACK, "trainer.threads=1")
    more = ("evaluation.bank=use", f"oracles.folder={bank}", "oracles.count=2", "logger=wandb")
    outcome = command("unlearn", *words, *more, f"out={again}")
    assert "judging" in outcome.out, outcome.err
    first, second = [*superseded_runs(again), *offline_runs(again)]
    assert len(superseded_runs(again)) == (0 if synced else 1)
    assert second.run.run_id == first.run.run_id
    row = second.history[max(second.history)]
    assert row["_step"] == (0 if synced else max(first.history) + 1)  # a sync counts on
    assert row["trainer/global_step"] == max(first.history) + 1
    assert second.curves() == ({} if synced else first.curves())
    assert second.table("classes/table")[0] == first.table("classes/table")[0]
    assert (first.summary["word"], second.summary["word"]) == ("invalid", "none")  # two oracles


def test_training_logs_curves_its_proxies_and_the_original(
    command: Command, tmp_path: Path
) -> None:
    outcome = command(
        "train", *TINY, "data.validation=0.2", EACH_STEP, "logger=both", f"out={tmp_path}"
    )
    assert outcome.status == 0, outcome.err
    found = the_run(tmp_path)
    assert (found.run.job_type, found.run.run_group) == ("train", "")
    assert set(found.run.tags) == {"digits", "seed 0"}
    assert found.config["data_fingerprint"]
    curves, last = found.curves(), max(found.history)
    assert sorted(curves) == list(range(last))  # each step once, and the last row is of pictures
    assert found.repeated == []
    assert all("train/loss" in row for row in curves.values())
    for name in ("train/accuracy", "validation/accuracy"):
        assert sum(name in row for row in curves.values()) == 2  # one an epoch
    pictures = {key for key, value in found.history[last].items() if "image" in str(value)}
    assert pictures == {"proxies"}
    assert found.table("classes/table")[0] == ["class", "side", "before"]
    value = metrics_of(tmp_path)["metrics"]["accuracy"]["test"]["retain"]["value"]
    assert found.summary["accuracy.test.retain"] == value
    assert found.summary["cost.training_images"] > 0


def test_a_killed_training_goes_on_as_the_same_run_and_loses_no_row(
    command: Command, tmp_path: Path
) -> None:
    words = (*TINY, "generator=none", "training.epochs=24", "evaluation=none", EACH_STEP)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = started_and_at_its_first_checkpoint(killed, *words, "logger=wandb")
    (file,) = killed.glob("wandb/offline-run-*/*.wandb")
    while file.stat().st_size < BLOCK:  # until then wandb has written nothing
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert command("train", *words, "logger=wandb", f"out={killed}").status == 0
    assert command("train", *words, "logger=wandb", f"out={whole}").status == 0
    (first,), second = superseded_runs(killed), the_run(killed)
    assert second.run.run_id == first.run.run_id == wandb_id(killed)
    rows = second.curves()
    assert rows == the_run(whole).curves()
    assert {step: rows[step] for step in first.curves()} == first.curves()
    assert len(first.curves()) > 10
    assert second.repeated == []


def killed_after_training(folder: Path) -> None:
    """Make of a run that has ended one that was killed before its evaluation."""
    for name in ("done.json", "metrics.json", "kit.safetensors"):
        (folder / name).unlink()
    rows = (folder / ".wandb_rows").read_text().splitlines(keepends=True)
    (folder / ".wandb_rows").write_text("".join(rows[:-1]))


@pytest.mark.parametrize("synced", [False, True])
def test_rows_are_said_again_after_a_kill_unless_they_were_synced(
    command: Command, tmp_path: Path, synced: bool
) -> None:
    words = (*TINY, "generator=none", EACH_STEP, "logger=wandb", f"out={tmp_path}")
    assert command("train", *words).status == 0
    killed_after_training(tmp_path)
    if synced:
        mark_as_synced(tmp_path)
    assert "going on from" in command("train", *words).out
    first, second = [*superseded_runs(tmp_path), *offline_runs(tmp_path)]
    assert len(superseded_runs(tmp_path)) == (0 if synced else 1)
    assert second.curves() == ({} if synced else first.curves())
    assert first.curves()
    row = second.history[max(second.history)]
    assert "classes/table" in row
    assert row["trainer/global_step"] == max(first.curves()) + 1
    assert len(second.history) == (1 if synced else len(first.curves()) + 1)


class Server:
    """A run of which a server knows the first steps, logged to from one process.

    Args:
        folder: The run's.
        file: Folder of wandb's file of the process.
        step: How many steps the server knows.
    """

    def __init__(self, folder: Path, file: str, step: int = 0) -> None:
        self.dir = str(folder / "wandb" / file / "files")
        Path(self.dir).mkdir(parents=True)
        self.step = step
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log(self, row: dict[str, float], step: int) -> None:
        self.step = step
        self.rows.append((step, row))


def logged(folder: Path, server: Server, steps: range, offline: bool) -> list[int]:
    """Log steps, and return those that the process's file was told."""
    logger = WandbRun(History(folder), offline=offline, experiment=server, mode="offline")
    for step in steps:
        logger.log_metrics({"loss": 2.0}, step=step)
    return [step for step, _ in server.rows]


def test_a_run_that_is_resumed_at_a_server_leaves_what_it_has(tmp_path: Path) -> None:
    logged(tmp_path, Server(tmp_path, "run-1"), range(8), False)  # two did not reach the server
    server = Server(tmp_path, "run-2", step=6)
    assert logged(tmp_path, server, range(4, 9), False) == [6, 7, 8]  # from its checkpoint
    logger = WandbRun(History(tmp_path), experiment=server, mode="offline")
    logger.log_metrics({"accuracy": 1.0}, step=9)
    logger.log_metrics({"late": 1.0}, step=8)  # told late, it belongs to the row that is open
    assert server.rows[-1] == (9, {"late": 1.0, "trainer/global_step": 9})


def test_what_was_synced_stays_and_what_was_not_is_said_by_the_last(tmp_path: Path) -> None:
    assert logged(tmp_path, Server(tmp_path, "offline-run-1"), range(10), True) == [*range(10)]
    (tmp_path / "wandb/offline-run-1/run.wandb.synced").touch()
    # from the checkpoint at 6: the server's step 10 is the first that is new to it
    assert logged(tmp_path, Server(tmp_path, "offline-run-2"), range(6, 15), True) == [*range(5)]
    third = logged(tmp_path, Server(tmp_path, "offline-run-3"), range(12, 18), True)
    assert third == [*range(8)]  # 10 to 17, those of the second file said again
    kept = {path.name for path in (tmp_path / "wandb").iterdir()}
    assert kept == {"offline-run-1", "offline-run-3", "superseded"}


def test_online_it_says_what_was_written_without_a_network(tmp_path: Path) -> None:
    logged(tmp_path, Server(tmp_path, "offline-run-1"), range(4), True)
    assert logged(tmp_path, Server(tmp_path, "run-2"), range(3, 6), False) == [*range(6)]
    assert not (tmp_path / "wandb/offline-run-1").exists()


def test_runs_of_a_sweep_are_one_group_also_when_it_is_started_again(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    def groups(folder: str, *words: str) -> list[str]:
        out = f"out={tmp_path}/{folder}/${{unlearner.name}}"
        sweep = ("-m", f"kit={trained}", "forget=[0]", "unlearner=none,logit_mask", out)
        outcome = command("unlearn", *sweep, "evaluation=none", "logger=wandb", *words)
        assert outcome.status == 0, outcome.err
        found = [the_run(tmp_path / folder / name) for name in ("none", "logit_mask")]
        return [one.run.run_group for one in found]

    first = groups("a")
    assert first[0] == first[1]
    assert first[0].startswith("unlearn-unlearner-")
    assert groups("b", "force=true") == first
    assert groups("c", "seed=1")[0] != first[0]
    assert groups("d", "logger.wandb.group=mine") == ["mine", "mine"]


def test_a_run_alone_has_no_group_and_one_that_fails_says_so(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    words = (f"kit={trained}", "forget=[0]", "evaluation=none", "logger=wandb")
    wrong = "unlearner.proxies_per_class=3"
    assert command("unlearn", *words, wrong, f"out={tmp_path}").status == 2
    found = the_run(tmp_path)
    assert found.exits == [1]
    assert found.run.run_group == ""


def test_judging_weights_logs_where_it_is_asked_to(
    command: Command, forgot: Path, trained: Path, tmp_path: Path
) -> None:
    words = (f"weights={forgot}", f"kit={trained}", "evaluation=accuracy", "trainer.threads=1")
    outcome = command("evaluate", *words, "logger=wandb", f"out={tmp_path}")
    assert outcome.status == 0, outcome.err
    found = the_run(tmp_path)
    assert found.run.job_type == "evaluate"
    assert set(found.run.tags) == {"digits", "forget 0"}
    assert found.config["judged"]["unlearner"]["name"] == "geniu"
    value = metrics_of(tmp_path)["metrics"]["accuracy"]["test"]["retain"]["value"]
    assert found.summary["accuracy.test.retain"] == value
    assert "classes/table" in found.history[max(found.history)]
    refused = command("evaluate", f"group=[{forgot}]", "logger=wandb", f"out={tmp_path / 'g'}")
    assert refused.status == 2
    assert "single weights" in refused.err
