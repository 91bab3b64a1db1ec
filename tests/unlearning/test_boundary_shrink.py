"""Boundary shrink: the attack in the range of pixels, and the labels that it gives."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.batches import labelled_batch
from geniu_lightning.unlearning.boundary_shrink import BoundaryShrink
from tests.unlearning.helpers import GONE, KEPT, Lab

sgd = partial(torch.optim.SGD, lr=0.02, momentum=0.9)

COLOUR = ImageSpec.of(4, 3, (0.1, 0.5, 0.7), (0.2, 0.3, 0.9))  # no channel like another


class Flat(nn.Module):
    """A linear classifier of small colour images: its gradient is known on paper."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.head = nn.Linear(48, 5)
        torch.manual_seed(3)
        nn.init.normal_(self.head.weight, std=gain)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


def colour(kit: Kit, gain: float = 0.3) -> Kit:
    return Kit(Flat(gain), kit.info.of_weights(spec=COLOUR))


def shrink(lab: Lab, **settings: Any) -> BoundaryShrink:
    method = BoundaryShrink(forget=GONE, **settings)
    lab.prepared(method)
    return method


def attacked_by_hand(network: Flat, pixels: np.ndarray, labels: Any, epsilon: float) -> np.ndarray:
    """Return one step of the attack on pixels, with the linear model's gradient written out."""
    weight, bias = (p.detach().double().numpy() for p in (network.head.weight, network.head.bias))
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (COLOUR.mean, COLOUR.std))
    out = []
    for x, y in zip(pixels, labels, strict=True):
        p = softmax(weight @ ((x - mean) / std).ravel() + bias)
        p[y] -= 1  # d CE / d z
        slope = (weight.T @ p).reshape(3, 4, 4) / std
        out.append(np.clip(x + epsilon * np.sign(slope), 0, 1))
    return np.stack(out)


def test_boundary_shrink_attacks_pixels_by_one_signed_step(lab: Lab) -> None:
    painted = colour(lab.kit)
    pixels = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    pixels[0, :, 0], pixels[1, :, 0] = 0.0, 1.0  # at both ends
    labels = torch.tensor([1, 3, 1, 3, 3, 1])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (COLOUR.mean, COLOUR.std))
    for epsilon in (0.1, 0.3):
        method = shrink(Lab(painted), epsilon=epsilon)
        found = (method.attacked(COLOUR.normalise(pixels), labels) * std + mean).double().numpy()
        raw = pixels.double().numpy()
        expected = attacked_by_hand(painted.classifier, raw, labels.tolist(), epsilon)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    # margins in the hundreds: cross-entropy and its gradient underflow to 0 in 32 bits
    sure = colour(lab.kit, gain=60.0)
    images = COLOUR.normalise(torch.full((8, 3, 4, 4), 0.5) + 0.2 * torch.rand(8, 3, 4, 4))
    labels = sure.classifier(images).argmax(dim=1)
    assert (F.cross_entropy(sure.classifier(images), labels, reduction="none") == 0).any()
    moved = shrink(Lab(sure)).attacked(images, labels) - images
    assert (moved.flatten(1).abs() > 0).all()


def test_boundary_shrink_trains_on_the_likeliest_retained_class(lab: Lab) -> None:
    chosen = torch.isin(lab.labels, torch.tensor(GONE))
    images, labels = lab.images[chosen], lab.labels[chosen]
    for epsilon in (0.0, 0.1):
        method = shrink(lab, epsilon=epsilon, steps=1, optimizer=sgd, batch_size=18)
        answers = lab.kit.classifier(method.attacked(images, labels))
        assert epsilon or torch.equal(answers.argmax(dim=1), labels)  # without a step it fails
        expected = [max(KEPT, key=lambda k, z=z: z[k]) for z in answers.tolist()]
        assert method.nearest(images, labels).tolist() == expected
    with torch.no_grad():  # the classifier moves on; attack and label are the original's
        method.classifier.head.weight.add_(torch.randn_like(method.classifier.head.weight))
    assert method.nearest(images, labels).tolist() == expected
    z = method.classifier(images).detach().double().numpy()
    loss = -log_softmax(z, axis=1)[range(len(z)), expected].mean()
    terms = method.loss_terms(labelled_batch(images, labels, GONE))
    assert {k: v.item() for k, v in terms.items()} == {"forget": pytest.approx(loss, rel=1e-5)}
