"""ISPF: the generator's four terms, the post-filter, and what the student learns."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import entr, log_softmax, softmax
from torch import Tensor, nn

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.ispf import (
    Ispf,
    balance,
    inhibited_divergence,
    post_filter,
    statistics_distance,
)
from geniu_lightning.unlearning.synthesis import synthetic_batch
from tests.unlearning.helpers import GONE, KEPT, Lab, divergence, masked, values

adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999))
sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-4)
EPSILON = 0.05
TERMS = ("bn", "one_hot", "balance", "adversarial")


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ispf, "widths", (8, 8, 8))


def ispf(**settings: Any) -> Ispf:
    counts = {"steps": 6, "batch_size": 16, "student_steps": 3, "warm_up_steps": 2, "latent": 8}
    defaults = {"forget": GONE, "optimizer": sgd, "generator_optimizer": adam}
    more = {"schedule": "cosine", "max_gradient_norm": 5.0, "threshold": EPSILON}
    return Ispf(**defaults | counts | more | settings)


def ready(lab: Lab, **settings: Any) -> Ispf:
    torch.manual_seed(1)  # of the generator's first weights
    method = ispf(**settings)
    lab.prepared(method)
    return method


def random_logits(seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(40, 5)) * 3.0
    return drawn.astype(np.float32).astype(np.float64)


def some_images() -> Tensor:
    return torch.randn(12, 1, 16, 16, generator=torch.Generator().manual_seed(2))


def distance_by_hand(network: Any, images: Tensor) -> float:
    """Return the distance of AllCNN, layer by layer, in double precision."""
    values, total = images, 0.0
    for convolution, norm, rectify in network.blocks:
        values = convolution(values)
        read = values.detach().double().numpy()
        mean, variance = read.mean(axis=(0, 2, 3)), read.var(axis=(0, 2, 3))
        total += np.sqrt(((mean - norm.running_mean.double().numpy()) ** 2).sum())
        total += np.sqrt(((variance - norm.running_var.double().numpy()) ** 2).sum())
        values = rectify(norm(values))
    return total


def test_the_distance_is_of_batch_statistics_to_the_running_ones(kit: Kit) -> None:
    images = some_images()
    logits, distance = statistics_distance(kit.classifier, images)
    assert torch.equal(logits, kit.classifier(images))
    assert float(distance) == pytest.approx(distance_by_hand(kit.classifier, images), rel=1e-4)
    assert not any(layer._forward_pre_hooks for layer in kit.classifier.modules())
    for norm in (nn.Identity(), nn.BatchNorm2d(2, track_running_stats=False)):
        layers = nn.Conv2d(1, 2, 3), norm, nn.Flatten(), nn.Linear(2 * 196, 5)
        logits, distance = statistics_distance(nn.Sequential(*layers).eval(), images)
        assert logits.shape == (12, 5)
        assert float(distance) == 0


def test_balance_and_inhibition_are_the_documented_formula() -> None:
    z, other = random_logits(1), random_logits(2)
    expected = -entr(softmax(z, axis=1).mean(axis=0)).sum()
    assert float(balance(torch.tensor(z))) == pytest.approx(expected, rel=1e-4)
    assert float(balance(30 * torch.eye(5))) == pytest.approx(-np.log(5), rel=1e-4)
    terms = softmax(z, axis=1) * (log_softmax(z, axis=1) - log_softmax(other, axis=1))
    total = terms[:, GONE].sum() - terms[:, KEPT].sum()
    found = inhibited_divergence(torch.tensor(z), torch.tensor(other), GONE)
    assert float(found) == pytest.approx(total / len(z), rel=1e-4)
    steep = torch.tensor([[300.0, 0, 0, 0, -300], [300.0, 0, 0, 0, -300]], requires_grad=True)
    (balance(steep) + inhibited_divergence(steep, torch.zeros(2, 5), GONE)).backward()
    assert steep.grad.isfinite().all()


def test_the_generator_minimises_the_weighted_sum_and_each_term_reaches_it_alone(lab: Lab) -> None:
    images = some_images()
    z = lab.kit.classifier(images)
    whole = 0.0
    for term in TERMS:
        weights = {f"{name}_weight": 0.7 * (name == term) for name in TERMS}
        method = ready(lab, warm_up_steps=0, **weights)
        student = method.classifier.eval()
        expected = {
            "bn": distance_by_hand(lab.kit.classifier, images),
            "one_hot": -log_softmax(z.double().numpy(), axis=1).max(axis=1).mean(),
            "balance": -entr(softmax(z.double().numpy(), axis=1).mean(axis=0)).sum(),
            "adversarial": float(inhibited_divergence(z, student(images).detach(), GONE)),
        }[term]
        found = float(method.generator_loss(images).detach())
        assert found == pytest.approx(0.7 * expected, rel=1e-4), term
        whole += found / 0.7
        generator = method.batches.generator
        before = generator.expand.weight.clone()
        next(iter(method.batches))
        assert not torch.equal(generator.expand.weight, before), term
        for network in (method.classifier, method.teacher.network, lab.kit.classifier):
            assert all(p.grad is None for p in network.parameters())
    method = ready(lab)
    method.classifier.eval()
    assert float(method.generator_loss(images).detach()) == pytest.approx(whole, rel=1e-4)


def filtered_by_hand(z: np.ndarray, forget: tuple[int, ...], epsilon: float) -> np.ndarray:
    out = z.copy()
    for row, logits in zip(out, z, strict=True):
        p, least = softmax(logits), logits.min()
        lowered = [k for k in forget if p[k] > epsilon]
        removed = sum(logits[k] - least for k in lowered)
        for k in range(len(logits)):
            if k in lowered:
                row[k] = least
            elif k not in forget:
                row[k] += removed / (len(logits) - len(forget))
    return out


def test_the_post_filter_is_the_documented_formula() -> None:
    z = random_logits()
    for forget in ((0,), GONE):
        found = post_filter(torch.tensor(z), forget, EPSILON).numpy()
        np.testing.assert_allclose(found, filtered_by_hand(z, forget, EPSILON), atol=1e-4)
        np.testing.assert_allclose(found.sum(axis=1), z.sum(axis=1), atol=1e-4)
        lowered = (softmax(z, axis=1)[:, list(forget)] > EPSILON).sum(axis=1)
        assert set(lowered) == set(range(len(forget) + 1))  # all cases are in the sample
    # where both are lowered, the retained classes are as in a mask
    both = (softmax(z, axis=1)[:, GONE] > EPSILON).all(axis=1)
    p = softmax(post_filter(torch.tensor(z), GONE, EPSILON).numpy()[both], axis=1)
    retained = p[:, KEPT] / p[:, KEPT].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(retained, softmax(z[both][:, KEPT], axis=1), atol=1e-5)
    certain = torch.tensor([[9.0, 0.0, 1.0, 0.0, 2.0]])
    assert torch.equal(post_filter(certain, GONE, EPSILON), certain)


def test_the_student_learns_the_filtered_answer_on_every_image(lab: Lab) -> None:
    images = some_images()
    z = lab.kit.classifier(images).double().numpy()
    for target, wanted in {
        "post_filter": softmax(filtered_by_hand(z, GONE, EPSILON), axis=1),
        "mask": masked(z),
    }.items():
        method = ready(lab, target=target)
        now = method.classifier.eval()(images).detach().double().numpy()
        batch = synthetic_batch(images, lab.kit.classifier(images), GONE)
        assert batch.forget.any()
        expected = pytest.approx(divergence(wanted, now).mean(), rel=1e-4)
        assert values(method.loss_terms(batch)) == {"distill": expected}


def test_batches_are_new_in_each_step_and_the_generator_moves_once_a_round(lab: Lab) -> None:
    method = ispf(steps=7)
    moved_at, seen = [], []
    generator_loss, loss_terms = method.generator_loss, method.loss_terms
    method.generator_loss = lambda images: moved_at.append(len(seen)) or generator_loss(images)
    method.loss_terms = lambda batch: seen.append(batch) or loss_terms(batch)
    lab.run(method)
    assert moved_at == [0, 0, 0, 3, 6]  # two to warm up, then one a round
    for batch in seen:
        assert batch.images.shape == (16, 1, 16, 16)
        assert torch.equal(batch.labels, lab.kit.classifier(batch.images).argmax(dim=1))
    assert len({float(batch.images.sum()) for batch in seen}) == 7
