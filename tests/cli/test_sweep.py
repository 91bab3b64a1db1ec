"""Many runs of one command: what fails, what is skipped, what is printed at the end."""

import json
import os
from pathlib import Path

import pytest
import yaml
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from geniu_lightning.cli import sweep
from geniu_lightning.cli.command import kits_below
from geniu_lightning.cli.sweep import UNENDED, JobNotes, notes_of_sweep
from geniu_lightning.cli.wandb_group import group_of
from geniu_lightning.errors import UserError
from tests.commands import TINY, Command

QUICK = ("trainer.threads=1", "evaluation=none", "forget=[0]")
BARE = (*TINY, "kit=null", "training.epochs=1", "evaluation=none")
SWEEP = ("-m", "kit=runs/first", "forget=[0,1]", "unlearner=geniu,none", "seed=range(3)")


def test_a_callback_notes_begin_and_end_of_each_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep, "_begun", [])
    old, running = (tmp_path / ".sweeps" / name for name in ("killed long ago", "at work"))
    for folder in (old, running):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    callback = JobNotes()
    trainer = {"devices": 1, "num_nodes": 1, "accelerator": "cpu"}

    def job(number: int) -> object:
        own = {"num": number, "override_dirname": f"seed={number}"}
        hydra = {"job": own, "overrides": {"task": [f"seed={number}"]}}
        return OmegaConf.create({"runs": str(tmp_path), "trainer": trainer, "hydra": hydra})

    callback.on_job_start(job(0))  # no sweep: no note
    callback.on_job_end(job(0), JobReturn(status=JobStatus.COMPLETED))
    callback.on_multirun_start(job(0))
    assert (old.exists(), running.exists()) == (False, True)
    for number in range(4):
        callback.on_job_start(job(number))
    done = OmegaConf.create({"out": "a folder"})
    callback.on_job_end(job(0), JobReturn(cfg=done, status=JobStatus.COMPLETED))
    lost = OmegaConf.create({"out": None})
    failed = JobReturn(cfg=lost, status=JobStatus.FAILED, _return_value=UserError("no"))
    callback.on_job_end(job(1), failed)
    broken = JobReturn(cfg=lost, status=JobStatus.FAILED, _return_value=ZeroDivisionError())
    callback.on_job_end(job(2), broken)
    said = capfd.readouterr().err
    assert "failed: seed=1: no\n" in said
    assert (said.count("Traceback"), said.count("ZeroDivisionError\nfailed: seed=2")) == (0, 1)
    notes = notes_of_sweep()
    assert [note.failed for note in notes] == ["", "no", "ZeroDivisionError", UNENDED]
    assert [note.folder for note in notes] == ["a folder", "", "", ""]
    assert notes[3].words == ["seed=3"]
    assert list((tmp_path / ".sweeps").iterdir()) == [running]
    assert notes_of_sweep() == []


