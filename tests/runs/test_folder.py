import json
import multiprocessing
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from geniu_lightning.errors import BusyError, UserError
from geniu_lightning.files import write_json
from geniu_lightning.runs import folder as runs
from geniu_lightning.runs.folder import (
    RunFolder,
    folder_of,
    identity_of,
    kits_below,
    leads_run,
    processes_of,
    single_process,
)


def _try_to_claim(path: Path, answer: "multiprocessing.Queue[str]") -> None:
    try:
        with RunFolder(path, {"seed": 1}).claim(force=False):
            answer.put("claimed")
    except UserError as error:
        answer.put(str(error))


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answer: multiprocessing.Queue[str] = context.Queue()
    with RunFolder(tmp_path, {"seed": 1}).claim(force=False):
        other = context.Process(target=_try_to_claim, args=(tmp_path, answer))
        other.start()
        assert "another process is at work" in answer.get(timeout=20)
        other.join()
    _try_to_claim(tmp_path, answer)
    assert answer.get(timeout=20) == "claimed"


def test_what_another_program_made_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="differs in who made it"):
        RunFolder(tmp_path, {"seed": 1}).claim(force=False).__enter__()


def test_identity_leaves_out_how_and_keeps_what() -> None:
    base = {"out": None, "seed": 1, "data": {"root": "/a", "name": "x"}, "trainer": {"threads": 1}}
    one = identity_of(OmegaConf.create(base))
    moved = base | {"out": "there", "data": {"root": "/b", "name": "x"}, "trainer": {"threads": 2}}
    assert identity_of(OmegaConf.create(moved)) == one
    assert identity_of(OmegaConf.create(base | {"seed": 2})) != one


def test_a_name_is_safe_short_and_tells_settings_apart(tmp_path: Path) -> None:
    trainer = {"devices": 1, "num_nodes": 1, "accelerator": "cpu"}
    config = OmegaConf.create({"runs": "runs", "out": None, "trainer": trainer})
    a = folder_of(config, {"lr": 1}, "train", "my set/…:*", "seed1", "x" * 200).path
    b = folder_of(config, {"lr": 2}, "train", "my set/…:*", "seed1", "x" * 200).path
    assert a != b
    assert a.parent == b.parent == Path("runs/train")
    assert len(a.name) < 100
    assert not set(a.name) & set(" /:*…")


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_one_process_leads_whoever_launched_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(other, raising=False)
    two = OmegaConf.create({"devices": 2, "num_nodes": 1, "accelerator": "cpu"})
    alone = OmegaConf.create({"devices": 1, "num_nodes": 1, "accelerator": "cpu"})
    assert leads_run(two)
    monkeypatch.setenv(name, "3")
    assert not leads_run(two)
    assert leads_run(alone)  # a task of a cluster's job that is a run of its own


@pytest.mark.parametrize(
    ("devices", "accelerator", "single", "processes"),
    [
        (1, "gpu", True, 1),
        ("1", "gpu", True, 1),
        ([3], "gpu", True, 1),
        ("auto", "cpu", True, 1),
        ("auto", "auto", False, 1),
        (-1, "gpu", False, 1),
        (2, "cpu", False, 2),
        ([0, 1], "gpu", False, 2),
    ],
)
def test_what_is_one_process(
    devices: object, accelerator: str, single: bool, processes: int
) -> None:
    assert processes_of(OmegaConf.create({"devices": devices})) == processes
    trainer = {"devices": devices, "num_nodes": 1, "accelerator": accelerator}
    assert single_process(OmegaConf.create(trainer)) is single
    assert not single_process(OmegaConf.create(trainer | {"num_nodes": 2}))


def _half_of_a_run(path: Path) -> None:
    with RunFolder(path, {"seed": 2}).claim(force=True):
        assert not (path / "kit.safetensors").exists()
        (path / "kit.safetensors").write_text("half")
        raise RuntimeError


def test_a_forced_run_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {"seed": 1})
    with folder.claim(force=False):
        (tmp_path / "kit.safetensors").write_text("old")
        (tmp_path / "chart.png").write_text("mine")
        folder.finish()
    with pytest.raises(RuntimeError):
        _half_of_a_run(tmp_path)
    assert (tmp_path / "kit.safetensors").read_text() == "old"
    assert folder.done
    with RunFolder(tmp_path, {"seed": 2}).claim(force=True):
        (tmp_path / "kit.safetensors").write_text("new")
    assert (tmp_path / "kit.safetensors").read_text() == "new"
    assert (tmp_path / "chart.png").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock",
        "chart.png",
        "kit.safetensors",
        "run.json",
    ]


def forced(path: Path, ending: BaseException | None, checkpoint: bool = True) -> None:
    """Do a run over, which writes a checkpoint, and end it as asked."""
    with RunFolder(path, {"seed": 1}).claim(force=True):
        if checkpoint:
            (path / "checkpoints").mkdir(exist_ok=True)
            (path / "checkpoints" / "one.ckpt").touch()
        if ending is not None:
            raise ending
        (path / "kit.safetensors").write_text("new")


def test_a_forced_run_that_is_interrupted_goes_on_though_forced_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {"seed": 1})
    with folder.claim(force=False):
        (tmp_path / "kit.safetensors").write_text("old")
        folder.finish()
    with pytest.raises(KeyboardInterrupt):  # before it had anything to go on from
        forced(tmp_path, KeyboardInterrupt(), checkpoint=False)
    assert folder.done
    for _ in range(2):
        with pytest.raises(SystemExit):  # as a job ends that is queued again
            forced(tmp_path, SystemExit())
        assert (tmp_path / "checkpoints" / "one.ckpt").is_file()
        assert not folder.done
    forced(tmp_path, None)
    assert (tmp_path / "kit.safetensors").read_text() == "new"
    assert not (tmp_path / ".replaced").exists()


def test_what_is_set_aside_is_no_kit_to_unlearn_from(tmp_path: Path) -> None:
    for name in ("a", "b", "b/.replaced"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kit.safetensors").touch()
        (tmp_path / name / "done.json").touch()
    assert kits_below(str(tmp_path)) == f"'{tmp_path / 'a'}','{tmp_path / 'b'}'"


def test_where_slurm_starts_all_processes_the_others_wait_for_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "SECONDS_TO_BEGIN", 0.3)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    first, other = (RunFolder(tmp_path, {"seed": 1}, leads) for leads in (True, False))
    with pytest.raises(UserError, match="has not begun it"), other.claim(force=False):
        pytest.fail("it went on alone")
    with first.claim(force=False), other.claim(force=False):
        with pytest.raises(BusyError), RunFolder(tmp_path, {"seed": 1}).claim(force=False):
            pytest.fail("two at once")
        with other.claim(force=False):  # the lock still says who holds it
            monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        with pytest.raises(UserError, match="has not begun it"), other.claim(force=False):
            pytest.fail("it took an earlier start for its own")


def test_the_revision_is_that_of_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    def commit(*_: object, **__: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess([], 0, stdout=next(commits))

    commits = iter(["", "abc\n", "", "", "def\n", ""])  # ls-files, rev-parse, status, and again
    monkeypatch.setattr(subprocess, "run", commit)
    runs.revision.cache_clear()
    try:
        assert (runs.revision(), runs.revision()) == ("abc", "abc")
    finally:
        runs.revision.cache_clear()
