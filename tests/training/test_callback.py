"""`KitCallback`: a kit from a user's own training, which stays the same bit for bit."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers.logger import DummyLogger

from geniu_lightning import KitCallback, load_kit
from geniu_lightning.errors import KitError, UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import state_digest
from geniu_lightning.settings.configs import CONF, built
from geniu_lightning.training.exemplars import entropy
from geniu_lightning.training.settings import ProxySettings
from geniu_lightning.unlearning.retrain import steps_of_retraining
from tests.training.foreign import (
    BATCH,
    EPOCHS,
    NAMES,
    SPEC,
    ByHand,
    Digits,
    Foreign,
    fit,
    images_and_labels,
    kit_callback,
    seeded,
    vae,
)

# ---- the user's training ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "strategy", "more"),
    [
        (Foreign, "nearest_mean", {"accumulate_grad_batches": 4}),
        (ByHand, "max_entropy", {}),
    ],
)
def test_the_users_training_is_the_same_bit_for_bit(
    tmp_path: Path, kind: type[Foreign], strategy: str, more: dict[str, Any]
) -> None:
    found = []
    generator = vae(4, "tests.training.foreign.DroppingVAE")
    callback = kit_callback(tmp_path / "kit", exemplar_strategy=strategy, generator=generator)
    for callbacks in ((), (callback,)):
        module = seeded(kind)
        module.net.layers[1].eval()  # somebody froze a layer
        trainer = fit(module, tmp_path, *callbacks, **more)
        momentum = trainer.optimizers[0].state_dict()["state"]
        found.append(
            (
                state_digest(module),
                torch.get_rng_state().tolist(),
                [s["momentum_buffer"].tolist() for s in momentum.values()],
                [layer.training for layer in module.modules()],
                [p.requires_grad for p in module.parameters()],
                trainer.callback_metrics,
            )
        )
    assert found[0] == found[1]
    assert (tmp_path / "kit").is_file()


# ---- the kit ---------------------------------------------------------------------------------


def test_the_kit_holds_the_users_classifier_and_what_grew(
    grown: tuple[Path, Foreign, KitCallback],
) -> None:
    path, module, callback = grown
    with pytest.raises(KitError, match=r"foreign\.Net is not one of ours"):
        load_kit(path)
    kit = load_kit(path, allow_custom=True)
    assert state_digest(kit.classifier) == state_digest(module.net)
    assert kit.info.class_names == NAMES
    assert kit.info.spec == SPEC
    assert list(kit.info.class_counts) == images_and_labels()[1].bincount().tolist()
    assert kit.prompts is not None
    assert kit.prompts.shape == (10, 2, 1, 16, 16)
    labels = images_and_labels()[1]  # what retraining would take follows from the kit
    trained = EPOCHS * math.ceil(len(labels) / BATCH)
    expected = math.ceil(trained * int((labels != 3).sum()) / len(labels))
    assert steps_of_retraining(kit, (3,)) == expected
    again = callback.kit(module)
    assert torch.equal(again.prompts, kit.prompts)
    assert torch.equal(again.proxies().images, kit.proxies().images)


def test_prompts_and_generator_have_learned_of_images_of_their_class(
    grown: tuple[Path, Foreign, KitCallback],
) -> None:
    path, _, callback = grown
    kit = load_kit(path, allow_custom=True)
    prompts = kit.prompts_of()
    right = kit.classifier(prompts.images).argmax(dim=1) == prompts.labels
    assert right.float().mean() > 0.9
    chosen = callback.state_dict()["exemplars"]["images"]
    errors = []
    for generator in (kit.generator, kit.info.generator.build().eval()):
        made = generator(prompts.images, sample=False).images.detach()
        errors.append(float((made - chosen).square().mean()))
    assert errors[0] < 0.6 * errors[1]
    images, labels = images_and_labels()
    pixels = SPEC.restore(images)
    for k, of_class in enumerate(chosen.view(10, 2, 1, 16, 16)):
        for exemplar in of_class:
            assert (pixels[labels == k] - exemplar).abs().amax(dim=(1, 2, 3)).min() < 1e-6


def test_exemplars_are_scored_by_the_classifier_before_its_step(tmp_path: Path) -> None:
    entropies: dict[tuple[int, ...], float] = {}

    class Scored(Foreign):
        """Scores each batch as the callback should, where its own step begins."""

        def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
            images, labels = batch
            self.net.eval()
            for image, k, h in zip(images, labels, entropy(self.net(images)), strict=True):
                row = (int(k), *SPEC.restore(image).flatten().tolist())
                entropies.setdefault(row, float(h.detach()))  # of the first epoch
            self.net.train()
            return super().training_step(batch, batch_idx)

    callback = kit_callback(tmp_path / "kit", exemplars_until=0.1)
    fit(seeded(Scored), tmp_path, callback, max_epochs=2, limit_train_batches=6)
    first = list(entropies)[:240]  # the loader shuffles, the second epoch reads others
    chosen = callback.state_dict()["exemplars"]["images"].view(10, 2, -1)
    for k in range(10):
        best = sorted((row for row in first if row[0] == k), key=lambda row: -entropies[row])
        assert chosen[k].tolist() == [list(row[1:]) for row in best[:2]]


def test_its_defaults_are_those_of_training(tmp_path: Path) -> None:
    training = built(OmegaConf.load(CONF / "training" / "default.yaml"), "training")
    callback = KitCallback(tmp_path / "kit", NAMES, SPEC)
    for name in ProxySettings.__dataclass_fields__:
        ours, theirs = getattr(training, name), getattr(callback.proxy_settings, name)
        if callable(ours):
            assert ours.func is theirs.func is torch.optim.Adam
            ours, theirs = ours.keywords, theirs.keywords
        assert ours == theirs, name
    made = callback.generator_spec.build()
    assert made.mean.out_features == OmegaConf.load(CONF / "generator" / "vae.yaml")["latent"]
    with pytest.raises(TypeError, match="when"):  # beside a user's training, always during it
        KitCallback(tmp_path / "kit", NAMES, SPEC, when="after")


# ---- resume ----------------------------------------------------------------------------------


def test_a_resumed_training_yields_the_same_kit_or_a_longer_one_its_own(tmp_path: Path) -> None:
    data = Digits(shuffle=False)  # a shuffling loader would not go on where it was
    whole = kit_callback(tmp_path / "whole")
    saves = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=5)
    module = seeded(dropout=0.0)
    fit(module, tmp_path, whole, saves, data=data, enable_checkpointing=True)
    expected = whole.kit(module)

    def resumed(step: int, epochs: int = EPOCHS, **settings: Any) -> tuple[KitCallback, Kit]:
        callback, module = kit_callback(tmp_path / "resumed", **settings), seeded(dropout=0.0)
        saved = str(tmp_path / f"step={step}.ckpt")
        fit(module, tmp_path, callback, data=data, resume=saved, max_epochs=epochs)
        return callback, callback.kit(module)

    assert torch.load(tmp_path / "step=5.ckpt", weights_only=True)["callbacks"].keys()
    for step in (10, 20, 30):  # ends of epochs, where a DataLoader resumes exactly
        _, kit = resumed(step)
        assert torch.equal(kit.prompts, expected.prompts)
        assert state_digest(kit.generator) == state_digest(expected.generator)
        assert kit.info == expected.info
    longer, _ = resumed(40, epochs=6)
    for lr_schedule in longer.state_dict()["proxies"]["lr_schedules"]:
        assert lr_schedule["last_epoch"] == lr_schedule["T_max"]
        assert lr_schedule["_last_lr"][0] == pytest.approx(0, abs=1e-9)
    with pytest.raises(UserError, match="had another prompt_batch: 8 and not 9"):
        resumed(40, epochs=6, prompt_batch=9)


def test_the_log_has_an_entry_wherever_there_was_an_update_since_the_last(tmp_path: Path) -> None:
    steps: list[int | None] = []

    class Entries(DummyLogger):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            if any(name.startswith("kit/") for name in metrics):
                steps.append(step)

    # an update at every sixth of 30 batches, the first of which is the eleventh of the fit
    few = {"every_n_steps": 6, "min_generator_steps": 5}
    callback = kit_callback(tmp_path / "kit", log_every_n_steps=7, **few)
    fit(seeded(), tmp_path, callback, logger=Entries())
    assert steps == [21, 28, 35]


def test_a_checkpoint_without_a_kit_is_where_one_begins(tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path, filename="{epoch}")
    fit(seeded(), tmp_path, saves, enable_checkpointing=True, max_epochs=2)
    recipe = {"training": {"batch_size": 40}}  # of the user's, which methods that retrain follow
    callback, module = kit_callback(tmp_path / "kit", settings=recipe), seeded()
    fit(module, tmp_path, callback, resume=str(tmp_path / "epoch=1.ckpt"))
    kit = load_kit(tmp_path / "kit", allow_custom=True)
    assert recipe.items() <= kit.info.settings.items()
    assert sum(kit.info.class_counts) == 400  # of one epoch, the first of the kit's own
