"""ISPF: the generator's four terms, the post-filter, and what the student learns from both."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from scipy.special import entr, log_softmax, rel_entr, softmax
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning import ispf as module
from geniu_lightning.unlearning.ispf import (
    Ispf,
    answer_and_distance,
    balance,
    inhibited,
    post_filter,
)
from geniu_lightning.unlearning.sources import Access, UnlearnBatch
from geniu_lightning.unlearning.synthesis import synthetic_batch

TrainerOf = Callable[[int], Trainer]
adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999))
sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-4)
EPSILON = 0.05


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WIDTHS", (8, 8, 8))


class Watched(Ispf):
    """Remembers its batches, how far training was, and the student's mode."""

    def prepare(self, *given: Any) -> None:
        super().prepare(*given)
        self.seen: list[UnlearnBatch] = []
        self.modes: list[tuple[str, bool]] = []
        self.made_at: list[int] = []

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        self.seen.append(batch)
        self.modes += [("student", layer.training) for layer in self.classifier.modules()]
        return super().loss_terms(batch)

    def generator_loss(self, images: Tensor) -> Tensor:
        self.made_at.append(self.global_step if self._trainer else 0)
        self.modes += [("generator", layer.training) for layer in self.classifier.modules()]
        return super().generator_loss(images)


def ispf(forget: tuple[int, ...] = (1, 3), **settings: Any) -> Watched:
    defaults = {
        "forget": forget,
        "steps": 6,
        "optimizer": sgd,
        "schedule": "cosine",
        "generator_optimizer": adam,
        "max_gradient_norm": 5.0,
        "batch_size": 16,
        "student_steps": 3,
        "warm_up_steps": 2,
        "latent": 8,
        "threshold": EPSILON,
    }
    return Watched(**defaults | settings)


def ready(kit: Kit, archive: Any, **settings: Any) -> Watched:
    method = ispf(**settings)
    method.prepare(kit, archive.sources(Access.NONE, method.forget))
    return method


def random_logits(seed: int = 0, count: int = 40, scale: float = 3.0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, 5)) * scale
    return drawn.astype(np.float32).astype(np.float64)


def some_images(count: int = 12) -> Tensor:
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(2))


# ---- the generator's terms -------------------------------------------------------------------


def distance_by_hand(network: nn.Module, images: Tensor) -> float:
    """AllCNN layer by layer: what each batch norm reads, in double precision."""
    values, total = images, 0.0
    for convolution, norm, rectify in network.blocks:
        values = convolution(values)
        read = values.detach().double().numpy()
        mean, variance = read.mean(axis=(0, 2, 3)), read.var(axis=(0, 2, 3))
        total += np.sqrt(((mean - norm.running_mean.double().numpy()) ** 2).sum())
        total += np.sqrt(((variance - norm.running_var.double().numpy()) ** 2).sum())
        values = rectify(norm(values))
    return total


def test_the_distance_is_that_of_what_batch_norms_read_to_what_they_remember(kit: Kit) -> None:
    images = some_images()
    logits, distance = answer_and_distance(kit.classifier, images)
    assert torch.equal(logits, kit.classifier(images))
    assert float(distance) == pytest.approx(distance_by_hand(kit.classifier, images), rel=1e-4)
    assert not any(layer._forward_pre_hooks for layer in kit.classifier.modules())


@pytest.mark.parametrize("norm", [nn.Identity(), nn.BatchNorm2d(2, track_running_stats=False)])
def test_a_network_that_remembers_no_statistics_has_no_distance(norm: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), norm, nn.Flatten(), nn.Linear(2 * 196, 5)).eval()
    logits, distance = answer_and_distance(network, some_images())
    assert logits.shape == (12, 5)
    assert float(distance) == 0


def test_balance_is_the_negative_entropy_of_the_mean_answer() -> None:
    z = random_logits()
    expected = -entr(softmax(z, axis=1).mean(axis=0)).sum()
    assert float(balance(torch.tensor(z, dtype=torch.float32))) == pytest.approx(expected, rel=1e-4)
    assert float(balance(30 * torch.eye(5))) == pytest.approx(-np.log(5), rel=1e-4)


def test_inhibition_seeks_disagreement_on_retained_classes_and_shuns_it_on_forgotten() -> None:
    a, b = random_logits(1), random_logits(2)
    total = 0.0
    for x, y in zip(a, b, strict=True):
        for k in range(5):
            term = softmax(x)[k] * (log_softmax(x)[k] - log_softmax(y)[k])
            total += term if k in (1, 3) else -term
    found = inhibited(torch.tensor(a), torch.tensor(b), (1, 3))
    assert float(found) == pytest.approx(total / len(a), rel=1e-4)


