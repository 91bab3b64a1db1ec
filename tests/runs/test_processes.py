"""How many processes a run has, and which of them is the first."""

import pytest

from geniu_lightning.runs.processes import (
    RANKS,
    is_rank_zero,
    processes_per_node,
    single_process,
    slurm_launch,
)


def test_processes_follow_from_devices_and_nodes() -> None:
    for devices, accelerator, processes in (
        (1, "gpu", 1),
        ("1", "gpu", 1),
        ([3], "gpu", 1),
        ("auto", "cpu", 1),
        ("auto", "auto", None),
        (-1, "gpu", None),
        (2, "cpu", 2),
        ([0, 1], "gpu", 2),
    ):
        trainer = {"devices": devices, "num_nodes": 1, "accelerator": accelerator}
        assert processes_per_node(trainer) == processes, trainer
        assert single_process(trainer) is (processes == 1), trainer
        assert not single_process(trainer | {"num_nodes": 2}), trainer


def test_one_process_is_rank_zero_whoever_launched_it(monkeypatch: pytest.MonkeyPatch) -> None:
    two = {"devices": 2, "num_nodes": 1, "accelerator": "cpu"}
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        for other in RANKS:
            monkeypatch.delenv(other, raising=False)
        assert is_rank_zero(two)
        monkeypatch.setenv(name, "3")
        assert not is_rank_zero(two), name
        assert is_rank_zero(two | {"devices": 1})  # a task of a cluster that is a run of its own


def test_slurm_names_each_start_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert slurm_launch() == ""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert slurm_launch() == "7.0.0"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert slurm_launch() == "7.0.2"
    monkeypatch.setenv("LOCAL_RANK", "1")  # of Lightning, which starts it after the first
    assert slurm_launch() == ""
