"""Unrolling SGD: the step it adds, what that undoes, and the first weights it insists on."""

import copy
import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from torch import Tensor, nn

from geniu_lightning.errors import KitError, UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.sources import Access
from geniu_lightning.unlearning.unrolling_sgd import UnrollingSgd


def no_trainer(steps: int) -> Trainer:
    raise AssertionError("there is no step but the one")


def first_weights(seed: int = 7) -> nn.Module:
    """Return the network that training begins with, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(stream("init", seed))
        return AllCNN(channels=1, num_classes=5, width=4).eval()


def digest(network: nn.Module) -> str:
    found = hashlib.sha256()
    for name in sorted(network.state_dict()):
        values = network.state_dict()[name].numpy()
        found.update(f"{name}|torch.{values.dtype}|{tuple(values.shape)}|".encode())
        found.update(values.tobytes())
    return found.hexdigest()


def trained_kit(
    kit: Kit, network: nn.Module | None = None, initial: str | None = None, **recipe: Any
) -> Kit:
    """Return a kit that says how its classifier was trained, and from which weights."""
    rate = recipe.pop("lr", 0.05)
    training = {"epochs": 2, "batch_size": 12, "optimizer": {"lr": rate}} | recipe
    settings = {"training": training, "initial_sha256": initial or digest(first_weights())}
    info = dataclasses.replace(kit.info, settings=settings)
    return Kit(network or kit.classifier, info, kit.generator, kit.prompts)


def unrolled(kit: Kit, archive: Any, forget: tuple[int, ...] = (1, 3), **settings: Any) -> Any:
    method = UnrollingSgd(forget=forget, **settings)
    return method.run(kit, archive.sources(method.access, forget), no_trainer)


def of_class(archive: Any, classes: Sequence[int]) -> Tensor:
    return torch.isin(archive.labels, torch.tensor(classes)).nonzero().flatten()


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().double().flatten() for t in tensors])


def sum_of_gradients(images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the summed loss at the first weights: 64 bits, image by image."""
    network = first_weights().double()
    total = torch.zeros(())
    for image, label in zip(images, labels, strict=True):
        loss = -network(image[None].double()).log_softmax(dim=1)[0, label]
        total = total + flat(torch.autograd.grad(loss, list(network.parameters())))
    return total


# ---- the step --------------------------------------------------------------------------------


@pytest.mark.parametrize("forget", [(0,), (1, 3)])
@pytest.mark.parametrize(
    ("scale", "lr", "epochs", "batch_size"), [(1, 0.5, 2, 12), (1, 0.5, 3, 45), (0.3, 2.0, 2, 12)]
)
def test_the_step_is_scale_rate_epochs_over_batch_size_times_the_summed_gradient(
    kit: Kit,
    archive: Any,
    forget: tuple[int, ...],
    scale: float,
    lr: float,
    epochs: int,
    batch_size: int,
) -> None:
    taught = trained_kit(kit, lr=lr, epochs=epochs, batch_size=batch_size)
    result = unrolled(taught, archive, forget, scale=scale, batch_size=5)
    picked = of_class(archive, forget)
    gradient = sum_of_gradients(archive.images[picked], archive.labels[picked])
    step = flat(result.parameters()) - flat(kit.classifier.parameters())
    torch.testing.assert_close(
        step, scale * lr * epochs / batch_size * gradient, rtol=1e-4, atol=2e-6
    )
    assert step.norm() > 0.1  # not lost in the tolerance


