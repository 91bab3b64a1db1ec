"""EMMN: train on learned noise that is wrong for forget classes and right for retained ones."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from geniu_lightning.kit.file import Kit
from geniu_lightning.settings.checked import NonNegative, NonNegativeInt, Positive, PositiveInt
from geniu_lightning.unlearning.batches import CombinedBatches, UnlearnBatch
from geniu_lightning.unlearning.losses import cross_entropy
from geniu_lightning.unlearning.noise import learned_noise, noise_batches
from geniu_lightning.unlearning.phases import TwoPhases
from geniu_lightning.unlearning.sources import Sources
from geniu_lightning.unlearning.tuning import BatchSize


class Emmn(TwoPhases):
    """Minimises the mean of `CE(f(N_k), k)` over noise of all classes, then of the retained ones.

    N_k is learned before the first step (see `learned_noise`): it maximises the error where k is
    a forget class, with the penalty λ, and minimises it where k is retained, without one.

    Both phases are needed. The first teaches that inputs unlike the retained classes' noise are of
    F, and real images are unlike it: alone it moves nearly all of them into F. The second removes
    F again.

    Args:
        images_per_class: Noise images of each class.
        penalty: λ.
        batch_size: Images in a step, as in `noise_batches`.

    Source:
        Chundawat et al., Zero-Shot Machine Unlearning, arXiv 2201.05629; the authors' code has the
        paper's other method alone. An implementation in jwf40/Information-Theoretic-Unlearning has
        noise by Adam 0.1 in 25 steps (forgotten, λ 0.1) and 30 (retained, λ 0), then Adam 1e-4, 2
        epochs over 80 repeats of the noise, batches of 4. Departures: all learned images are used
        once an epoch, where that code repeats as many as there are colour channels; as many noise
        steps for both sides; balanced batches, steps for epochs, and a bound of the gradient.
    """

    def __init__(
        self,
        *,
        images_per_class: PositiveInt = 64,
        noise_steps: NonNegativeInt = 50,
        noise_rate: Positive = 0.1,
        penalty: NonNegative = 0.1,
        batch_size: BatchSize = 64,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.images_per_class = images_per_class
        self.noise_steps = noise_steps
        self.noise_rate = noise_rate
        self.penalty = penalty
        self.batch_size = batch_size

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Copy the classifier and learn the noise of all classes."""
        super().prepare(kit, sources)
        if not self.steps:
            return
        retained = [k for k in range(len(kit.info.class_names)) if k not in self.forget]
        learned = partial(
            learned_noise,
            kit,
            images=self.images_per_class,
            steps=self.noise_steps,
            rate=self.noise_rate,
        )
        wrong = learned(self.forget, "max", penalty=self.penalty)
        right = learned(retained, "min", penalty=0.0)
        both = torch.cat([wrong[0], right[0]]), torch.cat([wrong[1], right[1]])
        phases = [
            noise_batches(
                *noise, self.forget, batch_size=self.batch_size, steps=steps, seed=self.seed
            )
            for noise, steps in ((both, self.impair_steps), (right, self.repair_steps))
        ]
        plan = [[0]] * self.impair_steps + [[1]] * self.repair_steps
        self.batches = CombinedBatches(phases, plan)

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return the mean over all noise of the batch, in nats."""
        # noise is whole on every rank, so this is the mean of the whole batch
        return {"noise": cross_entropy(self.classifier(batch.images), batch.labels).mean()}
