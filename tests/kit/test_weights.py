"""Weights of a classifier from files of every common format."""

import random
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from geniu_lightning.errors import KitError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.info import NetworkSpec
from geniu_lightning.kit.networks import state_digest
from geniu_lightning.kit.weights import classifier_from

State = dict[str, Tensor]
FORMS: dict[str, Callable[[State, Path], Any]] = {
    "safetensors": save_file,
    "torch": torch.save,
    "lightning": lambda state, path: torch.save(
        {
            "state_dict": {f"net.{k}": v for k, v in state.items()} | {"other.bias": torch.ones(1)},
            "epoch": 3,
        },
        path,
    ),
    "prefixed safetensors": lambda state, path: save_file(
        {f"model.net.{k}": v for k, v in state.items()}, path
    ),
}


def test_a_state_dict_is_read_in_every_common_format(kit: Kit, tmp_path: Path) -> None:
    for form, write in FORMS.items():
        write(kit.classifier.state_dict(), tmp_path / form)
        found = classifier_from(tmp_path / form, kit.info.classifier)
        assert state_digest(found) == state_digest(kit.classifier), form
        assert not found.training
        assert not any(p.requires_grad for p in found.parameters())


def test_a_file_of_ours_is_verified(kit: Kit, saved: Path) -> None:
    found = classifier_from(saved, kit.info.classifier)
    assert state_digest(found) == state_digest(kit.classifier)
    other = NetworkSpec(kit.info.classifier.target, kit.info.classifier.arguments | {"width": 3})
    with pytest.raises(KitError, match="holds another network"):
        classifier_from(saved, other)


class Runs:
    def __reduce__(self) -> Any:
        return print, ("code of the file ran",)


def test_what_holds_no_weights_of_the_network_is_refused(
    kit: Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = kit.classifier.state_dict()
    files: dict[str, tuple[Callable[[Path], Any], str]] = {
        "missing": (lambda path: None, "there are no weights at"),
        "text": (lambda path: path.write_text("weights"), "is truncated, or neither"),
        "empty": (lambda path: path.write_bytes(b""), "is truncated, or neither"),
        "code": (lambda path: torch.save({"x": Runs()}, path), "plain tensors"),
        "network": (lambda path: torch.save(kit.classifier, path), r"save model.state_dict\(\)"),
        "other zip": (lambda path: zipfile.ZipFile(path, "w").close(), "cannot be read as"),
        "list": (lambda path: torch.save([1], path), "holds no state dict"),
        "numbers": (lambda path: torch.save({"epoch": 1}, path), "holds no state dict"),
        "fewer": (lambda path: save_file(dict(list(state.items())[1:]), path), "does not fit"),
        "more": (
            lambda path: save_file(
                {f"net.{k}": v for k, v in state.items()} | {"net.x": torch.ones(1)}, path
            ),
            "does not fit",
        ),
        "shapes": (
            lambda path: torch.save({k: v[:1] if v.dim() else v for k, v in state.items()}, path),
            "does not fit",
        ),
    }  # fmt: skip
    for name, (write, said) in files.items():
        write(tmp_path / name)
        with pytest.raises(KitError, match=said):
            classifier_from(tmp_path / name, kit.info.classifier)
    assert capsys.readouterr().out == ""


def test_damaged_files_of_torch_are_refused_in_a_sentence(kit: Kit, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(kit.classifier.state_dict(), path)
    content = path.read_bytes()
    start, draw = content.index(b"data.pkl"), random.Random(0)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[draw.randrange(start, start + 900)] ^= draw.randrange(1, 256)
        path.write_bytes(damaged)
        with suppress(KitError):  # anything else is a fault of ours
            classifier_from(path, kit.info.classifier)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\0" * 1_000_000)
    with pytest.raises(KitError, match="is compressed"):
        classifier_from(path, kit.info.classifier)
