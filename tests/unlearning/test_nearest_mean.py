"""Nearest_mean: the head of class means."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.nearest_mean import NearestMean
from tests.unlearning.helpers import (
    GONE,
    no_trainer,
    run,
)

FORGETS = [(0,), (2,), GONE]


@pytest.fixture
def images(archive: Any) -> Tensor:
    """Return images of every class, mixtures of two, and noise of every size."""
    noise = torch.randn(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    mixed = (archive.images[:, None] + archive.images[None]).flatten(0, 1) / 2
    loud = noise * torch.linspace(0.1, 1000, 60).view(-1, 1, 1, 1)
    return torch.cat([archive.images, mixed, loud])


def same_but_the_head(result: nn.Module, original: nn.Module) -> bool:
    after, before = result.state_dict(), original.state_dict()
    return all(torch.equal(after[k], t) for k, t in before.items() if not k.startswith("head."))


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


def nearest(kit: Kit, archive: Any, forget: tuple[int, ...] = GONE, **settings: Any) -> nn.Module:
    return run(NearestMean(forget=forget, **settings), kit, archive, no_trainer)


def test_answers_are_the_nearest_retained_mean_of_images(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    for forget, batch_size in zip(FORGETS, (4, 256, 5), strict=True):
        archive.opened.clear()
        archive.read.clear()
        result = nearest(kit, archive, forget, batch_size=batch_size)
        assert archive.opened == [("retain", batch_size, None)]  # each image once, unaugmented
        counts = torch.bincount(torch.tensor(archive.read), minlength=5).tolist()
        assert counts == [0 if k in forget else 9 for k in range(5)]
        means = means_of(kit.classifier, archive.images, archive.labels, forget)
        assert same_but_the_head(result, kit.classifier)
        for k in range(5):
            row = 2 * means[k] if k in means else np.zeros(8)
            np.testing.assert_allclose(result.head.weight[k].numpy(), row, rtol=1e-4, atol=1e-5)
            bias = -(means[k] ** 2).sum() if k in means else -1e4
            np.testing.assert_allclose(result.head.bias[k].numpy(), bias, rtol=1e-4)
        is_nearest(result, images, means)


def test_answers_are_the_nearest_retained_mean_of_proxies(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    for per_class in (None, 1):
        result = nearest(kit, archive, source="proxies", proxies_per_class=per_class)
        prompts = kit.prompts[:, :per_class].flatten(0, 1)
        proxies = (kit.generator(prompts, sample=False).images - 0.2) / 0.4
        labels = torch.arange(5).repeat_interleave(per_class or 2)
        is_nearest(result, images, means_of(kit.classifier, proxies, labels, GONE))
    assert archive.opened == []


def test_neither_counts_nor_the_old_head_nor_the_size_of_features_matter(
    kit: Kit, archive: Any
) -> None:
    expected = nearest(kit, archive).head
    many = archive.labels == 0
    archive.labels = torch.cat([archive.labels, *[archive.labels[many]] * 9])
    archive.images = torch.cat([archive.images, *[archive.images[many]] * 9])
    kit.classifier.head.bias[0] += 1000  # as a majority would have it
    kit.classifier.head.weight *= -1
    found = nearest(kit, archive, batch_size=16).head
    torch.testing.assert_close(found.weight, expected.weight)
    torch.testing.assert_close(found.bias, expected.bias)
    # a mean's own bias may lie below the mask's usual depth
    norm = kit.classifier.blocks[-1][1]
    norm.weight *= 100
    norm.bias *= 100
    faint = archive.images[:45] * torch.linspace(0, 1, 45).view(-1, 1, 1, 1)
    for source in ("data", "proxies"):
        answers = nearest(kit, archive, source=source)(faint).argmax(dim=1)
        assert not torch.isin(answers, torch.tensor(GONE)).any()


def test_a_class_without_images_is_never_answered(kit: Kit, archive: Any, images: Tensor) -> None:
    there = archive.labels != 4
    archive.images, archive.labels = archive.images[there], archive.labels[there]
    result = nearest(kit, archive)
    black = torch.cat([images, torch.zeros(1, 1, 16, 16)])
    assert set(result(black).argmax(dim=1).tolist()) == {0, 2}
    forgotten = torch.isin(archive.labels, torch.tensor(GONE))
    archive.images, archive.labels = archive.images[forgotten], archive.labels[forgotten]
    with pytest.raises(UserError, match="there are no images to read"):
        nearest(kit, archive)
