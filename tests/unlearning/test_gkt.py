"""GKT: the gate, what student and generator minimise, and what happens where no image passes."""

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.models.resnet import ResNet18
from geniu_lightning.unlearning import synthesis
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.gkt import Gkt, attend
from geniu_lightning.unlearning.synthesis import synthetic_batch
from tests.unlearning.helpers import GONE, KEPT, Lab

adam = partial(torch.optim.Adam, lr=1e-2)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gkt, "widths", (8, 8, 8))


class Watched(Gkt):
    """Remembers its batches, and at which steps the generator moved."""

    def prepare(self, *given: Any) -> None:
        super().prepare(*given)
        self.seen: list[UnlearnBatch] = []
        self.moved_at: list[int] = []

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        self.seen.append(batch)
        return super().loss_terms(batch)

    def generator_loss(self, images: Tensor) -> Tensor | None:
        self.moved_at.append(len(self.seen))
        return super().generator_loss(images)


def gkt(kind: type[Gkt] = Watched, **settings: Any) -> Any:
    counts = {"steps": 6, "batch_size": 16, "student_steps": 3, "latent": 8}
    defaults = {"forget": GONE, "optimizer": adam, "generator_optimizer": adam}
    # the kit of the tests is sure of its proxies alone
    return kind(**defaults | counts | {"threshold": 0.3, "max_gradient_norm": 5.0} | settings)


def ready(lab: Lab, **settings: Any) -> Any:
    torch.manual_seed(1)  # of the generator's first weights
    method = gkt(**settings)
    lab.prepared(method)
    return method


def some_images(count: int = 12) -> Tensor:
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(2))


def test_the_gate_adds_up_all_forget_classes_and_no_other() -> None:
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
    assert gkt().passes(torch.full((2, 5), torch.nan)).all()  # for the guard to see


def maps_by_hand(network: Any, images: Tensor) -> list[np.ndarray]:
    values, found = images, []
    if isinstance(network, ResNet18):
        values = network.stem(values)
    for block in network.blocks:
        values = block(values)
        power = (values.detach().double().numpy() ** 2).mean(axis=1).reshape(len(images), -1)
        found.append(power / np.sqrt((power**2).sum(axis=1, keepdims=True)))
    return found


def test_attention_is_the_normalised_power_of_every_block() -> None:
    for made in (AllCNN(width=4), ResNet18(channels=1, width=4)):
        network, images = copy.deepcopy(made).eval(), some_images(3)
        logits, maps = attend(network, images)
        assert torch.equal(logits, network(images))
        assert len(maps) == 8
        for found, wanted in zip(maps, maps_by_hand(network, images), strict=True):
            np.testing.assert_allclose(found.detach().numpy(), wanted, atol=1e-5)
        assert not any(layer._forward_hooks for layer in network.modules())


def test_the_student_minimises_divergence_and_attention(lab: Lab) -> None:
    images = some_images()
    batch = synthetic_batch(images, lab.kit.classifier(images), GONE)
    assert batch.forget.any()  # the mean must not leave a set out
    expected = softmax(lab.kit.classifier(images).double().numpy(), axis=1)
    for scale, factor in [(None, 1 / 5), (1.0, 1.0), (2.0, 2.0)]:
        for weight in (7.0, 0.0):
            method = ready(lab, kl_scale=scale, attention_weight=weight)
            student = method.classifier.eval()
            now = softmax(student(images).detach().double().numpy(), axis=1)
            terms = {"distill": factor * rel_entr(expected, now).sum() / len(images)}
            if weight:
                maps = (maps_by_hand(n, images) for n in (lab.kit.classifier, student))
                gaps = [np.mean((a - b) ** 2) for a, b in zip(*maps, strict=True)]
                terms["attention"] = weight * sum(gaps)
            found = {k: float(v.detach()) for k, v in method.loss_terms(batch).items()}
            assert found == pytest.approx(terms, rel=1e-3)