@pytest.mark.parametrize("term", ["bn", "one_hot", "balance", "adversarial"])
def test_the_generator_minimises_the_weighted_sum(kit: Kit, archive: Any, term: str) -> None:
    weights = {"bn": 0.0, "one_hot": 0.0, "balance": 0.0, "adversarial": 0.0} | {term: 0.7}
    method = ready(kit, archive, **{f"{name}_weight": w for name, w in weights.items()})
    method.classifier.eval()
    images = some_images()
    z = kit.classifier(images)
    expected = {
        "bn": distance_by_hand(kit.classifier, images),
        "one_hot": -log_softmax(z.double().numpy(), axis=1).max(axis=1).mean(),
        "balance": -entr(softmax(z.double().numpy(), axis=1).mean(axis=0)).sum(),
        "adversarial": float(inhibited(z, method.classifier(images).detach(), (1, 3))),
    }[term]
    assert float(method.generator_loss(images).detach()) == pytest.approx(0.7 * expected, rel=1e-4)
    whole = ready(kit, archive)
    whole.classifier.eval()
    parts = [
        ready(kit, archive, **{f"{n}_weight": float(n == m) for n in weights}) for m in weights
    ]
    for part in parts:
        part.classifier.eval()
    separate = sum(float(part.generator_loss(images)) for part in parts)
    assert float(whole.generator_loss(images)) == pytest.approx(separate, rel=1e-4)


def test_extreme_answers_give_finite_gradients() -> None:
    z = torch.tensor([[300.0, 0, 0, 0, -300], [300.0, 0, 0, 0, -300]], requires_grad=True)
    (balance(z) + inhibited(z, torch.zeros(2, 5), (1, 3))).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("term", ["bn", "one_hot", "balance", "adversarial"])
def test_each_term_reaches_the_generator_and_no_classifier(
    kit: Kit, archive: Any, term: str
) -> None:
    weights = {f"{n}_weight": float(n == term) for n in ("bn", "one_hot", "balance", "adversarial")}
    method = ready(kit, archive, warm_up_steps=0, **weights)
    maker = method.batches.maker
    before = maker.expand.weight.clone()
    original = {name: t.clone() for name, t in kit.classifier.state_dict().items()}
    next(iter(method.batches))
    assert not torch.equal(maker.expand.weight, before)
    for network in (method.classifier, method.teacher.network, kit.classifier):
        assert all(p.grad is None for p in network.parameters())
    said = method.teacher.network.state_dict()
    assert all(torch.equal(t, said[name]) for name, t in original.items())
    assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"classifier"}


# ---- the post-filter -------------------------------------------------------------------------


def filtered_by_hand(z: np.ndarray, forget: tuple[int, ...], epsilon: float) -> np.ndarray:
    out = z.copy()
    for row, logits in zip(out, z, strict=True):
        p, least = softmax(logits), logits.min()
        caught = [k for k in forget if p[k] > epsilon]
        taken = sum(logits[k] - least for k in caught)
        for k in range(len(logits)):
            if k in caught:
                row[k] = least
            elif k not in forget:
                row[k] += taken / (len(logits) - len(forget))
    return out


@pytest.mark.parametrize("forget", [(0,), (1, 3)])
def test_the_post_filter_is_the_documented_formula(forget: tuple[int, ...]) -> None:
    z = random_logits()
    found = post_filter(torch.tensor(z), forget, EPSILON).numpy()
    np.testing.assert_allclose(found, filtered_by_hand(z, forget, EPSILON), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), z.sum(axis=1), atol=1e-4)  # nothing is lost
    caught = (softmax(z, axis=1)[:, list(forget)] > EPSILON).sum(axis=1)
    assert set(caught) == set(range(len(forget) + 1))  # all cases are in the sample


