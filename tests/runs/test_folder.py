"""Run folders: one process at a time, results of one run, backups of what is replaced."""

import errno
import multiprocessing
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

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


def attempt(path: Path, identity: dict[str, Any], force: bool) -> None:
    with RunFolder(path, identity).lock(force):
        pytest.fail("it began")


def test_results_of_others_are_not_overwritten(tmp_path: Path) -> None:
    first = RunFolder(tmp_path, {"seed": 1, "data": {"name": "x"}})
    with first.lock(force=False):
        (tmp_path / "metrics.json").write_text("{}")
    other = {"seed": 1, "data": {"name": "y"}, "model": 3}
    with pytest.raises(UserError, match=r"differs in data\.name, model;"):
        attempt(tmp_path, other, force=False)
    assert not RunFolder(tmp_path, other).done
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"differs in run\.json, which cannot be read"):
        attempt(tmp_path, other, force=False)


def test_files_of_others_are_not_touched_even_by_force(tmp_path: Path) -> None:
    for k, name in enumerate(("run.json", "checkpoints/x", "proxies.png", "notes", "log/x")):
        folder = tmp_path / str(k)
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("mine")
        for force in (False, True):
            with pytest.raises(UserError, match=rf"no run wrote \({name.split('/')[0]}\): choose"):
                attempt(folder, ONE, force)
        assert (folder / name).read_text() == "mine"
    folder = tmp_path / "begun"
    finished(folder)
    for name in ("notes", "confusion_mine.png"):
        (folder / name).write_text("mine")
    with pytest.raises(UserError, match=r"no run wrote \(confusion_mine.png\)"):
        attempt(folder, ONE, force=True)
    (folder / "confusion_mine.png").unlink()
    forced(folder, None)  # what does not stand in its way stays
    assert (folder / "notes").read_text() == "mine"


def test_a_folder_of_before_there_were_manifests_is_a_runs_own(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    (tmp_path / ".manifest.json").unlink()
    assert folder.done
    forced(tmp_path, None)
    assert (tmp_path / "kit.safetensors").read_text() == "new"


def content(path: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in path.glob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize("name", ["rename", "unlink", "mkdir", "replace", "rmtree"])
def test_what_was_finished_goes_only_when_its_successor_has_finished(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill a forced run before each of its changes to files; then another comes, unforced."""

    class Killed(BaseException):
        """The process ends here."""

    two, three = {"seed": 2}, {"seed": 3}
    place, owner = (shutil, "shutil") if name == "rmtree" else (Path, "Path")
    for count in range(40):
        path = tmp_path / owner / str(count)
        finished(path)
        before, left = content(path), count
        original = getattr(place, name)

        def dying(*args: Any, original: Any = original, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:  # a process that was killed does no more
                raise Killed
            return original(*args, **kwargs)

        monkeypatch.setattr(place, name, dying)
        with suppress(Killed), RunFolder(path, two).lock(force=True):
            for file in ("kit.safetensors", "metrics.json"):
                (path / file).write_text("of two")
            RunFolder(path, two).finish()
        monkeypatch.undo()
        if left >= 0:
            break
        if RunFolder(path, ONE).done:
            assert content(path) == before, count
        if RunFolder(path, two).done:
            assert (path / "kit.safetensors").read_text() == "of two"
            continue
        with pytest.raises(UserError, match="holds another run, which differs in seed"):
            attempt(path, three, force=False)
        assert content(path) == before, count
        assert RunFolder(path, ONE).done
    assert count > 0
    assert content(path)["metrics.json"] == "of two"
    assert not [p.name for p in path.iterdir() if p.name in (".replaced", ".moving", ".discarded")]


def test_a_place_that_cannot_be_a_folder_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "else")
    for name in ("file", "file/below", "link", "x" * 300):
        folder = RunFolder(tmp_path / name, ONE)
        with pytest.raises(UserError, match=" cannot be used: "):
            folder.done or attempt(folder.path, ONE, force=False)


def test_a_full_disk_is_told_and_what_was_finished_comes_back(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    for full in (
        RuntimeError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error 28)"),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    ):
        with pytest.raises(UserError, match=f"the disk is full: {tmp_path}"):
            forced(tmp_path, full)
        assert folder.done
        assert (tmp_path / "kit.safetensors").read_text() == "old"


def test_an_interruption_after_the_end_leaves_the_successor(tmp_path: Path) -> None:
    finished(tmp_path)
    two = RunFolder(tmp_path, {"seed": 2})
    with pytest.raises(KeyboardInterrupt), two.lock(force=True):
        end_and_be_interrupted(two)
    assert two.done
    assert (tmp_path / "kit.safetensors").read_text() == "of two"


def end_and_be_interrupted(folder: RunFolder) -> None:
    (folder.path / "kit.safetensors").write_text("of two")
    folder.finish()
    raise KeyboardInterrupt


def test_odd_things_in_a_runs_own_folder(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "one.ckpt").touch()
    (folder.path / "checkpoints").symlink_to(tmp_path / "scratch")
    (folder.path / ".manifest.json").write_text("[]")  # damaged
    (folder.path / "..manifest.json.12").touch()  # a rest of a killed process
    (folder.path / ".notes.1").touch()
    (folder.path / ".d.1").mkdir()
    with pytest.raises(RuntimeError, match="why"):
        forced(folder.path, RuntimeError("why"), checkpoint=False)
    assert folder.done
    assert (tmp_path / "scratch" / "one.ckpt").exists()
    names = {path.name for path in folder.path.iterdir()}
    assert {".notes.1", ".d.1", "checkpoints"} <= names
    assert "..manifest.json.12" not in names
    fresh = tmp_path / "fresh"  # killed while it wrote its first file
    fresh.mkdir()
    (fresh / "..manifest.json.12").touch()
    with RunFolder(fresh, ONE).lock(force=False):
        assert (fresh / "run.json").is_file()


@pytest.mark.parametrize("again", ["", "checkpoints"])  # what a library makes anew
@pytest.mark.parametrize("fails", [True, False])
def test_a_folder_that_is_removed_in_mid_run_is_told(
    tmp_path: Path, again: str, fails: bool
) -> None:
    folder = RunFolder(tmp_path / "run", ONE)

    def work() -> None:
        with folder.lock(force=False):
            shutil.rmtree(folder.path)
            (folder.path / again).mkdir(parents=True)
            if fails:
                raise FileNotFoundError

    with pytest.raises(UserError, match="was removed while"):
        work()


def forced(path: Path, ending: BaseException | None, checkpoint: bool = True) -> None:
    """Do a run over, which writes a checkpoint, and end it as asked."""
    with RunFolder(path, ONE).lock(force=True):
        if checkpoint:
            (path / "checkpoints").mkdir(exist_ok=True)
            with (path / "checkpoints" / "one.ckpt").open("a") as file:
                file.write("more ")
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
    assert left == [".lock", ".manifest.json", "chart.png", "kit.safetensors", "run.json"]


def test_a_forced_run_that_is_interrupted_goes_on_though_forced_again(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    with pytest.raises(KeyboardInterrupt):  # before it had anything to go on from
        forced(tmp_path, KeyboardInterrupt(), checkpoint=False)
    assert folder.done
    for count in (1, 2):
        with pytest.raises(SystemExit):  # as a job ends that is queued again
            forced(tmp_path, SystemExit())
        assert (tmp_path / "checkpoints" / "one.ckpt").read_text() == "more " * count
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
