"""The receipt: says what was done and found, what nobody looked at, and no more than that."""

import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from geniu_lightning.evaluation import checks
from geniu_lightning.receipt import facts as receipt
from geniu_lightning.receipt.facts import facts_of, versions_of
from geniu_lightning.receipt.page import page_of, write
from geniu_lightning.receipt.sentences import MEANINGS, TRIES
from geniu_lightning.report.document import NEW_NAMES, Json

AT = "2026-01-02T03:04:05+00:00"
LATER = AT.replace("2026", "2027")
NOTHING = {"accuracy": {"absent": "no images at /a/folder of/mine"}}


def leaf(value: float, original: float | None, mean: float | None) -> dict[str, Any]:
    return {"value": value, "original": original, "oracle_mean": mean}


def measured() -> dict[str, Any]:
    """Return all that the rule or the page looks at, measured."""
    questions = (checks.WORKS, checks.ANSWERS, checks.PROBABILITIES, checks.SYSTEM)
    names = {check.name for question in questions for check in question}
    names |= {name for family in checks.INSIDE for name in family.checks}
    names |= {"copying.feature.forget.nearer_low", "knowledge.net"}
    names |= {"which_class.weights.named", "over_unlearning.test.divergence", "weights.original"}
    tree: dict[str, Any] = {}
    for k, name in enumerate(sorted(names)):
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = leaf(0.1001 + k / 1000, 0.5001 + k / 1000, 0.2001 + k / 1000)
    return tree


def attack(name: str, family: str, has_power: bool) -> Json:
    return {"family": family, "name": name, "allowed": 0.1, "reach": 0.3, "has_power": has_power}


def document(verdict: str | None = "forgotten", **changes: Any) -> dict[str, Any]:
    return {
        "version": 3,
        "verdict": verdict,
        "verdict_reason": "a reason",
        "findings": [],
        "controls": {"original": "retained", "mask": "suppressed"},
        "oracle_verdicts": {"forgotten": 4, "distinguishable": 1},
        "attacks": [attack("probe.recall", "features", True)],
        "oracles": [1000, 1001, 1002, 1003, 1004],
        "nulls": 0,
        "steps": {"relearning": [0, 1, 50]},
        "run": {
            "unlearner": {"name": "geniu", "_target_": "a.B", "steps": 7, "optimizer": {"lr": 0.1}},
            "forget": [3, 5],
            "seed": 3,
            "evaluation": {"seed": 4, "split": "test", "metrics": {"accuracy": {}}},
            "trained": {"seed": 5, "data": {"root": "/somewhere/else"}},
        },
        "cost": {
            "training_images_read": 12345,
            "access": "retain data",
            "reads_prompts": True,
            "archived_images_read": 0,
            "archived_forgotten_read": 0,
            "draws_samples": False,
            "seconds": 1.5,
            "seconds_each": [1.0, 1.5, 2.0],
            "steps": 7,
            "ended": AT,
        },
        "metrics": measured(),
        **changes,
    }


class Request:
    """A request in a folder of its own: the run of the old kit, and what unlearning wrote."""

    def __init__(self, folder: Path) -> None:
        self.old, self.new = folder / "old", folder / "new"
        for run in (self.old, self.new):
            run.mkdir()
        self.kit_file, self.weights = self.old / "old.safetensors", self.new / "unlearned.st"
        self.kit_file.write_bytes(b"old kit")
        self.weights.write_bytes(b"weights")
        names = ("0", "1", "2", "cat", "4", "5")
        info = SimpleNamespace(class_names=names, forgotten=(), settings={}, archive=None)
        self.kit: Any = SimpleNamespace(info=info, prompts=object(), distribution=None)

    def facts(self, verdict: str | None = "forgotten", **changes: Any) -> Json:
        return facts_of(
            self.weights,
            document(verdict, **changes),
            self.kit,
            self.kit_file,
            [0.9, 0.7, float("nan"), 0.5, 0.8, 0.7],
            "0" * 40 + "+",
        )

    def unchecked(self, verdict: str | None = "forgotten", **changes: Any) -> str:
        return "\n".join(self.facts(verdict, **changes)["not_checked"])

    def add_new_kit(self) -> None:
        (self.new / "kit.safetensors").write_bytes(b"new kit")


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    monkeypatch.setattr(receipt, "now", lambda: LATER)
    return Request(tmp_path)


