"""None: returns the original."""

from typing import Any

import torch

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.none import NoUnlearning
from tests.unlearning.helpers import (
    GONE,
    no_trainer,
    run,
)


def test_it_is_the_original_to_the_bit(kit: Kit, archive: Any) -> None:
    result = run(NoUnlearning(forget=GONE), kit, archive, no_trainer).state_dict()
    assert all(torch.equal(t, result[name]) for name, t in kit.classifier.state_dict().items())
