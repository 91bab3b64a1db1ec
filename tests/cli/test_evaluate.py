"""`geniu evaluate`: what it writes of a model, and what it refuses in a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from geniu_lightning.cli.model_evaluation import evaluate_model
from geniu_lightning.cli.results import Result, document
from geniu_lightning.data.module import ImageData
from geniu_lightning.evaluation.evaluator import Evaluation
from geniu_lightning.kit.file import Kit

Command = Callable[..., Any]
ATTACK = (
    "+evaluation.metrics.relearning={_target_:geniu_lightning.evaluation.attacks.relearning.KShot,"
    "steps:[0,1,3],shots:[10],draws:1,scored:20}"
)


def test_weights_are_evaluated_and_their_curves_are_written_with_their_steps(
    trained: Path, tmp_path: Path, command: Command
) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file(Kit.load(trained / "kit.safetensors").classifier.state_dict(), weights)
    common = (f"kit={trained}", f"weights={weights}", "forget=[3]", "trainer.threads=1")
    out = tmp_path / "out"
    outcome = command("evaluate", *common, "evaluation=accuracy", ATTACK, f"out={out}")
    assert outcome.status == 0, outcome.err
    found = json.loads((out / "metrics.json").read_text())
    assert found["version"] == 2
    assert found["verdict"] is None
    assert found["steps"] == {"relearning": [0, 1, 3]}
    assert len(found["metrics"]["relearning"]["k10"]["curve"]["value"]) == 3
    assert found["metrics"]["accuracy"]["test"]["retain"]["value"] > 0.1
    assert found["run"]["job"] == "evaluate"
    assert {path.name for path in out.glob("*.png")} == {
        "confusion_before.png",
        "confusion_after.png",
    }
    assert (out / "done.json").is_file()


def test_a_kit_is_evaluated_in_a_call(trained: Path, command: Command) -> None:
    kit = Kit.load(trained / "kit.safetensors")
    labels = torch.arange(40) % 10

    class Images:
        """Stands in for `ImageData`: random images in two splits."""

        names, class_counts, spec = kit.info.class_names, [2] * 10, kit.info.spec

        def indices(self, split: str) -> torch.Tensor:
            return torch.arange(0 if split == "validation" else 40)

        def labels(self, split: str) -> torch.Tensor:
            return labels

        def read(self, split: str, indices: torch.Tensor, device: Any) -> torch.Tensor:
            stream = torch.Generator().manual_seed(0)
            shape = (40, self.spec.channels, self.spec.size, self.spec.size)
            return torch.rand(shape, generator=stream)[indices]

    data: ImageData = Images()  # type: ignore[assignment]
    target = "geniu_lightning.evaluation.metrics.accuracy.Accuracy"
    metrics = {"accuracy": {"_target_": target, "splits": ["test"]}}
    config = OmegaConf.create({"metrics": metrics, "seed": 0, "split": "test"})
    found = evaluate_model(config, kit, kit.classifier, data, (0,))
    assert found.accuracies["before"] == found.accuracies["after"]
    assert found.confusions["after"].sum() == 40
    assert found.decision is not None
    assert "no oracles" in found.decision.reason
    config.metrics.accuracy.splits = ["tests"]
    with pytest.raises(Exception, match=r"evaluation\.metrics\.accuracy\.splits must be"):
        evaluate_model(config, kit, kit.classifier, data, (0,))


def test_a_document_says_why_nothing_was_measured() -> None:
    found = document(Result(Evaluation(), missing="evaluation=none"), {"run": {}}, None)
    assert found == {
        "version": 2,
        "verdict": None,
        "reason": "evaluation=none",
        "oracles": [],
        "steps": {},
        "run": {},
        "metrics": {"accuracy": {"absent": "evaluation=none"}},
    }


def test_an_evaluation_that_cannot_be_is_refused_in_a_sentence(
    trained: Path, tmp_path: Path, command: Command
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    kit, weights = f"kit={trained}", trained / "kit.safetensors"
    for arguments, said in (
        ((), "name the weights and their kit"),
        ((kit,), "name the weights and their kit"),
        ((kit, f"weights={tmp_path / 'none'}"), "there are no weights at"),
        ((kit, f"weights={broken}"), "do not say what they forgot"),
        ((kit, f"weights={weights}", "forget=[11]"), "11"),
        ((kit, f"weights={weights}", "forget=[0]", f"out={trained}"), "the folder of the weights"),
        (
            (kit, f"weights={weights}", "forget=[0]", "oracles.count=0"),
            "oracles.count must be greater",
        ),
        (
            (kit, f"weights={weights}", "forget=[0]", "evaluation.bank=maybe"),
            "evaluation.bank must be use, build or null",
        ),
        (("population=[nowhere]",), "out=FOLDER"),
    ):
        outcome = command("evaluate", *arguments, "trainer.threads=1")
        assert (outcome.status, said in outcome.err) == (2, True), (arguments, outcome.err)
        assert "Traceback" not in outcome.err
