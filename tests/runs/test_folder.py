"""Run folders: one process at a time, results of one run, backups of what is replaced."""

import multiprocessing
from pathlib import Path

import pytest

from geniu_lightning.errors import BusyError, UserError
from geniu_lightning.runs import folder as folders
from geniu_lightning.runs.folder import RunFolder, finished_kits

ONE = {"seed": 1}


def _hold(path: Path, ready: "multiprocessing.Queue[int]") -> None:
    with RunFolder(path, ONE).lock(force=False):
        ready.put(1)
        multiprocessing.Event().wait()


def test_a_folder_is_locked_by_one_process_until_it_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready: multiprocessing.Queue[int] = context.Queue()
    holder = context.Process(target=_hold, args=(tmp_path, ready))
    holder.start()
    ready.get(timeout=20)
    with pytest.raises(BusyError, match="another process is at work"):
        RunFolder(tmp_path, ONE).lock(force=False).__enter__()
    holder.kill()
    holder.join()
    for _ in range(2):  # and is free after each run
        with RunFolder(tmp_path, ONE).lock(force=False):
            pass


def test_results_of_others_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="differs in who made it"):
        RunFolder(tmp_path, ONE).lock(force=False).__enter__()
    (tmp_path / "run.json").write_text('{"seed": 1, "data": {"name": "x"}}')
    other = RunFolder(tmp_path, {"seed": 1, "data": {"name": "y"}, "model": 3})
    with pytest.raises(UserError, match=r"differs in data\.name, model;"):
        other.lock(force=False).__enter__()
    assert not other.done


def forced(path: Path, ending: BaseException | None, checkpoint: bool = True) -> None:
    """Do a run over, which writes a checkpoint, and end it as asked."""
    with RunFolder(path, ONE).lock(force=True):
        if checkpoint:
            (path / "checkpoints").mkdir(exist_ok=True)
            (path / "checkpoints" / "one.ckpt").touch()
        if ending is not None:
            raise ending
        (path / "kit.safetensors").write_text("new")


def finished(path: Path) -> RunFolder:
    folder = RunFolder(path, ONE)
    with folder.lock(force=False):
        (path / "kit.safetensors").write_text("old")
        (path / "chart.png").write_text("mine")
        folder.finish()
    return folder


def test_a_forced_run_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    with pytest.raises(RuntimeError):
        forced(tmp_path, RuntimeError())  # with a checkpoint
    assert not (tmp_path / "checkpoints").exists()
    assert (tmp_path / "kit.safetensors").read_text() == "old"
    assert folder.done
    with RunFolder(tmp_path, {"seed": 2}).lock(force=True):
        (tmp_path / "kit.safetensors").write_text("new")
    assert (tmp_path / "kit.safetensors").read_text() == "new"
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".lock", "chart.png", "kit.safetensors", "run.json"]


def test_a_forced_run_that_is_interrupted_goes_on_though_forced_again(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    with pytest.raises(KeyboardInterrupt):  # before it had anything to go on from
        forced(tmp_path, KeyboardInterrupt(), checkpoint=False)
    assert folder.done
    for _ in range(2):
        with pytest.raises(SystemExit):  # as a job ends that is queued again
            forced(tmp_path, SystemExit())
        assert (tmp_path / "checkpoints" / "one.ckpt").is_file()
        assert not folder.done
    (tmp_path / "kit.safetensors").write_text("replaced runs offer no kit")
    assert finished_kits(tmp_path) == []
    forced(tmp_path, None)
    assert (tmp_path / "kit.safetensors").read_text() == "new"
    assert not (tmp_path / ".replaced").exists()


def test_where_slurm_starts_all_processes_the_others_wait_for_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "SECONDS_TO_BEGIN", 0.3)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    first, other = (RunFolder(tmp_path, ONE, rank_zero) for rank_zero in (True, False))
    with pytest.raises(UserError, match="has not begun it"), other.lock(force=False):
        pytest.fail("it went on alone")
    with first.lock(force=False), other.lock(force=False):
        with pytest.raises(BusyError), RunFolder(tmp_path, ONE).lock(force=False):
            pytest.fail("two at once")
        with other.lock(force=False):  # the record still says who holds it
            monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        with pytest.raises(UserError, match="has not begun it"), other.lock(force=False):
            pytest.fail("it took an earlier start for its own")
