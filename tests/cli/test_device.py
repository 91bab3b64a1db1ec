"""Which arithmetic `trainer.precision=auto` becomes."""

import pytest
import torch
from omegaconf import OmegaConf

from geniu_lightning.cli import device
from geniu_lightning.fitting.precision import has_fast_bfloat16


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
