"""Nearest mean: the head it writes, the answers that follow, and what it measures on."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from torch import Tensor, nn

from geniu_lightning.errors import KitError, UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.nearest_mean import NearestMean
from geniu_lightning.unlearning.sources import Access

FORGETS = [(0,), (2,), (1, 3)]
Means = dict[int, NDArray[np.float64]]


def no_trainer(steps: int) -> Trainer:
    raise AssertionError("nothing is trained")


def nearest(kit: Kit, archive: Any, forget: tuple[int, ...], **settings: Any) -> nn.Module:
    method = NearestMean(forget=forget, **settings)
    return method.run(kit, archive.sources(method.access, forget), no_trainer)


def means_of(network: nn.Module, images: Tensor, labels: Tensor, leave: set[int]) -> Means:
    """Return the mean feature of each class that has images, one image at a time."""
    seen: dict[int, list[NDArray[np.float64]]] = {}
    for image, label in zip(images, labels.tolist(), strict=True):
        if label not in leave:
            seen.setdefault(label, []).append(network.features(image[None])[0].double().numpy())
    return {k: np.mean(features, axis=0) for k, features in seen.items()}


def is_nearest(network: nn.Module, images: Tensor, means: Means) -> None:
    """Check each answer against the distances to all means; rounding may decide a tie."""
    answers = network(images).argmax(dim=1).tolist()
    assert set(answers) <= means.keys()
    for feature, answer in zip(network.features(images).double().numpy(), answers, strict=True):
        distances = {k: np.linalg.norm(feature - mean) for k, mean in means.items()}
        assert distances[answer] == pytest.approx(min(distances.values()), rel=1e-4)


@pytest.fixture
def images(archive: Any) -> Tensor:
    """Return images of every class, mixtures of two, and noise of every size."""
    noise = torch.randn(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    mixed = (archive.images[:-1] + archive.images[1:]) / 2
    loud = noise * torch.linspace(0.1, 1000, 60).view(-1, 1, 1, 1)
    return torch.cat([archive.images, mixed, loud])


# ---- the head --------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [4, 256])
@pytest.mark.parametrize("forget", FORGETS)
def test_the_head_holds_twice_the_means_and_their_squared_norms_and_features_stay(
    kit: Kit, archive: Any, forget: tuple[int, ...], batch_size: int
) -> None:
    result = nearest(kit, archive, forget, batch_size=batch_size)
    means = means_of(kit.classifier, archive.images, archive.labels, set(forget))
    assert len(means) == 5 - len(forget)
    weight, bias = result.head.weight.numpy(), result.head.bias.numpy()
    for k in range(5):
        expected = 2 * means[k] if k in means else np.zeros(8)
        np.testing.assert_allclose(weight[k], expected, rtol=1e-5, atol=1e-6)
        expected = -sum(v * v for v in means[k]) if k in means else -1e4
        np.testing.assert_allclose(bias[k], expected, rtol=1e-5)
    for name, old in kit.classifier.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(result.state_dict()[name], old), name


@pytest.mark.parametrize("forget", FORGETS)
def test_answers_are_the_nearest_retained_mean_of_the_images(
    kit: Kit, archive: Any, images: Tensor, forget: tuple[int, ...]
) -> None:
    means = means_of(kit.classifier, archive.images, archive.labels, set(forget))
    result = nearest(kit, archive, forget)
    is_nearest(result, images, means)
    assert len(result(images).argmax(dim=1).unique()) == 5 - len(forget)


@pytest.mark.parametrize("per_class", [None, 1])
@pytest.mark.parametrize("forget", FORGETS)
def test_answers_are_the_nearest_retained_mean_of_the_proxies_and_no_image_is_opened(
    kit: Kit, archive: Any, images: Tensor, forget: tuple[int, ...], per_class: int | None
) -> None:
    result = nearest(kit, archive, forget, source="proxies", proxies_per_class=per_class)
    assert archive.opened == []
    prompts = kit.prompts[:, :per_class].flatten(0, 1)
    proxies = (kit.generator(prompts, sample=False).images - 0.2) / 0.4
    labels = torch.arange(5).repeat_interleave(per_class or 2)
    means = means_of(kit.classifier, proxies, labels, set(forget))
    is_nearest(result, images, means)
    for k, mean in means.items():
        np.testing.assert_allclose(result.head.weight[k].numpy(), 2 * mean, rtol=1e-4, atol=1e-5)


# ---- what it answers -------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["data", "proxies"])
@pytest.mark.parametrize("forget", FORGETS)
def test_retained_images_are_told_apart_and_a_forgotten_class_is_never_answered(
    kit: Kit, archive: Any, images: Tensor, forget: tuple[int, ...], source: str
) -> None:
    result = nearest(kit, archive, forget, source=source)
    gone = torch.isin(archive.labels, torch.tensor(forget))
    answers = result(archive.images).argmax(dim=1)
    assert (answers == archive.labels)[~gone].float().mean() > 0.9
    assert not torch.isin(result(images).argmax(dim=1), torch.tensor(forget)).any()


def test_neither_class_counts_nor_the_old_head_play_a_part(kit: Kit, archive: Any) -> None:
    expected = nearest(kit, archive, (1, 3)).head
    many = archive.labels == 0
    archive.labels = torch.cat([archive.labels, *[archive.labels[many]] * 9])
    archive.images = torch.cat([archive.images, *[archive.images[many]] * 9])
    kit.classifier.head.bias[0] += 1000  # as a majority would have it
    kit.classifier.head.weight *= -1
    found = nearest(kit, archive, (1, 3), batch_size=16).head
    torch.testing.assert_close(found.weight, expected.weight)
    torch.testing.assert_close(found.bias, expected.bias)


def test_a_class_without_images_is_never_answered(kit: Kit, archive: Any, images: Tensor) -> None:
    there = archive.labels != 4
    assert (kit.classifier(archive.images[~there]).argmax(dim=1) == 4).all()
    archive.images, archive.labels = archive.images[there], archive.labels[there]
    result = nearest(kit, archive, (1, 3))
    images = torch.cat([images, torch.zeros(1, 1, 16, 16)])
    assert set(result(images).argmax(dim=1).tolist()) == {0, 2}
    is_nearest(result, images, means_of(kit.classifier, archive.images, archive.labels, {1, 3}))


@pytest.mark.parametrize("source", ["data", "proxies"])
def test_features_of_any_size_do_not_lift_a_forgotten_class_above_a_mean(
    kit: Kit, archive: Any, source: str
) -> None:
    # a mean's own bias may lie below the mask's usual depth
    norm = kit.classifier.blocks[-1][1]
    norm.weight *= 100
    norm.bias *= 100
    result = nearest(kit, archive, (1, 3), source=source)
    faint = archive.images * torch.linspace(0, 1, 45).view(-1, 1, 1, 1)
    assert not torch.isin(result(faint).argmax(dim=1), torch.tensor([1, 3])).any()


# ---- what it reads ---------------------------------------------------------------------------


@pytest.mark.parametrize("forget", FORGETS)
def test_each_retained_image_is_read_once_without_augmentation(
    kit: Kit, archive: Any, forget: tuple[int, ...]
) -> None:
    nearest(kit, archive, forget, batch_size=5)
    assert archive.opened == [("retain", 5, None)]
    counts = torch.bincount(torch.tensor(archive.read), minlength=5).tolist()
    assert counts == [0 if k in forget else 9 for k in range(5)]


# ---- what it refuses -------------------------------------------------------------------------


def test_an_unknown_source_is_refused_with_the_choices() -> None:
    with pytest.raises(
        UserError, match=r"unlearner\.source must be one of data, proxies, got 'noise'"
    ):
        NearestMean(forget=(1, 3), source="noise")


def test_a_batch_too_small_is_refused() -> None:
    with pytest.raises(UserError, match=r"unlearner\.batch_size must be at least 2, got 1"):
        NearestMean(forget=(1, 3), batch_size=1)


@pytest.mark.parametrize("count", [0, 3])
def test_more_proxies_than_there_are_are_refused(kit: Kit, archive: Any, count: int) -> None:
    with pytest.raises(KitError, match=f"the kit has 2 prompts a class, {count} were asked for"):
        nearest(kit, archive, (1, 3), source="proxies", proxies_per_class=count)


def test_proxies_of_a_kit_without_a_generator_are_refused(kit: Kit, archive: Any) -> None:
    kit.generator = kit.prompts = None
    with pytest.raises(KitError, match="this file holds no generator and no prompts"):
        nearest(kit, archive, (1, 3), source="proxies")


def test_no_retained_image_at_all_is_refused(kit: Kit, archive: Any) -> None:
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))
    archive.images, archive.labels = archive.images[gone], archive.labels[gone]
    with pytest.raises(UserError, match="there are no images to read"):
        nearest(kit, archive, (1, 3))


def test_steps_are_refused(kit: Kit, archive: Any, trainer_of: Callable[[int], Trainer]) -> None:
    method = NearestMean(forget=(1, 3), steps=2, optimizer=partial(torch.optim.SGD, lr=0.1))
    with pytest.raises(UserError, match="NearestMean has no loss: set its steps to 0"):
        method.run(kit, archive.sources(Access.RETAIN, (1, 3)), trainer_of)
