"""What the methods of the configuration read."""

from typing import Any

from omegaconf import OmegaConf

from geniu_lightning.app.build import built, plain
from geniu_lightning.app.cli import CONF


def without_data() -> tuple[list[str], list[str]]:
    """Return the methods that read no training image, and those that need none with proxies."""
    always, with_proxies = [], []
    for path in sorted((CONF / "unlearner").glob("*.yaml")):
        settings: dict[str, Any] = plain(OmegaConf.load(path))
        name = settings.pop("name")
        settings.pop("search", None)
        if not built(settings, forget=(0,)).access:
            always.append(name)
        elif "source" in settings and not built(settings, forget=(0,), source="proxies").access:
            with_proxies.append(name)
    return always, with_proxies
