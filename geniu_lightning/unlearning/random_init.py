"""Random initialisation: a network that was never trained. The floor of every table."""

from collections.abc import Sequence

from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.networks import fresh_classifier
from geniu_lightning.unlearning.sources import Sources


class RandomInit(Unlearner):
    """Returns a new network of the same kind with fresh weights; nothing is trained.

    It knows no class: nothing about the forget set can leak, and accuracy is 1/K.
    """

    def __init__(self, *, forget: Sequence[int], seed: int = 0) -> None:
        super().__init__(forget=forget, batch_norm="train", seed=seed)

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Draw the weights from the unlearning seed and the kit's training seed."""
        self.classifier = fresh_classifier(kit, stream("random_init", kit.info.seed, self.seed))
