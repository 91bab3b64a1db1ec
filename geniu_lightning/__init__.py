"""Class unlearning on imbalanced data without the original data (GENIU, arXiv 2406.07885)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geniu_lightning.app.interface import load_kit, unlearn
    from geniu_lightning.callback import KitCallback
    from geniu_lightning.data.images import ImageSpec

__all__ = ["ImageSpec", "KitCallback", "__version__", "load_kit", "unlearn"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # any of the names above
    """Import what is asked for when it is: torch and Lightning take seconds."""
    if name in ("load_kit", "unlearn"):
        from geniu_lightning.app import interface

        return getattr(interface, name)
    if name == "KitCallback":
        from geniu_lightning.callback import KitCallback

        return KitCallback
    if name == "ImageSpec":
        from geniu_lightning.data.images import ImageSpec

        return ImageSpec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
