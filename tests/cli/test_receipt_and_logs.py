"""What an unlearning command leaves for others: a receipt, and a run in wandb."""

import hashlib
import json
import re
from pathlib import Path

from geniu_lightning.receipt.facts import VERSION
from tests.commands import Command
from tests.tracking.offline import offline_runs


def test_a_run_leaves_a_receipt_and_is_logged(
    command: Command, trained: Path, bank: Path, tmp_path: Path
) -> None:
    outcome = command(
        *("unlearn", f"kit={trained}", "forget=[0]", "unlearner=logit_mask", "next_kit=false"),
        *("trainer.threads=1", "oracles.count=3", f"oracles.folder={bank}", "evaluation=accuracy"),
        *("evaluation.bank=use", "logger=wandb", "logger.wandb.group=mine", f"out={tmp_path}"),
    )
    assert outcome.status == 0, outcome.err
    assert f"receipt: {tmp_path / 'receipt.md'}" in outcome.out
    document = json.loads((tmp_path / "metrics.json").read_text())
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    page = (tmp_path / "receipt.md").read_text()
    assert receipt["version"] == VERSION
    assert receipt["found"]["oracles"] == 3
    assert receipt["read"] == {
        **{"training_images": 0, "declared": "no training data"},
        **{"prompts": False, "samples": False, "files": ["kit.safetensors"]},
        **{"archived_images": 0, "archived_forgotten": 0},
    }
    for file in receipt["files"]:
        folder = trained if file["delete"] else tmp_path
        digest = hashlib.sha256((folder / file["file"]).read_bytes()).hexdigest()
        assert file["sha256"] == digest
        assert digest in page
    assert {"unlearned.safetensors", "kit.safetensors", "proxies.png"} < {
        file["file"] for file in receipt["files"]
    }
    for text in (json.dumps(receipt), page):
        for place in (tmp_path, trained, bank, Path.home(), Path.cwd()):
            assert str(place) not in text
        assert not re.search(r"(?<![\w.])/\w+/", text)
    assert not list(bank.rglob("receipt.*"))  # nobody asked an oracle to forget

    (logged,) = offline_runs(tmp_path)
    assert (logged.run.run_group, logged.run.job_type, logged.exits) == ("mine", "unlearn", [0])
    assert {*logged.run.tags} == {"logit_mask", "digits", "forget 0", "seed 0"}
    assert logged.config["unlearner"]["name"] == "logit_mask"
    assert logged.config["out"] == str(tmp_path)  # the whole configuration, resolved
    assert logged.config["forget_names"] == ["0"]
    assert logged.config["trained"]["seed"] == 1
    assert {"revision", "data_fingerprint"} < logged.config.keys()
    assert logged.summary["verdict"] == document["verdict"]
    assert logged.summary["verdict_reason"] == document["verdict_reason"]
    assert logged.summary["findings"] == len(document["findings"])
    leaf = document["metrics"]["accuracy"]["test"]["retain"]
    for ending, part in {"": "value", ".oracles": "oracle_mean", ".z": "z"}.items():
        assert logged.summary[f"accuracy.test.retain{ending}"] == leaf[part]
    assert logged.summary["cost.seconds"] == document["cost"]["seconds"]
    accuracies = document["metrics"]["accuracy"]["test"]["per_class"]
    _, rows = logged.table("classes/table")
    assert [row[1] for row in rows] == ["forget"] + 9 * ["retain"]
    assert [row[3] for row in rows] == accuracies["value"]
    assert [row[4] for row in rows] == accuracies["oracle_mean"]
