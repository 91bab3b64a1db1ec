"""Every command of ours in the documents composes: each option exists."""

import functools
import re
import shlex
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from geniu_lightning.settings.configs import CONF

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "Makefile", *CONF.rglob("*.yaml")]
COMMAND = re.compile(r"(?:python |geniu )(train|unlearn|evaluate)(?:\.py)? (.+)")


def commands() -> list[tuple[str, str]]:
    found = set()
    for document in DOCUMENTS:
        text = document.read_text().replace("\\\n", " ").replace("$$", "$")
        for script, words in COMMAND.findall(text):
            words = re.split(r"\s#|; |`", words)[0]
            if "--" not in words and "…" not in words:
                # a command that is kept in a shell's variable ends with that one's quote
                words = words.rstrip('"') if words.count('"') % 2 else words
                found.add((script, words.strip()))
    return sorted(found)


def test_documented_commands_compose() -> None:
    found = commands()
    assert {"train", "unlearn", "evaluate"} == {script for script, _ in found}
    for script, words in found:
        try:
            _check(script, parsed(words))
        except Exception as error:
            raise AssertionError(f"{script} {words}") from error


def _check(script: str, overrides: list[Override]) -> None:
    """Find each chosen file, and each other key in what comes of the chosen files."""
    composed, merged, keys = [], [], []
    for one in overrides:
        group, value = one.key_or_group, one.value()
        if not (CONF / group.partition("@")[0]).is_dir() and "/" not in group:
            keys.append(one)
            continue
        file = CONF / group / f"{value}.yaml"
        text = file.read_text() if file.is_file() else "defaults:"  # or Hydra's own group
        if "defaults:" in text:
            composed.append(str(one.input_line))
        else:  # it needs no composition, which takes long
            content = _loaded(file)
            merged.append(content if "@package _global_" in text else {group: content})
    config = OmegaConf.merge(_composed(script, tuple(sorted(composed))), *merged)
    for one in keys:
        if not one.is_add() and not one.key_or_group.startswith("hydra."):
            path, _, leaf = one.key_or_group.rpartition(".")
            parent = OmegaConf.select(config, path) if path else config
            assert leaf in parent.keys(), one.key_or_group  # noqa: SIM118  # `in` denies ???


_loaded = functools.cache(OmegaConf.load)


@functools.cache
def _composed(script: str, choices: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(script, overrides=list(choices))
    OmegaConf.set_struct(config, False)
    return config


def parsed(words: str) -> list[Override]:
    """Return overrides; of a sweep with its first value, of a shell's variable with 0."""
    words = words.replace("glob(*)", "geniu").replace("$control", "unlearner=regrow")
    own = [re.sub(r"=.*\$.*", "=0", word) for word in shlex.split(words)]
    left_out = {"-m", "data=0", "unlearner=0"}  # a variable chooses the file
    parser = OverridesParser.create()
    found = parser.parse_overrides([w for w in own if w not in left_out and "$" not in w])
    return [
        parser.parse_override(f"{one.get_key_element()}={next(iter(one.sweep_string_iterator()))}")
        if one.is_sweep_override()
        else one
        for one in found
    ]
