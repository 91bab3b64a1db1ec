"""Loss terms against float64 transcriptions by another route, and at their edges."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax
from torch import Tensor

from geniu_lightning.unlearning.losses import (
    bounded_reciprocal,
    capped_cross_entropy,
    cross_entropy,
    divergence,
    divergence_by_class,
    log_forget_probability,
    margin,
    masked_target,
    random_retained_labels,
    uniform_target,
)

some = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**16)
scales = st.sampled_from([0.1, 1.0, 5.0, 30.0])


def draw(seed: int, scale: float, rows: int = 7, classes: int = 5) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, classes, generator=stream)
    return logits, torch.randint(0, classes, (rows,), generator=stream)


def odds_against(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Sum over the other classes of e^(z_k - z_y): exact where 1 - p_y is tiny."""
    z, y = logits.double().numpy(), labels.numpy()
    return np.array([np.exp(np.delete(row, k) - row[k]).sum() for row, k in zip(z, y, strict=True)])


@some
@given(seed=seeds, scale=scales)
def test_cross_entropy_matches_double_precision_relatively(seed: int, scale: float) -> None:
    logits, labels = draw(seed, scale)
    expected = np.log1p(odds_against(logits, labels))
    kept = expected > 1e-36  # below, 32 bits have no normal number left
    found = cross_entropy(logits, labels).numpy()
    np.testing.assert_allclose(found[kept], expected[kept], rtol=2e-5)


def test_cross_entropy_is_exact_where_log_softmax_rounds_to_zero() -> None:
    m = 60.0
    logits = torch.tensor([[m, 0.0, -torch.inf]], requires_grad=True)
    value = cross_entropy(logits, torch.tensor([0]))
    assert torch.nn.functional.cross_entropy(logits, torch.tensor([0])) == 0.0
    assert value.item() == pytest.approx(np.log1p(np.exp(-m)), rel=1e-5)
    value.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].item() == pytest.approx(-np.exp(-m) / (1 + np.exp(-m)), rel=1e-5)


@some
@given(seed=seeds, scale=scales)
def test_margin_is_the_log_odds_of_the_label(seed: int, scale: float) -> None:
    logits, labels = draw(seed, scale)
    expected = -np.log(odds_against(logits, labels))
    np.testing.assert_allclose(margin(logits, labels), expected, rtol=1e-5, atol=1e-4)


def reciprocal_in_double(gap: np.ndarray | float) -> np.ndarray:
    return 1 / np.log1p(np.exp(-np.asarray(gap, dtype=np.float64)))


def slope_in_double(at: float, step: float = 1e-5) -> float:
    """Slope by central differences: no formula of the derivative is trusted."""
    return float((reciprocal_in_double(at + step) - reciprocal_in_double(at - step)) / (2 * step))


@some
@given(seed=seeds, scale=scales, bound=st.sampled_from([0.0, 2.5, 5.0, 10.0]))
def test_bounded_reciprocal_is_one_over_ce_and_then_its_tangent(
    seed: int, scale: float, bound: float
) -> None:
    logits, labels = draw(seed, scale)
    gap = -np.log(odds_against(logits, labels))
    beyond = reciprocal_in_double(bound) + slope_in_double(bound) * (gap - bound)
    expected = np.where(gap <= bound, reciprocal_in_double(np.minimum(gap, bound)), beyond)
    found = bounded_reciprocal(logits, labels, bound)
    np.testing.assert_allclose(found, expected, rtol=2e-4)
    assert (found > 0).all()


def test_bounded_reciprocal_pushes_a_confident_proxy_and_never_harder_than_its_bound() -> None:
    gap, bound = 200.0, 5.0
    logits = torch.tensor([[0.0, gap, -1.0], [0.0, bound, -1.0]], requires_grad=True)
    bounded_reciprocal(logits, torch.tensor([1, 1]), bound).sum().backward()
    gradient = logits.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    limit = slope_in_double(bound)
    assert gradient.abs().max().item() <= limit * (1 + 1e-5)
    assert gradient[0, 1].item() == pytest.approx(limit, rel=1e-4)  # not let go
    assert gradient[0, 1] >= gradient[1, 1]
    assert limit == pytest.approx(np.exp(bound), rel=0.02)  # as its docstring says


@pytest.mark.parametrize("bound", [5.0, 40.0])
def test_a_bound_does_not_touch_the_gradient_below_it(bound: float) -> None:
    gaps = [-20.0, -1.0, 0.0, 4.0, *([30.0] if bound > 30 else [])]
    logits = torch.tensor([[gap, 0.0] for gap in gaps], requires_grad=True)
    bounded_reciprocal(logits, torch.zeros(len(gaps), dtype=torch.int64), bound).sum().backward()
    assert logits.grad is not None
    expected = [slope_in_double(gap) for gap in gaps]
    np.testing.assert_allclose(logits.grad[:, 0], expected, rtol=1e-4)


