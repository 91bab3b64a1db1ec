"""A job's share of the machine, its arithmetic, and the process of its own that it may need."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from geniu_lightning.cli import device, jobs
from geniu_lightning.errors import UserError
from geniu_lightning.fitting.precision import has_fast_bfloat16
from geniu_lightning.runs.folder import RunFolder

PLUGINS = "hydra_plugins.hydra_submitit_launcher.submitit_launcher"
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
LOCAL, SLURM = f"{PLUGINS}.LocalLauncher", f"{PLUGINS}.SlurmLauncher"


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend to be a job of a sweep, on a machine of four cores."""

    def pretend(target: str, number: int = 0, words: tuple[str, ...] = (), **launcher: Any) -> None:
        config = {
            "job": {"num": number},
            "overrides": {"task": words},
            "launcher": {"_target_": target, **launcher},
        }
        made = OmegaConf.create(config)
        monkeypatch.setattr(jobs, "HydraConfig", SimpleNamespace(get=lambda: made))
        monkeypatch.setattr(jobs, "is_sweep", lambda: True)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)

    return pretend


def trainer(devices: int, nodes: int = 1) -> Any:
    return OmegaConf.create({"devices": devices, "num_nodes": nodes, "accelerator": "cpu"})


def test_parallel_jobs_divide_cores_and_gpus(job: Any) -> None:
    for target, launcher, threads in (
        (BASIC, {}, None),
        (JOBLIB, {"n_jobs": 1}, 4),
        (JOBLIB, {"n_jobs": 2}, 2),
        (JOBLIB, {"n_jobs": -1}, 1),
        (JOBLIB, {"n_jobs": 9}, 1),
        (LOCAL, {"cpus_per_task": None}, 1),
        (SLURM, {"cpus_per_task": 3}, 3),
    ):
        job(target, **launcher)
        assert jobs.threads_of_job() == threads, target
    found = []
    for number in range(5):
        job(JOBLIB, number, n_jobs=2)
        found.append(jobs.device_of_job(3))
    assert found == [0, 1, 2, 0, 1]
    assert jobs.device_of_job(1) is None
    job(BASIC)
    assert jobs.device_of_job(3) is None


def test_only_on_slurm_the_cluster_starts_a_jobs_processes(job: Any) -> None:
    for target in (BASIC, JOBLIB, LOCAL):
        job(target)
        assert jobs.needs_own_process(trainer(2))
        assert not jobs.needs_own_process(trainer(1))
    job(SLURM, tasks_per_node=2, nodes=1)
    assert not jobs.needs_own_process(trainer(2))
    for other in (trainer(3), trainer(2, nodes=2)):
        with pytest.raises(UserError, match=r"hydra\.launcher\.tasks_per_node"):
            jobs.needs_own_process(other)


def test_a_process_of_its_own_is_given_the_job_and_its_error_is_read(
    job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "failed.json"
    status, writes = 0, False
    ran: list[list[str]] = []

    def run(words: list[str], **_: object) -> SimpleNamespace:
        ran.append(words)
        if writes:
            record.write_text(json.dumps({"failed": "this time"}))
        return SimpleNamespace(returncode=status)

    monkeypatch.setattr(jobs, "subprocess", SimpleNamespace(run=run))
    own = {"trainer": {"devices": 2, "threads": None}, "next_kit": False}
    config = OmegaConf.create(own | {"logger": {"wandb": {"group": "g"}}})
    folder = RunFolder(tmp_path, {})
    job(JOBLIB, n_jobs=1, words=("seed=1", "out=elsewhere"))
    jobs.run_in_own_process("train", config, folder)
    assert ran[0][1:] == [
        *("-m", "geniu_lightning.cli.train", "seed=1", f"out='{tmp_path}'", "hydra.mode=RUN"),
        *("next_kit=false", "trainer.threads=2", "logger.wandb.group='g'"),
    ]
    record.write_text('{"failed": "long ago"}')
    os.utime(record, (0, 0))
    status = 2
    with pytest.raises(UserError, match="the sentence stands above"):
        jobs.run_in_own_process("train", config, folder)
    status = -9
    with pytest.raises(RuntimeError, match="ended with status -9"):
        jobs.run_in_own_process("train", config, folder)
    status, writes = 2, True
    with pytest.raises(UserError, match="this time"):
        jobs.run_in_own_process("train", config, folder)


def test_auto_is_settled_by_the_machine_and_a_named_precision_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for fast, given, found in (
        (True, "auto", "bf16-mixed"),
        (False, "auto", "32-true"),
        (True, "32-true", "32-true"),
    ):
        monkeypatch.setattr(device, "has_fast_bfloat16", lambda _, fast=fast: fast)
        trainer = OmegaConf.create({"precision": given, "accelerator": "cpu"})
        device.settle_precision(trainer)
        assert trainer.precision == found


def test_a_processor_counts_by_its_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    for told, fast in (({"avx512_bf16": True}, True), ({"avx512_bf16": False}, False), ({}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda told=told: told, raising=False)
        assert has_fast_bfloat16(torch.device("cpu")) is fast