def test_only_one_verdict_says_that_nothing_was_found(request_: Request) -> None:
    assert {*MEANINGS} == {*NEW_NAMES.values()}
    request_.add_new_kit()
    for verdict in (*MEANINGS, None):
        found = request_.facts(verdict)
        first, _, then = page_of(found).partition("\n")
        begin = "Not found by these tests" if verdict == "forgotten" else "NOT shown to be gone"
        assert first == f"# {begin}: classes 3 (cat), 5"
        assert found["found"]["short"] in then
        assert found["found"]["meaning"] in then
        told = then.partition("## What was not")[0]
        assert re.search(r"\bgone\b", told) is None or verdict is None
        # what to do, and which files hold the class, follow from it
        forgotten = verdict in ("forgotten", "forgotten in the model only")
        inside = verdict in ("retained", "suppressed", "damaged", "damaged and retained")
        steps = found["next"]
        assert any(step.startswith("Delete the files") for step in steps) is forgotten
        assert any("Keep the new kit" in step for step in steps) is forgotten
        assert any("Start no further request" in step for step in steps) is not forgotten
        assert ("evaluation=full" in steps[0]) is (verdict in (None, "untested"))
        assert ("Do not use this model" in steps[0]) is (inside or verdict == "distinguishable")
        assert [file["delete"] for file in found["files"]] == [inside, inside, True]


def test_a_damaged_model_is_not_acquitted_of_the_class(request_: Request) -> None:
    finding = {"name": "relearning", "value": 0.4, "reference": 0.0, "original": 1.0}
    for question, said in (("inside", "damaged, and the class is"), ("procedure", "damaged.")):
        found = {"findings": [finding | {"question": question, "against": "nulls"}]}
        page = page_of(request_.facts("damaged", **found))
        assert page.splitlines()[2].startswith(f"The model was {said}")


def test_without_measurements_it_says_so_first(request_: Request) -> None:
    empty = {"metrics": NOTHING, "oracles": [], "attacks": [], "verdict_reason": "at /a/folder"}
    found = request_.facts(None, **empty)
    lines = page_of(found).splitlines()
    assert lines[0].startswith("# NOT shown to be gone")
    assert lines[2].startswith("Nothing was measured.")
    unchecked = "\n".join(found["not_checked"])
    assert "the images to measure with were not found" in unchecked
    assert "Values are means" not in unchecked
    assert all(text in unchecked for text in TRIES.values())
    assert found["evaluated"] is None
    assert "/a/folder" not in json.dumps(found)
    run = document()["run"]
    run["evaluation"]["metrics"] = {}
    assert "the evaluation was switched off" in request_.unchecked(None, run=run, **empty)


