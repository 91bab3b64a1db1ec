"""Coreset: as many bytes of plain images as the kit weighs. The question behind every kit."""

from typing import Literal, get_args

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.finetune import FineTune
from geniu_lightning.unlearning.networks import fresh_classifier, mask_head
from geniu_lightning.unlearning.retrain import Retrain
from geniu_lightning.unlearning.sources import Access, Batches, Sources

Budget = Literal["kit", "proxies"]


def retained_images(kit: Kit, forget: tuple[int, ...]) -> int:
    """Return how many images of retained classes the kit's classifier was trained on."""
    return sum(n for k, n in enumerate(kit.info.class_counts) if k not in forget)


def images_for(kit: Kit, forget: tuple[int, ...], budget: Budget, size: int | None) -> int:
    """Return how many 8-bit images a budget pays for, at most all retained ones.

    Args:
        kit: What the images would replace.
        forget: Forgotten classes.
        budget: ``kit`` is what generator and prompts weigh, those of the forgotten classes too,
            though no image of these is drawn: a coreset that is stored before anybody knows what is
            to be forgotten would hold fewer of the others. ``proxies`` is as many images as there
            are prompts of retained classes, for a kit that decodes them always alike holds no more.
        size: Bytes, in place of the budget; ``None`` takes it.

    Raises:
        UserError: If the kit has no generator to be weighed, or the budget pays for no image.
    """
    if budget not in get_args(Budget):
        raise UserError(
            f"unlearner.budget must be one of {', '.join(get_args(Budget))}, got {budget!r}"
        )
    spec = kit.info.spec
    image = spec.channels * spec.size**2
    if size is None:
        if kit.generator is None or kit.prompts is None:
            raise UserError(
                "this kit has no generator whose bytes could be matched: set unlearner.bytes, where"
                " the method has it"
            )
        if budget == "proxies":
            kept = [k for k in kit.info.remaining if k not in forget]
            return min(len(kept) * kit.prompts.shape[1], retained_images(kit, forget))
        tensors = [*kit.generator.state_dict().values(), kit.prompts]
        size = sum(t.numel() * t.element_size() for t in tensors)
    if size < image:
        raise UserError(f"unlearner.bytes must hold at least an image of {image}, got {size}")
    return min(size // image, retained_images(kit, forget))


class Coreset(Retrain):
    """Retrains on as many raw retained images as the kit has bytes, drawn evenly over classes.

    A new network by the original's recipe, which cannot hide what it never saw. Where the budget
    holds all retained images, this is ``retrain`` with another seed, steps and all; where it holds
    few, an epoch of them is short, hence ``min_steps``. What is stored are real images: less
    private than a kit may be, and no question of privacy is answered here.

    Args:
        forget: Forgotten classes, by index.
        budget: As in `images_for`.
        bytes: In place of the budget.
        min_steps: Epochs are added to the recipe's until there are so many steps, unless all
            retained images are held.
        training_seed: Of initialisation, order and the draw; ``None`` is drawn from ``seed`` and
            the kit's training seed.
        seed: Unlearning seed.
        log_every_n_steps: Steps between two entries in the logs.

    Raises:
        UserError: In `prepare`, as `images_for`, or as in retraining.

    Source:
        Ours, as the control that a reviewer asks for.
    """

    def __init__(
        self,
        *,
        forget: tuple[int, ...],
        budget: Budget = "kit",
        bytes: int | None = None,
        min_steps: int = 300,
        training_seed: int | None = None,
        seed: int = 0,
        log_every_n_steps: int = 50,
    ) -> None:
        super().__init__(
            forget=forget,
            training_seed=training_seed,
            seed=seed,
            log_every_n_steps=log_every_n_steps,
        )
        if min_steps < 0:
            raise UserError(f"unlearner.min_steps must be at least 0, got {min_steps}")
        self.budget: Budget = budget
        self.bytes = bytes
        self.min_steps = min_steps

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Build a fresh network, and draw the images that would have been stored."""
        self.stored = images_for(kit, self.forget, self.budget, self.bytes)
        # of both seeds: runs on kits of several training seeds are to differ, as these do
        own = stream("coreset", kit.info.seed, self.seed)
        seed = own if self.training_seed is None else self.training_seed
        self.classifier = fresh_classifier(kit, seed)
        whole = self.stored == retained_images(kit, self.forget)
        self.follow_recipe(
            kit,
            lambda batch_size: sources.retain(batch_size, seed, limit=self.stored),
            0 if whole else self.min_steps,
        )


class CoresetTune(FineTune):
    """Fine-tunes the original on such images, and masks the forgotten classes.

    Args:
        budget: As in `images_for`.
        bytes: In place of the budget.
        **settings: Those of `Tuning`, without ``source``.

    Raises:
        UserError: In `prepare`, as `images_for`.

    Source:
        Ours. The mask does the forgetting, so it hides.
    """

    def __init__(
        self, *, budget: Budget = "kit", bytes: int | None = None, **settings: object
    ) -> None:
        # it stores real images: with proxies in their place it would be another method
        super().__init__(source="data", **settings)  # type: ignore[arg-type]  # checked there
        self.budget: Budget = budget
        self.bytes = bytes

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Draw the images that would have been stored."""
        self.stored = images_for(kit, self.forget, self.budget, self.bytes)
        super().prepare(kit, sources)

    def _open(
        self, sources: Sources, side: Access, seed: int | None, limit: int | None = None
    ) -> Batches:
        return super()._open(sources, side, seed, self.stored)

    def finish(self) -> None:
        """Mask the forgotten classes."""
        mask_head(self.classifier, self.forget)