def test_the_generator_raises_the_divergence_on_what_passes_and_else_seeks(lab: Lab) -> None:
    method = ready(lab)
    method.classifier.eval()
    images = some_images(30).requires_grad_(True)
    expected = softmax(lab.kit.classifier(images).detach().double().numpy(), axis=1)
    now = softmax(method.classifier(images).detach().double().numpy(), axis=1)
    passed = expected[:, GONE].sum(axis=1) <= 0.3
    assert 4 <= passed.sum() < 30
    loss = method.generator_loss(images)
    value = -rel_entr(expected, now)[passed].sum() / passed.sum()
    assert float(loss.detach()) == pytest.approx(value, rel=1e-4)
    (gradient,) = torch.autograd.grad(loss, images)
    assert (gradient.flatten(1).abs().sum(dim=1) > 0).tolist() == passed.tolist()
    seeking = ready(lab, threshold=0.0).generator_loss(images)
    sought = np.log(expected[:, GONE].sum(axis=1)).mean()
    assert seeking.item() == pytest.approx(sought, rel=1e-4)
    assert ready(lab, threshold=0.0, seek_steps=0).generator_loss(images) is None


def test_seeking_brings_images_through_a_gate_that_passed_too_few(lab: Lab) -> None:
    # a gate that at first is too narrow for all but three images
    first = next(iter(ready(lab, threshold=1.0, seek_steps=0).batches))
    forget = lab.kit.classifier(first.images).softmax(dim=1)[:, GONE].sum(dim=1)
    threshold = float(forget.sort().values[2])
    stuck = ready(lab, threshold=threshold, seek_steps=0)
    assert len(next(iter(stuck.batches)).images) < 4
    freed = ready(lab, threshold=threshold, seek_steps=100)
    batch = next(iter(freed.batches))
    assert len(batch.images) >= 4
    assert freed.passes(lab.kit.classifier(batch.images)).all()


def test_a_step_with_too_few_images_leaves_the_student_as_it_was(lab: Lab) -> None:
    decaying = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.5)
    for left in (0, 3):

        class Starved(Watched):
            def batch_of(self, images: Tensor, left: int = left) -> UnlearnBatch:
                few = super().batch_of(images) if not self.seen else None
                return few or synthetic_batch(images[:left], torch.zeros(left, 5), self.forget)

        results = []
        for steps in (3, 6):
            method = gkt(Starved, steps=steps, optimizer=decaying, seek_steps=0)
            results.append(lab.run(method).state_dict())
            assert method.taught == 3
        assert [len(batch.images) for batch in method.seen[3:]] == [left] * 3
        assert all(torch.equal(t, results[1][name]) for name, t in results[0].items())
    with pytest.raises(UserError, match=r"in none of 6 steps did 4 of 16 images pass the gate"):
        lab.run(gkt(threshold=0.0, seek_steps=1))


def test_images_pass_the_gate_and_each_of_the_students_steps_counts_once(lab: Lab) -> None:
    method = gkt(steps=7)
    lab.run(method)
    for name, tensor in method.classifier.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert int(tensor) == 7  # not the generator's
    for batch in method.seen:
        forget = lab.kit.classifier(batch.images).softmax(dim=1)[:, GONE].sum(dim=1)
        assert (forget <= 0.3).all()
        assert 4 <= len(batch.images) <= 16
    assert min(len(batch.images) for batch in method.seen) < 16
    open_gate = gkt(steps=8, threshold=1.0)
    lab.run(open_gate)
    assert open_gate.moved_at == [0, 3, 6]


def test_the_mask_is_that_of_the_forget_classes(lab: Lab) -> None:
    for mask in (True, False):
        logits = lab.run(gkt(mask=mask))(lab.images)
        assert (logits[:, GONE] == -1e4).all() == mask
        assert (logits[:, KEPT].abs() < 100).all()


def test_a_network_without_blocks_is_told_what_to_set(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(256, 5)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(images.flatten(1))

    lab.kit.classifier = Plain().eval()
    monkeypatch.setattr(synthesis, "fresh_classifier", lambda kit, seed: Plain())
    with pytest.raises(UserError, match=r"Plain has no sequence.*set unlearner.attention_weight=0"):
        ready(lab)
    lab.run(gkt(attention_weight=0.0, threshold=0.9))
