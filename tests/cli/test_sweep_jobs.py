"""Jobs of a sweep side by side, in other processes, and by several processes each."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from geniu_lightning.cli import sweeps
from geniu_lightning.cli.sweeps import device_of_a_job, runs_apart, threads_of_a_job
from geniu_lightning.errors import UserError
from geniu_lightning.runs.folder import RunFolder, kits_below
from tests.cli.conftest import TINY, Command

BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
LOCAL = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"
SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend to be a job of a sweep, on a machine of four cores."""

    def pretend(target: str, number: int = 0, words: tuple[str, ...] = (), **launcher: Any) -> None:
        config = OmegaConf.create(
            {
                "mode": "MULTIRUN",
                "job": {"num": number},
                "overrides": {"task": words},
                "launcher": {"_target_": target, **launcher},
            }
        )
        monkeypatch.setattr(sweeps, "HydraConfig", SimpleNamespace(get=lambda: config))
        monkeypatch.setattr(sweeps, "is_sweep", lambda: True)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)

    return pretend


@pytest.mark.parametrize(
    ("target", "launcher", "threads"),
    [
        (BASIC, {}, None),
        (JOBLIB, {"n_jobs": 1}, 4),
        (JOBLIB, {"n_jobs": 2}, 2),
        (JOBLIB, {"n_jobs": -1}, 1),
        (JOBLIB, {"n_jobs": 9}, 1),
        (LOCAL, {"cpus_per_task": None}, 1),
        (SLURM, {"cpus_per_task": 3}, 3),
    ],
)
def test_jobs_side_by_side_divide_the_cores(
    job: Any, target: str, launcher: dict[str, Any], threads: int | None
) -> None:
    job(target, **launcher)
    assert threads_of_a_job() == threads


def test_jobs_side_by_side_take_the_gpus_in_turn(job: Any) -> None:
    found = []
    for number in range(5):
        job(JOBLIB, number, n_jobs=2)
        found.append(device_of_a_job(3))
    assert found == [0, 1, 2, 0, 1]
    assert device_of_a_job(1) is None
    job(BASIC)
    assert device_of_a_job(3) is None


def trainer(devices: int, nodes: int = 1) -> Any:
    return OmegaConf.create({"devices": devices, "num_nodes": nodes, "accelerator": "cpu"})


def test_only_on_slurm_are_a_jobs_processes_the_clusters(job: Any) -> None:
    for target in (BASIC, JOBLIB, LOCAL):
        job(target)
        assert runs_apart(trainer(2))
        assert not runs_apart(trainer(1))
    job(SLURM, tasks_per_node=2, nodes=1)
    assert not runs_apart(trainer(2))
    for other in (trainer(3), trainer(2, nodes=2)):
        with pytest.raises(UserError, match=r"hydra\.launcher\.tasks_per_node"):
            runs_apart(other)


