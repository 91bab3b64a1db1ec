"""Methods that raise the loss of the forget set, or train it on other labels: gradient_ascent,
neg_grad_plus, random_label, salun, boundary_shrink and boundary_expand."""

import dataclasses
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor, nn

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.kit.file import Kit
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.unlearning import random_label
from geniu_lightning.unlearning.batches import labelled_batch
from geniu_lightning.unlearning.boundary_expand import BoundaryExpand
from geniu_lightning.unlearning.boundary_shrink import BoundaryShrink
from geniu_lightning.unlearning.gradient_ascent import GradientAscent
from geniu_lightning.unlearning.neg_grad_plus import NegGradPlus
from geniu_lightning.unlearning.random_label import RandomLabel
from geniu_lightning.unlearning.salun import SalUn, largest
from geniu_lightning.unlearning.sources import Access
from tests.unlearning.helpers import GONE, KEPT, TrainerOf, own_probability, prepared, run

sgd = partial(torch.optim.SGD, lr=0.02, momentum=0.9)
COMMON: Any = {"forget": GONE, "steps": 20, "batch_size": 9, "max_gradient_norm": 1.0}


def two_at_the_bound(bound: float) -> Tensor:
    """Return logits of two images of class 0: cross-entropy just below and just above a bound."""
    p = np.exp([-bound + 0.1, -bound - 0.1])
    rows = [[math.log(3 * q / (1 - q)), 0.0, 0.0, 0.0] for q in p]
    return torch.tensor(rows, requires_grad=True)


# ---- gradient_ascent and neg_grad_plus -------------------------------------------------------


def test_gradient_ascent_terms_are_the_documented_formula() -> None:
    torch.manual_seed(1)
    logits, labels = 3 * torch.randn(4, 5), torch.tensor([1, 3, 3, 1])
    logits[0, 1] += 8
    z = logits.double().numpy()
    ce = -log_softmax(z, axis=1)[range(4), labels]
    assert ce.min() < math.log(5) < 2 * math.log(5) < ce.max()  # each cap has an effect
    uniform = np.array([[1 / 3, 0, 1 / 3, 0, 1 / 3]] * 4)
    for cap in (1.0, 2.0, None):
        expected = {
            "negative": -np.minimum(ce, math.inf if cap is None else cap * math.log(5)),
            "reciprocal": 1 / ce,
            "uniform": rel_entr(uniform, softmax(z, axis=1)).sum(axis=1),
        }
        for term, values in expected.items():
            method = GradientAscent(forget=GONE, loss_term=term, cap=cap, max_margin=30.0)
            terms = method.loss_terms(labelled_batch(logits, labels, GONE))
            assert terms.keys() == {"forget"}
            assert terms["forget"].item() == pytest.approx(values.mean(), rel=1e-5), term


def test_a_capped_image_has_no_gradient_and_the_reciprocal_is_bounded() -> None:
    labels = torch.tensor([0, 0])
    for method, bound in (
        (GradientAscent(forget=(0,)), math.log(4)),
        (NegGradPlus(forget=(0,)), 2 * math.log(4)),
    ):
        logits = two_at_the_bound(bound)
        loss = method.loss_terms(labelled_batch(logits, labels, (0,)))["forget"]
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient[0, 0] > 0
        assert not gradient[1].any()
    sure = torch.tensor([[30.0, 0.0, 0.0]], requires_grad=True)
    method = GradientAscent(forget=(0,), loss_term="reciprocal", max_margin=5.0)
    method.loss_terms(labelled_batch(sure, torch.tensor([0]), (0,)))["forget"].backward()
    assert 0 < sure.grad[0, 0] < 1.1 * math.exp(5.0)


@pytest.mark.parametrize("term", ["negative", "reciprocal", "uniform"])
def test_gradient_ascent_raises_the_loss_and_the_cap_ends_it(
    kit: Kit, archive: Any, trainer_of: TrainerOf, term: str
) -> None:
    plain = partial(torch.optim.SGD, lr=0.02)
    settings = COMMON | {"batch_size": 18, "optimizer": plain, "loss_term": term}
    forget, retain = own_probability(
        run(GradientAscent(**settings | {"steps": 25}), kit, archive, trainer_of), archive
    )
    assert forget < 0.6
    assert retain > 0.5
    if term == "negative":
        losses = []
        for cap in (1.0, None):
            method = GradientAscent(**settings | {"steps": 100, "cap": cap})
            log_p = run(method, kit, archive, trainer_of)(archive.images).log_softmax(dim=1)
            chosen = torch.isin(archive.labels, torch.tensor(GONE))
            losses.append(-log_p[chosen, archive.labels[chosen]].mean().item())
        assert math.log(5) - 0.1 < losses[0] < 2 * math.log(5)
        assert losses[1] > 5 * math.log(5)


