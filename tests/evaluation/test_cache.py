"""Cached values and outputs: exact, whole or absent, and only while the code is the same."""

from pathlib import Path

import pytest
import torch

from geniu_lightning.evaluation import cache
from geniu_lightning.evaluation.attacks.relearning import KShot
from geniu_lightning.evaluation.cache import FileCache, FileOutputs, code_of
from geniu_lightning.evaluation.metric import Absent, Values
from geniu_lightning.evaluation.metrics.accuracy import Accuracy
from tests.evaluation.clouds import Small
from tests.evaluation.worlds import random_outputs


def test_values_come_back_as_they_were_and_broken_files_are_absent(tmp_path: Path) -> None:
    values: Values = {"a.b": 0.1 + 0.2, "c": [1.0, None, 1e-300], "d": Absent("no images")}
    folder = tmp_path / "not made yet"
    assert FileCache(folder).get("key") is None
    FileCache(folder).put("key", values)
    assert FileCache(folder).get("key") == values
    assert FileCache(folder).get("other") is None
    for content in ("", '{"a": 1.0', "[1.0]", '{"a": {"b": 1}}'):
        (folder / "key.json").write_text(content)
        assert FileCache(folder).get("key") is None, content


def test_outputs_of_the_named_networks_come_back_and_broken_files_are_absent(
    tmp_path: Path,
) -> None:
    first, second, other = Small(0), Small(1), Small(2)
    given = random_outputs(0, 5)
    store = FileOutputs(tmp_path, (first, second))
    for network in (first, other):
        store.put(network, "test", given)
    again = FileOutputs(tmp_path, (Small(0), Small(1), Small(2)))
    found = again.get(again.networks[0], "test")
    assert found is not None
    assert all(torch.equal(getattr(found, name), tensor) for name, tensor in vars(given).items())
    assert again.get(again.networks[0], "train") is None
    assert again.get(again.networks[1], "test") is None
    assert again.get(again.networks[2], "test") is None
    assert again.get(Small(0), "test") is None  # another object, which may change
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-20])
    assert again.get(again.networks[0], "test") is None


def test_the_code_of_a_metric_is_its_own_file_and_those_it_imports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, room = Path.read_bytes, Path(cache.__file__).parent
    before = {metric: code_of(metric) for metric in (KShot, Accuracy)}
    assert len(set(before.values())) == 2
    for file, metric, counts in (
        ("attacks/relearning", KShot, True),
        ("attacks/fine_tuning", KShot, True),
        ("context", KShot, True),
        ("metric", Accuracy, True),
        ("attacks/fine_tuning", Accuracy, False),
        ("evaluator", KShot, False),
        ("verdict", KShot, False),
    ):
        changed = room / f"{file}.py"
        assert changed.is_file()
        with monkeypatch.context() as patch:
            patch.setattr(
                Path, "read_bytes", lambda path, c=changed: read(path) + b"#" * (path == c)
            )
            assert (code_of(metric) != before[metric]) == counts, (file, metric)
