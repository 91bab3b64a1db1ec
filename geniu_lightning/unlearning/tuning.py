"""What methods share that work on batches of images: real ones, or proxies in their place."""

from collections.abc import Iterable
from typing import ClassVar, Literal, get_args

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.sources import (
    Access,
    Batches,
    RepeatBatch,
    Sources,
    UnlearnBatch,
    ZipBatches,
    marked,
)

Source = Literal["data", "proxies"]


class Tuning(Unlearner):
    """Works on forgotten images, retained images, or both side by side.

    A method says in ``sides`` which it works on. With ``source="data"`` they are training images
    and ``sides`` is what it reads; with ``source="proxies"`` the kit's proxies of the same classes
    stand for them, and it reads none. A method that takes other inputs too names them in
    ``sources_of`` and makes them in `stream`; only ``data`` reads images.

    Args:
        source: ``data`` or ``proxies``.
        batch_size: Images of each side in a step; proxies come all at once.
        proxies_per_class: How many of the kit's prompts of each class to use; ``None`` all.
        **settings: Those of the base.

    Raises:
        UserError: If the source does not exist or the batch is too small.
    """

    sides: Access  # of the class, or of one whose settings decide
    sources_of: ClassVar[tuple[str, ...]] = get_args(Source)

    def __init__(
        self,
        *,
        source: str = "data",
        batch_size: int = 64,
        proxies_per_class: int | None = None,
        **settings: object,
    ) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # the base checks them
        if source not in self.sources_of:
            raise UserError(
                f"unlearner.source must be one of {', '.join(self.sources_of)}, got {source!r}"
            )
        if batch_size < 2:
            raise UserError(f"unlearner.batch_size must be at least 2, got {batch_size}")
        self.source = source
        self.access = self.sides if source == "data" else Access.NONE
        self.batch_size = batch_size
        self.proxies_per_class = proxies_per_class

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Copy the classifier and open the images of both sides."""
        super().prepare(kit, sources)
        if self.steps:
            self.batches = self.stream(kit, sources, self.sides, self.steps)

    def stream(self, kit: Kit, sources: Sources, sides: Access, steps: int) -> Batches:
        """Return ``steps`` batches of one side or of both: shuffled and augmented, or proxies."""
        if self.source == "proxies":
            return RepeatBatch(self.proxies(kit, sides), steps)
        seed = stream("unlearn_order", self.seed)
        return ZipBatches([self._open(sources, side, seed) for side in sides], steps)

    def once(
        self, kit: Kit, sources: Sources, side: Access, limit: int | None = None
    ) -> Iterable[UnlearnBatch]:
        """Return every image of a side once, in order and without augmentation.

        Args:
            kit: Holds the proxies.
            sources: Hold the images.
            side: Forgotten or retained.
            limit: At most so many images, drawn evenly over classes; proxies come all the same.
        """
        if self.source == "proxies":
            return [self.proxies(kit, side)]
        return self._open(sources, side, None, limit)

    def proxies(self, kit: Kit, sides: Access) -> UnlearnBatch:
        """Return the kit's proxies of the forgotten classes, the retained ones, or all."""
        classes = [
            k
            for k in kit.info.remaining
            if (Access.FORGET if k in self.forget else Access.RETAIN) in sides
        ]
        made = kit.proxies(classes, self.proxies_per_class)
        return marked(kit.info.spec.normalise(made.images), made.labels, self.forget)

    def _open(
        self, sources: Sources, side: Access, seed: int | None, limit: int | None = None
    ) -> Batches:
        opened = sources.forget if side is Access.FORGET else sources.retain
        return opened(self.batch_size, seed, limit)
