"""The bank of oracles: what names it, what is missing, and who trains that."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from geniu_lightning.errors import BusyError, SettingError, UserError
from geniu_lightning.kit.info import KitInfo
from geniu_lightning.runs import oracles
from geniu_lightning.runs.oracles import OracleBank

KIT: dict[str, Any] = {
    "format": 1,
    "class_names": ["a", "b", "c"],
    "generator": None,
    "forgotten": [],
    "seed": 1,
    "revision": "abc",
    "data_fingerprint": "f" * 64,
    "class_counts": [9, 9, 9],
    "spec": {"size": 8, "channels": 1, "mean": [0.5], "std": [0.5]},
    "classifier": {"target": "geniu_lightning.models.allcnn.AllCNN", "arguments": {"width": 4}},
    "settings": {
        "data": {"name": "digits", "root": "/here", "pad": 0},
        "imbalance": {"ratio": 0.3, "seed": 0},
        "training": {
            "batch_size": 64,
            "epochs": 2,
            "optimizer": {"lr": 0.1},
            "schedule": "cosine",
            "max_gradient_norm": None,
            "divergence_weight": 0.1,
        },
        "precision": "32-true",
    },
}


def changed(*path: str, to: Any) -> dict[str, Any]:
    kit = copy.deepcopy(KIT)
    node = kit
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = to
    return kit


def info_of(kit: dict[str, Any]) -> KitInfo:
    return KitInfo.from_json(json.dumps(kit))


def finish(bank: OracleBank, seed: int) -> None:
    folder = bank.run(seed)
    folder.path.mkdir(parents=True)
    (folder.path / "run.json").write_text(json.dumps(folder.identity))
    (folder.path / "metrics.json").write_text(json.dumps({"cost": {"seconds": float(seed)}}))
    (folder.path / "done.json").write_text("{}")


def test_all_that_oracles_follow_from_names_another_bank_and_nothing_else(tmp_path: Path) -> None:
    def folder(kit: dict[str, Any], *forget: int) -> Path:
        return OracleBank(tmp_path, info_of(kit), forget or (0,)).folder

    first = folder(KIT)
    assert first.name.startswith("digits-AllCNN-forget0-")
    for path, value in (
        (("seed",), 7),
        (("revision",), "another"),
        (("settings", "data", "root"), "/elsewhere"),
        (("settings", "training", "divergence_weight"), 9.0),  # of a kit without a generator
    ):
        assert folder(changed(*path, to=value)) == first, path
    others = {
        folder(changed(*path, to=value))
        for path, value in (
            (("data_fingerprint",), "0" * 64),
            (("class_counts",), [9, 9, 8]),
            (("settings", "imbalance", "ratio"), 0.7),
            (("settings", "data", "pad"), 9),
            (("settings", "training", "epochs"), 77),
            (("settings", "training", "optimizer", "lr"), 0.7),
            (("settings", "precision"), "bf16-mixed"),
            (("classifier", "arguments", "width"), 77),
        )
    }
    with_vae = changed("generator", to={"target": "geniu_lightning.models.vae.VAE"})
    others |= {folder(with_vae)}
    with_vae["settings"]["training"]["divergence_weight"] = 9.0
    others |= {folder(with_vae)}
    assert len(others | {first, folder(KIT, 1)}) == 12
    with_vae["settings"]["training"]["log_every_n_steps"] = 7
    assert folder(with_vae) in others
    assert folder(KIT, 0, 2) == folder(KIT, 2, 0)
    incomplete = copy.deepcopy(KIT)
    del incomplete["settings"]["training"]
    with pytest.raises(UserError, match="does not say how it was trained: no 'training'"):
        folder(incomplete)
    with pytest.raises(SettingError, match="count must be"):
        OracleBank(tmp_path, info_of(KIT), (0,), count=0)


def test_missing_oracles_are_trained_and_those_of_another_process_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = OracleBank(tmp_path, info_of(KIT), (0,), count=3, train_missing=True)
    finish(bank, 1001)
    assert bank.trained() == [1001]
    assert bank.missing() == [1000, 1002]
    assert bank.expected() == [1000, 1001, 1002]
    assert OracleBank(tmp_path, info_of(KIT), (0,), count=3).expected() == [1001]
    with pytest.raises(UserError, match="sweep=oracles"):
        OracleBank(tmp_path, info_of(KIT), (0,), count=3, train_missing=True, one_process=False)
    OracleBank(tmp_path, info_of(KIT), (0,), count=3, one_process=False)  # which does without
    waits, calls = [], []

    def look_again(seconds: float) -> None:
        waits.append(seconds)
        finish(bank, 1000)  # the other process

    def train(seed: int) -> None:
        calls.append(seed)
        if seed == 1000:
            raise BusyError("another process is at work")
        finish(bank, seed)

    monkeypatch.setattr(oracles.time, "sleep", look_again)
    bank.complete(train)
    assert calls == [1000, 1002, 1000]
    assert len(waits) == 1
    assert bank.missing() == []
    assert bank.seconds() == [1000.0, 1001.0, 1002.0]
    OracleBank(tmp_path, info_of(KIT), (0,), count=3, train_missing=True, one_process=False)
