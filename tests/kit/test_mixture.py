"""A class as a mixture: what is drawn, fitted and refused."""

import pytest
import torch

from geniu_lightning.errors import KitError
from geniu_lightning.kit.mixture import Mixture, Sampler
from geniu_lightning.models.latent import Codes
from geniu_lightning.training.mixtures import IMAGES_PER_PART, mixture_of

WIDTH = 3


def mixture(*centres: float, spread: float = 0.1) -> Mixture:
    parts = len(centres)
    means = torch.tensor(centres)[:, None].expand(parts, WIDTH).clone()
    factors = spread * torch.eye(WIDTH).repeat(parts, 1, 1)
    return Mixture(torch.full((parts,), 1 / parts), means, factors)


def codes(*centres: float, count: int = 150, seed: int = 0) -> Codes:
    stream = torch.Generator().manual_seed(seed)
    means = [c + 0.3 * torch.randn(count, WIDTH, generator=stream) for c in centres]
    return Codes(torch.cat(means), torch.full((count * len(centres), WIDTH), -4.0))


def test_each_class_is_drawn_from_its_own_parts_with_its_own_spread() -> None:
    found = Sampler({7: mixture(-4.0, 4.0), 2: mixture(1.0, spread=0.5)})
    labels = torch.tensor([7, 2]).repeat(2000)
    drawn = found.draw(labels, torch.Generator().manual_seed(1))
    seven, two = drawn[labels == 7], drawn[labels == 2]
    assert abs(float((seven[:, 0] > 0).float().mean()) - 0.5) < 0.05
    assert float((seven.abs() - 4).std()) == pytest.approx(0.1, rel=0.1)
    assert float(two.mean()) == pytest.approx(1, abs=0.05)
    assert float(two.std()) == pytest.approx(0.5, rel=0.1)
    cold = found.draw(labels, torch.Generator().manual_seed(1), temperature=0)
    assert cold[labels == 2].unique().tolist() == [1.0]
    with pytest.raises(KitError, match="no distribution of some"):
        found.draw(torch.tensor([2, 3]), torch.Generator())


def test_a_mixture_is_fitted_to_what_is_there() -> None:
    for count, parts in ((1, 1), (2, 1), (IMAGES_PER_PART, 1), (3 * IMAGES_PER_PART, 2)):
        both = codes(-3.0, 3.0, count=-(-count // 2))
        fitted = mixture_of(Codes(both.mean[:count], both.log_variance[:count]), 2, seed=0)
        assert len(fitted.weights) == parts, count
        assert fitted.means.dtype is torch.float16
    centres = sorted(float(x) for x in fitted.means[:, 0])
    assert centres == pytest.approx([-3, 3], abs=0.1)
    covariance = fitted.factors[0].float() @ fitted.factors[0].float().T
    assert float(covariance.diagonal().mean()) == pytest.approx(0.09 + 2.718**-4, rel=0.2)
    again = mixture_of(both, 2, seed=0)
    assert all(map(torch.equal, again.tensors.values(), mixture_of(both, 2, 0).tensors.values()))


def test_the_likelihood_is_that_of_the_density() -> None:
    found = mixture(-1.0, 2.0, spread=0.7)
    points = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
    parts = [
        torch.distributions.MultivariateNormal(mean.double(), scale_tril=factor.double())
        for mean, factor in zip(found.means, found.factors, strict=True)
    ]
    expected = torch.stack([part.log_prob(points.double()) for part in parts]).exp().mean(0).log()
    assert torch.allclose(found.log_likelihood(points), expected)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("weights", torch.tensor([0.9]), "add up"),
        ("weights", torch.tensor([0.5, 0.5]), "fit each other"),
        ("means", torch.full((1, WIDTH), float("nan")), "not finite"),
        ("means", torch.zeros(WIDTH), "fit each other"),
        ("factors", torch.zeros(1, WIDTH, WIDTH + 1), "fit each other"),
    ],
)
def test_parts_that_do_not_fit_are_refused(name: str, value: torch.Tensor, said: str) -> None:
    with pytest.raises(KitError, match=said):
        Mixture(**mixture(0.0).tensors | {name: value})
