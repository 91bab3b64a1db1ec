"""What makes two runs the same run, and the names that follow from it."""

import subprocess
from typing import Any

import pytest

from geniu_lightning.runs.identity import identity_of, name_of
from geniu_lightning.runs.revision import revision


def test_identity_leaves_out_how_a_run_is_carried_out() -> None:
    base = {"out": None, "seed": 1, "data": {"root": "/a", "name": "x"}, "trainer": {"threads": 1}}
    identity = identity_of(base, forget=[0])
    assert identity == {"seed": 1, "data": {"name": "x"}, "trainer": {}, "forget": [0]}
    assert base["data"] == {"root": "/a", "name": "x"}  # the settings stay whole
    moved: dict[str, Any] = base | {"out": "there", "runs": "r", "data": {"root": 3, "name": "x"}}
    assert identity_of(moved, forget=[0]) == identity
    assert identity_of(base | {"seed": 2}, forget=[0]) != identity


def test_a_name_is_safe_short_and_tells_settings_apart() -> None:
    words = ("my set/…:*", "seed1", "x" * 200)
    a, b = name_of({"lr": 1, "seed": 2}, *words), name_of({"lr": 2, "seed": 2}, *words)
    assert a != b
    assert name_of({"seed": 2, "lr": 1}, *words) == a
    assert a.startswith("my_set-seed1-xxx")
    assert len(a) < 100
    assert not set(a) & set(" /:*…")


def test_the_revision_is_that_of_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def commit(*_: object, **__: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess([], 0, stdout=next(commits))

    commits = iter(["", "abc\n", "", "", "def\n", ""])  # ls-files, rev-parse, status, and again
    monkeypatch.setattr(subprocess, "run", commit)
    revision.cache_clear()
    try:
        assert (revision(), revision()) == ("abc", "abc")
    finally:
        revision.cache_clear()
