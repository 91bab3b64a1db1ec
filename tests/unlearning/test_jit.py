"""JiT: the ratio that is minimised, gradients of one step alone, and what steps do."""

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
from geniu_lightning.unlearning.jit import Jit
from geniu_lightning.unlearning.sources import Access, UnlearnBatch, marked

TrainerOf = Callable[[int], Trainer]
sgd = partial(torch.optim.SGD, lr=0.01)


def prepared(kit: Kit, archive: Any, **settings: Any) -> Jit:
    method = Jit(forget=(1, 3), steps=1, optimizer=sgd, **settings)
    method.prepare(kit, archive.sources(Access.FORGET, (1, 3)))
    return method


class Cubed(nn.Module):
    """Logits that numpy can tell as well."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 20).view(4, 5))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) ** 3 @ self.weight


def test_the_loss_is_the_mean_ratio_over_forgotten_images_and_draws(kit: Kit, archive: Any) -> None:
    method = prepared(kit, archive, draws=3, sigma=0.7)
    method.classifier = Cubed()
    torch.manual_seed(2)
    images = kit.info.spec.normalise(torch.rand(5, 1, 2, 2))
    batch = marked(images, torch.tensor([1, 0, 3, 4, 1]), (1, 3))
    torch.manual_seed(3)
    found = method.loss_terms(batch)
    torch.manual_seed(3)
    noise = [0.7 * torch.randn(5, 1, 2, 2).double().numpy() for _ in range(3)]
    x, weight = images.double().numpy(), np.linspace(-1, 1, 20).reshape(4, 5)
    low, high = (0 - 0.2) / 0.4, (1 - 0.2) / 0.4  # black and white, normalised
    ratios = []
    for i in (0, 2, 4):
        for draw in noise:
            near = np.minimum(np.maximum(x[i] + draw[i], low), high)
            moved = (x[i].ravel() ** 3 - near.ravel() ** 3) @ weight
            ratios.append(np.sqrt((moved**2).sum()) / np.sqrt(((near - x[i]) ** 2).sum()))
    assert found.keys() == {"lipschitz"}
    assert found["lipschitz"].item() == pytest.approx(np.mean(ratios), rel=1e-5)


def test_only_the_image_is_moved_and_not_its_neighbours(kit: Kit, archive: Any) -> None:
    method = prepared(kit, archive, draws=1)
    with torch.no_grad():
        method.classifier.head.weight.zero_()  # z is the bias everywhere, if nothing else
    seen: list[bool] = []
    method.classifier.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    method.loss_terms(next(iter(method.batches)))
    assert seen == [True, False]


def test_an_answer_that_is_flat_already_gives_a_finite_gradient(kit: Kit, archive: Any) -> None:
    method = prepared(kit, archive)
    with torch.no_grad():
        method.classifier.head.weight.zero_()
    loss = method.loss_terms(next(iter(method.batches)))["lipschitz"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.classifier.parameters())


def test_gradients_of_one_step_do_not_enter_the_next(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    class Watched(Jit):
        agreed: tuple[bool, ...] = ()

        def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
            terms = super().loss_terms(batch)
            parameters = list(self.classifier.parameters())
            self.own = torch.autograd.grad(terms["lipschitz"], parameters, retain_graph=True)
            return terms

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            pairs = zip(self.classifier.parameters(), self.own, strict=True)
            self.agreed += (all(torch.allclose(p.grad, g) for p, g in pairs),)

    method = Watched(forget=(1, 3), steps=3, optimizer=sgd, batch_size=9)
    method.run(kit, archive.sources(Access.FORGET, (1, 3)), trainer_of)
    assert method.agreed == (True, True, True)


def test_the_loss_does_not_grow_with_the_batch(kit: Kit, archive: Any) -> None:
    method = prepared(kit, archive, draws=200)
    image, label = archive.images[1:2], archive.labels[1:2]
    one = method.loss_terms(marked(image, label, (1, 3)))["lipschitz"]
    many = method.loss_terms(marked(image.repeat(6, 1, 1, 1), label.repeat(6), (1, 3)))
    assert many["lipschitz"].item() == pytest.approx(one.item(), rel=0.1)


@pytest.mark.parametrize("source", ["data", "proxies"])
def test_thirty_steps_flatten_the_classifier_around_what_is_forgotten(
    kit: Kit, archive: Any, trainer_of: TrainerOf, source: str
) -> None:
    steep = partial(torch.optim.SGD, lr=0.03, momentum=0.9)
    method = Jit(forget=(1, 3), source=source, steps=30, optimizer=steep, max_gradient_norm=1.0)
    result = method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    assert method.access == (Access.FORGET if source == "data" else Access.NONE)
    torch.manual_seed(1)
    gone = archive.images[torch.isin(archive.labels, torch.tensor([1, 3]))]
    near = gone + 0.1 * torch.randn(gone.shape)
    before, after = ((n(gone) - n(near)).norm(dim=1).mean() for n in (kit.classifier, result))
    assert after < 0.85 * before


@pytest.mark.parametrize(("source", "steps", "most"), [("data", 14, 0.4), ("proxies", 30, 0.65)])
def test_steps_forget_and_keep_though_no_class_is_named(
    kit: Kit, archive: Any, trainer_of: TrainerOf, source: str, steps: int, most: float
) -> None:
    method = Jit(forget=(1, 3), source=source, steps=steps, optimizer=sgd, max_gradient_norm=1.0)
    result = method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))
    own = result(archive.images).softmax(dim=1).gather(1, archive.labels[:, None]).squeeze(1)
    assert own[gone].mean() < most
    assert own[~gone].mean() > 0.75


@pytest.mark.parametrize(("name", "value"), [("draws", 0), ("sigma", 0.0), ("sigma", float("nan"))])
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"unlearner.{name} must be .* got {value}"):
        Jit(forget=(1,), **{name: value})


def test_batch_statistics_are_refused() -> None:
    with pytest.raises(UserError, match=r"unlearner.batch_norm must be frozen .* got 'train'"):
        Jit(forget=(1,), batch_norm="train")
