"""Rebuild: a fresh network trained on what the kit holds of the retained classes."""

from typing import Any, Literal

from geniu_lightning.errors import KitError
from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import stream
from geniu_lightning.settings.checked import NonNegativeInt, Positive
from geniu_lightning.unlearning.batches import Batches
from geniu_lightning.unlearning.networks import fresh_classifier
from geniu_lightning.unlearning.retrain import Retrain
from geniu_lightning.unlearning.sources import Access, LabelledBatches, Sources

Source = Literal["archive", "distribution"]
LEAST_STEPS = {"archive": 300, "distribution": 4000}  # samples are without end


class Rebuild(Retrain):
    """Retrains by the original's recipe on what the kit holds of retained classes, true labels.

    Of an `archive` the images, in the order of training; of a `distribution` fresh samples in each
    step. Shifts and mirrored images are drawn as in training. Neither the original's weights nor
    its answers are read, and nothing of forget classes is decoded or drawn: an archive has nothing
    of them in its other parts, the decoder of a distribution has seen their images.

    Args:
        source: Content of the kit that is trained on; `None` is the richest that it holds.
        min_steps: Smallest number of steps: epochs are added to the recipe's, unless an archive
            holds all retained images; `None` takes 300, with a distribution 4000.
        balance: Of samples: by the `counts` of training images, or all `classes` equally.
        temperature: Of samples: what their deviation from the means is multiplied by.
        training_seed: Seed of initialisation, order and augmentation; `None` derives it from `seed`
            and the kit's training seed.

    Source:
        Ours.
    """

    access = Access.NONE

    def __init__(
        self,
        *,
        source: Source | None = None,
        min_steps: NonNegativeInt | None = None,
        balance: Literal["counts", "classes"] = "classes",
        temperature: Positive = 1.0,
        training_seed: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(training_seed=training_seed, **settings)
        self.source = source
        self.min_steps = min_steps
        self.balance = balance
        self.temperature = temperature

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Build a fresh network, and take images or distributions of retained classes."""
        # of both seeds: runs on kits of several training seeds must differ, as these do
        own = stream("rebuild", kit.info.seed, self.seed)
        seed = own if self.training_seed is None else self.training_seed
        self.classifier = fresh_classifier(kit, seed)
        source = self.source or _richest(kit)
        least = LEAST_STEPS[source] if self.min_steps is None else self.min_steps
        retained = [k for k in kit.info.remaining if k not in self.forget]
        archive, counts = kit.info.archive, kit.info.class_counts
        if source == "archive" and archive is not None:
            least = 0 if all(archive.counts[k] == counts[k] for k in retained) else least

        def batches(size: int) -> Batches:
            if source == "archive":
                loader = kit.archive_loader(retained, size, seed)
            else:
                each = [counts[k] for k in retained]
                if self.balance == "classes":
                    each = [-(-sum(each) // len(each))] * len(each)
                loader = kit.sample_loader(retained, each, size, seed, self.temperature)
            return LabelledBatches(loader, self.forget)

        self.follow_recipe(kit, batches, least)


def _richest(kit: Kit) -> Source:
    """Return the content from which a network comes nearest to a retrained one."""
    for source in ("archive", "distribution"):
        if source in kit.info.contents:
            return source
    raise KitError(
        "this kit holds neither an archive nor a distribution to rebuild from: train with"
        " kit=[prompts,distribution] or kit=archive to make one"
    )
