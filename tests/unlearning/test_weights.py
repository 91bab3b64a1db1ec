"""X."""

import copy
import dataclasses
import hashlib
import json
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geniu_lightning.data import imbalance
from geniu_lightning.data.module import ImageData
from geniu_lightning.data.sources import Digits
from geniu_lightning.errors import SettingError, UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.coreset import Coreset, CoresetTune, coreset_size
from geniu_lightning.unlearning.retrain import Retrain, steps_of_retraining
from geniu_lightning.unlearning.sources import Access, Sources
from geniu_lightning.unlearning.ssd import Ssd, dampening, percentile_alpha
from geniu_lightning.unlearning.unrolling_sgd import UnrollingSgd
from tests.unlearning.helpers import (
    GONE,
    KEPT,
    TrainerOf,
    no_trainer,
    own_probability,
    prepared,
    run,
)


# ---- ssd: importances, factors, and the edit ----


def measured(kit: Kit, archive: Any, **settings: Any) -> Ssd:
    method = Ssd(**{"forget": GONE} | settings)
    prepared(method, kit, archive)
    return method


def row(tensors: Any) -> np.ndarray:
    return np.concatenate([t.detach().double().numpy().ravel() for t in tensors])


def slowly(kit: Kit, images: Tensor, labels: Tensor, parts: int | None, loss: str) -> np.ndarray:
    """Return importances by backward in double precision: image by image, or by parts."""
    network = copy.deepcopy(kit.classifier).double().requires_grad_(True)
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


def close(found: Tensor, expected: np.ndarray) -> bool:
    return np.allclose(found.numpy(), expected, rtol=2e-3, atol=1e-5 * expected.max())


@pytest.mark.parametrize("loss", ["cross_entropy", "logit_norm"])
def test_importances_are_those_of_a_backward_for_each_image(
    kit: Kit, archive: Any, loss: str
) -> None:
    method = measured(kit, archive, loss=loss, chunk=4)
    forgotten = torch.isin(archive.labels, torch.tensor(GONE))
    images, labels = archive.images, archive.labels
    expected = slowly(kit, images[forgotten], labels[forgotten], None, loss)
    assert close(method.forget_importance, expected)
    expected = slowly(kit, images[~forgotten], labels[~forgotten], None, loss)
    assert close(method.reference_importance, expected)
    assert method.fraction == 18 / 45
    # the public code's means of batches: 18 images, at most 7 at once
    batches = measured(kit, archive, importance="batch_mean", batch_size=7, loss=loss)
    expected = slowly(kit, images[forgotten], labels[forgotten], 3, loss)
    assert close(batches.forget_importance, expected)
    assert not close(method.forget_importance, expected)
    # a square of means is no more than the mean of squares, in which 4 of 18 count 1.5 times
    assert (batches.forget_importance <= method.forget_importance * (1.5 + 1e-4)).all()
    proxies = kit.proxies([*GONE])
    settings = {"importance": "batch_mean", "batch_size": 2, "source": "proxies"}
    found = measured(kit, archive, loss=loss, **settings)
    normalised = kit.info.spec.normalise(proxies.images)
    assert close(found.forget_importance, slowly(kit, normalised, proxies.labels, 2, loss))


def test_importances_depend_neither_on_batch_size_nor_on_order(kit: Kit, archive: Any) -> None:
    first = measured(kit, archive, batch_size=5, chunk=3)
    order = torch.randperm(45, generator=torch.Generator().manual_seed(0))
    archive.images, archive.labels = archive.images[order], archive.labels[order]
    second = measured(kit, archive, batch_size=45, chunk=16)
    for name in ("forget_importance", "reference_importance"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=1e-4, atol=0)


