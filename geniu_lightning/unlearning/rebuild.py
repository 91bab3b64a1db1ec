"""Rebuild: a fresh network trained on what the kit holds of the retained classes."""

from typing import Any, Literal

from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import stream
from geniu_lightning.settings.checked import NonNegativeInt
from geniu_lightning.unlearning.networks import fresh_classifier
from geniu_lightning.unlearning.retrain import Retrain
from geniu_lightning.unlearning.sources import Access, LabelledBatches, Sources


class Rebuild(Retrain):
    """Retrains by the original's recipe on the kit's archive of retained classes, with true labels.

    Order, shifts and mirrored images are drawn as in training. Neither the original's weights nor
    its answers are read, and parts of forget classes are not decoded: nothing of these classes
    reaches the new network.

    Args:
        source: Content of the kit that is trained on; `None` is the richest that it holds.
        min_steps: Smallest number of steps: epochs are added to the recipe's, unless the archive
            holds all retained images.
        training_seed: Seed of initialisation, order and augmentation; `None` derives it from `seed`
            and the kit's training seed.

    Source:
        Ours.
    """

    access = Access.NONE

    def __init__(
        self,
        *,
        source: Literal["archive"] | None = None,
        min_steps: NonNegativeInt = 300,
        training_seed: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(training_seed=training_seed, **settings)
        self.source = source
        self.min_steps = min_steps

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Build a fresh network, and decode the images of retained classes."""
        # of both seeds: runs on kits of several training seeds must differ, as these do
        own = stream("rebuild", kit.info.seed, self.seed)
        seed = own if self.training_seed is None else self.training_seed
        self.classifier = fresh_classifier(kit, seed)
        retained = [k for k in kit.info.remaining if k not in self.forget]
        archive = kit.info.archive
        whole = archive is not None and all(
            archive.counts[k] == kit.info.class_counts[k] for k in retained
        )
        self.follow_recipe(
            kit,
            lambda size: LabelledBatches(kit.archive_loader(retained, size, seed), self.forget),
            0 if whole else self.min_steps,
        )
