"""A kit beside somebody else's training, which is not to notice it."""

import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers.logger import DummyLogger

from geniu_lightning import KitCallback, load_kit, unlearn
from geniu_lightning.errors import KitError, UserError
from geniu_lightning.kit.networks import state_digest
from geniu_lightning.settings.configs import CONF, plain
from geniu_lightning.training import callback as own
from geniu_lightning.unlearning.retrain import steps_of_retraining
from tests.commands import Command
from tests.training.foreign import (
    BATCH,
    EPOCHS,
    ByHand,
    Digits,
    Foreign,
    fit,
    images_and_labels,
    seeded,
)
from tests.training.growing import NAMES, SPEC, kit_callback
from tests.training.two_processes import run_by_two


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Foreign, KitCallback]:
    """A kit, the module that it grew beside, and the callback; not to be changed."""
    path = tmp_path_factory.mktemp("grown") / "deep" / "kit.safetensors"
    callback, module = kit_callback(path, min_generator_steps=300), seeded()
    fit(module, path.parents[1], callback)
    return path, module, callback


# ---- the user's training ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Foreign, ByHand])
@pytest.mark.parametrize("exemplar_strategy", ["max_entropy", "random"])
def test_the_users_training_is_the_same_bit_for_bit(
    tmp_path: Path, kind: type[Foreign], exemplar_strategy: str
) -> None:
    found = []
    for callbacks in ((), (kit_callback(tmp_path / "kit", exemplar_strategy=exemplar_strategy),)):
        module = seeded(kind)
        module.net.layers[1].eval()  # somebody froze a layer
        trainer = fit(module, tmp_path, *callbacks)
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


def test_no_gradient_is_added_to_what_the_user_accumulates(tmp_path: Path) -> None:
    found = []
    for callbacks in ((), (kit_callback(tmp_path / "kit"),)):
        module = seeded()
        fit(module, tmp_path, *callbacks, accumulate_grad_batches=4)
        found.append(state_digest(module))
    assert found[0] == found[1]


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
    again = callback.kit(module)
    assert torch.equal(again.prompts, kit.prompts)
    assert torch.equal(again.proxies().images, kit.proxies().images)


def test_what_retraining_would_take_follows_from_the_kit(
    grown: tuple[Path, Foreign, KitCallback],
) -> None:
    _, labels = images_and_labels()
    trained = EPOCHS * math.ceil(len(labels) / BATCH)
    retained = (labels != 3).sum().item()
    found = steps_of_retraining(load_kit(grown[0], allow_custom=True), (3,))
    assert found == math.ceil(trained * retained / len(labels))


def test_prompts_and_generator_have_learned(grown: tuple[Path, Foreign, KitCallback]) -> None:
    path, _, callback = grown
    kit = load_kit(path, allow_custom=True)
    prompts = kit.prompts_of()
    right = kit.classifier(prompts.images).argmax(dim=1) == prompts.labels
    assert right.float().mean() > 0.9
    chosen = callback.gallery.chosen
    assert chosen is not None
    errors = []
    for generator in (kit.generator, kit.info.generator.build().eval()):
        made = generator(prompts.images, sample=False).images.detach()
        errors.append(float((made - chosen.flatten(0, 1)).square().mean()))
    assert errors[0] < 0.6 * errors[1]


def test_exemplars_are_the_uncertain_images_of_their_class(
    grown: tuple[Path, Foreign, KitCallback],
) -> None:
    chosen = grown[2].gallery.chosen
    images, labels = images_and_labels()
    pixels = SPEC.restore(images)
    for k in range(10):
        of_class = pixels[labels == k]
        for exemplar in chosen[k]:
            assert (of_class - exemplar).abs().amax(dim=(1, 2, 3)).min() < 1e-6


def test_a_class_is_unlearned_from_the_kit_by_the_command_and_from_python(
    grown: tuple[Path, Foreign, KitCallback], command: Command, tmp_path: Path
) -> None:
    path = grown[0]
    outcome = command(
        "unlearn",
        f"kit={path}",
        "forget=[digit 3]",
        "unlearner.steps=100",
        "evaluation=none",
        "allow_custom=true",
        f"out={tmp_path}",
    )
    assert outcome.status == 0, outcome.err
    written = load_kit(tmp_path / "unlearned.safetensors", allow_custom=True)
    classifier, _ = unlearn(load_kit(path, allow_custom=True), forget="digit 3", steps=100)
    assert state_digest(written.classifier) == state_digest(classifier)
    images, labels = images_and_labels()
    found = [grown[1].net.eval()(images), classifier(images)]
    right = [(said.argmax(1) == labels)[labels == 3].float().mean() for said in found]
    assert right[0] > 0.9
    assert right[1] < 0.2
    tuned = unlearn(
        load_kit(path, allow_custom=True), 3, "finetune", data=(images, labels), steps=2
    )
    assert tuned.cost.training_images_read > 0
    refused = command(
        "unlearn", f"kit={path}", "forget=[3]", "allow_custom=true", f"runs={tmp_path}"
    )
    assert refused.status == 2
    assert "does not say how it was trained: no 'data'" in refused.err
    words = ("forget=[3]", "evaluation=accuracy", "allow_custom=true", f"out={tmp_path / 'left'}")
    refused = command("unlearn", f"kit={path}", *words)
    assert refused.status == 2
    assert "nothing can be measured: set evaluation=none" in refused.err
    assert not (tmp_path / "left" / "unlearned.safetensors").exists()


