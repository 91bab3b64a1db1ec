"""Layout and compilation of a classifier while it is fitted: felt there, and nowhere after."""

import copy
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.fitting.compile import CompileAndMemoryFormat
from geniu_lightning.training.module import GeniuModule
from tests.training.small_training import loader_of, module_of, trainer_of


class Layouts(Callback):
    """Whether weights and their gradients have channels last, at the end of each epoch."""

    def __init__(self) -> None:
        self.found: set[tuple[bool, bool]] = set()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weight = pl_module.classifier.blocks[1][0].weight
        self.found.add((lasts(weight), weight.grad is None or lasts(weight.grad)))


def lasts(weight: Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def fitted(folder: Path, *callbacks: Callback) -> GeniuModule:
    module = module_of()
    trainer_of(module, folder, *callbacks).fit(module, loader_of())
    return module


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    module = fitted(tmp_path_factory.mktemp("plain"), CompileAndMemoryFormat())
    return module.classifier.state_dict()


def test_channels_last_while_fitted_and_not_after(tmp_path: Path, plain: dict[str, Tensor]) -> None:
    layouts = Layouts()
    module = fitted(tmp_path, CompileAndMemoryFormat(channels_last=True), layouts)
    assert layouts.found == {(True, True)}
    assert all(p.is_contiguous() for p in module.classifier.parameters())
    torch.testing.assert_close(module.classifier.state_dict(), plain, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(" " in torch.__file__, reason="torch cannot compile from a path with spaces")
def test_compiled_while_fitted_and_plain_after(tmp_path: Path, plain: dict[str, Tensor]) -> None:
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    module = fitted(tmp_path, CompileAndMemoryFormat(compiled=True))
    after = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert after > before
    torch.testing.assert_close(module.classifier.state_dict(), plain, rtol=1e-2, atol=1e-3)
    module.classifier.eval()(torch.rand(7, 1, 20, 20))  # a shape that was not compiled
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == after
    assert copy.deepcopy(module.classifier)._compiled_call_impl is None


def test_without_a_compiler_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"trainer.compile=true needs a C\+\+ compiler"):
        CompileAndMemoryFormat(compiled=True)


def test_torch_in_a_path_with_spaces_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "true")  # any program that is found
    monkeypatch.setattr(torch, "__file__", "/my code/torch/__init__.py")
    with pytest.raises(UserError, match="without spaces in its path; it is in /my code/torch"):
        CompileAndMemoryFormat(compiled=True)
