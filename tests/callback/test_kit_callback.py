"""A kit beside somebody else's training, which is not to notice it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from geniu_lightning import ImageSpec, KitCallback, load_kit, unlearn
from geniu_lightning.app.build import plain
from geniu_lightning.app.cli import CONF
from geniu_lightning.callback import kit_callback as own
from geniu_lightning.errors import KitError, UserError
from geniu_lightning.kit.networks import state_digest
from geniu_lightning.unlearning.retrain import steps_of_retraining
from tests.app.conftest import Command
from tests.app.conftest import command as command
from tests.callback.foreign import (
    BATCH,
    EPOCHS,
    ByHand,
    Digits,
    Foreign,
    Net,
    fit,
    images_and_labels,
    seeded,
)
from tests.two_processes import run_by_two

ROOT = Path(__file__).parents[2]
NAMES = tuple(f"digit {k}" for k in range(10))
SPEC = ImageSpec.of(16, 1, 0.5, 0.5)
FEW = {"proxies_per_class": 2, "min_generator_steps": 60, "prompt_batch": 8}


def kit_callback(path: Path, **settings: Any) -> KitCallback:
    return KitCallback(path, NAMES, SPEC, **{"classifier": "net", **FEW} | settings)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Foreign, KitCallback]:
    """A kit, the module that it grew beside, and the callback; not to be changed."""
    path = tmp_path_factory.mktemp("grown") / "deep" / "kit.safetensors"
    callback, module = kit_callback(path, min_generator_steps=300), seeded()
    fit(module, path.parents[1], callback)
    return path, module, callback


# ---- the user's training ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Foreign, ByHand])
@pytest.mark.parametrize("supervision", ["max_entropy", "random"])
def test_the_users_training_is_the_same_bit_for_bit(
    tmp_path: Path, kind: type[Foreign], supervision: str
) -> None:
    found = []
    for callbacks in ((), (kit_callback(tmp_path / "kit", supervision=supervision),)):
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


# ---- what it takes ---------------------------------------------------------------------------


def test_classifier_and_batch_may_lie_anywhere(tmp_path: Path) -> None:
    class Elsewhere(Foreign):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch["x"]), batch["y"][:, 0].long())

    rows = [{"x": x, "y": y.view(1).int()} for x, y in zip(*images_and_labels(80), strict=True)]
    callback = kit_callback(
        tmp_path / "kit",
        classifier=lambda module: module.net,
        reader=lambda batch: (batch["x"], batch["y"][:, 0]),
    )
    data = DataLoader(rows, 20)
    fit(seeded(Elsewhere), tmp_path, callback, data=data, max_epochs=2)
    counts = load_kit(tmp_path / "kit", allow_custom=True).info.class_counts
    assert list(counts) == images_and_labels(80)[1].bincount().tolist()


class NoHead(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :10]


class Tempered(Net):
    def forward(self, images: Tensor) -> Tensor:
        return 2 * super().forward(images)


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from zip(*images_and_labels(), strict=True)


class Late(Foreign):
    """Makes its network when the trainer asks for it."""

    def __init__(self) -> None:
        super().__init__()
        del self.net

    def configure_model(self) -> None:
        self.net = Net()


def test_a_network_may_be_made_when_the_trainer_asks_for_it(tmp_path: Path) -> None:
    fit(seeded(Late), tmp_path, kit_callback(tmp_path / "kit"), max_epochs=2)
    assert (tmp_path / "kit").is_file()


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_weights_are_in_32_bits_whatever_the_arithmetic(tmp_path: Path, precision: str) -> None:
    callback = kit_callback(tmp_path / "kit")
    if precision == "64-true":
        with pytest.raises(UserError, match="weights in 32 bits"):
            fit(seeded(), tmp_path, callback, precision=precision)
    else:
        fit(seeded(), tmp_path, callback, precision=precision, max_epochs=2)
        assert load_kit(tmp_path / "kit", allow_custom=True).prompts is not None


def refused(tmp_path: Path, said: str, module: Any = None, **more: Any) -> None:
    of_trainer = {k: more.pop(k) for k in ("max_epochs", "max_steps", "data") if k in more}
    with pytest.raises(UserError, match=said):
        fit(module or seeded(), tmp_path, kit_callback(tmp_path / "kit", **more), **of_trainer)
    assert not (tmp_path / "kit").exists()


def test_networks_that_cannot_work_are_refused_before_training(tmp_path: Path) -> None:
    module = seeded()
    module.other = NoHead()
    module.tempered = Tempered()

    class Local(Net):
        """Of a function, so that nobody can import it."""

    module.local = Local()
    refused(tmp_path, "has no classifier to be found by 'network'", module, classifier="network")
    refused(tmp_path, "a float and no torch.nn.Module", module, classifier=lambda module: 1.0)
    refused(tmp_path, r"NoHead must have a method features", module, classifier="other")
    refused(tmp_path, "cannot be imported by whoever loads", module, classifier="local")
    refused(tmp_path, r"answer with head\(features", module, classifier="tempered")
    refused(tmp_path, r"pass KitCallback\(arguments=", seeded(width=7))
    refused(tmp_path, r"cannot be rebuilt.*unexpected keyword", arguments={"wide": 7})
    with pytest.raises(UserError, match=r"the head of .* has 10 rows for 9 class names"):
        fit(seeded(), tmp_path, KitCallback("kit", NAMES[1:], SPEC, classifier="net"))
    with pytest.raises(UserError, match="weights in 32 bits"):
        fit(seeded().bfloat16(), tmp_path, kit_callback(tmp_path / "kit"))


def test_a_training_that_cannot_grow_a_kit_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "at least 2", max_epochs=1)
    refused(tmp_path, "how many epochs", max_epochs=-1, max_steps=20)
    refused(tmp_path, "has no length", data=DataLoader(Endless(), 40))
    with pytest.raises(UserError, match="supervision must be one of"):
        kit_callback(tmp_path / "kit", supervision="nearest_mean")
    with pytest.raises(UserError, match="different names"):
        KitCallback(tmp_path / "kit", ["a", "a"], SPEC)
    with pytest.raises(UserError, match="there is none before"):
        kit_callback(tmp_path / "kit").kit(seeded())


def test_batches_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    images, labels = images_and_labels(80)

    def given(images: Any, labels: Any) -> Any:
        return {"reader": lambda batch: (images, labels)}

    refused(tmp_path, r"shape \(N, 1, 16, 16\).* float32 of \(80, 256\)",
            **given(images.flatten(1), labels))  # fmt: skip
    refused(tmp_path, r"uint8 of \(80, 1, 16, 16\)", **given(images.byte(), labels))
    refused(tmp_path, "got list", **given([images], labels))
    refused(tmp_path, "one integer for each image, got float32", **given(images, labels.float()))
    refused(tmp_path, r"int64 of \(80, 10\)", **given(images, F.one_hot(labels)))
    refused(tmp_path, "must lie in 0 to 9.* got 1 to 10", **given(images, labels + 1))
    refused(tmp_path, "reach from 0.50 to 1.50", **given(2 * images.abs(), labels))
    refused(
        tmp_path, "class 9 had no training image", **given(images[labels < 9], labels[labels < 9])
    )
    with pytest.raises(UserError, match="the batch is a Tensor and no pair"):
        own.checks.pairs(images)


def test_a_training_that_ends_early_is_left_alone_and_told_so(tmp_path: Path) -> None:
    class Stops(Foreign):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.trainer.should_stop = self.global_step >= self.last

    for last, said, written in ((5, "before the second epoch", False), (15, "15 of 40", True)):
        module = seeded(Stops)
        module.last = last
        with pytest.warns(UserWarning, match=said):
            fit(module, tmp_path, kit_callback(tmp_path / "kit"))
        assert (tmp_path / "kit").exists() == written


def test_a_generator_that_diverges_ends_no_training_of_the_users(tmp_path: Path) -> None:
    broken = kit_callback(tmp_path / "kit", reconstruction_weight=float("inf"))
    with pytest.warns(UserWarning, match="no kit was written .* finite number at step"):
        fit(seeded(), tmp_path, broken)
    assert not (tmp_path / "kit").exists()


# ---- several processes -----------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_grow_one_kit_and_leave_the_users_training_alone(tmp_path: Path) -> None:
    run_by_two("tests.callback.one_of_two", str(tmp_path), timeout=180)
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
