"""KLoM: KL divergence between the margins of many unlearned and many retrained models."""

import torch
from torch import Tensor

from geniu_lightning.evaluation.attacks.u_lira import VARIANCE_FLOOR

FEWEST_FOR_HISTOGRAM = 50  # with fewer models a histogram has no range above its own noise
BINS = 20
LARGEST_MARGIN = 100.0


def klom(unlearned: Tensor, oracles: Tensor) -> Tensor:
    """Return KL(unlearned to oracles) of each image's margins (KLoM, arXiv 2410.23232).

    Margins `(N, X)` and `(M, X)` are clipped to ±100. By `histogram_kl` with at least 50 models on
    both sides, by `gaussian_kl` below. In nats, shape `(X,)`. Not 0 for equal laws: compare with
    the floor.
    """
    few = min(len(unlearned), len(oracles)) < FEWEST_FOR_HISTOGRAM
    estimate = gaussian_kl if few else histogram_kl
    limits = (-LARGEST_MARGIN, LARGEST_MARGIN)
    return estimate(unlearned.double().clamp(*limits), oracles.double().clamp(*limits))


def histogram_kl(first: Tensor, second: Tensor) -> Tensor:
    """Return Σ_b P_b log(P_b / Q_b) over 20 equal bins of the pooled range, shape `(X,)`.

    Of draws `(N, X)` of P and `(M, X)` of Q; ½ is added to each count, so that it stays finite.
    """
    low = torch.minimum(first.amin(dim=0), second.amin(dim=0))
    high = torch.maximum(first.amax(dim=0), second.amax(dim=0))
    width = torch.where(high > low, high - low, 1.0)
    shares = []
    for draws in (first, second):
        bins = ((draws - low) / width * BINS).long().clamp(max=BINS - 1)
        counts = torch.full((BINS, draws.shape[1]), 0.5, dtype=torch.float64)
        counts.scatter_add_(0, bins, torch.ones_like(draws, dtype=torch.float64))
        shares.append(counts / counts.sum(dim=0))
    return (shares[0] * (shares[0] / shares[1]).log()).sum(dim=0)


def gaussian_kl(first: Tensor, second: Tensor) -> Tensor:
    """Return KL of normal laws, ½(log(v₂/v₁) + (v₁ + (m₁ - m₂)²)/v₂ - 1), shape `(X,)`.

    Variances of the draws `(N, X)` have the divisor N - 1 and are at least 0.05².
    """
    ours, theirs = (draws.var(dim=0).clamp(min=VARIANCE_FLOOR) for draws in (first, second))
    apart = (first.mean(dim=0) - second.mean(dim=0)) ** 2
    return ((theirs / ours).log() + (ours + apart) / theirs - 1) / 2
