"""Files of version 1, as revision 472f77a wrote them: kits load and unlearn, runs are reported."""

from pathlib import Path

import pytest
import torch

from geniu_lightning import load_kit, unlearn
from geniu_lightning.report.load import find
from geniu_lightning.training.next_kit import next_kit
from geniu_lightning.unlearning.retrain import steps_of_retraining

OLD = Path(__file__).parent / "reference" / "version_1"


def test_an_old_kit_unlearns_to_the_weights_that_its_own_version_found() -> None:
    kit = load_kit(OLD / "train")
    found = unlearn(kit, 0, "geniu", seed=0).classifier.state_dict()
    expected = load_kit(OLD / "geniu" / "unlearned.safetensors").classifier.state_dict()
    for name, tensor in expected.items():  # other machines and threads round differently
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=5e-4, msg=name)


def test_the_record_of_an_old_kit_serves_retraining_and_the_next_kit() -> None:
    kit = load_kit(OLD / "train")
    assert kit.info.settings["training"]["supervision"] == "max_entropy"  # the old name
    assert steps_of_retraining(kit, (0,)) > 0
    kit.info.settings["training"]["min_generator_steps"] = 2
    after = next_kit(kit, kit.classifier, (0,), seed=0)
    assert after.info.remaining == tuple(range(1, 10))


def test_old_runs_are_reported_with_their_values() -> None:
    run = next(run for run in find([OLD]) if run.method == "geniu")
    assert run.verdict is None  # there were no oracles
    assert run.numbers["value"]["accuracy.test.forget"] == pytest.approx(0.0)
