"""Networks by name: ours are built, others only where that was asked for, and nothing else is."""

import hashlib
import importlib
import pkgutil
import struct
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from geniu_lightning import models
from geniu_lightning.errors import KitError
from geniu_lightning.kit.info import NetworkSpec
from geniu_lightning.kit.networks import (
    features_of,
    head_of,
    parts_of,
    state_digest,
    tensor_digest,
)
from geniu_lightning.models.allcnn import AllCNN

SMALL = {"channels": 1, "num_classes": 3, "width": 2}


FOREIGN = """
from pathlib import Path
from torch import nn
from geniu_lightning.models.allcnn import AllCNN
Path(__file__).with_name("imported").touch()
class Mine(AllCNN): pass
class Headless(nn.Linear): pass
class Wide(AllCNN):
    def __init__(self): super().__init__(); self.head = nn.Identity()
class Featureless(nn.Module):
    def __init__(self): super().__init__(); self.head = nn.Linear(1, 1)
class Biasless(AllCNN):
    def __init__(self): super().__init__(); self.head = nn.Linear(192, 10, bias=False)
class Trap:
    def __init__(self, **arguments): Path(__file__).with_name("called").touch()
def build(**arguments): return AllCNN(**arguments)
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that leaves a mark when it is imported."""
    (tmp_path / "foreign_networks.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "foreign_networks", raising=False)
    return "foreign_networks"


def test_ours_are_built_as_classifiers() -> None:
    for name in ("allcnn.AllCNN", "resnet.ResNet18"):
        spec = NetworkSpec(f"geniu_lightning.models.{name}", SMALL)
        network = spec.build_classifier(allow_custom=False).eval()
        images = torch.randn(2, 1, 16, 16)
        features = features_of(network, images)
        assert torch.equal(network(images), head_of(network)(features))
        # its layers, one after the other, give the features before the average
        maps = images
        for part in parts_of(network):
            maps = part(maps)
        torch.testing.assert_close(maps.mean(dim=(2, 3)), features)
        assert len(parts_of(network)) > 7


def test_a_foreign_network_is_built_only_where_that_was_asked_for(
    foreign: str, tmp_path: Path
) -> None:
    spec = NetworkSpec(f"{foreign}.Mine", SMALL)
    for build in (spec.build, spec.build_classifier):
        with pytest.raises(KitError, match=r"not one of ours.*allow_custom=true"):
            build(allow_custom=False)
    assert not (tmp_path / "imported").exists()
    assert isinstance(spec.build_classifier(allow_custom=True), AllCNN)
    assert (tmp_path / "imported").exists()


def test_what_is_no_network_is_never_called(foreign: str, tmp_path: Path) -> None:
    arguments = {"command": f"touch {tmp_path / 'called'}", "args": ["touch", f"{tmp_path}/called"]}
    for target in (
        *("os.system", "torch.nn", f"{foreign}.Trap", "geniu_lightning.models.vae.Generated"),
        f"{foreign}.build",  # makes a network, but is a function
    ):
        for allow_custom in (True, False):
            with pytest.raises(KitError):
                NetworkSpec(target, arguments).build(allow_custom)
    assert not (tmp_path / "called").exists()


def test_no_path_through_our_package_reaches_what_is_not_ours() -> None:
    for rest in (
        *("vae.torch.nn.Linear", "vae.nn.Linear", "vae.nn.Module", "vae.torch.hub.load", "vae"),
        *("allcnn.nn", ".os.system", "..errors.KitError", "", "../tmp/foreign_networks.Mine"),
    ):
        spec = NetworkSpec(f"geniu_lightning.models.{rest}", {"in_features": 1, "out_features": 1})
        with pytest.raises(KitError):
            spec.build(allow_custom=False)
    for target in (
        *("geniu_lightning.models", "geniu_lightning.models_of_mine.Evil"),
        *("geniu_lightning.training.module.GeniuModule", "Geniu_lightning.models.vae.VAE"),
        *(" geniu_lightning.models.vae.VAE", "evil.geniu_lightning.models.vae.VAE"),
    ):
        with pytest.raises(KitError, match="not one of ours"):
            NetworkSpec(target).build(allow_custom=False)
    # a module of networks that imports a foreign one by name would let a kit build it
    found = set()
    for entry in pkgutil.walk_packages(models.__path__, "geniu_lightning.models."):
        for name, value in vars(importlib.import_module(entry.name)).items():
            if isinstance(value, type) and issubclass(value, nn.Module):
                assert value.__module__.startswith("geniu_lightning.models."), (entry.name, name)
                found.add(name)
    assert {"AllCNN", "ResNet18", "VAE", "Timm"} <= found


def test_what_cannot_be_imported_or_built_is_told() -> None:
    for target in ("AllCNN", "", ".", "..", "no_such_package.Network"):
        with pytest.raises(KitError, match="cannot be imported"):
            NetworkSpec(target).build(allow_custom=True)
    for name, arguments, message in (
        ("allcnn.AllCNN", {"depth": 3}, "cannot be built: depth is no setting of AllCNN"),
        ("allcnn.AllCNN", {"width": "two"}, "cannot be built: width must be an integer, got 'two'"),
        ("allcnn.AllCNN", {"width": -2}, "cannot be built: width must be greater than or equal"),
        ("vae.VAE", {"image_size": 8}, "cannot be built: image_size must be greater .* 16, got 8"),
    ):
        with pytest.raises(KitError, match=message):
            NetworkSpec(f"geniu_lightning.models.{name}", arguments).build(allow_custom=False)


def test_a_classifier_without_features_or_linear_head_is_refused(foreign: str) -> None:
    for name in ("Headless", "Wide", "Featureless", "Biasless"):
        arguments = {"in_features": 1, "out_features": 1} if name == "Headless" else {}
        with pytest.raises(KitError, match=r"must have a method features\(images\).*Linear.*head"):
            NetworkSpec(f"{foreign}.{name}", arguments).build_classifier(allow_custom=True)


def test_a_digest_sees_names_types_shapes_bits_and_text() -> None:
    tensor = torch.tensor([[0.0, 1.0]])
    variants = [
        ({"a": tensor}, ""),
        ({"b": tensor}, ""),
        ({"a": tensor.view(2, 1)}, ""),
        ({"a": tensor.view(torch.int32)}, ""),
        ({"a": torch.tensor([[-0.0, 1.0]])}, ""),
        ({"a": tensor, "b": torch.empty(0)}, ""),
        ({"a": tensor}, "text"),
    ]
    digests = [tensor_digest(tensors, text) for tensors, text in variants]
    assert len(set(digests)) == len(variants)
    # by another route: kits on disk are verified by this value
    header = b"a|torch.float32|(1, 2)|"
    plain = hashlib.sha256(header + struct.pack("<2f", 0.0, 1.0) + b"text").hexdigest()
    assert digests[-1] == plain
    two = {"b": tensor, "a": tensor}
    assert tensor_digest(two) == tensor_digest(dict(reversed(two.items())))
    linear = nn.Linear(2, 1)
    assert state_digest(linear) == tensor_digest(linear.state_dict())
