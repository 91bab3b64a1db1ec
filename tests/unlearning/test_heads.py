"""X."""

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

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import NetworkSpec
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.models.resnet import ResNet18
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.batches import labelled_batch
from geniu_lightning.unlearning.finetune import FineTune
from geniu_lightning.unlearning.logit_adjust import LogitAdjust
from geniu_lightning.unlearning.logit_mask import LogitMask
from geniu_lightning.unlearning.nearest_mean import NearestMean
from geniu_lightning.unlearning.none import NoUnlearning
from geniu_lightning.unlearning.random_init import RandomInit
from geniu_lightning.unlearning.synthetic_embeddings import SyntheticEmbeddings
from geniu_lightning.unlearning.zero_head import ZeroHead
from tests.unlearning.helpers import (
    GONE,
    KEPT,
    TrainerOf,
    move_head,
    no_trainer,
    own_probability,
    prepared,
    run,
)

FORGETS = [(0,), (2,), GONE]


@pytest.fixture
def images(archive: Any) -> Tensor:
    """Return images of every class, mixtures of two, and noise of every size."""
    noise = torch.randn(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    mixed = (archive.images[:, None] + archive.images[None]).flatten(0, 1) / 2
    loud = noise * torch.linspace(0.1, 1000, 60).view(-1, 1, 1, 1)
    return torch.cat([archive.images, mixed, loud])


def retained(forget: tuple[int, ...]) -> list[int]:
    return [k for k in range(5) if k not in forget]


def same_but_the_head(result: nn.Module, original: nn.Module) -> bool:
    after, before = result.state_dict(), original.state_dict()
    return all(torch.equal(after[k], t) for k, t in before.items() if not k.startswith("head."))


# ---- none: returns the original ----


def test_it_is_the_original_to_the_bit(kit: Kit, archive: Any) -> None:
    result = run(NoUnlearning(forget=GONE), kit, archive, no_trainer).state_dict()
    assert all(torch.equal(t, result[name]) for name, t in kit.classifier.state_dict().items())


# ---- logit_mask: the answers that it forbids, and what stays ----


def test_a_forget_class_is_never_answered_and_all_else_is_the_same(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    before = kit.classifier(images)
    for forget in FORGETS:
        result = run(LogitMask(forget=forget), kit, archive, no_trainer)
        assert same_but_the_head(result, kit.classifier)
        assert torch.isin(before.argmax(dim=1), torch.tensor(forget)).any()  # answered before
        after, rest = result(images), torch.tensor(retained(forget))
        assert torch.equal(after[:, rest], before[:, rest])
        assert torch.equal(after.argmax(dim=1), rest[before[:, rest].argmax(dim=1)])
        assert (result.head.weight[list(forget)] == 0).all()
        assert (result.head.bias[list(forget)] == -1e4).all()
        for half in (after, after.half(), after.bfloat16()):
            assert half.log_softmax(dim=1).isfinite().all()
        assert F.cross_entropy(after, torch.full((len(images),), forget[0])).isfinite()
    shallow = run(LogitMask(forget=(2,), offset=77.0), kit, archive, no_trainer)
    assert shallow.head.bias[2] == -77.0


# ---- logit_adjust: the log prior that it removes ----

COUNTS = (900, 50, 30, 700, 7)


def adjusted(kit: Kit, archive: Any, counts: tuple[int, ...], **settings: Any) -> nn.Module:
    kit.info = dataclasses.replace(kit.info, class_counts=counts)
    return run(LogitAdjust(forget=GONE, **settings), kit, archive, no_trainer)


def test_retained_biases_lose_tau_log_prior_and_all_else_stays(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    bias, before = kit.classifier.head.bias, kit.classifier(images).double().numpy()
    mask = run(LogitMask(forget=GONE), kit, archive, no_trainer)
    masked = mask(images).argmax(dim=1).numpy()
    for tau in (0.0, 0.5, 1.0, 2.0):
        result = adjusted(kit, archive, COUNTS, tau=tau)
        assert same_but_the_head(result, kit.classifier)
        expected = [-1e4] * 5
        for k in KEPT:
            share = COUNTS[k] / (COUNTS[0] + COUNTS[2] + COUNTS[4])
            expected[k] = bias[k].item() - tau * math.log(share)
        np.testing.assert_allclose(result.head.bias.numpy(), expected, rtol=1e-6)
        found = result(images).argmax(dim=1).numpy()
        scores = (before - tau * np.log(COUNTS))[:, KEPT]
        assert np.array_equal(found, np.array(KEPT)[scores.argmax(axis=1)])
        moved = found != masked
        assert (moved.sum() > 20) == (tau > 0)
        assert (np.array(COUNTS)[found] < np.array(COUNTS)[masked])[moved].all()  # to rarer ones
        # equally large classes: the adjustment is a constant; forget counts have no influence
        equal = adjusted(kit, archive, (9, 500, 9, 70, 9), tau=tau)
        assert np.array_equal(equal(images).argmax(dim=1).numpy(), masked)
        if tau == 0:
            for name, tensor in mask.state_dict().items():
                assert torch.equal(tensor, result.state_dict()[name]), name


def test_the_posterior_is_divided_by_the_prior_but_for_what_was_removed_before(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    expected = softmax(kit.classifier(images).double().numpy(), axis=1)[:, KEPT]
    expected /= np.array(COUNTS)[list(KEPT)]
    expected /= expected.sum(axis=1, keepdims=True)
    after = adjusted(kit, archive, COUNTS)(images).softmax(dim=1).numpy()
    np.testing.assert_allclose(after[:, KEPT], expected, atol=1e-5)
    kit.info = dataclasses.replace(kit.info, class_counts=COUNTS, prior_taken=0.75)
    method = LogitAdjust(forget=GONE, tau=1.0)
    run(method, kit, archive, no_trainer)
    assert method.prior_taken == 0.25
    for counts in ((0,) * 5, (900, 50, 0, 700, 7)):
        with pytest.raises(UserError, match="the kit does not say how many images of each class"):
            adjusted(kit, archive, counts)


# ---- zero_head: rows of zeros, and centred ones ----


def zeroed(kit: Kit, archive: Any, forget: tuple[int, ...], **settings: Any) -> nn.Module:
    return run(ZeroHead(forget=forget, **settings), kit, archive, no_trainer)


def test_forget_rows_are_zero_and_win_where_every_retained_logit_is_negative(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    before = kit.classifier(images).numpy()
    for forget in FORGETS:
        result, rest = zeroed(kit, archive, forget), retained(forget)
        assert same_but_the_head(result, kit.classifier)
        for name in ("weight", "bias"):
            expected = getattr(kit.classifier.head, name).clone()
            expected[list(forget)] = 0
            assert torch.equal(getattr(result.head, name), expected)
        answers = result(images).argmax(dim=1).numpy()
        negative = before[:, rest].max(axis=1) < 0
        assert negative.any()
        assert not negative.all()
        assert np.isin(answers[negative], forget).all()
        best = np.array(rest)[before[:, rest].argmax(axis=1)]
        assert np.array_equal(answers[~negative], best[~negative])


def test_renormalised_it_is_the_logit_mask_in_every_answer(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    for forget in (*FORGETS, (1, 3, 4), (0, 1, 3, 4)):
        found, rest = zeroed(kit, archive, forget, renormalise=True), retained(forget)
        assert same_but_the_head(found, kit.classifier)
        mask = run(LogitMask(forget=forget), kit, archive, no_trainer)
        assert torch.equal(found(images).argmax(dim=1), mask(images).argmax(dim=1))
        if len(rest) > 1:
            rows = kit.classifier.head.weight.double().numpy()
            expected = np.zeros_like(rows)
            expected[rest] = rows[rest] - rows[rest].mean(axis=0)
            np.testing.assert_allclose(found.head.weight.numpy(), expected, atol=1e-6)


# ---- nearest_mean: the head of class means ----


def means_of(network: Any, images: Tensor, labels: Tensor, leave: Any) -> dict[int, np.ndarray]:
    """Return the mean feature of each class that has images."""
    features = network.features(images).double().numpy()
    found = set(labels.tolist()) - set(leave)
    return {k: features[labels.numpy() == k].mean(axis=0) for k in sorted(found)}


def is_nearest(network: Any, images: Tensor, means: dict[int, np.ndarray]) -> None:
    """Check each answer against the distances to all means; rounding may decide a tie."""
    answers = network(images).argmax(dim=1).tolist()
    assert set(answers) <= means.keys()
    for feature, answer in zip(network.features(images).double().numpy(), answers, strict=True):
        distances = {k: np.linalg.norm(feature - mean) for k, mean in means.items()}
        assert distances[answer] == pytest.approx(min(distances.values()), rel=1e-4)


def nearest(kit: Kit, archive: Any, forget: tuple[int, ...] = GONE, **settings: Any) -> nn.Module:
    return run(NearestMean(forget=forget, **settings), kit, archive, no_trainer)


def test_answers_are_the_nearest_retained_mean_of_images(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    for forget, batch_size in zip(FORGETS, (4, 256, 5), strict=True):
        archive.opened.clear()
        archive.read.clear()
        result = nearest(kit, archive, forget, batch_size=batch_size)
        assert archive.opened == [("retain", batch_size, None)]  # each image once, unaugmented
        counts = torch.bincount(torch.tensor(archive.read), minlength=5).tolist()
        assert counts == [0 if k in forget else 9 for k in range(5)]
        means = means_of(kit.classifier, archive.images, archive.labels, forget)
        assert same_but_the_head(result, kit.classifier)
        for k in range(5):
            row = 2 * means[k] if k in means else np.zeros(8)
            np.testing.assert_allclose(result.head.weight[k].numpy(), row, rtol=1e-4, atol=1e-5)
            bias = -(means[k] ** 2).sum() if k in means else -1e4
            np.testing.assert_allclose(result.head.bias[k].numpy(), bias, rtol=1e-4)
        is_nearest(result, images, means)


def test_answers_are_the_nearest_retained_mean_of_proxies(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    for per_class in (None, 1):
        result = nearest(kit, archive, source="proxies", proxies_per_class=per_class)
        prompts = kit.prompts[:, :per_class].flatten(0, 1)
        proxies = (kit.generator(prompts, sample=False).images - 0.2) / 0.4
        labels = torch.arange(5).repeat_interleave(per_class or 2)
        is_nearest(result, images, means_of(kit.classifier, proxies, labels, GONE))
    assert archive.opened == []


def test_neither_counts_nor_the_old_head_nor_the_size_of_features_matter(
    kit: Kit, archive: Any
) -> None:
    expected = nearest(kit, archive).head
    many = archive.labels == 0
    archive.labels = torch.cat([archive.labels, *[archive.labels[many]] * 9])
    archive.images = torch.cat([archive.images, *[archive.images[many]] * 9])
    kit.classifier.head.bias[0] += 1000  # as a majority would have it
    kit.classifier.head.weight *= -1
    found = nearest(kit, archive, batch_size=16).head
    torch.testing.assert_close(found.weight, expected.weight)
    torch.testing.assert_close(found.bias, expected.bias)
    # a mean's own bias may lie below the mask's usual depth
    norm = kit.classifier.blocks[-1][1]
    norm.weight *= 100
    norm.bias *= 100
    faint = archive.images[:45] * torch.linspace(0, 1, 45).view(-1, 1, 1, 1)
    for source in ("data", "proxies"):
        answers = nearest(kit, archive, source=source)(faint).argmax(dim=1)
        assert not torch.isin(answers, torch.tensor(GONE)).any()


def test_a_class_without_images_is_never_answered(kit: Kit, archive: Any, images: Tensor) -> None:
    there = archive.labels != 4
    archive.images, archive.labels = archive.images[there], archive.labels[there]
    result = nearest(kit, archive)
    black = torch.cat([images, torch.zeros(1, 1, 16, 16)])
    assert set(result(black).argmax(dim=1).tolist()) == {0, 2}
    forgotten = torch.isin(archive.labels, torch.tensor(GONE))
    archive.images, archive.labels = archive.images[forgotten], archive.labels[forgotten]
    with pytest.raises(UserError, match="there are no images to read"):
        nearest(kit, archive)


# ---- random_init: weights of a seed of their own ----

DRAWN = {f"blocks.{i}.0.weight" for i in range(8)} | {"head.weight", "head.bias"}


def fresh(kit: Kit, archive: Any, seed: int, forget: tuple[int, ...] = GONE) -> dict[str, Tensor]:
    return run(RandomInit(forget=forget, seed=seed), kit, archive, no_trainer).state_dict()


def drawn_at(seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AllCNN(channels=1, num_classes=5, width=4).state_dict()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in first.items() if torch.equal(tensor, second[name])}


def test_weights_are_drawn_at_a_seed_of_both_seeds_and_nothing_else(kit: Kit, archive: Any) -> None:
    for seed in (0, 7):  # the kit's training seed is 7, too
        found = fresh(kit, archive, seed)
        assert same(found, drawn_at(stream("init", stream("random_init", 7, seed)))) == {*found}
        assert not DRAWN & same(found, drawn_at(stream("init", 7)))  # where training began
    old = kit.classifier.state_dict()
    for name, tensor in found.items():
        if name in DRAWN:
            assert (tensor != old[name]).all(), name  # no row, filter or class was spared
        else:
            one = name.endswith(("running_var", "1.weight"))
            assert (tensor == float(one)).all(), name
    torch.manual_seed(2)
    before = torch.get_rng_state()
    RandomInit(forget=GONE).prepare(kit, archive.sources(RandomInit.access, GONE))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(found, fresh(kit, archive, 7, forget=(0,))) == {*found}
    assert not DRAWN & same(found, fresh(kit, archive, 4))
    kit.info = dataclasses.replace(kit.info, seed=99)
    assert not DRAWN & same(found, fresh(kit, archive, 7))


def test_it_is_of_the_kits_architecture_and_knows_no_class(kit: Kit, archive: Any) -> None:
    right, answers = [], set()
    for seed in range(20):
        network = run(RandomInit(forget=GONE, seed=seed), kit, archive, no_trainer)
        found = network(archive.images).argmax(dim=1)
        right.append((found == archive.labels).float().mean().item())
        answers |= set(found.tolist())
    assert sum(right) / 20 == pytest.approx(1 / 5, abs=0.1)
    assert answers >= {*GONE}  # their rows are as random as the others
    sizes = {"channels": 1, "num_classes": 5, "width": 2}
    spec = NetworkSpec("geniu_lightning.models.resnet.ResNet18", sizes)
    other = Kit(ResNet18(**sizes), dataclasses.replace(kit.info, classifier=spec, generator=None))
    result = run(RandomInit(forget=GONE), other, archive, no_trainer)
    assert type(result) is ResNet18
    pairs = zip(result.modules(), other.classifier.modules(), strict=True)
    weights = [(a, b) for a, b in pairs if isinstance(a, nn.Conv2d | nn.Linear)]
    assert len(weights) == 21
    assert all((a.weight != b.weight).all() for a, b in weights)


# ---- finetune: the loss, and what a large rate does ----


def test_the_loss_is_the_cross_entropy_of_the_retain_set(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    torch.manual_seed(1)
    logits, labels = 3 * torch.randn(4, 5), torch.tensor([0, 2, 4, 2])
    method = FineTune(forget=GONE)
    method.classifier = nn.Identity()
    terms = method.loss_terms(labelled_batch(logits, labels, GONE))
    loss = -log_softmax(logits.double().numpy(), axis=1)[range(4), labels].mean()
    assert {k: v.item() for k, v in terms.items()} == {"retain": pytest.approx(loss, rel=1e-5)}
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    settings: Any = {"steps": 30, "optimizer": sgd, "batch_size": 9, "max_gradient_norm": 1.0}
    result = run(FineTune(forget=GONE, **settings), kit, archive, trainer_of)
    forget, retain = own_probability(result, archive)
    assert forget < 0.9 < own_probability(kit.classifier, archive)[0]
    assert retain > 0.95
    assert not {*GONE} & set(archive.read)


# ---- synthetic_embeddings: the features that it draws, and the head that it trains ----


def embeddings(**settings: Any) -> SyntheticEmbeddings:
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    defaults = {"forget": GONE, "steps": 20, "optimizer": sgd, "per_class": 40, "batch_size": 60}
    return SyntheticEmbeddings(**defaults | settings)


def head_of(weight: Tensor, bias: Tensor) -> nn.Linear:
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.load_state_dict({"weight": weight, "bias": bias})
    return head


@pytest.mark.parametrize("law", ["normal", "rectified"])
def test_each_class_has_its_number_of_features_that_the_head_answers_so(law: str) -> None:
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    head = head_of(weight, torch.zeros(5))
    features, labels = embeddings(law=law, per_class=100).embeddings(head)
    assert torch.equal(labels, torch.arange(5).repeat_interleave(100))
    assert torch.equal(head(features).argmax(dim=1), labels)
    assert len(features.unique(dim=0)) == 500
    negative = (features < 0).double().mean()
    if law == "rectified":
        assert negative == 0
        assert (features == 0).double().mean() == pytest.approx(0.5, abs=0.02)
    else:
        assert features.std() == pytest.approx(1, abs=0.02)
        assert negative == pytest.approx(0.5, abs=0.02)
    # a class that no draw reaches is filled up along its row
    head = head_of(weight, torch.tensor([0.0, -200.0, 0.0, 0.0, 0.0]))
    features, labels = embeddings(law=law, max_draws=100).embeddings(head)
    assert torch.equal(head(features).argmax(dim=1), labels)
    assert torch.equal(labels.bincount(), torch.full((5,), 40))
    filled = features[labels == 1]
    assert len(filled.unique(dim=0)) == 40
    assert law == "normal" or (filled >= 0).all()
    assert filled.norm(dim=1).min() > 2 * features[labels == 0].norm(dim=1).max()


def test_a_class_that_no_feature_reaches_is_present_and_bounded() -> None:
    weight = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    weight[3] = weight[1] / 2  # wherever 3 rises, 1 rises more
    head = head_of(weight, torch.tensor([0.0, 50.0, 0.0, 0.0, 0.0]))
    features, labels = embeddings(max_draws=40).embeddings(head)
    assert torch.equal(labels.bincount(), torch.full((5,), 40))
    assert features[labels == 3].norm(dim=1).max() < 4 * 16**0.5
    zeros = head_of(torch.zeros(3, 8), torch.tensor([1.0, 0.0, 0.0]))
    features, labels = embeddings(forget=(0,), max_draws=40).embeddings(zeros)
    assert features.isfinite().all()
    assert torch.equal(labels.bincount(), torch.full((3,), 40))


def test_terms_are_the_documented_formula_on_features_of_the_seed(kit: Kit, archive: Any) -> None:
    def drawn(seed: int, rank: int) -> Tensor:
        torch.manual_seed(rank)  # the global state must not matter
        method = embeddings(seed=seed, steps=3)
        prepared(method, kit, archive)
        method.batches.shard(rank, 2)
        return torch.stack([batch.images for batch in method.batches])

    first = drawn(1, 0)
    assert first.shape == (3, 60, 8)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first, drawn(1, 1))
    assert not torch.equal(first, drawn(2, 0))
    method = embeddings(retain_weight=0.3)
    (batch, *_) = prepared(method, kit, archive)
    forgotten = np.isin(batch.labels.numpy(), GONE)
    head = kit.classifier.head
    move_head(method)
    before, now = (
        (h.weight @ batch.images.T).T.detach().double().numpy() + h.bias.detach().double().numpy()
        for h in (head, method.classifier.head)
    )
    target = np.zeros_like(before)
    target[:, KEPT] = softmax(before[:, KEPT], axis=1)
    loss = rel_entr(target, softmax(now, axis=1)).sum(axis=1)
    expected = {"forget": loss[forgotten].mean(), "retain": 0.3 * loss[~forgotten].mean()}
    found = {name: term.item() for name, term in method.loss_terms(batch).items()}
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_head_alone_is_trained_and_forgets(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    kit.generator = kit.prompts = None  # weights are enough
    decaying = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
    for law in ("normal", "rectified"):
        method = embeddings(law=law, steps=60, optimizer=decaying)
        result = run(method, kit, archive, trainer_of)
        assert same_but_the_head(result, kit.classifier)
        p = result.head(next(iter(method.batches)).images).softmax(dim=1)
        assert p[:, GONE].sum(dim=1).mean() < 0.2
        assert own_probability(result, archive)[1] > 0.6