def test_over_all_images_each_counts_once_and_no_ratio_exceeds_the_bound(
    kit: Kit, archive: Any
) -> None:
    one = measured(kit, archive, forget=(2,), reference="all")
    everything = slowly(kit, archive.images, archive.labels, None, "cross_entropy")
    assert close(one.reference_importance, everything)
    method = Ssd(forget=GONE, reference="all", alpha=2.6)
    result = run(method, kit, archive, no_trainer)
    ratios = (method.forget_importance / method.reference_importance).nan_to_num()
    assert 1 < ratios.max() <= 45 / 18 * (1 + 1e-5)
    assert (row(result.parameters()) == row(kit.classifier.parameters())).all()


def test_factors_by_hand_and_at_the_edges() -> None:
    #                 above  at it  below  both 0  no I_f  no I   lower lifts it over 1
    forget = torch.tensor([8.0, 4.0, 3.0, 0.0, 0.0, 5.0, 4.0])
    reference = torch.tensor([2.0, 2.0, 2.0, 0.0, 1.0, 0.0, 1.5])
    found = dampening(forget, reference, alpha=2.0, lower=0.5)
    assert found.tolist() == [0.125, 1.0, 1.0, 1.0, 1.0, 0.0, 0.1875]
    assert dampening(forget, reference, 2.0, 3.0).tolist() == [0.75, 1, 1, 1, 1, 0, 1]
    ratios = torch.tensor([*np.arange(1, 1002) / 100, 3.0, 0.0]).float()
    ones = torch.tensor([*np.ones(1001), 0.0, 0.0]).float()
    q = 100 - math.log(1 + 100 * 0.1)
    # the ratios are a straight line; non-finite ones are left out
    assert percentile_alpha(ratios, ones, 0.1) == pytest.approx(0.01 + q / 100 * 10, rel=1e-5)
    no_effect = percentile_alpha(torch.ones(3), torch.zeros(3), 0.1)
    assert dampening(torch.ones(3), torch.zeros(3), no_effect, 1.0).tolist() == [0, 0, 0]


def test_each_weight_is_multiplied_by_its_factor_and_the_class_is_forgotten(
    kit: Kit, archive: Any
) -> None:
    for alpha in (3.0, None):
        method = Ssd(forget=GONE, alpha=alpha, lower=0.5)
        result = run(method, kit, archive, no_trainer)
        forget, reference = (
            t.double().numpy() for t in (method.forget_importance, method.reference_importance)
        )
        if alpha is None:
            ratios = forget[reference > 0] / reference[reference > 0]
            alpha = np.percentile(ratios, 100 - math.log(1 + 100 * 18 / 45))
        chosen = forget > alpha * reference
        assert 0 < chosen.mean() < 1
        before, after = row(kit.classifier.parameters()), row(result.parameters())
        assert (before[~chosen] == after[~chosen]).all()
        expected = before[chosen] * np.minimum(0.5 * reference[chosen] / forget[chosen], 1)
        np.testing.assert_allclose(after[chosen], expected, rtol=1e-4)
    for source in ("data", "proxies"):
        result = run(Ssd(forget=GONE, alpha=3.0, source=source), kit, archive, no_trainer)
        forget, retain = own_probability(result, archive)
        assert forget < 0.5
        assert retain > forget + 0.3


# ---- unrolling_sgd: the step, what it undoes, and the initial weights it insists on ----


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


def sgd(images: Tensor, labels: Tensor, counts: Tensor, lr: float, epochs: int, b: int) -> Any:
    """Train from the initial weights by plain SGD in batches of b, in order.

    An image whose count is 0 keeps its place in the mean of its batch, but adds nothing.
    """
    network = initial().to(images.dtype)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    for _ in range(epochs):
        for chosen in torch.arange(len(labels)).split(b):
            optimizer.zero_grad()
            losses = F.cross_entropy(network(images[chosen]), labels[chosen], reduction="none")
            (losses * counts[chosen]).mean().backward()
            optimizer.step()
    return network


