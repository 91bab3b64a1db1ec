"""Ssd: importances, factors, and the edit."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.ssd import Ssd, dampening, percentile_alpha
from tests.unlearning.helpers import GONE, Lab


def measured(lab: Lab, **settings: Any) -> Ssd:
    method = Ssd(**{"forget": GONE} | settings)
    lab.prepared(method)
    return method


def row(tensors: Any) -> np.ndarray:
    return np.concatenate([t.detach().double().numpy().ravel() for t in tensors])


def slowly(kit: Kit, images: Tensor, labels: Tensor, parts: int | None, loss: str) -> np.ndarray:
    """Return importances by backward in double precision: image by image, or by parts."""
    network = copy.deepcopy(kit.classifier).double().requires_grad_(True)
    found = []
    for chosen in np.array_split(np.arange(len(images)), parts or len(images)):
        logits = network(images[chosen].double())
        losses = {
            "cross_entropy": -logits.log_softmax(dim=1)[range(len(chosen)), labels[chosen]],
            "logit_norm": (logits**2).sum(dim=1),
        }[loss]
        network.zero_grad()
        losses.mean().backward()
        gradient = row(p.grad for p in network.parameters())
        found.append(gradient**2 if loss == "cross_entropy" else np.abs(gradient))
    return np.mean(found, axis=0)


def close(found: Tensor, expected: np.ndarray) -> bool:
    return np.allclose(found.numpy(), expected, rtol=2e-3, atol=1e-5 * expected.max())


@pytest.mark.parametrize("loss", ["cross_entropy", "logit_norm"])
def test_importances_are_those_of_a_backward_for_each_image(lab: Lab, loss: str) -> None:
    method = measured(lab, loss=loss, chunk=4)
    forgotten = torch.isin(lab.labels, torch.tensor(GONE))
    images, labels = lab.images, lab.labels
    expected = slowly(lab.kit, images[forgotten], labels[forgotten], None, loss)
    assert close(method.forget_importance, expected)
    expected = slowly(lab.kit, images[~forgotten], labels[~forgotten], None, loss)
    assert close(method.reference_importance, expected)
    assert method.fraction == 18 / 45
    # the public code's means of batches: 18 images, at most 7 at once
    batches = measured(lab, importance="batch_mean", batch_size=7, loss=loss)
    expected = slowly(lab.kit, images[forgotten], labels[forgotten], 3, loss)
    assert close(batches.forget_importance, expected)
    assert not close(method.forget_importance, expected)
    # a square of means is no more than the mean of squares, in which 4 of 18 count 1.5 times
    assert (batches.forget_importance <= method.forget_importance * (1.5 + 1e-4)).all()
    proxies = lab.kit.proxies([*GONE])
    settings = {"importance": "batch_mean", "batch_size": 2, "source": "proxies"}
    found = measured(lab, loss=loss, **settings)
    normalised = lab.kit.info.spec.normalise(proxies.images)
    assert close(found.forget_importance, slowly(lab.kit, normalised, proxies.labels, 2, loss))


def test_importances_depend_neither_on_batch_size_nor_on_order(lab: Lab) -> None:
    first = measured(lab, batch_size=5, chunk=3)
    order = torch.randperm(45, generator=torch.Generator().manual_seed(0))
    lab.images, lab.labels = lab.images[order], lab.labels[order]
    second = measured(lab, batch_size=45, chunk=16)
    for name in ("forget_importance", "reference_importance"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=1e-4, atol=0)


def test_over_all_images_each_counts_once_and_no_ratio_exceeds_the_bound(lab: Lab) -> None:
    one = measured(lab, forget=(2,), reference="all")
    everything = slowly(lab.kit, lab.images, lab.labels, None, "cross_entropy")
    assert close(one.reference_importance, everything)
    method = Ssd(forget=GONE, reference="all", alpha=2.6)
    result = lab.run(method)
    ratios = (method.forget_importance / method.reference_importance).nan_to_num()
    assert 1 < ratios.max() <= 45 / 18 * (1 + 1e-5)
    assert (row(result.parameters()) == row(lab.kit.classifier.parameters())).all()


def test_factors_by_hand_and_at_the_edges() -> None:
    #                 above  at it  below  both 0  no I_f  no I   lower lifts it over 1
    forget = torch.tensor([8.0, 4.0, 3.0, 0.0, 0.0, 5.0, 4.0])
    reference = torch.tensor([2.0, 2.0, 2.0, 0.0, 1.0, 0.0, 1.5])
    found = dampening(forget, reference, alpha=2.0, lower=0.5)
    assert found.tolist() == [0.125, 1.0, 1.0, 1.0, 1.0, 0.0, 0.1875]
    assert dampening(forget, reference, 2.0, 3.0).tolist() == [0.75, 1, 1, 1, 1, 0, 1]
    ratios = torch.tensor([*np.arange(1, 1002) / 100, 3.0, 0.0]).float()
    ones = torch.tensor([*np.ones(1001), 0.0, 0.0]).float()
    q = 100 - math.log(1 + 100 * 0.1)
    # the ratios are a straight line; non-finite ones are left out
    assert percentile_alpha(ratios, ones, 0.1) == pytest.approx(0.01 + q / 100 * 10, rel=1e-5)
    no_effect = percentile_alpha(torch.ones(3), torch.zeros(3), 0.1)
    assert dampening(torch.ones(3), torch.zeros(3), no_effect, 1.0).tolist() == [0, 0, 0]


def test_each_weight_is_multiplied_by_its_factor_and_the_class_is_forgotten(lab: Lab) -> None:
    for alpha in (3.0, None):
        method = Ssd(forget=GONE, alpha=alpha, lower=0.5)
        result = lab.run(method)
        forget, reference = (
            t.double().numpy() for t in (method.forget_importance, method.reference_importance)
        )
        if alpha is None:
            ratios = forget[reference > 0] / reference[reference > 0]
            alpha = np.percentile(ratios, 100 - math.log(1 + 100 * 18 / 45))
        chosen = forget > alpha * reference
        assert 0 < chosen.mean() < 1
        before, after = row(lab.kit.classifier.parameters()), row(result.parameters())
        assert (before[~chosen] == after[~chosen]).all()
        expected = before[chosen] * np.minimum(0.5 * reference[chosen] / forget[chosen], 1)
        np.testing.assert_allclose(after[chosen], expected, rtol=1e-4)