@some
@given(seed=seeds, scale=scales)
def test_divergence_matches_scipy(seed: int, scale: float) -> None:
    logits, _ = draw(seed, scale)
    target = draw(seed + 1, scale)[0].softmax(dim=1)
    expected = rel_entr(target.double().numpy(), softmax(logits.double().numpy(), axis=1))
    found = divergence(target, logits)
    np.testing.assert_allclose(found, expected.sum(axis=1), rtol=1e-4, atol=1e-4)
    assert found.shape == (7,)  # one value a sample: never a mean over classes
    assert (found > -1e-5).all()


@some
@given(seed=seeds, scale=scales, forget=st.sampled_from([(0,), (2,), (1, 3), (0, 4), (0, 1, 2, 3)]))
def test_masked_target_is_the_softmax_over_retained_classes_alone(
    seed: int, scale: float, forget: tuple[int, ...]
) -> None:
    logits, _ = draw(seed, scale)
    before = logits.clone()
    kept = [k for k in range(5) if k not in forget]
    expected = np.zeros((7, 5))
    expected[:, kept] = softmax(logits.double().numpy()[:, kept], axis=1)
    target = masked_target(logits, forget)
    np.testing.assert_allclose(target, expected, rtol=1e-4, atol=1e-7)
    assert (target[:, list(forget)] == 0.0).all()
    assert torch.equal(logits, before)  # works on a copy


def test_divergence_to_a_masked_target_has_no_nan_in_value_or_gradient() -> None:
    size = 1e4
    original = size * torch.eye(4)
    target = masked_target(original, (0, 2))
    logits = (size * torch.eye(4)[[1, 0, 3, 2]]).requires_grad_(True)
    value = divergence(target, logits)
    value.sum().backward()
    assert value.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    p = softmax(logits.detach().double().numpy(), axis=1)
    np.testing.assert_allclose(logits.grad, p - target.double().numpy(), atol=1e-6)


def test_divergence_by_class_sums_to_the_divergence_with_finite_gradients() -> None:
    (first, _), (second, _) = draw(0, 3.0), draw(1, 3.0)
    found = divergence_by_class(first, second)
    assert found.shape == (7, 5)
    torch.testing.assert_close(found.sum(dim=1), divergence(first.softmax(dim=1), second))
    steep = torch.tensor([[400.0, 0.0, -400.0]], requires_grad=True)
    divergence_by_class(steep, torch.zeros(1, 3)).sum().backward()
    assert steep.grad is not None
    assert steep.grad.isfinite().all()


def test_caps_uniform_targets_and_forget_probabilities() -> None:
    logits, labels = draw(2, 5.0)
    exact = cross_entropy(logits, labels)
    assert exact.min() < np.log(5) < exact.max()
    assert torch.equal(capped_cross_entropy(logits, labels, None), exact)
    bound = torch.tensor(0.5 * np.log(5)).float()
    logits.requires_grad_(True)
    found = capped_cross_entropy(logits, labels, 0.5)
    torch.testing.assert_close(found, exact.minimum(bound))
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert torch.equal(gradient.any(dim=1), exact < bound)  # a capped image has no gradient
    logits = logits.detach()
    assert (
        uniform_target(logits, (1, 3)).tolist()
        == [[pytest.approx(1 / 3), 0] * 2 + [pytest.approx(1 / 3)]] * 7
    )
    p = softmax(logits.double().numpy(), axis=1)
    np.testing.assert_allclose(
        log_forget_probability(logits, (1, 3)), np.log(p[:, 1] + p[:, 3]), rtol=1e-4, atol=1e-5
    )


def test_random_labels_are_drawn_uniformly_from_the_retained_classes() -> None:
    torch.manual_seed(0)
    counts = torch.bincount(random_retained_labels(torch.zeros(7000, 7), (1, 3)), minlength=7)
    assert counts[[1, 3]].tolist() == [0, 0]
    # 5 classes of 1400 each; the deviation of one count is 33
    assert (counts[[0, 2, 4, 5, 6]] - 1400).abs().max() < 170


TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "bounded_reciprocal": lambda z, y: bounded_reciprocal(z, y, 5.0),
    "divergence": lambda z, y: divergence(torch.eye(5)[y], z),
    "masked_target": lambda z, y: masked_target(z, (1, 3)),
    "log_forget_probability": lambda z, y: log_forget_probability(z, (1, 3)),
}


def test_half_precision_logits_are_computed_on_in_32_bits() -> None:
    logits, labels = draw(3, 5.0)
    half = logits.bfloat16()
    for name, term in TERMS.items():
        found = term(half, labels)
        assert found.dtype == torch.float32, name
        torch.testing.assert_close(found, term(half.float(), labels), rtol=0, atol=0)
