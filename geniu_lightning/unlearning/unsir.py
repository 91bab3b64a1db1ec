"""UNSIR: impair with learned noise and the retain set, then repair with the retain set."""

from typing import Any

from torch import Tensor

from geniu_lightning.kit.file import Kit
from geniu_lightning.settings.checked import NonNegative, NonNegativeInt, Positive, PositiveInt
from geniu_lightning.unlearning.batches import Batches, CombinedBatches, UnlearnBatch
from geniu_lightning.unlearning.losses import cross_entropy
from geniu_lightning.unlearning.noise import learned_noise, noise_batches
from geniu_lightning.unlearning.phases import TwoPhases
from geniu_lightning.unlearning.sources import Access, Sources
from geniu_lightning.unlearning.tuning import Tuning


class Unsir(TwoPhases, Tuning):
    """Learns error-maximising noise N_k of each forget class, then trains in two phases.

    Impair: `mean CE(f(N_k), k) + mean CE(f(x), y)` over noise and over the retain set.
    Repair: `mean CE(f(x), y)` over the retain set alone.

    With `source=proxies` the kit's proxies replace the retain set: the restricted form, to be
    reported as such.

    Args:
        noise_images: Noise images of each forget class.
        penalty: λ of the noise (see `learned_noise`).

    Source:
        Tarun et al., Fast Yet Effective Machine Unlearning, arXiv 2111.08947. The public notebook
        (ResNet-18, CIFAR-10) has noise batches of 256, Adam 0.1, 5 · 8 steps, λ 0.1; 1,000 retained
        images a class; impair by Adam 0.02, repair by Adam 0.01, an epoch each, batches of 256,
        batch norm in training mode. Departures: those of `learned_noise`; each set has its own
        mean, where the notebook takes one over both, with 120 noise images among 8,000 real ones,
        so noise weighs far more here; retained images are all of them, shuffled, where it takes the
        first thousand of a class; smaller rates.
    """

    sides = Access.RETAIN

    def __init__(
        self,
        *,
        noise_images: PositiveInt = 64,
        noise_steps: NonNegativeInt = 40,
        noise_rate: Positive = 0.1,
        penalty: NonNegative = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.noise_images = noise_images
        self.noise_steps = noise_steps
        self.noise_rate = noise_rate
        self.penalty = penalty

    def make_batches(self, kit: Kit, sources: Sources, sides: Access, steps: int) -> Batches:
        """Learn the noise; return batches with it, then batches without."""
        images, labels = learned_noise(
            kit,
            self.forget,
            "max",
            images=self.noise_images,
            steps=self.noise_steps,
            rate=self.noise_rate,
            penalty=self.penalty,
        )
        noise = noise_batches(
            images,
            labels,
            self.forget,
            batch_size=self.batch_size,
            steps=self.impair_steps,
            seed=self.seed,
        )
        retained = super().make_batches(kit, sources, sides, steps)
        # twice: the second phase begins a new epoch
        plan = [[0, 1]] * self.impair_steps + [[2]] * self.repair_steps
        return CombinedBatches([noise, retained, retained], plan)

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return the retain term and, in the first phase, that of the noise, in nats."""
        loss = cross_entropy(self.classifier(batch.images), batch.labels)
        terms = {"retain": batch.retain_mean(loss)}
        return terms | {"noise": batch.forget_mean(loss)} if batch.forget.any() else terms
