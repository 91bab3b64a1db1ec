"""Every command of ours in the documents composes: each option exists."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from geniu_lightning.settings.configs import CONF

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "Makefile", *CONF.rglob("*.yaml")]
COMMAND = re.compile(r"python (train\.py|unlearn\.py|-m geniu_lightning\.evaluation) (.+)")
CONFIGURATION = {"-m geniu_lightning.evaluation": "evaluate"}


def commands() -> list[tuple[str, str]]:
    found = set()
    for document in DOCUMENTS:
        text = document.read_text().replace("\\\n", " ").replace("$$", "$")
        for script, words in COMMAND.findall(text):
            words = re.split(r"\s#|; |`", words)[0]
            if "--" not in words and "…" not in words:
                # a command that is kept in a shell's variable ends with that one's quote
                words = words.rstrip('"') if words.count('"') % 2 else words
                name = CONFIGURATION.get(script, script.removesuffix(".py"))
                found.add((name, words.strip()))
    return sorted(found)


def test_there_are_commands() -> None:
    assert {"train", "unlearn", "evaluate"} == {script for script, _ in commands()}


@pytest.mark.parametrize(("script", "words"), commands())
def test_a_documented_command_composes(script: str, words: str) -> None:
    # what a shell would put in for a loop's variable, and one of many methods
    for variable, value in (
        ("$soft", "unlearner.answers=soft unlearner.leave_out=0 unlearner.denials=null"),
        ("$control", "unlearner=regrow evaluation=word evaluation.timings=1 next_kit=false"),
        ("$method", "geniu"),
        ("$d", "mnist"),
        ("$m", "0"),
        ("$f", "0"),
        ("$r", "0.1"),
        ("$s", "1"),
        ("$run", "runs/x"),
        ("$epochs", "8"),
        ("$two", "trainer.threads=1"),
        ("$half", "unlearner.warps.rotate=7"),
        ("$grid", "sweep=grid data=digits seed=1,2,3"),
        ("$each", "evaluation=accuracy unlearner=geniu,finetune"),
        ("$kit", "runs/x"),
        ("glob(*)", "geniu"),
    ):
        words = words.replace(variable, value)
    overrides = [word for word in shlex.split(words) if word != "-m"]
    parsed = OverridesParser.create().parse_overrides(overrides)
    overrides = [
        f"{one.get_key_element()}={next(iter(one.sweep_string_iterator()))}"
        if one.is_sweep_override()
        else word
        for word, one in zip(overrides, parsed, strict=True)
    ]
    overrides = [word for word in overrides if not word.startswith("out=")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose(script, overrides=overrides)
