"""`geniu evaluate`: what it writes of a model, and what it refuses in a sentence."""

import json
from pathlib import Path

from safetensors.torch import save_file

from geniu_lightning.kit.file import Kit
from tests.commands import Command
from tests.tracking.offline import offline_runs

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
    words = (*common, "evaluation=accuracy", ATTACK, "logger=wandb", f"out={out}")
    outcome = command("evaluate", *words)
    assert outcome.status == 0, outcome.err
    found = json.loads((out / "metrics.json").read_text())
    assert found["version"] == 3
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
    (logged,) = offline_runs(out)
    assert (logged.run.job_type, logged.config["evaluation"]["split"]) == ("evaluate", "test")
    assert logged.summary["verdict"] == "none"


def test_an_evaluation_that_cannot_be_is_refused_in_a_sentence(
    trained: Path, tmp_path: Path, command: Command
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    kit, weights = f"kit={trained}", trained / "kit.safetensors"
    for arguments, said in (
        ((), "name the weights and their kit"),
        ((kit, f"weights={tmp_path / 'none'}"), "there are no weights at"),
        ((kit, f"weights={broken}"), "do not say what they forgot"),
        ((kit, f"weights={weights}", "forget=[11]"), "11"),
        ((kit, f"weights={weights}", "forget=[0]", f"out={trained}"), "the folder of the weights"),
        (
            (kit, f"weights={weights}", "forget=[0]", "oracles.count=0"),
            "oracles.count must be greater",
        ),
        (("population=[nowhere]",), "out=FOLDER"),
    ):
        outcome = command("evaluate", *arguments, "trainer.threads=1")
        assert (outcome.status, said in outcome.err) == (2, True), (arguments, outcome.err)
        assert "Traceback" not in outcome.err
