"""Image synthesis: a generator that learns while a student is taught on its images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from geniu_lightning.errors import SettingError
from geniu_lightning.fitting.distributed import follow_first_rank
from geniu_lightning.fitting.optim import OptimizerFactory
from geniu_lightning.models.frozen import frozen
from geniu_lightning.seeds import generator
from geniu_lightning.settings.checked import NonNegativeInt, PositiveInt, checked
from geniu_lightning.unlearning.batches import UnlearnBatch, WholeBatches
from geniu_lightning.unlearning.tuning import BatchSize

Objective = Callable[[Tensor], Tensor | None]  # normalised images to a scalar; None: no step


class NoiseToImage(nn.Module):
    """Generator of normalised images from noise: a linear layer, then two doublings of the side.

    Linear to `widths[0]` maps of a quarter of the side, batch norm; doubled, 3x3 convolution to
    `widths[1]`, batch norm, leaky ReLU 0.2; the same to `widths[2]`; 3x3 convolution to the
    image's channels. A side that 4 does not divide is rounded up and cropped.

    Batch norm keeps no running statistics, so images are the same in training and evaluation mode.

    Args:
        channels: Channels of an image.
        size: Side of an image.
        latent: Dimension of the noise.
        widths: Maps after the linear layer and after each of the first two convolutions.
        normalise: Normalises images in [0, 1], which a sigmoid then makes; `None` ends in batch
            norm with scale and shift instead, so that images are about normalised.

    Source:
        Layers as in zero-shot-unlearning (arXiv 2201.05629, without `normalise`) and ISPF
        (arXiv 2412.13790, with it). Departures: any side and number of channels by cropping, where
        the former has a 7x7 convolution for 28 pixels.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        latent: int,
        widths: tuple[int, int, int],
        normalise: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.size, self.latent, self.normalise = size, latent, normalise
        self.maps = (widths[0], -(-size // 4), -(-size // 4))
        self.expand = nn.Linear(latent, widths[0] * self.maps[1] * self.maps[2])
        self.layers = nn.Sequential(
            _norm(widths[0]),
            *_doubled(widths[0], widths[1]),
            *_doubled(widths[1], widths[2]),
            nn.Conv2d(widths[2], channels, 3, 1, 1),
        )
        self.last: nn.Module = nn.Sigmoid() if normalise else _norm(channels)

    def forward(self, noise: Tensor) -> Tensor:
        """Return normalised images `(N, C, H, W)` of noise `(N, latent)`."""
        maps = self.layers(self.expand(noise).view(-1, *self.maps))
        images = cast(Tensor, self.last(maps[:, :, : self.size, : self.size]))
        return self.normalise(images) if self.normalise else images


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, track_running_stats=False)


def _doubled(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, 1, 1)
    return [nn.Upsample(scale_factor=2), convolution, _norm(outputs), nn.LeakyReLU(0.2)]


@checked
@dataclass(frozen=True)
class Rounds:
    """Schedule by which generator and student take steps.

    Args:
        steps: Steps of the student in all.
        student_steps: Steps of the student in a round, after one step of the generator.
        batch_size: Images in a batch.
        warm_up_steps: Steps of the generator alone, before the first round.
        reuse: Make one batch a round, from the noise that the generator stepped on; otherwise a
            new batch for each of the student's steps.
        least: Smallest number of images in a round's batch, with `reuse`.
        seek_steps: Largest number of further steps of the generator in a round with too few
            images.
        seed: Seed of the noise.

    Raises:
        SettingError: If a setting is out of range.
    """

    steps: NonNegativeInt
    student_steps: PositiveInt = 10
    batch_size: BatchSize = 64
    warm_up_steps: NonNegativeInt = 0
    reuse: bool = False
    least: NonNegativeInt = 0
    seek_steps: NonNegativeInt = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < self.least:
            raise SettingError(
                f"must be greater than or equal to {self.least}, got {self.batch_size}",
                key="batch_size",
            )


class SyntheticBatches(WholeBatches):
    """Batches of synthesised images: in each round a step of the generator, then the student's.

    The generator's steps happen between two batches, so Lightning's optimizer holds the student
    alone. They see the student as it is at that time, frozen: its running statistics are used and
    kept, each layer's mode is restored, and no gradient is left on it.

    Every process draws the same noise and makes the same steps. There is one pass: a second one
    continues with the generator as it is.

    Args:
        image_generator: The generator.
        optimizer: Factory for its optimizer.
        student: Network that is taught, used by `objective`.
        objective: Loss of the generator.
        batch_of: Makes a batch of images.
        rounds: Schedule.
        max_gradient_norm: Bound of the generator's gradient norm; `None` is no bound.
    """

    def __init__(
        self,
        image_generator: NoiseToImage,
        optimizer: OptimizerFactory,
        student: nn.Module,
        objective: Objective,
        batch_of: Callable[[Tensor], UnlearnBatch],
        rounds: Rounds,
        max_gradient_norm: float | None,
    ) -> None:
        self.generator = image_generator.to(next(student.parameters()).device)
        self.optimizer = optimizer(self.generator.parameters())
        self.student = student
        self.objective = objective
        self.batch_of = batch_of
        self.rounds = rounds
        self.max_gradient_norm = max_gradient_norm

    def __len__(self) -> int:
        return self.rounds.steps

    def __iter__(self) -> Iterator[UnlearnBatch]:
        rounds = self.rounds
        for index in range(rounds.warm_up_steps):
            self._step(self._noise(index, 0))
        for step in range(rounds.steps):
            index, turn = divmod(step, rounds.student_steps)
            if turn == 0:
                noise = self._advance(rounds.warm_up_steps + index)
                if rounds.reuse:
                    batch = self._batch(noise)
            if not rounds.reuse:
                batch = self._batch(self._noise(rounds.warm_up_steps + index, turn + 1))
            yield batch

    @torch.no_grad()
    def _advance(self, index: int) -> Tensor:
        """Step the generator, again while it makes too few images; return the last noise."""
        for attempt in range(1 + self.rounds.seek_steps):
            noise = self._noise(index, attempt)
            self._step(noise)
            if not self.rounds.least or len(self._batch(noise).images) >= self.rounds.least:
                break
        # each process steps a generator of its own: rounding must not make them diverge
        follow_first_rank(self.generator.parameters())
        return noise

    @torch.no_grad()
    def _batch(self, noise: Tensor) -> UnlearnBatch:
        return self.batch_of(self.generator(noise))

    def _noise(self, index: int, draw: int) -> Tensor:
        # drawn on the CPU, so that every device has the same
        source = generator("synthesis", self.rounds.seed, index, draw)
        noise = torch.randn(self.rounds.batch_size, self.generator.latent, generator=source)
        return noise.to(next(self.generator.parameters()).device)

    def _step(self, noise: Tensor) -> None:
        parameters = list(self.generator.parameters())
        with torch.enable_grad(), frozen(self.student):
            loss = self.objective(self.generator(noise))
            if loss is None:
                return
            gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.max_gradient_norm is not None:
            clip_grad_norm_(parameters, self.max_gradient_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


def synthetic_batch(images: Tensor, logits: Tensor, forget: Sequence[int]) -> UnlearnBatch:
    """Return a batch labelled by the teacher; each image weighs 1/N, both sets together.

    Args:
        images: Normalised, shape `(N, C, H, W)`; N may be 0.
        logits: The teacher's, shape `(N, K)`.
        forget: Forget classes.
    """
    labels = logits.argmax(dim=1)
    forgotten = torch.isin(labels, torch.tensor(list(forget), device=labels.device))
    weights = torch.full_like(labels, 1 / max(1, len(labels)), dtype=torch.float32)
    return UnlearnBatch(images, labels, forgotten, weights)


def batch_mean(batch: UnlearnBatch, values: Tensor) -> Tensor:
    """Return the mean of values `(N,)` over a batch of `synthetic_batch`."""
    return batch.forget_mean(values) + batch.retain_mean(values)
