"""The one trainer: its precision, layout and progress, and the messages that are silenced."""

import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from geniu_lightning.errors import UserError
from geniu_lightning.fitting import progress
from geniu_lightning.fitting.compile import CompileAndMemoryFormat
from geniu_lightning.fitting.messages import quietly
from geniu_lightning.fitting.progress import ProgressLines
from geniu_lightning.fitting.trainer import make_trainer

CPU: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "enable_checkpointing": False}


def layout(**settings: Any) -> bool:
    trainer = make_trainer("x", **CPU, **settings)
    (form,) = [c for c in trainer.callbacks if isinstance(c, CompileAndMemoryFormat)]
    return form.channels_last


def test_layout_follows_from_precision_unless_it_is_chosen() -> None:
    assert not layout()
    assert layout(precision="bf16-mixed")
    assert not layout(precision="bf16-mixed", channels_last=False)
    assert layout(channels_last=True)


def test_a_trainer_runs_by_steps_or_epochs_and_leaves_batches_alone(tmp_path: Path) -> None:
    by_steps = make_trainer("x", **CPU, max_steps=3, folder=tmp_path)
    assert (by_steps.max_steps, by_steps.max_epochs) == (3, -1)
    assert (by_steps.precision, by_steps.default_root_dir) == ("32-true", str(tmp_path))
    by_epochs = make_trainer("x", **CPU, max_epochs=2)
    assert (by_epochs.max_steps, by_epochs.max_epochs) == (-1, 2)
    assert not by_epochs._accelerator_connector.use_distributed_sampler
    assert by_epochs.num_sanity_val_steps == 0


def test_what_lightning_refuses_is_a_users_error() -> None:
    for wrong in ({"accelerator": "nosuch"}, {"nosuch": 1}, {"devices": 0}):
        with pytest.raises(UserError, match="the trainer cannot be made of these settings"):
            make_trainer("x", **CPU | wrong)


def test_progress_is_logged_now_and_then_and_for_the_last_epoch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter((100.0, 101.0, 109.0, 110.0, 200.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    caplog.set_level(logging.INFO, progress.__name__)
    lines = ProgressLines("training")
    monkeypatch.setattr(lines, "get_metrics", lambda *_: {"train/loss": 0.25, "v_num": "1"})
    for epoch in range(4):
        trainer: Any = SimpleNamespace(max_steps=-1, max_epochs=4, current_epoch=epoch)
        lines.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    said = [f"training  epoch {k}/4  loss 0.250" for k in (1, 3, 4)]  # the second came too soon
    assert caplog.messages == said
    lines.disable()
    lines._log(trainer, None, "epoch 5", always=True)  # type: ignore[arg-type]
    assert caplog.messages == said


def test_messages_of_others_are_silent_within_a_block_only() -> None:
    level, filters = logging.getLogger("pytorch_lightning").level, list(warnings.filters)
    with quietly():
        assert logging.getLogger("pytorch_lightning.utilities.rank_zero").level == logging.ERROR
        with warnings.catch_warnings(record=True) as seen:
            warnings.warn("the loader does not have many workers", stacklevel=1)
        assert seen == []
    assert logging.getLogger("pytorch_lightning").level == level
    assert warnings.filters == filters