def test_what_nobody_looked_at_is_named(request_: Request) -> None:
    assert {*measured()} == {*TRIES}
    whole = request_.unchecked()
    assert "have no result" not in whole
    for family, text in TRIES.items():
        assert text not in whole
        gone = {family: {"x": {"absent": "a reason"}}}
        assert text in request_.unchecked(metrics=measured() | gone, attacks=[])
    gaps, fewer, copying = measured(), measured(), measured()
    gaps["relearning"]["k50"]["area"] = {"absent": "too few images"}
    del gaps["head"]["repair"], fewer["relearning"]["k50"]
    copying["copying"] = {"pixel": {"retain": {"nearer": leaf(0.5, None, None)}}}
    for changes, said in (
        ({}, "Values are means over the classes"),
        ({}, "had at most 50 images of the class and 50 steps)."),
        ({"metrics": fewer, "steps": {"relearning": [0, 20]}}, "10 images of the class and 20 st"),
        ({"metrics": measured() | {"relearning": {}}}, "not tried."),
        ({"metrics": gaps}, "no result, metrics.json says why: head.repair, relearning.k50.area"),
        (
            {"oracles": [1000, 1001]},
            "compared with 2 models that never saw the class, and the rule",
        ),
        ({}, "The old kit, old.safetensors, still holds the model before and draws pictures"),
        ({}, "No new kit was made"),
    ):
        assert said in request_.unchecked(**changes), said
    assert "the rule needs" not in request_.unchecked(oracles=[1000, 1001, 1002])
    request_.kit.prompts = None
    assert "still holds the model before." in request_.unchecked()
    request_.kit.info.archive = SimpleNamespace(counts=(9, 900, 900, 9, 900, 9))
    assert "holds the model before, and holds images of the class." in request_.unchecked()
    assert "The archive in old.safetensors shows 2,709 training images" in request_.unchecked()
    request_.add_new_kit()
    assert "the new kit shows 2,709 training images of kept classes" in request_.unchecked()
    assert "it has no part of the class" in request_.unchecked()
    assert "draws" not in request_.unchecked()
    request_.kit.distribution = object()
    assert "trained on images of all classes, the class too" in request_.unchecked()
    request_.kit.distribution = None
    request_.kit.info.archive = None
    without = {name: tree for name, tree in measured().items() if name != "copying"}
    assert "Nobody looked at what the new kit draws" in request_.unchecked(metrics=without)
    compared = request_.unchecked(metrics=copying)
    assert "compared with training images of kept classes" in compared
    assert TRIES["copying"] in compared  # of the forgotten class nothing is known


def test_the_page_holds_the_numbers_of_the_file(request_: Request) -> None:
    attacks = [
        attack("relearning.k1.area", "relearning", has_power=False),
        attack("relearning.k10.area", "relearning", has_power=True),
        attack("retain_only.area", "retain_only", has_power=False),
    ]
    finding = {"name": "relearning", "value": 0.464, "reference": 0.081, "original": 0.963}
    findings = [
        finding | {"question": "inside", "against": "nulls"},
        finding
        | {"question": "works", "name": "accuracy.test.retain", "against": "oracles"}
        | {"original": None},
    ]
    tree = measured()
    tree["accuracy"]["test"]["retain"]["original"] = None  # without oracles: from `before`
    changes = {"findings": findings, "attacks": attacks, "nulls": 5}
    found = request_.facts("suppressed", metrics=tree, **changes)
    page = write(request_.new, found)
    text = page.read_text()
    assert json.loads((request_.new / "receipt.json").read_text()) == found
    rows = found["found"]["values"]
    assert [row["name"] for row in rows] == [
        *("accuracy.test.forget", "accuracy.test.retain"),
        *(f"relearning.k{k}.area" for k in (1, 10, 50)),
        *("relearning_sgd.k10.area", "relearning_head.k10.area"),
    ]
    assert rows[1]["before"] == pytest.approx(0.8)  # of 0.9, 0.7 and 0.8
    for row in rows:
        (line,) = [line for line in text.splitlines() if f"`{row['name']}`" in line and "|" in line]
        cells = [f"{row[part]:.3f}" for part in ("before", "after", "oracle_mean")]
        assert line.endswith(f"| {' | '.join(cells)} |")
    for part in (
        "`relearning` 0.464 (made alike 0.081, before 0.963);",
        "`accuracy.test.retain` 0.464 (retrained 0.081).",
        "could not have been found by fine-tuning on retained images alone (`retain_only`).",
        "(oracles) and with 5 that the method made of such models. The verdicts",
        "Training images, 12,345 times (one that is read twice counts twice)",
        "forgotten 4, distinguishable 1; and on models whose answer is known: the original"
        " retained, the mask suppressed.",
        "with steps=7, optimizer.lr=0.1; 7 steps, 1.50 s",
        "training 5, unlearning 3, evaluation 4, models to compare with 1000, 1001",
        "on 2026-01-02 03:04:05 UTC",
        f"git revision {'0' * 12}+,",
        "Evaluated on 2027-01-02",
        *found["not_checked"],
        *found["next"],
        *(file["sha256"] for file in found["files"]),
    ):
        assert part in text
    whole = page_of(request_.facts())
    assert not any(said in whole for said in ("Without power", "All findings", "made of such"))
    assert len(text.splitlines()) <= 60  # a page


