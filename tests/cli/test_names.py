"""Class names of strangers are printed as text: on the terminal, in the receipt, in pictures."""

from pathlib import Path

import pytest
from PIL.Image import new

from geniu_lightning.cli.kit import main as kit_main
from tests.commands import TINY, Command

NAMES = ("[red]x", "<b>y</b> `z`", ":smile: $a_")


def test_names_are_text(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        for k, name in enumerate(NAMES):
            for j in range(8):
                place = tmp_path / "odd" / split / name.replace("/", "∕")
                place.mkdir(parents=True, exist_ok=True)
                new("L", (16, 16), 80 * k + j).save(place / f"{j}.png")
    tiny = [word for word in TINY if not word.startswith("imbalance")]
    form = ("data=folder", "data.name=odd", "imbalance=none", "data.image_size=16")
    where = (f"data.root={tmp_path}", "data.channels=1", "training.batch_size=8")
    made = command("train", *tiny, *form, *where, f"out={tmp_path / 'kit'}")
    assert made.status == 0, made.err
    assert "[red]x" in made.out
    assert ":smile: $a_" in made.out
    request = (f"kit={tmp_path / 'kit'}", "forget=[1]", "unlearner=logit_mask", "next_kit=false")
    done = command("unlearn", *request, f"data.root={tmp_path}", f"out={tmp_path / 'out'}")
    assert done.status == 0, done.err
    assert "[red]x" in done.out
    receipt = (tmp_path / "out" / "receipt.md").read_text()
    assert "<b>" not in receipt
    assert r"\<b\>y\<∕b\> \`z\`" in receipt
    assert kit_main(["show", str(tmp_path / "kit")]) == 0
    shown = capfd.readouterr().out
    assert "[red]x" in shown
    assert ":smile:" in shown
