"""Training of encoder and decoder of latent codes, beside a classifier."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.errors import SettingError, UserError
from geniu_lightning.fitting.distributed import average_gradients
from geniu_lightning.fitting.optim import OptimizerFactory, lr_schedule_of, recorded_optimizer
from geniu_lightning.kit.info import DistributionInfo, NetworkSpec
from geniu_lightning.models.latent import Codes, Decoder, Encoder
from geniu_lightning.seeds import generator
from geniu_lightning.settings.checked import NonNegative, NonNegativeInt, PositiveInt, checked
from geniu_lightning.training.losses import CodeBatch, CombinedLoss, combined_loss
from geniu_lightning.training.schedule import Updates, UpdateSchedule
from geniu_lightning.training.settings import GENERATOR_OPTIMIZER

Features = Literal["classifier", "random", "none"]


@checked
@dataclass(frozen=True, kw_only=True)
class CodeSettings:
    """How encoder and decoder of latent codes are trained, and mixtures fitted.

    Args:
        every_n_steps: Classifier steps for each of theirs, on the same images.
        min_steps: Least number of steps: on a small set, or after the classifier, there are
            several on one batch.
        parts: Most Gaussians in the mixture of a class.
        features: What the feature term looks at: the first layer of the `classifier`, a fixed
            `random` one of the same form, or `none`.
        feature_weight: Of the feature term.
        reconstruction_weight: Of the squared error, which is summed over pixels.
        divergence_weight: Of the divergence, which is summed over latents, in nats.
    """

    every_n_steps: PositiveInt = 1
    min_steps: NonNegativeInt = 1000
    optimizer: OptimizerFactory = GENERATOR_OPTIMIZER
    parts: PositiveInt = 5
    features: Features = "classifier"
    feature_weight: NonNegative = 0.1
    reconstruction_weight: NonNegative = 1.0
    divergence_weight: NonNegative = 0.1
    latent: PositiveInt = 64
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 32


def recorded_codes(record: Mapping[str, Any]) -> CodeSettings:
    """Return the settings that a kit's training recorded; what anyone may write runs no code."""
    settings = {name: value for name, value in record.items() if not name.startswith("_")}
    try:
        settings["optimizer"] = recorded_optimizer(settings["optimizer"])
        return CodeSettings(**settings)
    except (KeyError, SettingError) as error:
        raise UserError(
            f"the kit's record of its distributions cannot be followed: {error}"
        ) from error


class CodeNetworks(nn.Module):
    """Encoder and decoder of the latent codes of images, with the settings of their training."""

    def __init__(self, spec: ImageSpec, settings: CodeSettings) -> None:
        super().__init__()
        form = (spec.channels, spec.size, settings.latent, settings.width)
        self.encoder, self.decoder, self.settings = Encoder(*form), Decoder(*form), settings
        self._form = dict(zip(("channels", "image_size", "latent", "width"), form, strict=True))

    def described(self, classes: Iterable[int]) -> DistributionInfo:
        """Return the description of distributions of some classes."""
        target = f"{Decoder.__module__}.{Decoder.__qualname__}"
        return DistributionInfo(NetworkSpec(target, self._form), tuple(classes))

    @torch.no_grad()
    def codes_of(self, batches: Iterable[Tensor]) -> Codes:
        """Return the codes of images in [0, 1], which come in batches."""
        parts = [self.encoder(images) for images in batches]
        return Codes(*(torch.cat(numbers) for numbers in zip(*parts, strict=True)))


class CodeTrainer:
    """The optimizer of encoder and decoder, and the steps that train them.

    Args:
        normalise: Makes images in [0, 1] what the classifier reads.
        batches: Of the classifier's training.
    """

    def __init__(
        self,
        networks: CodeNetworks,
        classifier: nn.Module,
        normalise: Callable[[Tensor], Tensor],
        batches: int,
        seed: int,
    ) -> None:
        self.networks, self.settings, self.seed = networks, networks.settings, seed
        total = max(self.settings.min_steps, batches // self.settings.every_n_steps, 1)
        self._schedule = UpdateSchedule(0, batches, Updates(prompts=0, generator=total))
        self._early = _early(classifier, self.settings.features, normalise, seed)
        self._lr_schedule: LRScheduler | None = None

    def configure_optimizers(self) -> LRScheduler:
        """Make the optimizer and its cosine schedule; `train_step` steps them, nobody else."""
        optimizer = self.settings.optimizer(self.networks.parameters())
        self._lr_schedule = lr_schedule_of(optimizer, "cosine", self._schedule.total.generator)
        return self._lr_schedule

    def train_step(
        self, step: int, images: Tensor, backward: Callable[[Tensor], Any] = Tensor.backward
    ) -> list[CombinedLoss]:
        """Take the steps that fall on a batch of images in [0, 1]; return their losses."""
        settings, lr_schedule, losses = self.settings, self._lr_schedule, []
        assert lr_schedule is not None  # made before the first step
        for repetition in range(self._schedule.at(step).generator):
            noise = generator("codes", self.seed, step, repetition)
            networks = self.networks
            loss = combined_loss(
                codes=CodeBatch(networks.encoder, networks.decoder, images, noise, self._early),
                reconstruction_weight=settings.reconstruction_weight,
                divergence_weight=settings.divergence_weight,
                feature_weight=settings.feature_weight,
            )
            backward(loss.total)
            average_gradients(networks.parameters())
            lr_schedule.optimizer.step()
            lr_schedule.optimizer.zero_grad()
            lr_schedule.step()
            losses.append(loss)
        return losses


def _early(
    classifier: nn.Module, features: Features, normalise: Callable[[Tensor], Tensor], seed: int
) -> Callable[[Tensor], Tensor] | None:
    """Return φ: the first convolution of a classifier, or a random one of its form, then ReLU."""
    if features == "none":
        return None
    first = next((m for m in classifier.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        raise SettingError("must be none, as the classifier has no convolution", "features")
    layer = first
    if features == "random":
        layer = copy.deepcopy(first)
        drawn = torch.randn(layer.weight.shape, generator=generator("early", seed))
        layer.weight.data = drawn.to(layer.weight) / layer.weight[0].numel() ** 0.5

    def early(images: Tensor) -> Tensor:
        still = {name: weights.detach() for name, weights in layer.named_parameters()}
        maps: Tensor = torch.func.functional_call(layer, still, (normalise(images),))
        return maps.relu()

    return early
