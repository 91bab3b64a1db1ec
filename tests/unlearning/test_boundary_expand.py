"""Boundary expand: the shadow class, and what both boundary methods forget."""

from functools import partial

import pytest
import torch
from scipy.special import log_softmax

from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.unlearning.boundary_expand import BoundaryExpand
from tests.unlearning.helpers import GONE, Lab

sgd = partial(torch.optim.SGD, lr=0.02, momentum=0.9)


def test_boundary_expand_adds_a_shadow_class_and_removes_it(lab: Lab) -> None:
    method = BoundaryExpand(forget=GONE, steps=1, optimizer=sgd)
    (batch, *_) = lab.prepared(method)
    head, old = method.classifier.head, lab.kit.classifier.head
    assert head.weight.shape == (6, old.in_features)
    assert torch.equal(head.weight[:5], old.weight)
    assert torch.equal(head.bias, torch.cat([old.bias, torch.zeros(1)]))
    assert head.weight.requires_grad
    assert head.bias.requires_grad
    z = method.classifier(batch.images).detach().double().numpy()
    terms = method.loss_terms(batch)
    assert batch.forget.all()
    expected = pytest.approx(-log_softmax(z, axis=1)[:, 5].mean(), rel=1e-5)
    assert {k: v.item() for k, v in terms.items()} == {"forget": expected}
    torch.manual_seed(1)
    with torch.no_grad():
        head.weight.normal_()
        head.bias.normal_()
    wide = method.classifier(lab.images).detach()
    method.finish()
    assert method.classifier.head.out_features == 5
    torch.testing.assert_close(method.classifier(lab.images), wide[:, :5])
    lab.kit.classifier = AllCNN(1, 5, width=128).eval().requires_grad_(False)
    lab.prepared(method)
    row = method.classifier.head.weight[5].detach()  # Xavier normal of the wide head
    assert row.std() == pytest.approx((2 / (256 + 6)) ** 0.5, rel=0.2)
    assert row.mean().abs() < 0.02