def test_the_post_filter_is_a_mask_down_to_the_minimum_up_to_a_shift() -> None:
    z = random_logits()
    caught = (softmax(z, axis=1)[:, [1, 3]] > EPSILON).all(axis=1)
    found = softmax(post_filter(torch.tensor(z), (1, 3), EPSILON).numpy()[caught], axis=1)
    kept = softmax(z[caught][:, [0, 2, 4]], axis=1)
    again = found[:, [0, 2, 4]] / found[:, [0, 2, 4]].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(again, kept, atol=1e-5)  # the retained classes as in a mask
    assert np.allclose(found[:, 1], found[:, 3])
    assert (found[:, [1]] <= found[:, [0, 2, 4]] + 1e-6).all()
    shifted = z[caught].copy()
    least, taken = z[caught].min(axis=1), z[caught][:, [1, 3]].sum(axis=1)
    shifted[:, [1, 3]] = (least - (taken - 2 * least) / 3)[:, None]
    np.testing.assert_allclose(found, softmax(shifted, axis=1), atol=1e-5)


def test_an_answer_without_forgotten_classes_is_left_alone() -> None:
    z = torch.tensor([[9.0, 0.0, 1.0, 0.0, 2.0]])
    assert torch.equal(post_filter(z, (1, 3), EPSILON), z)


# ---- the student's loss ----------------------------------------------------------------------


@pytest.mark.parametrize("target", ["post_filter", "mask"])
def test_the_student_is_drawn_to_the_cleaned_answer_on_every_image(
    kit: Kit, archive: Any, target: str
) -> None:
    method = ready(kit, archive, target=target)
    method.classifier.eval()
    images = some_images()
    z = kit.classifier(images).double().numpy()
    if target == "mask":
        wanted = np.zeros_like(z)
        wanted[:, [0, 2, 4]] = softmax(z[:, [0, 2, 4]], axis=1)
    else:
        wanted = softmax(filtered_by_hand(z, (1, 3), EPSILON), axis=1)
    now = softmax(method.classifier(images).detach().double().numpy(), axis=1)
    batch = synthetic_batch(images, kit.classifier(images), (1, 3))
    assert batch.forget.any()
    found = method.loss_terms(batch)
    assert found.keys() == {"distill"}
    expected = rel_entr(wanted, now).sum() / len(images)
    assert float(found["distill"]) == pytest.approx(expected, rel=1e-4)


def test_the_batches_are_whole_and_labelled_by_the_original(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = ispf()
    method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
    for batch in method.seen:
        assert batch.images.shape == (16, 1, 16, 16)
        assert torch.equal(batch.labels, kit.classifier(batch.images).argmax(dim=1))
    assert len({float(batch.images.sum()) for batch in method.seen}) == 6  # new in each step


# ---- who moves when --------------------------------------------------------------------------


def test_the_student_trains_in_every_step_and_evaluates_in_the_generators(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = ispf(steps=7)
    method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
    assert all(training == (name == "student") for name, training in method.modes)
    assert method.made_at == [0, 0, 0, 3, 6]  # two to warm up, then one a round
    for name, tensor in method.classifier.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert int(tensor) == 7  # its own steps, not the generator's


@pytest.mark.parametrize("target", ["post_filter", "mask"])
def test_eighty_steps_teach_the_retained_answers_and_not_the_forgotten_ones(
    kit: Kit, archive: Any, trainer_of: TrainerOf, target: str
) -> None:
    results = {}
    for steps in (1, 80):
        method = ispf(steps=steps, target=target, adversarial_weight=0.1)
        results[steps] = method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
    images = method.seen[-1].images
    said, first, last = (
        network(images).softmax(dim=1)[:, [1, 3]].sum(dim=1).mean().item()
        for network in (kit.classifier, results[1], results[80])
    )
    assert last < first / 2, (said, first, last)
    wanted = post_filter(kit.classifier(images), (1, 3), EPSILON).softmax(dim=1).numpy()
    gaps = [
        rel_entr(wanted, results[steps](images).softmax(dim=1).numpy()).sum(axis=1).mean()
        for steps in (1, 80)
    ]
    assert gaps[1] < gaps[0] / 2, gaps


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"target": "hope"}, "unlearner.target must be one of post_filter, mask, got 'hope'"),
        ({"threshold": -0.1}, r"unlearner.threshold must lie in \[0, 1\], got -0.1"),
        ({"bn_weight": -1.0}, "unlearner.bn_weight must be at least 0, got -1.0"),
        ({"adversarial_weight": -1.0}, "unlearner.adversarial_weight must be at least 0"),
        ({"latent": 0}, "unlearner.latent must be at least 1, got 0"),
        ({"warm_up_steps": -1}, "unlearner.warm_up_steps must be at least 0, got -1"),
        ({"batch_size": 1}, "unlearner.batch_size must be at least 2, got 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ispf(**settings)