def test_neg_grad_plus_is_the_documented_formula_and_forgets(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    torch.manual_seed(1)
    logits, labels = 6 * torch.randn(6, 5), torch.tensor([1, 0, 3, 4, 1, 2])
    loss = -log_softmax(logits.double().numpy(), axis=1)[range(6), labels]
    for cap in (2.0, 0.5, None):
        method = NegGradPlus(forget=GONE, beta=0.9, cap=cap)
        terms = method.loss_terms(labelled_batch(logits, labels, GONE))
        # image by image, so that one far beyond the bound does not silence the others
        capped = np.minimum(loss[[0, 2, 4]], (cap or math.inf) * math.log(5))
        assert terms["retain"].item() == pytest.approx(0.9 * loss[[1, 3, 5]].mean(), rel=1e-5)
        assert terms["forget"].item() == pytest.approx(-0.1 * capped.mean(), rel=1e-5)
    method = NegGradPlus(beta=0.8, optimizer=sgd, **COMMON)
    forget, retain = own_probability(run(method, kit, archive, trainer_of), archive)
    assert forget < 0.3
    assert retain > 0.75


# ---- random_label and salun ------------------------------------------------------------------


def test_random_label_terms_are_means_of_their_sets_with_retained_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits, same = torch.zeros(64, 4, requires_grad=True), torch.tensor([1, 3]).repeat(32)
    method, batch, taught = RandomLabel(forget=GONE), labelled_batch(logits, same, GONE), []
    for _ in range(2):
        (gradient,) = torch.autograd.grad(method.loss_terms(batch)["forget"], logits)
        taught.append(gradient.argmin(dim=1))  # the only logit that is raised
    assert {int(k) for labels in taught for k in labels} == {0, 2}
    assert not torch.equal(*taught)  # drawn anew in each step
    torch.manual_seed(1)
    now, labels = 3 * torch.randn(6, 5), torch.tensor([1, 0, 3, 4, 1, 2])
    drawn = torch.tensor([2, 2, 0, 2, 4, 4])
    monkeypatch.setattr(random_label, "random_retained_labels", lambda *_: drawn)
    method = RandomLabel(forget=GONE, retain_weight=0.3)
    terms = method.loss_terms(labelled_batch(now, labels, GONE))
    log_p = log_softmax(now.double().numpy(), axis=1)
    forget = -np.mean([log_p[0, 2], log_p[2, 0], log_p[4, 4]])
    retain = -np.mean([log_p[1, 0], log_p[3, 4], log_p[5, 2]])
    assert terms["forget"].item() == pytest.approx(forget, rel=1e-5)
    assert terms["retain"].item() == pytest.approx(0.3 * retain, rel=1e-5)


def test_random_label_without_a_retain_weight_reads_the_forget_set_alone(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    settings = COMMON | {"retain_weight": 0, "optimizer": sgd, "steps": 2}
    assert RandomLabel(**settings).access == Access.FORGET
    run(RandomLabel(**settings), kit, archive, trainer_of)
    assert set(archive.read) == set(GONE)
    assert RandomLabel(**settings, source="proxies").access == Access.NONE


@pytest.mark.parametrize("method", [RandomLabel, SalUn])
def test_random_labels_forget_and_retain(
    kit: Kit, archive: Any, trainer_of: TrainerOf, method: Any
) -> None:
    result = run(method(optimizer=sgd, **COMMON), kit, archive, trainer_of)
    forget, retain = own_probability(result, archive)
    assert forget < 0.3
    assert retain > 0.8


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


def test_salun_masks_by_the_signed_sum_over_images(kit: Kit, archive: Any) -> None:
    # in batches of one class, so that signs differ between batches
    order = archive.labels.argsort(stable=True)
    archive.images, archive.labels = archive.images[order], archive.labels[order]
    method = SalUn(forget=GONE, share=0.3, batch_size=3)
    prepared(method, kit, archive)
    network = kit.classifier.double().requires_grad_(True)
    signed, absolute = 0, 0
    for image, label in zip(archive.images, archive.labels, strict=True):
        if int(label) in GONE:
            loss = -network(image[None].double()).log_softmax(dim=1)[0, label]
            gradient = flat(torch.autograd.grad(loss, list(network.parameters()))).numpy()
            signed, absolute = signed + gradient, absolute + np.abs(gradient)
    count = round(0.3 * len(signed))
    expected, other = (
        np.isin(np.arange(len(g)), np.argsort(-np.abs(g))[:count]) for g in (signed, absolute)
    )
    mask = flat(method.masks).numpy()
    assert mask.sum() == count
    # a rounding error may swap two at the threshold; sums of absolute values choose others
    assert (mask != expected).sum() <= 4
    assert (other != expected).sum() > 40
    for share, first in [(0.1, 1), (0.45, 4), (0.5, 5), (1.0, 10)]:  # ties go to the first
        masks = largest([torch.ones(2, 3), -torch.ones(4)], share)
        assert flat(masks).tolist() == [True] * first + [False] * (10 - first)
    masks = largest([torch.tensor([0.1, 0.2]), torch.tensor([[-5.0], [3.0]])], 0.5)
    assert [m.tolist() for m in masks] == [[False, False], [[True], [True]]]


def test_salun_keeps_unmasked_weights_to_the_bit(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    rough = partial(torch.optim.SGD, lr=0.02, momentum=0.9, weight_decay=0.1)
    adam = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
    settings: Any = {"forget": GONE, "steps": 5, "batch_size": 9}
    for optimizer in (rough, adam):
        method = SalUn(optimizer=optimizer, **settings)
        result = run(method, kit, archive, trainer_of)
        before, after = flat(kit.classifier.parameters()), flat(result.parameters())
        mask = flat(method.masks)
        assert torch.equal(before[~mask], after[~mask])
        assert (before[mask] != after[mask]).float().mean() > 0.9
    both = [
        run(method, kit, archive, trainer_of)
        for method in (
            SalUn(share=1.0, optimizer=rough, **settings),
            RandomLabel(optimizer=rough, **settings),
        )
    ]
    assert torch.equal(*(flat(network.parameters()) for network in both))
    # the gradient is masked before its norm is bounded
    plain = partial(torch.optim.SGD, lr=1.0)
    settings |= {"steps": 1, "share": 0.05, "max_gradient_norm": 1e-3}
    result = run(SalUn(optimizer=plain, **settings), kit, archive, trainer_of)
    step = flat(result.parameters()).double() - flat(kit.classifier.parameters()).double()
    assert step.norm().item() == pytest.approx(1e-3, rel=1e-2)


# ---- boundary_shrink -------------------------------------------------------------------------

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
    return Kit(Flat(gain), dataclasses.replace(kit.info, spec=COLOUR, generator=None))


def shrink(kit: Kit, archive: Any, **settings: Any) -> BoundaryShrink:
    method = BoundaryShrink(forget=GONE, **settings)
    prepared(method, kit, archive)
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


def test_boundary_shrink_attacks_pixels_by_one_signed_step(kit: Kit, archive: Any) -> None:
    painted = colour(kit)
    pixels = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    pixels[0, :, 0], pixels[1, :, 0] = 0.0, 1.0  # at both ends
    labels = torch.tensor([1, 3, 1, 3, 3, 1])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (COLOUR.mean, COLOUR.std))
    for epsilon in (0.1, 0.3):
        method = shrink(painted, archive, epsilon=epsilon)
        found = (method.attacked(COLOUR.normalise(pixels), labels) * std + mean).double().numpy()
        raw = pixels.double().numpy()
        expected = attacked_by_hand(painted.classifier, raw, labels.tolist(), epsilon)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    # margins in the hundreds: cross-entropy and its gradient underflow to 0 in 32 bits
    sure = colour(kit, gain=60.0)
    images = COLOUR.normalise(torch.full((8, 3, 4, 4), 0.5) + 0.2 * torch.rand(8, 3, 4, 4))
    labels = sure.classifier(images).argmax(dim=1)
    assert (F.cross_entropy(sure.classifier(images), labels, reduction="none") == 0).any()
    moved = shrink(sure, archive).attacked(images, labels) - images
    assert (moved.flatten(1).abs() > 0).all()


def test_boundary_shrink_trains_on_the_likeliest_retained_class(kit: Kit, archive: Any) -> None:
    chosen = torch.isin(archive.labels, torch.tensor(GONE))
    images, labels = archive.images[chosen], archive.labels[chosen]
    for epsilon in (0.0, 0.1):
        method = shrink(kit, archive, epsilon=epsilon, steps=1, optimizer=sgd, batch_size=18)
        answers = kit.classifier(method.attacked(images, labels))
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


# ---- boundary_expand -------------------------------------------------------------------------


def test_boundary_expand_adds_a_shadow_class_and_removes_it(kit: Kit, archive: Any) -> None:
    method = BoundaryExpand(forget=GONE, steps=1, optimizer=sgd)
    (batch, *_) = prepared(method, kit, archive)
    head, old = method.classifier.head, kit.classifier.head
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
    wide = method.classifier(archive.images).detach()
    method.finish()
    assert method.classifier.head.out_features == 5
    torch.testing.assert_close(method.classifier(archive.images), wide[:, :5])
    kit.classifier = AllCNN(1, 5, width=128).eval().requires_grad_(False)
    prepared(method, kit, archive)
    row = method.classifier.head.weight[5].detach()  # Xavier normal of the wide head
    assert row.std() == pytest.approx((2 / (256 + 6)) ** 0.5, rel=0.2)
    assert row.mean().abs() < 0.02


@pytest.mark.parametrize(("kind", "rate"), [(BoundaryShrink, 0.02), (BoundaryExpand, 0.02)])
def test_boundary_methods_forget_and_retain(
    kit: Kit, archive: Any, trainer_of: TrainerOf, kind: Any, rate: float
) -> None:
    plain = partial(torch.optim.SGD, lr=rate)
    for source in ("data", "proxies"):
        method = kind(optimizer=plain, source=source, **COMMON | {"batch_size": 18})
        forget, retain = own_probability(run(method, kit, archive, trainer_of), archive)
        assert forget < 0.5, source
        assert retain > 0.75, source