def test_settings_of_the_users_let_a_method_retrain(tmp_path: Path) -> None:
    recipe = {
        "batch_size": 40,
        "epochs": 1,
        "schedule": "none",
        "max_gradient_norm": None,
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.05},
    }
    path = tmp_path / "kit"
    fit(seeded(), tmp_path, kit_callback(path, settings={"training": recipe}), max_epochs=2)
    kit = load_kit(path, allow_custom=True)
    images, labels = images_and_labels()
    found = unlearn(kit, 3, "retrain", data=(images, labels))
    assert found.cost.training_images_read == int((labels != 3).sum())


def test_its_defaults_are_those_of_training(tmp_path: Path) -> None:
    training = plain(OmegaConf.load(CONF / "training" / "default.yaml"))
    callback = KitCallback(tmp_path / "kit", NAMES, SPEC)
    for name, value in callback._record().items():
        assert training.get(name, 0) == value, name
    for name, factory in (
        ("generator_optimizer", own.GENERATOR_OPTIMIZER),
        ("prompt_optimizer", own.PROMPT_OPTIMIZER),
    ):
        expected = {k: v for k, v in training[name].items() if not k.startswith("_")}
        assert (factory.func, factory.keywords) == (torch.optim.Adam, expected)
    made = callback.generator_spec.build()
    vae = plain(OmegaConf.load(CONF / "generator" / "vae.yaml"))
    assert made.mean.out_features == vae["latent"]


# ---- resume ----------------------------------------------------------------------------------


def test_a_resumed_training_grows_the_same_kit(tmp_path: Path) -> None:
    data = Digits(shuffle=False)  # a shuffling loader would not go on where it was
    whole = kit_callback(tmp_path / "whole")
    saves = ModelCheckpoint(tmp_path / "saved", filename="{epoch}", save_top_k=-1)
    module = seeded(dropout=0.0)
    fit(module, tmp_path, whole, saves, data=data, enable_checkpointing=True)
    expected = whole.kit(module)
    for epoch in (0, 1, 2):
        saved = tmp_path / "saved" / f"epoch={epoch}.ckpt"
        state = torch.load(saved, weights_only=True)["callbacks"]
        assert "KitCallback" in str(state.keys())
        resumed, module = kit_callback(tmp_path / "resumed"), seeded(dropout=0.0)
        fit(module, tmp_path, resumed, data=data, resume=str(saved))
        kit = resumed.kit(module)
        assert torch.equal(kit.prompts, expected.prompts)
        assert state_digest(kit.generator) == state_digest(expected.generator)
        assert kit.info == expected.info


def test_a_training_resumed_for_longer_ends_its_courses_at_its_end(tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path / "saved", filename="{epoch}", save_top_k=-1)
    fit(seeded(), tmp_path, kit_callback(tmp_path / "kit"), saves, enable_checkpointing=True)
    resumed = kit_callback(tmp_path / "longer")
    fit(seeded(), tmp_path, resumed, resume=str(tmp_path / "saved" / "epoch=3.ckpt"), max_epochs=8)
    for course in resumed._growth.state_dict()["courses"]:
        assert course["last_epoch"] == course["T_max"]
        assert course["_last_lr"][0] == pytest.approx(0, abs=1e-9)


class Entries(DummyLogger):
    """Remembers at which steps the kit's terms were logged."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int | None] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any(name.startswith("kit/") for name in metrics):
            self.steps.append(step)


@pytest.mark.parametrize(("every", "expected"), [(7, [21, 28, 35]), (10, [20, 30, 40])])
def test_the_log_has_an_entry_wherever_one_is_due(
    tmp_path: Path, every: int, expected: list[int]
) -> None:
    logger = Entries()
    # an update after every sixth of 30 batches, the first of which is the eleventh of the fit
    few = {"every_n_steps": 6, "min_generator_steps": 5}
    grow = kit_callback(tmp_path / "kit", log_every_n_steps=every, **few)
    fit(seeded(), tmp_path, grow, logger=logger)
    assert logger.steps == expected


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path, filename="{epoch}")
    callback = kit_callback(tmp_path / "kit")
    fit(seeded(), tmp_path, callback, saves, enable_checkpointing=True)
    other = kit_callback(tmp_path / "kit", prompt_batch=9)
    with pytest.raises(UserError, match="had another prompt_batch: 8 and not 9"):
        fit(seeded(), tmp_path, other, resume=str(tmp_path / "epoch=3.ckpt"), max_epochs=6)


def test_a_checkpoint_without_a_kit_is_where_one_begins(tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path, filename="{epoch}")
    fit(seeded(), tmp_path, saves, enable_checkpointing=True, max_epochs=2)
    callback, module = kit_callback(tmp_path / "kit"), seeded()
    fit(module, tmp_path, callback, resume=str(tmp_path / "epoch=1.ckpt"))
    kit = load_kit(tmp_path / "kit", allow_custom=True)
    assert sum(kit.info.class_counts) == 400  # of one epoch, the first of the kit's own


# ---- several processes -----------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_grow_one_kit_and_leave_the_users_training_alone(tmp_path: Path) -> None:
    run_by_two("tests.training.callback_one_of_two", str(tmp_path), timeout=180)
    first, second = (torch.load(tmp_path / f"rank{r}", weights_only=True) for r in (0, 1))
    for part in ("prompts", "chosen", "counts"):
        assert torch.equal(first[part], second[part]), part
    for name, tensor in first["generator"].items():
        assert torch.equal(second["generator"][name], tensor), name
    assert int(first["counts"].sum()) == 400
    kit = load_kit(tmp_path / "kit.safetensors", allow_custom=True)
    assert torch.equal(kit.prompts, first["prompts"])
    for name, tensor in kit.classifier.state_dict().items():
        assert torch.equal(first["net"][name], tensor), name
        assert torch.equal(first["net without"][name], tensor), name
