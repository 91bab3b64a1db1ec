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
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import NetworkSpec
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.models.resnet import ResNet18
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.logit_adjust import LogitAdjust
from geniu_lightning.unlearning.logit_mask import LogitMask
from geniu_lightning.unlearning.nearest_mean import NearestMean
from geniu_lightning.unlearning.none import NoUnlearning
from geniu_lightning.unlearning.random_init import RandomInit
from geniu_lightning.unlearning.zero_head import ZeroHead
from tests.unlearning.helpers import GONE, KEPT, no_trainer, run

FORGETS = [(0,), (2,), GONE]
COUNTS = (900, 50, 30, 700, 7)


@pytest.fixture
def images(archive: Any) -> Tensor:
    """Return images of every class, mixtures of two, and noise of every size."""
    noise = torch.randn(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    some = archive.images[::2]
    mixed = (some[:, None] + some[None]).flatten(0, 1) / 2
    loud = noise * torch.linspace(0.1, 1000, 60).view(-1, 1, 1, 1)
    return torch.cat([archive.images, mixed, loud])


def edited(kind: Any, kit: Kit, archive: Any, forget: Any = GONE, **settings: Any) -> nn.Module:
    """Run a method that keeps the features as they are."""
    result = run(kind(forget=forget, **settings), kit, archive, no_trainer)
    before = kit.classifier.state_dict()
    for name, tensor in result.state_dict().items():
        assert name.startswith("head.") or torch.equal(tensor, before[name])
    return result


def retained(forget: tuple[int, ...]) -> list[int]:
    return [k for k in range(5) if k not in forget]


def test_none_is_the_original_to_the_bit(kit: Kit, archive: Any) -> None:
    head = edited(NoUnlearning, kit, archive).head
    assert torch.equal(head.weight, kit.classifier.head.weight)
    assert torch.equal(head.bias, kit.classifier.head.bias)


def test_a_masked_class_is_never_answered_and_other_logits_are_the_same(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    before = kit.classifier(images)
    for forget in FORGETS:
        result = edited(LogitMask, kit, archive, forget)
        assert torch.isin(before.argmax(dim=1), torch.tensor(forget)).any()  # answered before
        after, rest = result(images), torch.tensor(retained(forget))
        assert torch.equal(after[:, rest], before[:, rest])
        assert torch.equal(after.argmax(dim=1), rest[before[:, rest].argmax(dim=1)])
        assert (result.head.weight[list(forget)] == 0).all()
        assert (result.head.bias[list(forget)] == -1e4).all()
        for half in (after, after.half(), after.bfloat16()):
            assert half.log_softmax(dim=1).isfinite().all()
        assert F.cross_entropy(after, torch.full((len(images),), forget[0])).isfinite()
    assert edited(LogitMask, kit, archive, (2,), offset=77.0).head.bias[2] == -77.0


def adjusted(kit: Kit, archive: Any, counts: tuple[int, ...], **settings: Any) -> nn.Module:
    kit.info = dataclasses.replace(kit.info, class_counts=counts)
    return edited(LogitAdjust, kit, archive, **settings)


def test_adjusted_biases_lose_tau_log_prior(kit: Kit, archive: Any, images: Tensor) -> None:
    bias, before = kit.classifier.head.bias, kit.classifier(images).double().numpy()
    mask = edited(LogitMask, kit, archive)
    masked = mask(images).argmax(dim=1).numpy()
    for tau in (0.0, 0.5, 2.0):
        result = adjusted(kit, archive, COUNTS, tau=tau)
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
        equal = adjusted(kit, archive, (9, 500, 9, 70, 9), tau=tau)
        assert np.array_equal(equal(images).argmax(dim=1).numpy(), masked)


def test_the_posterior_is_divided_by_the_prior_but_for_what_was_removed_before(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    expected = softmax(kit.classifier(images).double().numpy(), axis=1)[:, KEPT]
    expected /= np.array(COUNTS)[list(KEPT)]
    expected /= expected.sum(axis=1, keepdims=True)
    after = adjusted(kit, archive, COUNTS)(images).softmax(dim=1).numpy()
    np.testing.assert_allclose(after[:, KEPT], expected, atol=1e-5)
    kit.info = dataclasses.replace(kit.info, class_counts=COUNTS, prior_taken=0.75)
    method = LogitAdjust(forget=GONE, tau=1.0)
    run(method, kit, archive, no_trainer)
    assert method.prior_taken == 0.25
    with pytest.raises(UserError, match="the kit does not say how many images of each class"):
        adjusted(kit, archive, (900, 50, 0, 700, 7))


def test_zero_rows_win_where_every_retained_logit_is_negative(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    before = kit.classifier(images).numpy()
    for forget in FORGETS:
        result, rest = edited(ZeroHead, kit, archive, forget), retained(forget)
        for name in ("weight", "bias"):
            expected = getattr(kit.classifier.head, name).clone()
            expected[list(forget)] = 0
            assert torch.equal(getattr(result.head, name), expected)
        answers = result(images).argmax(dim=1).numpy()
        negative = before[:, rest].max(axis=1) < 0
        assert 0 < negative.mean() < 1
        assert np.isin(answers[negative], forget).all()


def test_renormalised_zero_rows_are_the_mask_in_every_answer(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    for forget in (*FORGETS, (1, 3, 4), (0, 1, 3, 4)):
        found, rest = edited(ZeroHead, kit, archive, forget, renormalise=True), retained(forget)
        mask = edited(LogitMask, kit, archive, forget)
        assert torch.equal(found(images).argmax(dim=1), mask(images).argmax(dim=1))
        if len(rest) > 1:
            rows = kit.classifier.head.weight.double().numpy()
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
    kit: Kit, archive: Any, images: Tensor
) -> None:
    for forget, batch_size in zip(FORGETS, (4, 256, 5), strict=True):
        archive.opened.clear()
        archive.read.clear()
        result = edited(NearestMean, kit, archive, forget, batch_size=batch_size)
        assert archive.opened == [("retain", batch_size, None)]  # each image once, unaugmented
        counts = torch.bincount(torch.tensor(archive.read), minlength=5).tolist()
        assert counts == [0 if k in forget else 9 for k in range(5)]
        means = means_of(kit.classifier, archive.images, archive.labels, forget)
        for k in range(5):
            row = 2 * means[k] if k in means else np.zeros(8)
            np.testing.assert_allclose(result.head.weight[k].numpy(), row, rtol=1e-4, atol=1e-5)
            bias = -(means[k] ** 2).sum() if k in means else -1e4
            np.testing.assert_allclose(result.head.bias[k].numpy(), bias, rtol=1e-4)
        is_nearest(result, images, means)
    for per_class in (None, 1):
        settings = {"source": "proxies", "proxies_per_class": per_class}
        result = edited(NearestMean, kit, archive, **settings)
        prompts = kit.prompts[:, :per_class].flatten(0, 1)
        proxies = (kit.generator(prompts, sample=False).images - 0.2) / 0.4
        labels = torch.arange(5).repeat_interleave(per_class or 2)
        is_nearest(result, images, means_of(kit.classifier, proxies, labels, GONE))


def test_neither_counts_nor_the_old_head_nor_the_size_of_features_matter(
    kit: Kit, archive: Any
) -> None:
    expected = edited(NearestMean, kit, archive).head
    many = archive.labels == 0
    archive.labels = torch.cat([archive.labels, *[archive.labels[many]] * 9])
    archive.images = torch.cat([archive.images, *[archive.images[many]] * 9])
    kit.classifier.head.bias[0] += 1000  # as a majority would have it
    kit.classifier.head.weight *= -1
    found = edited(NearestMean, kit, archive, batch_size=16).head
    torch.testing.assert_close(found.weight, expected.weight)
    torch.testing.assert_close(found.bias, expected.bias)
    # a mean's own bias may lie below the mask's usual depth
    norm = kit.classifier.blocks[-1][1]
    norm.weight *= 100
    norm.bias *= 100
    faint = archive.images[:45] * torch.linspace(0, 1, 45).view(-1, 1, 1, 1)
    answers = edited(NearestMean, kit, archive)(faint).argmax(dim=1)
    assert not torch.isin(answers, torch.tensor(GONE)).any()


def test_a_class_without_images_is_never_answered(kit: Kit, archive: Any, images: Tensor) -> None:
    there = archive.labels != 4
    archive.images, archive.labels = archive.images[there], archive.labels[there]
    black = torch.cat([images, torch.zeros(1, 1, 16, 16)])
    answers = edited(NearestMean, kit, archive)(black).argmax(dim=1)
    assert set(answers.tolist()) == {0, 2}
    forgotten = torch.isin(archive.labels, torch.tensor(GONE))
    archive.images, archive.labels = archive.images[forgotten], archive.labels[forgotten]
    with pytest.raises(UserError, match="there are no images to read"):
        edited(NearestMean, kit, archive)


def test_random_weights_are_drawn_anew_at_a_seed_of_both_seeds(kit: Kit, archive: Any) -> None:
    def drawn_at(seed: int) -> dict[str, Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return AllCNN(channels=1, num_classes=5, width=4).state_dict()

    def found(seed: int, forget: tuple[int, ...] = GONE) -> dict[str, Tensor]:
        return run(RandomInit(forget=forget, seed=seed), kit, archive, no_trainer).state_dict()

    def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> set[str]:
        return {name for name, tensor in first.items() if torch.equal(tensor, second[name])}

    drawn = {f"blocks.{i}.0.weight" for i in range(8)} | {"head.weight", "head.bias"}
    for seed in (0, 7):  # the kit's training seed is 7, too
        first = found(seed)
        assert same(first, drawn_at(stream("init", stream("random_init", 7, seed)))) == {*first}
        assert not drawn & same(first, drawn_at(stream("init", 7)))  # where training began
    old = kit.classifier.state_dict()
    for name, tensor in first.items():
        if name in drawn:
            assert (tensor != old[name]).all(), name  # no row, filter or class was spared
        else:
            one = name.endswith(("running_var", "1.weight"))
            assert (tensor == float(one)).all(), name
    assert same(first, found(7, forget=(0,))) == {*first}
    assert not drawn & same(first, found(4))
    kit.info = dataclasses.replace(kit.info, seed=99)
    assert not drawn & same(first, found(7))
    sizes = {"channels": 1, "num_classes": 5, "width": 2}
    spec = NetworkSpec("geniu_lightning.models.resnet.ResNet18", sizes)
    other = Kit(ResNet18(**sizes), dataclasses.replace(kit.info, classifier=spec, generator=None))
    result = run(RandomInit(forget=GONE), other, archive, no_trainer)
    pairs = zip(result.modules(), other.classifier.modules(), strict=True)
    weights = [(a, b) for a, b in pairs if isinstance(a, nn.Conv2d | nn.Linear)]
    assert len(weights) == 21
    assert all((a.weight != b.weight).all() for a, b in weights)
