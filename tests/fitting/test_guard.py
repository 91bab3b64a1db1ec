"""The watch on the loss: it names the first bad step, whenever it is asked."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback

from geniu_lightning.errors import TrainingDivergedError
from geniu_lightning.fitting.guard import NonFiniteGuard, fit
from tests.training.small_training import loader_of, module_of, trainer_of


def test_finite_losses_pass() -> None:
    watch = NonFiniteGuard("lower the rate")
    watch.stop_if_bad()
    for step in range(3):
        watch.see(torch.tensor(1e38), step)
        watch.stop_if_bad()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_first_bad_step_is_named_with_the_remedy_though_read_late(bad: float) -> None:
    watch = NonFiniteGuard("lower the rate")
    for step, loss in enumerate([1.0, 2.0, bad, 3.0, torch.nan, 1.0]):
        watch.see(torch.tensor(loss), step)
    for _ in range(2):  # a second reader is told, too
        with pytest.raises(TrainingDivergedError, match="at step 2; lower the rate"):
            watch.stop_if_bad()


def test_first_step_of_all_may_be_the_bad_one() -> None:
    watch = NonFiniteGuard("lower the rate")
    watch.see(torch.tensor(torch.nan), 0)
    watch.see(torch.tensor(1.0), 1)
    with pytest.raises(TrainingDivergedError, match="at step 0;"):
        watch.stop_if_bad()


def test_large_step_numbers_are_told_exactly() -> None:
    watch = NonFiniteGuard("")
    watch.see(torch.tensor(torch.nan), 12_345_678)
    with pytest.raises(TrainingDivergedError, match="at step 12345678;"):
        watch.stop_if_bad()


def test_watch_keeps_no_graph_and_changes_no_gradient() -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    loss = weight.square()
    NonFiniteGuard("").see(loss, 0)
    loss.backward()
    assert weight.grad == 4


def test_half_precision_losses_do_not_round_the_step() -> None:
    watch = NonFiniteGuard("")
    watch.see(torch.tensor(torch.nan, dtype=torch.bfloat16), 1001)
    with pytest.raises(TrainingDivergedError, match="at step 1001;"):
        watch.stop_if_bad()


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
