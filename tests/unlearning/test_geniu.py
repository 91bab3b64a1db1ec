"""GENIU's tuning: which batch it takes, what it minimises, and what twenty steps do."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from scipy.special import rel_entr, softmax
from torch import Tensor, nn

from geniu_lightning.errors import KitError, UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.geniu import Geniu
from geniu_lightning.unlearning.sources import Access, UnlearnBatch

TrainerOf = Callable[[int], Trainer]
FORGET_TERMS = ["reciprocal", "negative", "uniform", "masked_distill"]
RETAIN_TERMS = ["ce", "distill"]
adam = partial(torch.optim.Adam, lr=3e-3)


def geniu(forget: tuple[int, ...] = (1, 3), **settings: Any) -> Geniu:
    defaults = {"forget": forget, "steps": 20, "optimizer": adam, "max_gradient_norm": 1.0}
    return Geniu(**defaults | settings)


class Watched(Geniu):
    """Remembers the batches that it was given."""

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        self.seen = [*getattr(self, "seen", []), batch]
        return super().loss_terms(batch)


def own_probability(network: nn.Module, kit: Kit) -> Tensor:
    """Probability of each proxy's own class, shape (classes, per class)."""
    proxies = kit.proxies()
    p = network(kit.info.spec.normalise(proxies.images)).softmax(dim=1)
    return p.gather(1, proxies.labels[:, None]).view(len(kit.info.class_names), -1)


# ---- the batch -------------------------------------------------------------------------------


@pytest.mark.parametrize("per_class", [None, 1])
def test_every_step_takes_all_proxies_in_one_batch(
    kit: Kit, archive: Any, trainer_of: TrainerOf, per_class: int | None
) -> None:
    method = Watched(forget=(1, 3), steps=4, optimizer=adam, proxies_per_class=per_class)
    method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
    proxies = kit.proxies(per_class=per_class)
    images = kit.info.spec.normalise(proxies.images)
    assert len(method.seen) == 4
    for batch in method.seen:
        assert torch.equal(batch.images, images)
        assert torch.equal(batch.labels, proxies.labels)
        assert torch.equal(batch.forget, (proxies.labels == 1) | (proxies.labels == 3))
    assert len(images) == 5 * (per_class or 2)


