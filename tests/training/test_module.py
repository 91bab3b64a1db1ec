"""The module: the training of a plain loop, who moves when, exact resume, faults and logs."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers.logger import DummyLogger
from torch import Tensor, nn

from geniu_lightning.data.loader import IndexLoader
from geniu_lightning.errors import SettingError, TrainingDivergedError
from geniu_lightning.training import proxies
from geniu_lightning.training.module import GeniuModule
from tests.reference import training_loop
from tests.training.small_training import (
    BATCH,
    BATCHES,
    CLASSES,
    EPOCHS,
    IMAGES,
    LABELS,
    PER_CLASS,
    PIXELS,
    SETTINGS,
    SIZE,
    SPEC,
    DroppedOut,
    Moves,
    fit,
    loader_of,
    module_of,
    networks,
    part,
    same,
    tensors_in,
    trainer_of,
)

LAST = EPOCHS * BATCHES
AFTER: dict[str, Any] = {"when": "after", "min_generator_steps": 7}
Trained = tuple[GeniuModule, Moves, Path]


def trained(folder: Path, **changed: Any) -> Trained:
    """Train once, with a checkpoint after each step and each epoch."""
    module, moves = module_of(**changed), Moves()
    steps = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    epochs = ModelCheckpoint(folder, filename="end-of-{epoch}", save_top_k=-1, every_n_epochs=1)
    trainer = fit(module, folder, moves, steps, epochs, data=loader_of(augmented=True))
    assert trainer.global_step == LAST  # of the classifier alone
    return module, moves, folder


@pytest.fixture(scope="module")
def during(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.mktemp("during"))


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.mktemp("after"), **AFTER)


# ---- what is trained when --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "least", "every", "bound"),
    [("during", 10, 2, None), ("during", 1, 3, 2.0), ("after", 7, 2, None)],
)
def test_training_is_that_of_a_plain_loop(
    when: str, least: int, every: int, bound: float | None, tmp_path: Path
) -> None:
    common: dict[str, Any] = {
        "min_generator_steps": least, "every_n_steps": every,
        "prompt_weight": 0.7, "reconstruction_weight": 0.9, "divergence_weight": 0.3,
    }  # fmt: skip
    numbers = training_loop.Settings(
        num_classes=CLASSES, per_class=PER_CLASS, batch_size=BATCH, epochs=EPOCHS,
        exemplar_epochs=2, prompt_batch=4, classifier_rate=0.01, generator_rate=1e-4,
        prompt_rate=0.1, seed=3, after=when == "after", gradient_bound=bound, **common,
    )  # fmt: skip
    expected = training_loop.train(*networks(), IMAGES, LABELS, 0.4, 0.3, numbers)
    plainly = partial(torch.optim.SGD, lr=1e-4)
    module = module_of(when=when, max_gradient_norm=bound, generator_optimizer=plainly, **common)
    start = part(module, "")
    fit(module, tmp_path)
    assert module.exemplars is not None
    assert module.exemplars.ids is not None
    assert module.exemplars.ids.tolist() == expected.exemplars
    # the bound rounds otherwise, which Adam makes more of where gradients are nearly zero
    near = 1e-6 if bound is None else 1e-4
    torch.testing.assert_close(module.prompts.detach(), expected.prompts, rtol=0, atol=near)
    for name, network in (("classifier", expected.classifier), ("proxy_generator", expected.vae)):
        for key, value in network.state_dict().items():
            found = module.state_dict()[f"{name}.{key}"]
            torch.testing.assert_close(found, value, rtol=1e-5, atol=near, msg=f"{name}.{key}")
    for name, least_move in (("classifier", 1e-3), ("proxy_generator", 1e-4), ("prompts", 1e-2)):
        assert any(
            (v - start[k]).abs().max() > least_move for k, v in part(module, name).items()
        ), f"{name} hardly moved, so equality says nothing"


def test_prompts_of_some_classes_are_taught_these_classes_and_show_none_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Tensor] = []

    def read(rows: Tensor) -> Tensor:
        shown.append(LABELS[rows])
        return IMAGES[rows]

    taught: list[int] = []
    losses = proxies.combined_loss

    def noted(**terms: Any) -> Any:
        taught.extend([] if terms["prompts"] is None else terms["prompts"].labels.tolist())
        return losses(**terms)

    monkeypatch.setattr(proxies, "combined_loss", noted)
    module = module_of(classes=(0, 2), read=read)
    module.update_schedule = replace(module.update_schedule, steps_per_epoch=3)  # of 16 images
    assert module.proxy_trainer is not None
    module.proxy_trainer.schedule = module.update_schedule.updates
    fit(module, tmp_path, data=loader_of(classes=(0, 2)))
    assert module.prompts.shape[0] == 2 * PER_CLASS
    assert set(taught) == {0, 2}
    for labels in shown:
        assert labels.tolist() == [0] * PER_CLASS + [2] * PER_CLASS
    assert 0 <= module.proxy_accuracy() <= 1


def test_generator_and_prompts_move_where_scheduled_and_never_disturb_the_classifier(
    during: Trained, after: Trained, tmp_path: Path
) -> None:
    alone = module_of(with_generator=False, kind=DroppedOut)
    fit(alone, tmp_path)
    assert not part(alone, "prompts")
    start = networks(DroppedOut)[0].state_dict()
    assert not same(part(alone, "classifier"), {f"classifier.{k}": v for k, v in start.items()})
    module = module_of(kind=DroppedOut)
    fit(module, tmp_path)
    assert same(part(alone, "classifier"), part(module, "classifier"))
    for (module, moves, _), first, last, totals in (
        (during, BATCHES, LAST, (10, 5)),
        (after, LAST, LAST + BATCHES, (7, 3)),
    ):
        assert moves.moved["classifier"] == list(range(LAST))
        for name, total in zip(("proxy_generator", "prompts"), totals, strict=True):
            expected = training_loop.calendar(total, first, last - first)
            assert moves.moved[name] == sorted(set(expected))
        assert same(part(module, "classifier"), moves.after_epoch[EPOCHS - 1]["classifier"])
    assert not after[0].classifier.training


def test_a_finished_classifier_is_scored_and_never_moved(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"when must be after \(experiment=post_hoc\)"):
        module_of(finished=True)
    settings: Any = {"when": "after", "epochs": 1, "kind": DroppedOut}
    module, moves = module_of(finished=True, **settings), Moves()
    start = part(module, "classifier")
    expected = module_of(**settings).exemplars
    assert expected is not None
    with torch.no_grad():
        for batch in loader_of():
            logits = module.classifier.eval()(batch.images)
            expected.observe(batch.indices, batch.labels, logits, logits)
    expected.select()
    trainer = fit(module, tmp_path, moves)
    assert trainer.current_epoch == 2
    assert same(part(module, "classifier"), start)
    assert module.exemplars is not None
    assert torch.equal(module.exemplars.ids, expected.ids)  # type: ignore[arg-type]  # both chose
    for name in ("proxy_generator", "prompts"):
        assert min(moves.moved[name]) >= BATCHES


# ---- resume ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point",
    [
        "step=4",  # the last step of an epoch, before its end was reached
        "step=6",
        "end-of-epoch=0",
        "end-of-epoch=2",  # nothing left to do
        "after",  # the epoch of prompts and generator alone
    ],
)
def test_resumed_training_ends_bitwise_where_an_uninterrupted_one_does(
    point: str, during: Trained, after: Trained, tmp_path: Path
) -> None:
    uninterrupted, _, folder = after if point == "after" else during
    changed = AFTER if point == "after" else {}
    file = folder / f"{f'step={LAST}' if point == 'after' else point}.ckpt"
    module = module_of(**changed)
    with torch.random.fork_rng():
        torch.manual_seed(12345)  # whatever another process's random state was
        trainer = fit(module, tmp_path, data=loader_of(augmented=True), ckpt_path=file)
    assert trainer.global_step == LAST
    assert same(module.state_dict(), uninterrupted.state_dict())
    assert torch.equal(module.exemplars.ids, uninterrupted.exemplars.ids)  # type: ignore[union-attr, arg-type]


def test_a_checkpoint_holds_no_image_and_the_plain_settings(during: Trained) -> None:
    content = torch.load(during[2] / "step=10.ckpt", weights_only=True)
    found = dict(tensors_in(content))
    pictures = {path for path, t in found.items() if t.shape[-2:] == (SIZE, SIZE)}
    assert "/state_dict/prompts" in pictures
    moments = "/optimizer_states/2/state/0/exp_avg"
    assert all(p.startswith(moments) for p in pictures - {"/state_dict/prompts"})
    pixels = {
        tuple(image.flatten()[100:103].tolist())
        for images in (IMAGES, SPEC.normalise(IMAGES), PIXELS)
        for image in images
    }
    for path, tensor in found.items():
        values = tensor.flatten().tolist()
        hidden = pixels.intersection(zip(values, values[1:], values[2:], strict=False))
        assert not hidden, f"{path} holds a part of an image"
    plain = {name: value for name, value in SETTINGS.items() if not callable(value)}
    assert plain.items() <= content["hyper_parameters"].items()


# ---- faults ----------------------------------------------------------------------------------


def spoilt_at(step: int) -> IndexLoader:
    loader = loader_of()
    read, calls = loader.read, iter(range(10**6))

    def spoilt(rows: Tensor, augmentation: int | None) -> tuple[Tensor, Tensor]:
        images, labels = read(rows, augmentation)
        return (images * torch.nan if next(calls) == step else images), labels

    loader.read = spoilt
    return loader


def test_diverged_training_names_the_step_and_leaves_the_last_good_checkpoint(
    tmp_path: Path,
) -> None:
    def on_gradient(module: GeniuModule, name: str) -> GeniuModule:
        step = iter(range(10**6))
        dict(module.named_parameters())[name].register_hook(
            lambda gradient: gradient * torch.nan if next(step) == 2 else gradient
        )
        return module

    generator = training_loop.calendar(10, BATCHES, (EPOCHS - 1) * BATCHES)[0]
    broken = module_of(read=lambda rows: IMAGES[rows] * torch.inf)
    for case, (module, data, said, saves) in enumerate(
        (
            (module_of(log_every_n_steps=1), spoilt_at(0), "at step 0;.*max_gradient_norm", True),
            (module_of(), spoilt_at(5), "at step 5;", True),
            (module_of(), spoilt_at(2), "at step 2;", False),  # noticed at the end of the epoch
            (broken, None, f"at step {generator};", False),
            # a loss that was finite, of weights that are not
            (on_gradient(module_of(), "classifier.head.weight"), None, "a weight stopped", True),
            (on_gradient(module_of(), "prompts"), None, "a weight stopped", True),
        )
    ):
        folder = tmp_path / str(case)
        keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1)
        with pytest.raises(TrainingDivergedError, match=said):
            fit(module, folder, *([keep] if saves else []), data=data)
        files = list(folder.glob("*.ckpt"))
        assert len(files) == (saves and case > 0)
        for file in files:
            for path, tensor in tensors_in(torch.load(file, weights_only=True)["state_dict"]):
                assert tensor.isfinite().all(), path


# ---- what it logs ----------------------------------------------------------------------------


def test_accuracies_losses_and_rates_are_logged_and_validation_moves_nothing(
    tmp_path: Path,
) -> None:
    entries: list[tuple[int | None, dict[str, float]]] = []
    right: list[int] = []

    class Records(DummyLogger):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            entries.append((step, metrics))

    class Count(Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            right.clear()

    def counted(module: nn.Module, __: object, logits: Tensor) -> None:
        if module.training and len(logits) == BATCH:
            right.extend(logits.argmax(dim=1).tolist())

    module = module_of(log_every_n_steps=3, every_n_steps=1)
    module.classifier.head.register_forward_hook(counted)
    held_back = IndexLoader(
        lambda rows, _: (SPEC.normalise(IMAGES[rows]), LABELS[rows]), torch.arange(20), 10
    )
    callbacks = (Count(), LearningRateMonitor(logging_interval="step"))
    more = {"logger": Records(), "log_every_n_steps": 1, "limit_val_batches": 1.0}
    trainer = trainer_of(module, tmp_path, *callbacks, **more)
    trainer.fit(module, loader_of(), held_back)
    fit(alone := module_of(with_generator=False), tmp_path)
    assert same(part(module, "classifier"), part(alone, "classifier"))

    answers = module.classifier.eval()(SPEC.normalise(IMAGES[:20])).argmax(dim=1)
    logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
    accuracy = np.mean(answers.numpy() == LABELS[:20].numpy())
    assert logged["validation/accuracy"] == pytest.approx(accuracy, abs=1e-6)
    loader = loader_of()
    loader.epoch = EPOCHS - 1
    labels = torch.cat([batch.labels for batch in loader]).tolist()
    accuracy = np.mean([a == b for a, b in zip(right[: len(labels)], labels, strict=True)])
    assert logged["train/accuracy"] == pytest.approx(accuracy)

    losses = [(step, entry) for step, entry in entries if "train/loss" in entry]
    assert [step for step, _ in losses] == [2, 5, 8, 11]
    names = {"classifier", "prompts", "reconstruction", "divergence"}
    for step, entry in losses:
        terms = {k: v for k, v in entry.items() if k.startswith("train/loss/")}
        assert set(terms) == {f"train/loss/{n}" for n in (names if step != 2 else {"classifier"})}
        assert entry["train/loss"] == pytest.approx(sum(terms.values()))
    rates = [(step, entry) for step, entry in entries if "train/rate" in entry]
    assert [step for step, _ in rates] == list(range(LAST))
    for step, entry in rates:
        rate = training_loop.one_cycle(0.01, step or 0, LAST)
        assert entry["train/rate"] == pytest.approx(rate, rel=1e-6)
        assert {"train/rate/generator", "train/rate/prompts"} < set(entry)


def test_proxies_are_decoded_means_and_their_accuracy_counts_those_of_the_right_class(
    during: Trained,
) -> None:
    module = module_of()
    module.load_state_dict(during[0].state_dict())
    assert module.proxy_trainer is not None
    vae: Any = module.proxy_trainer.generator.train()
    before = part(module, "")
    proxies, accuracy = module.proxy_trainer.proxies(), module.proxy_accuracy()
    assert vae.training
    assert same(part(module, ""), before)
    vae.eval()
    torch.testing.assert_close(proxies, vae.decode(vae.encode(module.prompts)[0]).detach())
    answers = module.classifier.eval()(SPEC.normalise(proxies)).argmax(dim=1).tolist()
    right = [answer == n // PER_CLASS for n, answer in enumerate(answers)]
    assert 0 < np.mean(right) < 1
    assert float(accuracy) == pytest.approx(np.mean(right))
