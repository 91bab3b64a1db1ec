"""The search space of a tuning sweep: whose ranges are drawn, and what is left out."""

from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from geniu_lightning.cli import search
from geniu_lightning.errors import UserError
from geniu_lightning.settings.configs import CONF


class Trial(SimpleNamespace):
    """Remembers what is drawn."""

    def suggest_categorical(self, name: str, choices: list[Any]) -> None:
        self.drawn[name] = choices

    def suggest_float(self, name: str, low: float, high: float, log: bool) -> None:
        self.drawn[name] = (low, high, log)


def drawn(method: str, name: str, **fixed: Any) -> dict[str, Any]:
    settings = OmegaConf.load(CONF / "unlearner" / f"{method}.yaml")
    config = OmegaConf.create({"unlearner": settings})
    config.unlearner.name = name  # as an experiment sets it
    trial = Trial(drawn={}, user_attrs=fixed)
    search.space(config, trial)
    return trial.drawn


def test_the_ranges_are_the_methods_and_what_the_command_line_fixes_is_not_drawn() -> None:
    rate = {"unlearner.optimizer.lr": (1e-3, 1e-2, True)}
    rest = {"unlearner.keep": [0, 2, 4], "unlearner.temperature": [1.0, 2.0, 4.0]}
    assert drawn("regrow", "regrow_fast") == rate | rest
    assert drawn("regrow", "regrow", **{"unlearner.optimizer.lr": 0.1}) == rest


def test_a_method_without_ranges_is_refused() -> None:
    with pytest.raises(UserError, match=r"no conf/search/none.yaml"):
        drawn("none", "none")
