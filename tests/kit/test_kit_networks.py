"""Networks by name: ours are built, others only where that was asked for, and nothing else is."""

import importlib
import pkgutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from geniu_lightning import models
from geniu_lightning.errors import KitError
from geniu_lightning.kit.networks import NetworkSpec
from geniu_lightning.models.allcnn import AllCNN

SMALL = {"channels": 1, "num_classes": 3, "width": 2}


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that leaves a mark when it is imported."""
    (tmp_path / "foreign_networks.py").write_text(
        "from pathlib import Path\n"
        "from torch import nn\n"
        "from geniu_lightning.models.allcnn import AllCNN\n"
        "Path(__file__).with_name('imported').touch()\n"
        "class Mine(AllCNN): pass\n"
        "class Headless(nn.Linear): pass\n"
        "class Wide(AllCNN):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.head = nn.Identity()\n"
        "class Featureless(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.head = nn.Linear(1, 1)\n"
        "class Biasless(AllCNN):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.head = nn.Linear(192, 10, bias=False)\n"
        "class Trap:\n"
        "    def __init__(self, **arguments): Path(__file__).with_name('called').touch()\n"
        "def build(**arguments): return AllCNN(**arguments)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "foreign_networks", raising=False)
    return "foreign_networks"


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("geniu_lightning.models.allcnn.AllCNN", SMALL),
        ("geniu_lightning.models.resnet.ResNet18", SMALL),
    ],
)
def test_ours_are_built_as_classifiers(target: str, arguments: dict[str, int]) -> None:
    network = NetworkSpec(target, arguments).build_classifier(allow_custom=False)
    assert type(network).__name__ == target.rpartition(".")[2]
    images = torch.randn(2, 1, 16, 16)
    network.eval()
    features = network.features(images)  # type: ignore[operator]
    torch.testing.assert_close(network(images), network.head(features))  # type: ignore[operator]
    assert network.head.out_features == 3  # type: ignore[union-attr]


def test_foreign_network_is_refused_before_its_code_runs(foreign: str, tmp_path: Path) -> None:
    spec = NetworkSpec(f"{foreign}.Mine", SMALL)
    for build in (spec.build, spec.build_classifier):
        with pytest.raises(KitError, match=r"not one of ours.*allow_custom=true"):
            build(allow_custom=False)
    assert not (tmp_path / "imported").exists()
    assert foreign not in sys.modules


def test_foreign_network_is_built_where_that_was_asked_for(foreign: str, tmp_path: Path) -> None:
    network = NetworkSpec(f"{foreign}.Mine", SMALL).build_classifier(allow_custom=True)
    assert isinstance(network, AllCNN)
    assert (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.hub.load",
        "builtins.eval",
        "subprocess.Popen",  # a class, but no network
        "torch.nn.functional.relu",
        "foreign_networks.Trap",
        "foreign_networks.build",  # makes a network, but is a function
        "torch.nn",
        "geniu_lightning.models.vae.Generated",
    ],
)
@pytest.mark.parametrize("allow_custom", [True, False])
def test_what_is_no_network_is_never_called(
    target: str, allow_custom: bool, foreign: str, tmp_path: Path
) -> None:
    mark = tmp_path / "called"
    arguments = {"command": f"touch {mark}", "args": ["touch", str(mark)]}
    with pytest.raises(KitError):
        NetworkSpec(target, arguments).build(allow_custom)
    assert not mark.exists()


@pytest.mark.parametrize(
    "target",
    [
        "geniu_lightning.models.vae.torch.nn.Linear",
        "geniu_lightning.models.vae.nn.Linear",
        "geniu_lightning.models.vae.nn.Module",
        "geniu_lightning.models.vae.torch.hub.load",
        "geniu_lightning.models.allcnn.nn",
        "geniu_lightning.models..os.system",
        "geniu_lightning.models...errors.KitError",
        "geniu_lightning.models.",
        "geniu_lightning.models.vae",
        "geniu_lightning.models.../tmp/foreign_networks.Mine",
    ],
)
def test_no_path_through_our_package_reaches_what_is_not_ours(target: str) -> None:
    with pytest.raises(KitError):
        NetworkSpec(target, {"in_features": 1, "out_features": 1}).build(allow_custom=False)


@pytest.mark.parametrize(
    "target",
    [
        "geniu_lightning.models",
        "geniu_lightning.models_of_mine.Evil",
        "geniu_lightning.training.module.GeniuModule",
        "geniu_lightning.training.module.nn.Linear",
        "Geniu_lightning.models.vae.VAE",
        " geniu_lightning.models.vae.VAE",
        "evil.geniu_lightning.models.vae.VAE",
    ],
)
def test_rest_of_our_package_and_its_namesakes_are_not_ours(target: str) -> None:
    with pytest.raises(KitError, match="not one of ours"):
        NetworkSpec(target).build(allow_custom=False)


def test_modules_of_networks_offer_no_network_from_elsewhere() -> None:
    """A module that imports a class by name would let a kit build it."""
    found = set()
    for entry in pkgutil.walk_packages(models.__path__, "geniu_lightning.models."):
        module = importlib.import_module(entry.name)
        for name, value in vars(module).items():
            if isinstance(value, type) and issubclass(value, nn.Module):
                assert value.__module__.startswith("geniu_lightning.models."), (entry.name, name)
                found.add(name)
    assert {"AllCNN", "ResNet18", "VAE"} <= found


@pytest.mark.parametrize("target", ["AllCNN", "", ".", "..", "no_such_package.Network"])
def test_target_that_cannot_be_imported_is_told(target: str) -> None:
    with pytest.raises(KitError, match="cannot be imported"):
        NetworkSpec(target).build(allow_custom=True)


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("allcnn.AllCNN", {"depth": 3}),
        ("allcnn.AllCNN", {"width": "two"}),
        ("allcnn.AllCNN", {"width": None}),
        ("allcnn.AllCNN", {"width": -2}),
        ("vae.VAE", {"image_size": 8}),
    ],
)
def test_arguments_that_do_not_fit_are_told(target: str, arguments: dict[str, object]) -> None:
    with pytest.raises(KitError, match="cannot be built"):
        NetworkSpec(f"geniu_lightning.models.{target}", arguments).build(allow_custom=False)


@pytest.mark.parametrize("name", ["Headless", "Wide", "Featureless", "Biasless"])
def test_classifier_without_features_or_linear_head_is_refused(foreign: str, name: str) -> None:
    arguments = {"in_features": 1, "out_features": 1} if name == "Headless" else {}
    with pytest.raises(KitError, match=r"must have a method features\(images\).*Linear.*head"):
        NetworkSpec(f"{foreign}.{name}", arguments).build_classifier(allow_custom=True)
