"""Learned noise: what it minimises, how much of it there is, and in what order it comes."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from torch import Tensor, nn

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.kit.file import Kit
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.unlearning import noise
from geniu_lightning.unlearning.noise import NoiseBatches, learned_noise
from tests.unlearning.every_method import digest


def learned(kit: Kit, classes: tuple[int, ...], error: Any, **settings: Any) -> Any:
    torch.manual_seed(2)
    defaults = {"images": 3, "steps": 20, "rate": 0.1, "penalty": 0.1}
    return learned_noise(kit, classes, error, **defaults | settings)


def own_error(kit: Kit, images: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(kit.classifier(images), labels, reduction="none")


@pytest.mark.parametrize(("error", "sign"), [("max", -1.0), ("min", 1.0)])
def test_it_ends_where_the_documented_objective_is_least(kit: Kit, error: str, sign: float) -> None:
    torch.manual_seed(1)
    linear = nn.Linear(256, 5).requires_grad_(False)
    linear.weight.mul_(4)
    kit.classifier = nn.Sequential(nn.Flatten(), linear)
    # at this penalty the objective is convex: there is one end, wherever noise starts
    images, labels = learned(kit, (1, 3), error, steps=600, rate=0.02, penalty=6.0, images=2)
    w, b = linear.weight.double().numpy(), linear.bias.double().numpy()
    for found, k in zip(images.flatten(1).numpy(), labels.tolist(), strict=True):

        def objective(x: np.ndarray, k: int = k) -> float:
            z = w @ x + b
            return float(sign * (logsumexp(z) - z[k]) + 6.0 * np.sum(x**2))

        least = minimize(objective, np.zeros(256), method="L-BFGS-B", options={"maxfun": 10**6})
        assert np.abs(least.x).max() > 0.01
        np.testing.assert_allclose(found, least.x, atol=2e-3)


def test_noise_of_every_class_is_wrong_or_right_about_its_own_class(kit: Kit) -> None:
    start = learned(kit, (1, 3), "max", steps=0)
    wrong = learned(kit, (1, 3), "max", steps=60)
    right = learned(kit, (1, 3), "min", steps=60, penalty=0.0)
    assert wrong[1].tolist() == right[1].tolist() == [1, 1, 1, 3, 3, 3]
    before, up, down = (own_error(kit, *made) for made in (start, wrong, right))
    assert (up > 1.0).all(), up
    assert (down < 0.1).all(), down
    assert (down < before).all()


def test_unbounded_error_leaves_finite_noise(kit: Kit) -> None:
    images, labels = learned(kit, (1, 3), "max", steps=300, rate=1.0)
    assert images.isfinite().all()
    assert own_error(kit, images, labels).isfinite().all()


@pytest.mark.parametrize("channels", [1, 3])
def test_there_are_as_many_different_images_as_asked_for_whatever_the_channels(
    kit: Kit, channels: int
) -> None:
    kit.classifier = AllCNN(channels=channels, num_classes=5, width=4).eval()
    object.__setattr__(kit.info, "spec", ImageSpec.of(16, channels, 0.5, 0.5))
    images, labels = learned(kit, (1, 3), "max", images=7, steps=2)
    assert images.shape == (14, channels, 16, 16)
    assert len(images.unique(dim=0)) == 14
    (first, *_) = NoiseBatches(images, labels, (1, 3), batch_size=8, seed=0)
    assert len(first.images.unique(dim=0)) == 8
    assert first.labels.bincount(minlength=5).tolist() == [0, 4, 0, 4, 0]


def test_no_image_sees_another(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    together = learned(kit, (1, 3), "max")[0]
    alone = learned(kit, (1,), "max")[0]
    monkeypatch.setattr(noise, "AT_ONCE", 2)
    in_pieces = learned(kit, (1, 3), "max")[0]
    torch.testing.assert_close(together[:3], alone, rtol=0, atol=1e-3)
    torch.testing.assert_close(together, in_pieces, rtol=0, atol=1e-3)


def test_the_kit_stays_as_it_was_and_noise_asks_for_no_gradient(kit: Kit) -> None:
    before = digest(kit)
    images, _ = learned(kit, (1, 3), "max")
    assert digest(kit) == before
    assert not images.requires_grad
    assert all(p.grad is None for p in kit.classifier.parameters())


# ---- batches ---------------------------------------------------------------------------------


def numbered(of_each: int) -> tuple[Tensor, Tensor]:
    labels = torch.tensor([1, 3, 4]).repeat_interleave(of_each)
    return torch.arange(3.0 * of_each).view(-1, 1, 1, 1), labels


def test_an_epoch_is_all_noise_once_in_balanced_batches() -> None:
    images, labels = numbered(5)
    batches = NoiseBatches(images, labels, (1, 3), batch_size=7, seed=0)
    epoch = list(batches)
    assert len(batches) == len(epoch) == 3
    seen = torch.cat([batch.images.flatten() for batch in epoch]).tolist()
    assert sorted(seen) == images.flatten().tolist()
    for batch in epoch:
        counts = batch.labels.bincount(minlength=5)[[1, 3, 4]]
        assert (counts == counts[0]).all()
        assert torch.equal(batch.labels, labels[batch.images.flatten().long()])
        assert torch.equal(batch.forget, batch.labels != 4)


def test_a_batch_has_one_of_each_class_at_least() -> None:
    (first, *_) = NoiseBatches(*numbered(5), (1, 3), batch_size=2, seed=0)
    assert sorted(first.labels.tolist()) == [1, 3, 4]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def two_epochs(seed: int) -> list[list[float]]:
        torch.manual_seed(seed + 7)  # the global stream must not matter
        batches = NoiseBatches(*numbered(8), (1, 3), batch_size=6, seed=seed)
        return [torch.cat([b.images for b in batches]).flatten().tolist() for _ in range(2)]

    assert two_epochs(0) == two_epochs(0)
    assert two_epochs(0)[0] != two_epochs(0)[1]
    assert two_epochs(0) != two_epochs(1)
