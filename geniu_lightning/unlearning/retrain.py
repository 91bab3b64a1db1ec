"""Retraining without the forget classes: the oracle, the reference of every method."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.fitting.optim import recorded_optimizer
from geniu_lightning.kit.file import Kit
from geniu_lightning.settings.checked import PositiveInt
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.batches import Batches, UnlearnBatch
from geniu_lightning.unlearning.networks import fresh_classifier
from geniu_lightning.unlearning.sources import Access, Sources


class Retrain(Unlearner):
    """Trains a new network on the retain set by the recipe of the kit's classifier.

    The head keeps its width, and labels are not renumbered. Epochs are the original's, so steps
    are fewer.

    Args:
        training_seed: Seed of initialisation, order and augmentation; `None` takes the kit's,
            which pairs the oracle with its original.
        seed: Unlearning seed, without effect.
    """

    access = Access.RETAIN
    from_scratch = True

    def __init__(
        self,
        *,
        forget: Sequence[int],
        training_seed: int | None = None,
        seed: int = 0,
        log_every_n_steps: PositiveInt = 50,
    ) -> None:
        super().__init__(
            forget=forget, batch_norm="train", seed=seed, log_every_n_steps=log_every_n_steps
        )
        self.training_seed = training_seed

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Build a fresh network and take the recipe from the kit."""
        seed = kit.info.seed if self.training_seed is None else self.training_seed
        self.classifier = fresh_classifier(kit, seed)
        self.follow_recipe(kit, lambda batch_size: sources.open(Access.RETAIN, batch_size, seed))

    def follow_recipe(
        self, kit: Kit, retained: Callable[[int], Batches], min_steps: int = 0
    ) -> None:
        """Train as the kit records, for more epochs where they have fewer than `min_steps`.

        `retained` opens the retain set, given a batch size.
        """
        recipe = kit.info.settings.get("training", {})
        epochs, batch_size = _recorded(recipe, "epochs"), _recorded(recipe, "batch_size")
        self.batches = retained(batch_size)
        self.steps = max(epochs, -(-min_steps // len(self.batches))) * len(self.batches)
        try:
            self.optimizer_factory = recorded_optimizer(recipe["optimizer"])
            self.schedule = recipe["schedule"]
            self.max_gradient_norm = recipe["max_gradient_norm"]
        except KeyError as error:
            raise UserError(f"the kit does not say how it was trained: no {error}") from error

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return the cross-entropy on the retain set, in nats."""
        logits = self.classifier(batch.images).float()
        loss = F.cross_entropy(logits, batch.labels, reduction="none")
        return {"retain": batch.retain_mean(loss)}


def retained_images(kit: Kit, forget: Collection[int]) -> int:
    """Return how many images of retained classes the kit's classifier was trained on."""
    return sum(count for k, count in enumerate(kit.info.class_counts) if k not in forget)


def steps_of_retraining(kit: Kit, forget: Collection[int]) -> int:
    """Return the number of steps of retraining without classes, by the kit's record and counts.

    A kit of `KitCallback` without a recipe records its batches: retraining takes the fraction of
    them that the retain set is of all images.
    """
    counts, settings = kit.info.class_counts, kit.info.settings
    retained = retained_images(kit, forget)
    if not retained:
        raise UserError("the kit does not say how many images of each class were trained on")
    if "training" not in settings and "callback" in settings:
        return math.ceil(_recorded(settings["callback"], "batches") * retained / sum(counts))
    recipe = settings.get("training", {})
    return _recorded(recipe, "epochs") * math.ceil(retained / _recorded(recipe, "batch_size"))


def _recorded(record: dict[str, Any], name: str) -> int:
    """Return a number of a kit's record, which `KitInfo` has checked."""
    if name not in record:
        raise UserError(f"the kit does not say how it was trained: no {name!r}")
    return int(record[name])
