"""What lets two rows of a table be compared: the oracle's images, and what its time counts."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from geniu_lightning.data.module import ImageData
from geniu_lightning.evaluation.metrics.accuracy import Accuracy
from geniu_lightning.unlearning import base
from tests.commands import Command


def test_the_oracle_is_trained_on_the_originals_images_but_the_forgotten_ones(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: dict[str, list[Tensor]] = {}
    opened: dict[str, ImageData] = {}
    gate = ImageData.read

    def noted(self: ImageData, which: str, indices: Tensor, *rest: Any) -> Tensor:
        read.setdefault(which, []).append(indices)
        opened[which] = self
        return gate(self, which, indices, *rest)

    monkeypatch.setattr(ImageData, "read", noted)
    short = ("model.width=4", "training.epochs=1", "kit=null", "trainer.threads=1")
    trained = command(
        *("train", *short, "data.pad=1", "imbalance.ratio=0.3", "seed=1"),
        *("evaluation=none", f"out={tmp_path / 'kit'}"),
    )
    assert trained.status == 0, trained.err
    # unlearning's seed is another than training's: it must not choose images
    forgotten = command(
        *("unlearn", f"kit={tmp_path / 'kit'}", "forget=[0,3]", "unlearner=retrain", "seed=7"),
        *("trainer.threads=1", "evaluation=none", f"out={tmp_path / 'oracle'}"),
    )
    assert forgotten.status == 0, forgotten.err
    assert read.keys() == {"train", "retain"}
    original, oracle = (opened[which] for which in ("train", "retain"))
    used, again = (torch.cat(read[which]).sort().values for which in ("train", "retain"))
    assert len(used.unique()) < len(original.all_labels)  # some stayed out: it matters which
    kept = ~torch.isin(original.all_labels[used], torch.tensor([0, 3]))
    assert torch.equal(again, used[kept])  # as often, too
    assert (oracle.spec, oracle.augmentation) == (original.spec, original.augmentation)
    assert original.augmentation == (1, False)


def test_time_is_that_of_the_method_and_of_the_images_that_it_reads(
    command: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(base, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    gate, measure, unlearn = ImageData.read, Accuracy.__call__, base.Unlearner.run
    happened: list[str] = []

    def slow_read(self: ImageData, which: str, indices: Tensor, *rest: Any) -> Tensor:
        now[0] += 1 if which == "retain" else 1000
        happened.append(which)
        return gate(self, which, indices, *rest)

    def noted(self: base.Unlearner, *given: Any) -> Any:
        result = unlearn(self, *given)
        happened.append("weights are final")
        return result

    def slow_metric(self: Accuracy, *given: Any) -> Any:
        now[0] += 1000
        return measure(self, *given)

    monkeypatch.setattr(ImageData, "read", slow_read)
    monkeypatch.setattr(Accuracy, "__call__", slow_metric)
    monkeypatch.setattr(base.Unlearner, "run", noted)
    outcome = command(
        "unlearn", f"kit={trained}", "forget=[0]", "unlearner=retrain", f"out={tmp_path}"
    )
    assert outcome.status == 0, outcome.err
    cost = json.loads((tmp_path / "metrics.json").read_text())["cost"]
    end = happened.index("weights are final")
    assert set(happened[:end]) == {"retain"}
    assert set(happened[end + 1 :]) == {"test", "train"}  # a metric ran, and was slow
    assert now[0] >= 3000
    assert cost["seconds"] == cost["steps"] > 0  # a batch of retained images in each step
