"""What is remembered of models: exactly, whole or not at all, while the code is the same."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from geniu_lightning.evaluation import cache as memory
from geniu_lightning.evaluation.attacks.relearning import KShot
from geniu_lightning.evaluation.cache import FileCache, FileOutputs, code_of
from geniu_lightning.evaluation.context import Outputs
from geniu_lightning.evaluation.metric import Absent, Values
from geniu_lightning.evaluation.metrics.accuracy import Accuracy
from tests.evaluation.test_context import Small


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    values: Values = {"a.b": 0.1 + 0.2, "c": [1.0, None, 1e-300], "d": Absent("no images")}
    kept = FileCache(tmp_path / "not yet there")
    assert kept.recall("key") is None
    kept.keep("key", values)
    assert FileCache(tmp_path / "not yet there").recall("key") == values
    assert kept.recall("other") is None


@pytest.mark.parametrize("content", ["", '{"a": 1.0', "[1.0]", '{"a": {"b": 1}}'])
def test_a_file_that_is_not_whole_is_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "key.json").write_text(content)
    assert FileCache(tmp_path).recall("key") is None


def outputs() -> Outputs:
    draw = torch.Generator().manual_seed(0)
    return Outputs(
        torch.randn(5, 3, generator=draw), torch.randn(5, 4, generator=draw), torch.arange(5) % 3
    )


def test_outputs_are_kept_of_the_named_networks_alone(tmp_path: Path) -> None:
    first, second, other = Small(0), Small(1), Small(2)
    kept = FileOutputs(tmp_path, (first, second))
    for network in (first, other):
        kept.put(network, "test", outputs())
    again = FileOutputs(tmp_path, (Small(0), Small(1), Small(2)))
    found = again.get(again.networks[0], "test")
    assert found is not None
    for name, tensor in vars(outputs()).items():
        assert torch.equal(getattr(found, name), tensor)
    assert again.get(again.networks[0], "train") is None
    assert again.get(again.networks[1], "test") is None
    assert again.get(again.networks[2], "test") is None
    assert again.get(Small(0), "test") is None  # another object, which may change


def test_kept_outputs_that_are_not_whole_are_nothing(tmp_path: Path) -> None:
    kept = FileOutputs(tmp_path, (Small(0),))
    kept.put(kept.networks[0], "test", outputs())
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-20])
    assert kept.get(kept.networks[0], "test") is None


def test_the_code_of_a_metric_is_its_own_file_and_what_it_uses_of_the_room(tmp_path: Path) -> None:
    own = tmp_path / "own_metric.py"
    found = []
    for text in ("one", "two"):
        own.write_text(f"class Own:\n    value = {text!r}\n")
        spec = importlib.util.spec_from_file_location("own_metric", own)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["own_metric"] = module
        spec.loader.exec_module(module)
        found.append(code_of(module.Own))
    del sys.modules["own_metric"]
    assert found[0] != found[1]
    assert code_of(Accuracy) not in found


@pytest.mark.parametrize(
    ("file", "metric", "counts"),
    [
        ("fine_tuning", KShot, True),
        ("context", KShot, True),
        ("metric", Accuracy, True),
        ("fine_tuning", Accuracy, False),
        ("battery", KShot, False),
        ("word", KShot, False),
    ],
)
def test_what_cannot_change_a_value_does_not_count(
    monkeypatch: pytest.MonkeyPatch, file: str, metric: type, counts: bool
) -> None:
    before = code_of(metric)
    read = Path.read_bytes
    changed = Path(memory.__file__).with_name(f"{file}.py")
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path == changed))
    assert (code_of(metric) != before) == counts
