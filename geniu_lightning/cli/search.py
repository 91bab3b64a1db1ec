"""Which settings of a method a sweep draws, told by the method's own yaml."""

from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from geniu_lightning.errors import UserError

if TYPE_CHECKING:
    from optuna.trial import Trial


def space(config: DictConfig, trial: "Trial") -> None:
    """Draw what ``unlearner.search`` names; Hydra's Optuna sweeper makes overrides of the draws.

    A list is a choice; ``low``, ``high`` and, where the scale is logarithmic, ``log`` are a range.

    Raises:
        UserError: If the method has no such ranges, or one cannot be read.
    """
    ranges = config.unlearner.get("search")
    if not ranges:
        raise UserError(f"conf/unlearner/{config.unlearner.name}.yaml has no search: to draw from")
    for name, values in ranges.items():
        key = f"unlearner.{name}"
        if OmegaConf.is_list(values):
            trial.suggest_categorical(key, list(values))
        elif "low" in values and "high" in values:
            trial.suggest_float(key, values.low, values.high, log=values.get("log", False))
        else:
            raise UserError(f"unlearner.search.{name} must be a list, or have low and high")