def test_training_is_undone_up_to_an_error_of_second_order_in_the_rate(
    kit: Kit, archive: Any
) -> None:
    retained = (~torch.isin(archive.labels, torch.tensor(GONE))).double()
    errors, parts = [], []
    for lr in (1e-4, 1e-5):  # the initial weights are close to many kinks
        trained, without = (
            sgd(archive.images.double(), archive.labels, counts, lr=lr, epochs=3, b=9)
            for counts in (torch.ones(45).double(), retained)
        )
        taught = trained_kit(kit, copy.deepcopy(trained), lr=lr, epochs=3, batch_size=9)
        wanted = flat(without.parameters())
        parts.append((wanted - flat(trained.parameters())).norm().item())
        result = unrolled(taught, archive)
        errors.append((wanted - flat(result.parameters())).norm().item())
    assert errors[1] < 0.03 * parts[1]
    assert parts[0] / parts[1] == pytest.approx(10, rel=0.1)
    assert errors[0] / errors[1] > 30


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
        with pytest.raises(UserError, match="the initial weights .* cannot be drawn again"):
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


# ---- retrain: the recipe that it follows, and the kits that it refuses ----


def with_recipe(kit: Kit, **changes: Any) -> Kit:
    recipe = kit.info.settings["training"] | changes
    info = dataclasses.replace(kit.info, settings=kit.info.settings | {"training": recipe})
    return Kit(kit.classifier, info, kit.generator, kit.prompts)


