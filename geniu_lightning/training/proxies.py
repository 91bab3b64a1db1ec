"""Training of prompts and generator: with our module, with a user's own, for the next kit."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from geniu_lightning.fitting.distributed import average_gradients
from geniu_lightning.fitting.optim import lr_schedule_of
from geniu_lightning.models.frozen import frozen
from geniu_lightning.seeds import generator
from geniu_lightning.training.losses import (
    CombinedLoss,
    ImageBatch,
    PromptBatch,
    ProxyBatch,
    combined_loss,
)
from geniu_lightning.training.schedule import UpdateSchedule
from geniu_lightning.training.settings import ProxySettings


def first_prompts(num_classes: int, per_class: int, channels: int, size: int, seed: int) -> Tensor:
    """Return the noise that prompts begin as, class by class, `(classes * per class, C, H, W)`."""
    shape = (num_classes * per_class, channels, size, size)
    return torch.randn(shape, generator=generator("prompts", seed))


class ProxyTrainer:
    """Prompts and a generator with their optimizers, and the updates that train them.

    An update is made on a draw of `prompt_batch` prompts, which follows from seed and step alone.

    Args:
        generator: Turns prompts into images.
        prompts: Class by class, shape `(classes * per class, C, H, W)`.
        alone: Whether this process trains by itself; else gradients are averaged over all.
        classes: Those of the prompts; `None` is all, from 0.

    Attributes:
        labels: Class of each prompt, int64 `(classes * per class,)`, on its device.
    """

    def __init__(
        self,
        generator: nn.Module,
        prompts: nn.Parameter,
        settings: ProxySettings,
        schedule: UpdateSchedule,
        seed: int,
        alone: bool = False,
        classes: Sequence[int] | None = None,
    ) -> None:
        self.generator = generator
        self.prompts = prompts
        self.settings = settings
        self.schedule = schedule
        self.seed = seed
        self.alone = alone
        per_class = settings.proxies_per_class
        own = range(len(prompts) // per_class) if classes is None else classes
        self.labels = torch.tensor(own).repeat_interleave(per_class)
        self._lr_schedules: list[LRScheduler] = []

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """Make optimizers and learning-rate schedules of generator and prompts; return them.

        To be called once both are on their device. `train_step` steps them, nobody else.
        """
        self.labels = self.labels.to(self.prompts.device)
        total = self.schedule.total
        generator = self.settings.generator_optimizer(self.generator.parameters())
        prompts = self.settings.prompt_optimizer([self.prompts])
        self._lr_schedules = [
            lr_schedule_of(generator, "cosine", total.generator),
            lr_schedule_of(prompts, "cosine", total.prompts),
        ]
        return [generator, prompts], self._lr_schedules

    def train_step(
        self,
        step: int,
        classifier: nn.Module | None,
        exemplars: Tensor | None,
        images: ImageBatch | None = None,
        backward: Callable[[Tensor], Any] = torch.Tensor.backward,
    ) -> list[CombinedLoss]:
        """Make the updates of a step, and pass the classifier its gradients.

        The first update shares one loss with the batch of real images, so prompts and generator
        are updated by the classifier before its step. Further updates move the generator alone.

        Args:
            step: Batches so far.
            classifier: Recognises the prompts; not moved by them. `None` lets the prompts rest.
            exemplars: The image that each prompt is to become, once there are some.
            images: Real batch, whose gradients are left to the caller.
            backward: Computes the gradients of a loss.
        """
        updates, settings = self.schedule.at(step), self.settings
        losses = []
        for repetition in range(max(*updates, images is not None)):
            prompts = proxies = None
            drawn = self._draw(step, repetition)
            if classifier is not None and repetition < updates.prompts:
                prompts = PromptBatch(classifier, self.prompts[drawn], self.labels[drawn])
            if repetition < updates.generator:
                assert exemplars is not None  # the first epoch chose, and no update comes before
                noise = generator("latents", self.seed, step, repetition)
                still = self.prompts.detach()[drawn]
                proxies = ProxyBatch(self.generator, still, exemplars[drawn], noise)
            loss = combined_loss(
                images=images if repetition == 0 else None,
                prompts=prompts,
                proxies=proxies,
                prompt_weight=settings.prompt_weight,
                reconstruction_weight=settings.reconstruction_weight,
                divergence_weight=settings.divergence_weight,
            )
            backward(loss.total)
            self._step_optimizers()
            losses.append(loss)
        return losses

    def _step_optimizers(self) -> None:
        """Step each optimizer whose parameters the loss reached."""
        for lr_schedule in self._lr_schedules:
            optimizer = lr_schedule.optimizer
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            if all(p.grad is None for p in parameters):
                continue
            if not self.alone:
                average_gradients(parameters)
            optimizer.step()
            optimizer.zero_grad()
            lr_schedule.step()

    def _draw(self, step: int, repetition: int) -> Tensor:
        """Return the positions of an update's prompts."""
        rng = generator("draw", self.seed, step, repetition)
        order = torch.randperm(len(self.prompts), generator=rng)
        return order[: self.settings.prompt_batch].to(self.prompts.device)

    @torch.no_grad()
    def proxies(self) -> Tensor:
        """Return the proxy of every prompt as the kit will decode it, in [0, 1]."""
        with frozen(self.generator):
            return cast(Tensor, self.generator(self.prompts, sample=False).images)

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors and plain values."""
        return {
            "prompts": self.prompts.detach(),
            "generator": self.generator.state_dict(),
            "optimizers": [s.optimizer.state_dict() for s in self._lr_schedules],
            "lr_schedules": [s.state_dict() for s in self._lr_schedules],
        }

    def load_state_dict(self, state: dict[str, Any], step: int) -> None:
        """Go on at a step where `state` was taken; rates fall to zero over the updates left."""
        self.prompts.data.copy_(state["prompts"])
        self.generator.load_state_dict(state["generator"])
        left = self.schedule.left(step)
        for k, count in enumerate((left.generator, left.prompts)):
            cosine: Any = self._lr_schedules[k]  # which ends at T_max
            cosine.optimizer.load_state_dict(state["optimizers"][k])
            cosine.load_state_dict(state["lr_schedules"][k])
            cosine.T_max = max(1, cosine.last_epoch + count)
