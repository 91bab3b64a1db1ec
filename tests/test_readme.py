"""The README's table of methods: all of them, and what each reads."""

import re
from pathlib import Path

from geniu_lightning.unlearning.sources import Access
from tests.unlearning.every_method import CONFIGS, built

README = Path(__file__).parents[1] / "README.md"
READS = {
    "nothing": Access.NONE,
    "the weights": Access.NONE,
    "the kit": Access.NONE,
    "forgotten images": Access.FORGET,
    "retained images": Access.RETAIN,
    "forgotten and retained images": Access.FORGET | Access.RETAIN,
}


def test_every_method_stands_in_the_table_with_what_it_declares() -> None:
    section = README.read_text().partition("## Methods")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, flags=re.MULTILINE))
    assert {name: READS[said] for name, said in rows.items()} == {
        path.stem: built(path, (0,)).access for path in CONFIGS
    }
