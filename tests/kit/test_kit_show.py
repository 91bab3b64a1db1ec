"""`geniu kit show FILE`: what a person sees of a kit."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from geniu_lightning.cli.kit import main
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.info import NetworkSpec
from geniu_lightning.report import pictures
from tests.kit.small_kits import CLASSES, PER_CLASS, with_archive, with_distribution


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")


def test_show_tells_what_is_inside(
    saved: Path, unlearned: Kit, capsys: pytest.CaptureFixture[str]
) -> None:
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
        "0 (cat): 1,200, 1 (dog): 40, 2 (Ärger 犬): 5",
        "fingerprint 0123456789abcdef…",
        "revision abc123, format 1",
    ):
        assert expected in out
    assert re.search(r"forgotten\s*│\s*none", out)
    assert re.search(r"training seed\s*│\s*7\b", out)
    assert re.search(r"6 images, [\d,]+ bytes with the generator, [\d,.]+ an image", out)
    unlearned.save(saved)
    assert main(["show", str(saved)]) == 0
    out = capsys.readouterr().out
    for row, value in (
        *(("forgotten", r"1 \(dog\)"), ("generator", "none")),
        *(("prompts", "none"), ("archive", "none")),
    ):
        assert re.search(rf"{row}\s*│\s*{value}", out)


def test_show_says_what_an_archive_discloses(
    kit: Kit, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archived = with_archive(kit, format="dct")
    archived.save(saved)
    assert main(["show", str(saved)]) == 0
    size = sum(len(part) for part in archived.archive.values())
    said = (
        f"dct: 15 images, {size:,} bytes, {size / 15:.1f} an image; as confidential as the images"
    )
    assert said in capsys.readouterr().out


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
    expected = Kit.load(saved).proxies().images
    assert torch.equal(seen[0], expected.view(CLASSES, PER_CLASS, *expected.shape[1:]))
    with Image.open(tmp_path / "proxies.png") as picture:
        assert picture.format == "PNG"
    held = with_distribution(Kit.load(saved))
    held.save(tmp_path / "held.safetensors")
    words = ["show", str(tmp_path / "held.safetensors"), "--samples", str(tmp_path / "s.png")]
    assert main(words) == 0
    assert seen[1].shape == (CLASSES, 10, *expected.shape[1:])
    assert (tmp_path / "s.png").is_file()


def test_what_cannot_be_shown_ends_with_status_2_and_one_sentence(
    kit: Kit, unlearned: Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert main(["show", *words]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    path, picture = tmp_path / "kit.safetensors", tmp_path / "proxies.png"
    unlearned.save(path)
    assert "no generator" in refused(str(path), "--proxies", str(picture))
    assert "no distribution" in refused(str(path), "--samples", str(picture))
    assert not picture.exists()
    path.write_bytes(path.read_bytes()[:-100])
    refused(str(path))
    spec = NetworkSpec("tests.kit.small_kits.Mine", kit.info.classifier.arguments)
    Kit(kit.classifier, replace(kit.info, classifier=spec), kit.generator, kit.prompts).save(path)
    assert "allow_custom=true" in refused(str(path))
    assert main(["show", str(path), "--allow-custom"]) == 0
    assert "small_kits.Mine" in capsys.readouterr().out
