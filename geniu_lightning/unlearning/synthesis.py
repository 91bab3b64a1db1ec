"""Image synthesis: a generator that learns while a student is taught on its images."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from geniu_lightning.fitting.distributed import follow_first_rank
from geniu_lightning.fitting.optim import OptimizerFactory
from geniu_lightning.kit.file import Kit
from geniu_lightning.models.frozen import frozen
from geniu_lightning.seeds import generator, stream
from geniu_lightning.settings.checked import PositiveInt
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.batches import StepBatches, UnlearnBatch
from geniu_lightning.unlearning.networks import Teacher, fresh_classifier
from geniu_lightning.unlearning.sources import Sources
from geniu_lightning.unlearning.tuning import BatchSize


class NoiseToImage(nn.Module):
    """Generator of normalised images from noise: a linear layer, then two doublings of the side.

    Linear to `widths[0]` maps of a quarter of the side, batch norm; doubled, 3x3 convolution to
    `widths[1]`, batch norm, leaky ReLU 0.2; the same to `widths[2]`; 3x3 convolution to the
    image's channels. A side that 4 does not divide is rounded up and cropped. Batch norm keeps no
    running statistics, so images are the same in training and evaluation mode.

    Args:
        channels: Channels of an image.
        size: Its side.
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


class Synthesis(Unlearner):
    """Base of methods that teach a new student on images of a generator that learns meanwhile.

    In a round the generator takes one step and the student `student_steps`. A method supplies
    `batch_of` and `generator_loss`, and chooses by `one_noise` whether the student's steps of a
    round share one batch, made of the noise that the generator stepped on, or have one each.

    Args:
        batch_size: Images synthesised in a step.
        latent: Dimension of the noise.
        **settings: Those of the base but `batch_norm`, which is `train`. `max_gradient_norm` bounds
            the generator's gradient too.
    """

    widths: ClassVar[tuple[int, int, int]]
    sigmoid: ClassVar[bool]  # how the generator's images are normalised
    one_noise: ClassVar[bool]
    warm_up_steps = 0  # of the generator alone, at the beginning
    # with `one_noise`: most further steps of the generator in a round with fewer images
    seek_steps, least = 0, 0

    def __init__(
        self,
        *,
        generator_optimizer: OptimizerFactory,
        batch_size: BatchSize = 64,
        student_steps: PositiveInt = 10,
        latent: PositiveInt = 128,
        **settings: Any,
    ) -> None:
        super().__init__(batch_norm="train", **settings)
        self.generator_optimizer = generator_optimizer
        self.batch_size = batch_size
        self.student_steps = student_steps
        self.latent = latent

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Build the student and the generator."""
        self.teacher = Teacher(kit.classifier)
        self.classifier = fresh_classifier(kit, stream("student", self.seed))
        if self.steps:
            spec = kit.info.spec
            normalise = spec.normalise if self.sigmoid else None
            self.batches = SyntheticBatches(
                self, NoiseToImage(spec.channels, spec.size, self.latent, self.widths, normalise)
            )

    @abstractmethod
    def batch_of(self, images: Tensor) -> UnlearnBatch:
        """Return a batch of synthesised images, perhaps not of all."""

    @abstractmethod
    def generator_loss(self, images: Tensor) -> Tensor | None:
        """Return the generator's loss on normalised images; `None` for no step."""


class SyntheticBatches(StepBatches):
    """Batches of synthesised images: in each round a step of the generator, then the student's.

    The generator's steps happen between two batches, so Lightning's optimizer holds the student
    alone. They see the student frozen, as it is at that time. Every process draws the same noise
    and makes the same steps.
    """

    def __init__(self, method: Synthesis, image_generator: NoiseToImage) -> None:
        super().__init__(self._batch_at, method.steps)
        self.method = method
        self.device = next(method.classifier.parameters()).device
        self.generator = image_generator.to(self.device)
        self.optimizer = method.generator_optimizer(self.generator.parameters())

    def _batch_at(self, step: int) -> UnlearnBatch:
        method = self.method
        if step == 0:
            for index in range(method.warm_up_steps):
                self._step(self._noise(index, 0))
        index, turn = divmod(step, method.student_steps)
        index += method.warm_up_steps
        if turn == 0:
            noise = self._advance(index)
            if method.one_noise:
                self.batch = self._batch(noise)
        return self.batch if method.one_noise else self._batch(self._noise(index, turn + 1))

    @torch.no_grad()
    def _advance(self, index: int) -> Tensor:
        """Step the generator, again while it makes too few images; return the last noise."""
        for attempt in range(1 + self.method.seek_steps):
            noise = self._noise(index, attempt)
            self._step(noise)
            if not self.method.least or len(self._batch(noise).images) >= self.method.least:
                break
        # each process steps a generator of its own: rounding must not make them diverge
        follow_first_rank(self.generator.parameters())
        return noise

    @torch.no_grad()
    def _batch(self, noise: Tensor) -> UnlearnBatch:
        return self.method.batch_of(self.generator(noise))

    def _noise(self, index: int, draw: int) -> Tensor:
        # drawn on the CPU, so that every device has the same
        source = generator("synthesis", self.method.seed, index, draw)
        shape = (self.method.batch_size, self.generator.latent)
        return torch.randn(shape, generator=source).to(self.device)

    def _step(self, noise: Tensor) -> None:
        parameters = list(self.generator.parameters())
        with torch.enable_grad(), frozen(self.method.classifier):
            loss = self.method.generator_loss(self.generator(noise))
            if loss is None:
                return
            gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.method.max_gradient_norm is not None:
            clip_grad_norm_(parameters, self.method.max_gradient_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


def synthetic_batch(images: Tensor, logits: Tensor, forget: Sequence[int]) -> UnlearnBatch:
    """Return a batch labelled by the teacher's logits; each of N >= 0 images weighs 1/N."""
    labels = logits.argmax(dim=1)
    forgotten = torch.isin(labels, torch.tensor(list(forget), device=labels.device))
    weights = torch.full_like(labels, 1 / max(1, len(labels)), dtype=torch.float32)
    return UnlearnBatch(images, labels, forgotten, weights)


def batch_mean(batch: UnlearnBatch, values: Tensor) -> Tensor:
    """Return the mean of values `(N,)` over a batch of `synthetic_batch`."""
    return batch.forget_mean(values) + batch.retain_mean(values)
