"""Methods that edit the head, or draw a new network: their answers, and what stays."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.logit_adjust import LogitAdjust
from geniu_lightning.unlearning.logit_mask import LogitMask
from geniu_lightning.unlearning.nearest_mean import NearestMean
from geniu_lightning.unlearning.none import NoUnlearning
from geniu_lightning.unlearning.random_init import RandomInit
from geniu_lightning.unlearning.zero_head import ZeroHead
from tests.unlearning.helpers import GONE, KEPT, Lab, initial, same_but_the_head

FORGETS = [(0,), (2,), GONE]
COUNTS = (900, 50, 30, 700, 7)


@pytest.fixture
def images(lab: Lab) -> Tensor:
    """Return images of every class, mixtures of two, and noise of every size."""
    noise = torch.randn(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    some = lab.images[::2]
    mixed = (some[:, None] + some[None]).flatten(0, 1) / 2
    loud = noise * torch.linspace(0.1, 1000, 60).view(-1, 1, 1, 1)
    return torch.cat([lab.images, mixed, loud])


def edited(kind: Any, lab: Lab, forget: Any = GONE, **settings: Any) -> nn.Module:
    """Run a method that keeps the features as they are."""
    result = lab.run(kind(forget=forget, **settings))
    assert same_but_the_head(result, lab.kit.classifier)
    return result


def retained(forget: tuple[int, ...]) -> list[int]:
    return [k for k in range(5) if k not in forget]


def test_none_is_the_original_to_the_bit(lab: Lab) -> None:
    head = edited(NoUnlearning, lab).head
    assert torch.equal(head.weight, lab.kit.classifier.head.weight)
    assert torch.equal(head.bias, lab.kit.classifier.head.bias)


def test_a_masked_class_is_never_answered_and_other_logits_are_the_same(
    lab: Lab, images: Tensor
) -> None:
    before = lab.kit.classifier(images)
    for forget in FORGETS:
        result = edited(LogitMask, lab, forget)
        assert torch.isin(before.argmax(dim=1), torch.tensor(forget)).any()  # answered before
        after, rest = result(images), torch.tensor(retained(forget))
        assert torch.equal(after[:, rest], before[:, rest])
        assert torch.equal(after.argmax(dim=1), rest[before[:, rest].argmax(dim=1)])
        assert (result.head.weight[list(forget)] == 0).all()
        assert (result.head.bias[list(forget)] == -1e4).all()
        for half in (after, after.half(), after.bfloat16()):
            assert half.log_softmax(dim=1).isfinite().all()
        assert F.cross_entropy(after, torch.full((len(images),), forget[0])).isfinite()
    assert edited(LogitMask, lab, (2,), offset=77.0).head.bias[2] == -77.0


def adjusted(lab: Lab, counts: tuple[int, ...], **settings: Any) -> nn.Module:
    lab.kit.info = dataclasses.replace(lab.kit.info, class_counts=counts)
    return edited(LogitAdjust, lab, **settings)


def test_adjusted_biases_lose_tau_log_prior(lab: Lab, images: Tensor) -> None:
    bias, before = lab.kit.classifier.head.bias, lab.kit.classifier(images).double().numpy()
    mask = edited(LogitMask, lab)
    masked = mask(images).argmax(dim=1).numpy()
    for tau in (0.0, 0.5, 2.0):
        result = adjusted(lab, COUNTS, tau=tau)
        expected = [-1e4] * 5
        for k in KEPT:
            share = COUNTS[k] / (COUNTS[0] + COUNTS[2] + COUNTS[4])
            expected[k] = bias[k].item() - tau * math.log(share)
        np.testing.assert_allclose(result.head.bias.numpy(), expected, rtol=1e-6)
        assert torch.equal(result.head.weight, mask.head.weight)
        found = result(images).argmax(dim=1).numpy()
        scores = (before - tau * np.log(COUNTS))[:, KEPT]
        assert np.array_equal(found, np.array(KEPT)[scores.argmax(axis=1)])
        moved = found != masked
        assert (moved.sum() > 20) == (tau > 0)
        assert (np.array(COUNTS)[found] < np.array(COUNTS)[masked])[moved].all()  # to rarer ones
        # equally large classes: the adjustment is a constant; forget counts have no influence
        equal = adjusted(lab, (9, 500, 9, 70, 9), tau=tau)
        assert np.array_equal(equal(images).argmax(dim=1).numpy(), masked)


def test_the_posterior_is_divided_by_the_prior_but_for_what_was_removed_before(
    lab: Lab, images: Tensor
) -> None:
    expected = softmax(lab.kit.classifier(images).double().numpy(), axis=1)[:, KEPT]
    expected /= np.array(COUNTS)[list(KEPT)]
    expected /= expected.sum(axis=1, keepdims=True)
    after = adjusted(lab, COUNTS)(images).softmax(dim=1).numpy()
    np.testing.assert_allclose(after[:, KEPT], expected, atol=1e-5)
    lab.kit.info = dataclasses.replace(lab.kit.info, class_counts=COUNTS, prior_taken=0.75)
    method = LogitAdjust(forget=GONE, tau=1.0)
    lab.run(method)
    assert method.prior_taken == 0.25
    with pytest.raises(UserError, match="the kit does not say how many images of each class"):
        adjusted(lab, (900, 50, 0, 700, 7))


def test_zero_rows_win_where_every_retained_logit_is_negative(lab: Lab, images: Tensor) -> None:
    before = lab.kit.classifier(images).numpy()
    for forget in FORGETS:
        result, rest = edited(ZeroHead, lab, forget), retained(forget)
        for name in ("weight", "bias"):
            expected = getattr(lab.kit.classifier.head, name).clone()
            expected[list(forget)] = 0
            assert torch.equal(getattr(result.head, name), expected)
        answers = result(images).argmax(dim=1).numpy()
        negative = before[:, rest].max(axis=1) < 0
        assert 0 < negative.mean() < 1
        assert np.isin(answers[negative], forget).all()


def test_renormalised_zero_rows_are_the_mask_in_every_answer(lab: Lab, images: Tensor) -> None:
    for forget in (*FORGETS, (1, 3, 4), (0, 1, 3, 4)):
        found, rest = edited(ZeroHead, lab, forget, renormalise=True), retained(forget)
        mask = edited(LogitMask, lab, forget)
        assert torch.equal(found(images).argmax(dim=1), mask(images).argmax(dim=1))
        if len(rest) > 1:
            rows = lab.kit.classifier.head.weight.double().numpy()
            expected = np.zeros_like(rows)
            expected[rest] = rows[rest] - rows[rest].mean(axis=0)
            np.testing.assert_allclose(found.head.weight.numpy(), expected, atol=1e-6)


def means_of(network: Any, images: Tensor, labels: Tensor, leave: Any) -> dict[int, np.ndarray]:
    """Return the mean feature of each class that has images."""
    features = network.features(images).double().numpy()
    found = set(labels.tolist()) - set(leave)
    return {k: features[labels.numpy() == k].mean(axis=0) for k in sorted(found)}


def is_nearest(network: Any, images: Tensor, means: dict[int, np.ndarray]) -> None:
    """Check each answer against the distances to all means; rounding may decide a tie."""
    answers = network(images).argmax(dim=1).tolist()
    assert set(answers) <= means.keys()
    for feature, answer in zip(network.features(images).double().numpy(), answers, strict=True):
        distances = {k: np.linalg.norm(feature - mean) for k, mean in means.items()}
        assert distances[answer] == pytest.approx(min(distances.values()), rel=1e-4)


def test_answers_are_the_nearest_retained_mean_of_images_or_proxies(
    lab: Lab, images: Tensor
) -> None:
    for forget, batch_size in zip(FORGETS, (4, 256, 5), strict=True):
        lab.opened.clear()
        lab.read.clear()
        result = edited(NearestMean, lab, forget, batch_size=batch_size)
        assert lab.opened == [("retain", batch_size, None)]  # each image once, unaugmented
        counts = lab.counts()
        assert counts == [0 if k in forget else 9 for k in range(5)]
        means = means_of(lab.kit.classifier, lab.images, lab.labels, forget)
        for k in range(5):
            row = 2 * means[k] if k in means else np.zeros(8)
            np.testing.assert_allclose(result.head.weight[k].numpy(), row, rtol=1e-4, atol=1e-5)
            bias = -(means[k] ** 2).sum() if k in means else -1e4
            np.testing.assert_allclose(result.head.bias[k].numpy(), bias, rtol=1e-4)
        is_nearest(result, images, means)
    for per_class in (None, 1):
        settings = {"source": "proxies", "proxies_per_class": per_class}
        result = edited(NearestMean, lab, **settings)
        prompts = lab.kit.prompts[:, :per_class].flatten(0, 1)
        proxies = (lab.kit.generator(prompts, sample=False).images - 0.2) / 0.4
        labels = torch.arange(5).repeat_interleave(per_class or 2)
        is_nearest(result, images, means_of(lab.kit.classifier, proxies, labels, GONE))


def test_neither_counts_nor_the_old_head_nor_the_size_of_features_matter(lab: Lab) -> None:
    expected = edited(NearestMean, lab).head
    many = lab.labels == 0
    lab.labels = torch.cat([lab.labels, *[lab.labels[many]] * 9])
    lab.images = torch.cat([lab.images, *[lab.images[many]] * 9])
    lab.kit.classifier.head.bias[0] += 1000  # as a majority would have it
    lab.kit.classifier.head.weight *= -1
    found = edited(NearestMean, lab, batch_size=16).head
    torch.testing.assert_close(found.weight, expected.weight)
    torch.testing.assert_close(found.bias, expected.bias)
    # a mean's own bias may lie below the mask's usual depth
    norm = lab.kit.classifier.blocks[-1][1]
    norm.weight *= 100
    norm.bias *= 100
    faint = lab.images[:45] * torch.linspace(0, 1, 45).view(-1, 1, 1, 1)
    answers = edited(NearestMean, lab)(faint).argmax(dim=1)
    assert not torch.isin(answers, torch.tensor(GONE)).any()


def test_a_class_without_images_is_never_answered(lab: Lab, images: Tensor) -> None:
    there = lab.labels != 4
    lab.images, lab.labels = lab.images[there], lab.labels[there]
    black = torch.cat([images, torch.zeros(1, 1, 16, 16)])
    answers = edited(NearestMean, lab)(black).argmax(dim=1)
    assert set(answers.tolist()) == {0, 2}
    forgotten = torch.isin(lab.labels, torch.tensor(GONE))
    lab.images, lab.labels = lab.images[forgotten], lab.labels[forgotten]
    with pytest.raises(UserError, match="there are no images to read"):
        edited(NearestMean, lab)


def test_random_weights_are_drawn_anew_at_a_seed_of_both_seeds(lab: Lab) -> None:
    for training, seed in [(7, 0), (7, 7), (99, 7)]:
        lab.kit.info = dataclasses.replace(lab.kit.info, seed=training)
        found = lab.run(RandomInit(forget=GONE, seed=seed)).state_dict()
        expected = initial(stream("random_init", training, seed)).state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
        assert not torch.equal(found["head.weight"], initial(7).state_dict()["head.weight"])
