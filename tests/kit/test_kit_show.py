"""`geniu kit show FILE`: what a person sees of a kit."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from geniu_lightning.cli.kit import main
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import NetworkSpec
from geniu_lightning.report import pictures
from tests.kit.small_kits import CLASSES, PER_CLASS


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")


def test_show_tells_what_is_inside(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(saved)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    kit = Kit.load(saved)
    weights = {
        name: sum(len(t.numpy().tobytes()) for t in network.state_dict().values())
        for name, network in (("classifier", kit.classifier), ("generator", kit.generator))
        if network is not None
    }
    for expected in (
        f"{saved.stat().st_size:,} bytes",
        "geniu_lightning.models.allcnn.AllCNN {'channels': 1, 'num_classes': 3, 'width': 2}",
        "geniu_lightning.models.vae.VAE",
        "(3, 2, 1, 16, 16)",
        f"classifier {weights['classifier']:,}, generator {weights['generator']:,}, prompts 6,144",
        "1x16x16, mean (0.4,), deviation (0.3,)",
        "cat (1,200), dog (40), Ärger 犬 (5)",
        "fingerprint 0123456789abcdef…",
        "revision abc123, format 1",
    ):
        assert expected in out
    assert re.search(r"forgotten\s*│\s*none", out)
    assert re.search(r"training seed\s*│\s*7\b", out)


def test_show_of_unlearned_weights(
    unlearned: Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unlearned.save(tmp_path / "unlearned.safetensors")
    assert main(["show", str(tmp_path / "unlearned.safetensors")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"forgotten\s*│\s*dog", out)
    assert re.search(r"generator\s*│\s*none", out)
    assert re.search(r"prompts\s*│\s*none", out)


def test_show_draws_the_proxies_a_row_a_class(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    draw = pictures.grid

    def grid(images: torch.Tensor, *rest: object) -> None:
        seen.append(images)
        draw(images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(pictures, "grid", grid)
    assert main(["show", str(saved), "--proxies", str(tmp_path / "proxies.png")]) == 0
    (images,) = seen
    expected = Kit.load(saved).proxies()
    assert images.shape[:2] == (CLASSES, PER_CLASS)
    for k in range(CLASSES):
        assert torch.equal(images[k], expected.images[expected.labels == k])
    with Image.open(tmp_path / "proxies.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 100


def test_what_cannot_be_shown_ends_with_status_2_and_one_sentence(
    saved: Path, unlearned: Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, picture = tmp_path / "unlearned.safetensors", tmp_path / "proxies.png"
    unlearned.save(path)
    assert main(["show", str(path), "--proxies", str(picture)]) == 2
    assert "no generator and no prompts" in capsys.readouterr().err
    assert not picture.exists()
    saved.write_bytes(saved.read_bytes()[:-100])
    assert main(["show", str(saved)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err[-1]) == ("", 1, "\n")
    assert err.startswith("error: ")


def test_foreign_network_is_shown_where_that_was_allowed(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shown_networks.py").write_text(
        "from geniu_lightning.models.allcnn import AllCNN\nclass Mine(AllCNN): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = NetworkSpec("shown_networks.Mine", kit.info.classifier.arguments)
    path = tmp_path / "kit.safetensors"
    Kit(kit.classifier, replace(kit.info, classifier=spec), kit.generator, kit.prompts).save(path)
    assert main(["show", str(path)]) == 2
    assert "allow_custom=true" in capsys.readouterr().err
    assert main(["show", str(path), "--allow-custom"]) == 0
    assert "shown_networks.Mine" in capsys.readouterr().out
