"""The kit: what leaves training, and all that unlearning may see."""

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.kit.file import FORMAT, Kit, KitInfo, Proxies
from geniu_lightning.kit.networks import NetworkSpec

__all__ = ["FORMAT", "ImageSpec", "Kit", "KitInfo", "NetworkSpec", "Proxies"]
