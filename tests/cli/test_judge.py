"""What a judged run leaves beside its values."""

import json
from pathlib import Path

from geniu_lightning.report.figures import curves_of
from geniu_lightning.report.runs import find
from geniu_lightning.report.tables import tables
from tests.commands import Command

ATTACK = (
    "+evaluation.metrics.relearning={_target_:geniu_lightning.evaluation.attacks.relearning.KShot,"
    "steps:[0,1,3],shots:[10],draws:1,scored:20}"
)


def test_steps_of_a_curve_are_written_and_drawn(
    trained: Path, tmp_path: Path, command: Command
) -> None:
    outcome = command(
        *("unlearn", f"kit={trained}", "forget=[0]", "unlearner=logit_mask"),
        *("evaluation=accuracy", ATTACK, "trainer.threads=1", f"out={tmp_path}"),
    )
    assert outcome.status == 0, outcome.err
    steps = json.loads((tmp_path / "metrics.json").read_text())["steps"]
    assert steps == {"relearning": [0, 1, 3]}
    (table,) = tables(find([tmp_path]))
    curves = curves_of(table)
    assert curves is not None
    assert (curves.steps, len(curves.methods["logit_mask"])) == ((0, 1, 3), 3)
