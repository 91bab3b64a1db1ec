"""Unrolling_sgd: the step, what it undoes, and the initial weights it insists on."""

import dataclasses
import hashlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.unrolling_sgd import UnrollingSgd
from tests.unlearning.helpers import (
    GONE,
    no_trainer,
    run,
)


def initial(seed: int = 7) -> nn.Module:
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


def trained_kit(kit: Kit, network: nn.Module | None = None, **recipe: Any) -> Kit:
    """Return a kit that records how its classifier was trained, and from which weights."""
    first = recipe.pop("initial", digest(initial()))
    rate = recipe.pop("lr", 0.05)
    training = {"epochs": 2, "batch_size": 12, "optimizer": {"lr": rate}} | recipe
    info = dataclasses.replace(kit.info, settings={"training": training, "initial_sha256": first})
    return Kit(network or kit.classifier, info, kit.generator, kit.prompts)


def unrolled(kit: Kit, archive: Any, forget: tuple[int, ...] = GONE, **settings: Any) -> Any:
    return run(UnrollingSgd(forget=forget, **settings), kit, archive, no_trainer)


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().double().flatten() for t in tensors])


def sum_of_gradients(images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the summed loss at the initial weights: 64 bits, image by image."""
    network = initial().double()
    total = torch.zeros(())
    for image, label in zip(images, labels, strict=True):
        loss = -network(image[None].double()).log_softmax(dim=1)[0, label]
        total = total + flat(torch.autograd.grad(loss, list(network.parameters())))
    return total


def step_of(result: Any, kit: Kit) -> Tensor:
    return flat(result.parameters()) - flat(kit.classifier.parameters())


def test_the_step_is_scale_rate_epochs_over_batch_size_times_the_summed_gradient(
    kit: Kit, archive: Any
) -> None:
    for forget, scale, lr, epochs, size in [
        ((0,), 1, 0.5, 2, 12),
        (GONE, 1, 0.5, 3, 45),
        (GONE, 0.3, 2.0, 2, 12),
        (GONE, 0.0, 2.0, 2, 12),
    ]:
        archive.opened.clear()
        archive.read.clear()
        taught = trained_kit(kit, lr=lr, epochs=epochs, batch_size=size)
        result = unrolled(taught, archive, forget, scale=float(scale), batch_size=5)
        assert archive.opened == [("forget", 5, None)]  # each image once, unaugmented
        counts = torch.bincount(torch.tensor(archive.read), minlength=5).tolist()
        assert counts == [9 if k in forget else 0 for k in range(5)]
        chosen = torch.isin(archive.labels, torch.tensor(forget))
        gradient = sum_of_gradients(archive.images[chosen], archive.labels[chosen])
        expected, step = scale * lr * epochs / size * gradient, step_of(result, kit)
        torch.testing.assert_close(step, expected, rtol=1e-4, atol=2e-6)
        assert step.norm() > 0.1 or scale == 0  # not lost in the tolerance


def test_batch_statistics_are_those_of_the_pass_and_the_classifier_keeps_its_own(
    kit: Kit, archive: Any
) -> None:
    taught = trained_kit(kit, lr=0.01)
    result = unrolled(taught, archive, batch_norm="train", batch_size=64)
    chosen = torch.isin(archive.labels, torch.tensor(GONE)).nonzero().flatten()
    network = initial().double().train()
    log_p = network(archive.images[chosen].double()).log_softmax(dim=1)
    loss = -log_p[torch.arange(len(chosen)), archive.labels[chosen]].sum()
    gradient = flat(torch.autograd.grad(loss, list(network.parameters())))
    step = step_of(result, kit)
    torch.testing.assert_close(step, 0.01 * 2 / 12 * gradient, rtol=1e-3, atol=1e-5)
    assert step.norm() > 0.01
    for a, b in zip(result.buffers(), kit.classifier.buffers(), strict=True):
        assert torch.equal(a, b)


def test_proxies_count_as_many_images_as_there_were(kit: Kit, archive: Any) -> None:
    counts = (9, 4, 9, 6, 9)
    kit = trained_kit(kit, lr=0.1)
    kit.info = dataclasses.replace(kit.info, class_counts=counts)
    for per_class in (1, 2):
        result = unrolled(kit, archive, source="proxies", proxies_per_class=per_class)
        expected = torch.zeros_like(flat(kit.classifier.parameters()))
        for k in GONE:
            proxies = (kit.generator(kit.prompts[k, :per_class], sample=False).images - 0.2) / 0.4
            gradient = sum_of_gradients(proxies, torch.full((per_class,), k))
            expected += counts[k] / per_class * gradient
        step = step_of(result, kit)
        torch.testing.assert_close(step, 0.1 * 2 / 12 * expected, rtol=1e-4, atol=2e-6)
        assert step.norm() > 0.05
    assert archive.opened == []


def test_other_initial_weights_or_an_incomplete_recipe_are_refused_before_any_read(
    kit: Kit, archive: Any
) -> None:
    other_seed = trained_kit(kit)
    other_seed.info = dataclasses.replace(other_seed.info, seed=8)
    for taught in (
        trained_kit(kit, initial=digest(initial(8))),
        trained_kit(kit, initial=digest(kit.classifier)),
        other_seed,
    ):
        with pytest.raises(UserError, match=r"the initial weights .* cannot be drawn again"):
            unrolled(taught, archive)
    for path in [
        *(("initial_sha256",), ("training",), ("training", "epochs"), ("training", "batch_size")),
        *(("training", "optimizer"), ("training", "optimizer", "lr")),
    ]:
        taught = trained_kit(kit)
        holder = taught.info.settings
        for name in path[:-1]:
            holder = holder[name]
        del holder[path[-1]]
        with pytest.raises(UserError, match=f"not say how it was trained: no '{path[-1]}'"):
            unrolled(taught, archive)
    assert archive.read == []
