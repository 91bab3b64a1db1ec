"""Commands of older versions say what to type instead; `geniu` passes exit statuses on."""

import runpy
import sys

import pytest

from geniu_lightning.cli.main import main


def test_an_old_form_says_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    for module, command in (
        *((name, name) for name in ("report", "kit", "dashboard")),
        ("evaluation", "evaluate"),
    ):
        with pytest.raises(SystemExit) as ending:
            runpy.run_module(f"geniu_lightning.{module}", run_name="__main__")
        assert ending.value.code == 2
        assert f"`geniu {command}`" in capsys.readouterr().err


def test_geniu_passes_the_exit_status_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, status, said in (
        (["report", "/nowhere"], 2, "there is no folder /nowhere"),
        (["report", "--help"], 0, "usage: geniu report"),
        (["kit", "show", "/nowhere"], 2, "there is no kit"),
        (["dashboard"], 2, "--entity NAME"),
    ):
        monkeypatch.setattr(sys, "argv", ["geniu", *words])
        with pytest.raises(SystemExit) as ending:
            main()
        assert ending.value.code == status
        captured = capsys.readouterr()
        assert said in captured.out + captured.err
