"""Images made of noise by a network that learns beside the student which is taught on them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.errors import UserError
from geniu_lightning.fitting.distributed import follow_first_rank
from geniu_lightning.fitting.optim import OptimizerFactory
from geniu_lightning.seeds import generator
from geniu_lightning.unlearning.sources import UnlearnBatch

Objective = Callable[[Tensor], Tensor | None]  # normalised images to a scalar; None: no step


class NoiseToImage(nn.Module):
    """Turns noise into normalised images: a linear layer, then two doublings of the side.

    Linear to ``widths[0]`` maps of a quarter of the side, batch norm; doubled, 3×3 convolution to
    ``widths[1]``, batch norm, leaky ReLU 0.2; the same to ``widths[2]``; 3×3 convolution to the
    image's channels. A side that 4 does not divide is rounded up and the rest cut off.

    Batch norm keeps no running statistics, so that images are made as they were when the generator
    was updated, whatever mode it is in.

    Args:
        spec: Form and normalisation of the images.
        latent: Numbers of noise in an image.
        widths: Maps after the linear layer and after each of the first two convolutions.
        bounded: End in a sigmoid, an image in [0, 1], which is then normalised; otherwise in batch
            norm with scale and shift, so that images are about normalised.

    Source:
        Layers as in zero-shot-unlearning (arXiv 2201.05629, not ``bounded``) and ISPF
        (arXiv 2412.13790, ``bounded``). Departures: any side and any number of channels by cutting
        off, where the former has a 7×7 convolution for 28 pixels.
    """

    def __init__(
        self, spec: ImageSpec, latent: int, widths: tuple[int, int, int], bounded: bool
    ) -> None:
        super().__init__()
        self.spec, self.latent, self.bounded = spec, latent, bounded
        self.maps = (widths[0], -(-spec.size // 4), -(-spec.size // 4))
        self.expand = nn.Linear(latent, widths[0] * self.maps[1] * self.maps[2])
        self.layers = nn.Sequential(
            _norm(widths[0]),
            *_doubled(widths[0], widths[1]),
            *_doubled(widths[1], widths[2]),
            nn.Conv2d(widths[2], spec.channels, 3, 1, 1),
        )
        self.last: nn.Module = nn.Sigmoid() if bounded else _norm(spec.channels)

    def forward(self, noise: Tensor) -> Tensor:
        """Return normalised images ``(N, C, H, W)`` of noise ``(N, latent)``."""
        side = self.spec.size
        maps = self.layers(self.expand(noise).view(-1, *self.maps))
        images = cast(Tensor, self.last(maps[:, :, :side, :side]))
        return self.spec.normalise(images) if self.bounded else images


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, track_running_stats=False)


def _doubled(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, 1, 1)
    return [nn.Upsample(scale_factor=2), convolution, _norm(outputs), nn.LeakyReLU(0.2)]


@dataclass(frozen=True)
class Rounds:
    """How generator and student take turns.

    Args:
        steps: Batches for the student in all.
        student_steps: Batches for the student in a round, after one step of the generator.
        batch_size: Images in a batch.
        warm_up_steps: Steps of the generator alone, before the first round.
        reuse: Make one batch a round, from the noise that the generator stepped on; otherwise a
            new batch for each of the student's steps.
        least: With ``reuse``, fewer images than these in a round's batch are too few.
        seek_steps: Further steps of the generator, at most, in a round with too few images.
        seed: Of the noise.

    Raises:
        UserError: If a number is too small.
    """

    steps: int
    student_steps: int = 10
    batch_size: int = 64
    warm_up_steps: int = 0
    reuse: bool = False
    least: int = 0
    seek_steps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {
            "student_steps": 1,
            "batch_size": max(2, self.least),
            "warm_up_steps": 0,
            "seek_steps": 0,
        }
        for name, bound in bounds.items():
            if getattr(self, name) < bound:
                raise UserError(
                    f"unlearner.{name} must be at least {bound}, got {getattr(self, name)}"
                )


class Synthetic:
    """Batches of made images: in each round one step of the generator, then the student's batches.

    The generator's steps happen here, between two batches, so that Lightning's optimizer has the
    student alone. They see the student as it is at that time, in evaluation mode (its running
    statistics are used and kept; each layer's mode is restored), and leave no gradient on it.

    Every process draws the same noise and makes the same steps on the whole batch, so the student's
    gradients are equal and need no share. One pass: a second one goes on with the generator as it
    is.

    Args:
        maker: Generator of images.
        optimizer: Factory for the generator's optimizer.
        student: Network that is taught, seen by ``objective``.
        objective: What the generator brings down.
        batch_of: Makes a batch of images.
        rounds: How they take turns.
        max_gradient_norm: Bound of the generator's gradient; ``None`` leaves it.
    """

    def __init__(
        self,
        maker: NoiseToImage,
        optimizer: OptimizerFactory,
        student: nn.Module,
        objective: Objective,
        batch_of: Callable[[Tensor], UnlearnBatch],
        rounds: Rounds,
        max_gradient_norm: float | None,
    ) -> None:
        self.maker = maker.to(next(student.parameters()).device)
        self.optimizer = optimizer(self.maker.parameters())
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

    def shard(self, rank: int, world: int) -> None:
        """Leave the batch whole: every process makes all of it."""

    @torch.no_grad()
    def _advance(self, index: int) -> Tensor:
        """Step the generator, again while too few images come of it; return the last noise."""
        for attempt in range(1 + self.rounds.seek_steps):
            noise = self._noise(index, attempt)
            self._step(noise)
            if not self.rounds.least or len(self._batch(noise).images) >= self.rounds.least:
                break
        # each process steps a generator of its own: roundings must not drive them apart
        follow_first_rank(self.maker.parameters())
        return noise

    @torch.no_grad()
    def _batch(self, noise: Tensor) -> UnlearnBatch:
        return self.batch_of(self.maker(noise))

    def _noise(self, index: int, draw: int) -> Tensor:
        # drawn on the CPU, so that every device has the same
        source = generator("synthesis", self.rounds.seed, index, draw)
        noise = torch.randn(self.rounds.batch_size, self.maker.latent, generator=source)
        return noise.to(next(self.maker.parameters()).device)

    def _step(self, noise: Tensor) -> None:
        moving = list(self.maker.parameters())
        with torch.enable_grad(), evaluating(self.student):
            loss = self.objective(self.maker(noise))
            if loss is None:
                return
            # not backward(), which would leave gradients on the student
            gradients = torch.autograd.grad(loss, moving)
        for parameter, gradient in zip(moving, gradients, strict=True):
            parameter.grad = gradient
        if self.max_gradient_norm is not None:
            clip_grad_norm_(moving, self.max_gradient_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and each of its layers back into its own afterwards."""
    modes = [(layer, layer.training) for layer in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def synthetic_batch(images: Tensor, logits: Tensor, forget: Sequence[int]) -> UnlearnBatch:
    """Return a batch labelled as the teacher answers, each image 1/N of the mean over *both* sides.

    Args:
        images: Normalised, shape ``(N, C, H, W)``; N may be 0.
        logits: The teacher's, shape ``(N, K)``.
        forget: Forgotten classes.
    """
    labels = logits.argmax(dim=1)
    gone = torch.isin(labels, torch.tensor(list(forget), device=labels.device))
    weights = torch.full_like(labels, 1 / max(1, len(labels)), dtype=torch.float32)
    return UnlearnBatch(images, labels, gone, weights)


def mean_of(batch: UnlearnBatch, values: Tensor) -> Tensor:
    """Return the mean of values ``(N,)`` over a batch of `synthetic_batch`."""
    return batch.forget_mean(values) + batch.retain_mean(values)


def disagreement(teacher: Tensor, student: Tensor) -> Tensor:
    """Return p_T (log p_T − log p_S) of each class; their sum over classes is KL(p_T ‖ p_S).

    Unlike `divergence` it has a finite gradient towards
    the teacher too, where a probability is rounded to 0.

    Args:
        teacher: Logits, shape ``(N, K)``.
        student: Logits, same shape.
    """
    expected = teacher.float().log_softmax(dim=1)
    return expected.exp() * (expected - student.float().log_softmax(dim=1))
