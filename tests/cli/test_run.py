"""The steps before a run's work, and the messages that are printed while it works."""

import logging
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from geniu_lightning.cli import device, run
from geniu_lightning.cli.run import carry_out, run_folder
from geniu_lightning.errors import UserError
from geniu_lightning.fitting.messages import messages

TRAINER = {"devices": 1, "num_nodes": 1, "accelerator": "cpu"}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(run, "needs_own_process", lambda trainer: trainer.devices > 1)
    monkeypatch.setattr(device, "begin", lambda trainer: None)
    return OmegaConf.create({"out": None, "runs": str(tmp_path), "trainer": TRAINER})


def test_a_run_is_worked_at_once_unless_there_is_more_to_do(config: Any, tmp_path: Path) -> None:
    folder = run_folder(config, {"seed": 1}, "train", "digits")
    assert folder.path.parent == tmp_path / "train"
    worked: list[str] = []

    def work() -> None:
        worked.append(str(folder.path))
        (folder.path / "kit.safetensors").touch()

    assert not carry_out("train", config, folder, work)  # it was not marked as done
    assert carry_out("train", config, folder, lambda: (work(), folder.finish()))
    assert config.out == str(folder.path)  # where a sweep's note finds it
    assert carry_out("train", config, folder, lambda: pytest.fail("it is done"))
    assert len(worked) == 2
    assert carry_out("train", config, folder, work, complete=False)
    assert not carry_out("train", config, folder, work, force=True)
    assert len(worked) == 4
    config.out = str(folder.path)
    other = run_folder(config, {"seed": 2}, "train", "digits")
    assert other.path == folder.path
    with pytest.raises(UserError, match="differs in seed"):
        carry_out("train", config, other, lambda: pytest.fail("another run is there"))


def test_a_job_of_several_processes_is_carried_out_by_its_own(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(run, "run_in_own_process", lambda command, *_: ran.append(command))
    config.trainer.devices = 2
    folder = run_folder(config, {"seed": 1}, "train", "digits")
    carry_out("train", config, folder, lambda: pytest.fail("here"))
    assert ran == ["train"]


def test_messages_are_printed_within_a_block_and_by_the_first_process(
    capfd: pytest.CaptureFixture[str],
) -> None:
    log = logging.getLogger("geniu_lightning.somewhere")
    for shown, said in ((True, "notice\nwarning\n"), (False, "warning\n")):
        with messages(shown):
            log.info("notice")
            log.warning("warning")
        assert capfd.readouterr().out == said
    assert logging.getLogger("geniu_lightning").handlers == []
    assert logging.getLogger("geniu_lightning").propagate
