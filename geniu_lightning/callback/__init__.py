"""A kit grown beside somebody else's training."""

from geniu_lightning.callback.kit_callback import KitCallback

__all__ = ["KitCallback"]
