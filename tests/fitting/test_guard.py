"""The guard on the loss names the first bad step, whenever it is asked; endings stay endings."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback

from geniu_lightning.errors import TrainingDivergedError
from geniu_lightning.fitting.guard import NonFiniteGuard
from geniu_lightning.fitting.trainer import fit
from tests.training.small_training import loader_of, module_of, trainer_of


def test_the_first_bad_step_is_named_with_the_remedy_though_read_late() -> None:
    finite = [1.0, -2.0, 1e38]
    for bad in (torch.nan, torch.inf, -torch.inf):
        for first, losses in (
            (None, finite),
            (0, [bad, 1.0]),
            (2, [*finite[:2], bad, 3.0, torch.nan, 1.0]),
        ):
            guard = NonFiniteGuard("lower the rate")
            guard.stop_if_bad()
            for step, loss in enumerate(losses):
                guard.see(torch.tensor(loss), step)
            for _ in range(2):  # a second reader is told, too
                if first is None:
                    guard.stop_if_bad()
                    continue
                with pytest.raises(TrainingDivergedError, match=f"at step {first}; lower the rate"):
                    guard.stop_if_bad()


def test_no_step_is_rounded_and_no_gradient_changed() -> None:
    for step, kind in ((12_345_678, torch.float32), (1001, torch.bfloat16)):
        guard = NonFiniteGuard("")
        guard.see(torch.tensor(torch.nan, dtype=kind), step)
        with pytest.raises(TrainingDivergedError, match=f"at step {step};"):
            guard.stop_if_bad()
    weight = torch.tensor(2.0, requires_grad=True)
    loss = weight.square()
    NonFiniteGuard("").see(loss, 0)
    loss.backward()
    assert weight.grad == 4


class Ends(Callback):
    """Ends a fit from outside, in its first step."""

    def __init__(self, ending: BaseException) -> None:
        self.ending = ending

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        raise self.ending


@pytest.mark.parametrize("ending", [SystemExit(144), KeyboardInterrupt()], ids=repr)
def test_an_exit_stays_an_exit_and_ctrl_c_ctrl_c(tmp_path: Path, ending: BaseException) -> None:
    module = module_of(with_generator=False)
    trainer = trainer_of(module, tmp_path, Ends(ending))
    handler = signal.getsignal(signal.SIGINT)  # which Lightning takes away
    try:
        with pytest.raises(type(ending)) as found:
            fit(trainer, module, loader_of())
    finally:
        signal.signal(signal.SIGINT, handler)
    if isinstance(ending, SystemExit):
        assert found.value is ending  # whoever queues the job again reads its status
