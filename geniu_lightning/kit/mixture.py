"""A class as a distribution: a mixture of Gaussians over latent codes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from geniu_lightning.errors import KitError


@dataclass(frozen=True)
class Mixture:
    """A mixture of M Gaussians over codes of D numbers, in 16 bits."""

    weights: Tensor  # (M,), they add up to 1
    means: Tensor  # (M, D)
    factors: Tensor  # (M, D, D), lower triangular, covariance F Fᵀ

    def __post_init__(self) -> None:
        parts, width = self.means.shape if self.means.dim() == 2 else (0, 0)
        fits = self.weights.shape == (parts,) and self.factors.shape == (parts, width, width)
        numbers = (self.weights, self.means, self.factors)
        if not parts or not fits:
            raise KitError("the parts of a mixture do not fit each other")
        if not all(x.is_floating_point() and bool(x.isfinite().all()) for x in numbers):
            raise KitError("a mixture has numbers that are not finite")
        if bool((self.weights < 0).any()) or abs(float(self.weights.sum()) - 1) > 0.01:
            raise KitError("the weights of a mixture do not add up to 1")

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return vars(self)

    @property
    def bytes(self) -> int:
        """Size of the tensors."""
        return sum(tensor.nbytes for tensor in vars(self).values())

    def log_likelihood(self, codes: Tensor) -> Tensor:
        """Return the log density at codes `(N, D)`, in nats, float64 `(N,)`."""
        factors, means = self.factors.double(), self.means.double()
        centred = codes.double()[None] - means[:, None]
        white = torch.linalg.solve_triangular(factors, centred.mT, upper=False)
        volume = factors.diagonal(dim1=1, dim2=2).abs().log().sum(dim=1)
        width = means.shape[1]
        each = (
            -0.5 * white.square().sum(dim=1)
            - (volume + 0.5 * width * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64)))[
                :, None
            ]
        )
        return torch.logsumexp(each + self.weights.double().log()[:, None], dim=0)


def standard_normal(width: int) -> Mixture:
    """Return N(0, I) over codes of a width."""
    numbers = (torch.ones(1), torch.zeros(1, width), torch.eye(width)[None])
    return Mixture(*(tensor.half() for tensor in numbers))


class Sampler:
    """Mixtures by class, to draw from in one pass for all classes."""

    def __init__(self, mixtures: Mapping[int, Mixture]) -> None:
        if len({mixture.means.shape[1] for mixture in mixtures.values()}) > 1:
            raise KitError("the mixtures of the classes are over codes of different widths")
        self.mixtures = dict(sorted(mixtures.items()))
        parts = [len(mixture.weights) for mixture in self.mixtures.values()]
        starts = [sum(parts[:k]) for k in range(len(parts))]
        every = self.mixtures.values()
        self._means = torch.cat([m.means.float() for m in every])
        self._factors = torch.cat([m.factors.float() for m in every])
        self._starts = torch.zeros(max(self.mixtures) + 1, dtype=torch.int64)
        self._weights = torch.zeros(max(self.mixtures) + 1, max(parts))
        for start, (k, mixture) in zip(starts, self.mixtures.items(), strict=True):
            self._starts[k] = start
            self._weights[k, : len(mixture.weights)] = mixture.weights.float()

    def draw(self, labels: Tensor, stream: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Return a code of each label `(N,)`, from a stream on the CPU, float32 `(N, D)`.

        `temperature` scales the deviation from the mean of the part drawn.
        """
        if not {*labels.unique().tolist()} <= {*self.mixtures}:
            raise KitError("there is no distribution of some of the classes asked for")
        parts = torch.multinomial(self._weights[labels], 1, generator=stream).squeeze(1)
        chosen = self._starts[labels] + parts
        noise = torch.randn(len(labels), self._means.shape[1], generator=stream)
        spread = torch.bmm(self._factors[chosen], noise[:, :, None]).squeeze(2)
        return self._means[chosen] + temperature * spread
