"""Unrolling_sgd: the step, what it undoes, and the initial weights it insists on."""

import dataclasses
import hashlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.unrolling_sgd import UnrollingSgd
from tests.unlearning.helpers import GONE, Lab, initial


def digest(network: nn.Module) -> str:
    found = hashlib.sha256()
    for name in sorted(network.state_dict()):
        values = network.state_dict()[name].numpy()
        found.update(f"{name}|torch.{values.dtype}|{tuple(values.shape)}|".encode())
        found.update(values.tobytes())
    return found.hexdigest()


def record(kit: Kit, **recipe: Any) -> None:
    """Record how the kit's classifier was trained, and from which weights."""
    first = recipe.pop("initial", digest(initial(7)))
    rate = recipe.pop("lr", 0.05)
    training = {"epochs": 2, "batch_size": 12, "optimizer": {"lr": rate}} | recipe
    settings = {"training": training, "initial_sha256": first}
    kit.info = dataclasses.replace(kit.info, settings=settings)


def step_of(lab: Lab, forget: tuple[int, ...] = GONE, **settings: Any) -> Tensor:
    """Run the method, and return how far the weights go."""
    result = lab.run(UnrollingSgd(forget=forget, **settings))
    assert all(map(torch.equal, result.buffers(), lab.kit.classifier.buffers()))
    return flat(result.parameters()) - flat(lab.kit.classifier.parameters())


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().double().flatten() for t in tensors])


def sum_of_gradients(images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the summed loss at the initial weights: 64 bits, image by image."""
    network = initial(7).eval().double()
    total = torch.zeros(())
    for image, label in zip(images, labels, strict=True):
        loss = -network(image[None].double()).log_softmax(dim=1)[0, label]
        total = total + flat(torch.autograd.grad(loss, list(network.parameters())))
    return total


def test_the_step_is_scale_rate_epochs_over_batch_size_times_the_summed_gradient(lab: Lab) -> None:
    for forget, scale, lr, epochs, size in [
        ((0,), 1, 0.5, 2, 12),
        (GONE, 1, 0.5, 3, 45),
        (GONE, 0.3, 2.0, 2, 12),
        (GONE, 0.0, 2.0, 2, 12),
    ]:
        lab.opened.clear()
        lab.read.clear()
        record(lab.kit, lr=lr, epochs=epochs, batch_size=size)
        step = step_of(lab, forget, scale=float(scale), batch_size=5)
        assert lab.opened == [("forget", 5, None)]  # each image once, unaugmented
        assert lab.counts() == [9 if k in forget else 0 for k in range(5)]
        chosen = torch.isin(lab.labels, torch.tensor(forget))
        gradient = sum_of_gradients(lab.images[chosen], lab.labels[chosen])
        expected = scale * lr * epochs / size * gradient
        torch.testing.assert_close(step, expected, rtol=1e-4, atol=2e-6)
        assert step.norm() > 0.1 or scale == 0  # not lost in the tolerance


def test_batch_statistics_are_those_of_the_pass(lab: Lab) -> None:
    record(lab.kit, lr=0.01)
    step = step_of(lab, batch_norm="train", batch_size=64)
    chosen = torch.isin(lab.labels, torch.tensor(GONE))
    network = initial(7).double().train()
    log_p = network(lab.images[chosen].double()).log_softmax(dim=1)
    loss = -log_p.gather(1, lab.labels[chosen][:, None]).sum()
    gradient = flat(torch.autograd.grad(loss, list(network.parameters())))
    torch.testing.assert_close(step, 0.01 * 2 / 12 * gradient, rtol=1e-3, atol=1e-5)
    assert step.norm() > 0.01


def test_proxies_count_as_many_images_as_there_were(lab: Lab) -> None:
    counts, kit = (9, 4, 9, 6, 9), lab.kit
    record(kit, lr=0.1)
    kit.info = dataclasses.replace(kit.info, class_counts=counts)
    for per_class in (1, 2):
        step = step_of(lab, source="proxies", proxies_per_class=per_class)
        expected = torch.zeros_like(step)
        for k in GONE:
            proxies = (kit.generator(kit.prompts[k, :per_class], sample=False).images - 0.2) / 0.4
            gradient = sum_of_gradients(proxies, torch.full((per_class,), k))
            expected += counts[k] / per_class * gradient
        torch.testing.assert_close(step, 0.1 * 2 / 12 * expected, rtol=1e-4, atol=2e-6)
        assert step.norm() > 0.05
    assert lab.opened == []


def test_other_initial_weights_or_an_incomplete_recipe_are_refused_before_any_read(
    lab: Lab,
) -> None:
    for other in (initial(8), lab.kit.classifier):
        record(lab.kit, initial=digest(other))
        with pytest.raises(UserError, match=r"the initial weights .* cannot be drawn again"):
            step_of(lab)
    for path in [
        *(("initial_sha256",), ("training",), ("training", "epochs"), ("training", "batch_size")),
        *(("training", "optimizer"), ("training", "optimizer", "lr")),
    ]:
        record(lab.kit)
        holder = lab.kit.info.settings
        for name in path[:-1]:
            holder = holder[name]
        del holder[path[-1]]
        with pytest.raises(UserError, match=f"not say how it was trained: no '{path[-1]}'"):
            step_of(lab)
    assert lab.read == []