def test_files_are_those_of_both_runs_with_their_checksums(request_: Request) -> None:
    old = request_.old
    (old / "checkpoints").mkdir()
    beside = ("checkpoints/a.ckpt", "kit.safetensors", "unlearned.st", "proxies.png")
    for name in beside:
        (old / name).write_bytes(name.encode())
    assert len(request_.facts()["files"]) == 2  # no run wrote the kit
    (old / "run.json").write_text("{}")
    earlier = {"what": "x", "file": "earlier.st", "sha256": "e" * 64}
    files = [earlier | {"delete": True}, earlier | {"file": "kept", "delete": False}]
    (old / "receipt.json").write_text(json.dumps({"files": files}))
    request_.kit.info.settings["weights_sha256"] = "f" * 64
    request_.kit.info.forgotten = (5,)
    found = request_.facts()
    assert [(f["file"], f["delete"]) for f in found["files"]] == [
        ("unlearned.st", False),
        ("old.safetensors", True),
        *((beside[k], True) for k in (0, 2, 1, 3)),
        ("earlier.st", True),
        (None, True),
    ]
    for file in found["files"][2:6]:
        assert file["sha256"] == hashlib.sha256(file["file"].encode()).hexdigest()
    assert [file["sha256"] for file in found["files"][6:]] == ["e" * 64, "f" * 64]
    page = page_of(found)
    assert "To forget class 3 (cat), from the kit" in page
    assert "; forgotten by earlier requests: class 5." in page
    request_.kit_file = old / "kit.safetensors"  # a file that is the kit itself is named once
    digests = [file["sha256"] for file in request_.facts()["files"]]
    assert digests.count(hashlib.sha256(b"kit.safetensors").hexdigest()) == 1


def test_evaluated_again_it_still_says_when_the_weights_were_made(request_: Request) -> None:
    versions = versions_of("0" * 40 + "+")
    assert request_.facts()["unlearned"] == {"at": AT, "versions": versions}
    (request_.new / "done.json").write_text(json.dumps({"ended": LATER}))
    assert request_.facts()["unlearned"] == {"at": AT, "versions": None}  # by a version without one
    write(request_.new, request_.facts())
    assert "versions were not recorded" in (request_.new / "receipt.md").read_text()
    made = {"at": "2025", "versions": {"python": "3"}}
    earlier = {"version": 1, "unlearned": made, "files": []}
    (request_.new / "receipt.json").write_text(json.dumps(earlier))
    found = request_.facts()
    assert (found["unlearned"], found["evaluated"]) == (made, {"at": LATER, "versions": versions})


def test_settings_and_names_are_told_without_their_folders(request_: Request) -> None:
    run = document()["run"]
    run["unlearner"] |= {"file": "/somewhere/a.pt", "more": [{"b": "~me/c.pt"}]}
    request_.kit.info.class_names = ["0", "1", "2", "two\nlines", "4", "5"]
    found = request_.facts(run=run)
    assert found["asked"]["settings"]["file"] == "a.pt"
    assert found["asked"]["settings"]["more"] == [{"b": "c.pt"}]
    for text in (json.dumps(found), page_of(found)):
        assert "/somewhere" not in text
        assert str(request_.old.parent) not in text
    assert page_of(found).splitlines()[0].endswith("classes 3 (two lines), 5")


def test_the_published_page_is_that_of_its_facts(request_: Request) -> None:
    docs = Path(__file__).parents[2] / "docs"
    example = json.loads((docs / "receipt_example.json").read_text())
    assert (docs / "receipt_example.md").read_text() == page_of(example)
    assert [*example] == [*request_.facts()]


def test_what_was_read_of_a_kit_is_said(request_: Request) -> None:
    cost = document("forgotten")["cost"]
    for read, said in (
        ({"archived_images_read": 9}, "of its archive 9 training images, all of kept classes."),
        ({"archived_images_read": 9, "archived_forgotten_read": 4}, "of which 4 show the class."),
        (
            {"draws_samples": True},
            "its prompts were read, which stand for images, and samples were",
        ),
    ):
        assert said in page_of(request_.facts(cost=cost | read)), said
