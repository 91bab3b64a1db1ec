"""Base of methods that work on batches of training images, or on proxies in their place."""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import stream
from geniu_lightning.settings.checked import PositiveInt
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.batches import (
    Batches,
    CombinedBatches,
    StepBatches,
    UnlearnBatch,
    labelled_batch,
)
from geniu_lightning.unlearning.networks import Teacher
from geniu_lightning.unlearning.sources import Access, Sources

Source = Literal["data", "proxies"]
BatchSize = Annotated[int, Field(ge=2)]  # one image is no sample for batch norm


class Tuning(Unlearner):
    """Works on the forget set, on the retain set, or on both in each step.

    A method declares in `sides` on which. With `source="data"` they are training images, and
    `sides` is its access; with `source="proxies"` the kit's proxies of the same classes take their
    place, all of them in one batch, and no image is read. A method with other inputs overrides
    `make_batches`; one that `distils` finds the original in `self.teacher`.

    Departures from their sources that the methods share, by their yaml: steps for epochs, a bound
    of the gradient, and running statistics of batch norm frozen.

    Args:
        batch_size: Images of each set in a step; proxies come all at once.
        proxies_per_class: Number of the kit's prompts of each class to use; `None` is all.
        **settings: Those of the base.
    """

    sides: Access  # of the class, or of an instance whose settings decide
    distils: ClassVar[bool] = False

    def __init__(
        self,
        *,
        source: Source = "data",
        batch_size: BatchSize = 64,
        proxies_per_class: PositiveInt | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.source = source
        self.access = self.sides if source == "data" else Access.NONE
        self.batch_size = batch_size
        self.proxies_per_class = proxies_per_class

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Copy the classifier, as teacher too where the method distils, and open the batches."""
        super().prepare(kit, sources)
        if self.distils:
            self.teacher = Teacher(kit.classifier)
        if self.steps:
            self.batches = self.make_batches(kit, sources, self.sides, self.steps)

    def make_batches(self, kit: Kit, sources: Sources, sides: Access, steps: int) -> Batches:
        """Return `steps` batches of one set or of both: shuffled and augmented, or proxies."""
        if self.source == "proxies":
            batch = self.proxies(kit, sides)
            return StepBatches(lambda step: batch, steps)
        seed = stream("unlearn_order", self.seed)
        parts = [sources.open(side, self.batch_size, seed, self.stored) for side in sides]
        return CombinedBatches(parts, [range(len(parts))] * steps)

    def single_pass(
        self, kit: Kit, sources: Sources, side: Access, limit: int | None = None
    ) -> Iterable[UnlearnBatch]:
        """Return every image or proxy of one set once, in order and without augmentation.

        `limit` is the largest number of images, drawn evenly over classes; not of proxies.
        """
        if self.source == "proxies":
            return [self.proxies(kit, side)]
        return sources.open(side, self.batch_size, None, limit)

    def proxies(self, kit: Kit, sides: Access) -> UnlearnBatch:
        """Return one batch of all proxies of the forget classes, the retained ones, or both."""
        classes = [
            k
            for k in kit.info.remaining
            if (Access.FORGET if k in self.forget else Access.RETAIN) in sides
        ]
        decoded = kit.proxies(classes, self.proxies_per_class)
        images = kit.info.spec.normalise(decoded.images)
        return labelled_batch(images, decoded.labels, self.forget)
