"""The receipt: says what was done and found, what nobody looked at, and no more than that."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from geniu_lightning.cli import unlearn
from geniu_lightning.evaluation import verdict as word
from geniu_lightning.receipt import facts as receipt
from geniu_lightning.receipt.page import page_of
from geniu_lightning.receipt.words import MEANINGS, NEW_KIT, TRIES, Facts, receipt_of
from tests.commands import Command

QUICK = ("trainer.threads=1", "oracles.count=3")
AT = "2026-01-02T03:04:05+00:00"
OURS = {"what": "the unlearned weights", "file": "unlearned.safetensors", "delete": False}
OLD = {"what": "the old kit", "file": "old.safetensors", "sha256": "b" * 64, "delete": True}
NEW = {"what": NEW_KIT, "file": "kit.safetensors", "sha256": "c" * 64, "delete": False}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "receipt.json").read_text())
    return found


def page(folder: Path) -> str:
    return (folder / "receipt.md").read_text()


# ---- on values made up -------------------------------------------------------------------------


def leaf(value: float, original: float | None, mean: float | None) -> dict[str, Any]:
    return {"value": value, "original": original, "oracle_mean": mean}


def measured() -> dict[str, Any]:
    """All that the rule looks at, measured."""
    questions = (word.WORKS, word.ANSWERS, word.INSIDE, word.PROBABILITIES, word.SYSTEM)
    names = {check.name for question in questions for check in question}
    tree: dict[str, Any] = {}
    for k, name in enumerate(
        sorted({*names, "copying.feature.forget.nearer_low", "knowledge.net"})
    ):
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = leaf(0.1001 + k / 1000, 0.5001 + k / 1000, 0.2001 + k / 1000)
    return tree


def document(said: str | None = "forgets", **changes: Any) -> dict[str, Any]:
    return {
        "word": said,
        "word_reason": "a reason",
        "deciding": [],
        "controls": {"original": "keeps", "mask": "hides"},
        "oracle_words": {"forgets": 4, "scars": 1},
        "bands": [{"name": "probe.recall", "allowed": 0.0625, "reach": 0.3}],
        "oracles": [1000, 1001, 1002, 1003, 1004],
        "steps": {"relearning": [0, 1, 50]},
        "run": {
            "unlearner": {"name": "geniu", "_target_": "a.B", "steps": 7, "optimizer": {"lr": 0.1}},
            "seed": 3,
            "evaluation": {"seed": 4, "split": "test", "metrics": {"accuracy": {}}},
            "trained": {"seed": 5, "data": {"root": "/somewhere/else"}},
        },
        "cost": {
            "training_images_read": 12345,
            "access": "retain data",
            "reads_prompts": True,
            "seconds": 1.5,
            "seconds_each": [1.0, 1.5, 2.0],
            "steps": 7,
        },
        "metrics": measured(),
        **changes,
    }


FACTS = Facts(
    forget={3: "cat", 5: "5"},
    earlier=(),
    kit="old.safetensors",
    draws=True,
    files=[OURS | {"sha256": "a" * 64}, OLD],
    before={},
    unlearned={"at": AT, "versions": {"python": "3.x", "git revision": "0" * 40 + "+"}},
    judged={"at": AT, "versions": {"python": "3.x", "git revision": "0" * 40 + "+"}},
)
NOTHING = {"accuracy": {"absent": "no images at /a/folder of/mine"}}


def made(said: str | None = "forgets", facts: Facts = FACTS, **changes: Any) -> dict[str, Any]:
    return receipt_of(document(said, **changes), facts)


def sentences(receipt: Mapping[str, Any]) -> str:
    return "\n".join(receipt["not_checked"])


def test_every_word_of_the_rule_has_a_meaning() -> None:
    assert word.Verdict.__doc__ is not None
    about = word.Verdict.__doc__.partition("word: ")[2].partition("reason: ")[0]
    assert set(re.findall(r"``([^`]+)``", " ".join(about.split()))) - {"None"} == set(MEANINGS)


@pytest.mark.parametrize("said", [*MEANINGS, None])
def test_the_first_line_says_it_is_gone_of_no_word_but_one(said: str | None) -> None:
    found = made(said)
    first, _, then = page_of(found).partition("\n")
    begin = "# Not found by these tests: " if said == "forgets" else "# NOT shown to be gone: "
    assert first == f"{begin}classes 3 (cat), 5"
    assert found["found"]["short"] in then
    assert found["found"]["meaning"] in then
    assert re.search(r"\bgone\b", then.partition("## What was not")[0]) is None or said is None


def test_without_measurements_it_says_so_first() -> None:
    empty = {"metrics": NOTHING, "oracles": [], "bands": [], "word_reason": "at /a/folder"}
    found = made(None, **empty)
    lines = page_of(found).splitlines()
    assert lines[0].startswith("# NOT shown to be gone")
    assert lines[2].startswith("Nothing was measured.")
    assert "the images to measure with were not found" in sentences(found)
    assert "Values are means" not in sentences(found)
    assert "Values are means" in sentences(made())
    assert all(said in sentences(found) for said in TRIES.values())
    assert found["judged"] is None
    assert "/a/folder" not in json.dumps(found)
    off = document(None, **empty)
    off["run"]["evaluation"]["metrics"] = {}
    assert "the evaluation was switched off" in sentences(receipt_of(off, FACTS))


def test_what_the_rule_looks_at_can_all_be_named() -> None:
    assert set(measured()) == set(TRIES)


@pytest.mark.parametrize("family", TRIES)
def test_each_family_that_was_not_measured_is_named(family: str) -> None:
    assert TRIES[family] not in sentences(made())
    others = {name: tree for name, tree in measured().items() if name != family}
    for gone in ({}, {family: {}}, {family: {"x": {"absent": "a reason"}}}):
        assert TRIES[family] in sentences(made(metrics=others | gone, bands=[]))


def test_a_single_value_that_is_absent_is_named() -> None:
    tree = measured()
    tree["relearning"]["k50"]["area"] = {"absent": "too few images"}
    del tree["head"]["repair"]
    assert "no result, metrics.json says why: head.repair, relearning.k50.area" in sentences(
        made(metrics=tree)
    )
    assert "have no result" not in sentences(made())


def test_too_few_models_to_compare_with_are_named() -> None:
    few = "compared with 2 models that never saw the class, and the rule needs at least 3"
    assert few in sentences(made(None, oracles=[1000, 1001]))
    assert "the rule needs" not in sentences(made(oracles=[1000, 1001, 1002]))


def test_kits_that_lie_there_are_named() -> None:
    draws = "The old kit, old.safetensors, still holds the model before"
    without = made()
    assert f"{draws} and draws pictures of the class." in sentences(without)
    assert f"{draws}." in sentences(made(facts=replace(FACTS, draws=False)))
    assert "No new kit was made" in sentences(without)
    uncopied = {name: tree for name, tree in measured().items() if name != "copying"}
    new = made(metrics=uncopied, facts=replace(FACTS, files=[*FACTS.files, NEW]))
    assert "No new kit was made" not in sentences(new)
    assert "Nobody looked at what the new kit draws" in sentences(new)
    copying = {"pixel": {"retain": {"nearer": leaf(0.5, None, None)}}}
    metrics = measured() | {"copying": copying}
    compared = made(metrics=metrics, facts=replace(FACTS, files=[*FACTS.files, NEW]))
    assert "compared with training images of kept classes" in sentences(compared)
    assert "Nobody looked at what the new kit draws" not in sentences(compared)
    assert "whether these pictures copy training images" in sentences(compared)
    copying["pixel"]["forget"] = copying["pixel"]["retain"]
    assert "whether these pictures copy training images" not in sentences(made(metrics=metrics))
    assert any("Keep the new kit" in step for step in new["next"])
    hiding = made("hides", facts=replace(FACTS, files=[*FACTS.files, NEW]))
    assert not any("Keep the new kit" in step for step in hiding["next"])
    assert any("Start no further request" in step for step in hiding["next"])
    same_name = replace(FACTS, files=[OLD | {"file": "kit.safetensors"}])
    assert "No new kit was made" in sentences(made(facts=same_name))


@pytest.mark.parametrize(
    "said",
    [
        "copies: backups, logs",
        "training images themselves",
        "one certain image",
        "Images of kept classes",
        "stronger attackers",
        "own splits",
        "measured 3 times, on one machine",
    ],
)
def test_what_no_run_looks_at_is_always_named(said: str) -> None:
    assert said in sentences(made())


def test_how_strong_the_attackers_were_follows_from_the_run() -> None:
    assert "at most 50 images of the class and 50 steps" in sentences(made())
    weaker = measured()
    del weaker["relearning"]["k50"]
    fewer = sentences(made(metrics=weaker, steps={"relearning": [0, 20]}))
    assert "at most 10 images of the class and 20 steps" in fewer
    assert "not tried." in sentences(made(metrics=measured() | {"relearning": {}}))


@pytest.mark.parametrize("said", [*MEANINGS, None])
def test_what_to_do_follows_from_the_word(said: str | None) -> None:
    first, *_ = made(said)["next"]
    forgotten = said is not None and said.startswith("forgets")
    assert first.startswith("Delete the files") is forgotten
    assert ("evaluation=full" in first) is (said in (None, "not refuted"))
    assert ("Do not use this model" in first) is (
        said in ("keeps", "hides", "scars", "destroys", "destroys without forgetting")
    )


def test_the_page_holds_the_numbers_of_the_file() -> None:
    failure = {"name": "head.transplant"}
    found = made("hides", deciding=[failure])
    text = page_of(found)
    rows = found["found"]["values"]
    assert [row["name"] for row in rows] == [
        *("accuracy.test.forget", "accuracy.test.retain"),
        *(f"relearning.k{k}.area" for k in (1, 5, 10, 50)),
        "head.transplant",
    ]
    for row in rows:
        numbers = (row["before"], row["after"], row["oracle_mean"])
        (line,) = [line for line in text.splitlines() if f"`{row['name']}`" in line]
        assert [float(cell) for cell in line.split(" | ")[1:3]] == pytest.approx(
            numbers[:2], abs=5e-4
        )
        assert f"{numbers[2]:.3f} |" in line
    band = found["found"]["bands"][0]
    assert f"`probe.recall` may be {band['allowed']:.3f} away" in text
    assert "told apart in none of the 1 values" in text
    assert "Training images, 12,345 times (one that is read twice counts twice)" in text
    assert "forgets 4, scars 1" in text
    assert "with steps=7, optimizer.lr=0.1; 7 steps, 1.50 s" in text
    assert "training 5, unlearning 3, evaluation 4, models to compare with 1000, 1001" in text
    assert "2026-01-02 03:04:05 UTC" in text
    assert f"python 3.x, git revision {'0' * 12}+." in text
    assert all(file["sha256"] in text for file in found["files"])
    assert all(sentence in text for sentence in found["not_checked"] + found["next"])


def test_a_comparison_that_does_not_see_the_original_says_so() -> None:
    blunt = {"name": "head.repair", "allowed": 0.5, "reach": 0.4}
    sharp = {"name": "probe.recall", "allowed": 0.1, "reach": 0.4}
    said = page_of(made(bands=[blunt, sharp]))
    assert "in 1 of the 2 values that look inside the model, which say nothing here (`head" in said


def test_it_fits_on_a_page() -> None:
    deciding = [{"name": name} for name in ("head.repair", "head.transplant", "probe.recall")]
    files = [*FACTS.files, NEW, OLD | {"file": "a.ckpt"}, OLD | {"file": "proxies.png"}]
    tree = measured()
    tree["relearning"]["k50"]["area"] = {"absent": "too few images"}
    del tree["adaptive"]
    found = made("hides", replace(FACTS, files=files), deciding=deciding, metrics=tree)
    assert len(page_of(found).splitlines()) <= 60


def test_settings_and_names_are_told_without_where_they_lie() -> None:
    given = document()
    given["run"]["unlearner"] |= {"file": "/somewhere/a.pt", "more": [{"b": "~me/c.pt"}]}
    found = receipt_of(given, replace(FACTS, forget={0: "two\nlines"}))
    assert found["asked"]["settings"]["file"] == "a.pt"
    assert found["asked"]["settings"]["more"] == [{"b": "c.pt"}]
    assert "/somewhere" not in json.dumps(found)
    assert page_of(found).splitlines()[0].endswith("class 0 (two lines)")


# ---- of real runs ------------------------------------------------------------------------------


def test_a_run_leaves_a_receipt_whose_checksums_are_those_of_the_files(
    command: Command, trained: Path, bank: Path, tmp_path: Path
) -> None:
    outcome = command(
        *("unlearn", f"kit={trained}", "forget=[0]", "unlearner=logit_mask", *QUICK),
        *(f"oracles.folder={bank}", f"out={tmp_path}", "next_kit=false"),
    )
    assert outcome.status == 0, outcome.err
    assert "receipt.md" in outcome.out
    found, document = read(tmp_path), json.loads((tmp_path / "metrics.json").read_text())
    places = {"unlearned.safetensors": tmp_path}
    sums = {file["file"]: file["sha256"] for file in found["files"]}
    assert sums == {name: sha256(places.get(name, trained) / name) for name in sums}
    assert {name for name in sums if "/" not in name} == {
        *("unlearned.safetensors", "kit.safetensors", "proxies.png")
    }
    assert [file["file"] for file in found["files"] if not file["delete"]] == [
        "unlearned.safetensors"
    ]
    assert any(name.startswith("checkpoints/") for name in sums)
    assert found["found"]["word"] == document["word"]
    assert found["found"]["oracles"] == 3
    assert found["found"]["bands"] == document["bands"]
    assert len(document["bands"]) > 3
    assert found["read"] == {
        "training_images": 0,
        "declared": "no training data",
        "prompts": False,
        "files": ["kit.safetensors"],
    }
    assert found["unlearned"]["versions"]["torch"]
    for text in (json.dumps(found), page(tmp_path)):
        for place in (tmp_path, trained, bank, Path.home(), Path.cwd()):
            assert str(place) not in text
        assert not re.search(r"(?<![\w.])/\w+/", text)


def test_without_oracles_it_has_both_accuracies_and_no_word(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "kit.safetensors").write_bytes(b"a new kit")
    (tmp_path / "run.json").write_text("{}")
    arguments = ("unlearn", f"kit={trained}", "forget=[1,2]", "unlearner=none", "force=true")
    assert command(*arguments, f"out={tmp_path}", "next_kit=false").status == 0
    found = read(tmp_path)
    assert found["found"]["word"] is None
    assert page(tmp_path).startswith("# NOT shown to be gone: classes 1, 2\n")
    metrics = json.loads((tmp_path / "metrics.json").read_text())["metrics"]["accuracy"]["test"]
    forget, retain = found["found"]["values"]
    assert forget["name"] == "accuracy.test.forget"
    # nothing was done, so before is after
    assert forget["before"] == pytest.approx(forget["after"])
    assert retain["before"] == pytest.approx(metrics["retain"]["value"])
    assert forget["oracle_mean"] is None
    assert "compared with 0 models" in sentences(found)
    # what an earlier run had left was set aside
    assert "No new kit was made" in sentences(found)


def test_judged_again_it_is_written_anew_and_says_when_weights_were_made(
    command: Command, trained: Path, bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("unlearn", f"kit={trained}", "forget=[0]", "unlearner=logit_mask", *QUICK)
    out = (f"out={tmp_path / 'run'}",)
    for module in (receipt, unlearn):
        monkeypatch.setattr(module, "now", lambda: AT)
    command(*arguments, *out, f"oracles.folder={tmp_path / 'empty'}")
    first = read(tmp_path / "run")
    assert (first["found"]["oracles"], first["unlearned"], first["judged"]) == (
        *(0, {"at": AT, "versions": receipt.versions()}),
        {"at": AT, "versions": receipt.versions()},
    )
    later = AT.replace("2026", "2027")
    for module in (receipt, unlearn):
        monkeypatch.setattr(module, "now", lambda: later)
    again = command(*arguments, *out, f"oracles.folder={bank}")
    assert "anew" in again.out
    second = read(tmp_path / "run")
    assert (second["unlearned"], second["judged"]["at"]) == (first["unlearned"], later)
    assert second["found"]["oracles"] == 3
    assert second["found"]["word"] is not None
    assert "Judged on 2027" in page(tmp_path / "run")
    assert "the rule needs" in sentences(first)
    assert "the rule needs" not in sentences(second)
    # judged by a version that wrote none
    (tmp_path / "run" / "receipt.json").unlink()
    command(*arguments, *out, f"oracles.folder={tmp_path / 'empty'}")
    ended = json.loads((tmp_path / "run" / "done.json").read_text())["ended"]
    third = read(tmp_path / "run")["unlearned"]
    assert third["versions"] is None
    assert third["at"] <= ended


def test_without_evaluation_there_is_a_receipt_and_a_new_kit_is_in_it(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = ("unlearn", "evaluation=none", "trainer.threads=1")
    assert command(*arguments, f"kit={trained}", "forget=[0]", f"out={first}").status == 0
    found = read(first)
    assert page(first).splitlines()[2].startswith("Nothing was measured.")
    assert found["read"]["prompts"]
    kits = {f["delete"]: f["sha256"] for f in found["files"] if f["file"] == "kit.safetensors"}
    assert kits == {
        False: sha256(first / "kit.safetensors"),
        True: sha256(trained / "kit.safetensors"),
    }
    # the next request starts from it, and then both files of the first run know the class
    assert command(*arguments, f"kit={first}", "forget=[3]", f"out={second}").status == 0
    assert "To forget class 3, from the kit" in page(second)
    assert "forgotten by earlier requests: class 0." in page(second)
    assert page(second).startswith("# NOT shown to be gone: classes 0, 3\n")
    gone = {f["sha256"] for f in read(second)["files"] if f["delete"]}
    names = ("kit.safetensors", "unlearned.safetensors")
    assert {sha256(first / name) for name in names} <= gone
    assert sha256(trained / "kit.safetensors") in gone  # both classes are in it
    assert sha256(trained / "proxies.png") in gone
    # from the weights alone, the kit beside them still draws the class that goes now
    third, weights = tmp_path / "third", first / "unlearned.safetensors"
    words = ("unlearner=logit_mask", f"kit={weights}", "forget=[3]", f"out={third}")
    assert command(*arguments, *words).status == 0
    files = [f["sha256"] for f in read(third)["files"] if f["delete"]]
    assert {sha256(first / name) for name in names} <= set(files)
    assert files.count(sha256(weights)) == 1


def test_an_oracle_has_none(bank: Path) -> None:
    assert list(bank.rglob("unlearned.safetensors"))
    assert not list(bank.rglob("receipt.*"))
