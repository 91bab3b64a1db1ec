"""Search space of a tuning sweep: the ranges in conf/search of the method that is swept."""

from typing import TYPE_CHECKING

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
    path = CONF / "search" / f"{method}.yaml"
    if not path.is_file():
        raise UserError(f"there is no conf/search/{method}.yaml with ranges to draw from")
    for name, values in plain(OmegaConf.load(path)).items():
        key = f"unlearner.{name}"
        if key in trial.user_attrs:  # where the sweeper notes what is fixed
            continue
        if isinstance(values, list):
            trial.suggest_categorical(key, values)
        else:
            log = values.get("log", False)
            trial.suggest_float(key, values["low"], values["high"], log=log)
