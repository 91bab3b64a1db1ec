"""Random initialisation: a network that was never trained. The floor of every table."""

from collections.abc import Sequence

from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.networks import fresh_classifier
from geniu_lightning.unlearning.sources import Sources


class RandomInit(Unlearner):
    """Returns a new network with fresh weights, of which nothing can leak; accuracy is 1/K."""

    def __init__(self, *, forget: Sequence[int], seed: int = 0) -> None:
        super().__init__(forget=forget, batch_norm="train", seed=seed)

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Draw the weights from the unlearning seed and the kit's training seed."""
        self.classifier = fresh_classifier(kit, stream("random_init", kit.info.seed, self.seed))
