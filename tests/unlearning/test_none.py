"""No unlearning: the original as it was, for the first row of every table."""

from typing import Any

import torch
from pytorch_lightning import Trainer

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.none import NoUnlearning
from geniu_lightning.unlearning.sources import Access


def no_trainer(steps: int) -> Trainer:
    raise AssertionError("nothing is to be trained")


def test_it_returns_the_original_to_the_bit_and_not_the_kits_own(kit: Kit, archive: Any) -> None:
    method = NoUnlearning(forget=(1, 3))
    result = method.run(kit, archive.sources(Access.NONE, (1, 3)), no_trainer)
    before, after = kit.classifier.state_dict(), result.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
        assert tensor.data_ptr() != after[name].data_ptr(), name
    assert torch.equal(result(archive.images), kit.classifier(archive.images))
    assert archive.opened == []
