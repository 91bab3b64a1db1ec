"""Impair-repair: the order of what it reads, what it minimises, and what it does."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning import impair_repair
from geniu_lightning.unlearning.impair_repair import ImpairRepair
from geniu_lightning.unlearning.sources import Access, marked

TrainerOf = Callable[[int], Trainer]
TERMS = ["reciprocal", "negative", "random_label"]
BOTH = Access.FORGET | Access.RETAIN
adam = partial(torch.optim.Adam, lr=2e-3)


def method_of(**settings: Any) -> ImpairRepair:
    defaults = {
        "forget": (1, 3),
        "impair_steps": 5,
        "repair_steps": 15,
        "repair_rate": 2e-3,
        "optimizer": adam,
        "max_gradient_norm": 1.0,
        "batch_size": 9,
    }
    method = ImpairRepair(**defaults | settings)
    method.classifier = nn.Identity()
    return method


def own_probability(network: nn.Module, archive: Any) -> Tensor:
    """Mean probability of each class's own name on its training images."""
    p = network(archive.images).softmax(dim=1).gather(1, archive.labels[:, None]).squeeze(1)
    return torch.stack([p[archive.labels == k].mean() for k in range(5)])


# ---- the loss --------------------------------------------------------------------------------

LOGITS = torch.tensor(
    [
        [0.5, 6.0, -1.0, 0.0, 0.2],  # so sure that a margin of 4 is passed
        [0.1, 0.3, 1.0, -0.5, 0.4],
        [0.1, 0.3, 9.0, -0.5, 0.4],  # an error past 2 log K
        [1.0, 0.5, 0.3, 2.0, 0.0],
    ]
)


def error(z: Any, k: int) -> float:
    return math.log(sum(math.exp(v - z[k]) for v in z))


def test_the_reciprocal_is_one_over_the_error_and_a_tangent_where_it_is_small() -> None:
    labels = [1, 3, 3, 1]
    found = method_of(max_margin=4.0).loss_terms(marked(LOGITS, torch.tensor(labels), (1, 3)))
    values = []
    for z, k in zip(LOGITS.double().tolist(), labels, strict=True):
        gap = -math.log(math.expm1(error(z, k)))
        if gap > 4.0:
            e = math.log1p(math.exp(-4.0))
            slope = 1 / (1 + math.exp(4.0)) / e**2
            values.append(1 / e + slope * (gap - 4.0))
        else:
            values.append(1 / error(z, k))
    assert -math.log(math.expm1(error(LOGITS[0].tolist(), 1))) > 4.0  # the tangent is reached
    assert found.keys() == {"forget"}
    assert found["forget"].item() == pytest.approx(np.mean(values), rel=1e-5)


def test_the_negative_error_is_capped_and_pushes_no_further() -> None:
    labels, logits = [1, 3, 3, 1], LOGITS.clone().requires_grad_()
    found = method_of(forget_term="negative").loss_terms(
        marked(logits, torch.tensor(labels), (1, 3))
    )
    errors = [error(z, k) for z, k in zip(LOGITS.double().tolist(), labels, strict=True)]
    capped = [min(e, 2 * math.log(5)) for e in errors]
    assert errors[2] > 2 * math.log(5)
    assert found["forget"].item() == pytest.approx(-np.mean(capped), rel=1e-5)
    found["forget"].backward()
    assert [bool(row.any()) for row in logits.grad] == [True, True, False, True]


def test_random_labels_are_learned_and_drawn_from_retained_classes_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []

    def noted(*arguments: Any) -> Tensor:
        drawn.append(original(*arguments))
        return drawn[-1]

    original = impair_repair.random_retained_labels
    monkeypatch.setattr(impair_repair, "random_retained_labels", noted)
    method = method_of(forget_term="random_label")
    for _ in range(30):
        batch = marked(LOGITS, torch.tensor([1, 3, 3, 1]), (1, 3))
        found = method.loss_terms(batch)["forget"]
        pairs = zip(LOGITS.double().tolist(), drawn[-1].tolist(), strict=True)
        assert found.item() == pytest.approx(np.mean([error(z, k) for z, k in pairs]), rel=1e-5)
    assert set(torch.cat(drawn).tolist()) == {0, 2, 4}


@pytest.mark.parametrize("term", TERMS)
def test_repair_is_the_mean_error_of_retained_images(term: str) -> None:
    labels, logits = [0, 2, 4, 2], LOGITS.clone().requires_grad_()
    found = method_of(forget_term=term).loss_terms(marked(logits, torch.tensor(labels), (1, 3)))
    errors = [error(z, k) for z, k in zip(LOGITS.double().tolist(), labels, strict=True)]
    assert found.keys() == {"retain"}
    assert found["retain"].item() == pytest.approx(np.mean(errors), rel=1e-5)
    found["retain"].backward()
    assert logits.grad.any(dim=1).all()


# ---- what it reads ---------------------------------------------------------------------------


def test_all_forgotten_images_come_before_all_retained_ones(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = method_of(impair_steps=3, repair_steps=4)
    method.run(kit, archive.sources(BOTH, (1, 3)), trainer_of)
    gone = [label in (1, 3) for label in archive.read]
    assert gone == [True] * 27 + [False] * 36
    assert {1, 3} <= set(archive.read)


def test_on_proxies_the_phases_take_those_of_either_side_and_no_image(
    kit: Kit, archive: Any
) -> None:
    method = method_of(source="proxies", impair_steps=2, repair_steps=3)
    assert method.access is Access.NONE
    method.prepare(kit, archive.sources(Access.NONE, (1, 3)))
    labels = [batch.labels.tolist() for batch in method.batches]
    assert labels == [[1, 1, 3, 3]] * 2 + [[0, 0, 2, 2, 4, 4]] * 3
    assert archive.opened == []


# ---- what it does ----------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["data", "proxies"])
@pytest.mark.parametrize("term", TERMS)
def test_twenty_steps_lower_the_forgotten_classes_and_keep_the_others(
    kit: Kit, archive: Any, trainer_of: TrainerOf, term: str, source: str
) -> None:
    method = method_of(forget_term=term, source=source)
    result = method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    before, after = own_probability(kit.classifier, archive), own_probability(result, archive)
    assert after[[1, 3]].mean() < before[[1, 3]].mean() / 2
    assert after[[0, 2, 4]].mean() > before[[0, 2, 4]].mean() - 0.1


def test_retained_classes_are_damaged_first_and_then_mended(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    kept = []
    for repair in (0, 15):
        method = method_of(impair_steps=10, repair_steps=repair)
        result = method.run(kit, archive.sources(BOTH, (1, 3)), trainer_of)
        kept.append(own_probability(result, archive)[[0, 2, 4]].mean())
    assert kept[0] < kept[1] - 0.1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"forget_term": "hope"}, "unlearner.forget_term must be one of reciprocal.*got 'hope'"),
        ({"max_margin": 41.0}, r"unlearner.max_margin must lie in \(0, 40\], got 41"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        method_of(**settings)
