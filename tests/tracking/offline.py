"""Reads what wandb writes without a network: it has no public reader of its own files."""

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK = 32768  # bytes, of the LevelDB log that an offline run is written as


@dataclass
class OfflineRun:
    """One file: one process's part of a run; its media and tables lie in a folder beside it."""

    files: Path
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exits: list[int] = field(default_factory=list)  # none where the process was killed

    def table(self, key: str) -> tuple[list[str], list[list[Any]]]:
        """Return columns and rows of a table that was logged once."""
        (row,) = [row for row in self.history if key in row]
        content = json.loads((self.files / row[key]["path"]).read_text())
        return content["columns"], content["data"]

    def chart(self, key: str) -> dict[str, Any]:
        """Return how a chart is drawn from its table."""
        found: dict[str, Any] = self.config["_wandb"]["visualize"][key]["panel_config"]
        return found


def offline_runs(folder: Path) -> list[OfflineRun]:
    """Return all in a run's folder, the oldest first, when their ends are written."""
    return [_ended(file) for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


def _ended(file: Path) -> OfflineRun:
    """Wait for the end of a file: wandb's own process writes it when ours has gone on."""
    deadline = time.monotonic() + 20
    while not (found := _read(file)).exits:
        assert time.monotonic() < deadline, f"{file} has no end"
        time.sleep(0.02)
    return found


def _read(path: Path) -> OfflineRun:
    found = OfflineRun(path.parent / "files")
    for record in _records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            _merge(found.config, record.run.config.update)
        elif kind == "config":
            _merge(found.config, record.config.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            _merge(row, record.history.item)
            found.history.append(row)
        elif kind == "summary":
            _merge(found.summary, record.summary.update)
        elif kind == "exit":
            found.exits.append(record.exit.exit_code)
    return found


def _merge(tree: dict[str, Any], items: Any) -> None:
    for item in items:
        node = tree
        *path, leaf = item.nested_key or [item.key]
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = json.loads(item.value_json)


def _records(file: Path) -> Iterator[Any]:
    raw, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(raw):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", raw, at)
        if at + 7 + length > len(raw):  # still being written
            return
        parts += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""
