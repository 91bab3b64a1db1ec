"""Search space of a tuning sweep: the ranges in conf/search of the method that is swept."""

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from geniu_lightning.errors import UserError
from geniu_lightning.settings.configs import CONF, method_names, method_settings, plain

if TYPE_CHECKING:
    from optuna.trial import Trial


def space(config: DictConfig, trial: "Trial") -> None:
    """Draw the method's settings; Hydra's Optuna sweeper makes overrides of the draws.

    A list is a choice; `low`, `high` and, for a logarithmic scale, `log` are a range. A setting
    that the command line fixes is not drawn.
    """
    target = config.unlearner.get("_target_")  # an experiment may give a method another name
    same = (name for name in method_names() if method_settings(name)["_target_"] == target)
    method = next(same, str(config.unlearner.name))
    for name, values in ranges_of(method).items():
        key = f"unlearner.{name}"
        if key in trial.user_attrs:  # where the sweeper notes what is fixed
            continue
        if isinstance(values, list):
            trial.suggest_categorical(key, values)
        elif isinstance(values, dict) and {"low", "high"} <= values.keys():
            log = values.get("log", False)
            trial.suggest_float(key, values["low"], values["high"], log=log)
        else:
            raise UserError(f"{name} in conf/search/{method}.yaml must be a list or {{low, high}}")


def ranges_of(method: str) -> dict[str, Any]:
    """Return the ranges of a method's settings, by their dotted names."""
    path = CONF / "search" / f"{method}.yaml"
    if not path.is_file():
        raise UserError(f"there is no conf/search/{method}.yaml with ranges to draw from")
    ranges: dict[str, Any] = plain(OmegaConf.load(path))
    return ranges
