"""Coreset: as many bytes of raw images as the kit has. The control of every kit."""

from typing import Any, Literal

from geniu_lightning.errors import SettingError, UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import stream
from geniu_lightning.settings.checked import NonNegativeInt, PositiveInt
from geniu_lightning.unlearning.finetune import FineTune
from geniu_lightning.unlearning.logit_mask import mask_head
from geniu_lightning.unlearning.networks import fresh_classifier
from geniu_lightning.unlearning.retrain import Retrain, retained_images
from geniu_lightning.unlearning.sources import Access, Sources

Budget = Literal["kit", "proxies"]


def coreset_size(kit: Kit, forget: tuple[int, ...], budget: Budget, size: int | None) -> int:
    """Return how many 8-bit images fit a budget, at most all retained ones.

    `size` in bytes stands in place of the budget. The budget `kit` is the bytes of generator and
    prompts, those of the forget classes included, though none of their images is drawn: a coreset
    stored before the request is known would hold fewer of the others. `proxies` is as many images
    as there are prompts of retained classes: a kit that decodes deterministically holds no more.
    """
    spec = kit.info.spec
    image = spec.channels * spec.size**2
    if size is None:
        if kit.generator is None or kit.prompts is None:
            raise UserError(
                "this kit has no generator whose bytes could be matched: set unlearner.bytes"
            )
        if budget == "proxies":
            retained = [k for k in kit.info.remaining if k not in forget]
            return min(len(retained) * kit.prompts.shape[1], retained_images(kit, forget))
        tensors = [*kit.generator.state_dict().values(), kit.prompts]
        size = sum(t.numel() * t.element_size() for t in tensors)
    if size < image:
        raise SettingError(
            f"must hold at least one image of {image}, got {size}", key="unlearner.bytes"
        )
    return min(size // image, retained_images(kit, forget))


class Coreset(Retrain):
    """Retrains on as many raw retained images as the kit has bytes, drawn evenly over classes.

    A new network by the original's recipe. With a budget of all retained images it is `retrain`
    with another seed; with a small one an epoch is short, hence `min_steps`. The images stored are
    real ones, which is less private than a kit.

    Args:
        budget: As in `coreset_size`.
        min_steps: Smallest number of steps: epochs are added to the recipe's, unless the budget
            holds all retained images.
        training_seed: Seed of initialisation, order and draw; `None` derives it from `seed` and
            the kit's training seed.

    Source:
        Ours.
    """

    def __init__(
        self,
        *,
        budget: Budget = "kit",
        bytes: PositiveInt | None = None,
        min_steps: NonNegativeInt = 300,
        training_seed: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(training_seed=training_seed, **settings)
        self.budget: Budget = budget
        self.bytes = bytes
        self.min_steps = min_steps

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Build a fresh network, and draw the coreset."""
        self.stored = coreset_size(kit, self.forget, self.budget, self.bytes)
        # of both seeds: runs on kits of several training seeds must differ, as these do
        own = stream("coreset", kit.info.seed, self.seed)
        seed = own if self.training_seed is None else self.training_seed
        self.classifier = fresh_classifier(kit, seed)
        whole = self.stored == retained_images(kit, self.forget)
        self.follow_recipe(
            kit,
            lambda batch_size: sources.open(Access.RETAIN, batch_size, seed, self.stored),
            0 if whole else self.min_steps,
        )


class CoresetTune(FineTune):
    """Fine-tunes the original on a coreset, drawn as by `Coreset`, and masks the forget classes.

    Source:
        Ours. It is the mask that forgets, so the class is suppressed, not forgotten.
    """

    def __init__(
        self, *, budget: Budget = "kit", bytes: PositiveInt | None = None, **settings: Any
    ) -> None:
        # on proxies it would be another method
        super().__init__(source="data", **settings)
        self.budget: Budget = budget
        self.bytes = bytes

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Draw the coreset."""
        self.stored = coreset_size(kit, self.forget, self.budget, self.bytes)
        super().prepare(kit, sources)

    def finish(self) -> None:
        """Mask the forget classes."""
        mask_head(self.classifier, self.forget)