def test_proxies_are_decoded_once_and_no_image_is_opened(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    calls = {"generator": 0, "original": 0}

    def count(name: str) -> Callable[..., None]:
        def add(*_: object) -> None:
            calls[name] += 1

        return add

    kit.generator.register_forward_hook(count("generator"))
    hook = kit.classifier.register_forward_hook(count("original"))
    method = geniu(steps=5)
    sources = archive.sources(Access.FORGET | Access.RETAIN, (1, 3))
    method.run(kit, sources, trainer_of)
    hook.remove()
    assert calls["generator"] == 1
    assert calls["original"] == 1 + 5  # a copy keeps the hook: the teacher once, the copy a step
    assert archive.opened == []


def test_more_proxies_than_the_kit_has_are_refused(kit: Kit, archive: Any) -> None:
    with pytest.raises(KitError, match="2 prompts a class, 3 were asked for"):
        geniu(proxies_per_class=3).prepare(kit, archive.sources(Access.NONE, (1, 3)))


def test_a_file_without_a_generator_is_refused(kit: Kit, archive: Any) -> None:
    kit.generator = kit.prompts = None
    with pytest.raises(KitError, match="no generator and no prompts"):
        geniu().prepare(kit, archive.sources(Access.NONE, (1, 3)))


# ---- the loss --------------------------------------------------------------------------------


def documented(
    method: Geniu, original: np.ndarray, now: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """The formula of the class, sample by sample, in double precision."""
    forget, retain = [], []
    for before, z, y in zip(original, now, labels, strict=True):
        p = softmax(z)
        ce = np.log1p(np.exp(np.delete(z, y) - z[y]).sum())
        kept = [k for k in range(len(z)) if k not in method.forget]
        target = np.zeros_like(p)
        target[kept] = softmax(before[kept])
        distill = rel_entr(target, p).sum()
        even = np.where(np.isin(np.arange(len(z)), kept), 1 / len(kept), 0.0)
        if y in method.forget:
            gap = -np.log(np.expm1(ce))
            at, bound = np.log1p(np.exp(-method.max_margin)), method.max_margin
            slope = 1 / (1 + np.exp(bound)) / at**2
            forget.append(
                {
                    "reciprocal": 1 / ce if gap <= bound else 1 / at + slope * (gap - bound),
                    "negative": -ce,
                    "uniform": rel_entr(even, p).sum(),
                    "masked_distill": distill,
                }[method.forget_term]
            )
        else:
            retain.append({"ce": ce, "distill": distill}[method.retain_term])
    return {"forget": np.mean(forget), "retain": method.retain_weight * np.mean(retain)}


@pytest.mark.parametrize("forget", [(0,), (1, 3)])
@pytest.mark.parametrize("retain_term", RETAIN_TERMS)
@pytest.mark.parametrize("forget_term", FORGET_TERMS)
def test_each_pair_of_terms_is_the_documented_formula(
    kit: Kit, archive: Any, forget_term: str, retain_term: str, forget: tuple[int, ...]
) -> None:
    method = geniu(
        forget, forget_term=forget_term, retain_term=retain_term, retain_weight=0.3, max_margin=4.0
    )
    method.prepare(kit, archive.sources(Access.NONE, forget))
    (batch, *_) = method.batches
    original = kit.classifier(batch.images)
    # the classifier has moved on, so that its original cannot be mistaken for it
    torch.manual_seed(0)
    with torch.no_grad():
        method.classifier.head.weight.add_(0.5 * torch.randn_like(method.classifier.head.weight))
    method.classifier.eval()
    now = method.classifier(batch.images)
    expected = documented(
        method,
        original.double().numpy(),
        now.detach().double().numpy(),
        batch.labels.numpy(),
    )
    found = method.loss_terms(batch)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == ()
        assert found[name].item() == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_the_teacher_is_the_original_however_the_classifier_moves(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = geniu(retain_term="distill")
    method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
    images = next(iter(method.batches)).images
    said = method.teacher(images)
    assert not said.requires_grad
    assert torch.equal(said, kit.classifier(images))
    assert not torch.equal(said, method.classifier(images))
    assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"classifier"}


@pytest.mark.parametrize("name", ["forget_term", "retain_term"])
def test_an_unknown_term_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(UserError, match=f"unlearner.{name} must be one of .*distill, got 'hope'"):
        geniu(**{name: "hope"})


# ---- what it does ----------------------------------------------------------------------------


@pytest.mark.parametrize("retain_term", RETAIN_TERMS)
@pytest.mark.parametrize("forget_term", FORGET_TERMS)
def test_twenty_steps_forget_the_forgotten_proxies_and_keep_the_others(
    kit: Kit, archive: Any, trainer_of: TrainerOf, forget_term: str, retain_term: str
) -> None:
    # -CE has no lower bound and drags everything along at a larger rate
    rate = 4e-4 if forget_term == "negative" else 3e-3
    adam = partial(torch.optim.Adam, lr=rate)
    method = geniu(forget_term=forget_term, retain_term=retain_term, optimizer=adam)
    result = method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
    before, after = own_probability(kit.classifier, kit), own_probability(result, kit)
    assert (before > 0.9).all(), before
    assert (after[[1, 3]] < before[[1, 3]] / 2).all(), after
    assert after[[0, 2, 4]].mean() > 0.75, after


def test_a_larger_retain_weight_pulls_harder(kit: Kit, archive: Any) -> None:
    light, heavy = geniu(retain_weight=1.0), geniu(retain_weight=4.0)
    terms = []
    for method in (light, heavy):
        method.prepare(kit, archive.sources(Access.NONE, (1, 3)))
        terms.append(method.loss_terms(next(iter(method.batches))))
    torch.testing.assert_close(4 * terms[0]["retain"], terms[1]["retain"])
    torch.testing.assert_close(terms[0]["forget"], terms[1]["forget"])
