"""Modules, trainers and batches that `KitCallback` takes, and those that it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from geniu_lightning import KitCallback, load_kit
from geniu_lightning.errors import SettingError, UserError
from tests.training.foreign import (
    NAMES,
    SPEC,
    Foreign,
    Net,
    fit,
    images_and_labels,
    kit_callback,
    seeded,
)


def test_classifier_and_batch_may_lie_anywhere(tmp_path: Path) -> None:
    class Elsewhere(Foreign):
        def __init__(self) -> None:
            super().__init__()
            del self.net

        def configure_model(self) -> None:  # when the trainer asks for it
            self.net = Net()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch["x"]), batch["y"][:, 0].long())

    rows = [{"x": x, "y": y.view(1).int()} for x, y in zip(*images_and_labels(80), strict=True)]
    callback = kit_callback(
        tmp_path / "kit",
        classifier=lambda module: module.net,
        reader=lambda batch: (batch["x"], batch["y"][:, 0]),
    )
    data = DataLoader(rows, 20)
    fit(seeded(Elsewhere), tmp_path, callback, data=data, max_epochs=2, precision="bf16-mixed")
    counts = load_kit(tmp_path / "kit", allow_custom=True).info.class_counts
    assert list(counts) == images_and_labels(80)[1].bincount().tolist()


class Tempered(Net):
    def forward(self, images: Tensor) -> Tensor:
        return 2 * super().forward(images)


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from zip(*images_and_labels(), strict=True)


def refused(tmp_path: Path, said: str, module: Any = None, **more: Any) -> None:
    of_trainer = {k: more.pop(k) for k in ("max_epochs", "max_steps", "data") if k in more}
    with pytest.raises(UserError, match=said):
        fit(module or seeded(), tmp_path, kit_callback(tmp_path / "kit", **more), **of_trainer)
    assert not (tmp_path / "kit").exists()


def test_networks_that_cannot_work_are_refused_before_training(tmp_path: Path) -> None:
    module = seeded()
    module.other = nn.Flatten()
    module.tempered = Tempered()

    class Local(Net):
        """Of a function, so that nobody can import it."""

    module.local = Local()
    refused(tmp_path, "has no classifier to be found by 'network'", module, classifier="network")
    refused(tmp_path, "a float and no torch.nn.Module", module, classifier=lambda module: 1.0)
    refused(tmp_path, r"Flatten must have a method features", module, classifier="other")
    refused(tmp_path, "cannot be imported by whoever loads", module, classifier="local")
    refused(tmp_path, r"answer with head\(features", module, classifier="tempered")
    refused(tmp_path, r"pass KitCallback\(arguments=", seeded(width=7))
    refused(tmp_path, r"cannot be rebuilt.*unexpected keyword", arguments={"wide": 7})
    with pytest.raises(UserError, match=r"the head of .* has 10 rows for 9 class names"):
        fit(seeded(), tmp_path, KitCallback("kit", NAMES[1:], SPEC, classifier="net"))
    with pytest.raises(UserError, match="weights in 32 bits"):
        fit(seeded().bfloat16(), tmp_path, kit_callback(tmp_path / "kit"))


def test_a_training_that_cannot_yield_a_kit_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "at least 2", max_epochs=1)
    refused(tmp_path, "how many epochs", max_epochs=-1, max_steps=20)
    refused(tmp_path, "has no length", data=DataLoader(Endless(), 40))
    with pytest.raises(SettingError, match="prompt_batch must be greater than or equal to 2"):
        kit_callback(tmp_path / "kit", prompt_batch=1)
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
    refused(tmp_path, "one integer label .* got float32", **given(images, labels.float()))
    refused(tmp_path, r"int64 of \(80, 10\)", **given(images, F.one_hot(labels)))
    refused(tmp_path, "from 0 to 9.* got int64 of .80,., 1 to 10", **given(images, labels + 1))
    refused(tmp_path, "reach from 0.50 to 1.50", **given(2 * images.abs(), labels))
    refused(
        tmp_path, "class 9 has no training image", **given(images[labels < 9], labels[labels < 9])
    )
    refused(tmp_path, "pairs of images and labels.* got Tensor.*reader=", data=DataLoader(images))


def test_a_training_that_ends_early_is_left_alone_and_told_so(tmp_path: Path) -> None:
    class Stops(Foreign):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.trainer.should_stop = self.global_step >= self.last

    for last, said, written in (
        (5, "before the second epoch", False),
        (15, "took 15 batches where 40 were", True),
    ):
        module = seeded(Stops)
        module.last = last
        with pytest.warns(UserWarning, match=said):
            fit(module, tmp_path, kit_callback(tmp_path / "kit"))
        assert (tmp_path / "kit").exists() == written


def test_a_training_that_goes_on_longer_rests_the_kit_and_says_so(tmp_path: Path) -> None:
    callback = kit_callback(tmp_path / "kit", epochs=2)
    with pytest.warns(UserWarning, match="took 40 batches where 20 were"):
        fit(seeded(), tmp_path, callback)
    proxies = callback.state_dict()["proxies"]
    assert [schedule["last_epoch"] for schedule in proxies["lr_schedules"]] == [20, 5]
    assert all(s["_last_lr"][0] == pytest.approx(0, abs=1e-9) for s in proxies["lr_schedules"])


def test_what_diverges_ends_no_training_of_the_users(tmp_path: Path) -> None:
    class Breaks(Foreign):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.global_step == self.last:
                torch.nn.init.constant_(self.net.head.weight, torch.nan)

    for last in (0, 12):
        module = seeded(Breaks)
        module.last = last
        with pytest.warns(UserWarning, match="no kit was written .* finite number at step"):
            fit(module, tmp_path, kit_callback(tmp_path / "kit"))
        assert module.global_step == 40
    broken = kit_callback(
        tmp_path / "kit", generator_optimizer=lambda p: torch.optim.SGD(p, lr=torch.inf)
    )
    with pytest.warns(UserWarning, match="no kit was written .* finite number at step"):
        fit(seeded(), tmp_path, broken, max_epochs=2)
    assert not (tmp_path / "kit").exists()
