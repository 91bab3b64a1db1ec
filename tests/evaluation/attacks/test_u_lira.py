"""U-LiRA: margins, worlds of one law, known shifts, and scipy's likelihood ratios."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logit, softmax
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from torch import Tensor

from geniu_lightning.evaluation.attacks.u_lira import margin, u_lira
from geniu_lightning.evaluation.metric import Absent


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_a_margin_is_the_logit_of_the_probability() -> None:
    labels = torch.arange(20) % 6
    for scale in (0.1, 1.0, 4.0):
        logits = (scale * normal(1, 20, 6)).float()
        p = softmax(logits.double().numpy(), axis=1)[np.arange(20), labels.numpy()]
        np.testing.assert_allclose(margin(logits, labels), logit(p), rtol=1e-6, atol=1e-9)
    sure = margin(torch.tensor([[200.0, -200.0, -200.0]] * 2), torch.tensor([0, 1])).tolist()
    assert sure == pytest.approx([400 - math.log(2), -400])


def test_known_worlds_are_told_as_well_as_can_be() -> None:
    same, still = normal(1, 16, 20), torch.zeros(16, 20, dtype=torch.float64)
    for margins in (same, still):
        assert u_lira(margins, margins.clone()) == {"auc": 0.5, "tpr": 0.0, "accuracy": 0.5}
    for models in (16, 40):
        zero, one = (torch.full((models, 10), v, dtype=torch.float64) for v in (0.0, 1.0))
        for first, second in ((zero, one), (one, zero)):
            assert u_lira(first, second) == {"auc": 1.0, "tpr": 1.0, "accuracy": 1.0}
    found = u_lira(normal(1, 300, 40) + 1.0, normal(2, 300, 40))
    assert found["tpr"] == pytest.approx(norm.cdf(1.0 - norm.ppf(0.99)), abs=0.04)
    assert isinstance(u_lira(normal(1, 16, 2), normal(2, 16, 2))["tpr"], Absent)


def test_ratios_are_those_of_scipy() -> None:
    for ours, theirs in ((16, 16), (21, 40), (34, 19), (34, 40)):
        worlds = [
            (1.5 * normal(1, ours, 7) + normal(3, 7)).numpy(),
            (normal(2, theirs, 7) + normal(4, 7)).numpy(),
        ]
        ratios: list[list[Any]] = [[], []]
        for held in (1, 0):
            laws = []
            for world in worlds:
                fitted = world[1 - held :: 2]
                deviation = fitted.std(axis=0, ddof=1)
                if len(fitted) < 16:
                    deviation = np.full(7, math.sqrt((deviation**2).mean()))
                laws.append(norm(fitted.mean(axis=0), deviation))
            for k, world in enumerate(worlds):
                ratios[k].append(laws[0].logpdf(world[held::2]) - laws[1].logpdf(world[held::2]))
        members, others = (np.concatenate(side) for side in ratios)
        found = u_lira(*map(torch.tensor, worlds))
        truth = [1] * members.size + [0] * others.size
        expected = roc_auc_score(truth, np.concatenate([members.ravel(), others.ravel()]))
        assert found["auc"] == pytest.approx(expected)
        per_image = ((members > 0).mean(axis=0) + (others < 0).mean(axis=0)) / 2
        assert found["accuracy"] == pytest.approx(per_image.mean())
