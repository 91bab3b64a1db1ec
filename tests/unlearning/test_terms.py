"""The loss terms of methods on given logits, against numpy and scipy."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor, nn

from geniu_lightning.unlearning import losses, random_label
from geniu_lightning.unlearning.bad_teacher import BadTeacher
from geniu_lightning.unlearning.batches import labelled_batch
from geniu_lightning.unlearning.delete import Delete
from geniu_lightning.unlearning.emmn import Emmn
from geniu_lightning.unlearning.finetune import FineTune
from geniu_lightning.unlearning.geniu import Geniu
from geniu_lightning.unlearning.gradient_ascent import GradientAscent
from geniu_lightning.unlearning.impair_repair import ImpairRepair
from geniu_lightning.unlearning.lotus import Lotus
from geniu_lightning.unlearning.neg_grad_plus import NegGradPlus
from geniu_lightning.unlearning.random_label import RandomLabel
from geniu_lightning.unlearning.scrub import Scrub
from geniu_lightning.unlearning.unsir import Unsir
from tests.unlearning.helpers import GONE, KEPT, divergence, masked

ROWS = 60
NOW, ORIGINAL, IGNORANT = 3 * torch.randn(3, ROWS, 5, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(5).repeat(ROWS // 5)
DRAWN = torch.tensor(KEPT).repeat(ROWS // 3)  # in place of random retained labels
Z, BEFORE, BAD = (t.double().numpy() for t in (NOW, ORIGINAL, IGNORANT))
F = np.isin(LABELS.numpy(), GONE)
R = ~F
CE, CE_DRAWN = (-log_softmax(Z, axis=1)[range(ROWS), y] for y in (LABELS, DRAWN))
UNIFORM = np.array([[1 / 3, 0, 1 / 3, 0, 1 / 3]] * ROWS)
MASKED = divergence(masked(BEFORE), Z)
MARGIN = 1.0
sgd = partial(torch.optim.SGD, lr=0.1)
phases: Any = {"optimizer": sgd, "impair_steps": 1, "repair_steps": 1, "repair_rate": 0.1}


def reciprocal() -> np.ndarray:
    """Return 1/CE, continued by its tangent beyond the margin."""
    gap, at = -np.log(np.expm1(CE)), math.log1p(math.exp(-MARGIN))
    assert gap[F].min() < MARGIN < gap[F].max()
    tangent = 1 / at + (gap - MARGIN) / (1 + math.exp(MARGIN)) / at**2
    return np.where(gap <= MARGIN, 1 / CE, tangent)


def capped(cap: float | None) -> np.ndarray:
    """Return CE, image by image no more than a multiple of log K."""
    bound = math.inf if cap is None else cap * math.log(5)
    assert cap is None or CE[F].min() < bound < CE[F].max()
    return np.minimum(CE, bound)


def on_both_sets() -> Iterator[tuple[Any, dict[str, np.ndarray]]]:
    """Return methods, with the value of each image in each term; terms are means of a set."""
    yield FineTune(forget=GONE), {"retain": CE[R]}
    yield Delete(forget=GONE), {"forget": MASKED[F]}
    yield Emmn(forget=GONE, **phases), {"noise": CE}
    yield Unsir(forget=GONE, **phases), {"noise": CE[F], "retain": CE[R]}
    yield (
        RandomLabel(forget=GONE, retain_weight=0.3),
        {
            "forget": CE_DRAWN[F],
            "retain": 0.3 * CE[R],
        },
    )
    for name, answer in {"random": softmax(BAD, axis=1), "uniform": UNIFORM}.items():
        method = BadTeacher(forget=GONE, teacher=name)
        method.ignorant = lambda images: IGNORANT
        retain = divergence(softmax(BEFORE, axis=1), Z)[R]
        yield method, {"forget": divergence(answer, Z)[F], "retain": retain}
    lotus, target = Lotus(forget=GONE), IGNORANT.softmax(dim=1)
    lotus.targets = lambda *_: target
    loss = -(target.double().numpy() * log_softmax(Z, axis=1)).sum(axis=1)
    yield lotus, {"forget": loss[F], "retain": loss[R]}
    uniform = rel_entr(UNIFORM, softmax(Z, axis=1)).sum(axis=1)
    for cap in (1.0, 0.5, None):
        terms = {"negative": -capped(cap), "reciprocal": reciprocal(), "uniform": uniform}
        for name, loss in terms.items():
            bounds: Any = {"cap": cap, "max_margin": MARGIN}
            yield GradientAscent(forget=GONE, loss_term=name, **bounds), {"forget": loss[F]}
        both = {"forget": -0.1 * capped(cap)[F], "retain": 0.9 * CE[R]}
        yield NegGradPlus(forget=GONE, beta=0.9, cap=cap), both
    terms = {"reciprocal": reciprocal(), "negative": -CE, "uniform": uniform}
    for name, loss in (terms | {"masked_distill": MASKED}).items():
        for kind, retain in {"ce": CE, "distill": MASKED}.items():
            settings: Any = {"retain_weight": 0.3, "max_margin": MARGIN}
            method = Geniu(forget=GONE, forget_term=name, retain_term=kind, **settings)
            yield method, {"forget": loss[F], "retain": 0.3 * retain[R]}


def on_one_set() -> Iterator[tuple[Any, np.ndarray, dict[str, np.ndarray]]]:
    """Return methods that alternate, with the images of a step."""
    yield Unsir(forget=GONE, **phases), R, {"retain": CE[R]}
    terms = {"reciprocal": reciprocal(), "negative": -capped(2.0), "random_label": CE_DRAWN}
    for name, loss in terms.items():
        method = ImpairRepair(forget=GONE, forget_term=name, max_margin=MARGIN, **phases)
        yield method, F, {"forget": loss[F]}
        yield method, R, {"retain": CE[R]}
    scrub = Scrub(forget=GONE, optimizer=sgd, alpha=0.3, gamma=0.7, temperature=3.0)
    distance = 9 * divergence(softmax(BEFORE / 3, axis=1), Z / 3)
    yield scrub, F, {"forget": -distance[F]}
    yield scrub, R, {"retain_distance": 0.3 * distance[R], "retain": 0.7 * CE[R]}


def test_terms_are_the_documented_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(logits: Tensor, forget: Any) -> Tensor:
        assert forget == GONE
        return DRAWN if len(logits) == ROWS else DRAWN[F]

    for module in (losses, random_label):
        monkeypatch.setattr(module, "random_retained_labels", drawn)
    every = np.ones(ROWS, dtype=bool)
    cases = [(method, every, terms) for method, terms in on_both_sets()]
    for method, rows, terms in [*cases, *on_one_set()]:
        chosen = torch.tensor(rows)
        method.classifier = nn.Identity()
        method.teacher = lambda images, chosen=chosen: ORIGINAL[chosen]
        found = method.loss_terms(labelled_batch(NOW[chosen], LABELS[chosen], GONE))
        expected = {name: values.mean() for name, values in terms.items()}
        found = {name: term.item() for name, term in found.items()}
        assert found == pytest.approx(expected, rel=1e-5), method
