"""Methods that distil a masked, random or softened original: delete, masked_distill, bad_teacher,
scrub and lotus, each against its formula."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor, nn

from geniu_lightning.errors import SettingError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.bad_teacher import BadTeacher
from geniu_lightning.unlearning.batches import UnlearnBatch, labelled_batch
from geniu_lightning.unlearning.delete import Delete
from geniu_lightning.unlearning.lotus import Lotus
from geniu_lightning.unlearning.masked_distill import MaskedDistill
from geniu_lightning.unlearning.scrub import Scrub
from geniu_lightning.unlearning.sources import Access, Sources
from tests.unlearning.helpers import (
    GONE,
    KEPT,
    TrainerOf,
    move_head,
    own_probability,
    prepared,
    run,
)

adam = partial(torch.optim.Adam, lr=3e-3)
LABELS = torch.tensor([1, 0, 3, 4, 1, 2])
FORGOTTEN = np.isin(LABELS.numpy(), GONE)


def logits(seed: int, rows: int = 6) -> tuple[Tensor, np.ndarray]:
    drawn = 3 * torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))
    return drawn, drawn.double().numpy()


def masked(original: np.ndarray) -> np.ndarray:
    target = np.zeros_like(original)
    target[:, KEPT] = softmax(original[:, KEPT], axis=1)
    return target


def divergence(target: np.ndarray, now: np.ndarray) -> np.ndarray:
    return rel_entr(target, softmax(now, axis=1)).sum(axis=1)


def values(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in terms.items()}


def on_logits(method: Any, original: Tensor) -> Any:
    """Return a method whose classifier passes its inputs on as logits."""
    method.classifier = nn.Identity()
    method.teacher = lambda images: original
    return method


# ---- delete ----------------------------------------------------------------------------------


def test_delete_masks_every_forget_class_in_its_target() -> None:
    (original, before), (now, z) = logits(1), logits(2)
    method = on_logits(Delete(forget=GONE), original)
    found = values(method.loss_terms(labelled_batch(now, LABELS, GONE)))
    expected = divergence(masked(before), z)[FORGOTTEN].mean()
    assert found == pytest.approx({"forget": expected}, rel=1e-5)
    # to the original, an image of class 1 looks like class 3 first of all
    step = torch.zeros(1, 4, requires_grad=True)
    method = on_logits(Delete(forget=GONE), torch.tensor([[0.0, 9.0, 0.0, 8.0]]))
    method.loss_terms(labelled_batch(step, torch.tensor([1]), GONE))["forget"].backward()
    assert (step.grad[0, [1, 3]] > 0).all()  # both are lowered
    assert (step.grad[0, [0, 2]] < 0).all()


def test_delete_is_finite_in_16_bits() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        original = torch.tensor([[60.0, 300.0, -250.0, 280.0]], dtype=dtype)
        now = original.clone().requires_grad_(True)
        method = on_logits(Delete(forget=GONE), original)
        loss = method.loss_terms(labelled_batch(now, torch.tensor([1]), GONE))["forget"]
        loss.backward()
        assert loss.item() == pytest.approx(240, rel=0.01)
        assert now.grad.isfinite().all()
        assert now.grad.any()


@pytest.mark.parametrize("source", ["data", "proxies"])
def test_delete_forgets_without_an_image_of_the_retain_set(
    kit: Kit, archive: Any, trainer_of: TrainerOf, source: str
) -> None:
    sgd = partial(torch.optim.SGD, lr=0.03)
    settings: Any = {"steps": 20, "optimizer": sgd, "batch_size": 18, "max_gradient_norm": 1.0}
    method = Delete(forget=GONE, source=source, **settings)
    forget, retain = own_probability(run(method, kit, archive, trainer_of), archive)
    assert forget < 0.3
    assert retain > 0.75
    assert {split for split, *_ in archive.opened} == ({"forget"} if source == "data" else set())


# ---- masked_distill --------------------------------------------------------------------------


def distill(**settings: Any) -> MaskedDistill:
    defaults = {"forget": GONE, "steps": 20, "optimizer": adam, "max_gradient_norm": 1.0}
    return MaskedDistill(**defaults | settings)


@pytest.mark.parametrize("source", ["proxies", "data", "noise", "mix"])
def test_masked_distill_has_the_documented_terms_on_every_source(
    kit: Kit, archive: Any, trainer_of: TrainerOf, source: str
) -> None:
    method = distill(source=source, retain_weight=0.3, batch_size=16)
    both = Access.FORGET | Access.RETAIN
    assert method.access == (both if source == "data" else Access.NONE)
    (batch, *_) = prepared(method, kit, archive)
    move_head(method)
    now = method.classifier(batch.images).detach().double().numpy()
    loss = divergence(masked(kit.classifier(batch.images).double().numpy()), now)
    forgotten = np.isin(batch.labels.numpy(), GONE)
    expected = {"retain": 0.3 * loss[~forgotten].mean()}
    assert forgotten.any() == (source in ("proxies", "data"))
    if forgotten.any():
        expected["forget"] = loss[forgotten].mean()
    assert values(method.loss_terms(batch)) == pytest.approx(expected, rel=1e-4)
    assert {split for split, *_ in archive.opened} == (
        {"forget", "retain"} if source == "data" else set()
    )
    if source != "noise":  # which rarely looks like a class
        method = distill(source=source, batch_size=18)
        forget, retain = own_probability(run(method, kit, archive, trainer_of), archive)
        assert forget < 0.3
        assert retain > 0.75


def test_masked_distill_mixes_two_proxies_of_any_classes(kit: Kit, archive: Any) -> None:
    batches = prepared(distill(source="mix", steps=2, batch_size=30), kit, archive)
    ends = kit.info.spec.normalise(kit.proxies().images).flatten(1).double()
    i, j = torch.triu_indices(10, 10, offset=1)
    lines = ends[i] - ends[j]
    shares, pairs = [], set()
    for mixed in torch.cat([batch.images for batch in batches]).flatten(1).double():
        share = (((mixed - ends[j]) * lines).sum(1) / lines.square().sum(1)).clamp(0, 1)
        gaps = (mixed - ends[j] - share[:, None] * lines).norm(dim=1)
        best = int(gaps.argmin())
        assert gaps[best] < 1e-4
        shares.append(float(share[best]))
        pairs |= {int(i[best]), int(j[best])}
    assert pairs == set(range(10))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.15)


def test_masked_distill_needs_no_generator_for_noise(kit: Kit, archive: Any) -> None:
    kit.generator = kit.prompts = None
    (batch, *_) = prepared(distill(source="noise", steps=1, batch_size=4), kit, archive)
    assert batch.images.shape == (4, 1, 16, 16)
    with pytest.raises(SettingError, match=r"source must be 'proxies', 'data', 'noise' or 'mix'"):
        distill(source="hope")


# ---- bad_teacher -----------------------------------------------------------------------------


@pytest.mark.parametrize("teacher", ["random", "uniform"])
def test_bad_teacher_has_a_teacher_for_each_set(
    kit: Kit, archive: Any, trainer_of: TrainerOf, teacher: str
) -> None:
    (now, z), (good, good_z), (bad, bad_z) = logits(1), logits(2), logits(3)
    method = BadTeacher(forget=GONE, teacher=teacher)
    method.good, method.ignorant = (lambda images: good), (lambda images: bad)
    terms = method.loss_terms(labelled_batch(now, LABELS, GONE))
    ignorant = softmax(bad_z, axis=1)
    if teacher == "uniform":
        ignorant = np.array([[1 / 3, 0, 1 / 3, 0, 1 / 3]] * 6)
    expected = {
        "forget": divergence(ignorant, z)[FORGOTTEN].mean(),
        "retain": divergence(softmax(good_z, axis=1), z)[~FORGOTTEN].mean(),
    }
    assert values(terms) == pytest.approx(expected, rel=1e-5)
    method = BadTeacher(forget=GONE, teacher=teacher, steps=20, optimizer=adam, batch_size=9)
    forget, retain = own_probability(run(method, kit, archive, trainer_of), archive)
    assert forget < 0.4
    assert retain > 0.75


def test_the_ignorant_network_is_fresh_and_of_the_unlearning_seed(kit: Kit, archive: Any) -> None:
    weights = []
    for seed in (1, 1, 2):
        method = BadTeacher(forget=GONE, seed=seed)
        prepared(method, kit, archive)
        weights.append(method.ignorant.network.head.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], kit.classifier.head.weight)


# ---- scrub -----------------------------------------------------------------------------------


def test_scrub_terms_are_the_documented_formula() -> None:
    (now, z), (original, before) = logits(1), logits(2)
    labels = torch.tensor([1, 3, 1, 0, 2, 4])
    settings: Any = {"alpha": 0.3, "gamma": 0.7, "temperature": 3.0, "optimizer": adam}
    distance = 9 * divergence(softmax(before / 3, axis=1), z / 3)
    error = -log_softmax(z, axis=1)[range(6), labels]
    found = {}
    for side in (slice(0, 3), slice(3, 6)):
        method = on_logits(Scrub(forget=GONE, **settings), original[side])
        found |= values(method.loss_terms(labelled_batch(now[side], labels[side], GONE)))
    expected = {
        "forget": -distance[:3].mean(),
        "retain_distance": 0.3 * distance[3:].mean(),
        "retain": 0.7 * error[3:].mean(),
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_scrub_alternates_and_each_set_continues_where_its_last_round_ended(
    kit: Kit, archive: Any
) -> None:
    counts = {"rounds": 3, "max_rounds": 2, "max_steps": 2, "min_steps": 3}
    for source in ("data", "proxies"):
        method = Scrub(forget=GONE, optimizer=adam, batch_size=6, source=source, **counts)
        batches = prepared(method, kit, archive)
        assert method.steps == len(batches) == 2 * 2 + 3 * 3
        assert all(len(set(batch.forget.tolist())) == 1 for batch in batches)
        order = "".join("f" if batch.forget[0] else "r" for batch in batches)
        assert order == "ff" + "rrr" + "ff" + "rrr" + "rrr"
    # 18 images of the forget set and 27 others in batches of 9: two and three batches an epoch
    counts = {"rounds": 3, "max_rounds": 2, "max_steps": 1, "min_steps": 1}
    batches = prepared(Scrub(forget=GONE, optimizer=adam, batch_size=9, **counts), kit, archive)
    for forget, images in ((True, 18), (False, 27)):
        seen = torch.cat([b.images for b in batches if b.forget[0] == forget])
        assert len(seen) == len(seen.flatten(1).unique(dim=0)) == images  # none came twice
    with pytest.raises(SettingError, match="max_rounds must be at most rounds, which is 3, got 4"):
        Scrub(forget=GONE, optimizer=adam, rounds=3, max_rounds=4)


def test_scrub_forgets_and_retains(kit: Kit, archive: Any, trainer_of: TrainerOf) -> None:
    class Nudged(Scrub):
        """Starts a little away from its teacher, so that rounding decides no direction."""

        def prepare(self, kit: Kit, sources: Sources) -> None:
            super().prepare(kit, sources)
            with torch.no_grad():
                self.classifier.head.bias[list(self.forget)] -= 0.1

    counts = {"rounds": 3, "max_rounds": 2, "max_steps": 5, "min_steps": 8, "batch_size": 9}
    method = Nudged(forget=GONE, optimizer=adam, max_gradient_norm=1.0, **counts)
    forget, retain = own_probability(run(method, kit, archive, trainer_of), archive)
    assert forget < 0.5
    assert retain > 0.75


# ---- lotus -----------------------------------------------------------------------------------

ANSWER = torch.tensor([1.5, -0.5, 0.7, 0.2, -1.0])
DRAWS = 40_000


def test_lotus_terms_are_cross_entropies_towards_the_targets() -> None:
    now, z = logits(1)
    method = on_logits(Lotus(forget=GONE), now)
    target = torch.rand(6, 5).softmax(dim=1)
    method.targets = lambda *_: target
    loss = -(target.double().numpy() * log_softmax(z, axis=1)).sum(axis=1)
    expected = {"forget": loss[FORGOTTEN].mean(), "retain": loss[~FORGOTTEN].mean()}
    found = values(method.loss_terms(labelled_batch(now, LABELS, GONE)))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("support", ["all", "retained"])
def test_lotus_targets_have_the_documented_distribution(support: str) -> None:
    torch.manual_seed(2)
    method, z = Lotus(forget=GONE, support=support), ANSWER.double().numpy().copy()
    if support == "retained":
        z[list(GONE)] = -np.inf
    answers = ANSWER.repeat(DRAWS, 1)
    method.temperature = math.exp(80)  # of the forget set alone
    drawn = method.targets(answers, torch.zeros(DRAWS, dtype=torch.bool))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert (drawn.sum(dim=1) == 1).all()
    # a share of 40 000 draws has a deviation of at most 0.0025
    assert drawn.mean(dim=0).numpy() == pytest.approx(softmax(z), abs=0.011)
    method.temperature = 2.0
    soft = method.targets(answers, torch.ones(DRAWS, dtype=torch.bool)).numpy()
    noise = np.random.default_rng(0).gumbel(size=(DRAWS, 5))
    expected = softmax((z + noise) / 2.0, axis=1)
    assert soft.mean(axis=0) == pytest.approx(expected.mean(axis=0), abs=0.01)
    assert soft.std(axis=0) == pytest.approx(expected.std(axis=0), abs=0.01)
    method.temperature = math.exp(32)  # all accuracy is left: uniform over the support
    level = method.targets(50 * ANSWER.repeat(9, 1), torch.ones(9, dtype=torch.bool))
    uniform = torch.full((9, 5), 0.2)
    if support == "retained":
        uniform = torch.zeros(9, 5)
        uniform[:, list(KEPT)] = 1 / 3
    torch.testing.assert_close(level, uniform)


def test_lotus_temperature_is_e_to_alpha_times_the_remaining_accuracy() -> None:
    labels = torch.tensor([1, 1, 3, 3])
    for alpha, right, expected in [
        *((32.0, 4, math.exp(32)), (32.0, 1, math.exp(8)), (2.0, 2, math.e), (32.0, 0, 1.0)),
        (1e9, 4, math.exp(80)),  # bounded
    ]:
        answers = nn.functional.one_hot(labels, 5).float()
        answers[right:] = answers[right:].roll(1, dims=1)
        batch = labelled_batch(answers, labels, GONE)
        method = on_logits(Lotus(forget=GONE, alpha=alpha), answers)
        method.measured = [batch]
        method.on_train_batch_start(batch, 0)
        assert method.temperature == pytest.approx(expected)
        assert method.loss_terms(batch)["forget"].isfinite()


def test_lotus_measures_every_few_steps_on_a_bounded_number_of_unaugmented_images(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    class Watched(Lotus):
        def prepare(self, *given: Any) -> None:
            super().prepare(*given)
            self.found: list[float] = []
            self.modes: list[bool] = []

        def forget_accuracy(self) -> float:
            before = [t.clone() for t in self.classifier.buffers()]
            self.found.append(super().forget_accuracy())
            assert all(map(torch.equal, before, self.classifier.buffers()))
            return self.found[-1]

        def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
            self.modes.append(self.classifier.training)
            return super().loss_terms(batch)

    settings: Any = {"steps": 5, "optimizer": adam, "batch_size": 6, "batch_norm": "train"}
    for every, measured in ((1, 5), (2, 3), (5, 1)):
        archive.opened.clear()
        archive.read.clear()
        method = Watched(forget=GONE, temperature_every=every, measured_images=12, **settings)
        run(method, kit, archive, trainer_of)
        assert len(method.found) == measured
        assert method.found[0] == 1.0  # the kit's classifier knows every image
        assert method.modes == [True] * 5  # measuring restores the mode
        assert [split for split, _, seed in archive.opened if seed is None] == ["forget"]
        assert len(archive.read) == 30 + 27 + 12 * measured  # an epoch of 27 is in even batches


@pytest.mark.parametrize("source", ["data", "proxies"])
def test_lotus_on_retained_support_forgets_and_retains(
    kit: Kit, archive: Any, trainer_of: TrainerOf, source: str
) -> None:
    settings: Any = {"steps": 30, "optimizer": adam, "batch_size": 9, "temperature_every": 5}
    method = Lotus(forget=GONE, support="retained", source=source, **settings)
    forget, retain = own_probability(run(method, kit, archive, trainer_of), archive)
    assert forget < 0.35
    assert retain > 0.7
