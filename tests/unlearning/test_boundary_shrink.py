"""Boundary shrink: the attack in the range of pixels, and the classes it may lead to."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from scipy.special import log_softmax
from torch import Tensor, nn

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.boundary_shrink import BoundaryShrink
from geniu_lightning.unlearning.sources import UnlearnBatch

TrainerOf = Callable[[int], Trainer]
COLOUR = ImageSpec.of(4, 3, (0.1, 0.5, 0.7), (0.2, 0.3, 0.9))  # no channel like another


class Flat(nn.Module):
    """A linear classifier of small colour images: its gradient is known on paper."""

    def __init__(self, gain: float = 0.3) -> None:
        super().__init__()
        self.head = nn.Linear(48, 5)
        torch.manual_seed(3)
        nn.init.normal_(self.head.weight, std=gain)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.flatten(1))
        return logits


def shrink(kit: Kit, archive: Any, forget: tuple[int, ...] = (1, 3), **more: Any) -> BoundaryShrink:
    method = BoundaryShrink(forget=forget, **more)
    method.prepare(kit, archive.sources(method.access, forget))
    return method


def colour(kit: Kit, gain: float = 0.3) -> Kit:
    info = dataclasses.replace(kit.info, spec=COLOUR, generator=None)
    return Kit(Flat(gain), info)


def by_hand(network: Flat, pixels: np.ndarray, labels: np.ndarray, epsilon: float) -> np.ndarray:
    """One step of the attack on pixels, with the linear model's gradient written out."""
    weight, bias = (p.detach().double().numpy() for p in (network.head.weight, network.head.bias))
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (COLOUR.mean, COLOUR.std))
    out = []
    for x, y in zip(pixels, labels, strict=True):
        z = weight @ ((x - mean) / std).ravel() + bias
        p = np.exp(log_softmax(z))
        p[y] -= 1  # d CE / d z
        slope = (weight.T @ p).reshape(3, 4, 4) / std
        out.append(np.clip(x + epsilon * np.sign(slope), 0, 1))
    return np.stack(out)


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_the_attack_is_one_signed_step_on_pixels_clipped_to_their_range(
    kit: Kit, archive: Any, epsilon: float
) -> None:
    kit = colour(kit)
    method = shrink(kit, archive, epsilon=epsilon)
    pixels = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    pixels[0, :, 0], pixels[1, :, 0] = 0.0, 1.0  # at both ends
    labels = torch.tensor([1, 3, 1, 3, 3, 1])
    adversarial = method.attacked(COLOUR.normalise(pixels), labels)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (COLOUR.mean, COLOUR.std))
    found = (adversarial * std + mean).double().numpy()
    expected = by_hand(kit.classifier, pixels.double().numpy(), labels.numpy(), epsilon)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.min() == pytest.approx(0, abs=1e-6)
    assert found.max() == pytest.approx(1, abs=1e-6)
    assert np.abs(found - pixels.double().numpy()).max() == pytest.approx(epsilon, abs=1e-5)


def test_an_image_of_which_the_original_is_sure_is_attacked_too(kit: Kit, archive: Any) -> None:
    # margins in the hundreds: cross-entropy and its gradient underflow to 0 in 32 bits
    kit = colour(kit, gain=60.0)
    method = shrink(kit, archive)
    images = COLOUR.normalise(torch.full((8, 3, 4, 4), 0.5) + 0.2 * torch.rand(8, 3, 4, 4))
    labels = kit.classifier(images).argmax(dim=1)
    assert (F.cross_entropy(kit.classifier(images), labels, reduction="none") == 0).any()
    moved = (method.attacked(images, labels) - images).flatten(1).abs()
    assert (moved > 0).all()


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_labels_are_retained_classes_even_where_the_attack_fails(
    kit: Kit, archive: Any, epsilon: float
) -> None:
    method = shrink(kit, archive, epsilon=epsilon)
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))
    images, labels = archive.images[gone], archive.labels[gone]
    found = method.nearest(images, labels)
    said = kit.classifier(method.attacked(images, labels))
    assert epsilon or torch.equal(said.argmax(dim=1), labels)  # without a step it always fails
    assert set(found.tolist()) <= {0, 2, 4}
    expected = [max((0, 2, 4), key=lambda k, z=z: z[k]) for z in said.tolist()]
    assert found.tolist() == expected


def test_the_term_is_the_cross_entropy_to_the_label_that_the_original_gives(
    kit: Kit, archive: Any
) -> None:
    optimizer = partial(torch.optim.SGD, lr=0.01)
    method = shrink(kit, archive, steps=1, optimizer=optimizer, batch_size=18)
    batch: UnlearnBatch = next(iter(method.batches))
    labels = method.nearest(batch.images, batch.labels)
    torch.manual_seed(0)
    with torch.no_grad():  # the tuned classifier moves on; attack and label are the original's
        method.classifier.head.weight.add_(torch.randn_like(method.classifier.head.weight))
    assert torch.equal(method.nearest(batch.images, batch.labels), labels)
    z = method.classifier(batch.images).detach().double().numpy()
    expected = -log_softmax(z, axis=1)[range(len(z)), labels.numpy()].mean()
    terms = method.loss_terms(batch)
    assert terms.keys() == {"forget"}
    assert terms["forget"].item() == pytest.approx(expected, rel=1e-5)
    terms["forget"].backward()
    assert all(p.grad is None for p in method.teacher.network.parameters())
    assert batch.images.grad is None


@pytest.mark.parametrize("source", ["data", "proxies"])
def test_eighteen_steps_forget_and_keep(
    kit: Kit, archive: Any, trainer_of: TrainerOf, source: str
) -> None:
    settings: dict[str, Any] = {"steps": 18, "batch_size": 18, "max_gradient_norm": 1.0}
    sgd = partial(torch.optim.SGD, lr=0.02)
    method = BoundaryShrink(forget=(1, 3), source=source, optimizer=sgd, **settings)
    result = method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))
    right = result(archive.images).argmax(dim=1) == archive.labels
    assert right[gone].float().mean() < 0.3
    assert right[~gone].float().mean() > 0.75
    assert {split for split, *_ in archive.opened} == ({"forget"} if source == "data" else set())


@pytest.mark.parametrize("epsilon", [-0.1, 1.1])
def test_a_step_outside_the_range_of_pixels_is_refused(epsilon: float) -> None:
    with pytest.raises(UserError, match=rf"unlearner.epsilon must lie in \[0, 1\], got {epsilon}"):
        BoundaryShrink(forget=(1,), epsilon=epsilon)