def test_kits_are_those_of_finished_runs(tmp_path: Path) -> None:
    for name in ("b's", "a b", "a b/.replaced", "unfinished"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kit.safetensors").touch()
        if name != "unfinished":
            (tmp_path / name / "done.json").touch()
    quoted = str(tmp_path / "b's").replace("'", r"\'")
    assert kits_below(str(tmp_path)) == f"'{tmp_path / 'a b'}','{quoted}'"
    with pytest.raises(UserError, match="there is no kit below"):
        kits_below(str(tmp_path / "nowhere"))


def test_kits_of_a_grid_are_unlearned_from_and_each_job_is_done_once(
    command: Command, tmp_path: Path
) -> None:
    runs = f"runs={tmp_path / 'all of it'}"
    grid = ("sweep=grid", runs, "data=digits", "imbalance.ratio=0.3", "seed=1,2", *BARE)
    first = command("train", *grid)
    assert first.status == 0, first.err
    assert first.out.count("digits-step0.3-AllCNN-seed") >= 2
    after = ("sweep=kits", runs, *QUICK, "unlearner=logit_mask")
    made = command("unlearn", *after)
    assert made.status == 0, made.err
    assert len(list((tmp_path / "all of it" / "unlearn").iterdir())) == 2
    assert command("unlearn", *after).out.count("already done") == 2
    assert not (tmp_path / "all of it" / ".sweeps").exists()


def test_failed_jobs_leave_the_others_and_their_rows_say_why(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    place = f"{tmp_path}/${{unlearner.name}}"
    words = ("-m", f"kit={trained}", *QUICK, "unlearner=none,geniu", f"out={place}")
    outcome = command("unlearn", *words, "+unlearner.proxies_per_class=99")
    assert outcome.status == 2
    failed = json.loads((tmp_path / "geniu" / "failed.json").read_text())
    assert "the kit has 2 prompts a class, 99 were asked for" in failed["failed"]
    assert "2 of 2 failed" in outcome.out
    lost = ("-m", f"kit=nowhere,{trained}", *QUICK, "unlearner=none", f"runs={tmp_path}")
    outcome = command("unlearn", *lost)
    assert outcome.status == 2
    assert "runs of this sweep" in outcome.out
    assert "1 of 2 failed" in outcome.out
    (row,) = [line for line in outcome.out.splitlines() if "kit=nowhere" in line.split()[:1]]
    assert "there is no kit at" in row
    assert len(list(tmp_path.glob("unlearn/*/done.json"))) == 1
    forced = (*words, "force=true", "unlearner=finetune", "unlearner.steps=1")
    assert command("unlearn", *forced).status == 0
    again = command("unlearn", *forced, "unlearner.optimizer.lr=1e30", "unlearner.steps=9")
    assert (again.status, "1 of 1 failed" in again.out) == (2, True)
    assert (tmp_path / "finetune" / "done.json").is_file()  # what was there is there again


def test_tuning_goes_by_validation_images_and_goes_on_where_it_was(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the sweep's folder is a relative one
    assert command("train", *BARE, "data.validation=0.2", "out=kit").status == 0
    words = ("-m", "sweep=tune", "kit=kit", "unlearner=ssd", "trainer.threads=1")
    words = (*words, "forget=[0]", "hydra.sweeper.n_trials=2")
    outcome = command("unlearn", *words)
    assert outcome.status == 0, outcome.err
    results = Path("runs/tune/ssd/optimization_results.yaml")
    found = yaml.safe_load(results.read_text())
    values = []
    for number in range(2):
        run = json.loads(Path("runs/tune/ssd", str(number), "metrics.json").read_text())
        assert run["metrics"]["accuracy"].keys() == {"validation"}  # no test image decides
        accuracy = run["metrics"]["accuracy"]["validation"]
        values.append(accuracy["retain"]["value"] - accuracy["forget"]["value"])
    assert found["best_value"] == max(values)
    assert any(name.startswith("unlearner.") for name in found["best_params"])
    again = command("unlearn", *words)
    assert again.out.count("already done") == 2
    assert yaml.safe_load(results.read_text()) == found
    other = command("unlearn", *words, "forget=[1]", "hydra.sweeper.n_trials=1")
    assert other.status == 2
    assert "no run ended well; the first: runs/tune/ssd/0 holds another run" in other.err


def test_a_name_says_what_is_swept_and_tells_sweeps_apart() -> None:
    name = group_of("unlearn", SWEEP)
    assert name.startswith("unlearn-seed-unlearner-")
    words = ("-m", "sweep=tune", "kit=k", "unlearner=finetune", "~unlearner.momentum")
    assert group_of("unlearn", words).startswith("unlearn-tune-")
    assert len(group_of("train", [f"a{'b' * 99}=1,2"])) < 100
    for incidental in (
        ("force=true",),
        ("logger=wandb", "logger.wandb.tags=[a]"),
        ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        ("trainer.threads=1", "trainer.accelerator=cpu"),
        ("out=elsewhere", "runs=b"),
    ):
        assert group_of("unlearn", (*incidental, *reversed(SWEEP))) == name, incidental
    for computed in ("evaluation=full", "trainer.precision=bf16-mixed", "~sweep"):
        assert group_of("unlearn", (*SWEEP, computed)) != name, computed
    assert group_of("train", SWEEP) != name
    assert group_of("unlearn", [word.replace("first", "second") for word in SWEEP]) != name


def test_the_kits_below_a_folder_make_another_sweep_of_it() -> None:
    words = ("sweep=kits", "forget=[0]", "unlearner=geniu")
    assert group_of("unlearn", (*words, "runs=a")) != group_of("unlearn", (*words, "runs=b"))


@pytest.mark.slow
def test_jobs_in_other_processes_leave_their_notes(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"runs={tmp_path}")
    words = ("-m", f"kit={trained}", "forget=[0]", "evaluation=accuracy", *parallel)
    outcome = command("unlearn", *words, "unlearner=none,geniu", "+unlearner.proxies_per_class=99")
    assert outcome.status != 0
    assert "2 of 2 failed" in outcome.out
    well = command("unlearn", *words, "unlearner=none,logit_mask")
    assert well.status == 0, well.err
    rows = [line for line in well.out.splitlines() if line.split()[:1] == ["logit_mask"]]
    assert len(rows) == 1, well.out
    assert not (tmp_path / ".sweeps").exists()


@pytest.mark.slow
def test_jobs_of_several_processes_each_are_done_one_by_one(
    command: Command, tmp_path: Path
) -> None:
    two = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", f"runs={tmp_path}")
    train = ("train", "-m", *TINY, *two, "seed=1,2", "training.every_n_steps=4")
    made = command(*train)
    assert made.status == 0, made.err
    folders = sorted((tmp_path / "train").iterdir())
    assert len(folders) == 2
    assert all((folder / "done.json").is_file() for folder in folders)
    assert command(*train).out.count("already done") == 2
    after = ("sweep=kits", *two, "trainer.threads=1", "forget=[0]", "unlearner=geniu,retrain")
    made = command("unlearn", *after, "evaluation=accuracy")
    assert made.status == 0, made.err
    assert len(list((tmp_path / "unlearn").iterdir())) == 4
    assert not list(tmp_path.glob("unlearn/*/kit.safetensors"))  # unless it is asked for
