"""Selective synaptic dampening: importances by a slow loop, the edit, and its edges."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.sources import Access, RepeatBatch, marked
from geniu_lightning.unlearning.ssd import Ssd, dampening, percentile_alpha

TrainerOf = Callable[[int], Trainer]
BOTH = Access.FORGET | Access.RETAIN


def measured(kit: Kit, archive: Any, **settings: Any) -> Ssd:
    method = Ssd(**{"forget": (1, 3)} | settings)
    method.prepare(kit, archive.sources(method.access, method.forget))
    return method


def row(tensors: Any) -> np.ndarray:
    return np.concatenate([t.detach().double().numpy().ravel() for t in tensors])


def slowly(kit: Kit, images: Tensor, labels: Tensor, parts: int | None, loss: str) -> np.ndarray:
    """Importances by backward in double precision: each image by itself, or by parts."""
    network = kit.classifier.double().requires_grad_(True)
    found = []
    for chosen in np.array_split(np.arange(len(images)), parts or len(images)):
        logits = network(images[chosen].double())
        losses = {
            "cross_entropy": -logits.log_softmax(dim=1)[range(len(chosen)), labels[chosen]],
            "logit_norm": (logits**2).sum(dim=1),
        }[loss]
        network.zero_grad()
        losses.mean().backward()
        gradient = row(p.grad for p in network.parameters())
        found.append(gradient**2 if loss == "cross_entropy" else np.abs(gradient))
    return np.mean(found, axis=0)


def both_sides(archive: Any, forget: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    gone = torch.isin(archive.labels, torch.tensor(forget))
    return [(archive.images[side], archive.labels[side]) for side in (gone, ~gone)]


def close(found: Tensor, expected: np.ndarray) -> bool:
    return np.allclose(found.numpy(), expected, rtol=2e-3, atol=1e-5 * expected.max())


# ---- importances -----------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross_entropy", "logit_norm"])
def test_importances_are_those_of_a_backward_for_each_image(
    kit: Kit, archive: Any, loss: str
) -> None:
    method = measured(kit, archive, loss=loss, chunk=4)
    (forget, forget_labels), (retain, retain_labels) = both_sides(archive, (1, 3))
    assert close(method.forgotten, slowly(kit, forget, forget_labels, None, loss))
    assert close(method.kept, slowly(kit, retain, retain_labels, None, loss))
    assert method.fraction == 18 / 45


def test_over_all_images_each_counts_once(kit: Kit, archive: Any) -> None:
    method = measured(kit, archive, forget=(2,), reference="all")
    assert close(method.kept, slowly(kit, archive.images, archive.labels, None, "cross_entropy"))


def test_importances_depend_neither_on_batch_size_nor_on_order(kit: Kit, archive: Any) -> None:
    first = measured(kit, archive, batch_size=5, chunk=3)
    order = torch.randperm(45, generator=torch.Generator().manual_seed(0))
    archive.images, archive.labels = archive.images[order], archive.labels[order]
    second = measured(kit, archive, batch_size=45, chunk=16)
    for name in ("forgotten", "kept"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=1e-4, atol=0)


@pytest.mark.parametrize("loss", ["cross_entropy", "logit_norm"])
def test_batch_means_are_the_public_codes_and_other_numbers(
    kit: Kit, archive: Any, loss: str
) -> None:
    method = measured(kit, archive, importance="batch_mean", batch_size=7, loss=loss)
    (images, labels), _ = both_sides(archive, (1, 3))
    each = measured(kit, archive, loss=loss)
    expected = slowly(kit, images, labels, 3, loss)  # 18 images, at most 7 at once
    assert close(method.forgotten, expected)
    # a square of means is no more than the mean of squares, in which 4 of 18 images count 1.5 times
    assert (method.forgotten <= each.forgotten * (1.5 + 1e-4)).all()
    assert not close(each.forgotten, expected)


def test_batch_means_of_proxies_keep_to_the_batch_size(kit: Kit, archive: Any) -> None:
    method = measured(kit, archive, importance="batch_mean", batch_size=2, source="proxies")
    proxies = kit.proxies([1, 3])
    images = kit.info.spec.normalise(proxies.images)
    assert close(method.forgotten, slowly(kit, images, proxies.labels, 2, "cross_entropy"))


def test_nothing_is_above_the_bound_where_the_reference_is_all(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = measured(kit, archive, reference="all")
    ratios = (method.forgotten / method.kept).nan_to_num()
    assert 1 < ratios.max() <= 45 / 18 * (1 + 1e-5)
    method = Ssd(forget=(1, 3), reference="all", alpha=2.6)
    result = method.run(kit, archive.sources(BOTH, (1, 3)), trainer_of)
    assert (row(result.parameters()) == row(kit.classifier.parameters())).all()


# ---- the edit --------------------------------------------------------------------------------


def test_factors_by_hand_and_at_the_edges() -> None:
    #                    above  at it  below  both 0  no I_f  no I   lower lifts it over 1
    forgotten = torch.tensor([8.0, 4.0, 3.0, 0.0, 0.0, 5.0, 4.0])
    kept = torch.tensor([2.0, 2.0, 2.0, 0.0, 1.0, 0.0, 1.5])
    found = dampening(forgotten, kept, alpha=2.0, lower=0.5)
    assert found.tolist() == [0.125, 1.0, 1.0, 1.0, 1.0, 0.0, 0.1875]
    assert dampening(forgotten, kept, 2.0, 3.0).tolist() == [0.75, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0]


def test_the_percentile_rule_leaves_out_what_is_no_number() -> None:
    ratios = np.arange(1, 1002) / 100
    forgotten = torch.tensor([*ratios, 3.0, 0.0]).float()
    kept = torch.tensor([*np.ones(1001), 0.0, 0.0]).float()
    q = 100 - math.log(1 + 100 * 0.1)
    found = percentile_alpha(forgotten, kept, 0.1)
    assert found == pytest.approx(0.01 + q / 100 * 10, rel=1e-5)  # the ratios are a straight line
    nothing = percentile_alpha(torch.ones(3), torch.zeros(3), 0.1)
    assert dampening(torch.ones(3), torch.zeros(3), nothing, 1.0).tolist() == [0, 0, 0]


@pytest.mark.parametrize("alpha", [3.0, None])
def test_each_weight_is_multiplied_by_its_factor(
    kit: Kit, archive: Any, trainer_of: TrainerOf, alpha: float | None
) -> None:
    method = Ssd(forget=(1, 3), alpha=alpha, lower=0.5)
    result = method.run(kit, archive.sources(BOTH, (1, 3)), trainer_of)
    forgotten, kept = (t.double().numpy() for t in (method.forgotten, method.kept))
    if alpha is None:
        ratios = forgotten[kept > 0] / kept[kept > 0]
        alpha = np.percentile(ratios, 100 - math.log(1 + 100 * 18 / 45))
    chosen = forgotten > alpha * kept
    assert 0 < chosen.mean() < 1
    before, after = row(kit.classifier.parameters()), row(result.parameters())
    assert (before[~chosen] == after[~chosen]).all()
    expected = before[chosen] * np.minimum(0.5 * kept[chosen] / forgotten[chosen], 1)
    np.testing.assert_allclose(after[chosen], expected, rtol=1e-4)


@pytest.mark.parametrize("source", ["data", "proxies"])
def test_it_forgets_and_keeps(kit: Kit, archive: Any, trainer_of: TrainerOf, source: str) -> None:
    method = Ssd(forget=(1, 3), alpha=3.0, source=source)
    result = method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    assert (archive.opened == []) == (source == "proxies")
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))
    before, after = (
        n(archive.images).softmax(dim=1).gather(1, archive.labels[:, None]).flatten()
        for n in (kit.classifier, result)
    )
    assert before.min() > 0.5
    assert after[gone].mean() < 0.5
    assert after[~gone].mean() > after[gone].mean() + 0.3


def test_steps_are_refused_for_want_of_a_loss(kit: Kit, archive: Any) -> None:
    batch = marked(archive.images, archive.labels, (1, 3))
    with pytest.raises(UserError, match="Ssd has no loss"):
        Ssd(forget=(1, 3)).loss_terms(next(iter(RepeatBatch(batch, 1))))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("importance", "hope"), ("reference", "hope"), ("loss", "hope")),
        *(("alpha", -1.0), ("alpha", math.inf), ("lower", -0.1), ("lower", math.nan), ("chunk", 0)),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"unlearner.{name} must be .*got .?{value}"):
        Ssd(forget=(1,), **{name: value})
