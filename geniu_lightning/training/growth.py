"""What grows beside a classifier: prompts and generator, and what steps them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from geniu_lightning.fitting.distributed import average_gradients
from geniu_lightning.fitting.optim import OptimizerFactory
from geniu_lightning.training.losses import ProxyTerms
from geniu_lightning.training.schedule import UpdateSchedule


class Growth:
    """Prompts and a generator, how far they are, and their optimizers.

    Args:
        terms: Move both.
        cadence: When.
        first_epoch: The trainer's epoch that is the cadence's first.
        generator: In training mode, on its device.
        prompts: On the same.
        optimizers: Of prompts and generator.
        num_classes: Number of classes.

    Attributes:
        tick: Batches so far.
        counts: Training images of each class, int64, on the CPU.
    """

    def __init__(
        self,
        *,
        terms: ProxyTerms,
        cadence: UpdateSchedule,
        first_epoch: int,
        generator: nn.Module,
        prompts: nn.Parameter,
        optimizers: tuple[OptimizerFactory, OptimizerFactory],
        num_classes: int,
    ) -> None:
        self.terms = terms
        self.cadence = cadence
        self.first_epoch = first_epoch
        self.generator = generator
        self.prompts = prompts
        self.counts = torch.zeros(num_classes, dtype=torch.long)
        self.tick = 0
        self._last_tick = cadence.steps_per_epoch * cadence.max_epochs
        self._of_prompts = _part([prompts], optimizers[0], cadence.prompt_steps)
        parameters = list(generator.parameters())
        self._of_generator = _part(parameters, optimizers[1], cadence.generator_steps)

    def step(self, classifier: nn.Module, targets: Tensor | None) -> list[dict[str, Tensor]]:
        """Make the updates that are due at this tick.

        Args:
            classifier: Answers the prompts; nothing of it is moved.
            targets: The image that each prompt is to become, once there are some.

        Returns:
            The terms of each update, weighted; none once the cadence's epochs are over, even if the
            fit goes on.
        """
        if self.tick >= self._last_tick:
            return []
        generator_steps = self.cadence.due(self.tick, self.cadence.generator_steps)
        prompt_steps = self.cadence.due(self.tick, self.cadence.prompt_steps)
        done = []
        for repetition in range(max(generator_steps, prompt_steps)):
            terms: dict[str, Tensor] = {}
            moved = []
            if repetition < prompt_steps:
                terms |= self.terms.of_prompts(classifier, self.prompts, self.tick)
                moved.append(self._of_prompts)
            if repetition < generator_steps:
                assert targets is not None  # the first epoch chose, and nothing is due before
                terms |= self.terms.of_generator(
                    self.generator, self.prompts, targets, self.tick, repetition
                )
                moved.append(self._of_generator)
            _update(torch.stack(list(terms.values())).sum(), moved)
            done.append(terms)
        return done

    def merge_counts(self) -> None:
        """Add up what all ranks counted."""
        if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
            return
        counts = self.counts.to(self.prompts.device)
        torch.distributed.all_reduce(counts)
        self.counts = counts.cpu()

    def state_dict(self) -> dict[str, Any]:
        """Return it all, as tensors and plain values."""
        parts = (self._of_prompts, self._of_generator)
        return {
            "tick": self.tick,
            "first_epoch": self.first_epoch,
            "counts": self.counts,
            "prompts": self.prompts.detach(),
            "generator": self.generator.state_dict(),
            "optimizers": [part.optimizer.state_dict() for part in parts],
            "courses": [part.course.state_dict() for part in parts],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back; the courses end with the updates that are due from here on."""
        self.tick, self.counts = state["tick"], state["counts"].cpu()
        self.prompts.data.copy_(state["prompts"])
        self.generator.load_state_dict(state["generator"])
        parts = (self._of_prompts, self._of_generator)
        steps = (self.cadence.prompt_steps, self.cadence.generator_steps)
        for part, optimizer, course, planned in zip(
            parts, state["optimizers"], state["courses"], steps, strict=True
        ):
            part.optimizer.load_state_dict(optimizer)
            part.course.load_state_dict(course)
            ticks = range(self.tick, self._last_tick)
            left = sum(self.cadence.due(tick, planned) for tick in ticks)
            part.course.T_max = max(1, part.course.last_epoch + left)


class _Part(NamedTuple):
    """Parameters that move together."""

    parameters: list[nn.Parameter]
    optimizer: Optimizer
    course: CosineAnnealingLR


def _part(parameters: list[nn.Parameter], factory: OptimizerFactory, steps: int) -> _Part:
    optimizer = factory(parameters)
    return _Part(parameters, optimizer, CosineAnnealingLR(optimizer, T_max=max(1, steps)))


def _update(loss: Tensor, parts: list[_Part]) -> None:
    """Go down a loss with the parts that it reaches, and with nothing else."""
    parameters = [p for part in parts for p in part.parameters]
    # not backward(): it would add to gradients of the user's, and wake up DDP
    gradients = torch.autograd.grad(loss, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    average_gradients(parameters)
    for part in parts:
        part.optimizer.step()
        part.optimizer.zero_grad()
        part.course.step()
