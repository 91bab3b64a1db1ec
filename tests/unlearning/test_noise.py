"""Noise: where learning it ends, and its batches."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from torch import nn

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning import noise
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.noise import learned_noise, noise_batches
from tests.unlearning.every_method import digest
from tests.unlearning.helpers import GONE


def learned(kit: Kit, classes: tuple[int, ...], error: Any, **settings: Any) -> Any:
    torch.manual_seed(2)
    defaults = {"images": 3, "steps": 20, "rate": 0.1, "penalty": 0.1}
    return learned_noise(kit, classes, error, **defaults | settings)


@pytest.mark.parametrize(("error", "sign"), [("max", -1.0), ("min", 1.0)])
def test_it_ends_where_the_documented_objective_is_least(kit: Kit, error: str, sign: float) -> None:
    torch.manual_seed(1)
    linear = nn.Linear(256, 5).requires_grad_(False)
    linear.weight.mul_(4)
    kit.classifier = nn.Sequential(nn.Flatten(), linear)
    # at this penalty the objective is convex: there is one minimum, wherever noise starts
    images, labels = learned(kit, GONE, error, steps=600, rate=0.02, penalty=6.0, images=1)
    w, b = linear.weight.double().numpy(), linear.bias.double().numpy()
    for found, k in zip(images.flatten(1).numpy(), labels.tolist(), strict=True):

        def objective(x: np.ndarray, k: int = k) -> float:
            z = w @ x + b
            return float(sign * (logsumexp(z) - z[k]) + 6.0 * np.sum(x**2))

        least = minimize(objective, np.zeros(256), method="L-BFGS-B", options={"maxfun": 10**6})
        assert np.abs(least.x).max() > 0.01
        np.testing.assert_allclose(found, least.x, atol=2e-3)


def test_images_do_not_interact_and_the_kit_stays_as_it_was(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(kit)
    together, labels = learned(kit, GONE, "max")
    assert labels.tolist() == [1, 1, 1, 3, 3, 3]
    assert not together.requires_grad
    alone = learned(kit, (1,), "max")[0]
    monkeypatch.setattr(noise, "CHUNK", 2)
    in_pieces = learned(kit, GONE, "max")[0]
    torch.testing.assert_close(together[:3], alone, rtol=0, atol=1e-3)
    torch.testing.assert_close(together, in_pieces, rtol=0, atol=1e-3)
    steep, _ = learned(kit, GONE, "max", steps=30, rate=1.0)
    assert steep.isfinite().all()  # the penalty bounds it
    assert digest(kit) == before
    assert all(p.grad is None for p in kit.classifier.parameters())


def test_an_epoch_is_all_noise_once_in_balanced_batches_ordered_by_seed_and_epoch() -> None:
    labels = torch.tensor([1, 3, 4]).repeat_interleave(5)
    images = torch.arange(15.0).view(-1, 1, 1, 1)

    def batches(size: int, seed: int = 0, steps: int = 6) -> list[UnlearnBatch]:
        torch.manual_seed(steps)  # the global state must not matter
        made = noise_batches(images, labels, GONE, batch_size=size, steps=steps, seed=seed)
        assert len(made) == steps
        return list(made)

    found = batches(7)
    for epoch in (found[:3], found[3:]):
        seen = torch.cat([batch.images.flatten() for batch in epoch]).tolist()
        assert sorted(seen) == images.flatten().tolist()
    for batch in found:
        counts = batch.labels.bincount(minlength=5)[[1, 3, 4]]
        assert (counts == counts[0]).all()
        assert torch.equal(batch.labels, labels[batch.images.flatten().long()])
        assert torch.equal(batch.forget, batch.labels != 4)
    assert sorted(batches(2)[0].labels.tolist()) == [1, 3, 4]  # at least one of each class
    first, again, other = (b[0].images for b in (found, batches(7, steps=1), batches(7, seed=1)))
    assert torch.equal(first, again)
    assert not torch.equal(first, found[3].images)
    assert not torch.equal(first, other)
