"""The terms of the combined loss that move prompts and generator."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.models.frozen import frozen
from geniu_lightning.models.vae import Generated
from geniu_lightning.seeds import generator


def reconstruction(images: Tensor, target: Tensor) -> Tensor:
    """Return the squared error summed over pixels, averaged over images ``(N, C, H, W)``.

    Summed, because an average over pixels lets the divergence win and every proxy become the same
    image. Source: GENIU, Eq. 3; the square is our reading.
    """
    return (images.float() - target.float()).square().sum(dim=(1, 2, 3)).mean()


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) ‖ N(0, I)) summed over latents, averaged over codes, in nats.

    Args:
        mean: Shape ``(N, latent)``.
        log_variance: Same shape.

    Source:
        GENIU, Eq. 4; the standard normal is our reading.

    Example:
        >>> divergence(torch.ones(1, 3), torch.zeros(1, 3))
        tensor(1.5000)
    """
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()


@dataclass(frozen=True)
class ProxyTerms:
    """Terms of draws of prompts, weighted; what is drawn follows from seed and tick.

    Args:
        per_class: Prompts of each class; they stand class by class.
        prompt_batch: Prompts in an update.
        prompt_weight: Of the prompts' cross-entropy.
        reconstruction_weight: Of the squared error, which is summed over pixels.
        divergence_weight: Of the divergence, which is summed over latents, in nats.
        seed: Training seed.

    Raises:
        UserError: If the batch is too small for batch statistics.
    """

    per_class: int
    prompt_batch: int = 20
    prompt_weight: float = 1.0
    reconstruction_weight: float = 1.0
    divergence_weight: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.prompt_batch < 2:
            raise UserError(f"training.prompt_batch must be at least 2, got {self.prompt_batch}")

    def first_prompts(self, num_classes: int, channels: int, size: int) -> Tensor:
        """Return the noise that prompts begin as, shape ``(classes · per class, C, H, W)``."""
        shape = (num_classes * self.per_class, channels, size, size)
        return torch.randn(shape, generator=generator("prompts", self.seed))

    def of_prompts(self, classifier: nn.Module, prompts: Tensor, tick: int) -> dict[str, Tensor]:
        """Return the cross-entropy of a draw of prompts, in nats; moves the prompts alone."""
        chosen = self.draw(prompts, tick, 0)
        with frozen(classifier):
            logits = classifier(prompts[chosen]).float()
        return {"prompts": self.prompt_weight * F.cross_entropy(logits, chosen // self.per_class)}

    def of_generator(
        self, network: nn.Module, prompts: Tensor, targets: Tensor, tick: int, repetition: int
    ) -> dict[str, Tensor]:
        """Return the terms of a draw of proxies; they move the generator alone.

        Args:
            network: The generator.
            prompts: All of them.
            targets: The image that each is to become, in [0, 1], in the prompts' order.
            tick: When.
            repetition: Which of the tick's updates this is.
        """
        chosen = self.draw(prompts, tick, repetition)
        noise = generator("latents", self.seed, tick, repetition)
        made: Generated = network(prompts.detach()[chosen], generator=noise)
        return {
            "reconstruction": self.reconstruction_weight
            * reconstruction(made.images, targets[chosen]),
            "divergence": self.divergence_weight * divergence(made.mean, made.log_variance),
        }

    def draw(self, prompts: Tensor, tick: int, repetition: int) -> Tensor:
        """Return the positions of the prompts that an update is made on."""
        rng = generator("draw", self.seed, tick, repetition)
        return torch.randperm(len(prompts), generator=rng)[: self.prompt_batch].to(prompts.device)