def fresh(kit: Kit, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(stream("init", seed))
        return kit.info.classifier.build_classifier()


def test_every_parameter_and_buffer_is_fresh(kit: Kit, archive: Any) -> None:
    for training_seed, seed in ((None, 7), (9, 9)):
        method = Retrain(forget=GONE, training_seed=training_seed)
        state = torch.get_rng_state()
        method.prepare(kit, archive.sources(Access.RETAIN, GONE))
        assert torch.equal(torch.get_rng_state(), state)
        old, new = kit.classifier.state_dict(), method.classifier.state_dict()
        expected = fresh(kit, seed).state_dict()
        for name, tensor in new.items():
            assert torch.equal(tensor, expected[name]), name
            assert not torch.equal(tensor, old[name]), name
        assert archive.opened[-1] == ("retain", 12, seed)
        assert all(p.requires_grad for p in method.classifier.parameters())


def test_steps_are_epochs_times_batches_over_the_retain_set(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    for epochs, size, steps in [(1, 45, 1), (2, 12, 6), (3, 10, 12), (1, 7, 6)]:
        archive.read.clear()
        taught = with_recipe(kit, epochs=epochs, batch_size=size)
        method = Retrain(forget=(2,))  # 36 images are retained
        result = run(method, taught, archive, trainer_of)
        assert method.steps == steps == steps_of_retraining(taught, (2,))
        counts = torch.bincount(torch.tensor(archive.read), minlength=5).tolist()
        assert counts == [0 if k == 2 else epochs * 9 for k in range(5)]
        assert result.head.out_features == 5


@pytest.mark.parametrize("schedule", ["onecycle", "none"])
def test_it_follows_the_recipe_as_a_plain_loop_does(
    kit: Kit, archive: Any, new_archive: Any, trainer_of: TrainerOf, schedule: str
) -> None:
    kit = with_recipe(kit, schedule=schedule, max_gradient_norm=0.5)
    found = run(Retrain(forget=GONE), kit, archive, trainer_of).state_dict()
    network, other = fresh(kit, 7).train(), new_archive()
    other.forget = GONE
    loader = other.open_split("retain", 12, 7)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, total_steps=6, cycle_momentum=False)
    scheduler = one_cycle(optimizer, 0.05) if schedule == "onecycle" else None
    for _ in range(2):
        for batch in loader:
            optimizer.zero_grad()
            F.cross_entropy(network(batch.images), batch.labels).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(found[name], tensor)


def test_it_learns_the_retained_classes_and_never_answers_the_others(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    result = run(Retrain(forget=GONE), with_recipe(kit, epochs=20), archive, trainer_of)
    answers = result(archive.images).argmax(dim=1)
    forgotten = torch.isin(archive.labels, torch.tensor(GONE))
    assert not torch.isin(answers, torch.tensor(GONE)).any()
    assert (answers == archive.labels)[~forgotten].float().mean() > 0.9


def test_a_kit_of_a_stranger_runs_no_command_and_needs_a_recipe(
    kit: Kit, archive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def called(*_: object) -> int:
        raise AssertionError("the kit ran a command")

    monkeypatch.setattr(os, "system", called)
    for target in [
        *("os.system", "builtins.eval", "torch.optim.Nonsense", "torch.optim.lr_scheduler"),
        *("torch.optim.swa_utils.AveragedModel", "torch.optim.lr_scheduler.os.system", "SGD", ""),
        None,
    ]:
        optimizer = {"_target_": target, "_partial_": True, "command": "true"}
        bad = with_recipe(kit, optimizer=optimizer)
        with pytest.raises(UserError, match=r"only optimizers of torch\.optim can be taken"):
            prepared(Retrain(forget=(0,)), bad, archive)
    archive.opened.clear()
    for settings in [
        {},
        {"training": None},
        {"training": {"epochs": 5}},
        {"training": {"epochs": 0, "batch_size": 8}},
        {"training": {"epochs": 5, "batch_size": "few"}},
    ]:
        info = dataclasses.replace(kit.info, settings=settings, generator=None)
        bare = Kit(kit.classifier, info)
        for ask in (partial(steps_of_retraining, forget=(0,)), None):
            with pytest.raises(UserError, match="does not say how it was trained"):
                ask(bare) if ask else prepared(Retrain(forget=(0,)), bare, archive)
    assert archive.opened == []


# ---- coreset: the budget, which images are drawn, and both methods on them ----

IMAGE = 16 * 16  # bytes of one


def tune(**settings: Any) -> CoresetTune:
    optimizer = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    defaults = {"forget": GONE, "steps": 8, "optimizer": optimizer, "batch_size": 9}
    return CoresetTune(**defaults | settings)


def test_the_size_is_that_of_the_budget(kit: Kit, archive: Any, tmp_path: Path) -> None:
    kit.save(tmp_path / "kit.safetensors")
    bytes_of = {"F32": 4, "I64": 8}
    raw = (tmp_path / "kit.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    size = sum(
        bytes_of[about["dtype"]] * int(torch.tensor(about["shape"]).prod())
        for name, about in header.items()
        if name.startswith("generator.") or name == "prompts"
    )
    assert size // IMAGE > 27
    assert coreset_size(kit, GONE, "kit", None) == 27  # all that there are
    assert coreset_size(kit, GONE, "proxies", None) == 3 * 2
    assert coreset_size(kit, (0,), "proxies", None) == 4 * 2
    kit.info = dataclasses.replace(kit.info, class_counts=(10**6,) * 5)
    assert coreset_size(kit, GONE, "kit", None) == size // IMAGE
    kit.generator = kit.prompts = None
    for given, images in ((IMAGE, 1), (10 * IMAGE - 1, 9), (10 * IMAGE, 10)):
        assert coreset_size(kit, GONE, "proxies", given) == images
    with pytest.raises(SettingError, match=f"bytes must hold at least one image of {IMAGE}"):
        coreset_size(kit, GONE, "kit", IMAGE - 1)
    for method in (Coreset(forget=GONE), tune(budget="proxies")):
        with pytest.raises(UserError, match=r"no generator .* set unlearner\.bytes"):
            prepared(method, kit, archive)
    assert archive.opened == []


def kit_of_ten(kit: Kit) -> Kit:
    """Return a kit whose classifier has ten classes."""
    arguments = kit.info.classifier.arguments | {"num_classes": 10}
    spec = dataclasses.replace(kit.info.classifier, arguments=arguments)
    names = {"class_names": tuple("abcdefghij"), "class_counts": (9,) * 10}
    info = dataclasses.replace(kit.info, classifier=spec, generator=None, **names)
    return Kit(spec.build_classifier(), info)


@pytest.mark.parametrize("make", [partial(Coreset, min_steps=8, forget=GONE), tune])
def test_the_same_images_are_read_in_each_epoch_evenly_over_retained_classes(
    kit: Kit, tmp_path_factory: Any, trainer_of: TrainerOf, make: Any
) -> None:
    drawn = []
    for seed in (1, 1, 2):
        data = ImageData(
            name="digits",
            source=Digits,
            image_size=16,
            channels=1,
            imbalance=imbalance.none,
            cache_folder=str(tmp_path_factory.getbasetemp() / "digits"),
        )
        data.set_forget(GONE)
        read: list[int] = []
        gate = data.read

        def noted(
            which: str, indices: Tensor, *more: Any, read: Any = read, gate: Any = gate
        ) -> Tensor:
            read += indices.tolist()
            return gate(which, indices, *more)

        data.read = noted

        def open_split(
            split: str, batch_size: int, seed: int | None, limit: int | None, data: Any = data
        ) -> Any:
            return data.loader(split, batch_size=batch_size, seed=seed, limit=limit)

        method = make(bytes=21 * IMAGE + 5, seed=seed)
        method.run(kit_of_ten(kit), Sources(Access.RETAIN, GONE, open_split), trainer_of)
        distinct = torch.tensor(read).unique()
        assert len(distinct) == 21 == method.stored
        assert len(read) >= 2 * 21  # several epochs, and yet no other image
        counts = torch.bincount(data.all_labels[distinct], minlength=10)
        assert counts[list(GONE)].tolist() == [0, 0]
        assert set(counts.tolist()) == {0, 2, 3}
        assert (counts > 0).sum() == 8
        drawn.append(set(read))
    assert drawn[0] == drawn[1] != drawn[2]


def test_epochs_are_added_and_the_seed_is_of_both_seeds(kit: Kit, archive: Any) -> None:
    for min_steps, steps in [(0, 4), (4, 4), (5, 6), (300, 300)]:
        # 24 images in batches of 12, two epochs
        method = Coreset(forget=GONE, bytes=24 * IMAGE, min_steps=min_steps)
        method.prepare(kit, archive.sources(Access.RETAIN, GONE))
        assert method.steps == steps
    found = []
    for seed in (1, 1, 2):
        kit.info = dataclasses.replace(kit.info, seed=seed)
        method = Coreset(forget=GONE, bytes=20 * IMAGE)
        method.prepare(kit, archive.sources(Access.RETAIN, GONE))
        found.append((archive.opened[-1], method.classifier.head.weight))
    assert found[0][0] == found[1][0] != found[2][0]  # order, augmentation and draw
    assert torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][1], found[2][1])


def test_retraining_on_a_coreset_never_answers_a_forget_class(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = Coreset(forget=GONE, bytes=15 * IMAGE, min_steps=40)
    assert (method.batch_norm, method.from_scratch) == ("train", True)
    answers = run(method, kit, archive, trainer_of)(archive.images).argmax(dim=1)
    forgotten = torch.isin(archive.labels, torch.tensor(GONE))
    assert not torch.isin(answers, torch.tensor(GONE)).any()
    assert (answers == archive.labels)[~forgotten].float().mean() > 0.8
    archive.read.clear()
    whole = Coreset(forget=GONE, bytes=10**6)  # no epoch is added: it is retraining
    run(whole, kit, archive, trainer_of)
    assert whole.stored == 27
    assert torch.bincount(torch.tensor(archive.read), minlength=5).tolist() == [18, 0, 18, 0, 18]


def test_tuning_on_a_coreset_masks_the_forget_classes(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    result = run(tune(bytes=15 * IMAGE), kit, archive, trainer_of)
    logits = result(archive.images)
    assert logits[:, GONE].max() < logits[:, KEPT].min() - 100
    assert own_probability(result, archive)[1] > 0.9
    before, after = (n.head.weight[list(KEPT)] for n in (kit.classifier, result))
    assert not torch.equal(before, after)
    with pytest.raises(TypeError, match="source"):
        tune(source="proxies")