def test_kits_are_those_of_finished_runs(tmp_path: Path) -> None:
    for name in ("b's", "a b", "unfinished"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kit.safetensors").touch()
        if name != "unfinished":
            (tmp_path / name / "done.json").touch()
    quoted = str(tmp_path / "b's").replace("'", r"\'")
    assert kits_below(str(tmp_path)) == f"'{tmp_path / 'a b'}','{quoted}'"
    with pytest.raises(UserError, match="there is no kit below"):
        kits_below(str(tmp_path / "nowhere"))


def test_a_grid_of_kits_and_what_follows_is_two_commands_and_each_job_is_done_once(
    command: Command, tmp_path: Path
) -> None:
    runs = f"runs={tmp_path / 'all of it'}"
    grid = ("sweep=grid", runs, "data=digits", "imbalance.ratio=0.3", "seed=1,2", *TINY)
    first = command("train", *grid)
    assert first.status == 0, first.err
    assert first.out.count("digits-step0.3-AllCNN-seed") >= 2
    after = ("sweep=kits", runs, "forget=[0]", "unlearner=none,logit_mask,geniu,unsir_")
    refused = command("unlearn", *after)
    assert (refused.status, "there is no unlearner/unsir_" in refused.err) == (2, True)
    after = (*after[:-1], "unlearner=none,logit_mask", "evaluation=none", "trainer.threads=1")
    made = command("unlearn", *after)
    assert made.status == 0, made.err
    assert len(list((tmp_path / "all of it" / "unlearn").iterdir())) == 4
    assert command("unlearn", *after).out.count("already done") == 4
    assert command("train", *grid).out.count("already done") == 2
    assert not (tmp_path / "all of it" / ".sweeps").exists()


def test_jobs_in_other_processes_tell_what_became_of_them(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    sweep = (
        *("-m", f"kit={trained}", "forget=[0]", "unlearner=none,geniu,logit_mask"),
        *("evaluation=accuracy", f"runs={tmp_path}", "+unlearner.proxies_per_class=99"),
        *("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    )
    outcome = command("unlearn", *sweep)
    assert outcome.status != 0
    assert "runs of this sweep" in outcome.out
    assert "3 of 3 failed" in outcome.out
    well = command("unlearn", *sweep[:-3], *sweep[-2:])
    assert well.status == 0, well.err
    rows = [line for line in well.out.splitlines() if line.split()[:1] == ["logit_mask"]]
    assert len(rows) == 1, well.out


def test_a_job_that_fails_before_it_has_a_folder_has_a_row(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    words = ("-m", f"kit={trained},nowhere", "forget=[0]", "unlearner=none", "evaluation=none")
    outcome = command("unlearn", *words, f"runs={tmp_path}")
    assert outcome.status == 2
    assert "1 of 2 failed" in outcome.out
    (row,) = [line for line in outcome.out.splitlines() if "kit=nowhere" in line.split()[:1]]
    assert "there is no kit at" in row


def test_a_job_that_was_killed_has_a_row_and_old_notes_are_cleared_away(
    job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(BASIC, 0, words=("seed=1",))
    monkeypatch.setattr(sweeps, "_begun", [])
    config = OmegaConf.create({"runs": str(tmp_path), "trainer": {"devices": 1, "num_nodes": 1}})
    left = tmp_path / ".sweeps" / "of a killed sweep"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    sweeps.Begin().on_multirun_start(config)
    assert not left.exists()
    notes = sweeps.Notes()
    with pytest.raises(SystemExit), notes.of_job(config, []):
        sys.exit(137)
    (note,) = notes.collect()
    assert (note.words, note.failed) == (["seed=1"], sweeps.UNENDED)
    with notes.of_job(config, [tmp_path / "train" / "a"]):
        (begun,) = (tmp_path / ".sweeps").rglob("*.json")
        assert sweeps.UNENDED in begun.read_text()
    (note,) = notes.collect()
    assert (note.folder, note.failed) == (str(tmp_path / "train" / "a"), "")
    assert not (tmp_path / ".sweeps").exists()


@pytest.mark.parametrize(("launcher", "threads"), [({}, None), ({"n_jobs": 1}, 2)])
def test_processes_of_a_job_share_its_threads(
    job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: Any, threads: int | None
) -> None:
    job(JOBLIB if launcher else BASIC, **launcher)
    ran: list[list[str]] = []
    monkeypatch.setattr(
        sweeps.subprocess,
        "run",
        lambda words, **_: ran.append(words) or SimpleNamespace(returncode=2),
    )
    (tmp_path / "failed.json").write_text('{"failed": "long ago"}')
    os.utime(tmp_path / "failed.json", (0, 0))
    config = OmegaConf.create({"trainer": {"devices": 2, "threads": None}})
    with pytest.raises(UserError, match="the sentence stands above"):
        sweeps.apart("train", config, RunFolder(tmp_path, {}))
    told = [word for word in ran[0] if word.startswith("trainer.threads=")]
    assert told == ([] if threads is None else [f"trainer.threads={threads}"])


@pytest.mark.slow
def test_jobs_of_several_processes_each_are_done_one_by_one(
    command: Command, tmp_path: Path
) -> None:
    two = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", f"runs={tmp_path}")
    made = command("train", "-m", *TINY, *two, "seed=1,2", "training.every_n_steps=4")
    assert made.status == 0, made.err
    folders = sorted((tmp_path / "train").iterdir())
    assert len(folders) == 2
    assert all((folder / "done.json").is_file() for folder in folders)
    assert (
        command("train", "-m", *TINY, *two, "seed=1,2", "training.every_n_steps=4").out.count(
            "already done"
        )
        == 2
    )
    after = ("sweep=kits", *two, "trainer.threads=1", "forget=[0]", "unlearner=geniu,retrain")
    made = command("unlearn", *after, "evaluation=accuracy")
    assert made.status == 0, made.err
    assert len(list((tmp_path / "unlearn").iterdir())) == 4