def test_with_batch_statistics_a_pass_is_normalised_by_itself_and_the_classifier_keeps_its_own(
    kit: Kit, archive: Any
) -> None:
    taught = trained_kit(kit, lr=0.01)
    result = unrolled(taught, archive, batch_norm="train", batch_size=64)
    picked = of_class(archive, (1, 3))
    network = first_weights().double().train()
    said = network(archive.images[picked].double()).log_softmax(dim=1)
    loss = -said[torch.arange(len(picked)), archive.labels[picked]].sum()
    gradient = flat(torch.autograd.grad(loss, list(network.parameters())))
    step = flat(result.parameters()) - flat(kit.classifier.parameters())
    torch.testing.assert_close(step, 0.01 * 2 / 12 * gradient, rtol=1e-3, atol=1e-5)
    assert step.norm() > 0.01
    for a, b in zip(result.buffers(), kit.classifier.buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("per_class", [1, 2])
def test_proxies_stand_for_as_many_images_as_there_were_and_none_is_opened(
    kit: Kit, archive: Any, per_class: int
) -> None:
    counts = (9, 4, 9, 6, 9)
    kit = trained_kit(kit, lr=0.1)
    kit.info = dataclasses.replace(kit.info, class_counts=counts)
    result = unrolled(kit, archive, source="proxies", proxies_per_class=per_class)
    assert archive.opened == []
    expected = torch.zeros_like(flat(kit.classifier.parameters()))
    for k in (1, 3):
        proxies = (kit.generator(kit.prompts[k, :per_class], sample=False).images - 0.2) / 0.4
        gradient = sum_of_gradients(proxies, torch.full((per_class,), k))
        expected += counts[k] / per_class * gradient
    step = flat(result.parameters()) - flat(kit.classifier.parameters())
    torch.testing.assert_close(step, 0.1 * 2 / 12 * expected, rtol=1e-4, atol=2e-6)
    assert step.norm() > 0.05


@pytest.mark.parametrize("batch_size", [4, 64])
def test_each_forgotten_image_is_read_once_without_augmentation_and_no_other(
    kit: Kit, archive: Any, batch_size: int
) -> None:
    unrolled(trained_kit(kit), archive, batch_size=batch_size)
    assert archive.opened == [("forget", batch_size, None)]
    counts = torch.bincount(torch.tensor(archive.read), minlength=5).tolist()
    assert counts == [0, 9, 0, 9, 0]


def test_neither_the_size_of_a_pass_nor_the_unlearning_seed_makes_a_difference(
    kit: Kit, archive: Any
) -> None:
    first = unrolled(trained_kit(kit), archive, batch_size=4, seed=1)
    second = unrolled(trained_kit(kit), archive, batch_size=64, seed=2)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_scale_of_zero_leaves_every_weight(kit: Kit, archive: Any) -> None:
    result = unrolled(trained_kit(kit), archive, scale=0.0)
    for name, old in kit.classifier.state_dict().items():
        assert torch.equal(result.state_dict()[name], old), name


def test_running_statistics_stay(kit: Kit, archive: Any) -> None:
    result = unrolled(trained_kit(kit), archive)
    for name, old in kit.classifier.named_buffers():
        assert torch.equal(dict(result.named_buffers())[name], old), name


# ---- what it undoes --------------------------------------------------------------------------


def sgd(images: Tensor, labels: Tensor, counts: Tensor, lr: float, epochs: int, b: int) -> Any:
    """Train from the first weights by plain SGD in batches of b, in order; return the network.

    An image whose count is 0 stays in its batch and keeps its place in the mean, but adds nothing.
    """
    network = first_weights().to(images.dtype)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    for _ in range(epochs):
        for chosen in torch.arange(len(labels)).split(b):
            optimizer.zero_grad()
            losses = F.cross_entropy(network(images[chosen]), labels[chosen], reduction="none")
            (losses * counts[chosen]).mean().backward()
            optimizer.step()
    return network


@pytest.mark.parametrize("forget", [(0,), (1, 3)])
def test_of_a_classifier_that_took_one_step_it_leaves_the_retained_images_part_exactly(
    kit: Kit, archive: Any, forget: tuple[int, ...]
) -> None:
    everything = sgd(archive.images, archive.labels, torch.ones(45), lr=0.5, epochs=1, b=45)
    taught = trained_kit(kit, copy.deepcopy(everything), lr=0.5, epochs=1, batch_size=45)
    result = unrolled(taught, archive, forget, batch_size=7)
    kept = of_class(archive, [k for k in range(5) if k not in forget])
    retained = sum_of_gradients(archive.images[kept], archive.labels[kept])
    found = flat(result.parameters()) - flat(first_weights().parameters())
    torch.testing.assert_close(found, -0.5 / 45 * retained, rtol=1e-4, atol=1e-6)
    undone = flat(result.parameters()) - flat(everything.parameters())
    assert undone.norm() > 0.02  # there was something to undo


def test_of_training_in_batches_over_epochs_it_leaves_an_error_of_second_order(
    kit: Kit, archive: Any
) -> None:
    kept = (~torch.isin(archive.labels, torch.tensor([1, 3]))).double()
    errors, parts = [], []
    for lr in (1e-4, 1e-5):  # the first weights are close to many kinks
        trained, without = (
            sgd(archive.images.double(), archive.labels, counts, lr=lr, epochs=3, b=9)
            for counts in (torch.ones(45).double(), kept)
        )
        taught = trained_kit(kit, copy.deepcopy(trained), lr=lr, epochs=3, batch_size=9)
        result = unrolled(taught, archive)
        wanted = flat(without.parameters())
        parts.append((wanted - flat(trained.parameters())).norm().item())
        errors.append((wanted - flat(result.parameters())).norm().item())
    assert errors[1] < 0.03 * parts[1]
    assert parts[0] / parts[1] == pytest.approx(10, rel=0.1)
    assert errors[0] / errors[1] > 30


# ---- the first weights -----------------------------------------------------------------------


def test_drawing_the_first_weights_leaves_the_global_random_state_alone(
    kit: Kit, archive: Any
) -> None:
    method = UnrollingSgd(forget=(1, 3))
    torch.manual_seed(123)  # what ran before may have left the very state that is looked for
    before = torch.get_rng_state()
    method.prepare(trained_kit(kit), archive.sources(Access.FORGET, (1, 3)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("other", ["another seed", "the trained weights", "nonsense"])
def test_first_weights_other_than_the_kits_record_are_refused_before_an_image_is_read(
    kit: Kit, archive: Any, other: str
) -> None:
    recorded = {
        "another seed": digest(first_weights(8)),
        "the trained weights": digest(kit.classifier),
        "nonsense": "0" * 64,
    }[other]
    with pytest.raises(
        UserError,
        match="the first weights of the kit's training cannot be drawn again: this version of torch"
        " draws others",
    ):
        unrolled(trained_kit(kit, initial=recorded), archive)
    assert archive.read == []


def test_a_kit_of_another_training_seed_is_refused(kit: Kit, archive: Any) -> None:
    taught = trained_kit(kit)
    taught.info = dataclasses.replace(taught.info, seed=8)
    with pytest.raises(UserError, match="the first weights of the kit's training cannot be drawn"):
        unrolled(taught, archive)


# ---- what else it refuses --------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        ("initial_sha256",),
        ("training",),
        ("training", "epochs"),
        ("training", "batch_size"),
        ("training", "optimizer"),
        ("training", "optimizer", "lr"),
    ],
)
def test_a_kit_that_leaves_out_a_part_of_its_recipe_is_refused_and_the_part_named(
    kit: Kit, archive: Any, path: tuple[str, ...]
) -> None:
    taught = trained_kit(kit)
    holder = taught.info.settings
    for name in path[:-1]:
        holder = holder[name]
    del holder[path[-1]]
    with pytest.raises(
        UserError, match=f"the kit does not say how it was trained: no '{path[-1]}'"
    ):
        unrolled(taught, archive)
    assert archive.read == []


@pytest.mark.parametrize("scale", [-0.1, math.inf, math.nan])
def test_a_scale_out_of_range_is_refused(scale: float) -> None:
    with pytest.raises(
        UserError, match=f"unlearner.scale must be at least 0 and finite, got {scale}"
    ):
        UnrollingSgd(forget=(1, 3), scale=scale)


def test_an_unknown_source_is_refused_with_the_choices() -> None:
    with pytest.raises(
        UserError, match=r"unlearner\.source must be one of data, proxies, got 'noise'"
    ):
        UnrollingSgd(forget=(1, 3), source="noise")


def test_a_batch_too_small_is_refused() -> None:
    with pytest.raises(UserError, match=r"unlearner\.batch_size must be at least 2, got 1"):
        UnrollingSgd(forget=(1, 3), batch_size=1)


def test_proxies_of_a_kit_without_a_generator_are_refused(kit: Kit, archive: Any) -> None:
    bare = trained_kit(kit)
    bare.generator = bare.prompts = None
    with pytest.raises(KitError, match="this file holds no generator and no prompts"):
        unrolled(bare, archive, source="proxies")


def test_steps_are_refused(kit: Kit, archive: Any, trainer_of: Callable[[int], Trainer]) -> None:
    method = UnrollingSgd(forget=(1, 3), steps=2, optimizer=partial(torch.optim.SGD, lr=0.1))
    with pytest.raises(UserError, match="UnrollingSgd has no loss: set its steps to 0"):
        method.run(trained_kit(kit), archive.sources(Access.FORGET, (1, 3)), trainer_of)
