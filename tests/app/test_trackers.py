import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

from geniu_lightning.app.trackers import wandb_id
from tests.app.conftest import Command

BLOCK = 32768  # of the LevelDB log that an offline run is written as


def records(file: Path) -> Iterator[Any]:
    """Read an offline run back; wandb has no public reader of its own files."""
    raw, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(raw):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", raw, at)
        parts += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def test_an_offline_run_holds_what_a_dashboard_shows(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    outcome = command(
        "unlearn",
        f"kit={trained}",
        "forget=[3]",
        "logger=wandb",
        "logger.wandb.group=sweep7",
        "logger.wandb.tags=[mine]",
        f"out={tmp_path}",
    )
    assert outcome.status == 0, outcome.err
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    run: Any = None
    config: dict[str, Any] = {}
    history: list[set[str]] = []
    summary: dict[str, Any] = {}
    exits = []
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            config |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif kind == "config":
            config |= {item.key: json.loads(item.value_json) for item in record.config.update}
        elif kind == "history":
            keys = {item.key or ".".join(item.nested_key) for item in record.history.item}
            history.append(keys)
        elif kind == "summary":
            summary |= {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.summary.update
            }
        elif kind == "exit":
            exits.append(record.exit.exit_code)
    assert (run.run_group, run.job_type, run.run_id) == ("sweep7", "unlearn", wandb_id(tmp_path))
    assert set(run.tags) >= {"geniu", "forget 3", "mine"}
    assert config["unlearner"]["name"] == "geniu"
    assert config["forget_names"] == ["3"]
    assert any("unlearn/loss/forget" in keys for keys in history)
    assert any("confusion_after" in key for keys in history for key in keys)
    accuracy = json.loads((tmp_path / "metrics.json").read_text())["metrics"]["accuracy"]["test"]
    assert summary["accuracy.test.retain"] == accuracy["retain"]["value"]
    assert exits == [0]
    images = list(tmp_path.glob("wandb/offline-run-*/files/media/images/*.png"))
    assert len(images) == 2
