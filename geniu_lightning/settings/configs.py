"""The shipped configuration files, and objects made of settings."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geniu_lightning.errors import SettingError, UserError

PACKAGE = Path(__file__).parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"


def plain(config: Any) -> Any:  # the same tree without OmegaConf's types
    """Return a resolved copy in plain lists and dictionaries."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def built(config: Any, key: str = "", **more: Any) -> Any:  # whatever the target makes
    """Return the object that a configuration with `_target_` describes; errors name its `key`."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        # plain lists and dictionaries: a check of types knows no others
        return instantiate(plain(config), **{"_convert_": "all", **more})
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, SettingError):
            nested = re.search(r"full_key: (\S+)", str(error))
            path = ".".join([*filter(None, [key]), *(nested.groups() if nested else ())])
            raise (cause.below(path) if path else cause) from error
        if isinstance(cause, UserError):
            raise cause from error
        target = config.get("_target_") if isinstance(config, Mapping) else config
        reason = " ".join(str(cause or error).split())  # of Hydra, over several lines
        raise UserError(f"{target} cannot be made: {reason}") from error


def method_names() -> list[str]:
    """Return the names of all unlearning methods, sorted."""
    return sorted(path.stem for path in (CONF / "unlearner").glob("*.yaml"))


def method_settings(name: str) -> dict[str, Any]:
    """Return the plain settings in a method's yaml: those of the constructor, and `_target_`."""
    from omegaconf import OmegaConf

    if name not in method_names():
        raise UserError(f"there is no method {name!r}; there are {', '.join(method_names())}")
    settings: dict[str, Any] = plain(OmegaConf.load(CONF / "unlearner" / f"{name}.yaml"))
    settings.pop("name", None)
    return settings


def instead_of_data() -> str:
    """Return a clause that names the methods which read no training image."""
    always, with_proxies = [], []
    for name in method_names():
        settings = method_settings(name)
        if not built(settings, forget=(0,)).access:
            always.append(name)
        elif "source" in settings and not built(settings, forget=(0,), source="proxies").access:
            with_proxies.append(name)
    known, proxied = ", ".join(always), ", ".join(with_proxies)
    return f"methods that read none are {known}, and with source=proxies {proxied}"
