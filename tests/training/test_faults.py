"""Training: what can go wrong, and what it says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from geniu_lightning.data.loader import IndexLoader
from geniu_lightning.errors import TrainingDivergedError, UserError
from geniu_lightning.models.vae import VAE
from tests.reference import training_loop
from tests.training.small_training import (
    BATCHES,
    CLASSES,
    EPOCHS,
    IMAGES,
    LABELS,
    SPEC,
    Watch,
    fit,
    loader_of,
    module_of,
    part,
    ready,
    same,
    tensors_in,
    trainer_of,
)

# ---- what can go wrong -----------------------------------------------------------------------


def spoilt_at(tick: int) -> IndexLoader:
    loader = loader_of()
    read, calls = loader.read, iter(range(10**6))

    def spoilt(rows: Tensor, augmentation: int | None) -> tuple[Tensor, Tensor]:
        images, labels = read(rows, augmentation)
        return (images * torch.nan if next(calls) == tick else images), labels

    loader.read = spoilt
    return loader


@pytest.mark.parametrize(("tick", "every"), [(0, 1), (5, 50)])
def test_diverged_training_names_the_step_and_keeps_the_last_good_checkpoint(
    tick: int, every: int, tmp_path: Path
) -> None:
    kept = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1)
    module = module_of(log_every_n_steps=every)
    with pytest.raises(TrainingDivergedError, match=f"at step {tick};.*max_gradient_norm"):
        fit(module, tmp_path, kept, data=spoilt_at(tick))
    files = list(tmp_path.glob("*.ckpt"))
    assert [file.name for file in files] == ([f"step={tick}.ckpt"] if tick else [])
    for file in files:
        for path, tensor in tensors_in(torch.load(file, weights_only=True)["state_dict"]):
            assert tensor.isfinite().all(), path


def test_diverged_training_is_noticed_at_the_end_of_the_epoch_without_checkpoints(
    tmp_path: Path,
) -> None:
    with pytest.raises(TrainingDivergedError, match="at step 2;"):
        fit(module_of(), tmp_path, data=spoilt_at(2))


def test_diverged_generator_names_the_step(tmp_path: Path) -> None:
    module = module_of(exemplar_images=lambda rows: IMAGES[rows] * torch.inf)
    first = training_loop.calendar(10, BATCHES, (EPOCHS - 1) * BATCHES)[0]
    with pytest.raises(TrainingDivergedError, match=f"at step {first};"):
        fit(module, tmp_path)


@pytest.mark.parametrize("spoilt", ["classifier.head.weight", "prompts"])
def test_checkpoint_of_broken_weights_is_not_written_though_the_loss_was_finite(
    spoilt: str, tmp_path: Path
) -> None:
    module = module_of()
    tick = iter(range(10**6))

    def hook(gradient: Tensor) -> Tensor:
        return gradient * torch.nan if next(tick) == 2 else gradient

    dict(module.named_parameters())[spoilt].register_hook(hook)
    kept = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1)
    with pytest.raises(TrainingDivergedError):
        fit(module, tmp_path, kept)
    (file,) = tmp_path.glob("*.ckpt")
    for path, tensor in tensors_in(torch.load(file, weights_only=True)["state_dict"]):
        assert tensor.isfinite().all(), path


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"epochs": 0}, "training.epochs and training.every_n_steps must be at least 1"),
        ({"every_n_steps": 0}, "must be at least 1"),
        ({"prompt_batch": 1}, "training.prompt_batch must be at least 2, got 1"),
        ({"epochs": 1}, "needs training.epochs of at least 2"),
    ],
)
def test_contradicting_settings_are_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        module_of(**changed)


def test_one_epoch_is_enough_without_a_generator() -> None:
    assert module_of(with_generator=False, epochs=1).cadence.max_epochs == 1


@pytest.mark.parametrize(
    "changed", [{"when": "later"}, {"exemplars_until": 1.5}, {"exemplars_until": 0.0}]
)
def test_settings_outside_their_range_are_refused(changed: dict[str, Any]) -> None:
    (name,) = changed
    with pytest.raises(UserError, match=name):
        module_of(**changed)


def test_unknown_schedule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="onecycle, cosine or none"):
        fit(module_of(schedule="linear"), tmp_path)


# ---- what it says ----------------------------------------------------------------------------


def test_validation_accuracy_is_that_of_all_images_and_moves_nothing(tmp_path: Path) -> None:
    module, watch = module_of(), Watch()
    held_back = IndexLoader(
        lambda rows, _: (SPEC.normalise(IMAGES[rows]), LABELS[rows]), torch.arange(20), 10
    )
    trainer = trainer_of(module, tmp_path, watch, limit_val_batches=1.0)
    trainer.fit(module, loader_of(), held_back)
    plain = module_of()
    fit(plain, tmp_path)
    assert same(module.state_dict(), plain.state_dict())
    module.eval()
    right = [
        int(module.classifier(SPEC.normalise(IMAGES[n : n + 1])).argmax()) == int(LABELS[n])
        for n in range(20)
    ]
    found = float(trainer.callback_metrics["validation/accuracy"])
    assert found == pytest.approx(np.mean(right), abs=1e-6)


def test_train_accuracy_is_the_share_of_the_epoch(tmp_path: Path) -> None:
    right: list[float] = []

    class Count(Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            right.clear()

    module = module_of(with_generator=False)

    def counted(_: object, __: object, logits: Tensor) -> None:
        right.extend(logits.argmax(dim=1).tolist())

    module.classifier.head.register_forward_hook(counted)
    trainer = fit(module, tmp_path, Count())
    loader = loader_of()
    loader.epoch = EPOCHS - 1
    labels = torch.cat([batch.labels for batch in loader]).tolist()
    expected = np.mean([a == b for a, b in zip(right, labels, strict=True)])
    assert float(trainer.callback_metrics["train/accuracy"]) == pytest.approx(expected)


def test_proxies_are_decoded_means_and_leave_the_generator_as_it_was() -> None:
    module = ready()
    assert isinstance(module.proxy_generator, VAE)
    module.proxy_generator.train()
    before = part(module, "")
    proxies = module.proxies()
    assert torch.equal(proxies, module.proxies())
    assert module.proxy_generator.training
    assert same(part(module, ""), before)
    vae = module.proxy_generator.eval()
    torch.testing.assert_close(proxies, vae.decode(vae.encode(module.prompts)[0]).detach())


def test_proxy_accuracy_counts_proxies_that_are_taken_for_their_class() -> None:
    module = ready()
    stage = torch.tensor([0, 1, 1, 1, 2, 0])  # what the classifier says of each proxy

    class Says(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            torch.testing.assert_close(images, SPEC.normalise(module.proxies()))
            return nn.functional.one_hot(stage, CLASSES).float()

    module.classifier = Says()
    assert float(module.proxy_accuracy()) == pytest.approx(4 / 6)


def test_logs_name_the_terms_and_their_sum(tmp_path: Path) -> None:
    entries: list[tuple[int, dict[str, float]]] = []
    from pytorch_lightning.loggers import CSVLogger

    class Records(CSVLogger):
        def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
            if "train/loss" in metrics:
                entries.append((step or 0, metrics))

    module = module_of(log_every_n_steps=3, every_n_steps=1)
    trainer = trainer_of(module, tmp_path)
    trainer.loggers = [Records(tmp_path)]
    trainer.fit(module, loader_of())
    assert [step for step, _ in entries] == [2, 5, 8, 11]
    names = {"classifier", "prompts", "reconstruction", "divergence"}
    for step, entry in entries:
        terms = {k: v for k, v in entry.items() if k.startswith("train/loss/")}
        assert set(terms) == {f"train/loss/{n}" for n in (names if step > 3 else {"classifier"})}
        assert entry["train/loss"] == pytest.approx(sum(terms.values()))
        rate = training_loop.one_cycle(0.01, step + 1, EPOCHS * BATCHES)
        if step < EPOCHS * BATCHES - 1:
            assert entry["train/rate"] == pytest.approx(rate, rel=1e-6)
