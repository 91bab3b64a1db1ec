"""GKT: what passes the gate, what student and generator minimise, and who moves when."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from scipy.special import rel_entr, softmax
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.models.resnet import ResNet18
from geniu_lightning.unlearning import gkt as module
from geniu_lightning.unlearning.gkt import Gkt, attend
from geniu_lightning.unlearning.sources import Access, UnlearnBatch
from geniu_lightning.unlearning.synthesis import synthetic_batch

TrainerOf = Callable[[int], Trainer]
adam = partial(torch.optim.Adam, lr=1e-2)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WIDTHS", (8, 8, 8))


class Watched(Gkt):
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

    def generator_loss(self, images: Tensor) -> Tensor | None:
        self.made_at.append(self.global_step if self._trainer else 0)
        self.modes += [("generator", layer.training) for layer in self.classifier.modules()]
        return super().generator_loss(images)


def gkt(forget: tuple[int, ...] = (1, 3), **settings: Any) -> Watched:
    defaults = {
        "forget": forget,
        "steps": 6,
        "optimizer": adam,
        "generator_optimizer": adam,
        "max_gradient_norm": 5.0,
        "batch_size": 16,
        "student_steps": 3,
        "latent": 8,
        "threshold": 0.3,  # the kit of the tests is sure of its proxies alone
    }
    return Watched(**defaults | settings)


def ready(kit: Kit, archive: Any, **settings: Any) -> Watched:
    method = gkt(**settings)
    method.prepare(kit, archive.sources(Access.NONE, method.forget))
    return method


def some_images(count: int = 12) -> Tensor:
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(2))


# ---- the gate --------------------------------------------------------------------------------


def test_the_gate_adds_up_all_forgotten_classes_and_no_other() -> None:
    p = np.array(
        [
            [0.960, 0.004, 0.016, 0.004, 0.016],  # 0.008 together
            [0.956, 0.006, 0.016, 0.006, 0.016],  # each below, together above
            [0.001, 0.001, 0.001, 0.996, 0.001],
            [0.001, 0.996, 0.001, 0.001, 0.001],
            [0.497, 0.001, 0.500, 0.001, 0.001],
        ]
    )
    passes = gkt(threshold=0.01).passes(torch.tensor(np.log(p) + 3.0))
    assert passes.tolist() == [True, False, False, False, True]
    assert gkt((0,), threshold=0.01).passes(torch.tensor(np.log(p))).tolist() == [
        *(False, False, True, True, False)
    ]


def test_the_student_sees_what_passes_alone(kit: Kit, archive: Any, trainer_of: TrainerOf) -> None:
    method = gkt()
    method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
    assert len(method.seen) == 6
    for batch in method.seen:
        forgotten = kit.classifier(batch.images).softmax(dim=1)[:, [1, 3]].sum(dim=1)
        assert (forgotten <= 0.3).all()
        assert 4 <= len(batch.images) <= 16
    assert min(len(batch.images) for batch in method.seen) < 16


def test_a_generator_that_is_not_a_number_is_noticed() -> None:
    assert gkt().passes(torch.full((2, 5), torch.nan)).all()


# ---- losses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "factor"), [(None, 1 / 5), (1.0, 1.0), (2.0, 2.0)])
def test_the_divergence_is_the_mean_over_images_and_divided_by_classes_only_if_asked(
    kit: Kit, archive: Any, scale: float | None, factor: float
) -> None:
    method = ready(kit, archive, kl_scale=scale)
    images = some_images()
    said = softmax(kit.classifier(images).double().numpy(), axis=1)
    method.classifier.eval()
    now = softmax(method.classifier(images).detach().double().numpy(), axis=1)
    expected = factor * rel_entr(said, now).sum() / len(images)
    batch = synthetic_batch(images, kit.classifier(images), (1, 3))
    assert batch.forget.any()  # the mean must not leave a side out
    found = method.loss_terms(batch)["distill"]
    assert float(found.detach()) == pytest.approx(expected, rel=1e-4)
    bare = ready(kit, archive, kl_scale=scale, attention_weight=0.0)
    bare.classifier.eval()
    terms = bare.loss_terms(batch)
    assert terms.keys() == {"distill"}
    assert float(terms["distill"].detach()) == pytest.approx(expected, rel=1e-4)


def maps_by_hand(network: nn.Module, images: Tensor) -> list[np.ndarray]:
    values, found = images, []
    if isinstance(network, ResNet18):
        values = network.stem(values)
    for block in network.blocks:
        values = block(values)
        power = (values.detach().double().numpy() ** 2).mean(axis=1).reshape(len(images), -1)
        found.append(power / np.sqrt((power**2).sum(axis=1, keepdims=True)))
    return found


@pytest.mark.parametrize("network", [AllCNN(width=4), ResNet18(channels=1, width=4)])
def test_attention_is_the_normalised_power_of_every_block(network: nn.Module) -> None:
    network = copy.deepcopy(network).eval()
    images = some_images(3)
    logits, maps = attend(network, images)
    expected = maps_by_hand(network, images)
    assert len(maps) == 8
    assert torch.equal(logits, network(images))
    for found, wanted in zip(maps, expected, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), wanted, atol=1e-5)
    assert not any(layer._forward_hooks for layer in network.modules())


def test_the_attention_term_is_the_sum_over_blocks_of_mean_squares(kit: Kit, archive: Any) -> None:
    method = ready(kit, archive, attention_weight=7.0)
    method.classifier.eval()
    images = some_images()
    pairs = zip(
        maps_by_hand(kit.classifier, images), maps_by_hand(method.classifier, images), strict=True
    )
    expected = 7.0 * sum(np.mean((a - b) ** 2) for a, b in pairs)
    batch = synthetic_batch(images, kit.classifier(images), (1, 3))
    assert float(method.loss_terms(batch)["attention"].detach()) == pytest.approx(
        expected, rel=1e-3
    )


def test_the_generator_raises_the_divergence_on_what_passes(kit: Kit, archive: Any) -> None:
    method = ready(kit, archive)
    method.classifier.eval()
    images = some_images(30).requires_grad_(True)
    said = softmax(kit.classifier(images).detach().double().numpy(), axis=1)
    now = softmax(method.classifier(images).detach().double().numpy(), axis=1)
    kept = said[:, 1] + said[:, 3] <= 0.3
    assert 4 <= kept.sum() < 30
    loss = method.generator_loss(images)
    assert loss is not None
    assert float(loss.detach()) == pytest.approx(
        -rel_entr(said, now)[kept].sum() / kept.sum(), rel=1e-4
    )
    (gradient,) = torch.autograd.grad(loss, images)
    reached = gradient.flatten(1).abs().sum(dim=1) > 0
    assert reached.tolist() == kept.tolist()


def test_a_gradient_reaches_the_generator_through_student_and_teacher_and_no_other(
    kit: Kit, archive: Any
) -> None:
    method = ready(kit, archive)
    maker = method.batches.maker
    before = [p.clone() for p in maker.parameters()]
    next(iter(method.batches))
    assert any(not torch.equal(a, b) for a, b in zip(before, maker.parameters(), strict=True))
    for network in (method.classifier, method.teacher.network, kit.classifier):
        assert all(p.grad is None for p in network.parameters())
    assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"classifier"}
    assert not any(layer.training for layer in method.teacher.network.modules())


# ---- where nothing passes --------------------------------------------------------------------


def test_too_few_images_seek_the_gate_or_do_nothing(kit: Kit, archive: Any) -> None:
    images = some_images(9)
    said = softmax(kit.classifier(images).double().numpy(), axis=1)
    seeking = ready(kit, archive, threshold=0.0).generator_loss(images)
    assert float(seeking.detach()) == pytest.approx(
        np.log(said[:, 1] + said[:, 3]).mean(), rel=1e-4
    )
    assert ready(kit, archive, threshold=0.0, seek_steps=0).generator_loss(images) is None


def test_seeking_brings_images_through_a_gate_that_let_none_pass(kit: Kit, archive: Any) -> None:
    # a gate that at first is too narrow for all but three images
    first = next(iter(ready(kit, archive, threshold=1.0, seek_steps=0).batches)).images
    said = kit.classifier(first).softmax(dim=1)[:, [1, 3]].sum(dim=1)
    threshold = float(said.sort().values[2])
    stuck = ready(kit, archive, threshold=threshold, seek_steps=0)
    assert len(next(iter(stuck.batches)).images) < 4
    freed = ready(kit, archive, threshold=threshold, seek_steps=100)
    batch = next(iter(freed.batches))
    assert len(batch.images) >= 4
    assert freed.passes(kit.classifier(batch.images)).all()


@pytest.mark.parametrize("left", [0, 3])
def test_a_step_with_too_few_images_leaves_the_student_as_it_was(
    kit: Kit, archive: Any, trainer_of: TrainerOf, left: int
) -> None:
    class Starved(Watched):
        def batch_of(self, images: Tensor) -> UnlearnBatch:
            few = super().batch_of(images) if not self.seen else None
            return few or synthetic_batch(images[:left], torch.zeros(left, 5), self.forget)

    results = []
    for steps in (3, 6):
        optimizer = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.5)
        method = Starved(
            forget=(1, 3),
            steps=steps,
            optimizer=optimizer,
            generator_optimizer=adam,
            batch_size=16,
            student_steps=3,
            latent=8,
            threshold=0.3,
            seek_steps=0,
        )
        results.append(
            method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of).state_dict()
        )
        assert method.taught == 3
    assert [len(batch.images) for batch in method.seen[3:]] == [left] * 3
    first, second = results
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_student_that_was_never_taught_is_refused(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = gkt(threshold=0.0, seek_steps=1)
    with pytest.raises(UserError, match=r"in none of 6 steps did 4 of 16 images pass the gate"):
        method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)


# ---- who moves when --------------------------------------------------------------------------


def test_the_student_trains_in_every_step_and_evaluates_in_the_generators(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = gkt(steps=7)
    method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
    assert {name for name, _ in method.modes} == {"student", "generator"}
    assert all(training == (name == "student") for name, training in method.modes)
    for name, tensor in method.classifier.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert int(tensor) == 7  # its own steps, not the generator's


def test_the_generator_steps_once_a_round_against_the_current_student(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = gkt(steps=8, threshold=1.0)
    method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
    assert method.made_at == [0, 3, 6]


def test_the_student_is_new_and_follows_from_the_seed(kit: Kit, archive: Any) -> None:
    first, same, other = (ready(kit, archive, seed=seed).classifier for seed in (1, 1, 2))
    assert torch.equal(first.head.weight, same.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert not torch.equal(first.head.weight, kit.classifier.head.weight)
    assert all(layer.training for layer in first.modules())
    norms = [m for m in first.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(float(m.running_mean.abs().sum()) == 0 for m in norms)


def test_sixty_steps_bring_the_student_to_the_teacher(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    def gap(network: nn.Module, images: Tensor) -> float:
        said = kit.classifier(images).softmax(dim=1).numpy()
        return float(rel_entr(said, network(images).softmax(dim=1).numpy()).sum(axis=1).mean())

    results = {}
    for steps in (1, 60):
        method = gkt(steps=steps, kl_scale=1.0, attention_weight=10.0)
        results[steps] = method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
    images = method.seen[-1].images
    assert gap(results[60], images) < 0.5 * gap(results[1], images)


def test_fifty_steps_teach_the_answers_that_pass_and_not_the_forgotten_ones(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = gkt(steps=50, kl_scale=1.0, attention_weight=10.0)
    result = method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
    shown = torch.cat([batch.images for batch in method.seen[-9:]])
    same = result(shown).argmax(dim=1) == kit.classifier(shown).argmax(dim=1)
    assert same.float().mean() > 0.8
    kept_out = kit.info.spec.normalise(kit.proxies([1, 3]).images)
    original, student = (
        network(kept_out).softmax(dim=1)[:, [1, 3]].sum(dim=1)
        for network in (kit.classifier, result)
    )
    assert (original > 0.9).all()
    assert (student < 0.3).all()


@pytest.mark.parametrize("mask", [True, False])
def test_the_head_is_masked_at_the_end_if_asked(
    kit: Kit, archive: Any, trainer_of: TrainerOf, mask: bool
) -> None:
    result = gkt(mask=mask).run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
    assert (result(archive.images)[:, [1, 3]] == -1e4).all() == mask
    assert (result(archive.images)[:, [0, 2, 4]].abs() < 100).all()


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"threshold": 1.5}, r"unlearner.threshold must lie in \[0, 1\], got 1.5"),
        ({"attention_weight": -1.0}, "unlearner.attention_weight must be at least 0, got -1.0"),
        ({"kl_scale": 0.0}, "unlearner.kl_scale must be above 0 or null, got 0.0"),
        ({"latent": 0}, "unlearner.latent must be at least 1, got 0"),
        ({"batch_size": 3}, "unlearner.batch_size must be at least 4, got 3"),
        ({"student_steps": 0}, "unlearner.student_steps must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        gkt(**settings)


def test_a_network_without_blocks_is_told_what_to_set(
    kit: Kit, archive: Any, trainer_of: TrainerOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(256, 5)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(images.flatten(1))

    kit.classifier = Plain().eval()
    monkeypatch.setattr(module, "fresh_classifier", lambda kit, seed: Plain())
    with pytest.raises(UserError, match=r"Plain has no sequence.*set unlearner.attention_weight=0"):
        ready(kit, archive)
    method = gkt(attention_weight=0.0, threshold=0.9)
    method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
