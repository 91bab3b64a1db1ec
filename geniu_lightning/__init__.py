"""Class unlearning on imbalanced data without the original data (GENIU, arXiv 2406.07885)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geniu_lightning.api import load_kit, unlearn
    from geniu_lightning.data.images import ImageSpec
    from geniu_lightning.training.callback import KitCallback

__all__ = ["ImageSpec", "KitCallback", "__version__", "load_kit", "unlearn"]
from geniu_lightning.version import __version__

_HOMES = {
    "ImageSpec": "data.images",
    "KitCallback": "training.callback",
    "load_kit": "api",
    "unlearn": "api",
}


def __getattr__(name: str) -> Any:  # any of the names above
    """Import a public name at its first use: torch and Lightning take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
