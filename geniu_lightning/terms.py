"""The generator's terms of the combined loss, as functions of tensors."""

from torch import Tensor


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
