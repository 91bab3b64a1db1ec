"""Settings as a kit recorded them."""

from typing import Any

import pytest
import torch

from geniu_lightning.errors import UserError
from geniu_lightning.training.settings import recorded_settings

OPTIMIZER = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.25}
RECORD = {"_target_": "any.thing", "_convert_": "all", "epochs": 3, "optimizer": OPTIMIZER}


def test_a_record_is_followed() -> None:
    settings = recorded_settings(RECORD | {"prompt_optimizer": OPTIMIZER, "prompt_batch": 7})
    assert (settings.epochs, settings.prompt_batch) == (3, 7)
    made: Any = settings.prompt_optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert made.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"generator_optimizer": {"_target_": "os.system", "command": "x"}}, "only optimizers of"),
        ({"prompt_batch": 0}, "cannot be followed: prompt_batch must be"),
        ({"steps": 3}, "cannot be followed: steps is no setting"),
    ],
)
def test_a_record_that_cannot_be_followed_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        recorded_settings(RECORD | changed)
