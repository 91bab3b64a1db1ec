"""What ``trainer.precision=auto`` becomes, and where that is written."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from geniu_lightning.cli import device as settings
from geniu_lightning.kit.file import Kit
from tests.cli.conftest import TINY, Command


@pytest.mark.parametrize(("fast", "found"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_is_settled_by_the_machine_and_recorded(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool, found: str
) -> None:
    monkeypatch.setattr(settings, "has_fast_bfloat16", lambda device: fast)
    words = (*TINY, "evaluation=none", f"runs={tmp_path}")
    assert command("train", *words, "trainer.precision=auto").status == 0
    (folder,) = (tmp_path / "train").iterdir()
    assert json.loads((folder / "run.json").read_text())["trainer"]["precision"] == found
    assert Kit.load(folder / "kit.safetensors").info.settings["precision"] == found
    again = command("train", *words, f"trainer.precision={found}")
    assert "already done" in again.out


def test_a_named_precision_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "has_fast_bfloat16", lambda device: True)
    trainer = OmegaConf.create({"precision": "32-true"})
    settings.settle(trainer)
    assert trainer.precision == "32-true"


@pytest.mark.parametrize(
    ("told", "fast"), [({"avx512_bf16": True}, True), ({"avx512_bf16": False}, False), ({}, False)]
)
def test_a_processor_counts_by_its_instructions(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, bool], fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert settings.has_fast_bfloat16(torch.device("cpu")) is fast
