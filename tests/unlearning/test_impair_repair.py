"""Impair_repair: the terms of its two phases, and what they do."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import Tensor

from geniu_lightning.unlearning import losses
from geniu_lightning.unlearning.batches import labelled_batch
from geniu_lightning.unlearning.impair_repair import ImpairRepair
from tests.unlearning.helpers import GONE, KEPT, Lab, on_logits

LOGITS = torch.tensor(
    [
        [0.5, 6.0, -1.0, 0.0, 0.2],  # a margin above 4
        [0.1, 0.3, 1.0, -0.5, 0.4],
        [0.1, 0.3, 9.0, -0.5, 0.4],  # an error above 2 log K
        [1.0, 0.5, 0.3, 2.0, 0.0],
    ]
)
LABELS = torch.tensor([1, 3, 3, 1])


def two_phases(**settings: Any) -> ImpairRepair:
    quick = partial(torch.optim.Adam, lr=2e-3)
    counts = {"impair_steps": 5, "repair_steps": 15, "batch_size": 9}
    defaults = {"forget": GONE, "repair_rate": 2e-3, "optimizer": quick, "max_gradient_norm": 1.0}
    return on_logits(ImpairRepair(**defaults | counts | settings))


def errors(labels: Tensor) -> np.ndarray:
    return -log_softmax(LOGITS.double().numpy(), axis=1)[range(4), labels]


def test_impair_terms_are_the_documented_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, ce = labelled_batch(LOGITS, LABELS, GONE), errors(LABELS)
    gap = -np.log(np.expm1(ce))
    at = math.log1p(math.exp(-4.0))
    tangent = 1 / at + (gap - 4.0) / (1 + math.exp(4.0)) / at**2
    assert gap.max() > 4.0  # the tangent is reached
    found = two_phases(max_margin=4.0).loss_terms(batch)["forget"].item()
    assert found == pytest.approx(np.where(gap > 4.0, tangent, 1 / ce).mean(), rel=1e-5)
    assert ce.max() > 2 * math.log(5)  # the cap is reached
    found = two_phases(forget_term="negative").loss_terms(batch)["forget"].item()
    assert found == pytest.approx(-np.minimum(ce, 2 * math.log(5)).mean(), rel=1e-5)
    drawn: list[Tensor] = []
    draw = losses.random_retained_labels

    def noted(*arguments: Any) -> Tensor:
        drawn.append(draw(*arguments))
        return drawn[-1]

    monkeypatch.setattr(losses, "random_retained_labels", noted)
    for _ in range(10):
        found = two_phases(forget_term="random_label").loss_terms(batch)["forget"].item()
        assert found == pytest.approx(errors(drawn[-1]).mean(), rel=1e-5)
    assert {int(k) for labels in drawn for k in labels} == {*KEPT}


def test_repair_is_the_mean_error_of_the_retain_set() -> None:
    labels = torch.tensor([0, 2, 4, 2])
    for term in ("reciprocal", "negative", "random_label"):
        found = two_phases(forget_term=term).loss_terms(labelled_batch(LOGITS, labels, GONE))
        expected = pytest.approx(errors(labels).mean(), rel=1e-5)
        assert {k: v.item() for k, v in found.items()} == {"retain": expected}


def test_the_forget_set_comes_before_the_retain_set(lab: Lab) -> None:
    lab.run(two_phases(impair_steps=3, repair_steps=4))
    assert [label in GONE for label in lab.read] == [True] * 27 + [False] * 36
    lab.opened.clear()
    method = two_phases(source="proxies", impair_steps=2, repair_steps=3)
    labels = [batch.labels.tolist() for batch in lab.prepared(method)]
    assert labels == [[1, 1, 3, 3]] * 2 + [[0, 0, 2, 2, 4, 4]] * 3
    assert lab.opened == []
