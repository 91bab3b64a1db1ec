"""Networks of timm, where it is installed."""

import sys

import pytest
import torch

from geniu_lightning.errors import KitError
from geniu_lightning.kit.networks import NetworkSpec

TARGET = "geniu_lightning.models.timm.Timm"


def spec(name: str, **arguments: object) -> NetworkSpec:
    return NetworkSpec(TARGET, {"name": name, "num_classes": 7} | arguments)


@pytest.fixture
def timm() -> object:
    reason = "the extra timm is not installed"
    return pytest.importorskip("timm", reason=reason, exc_type=Exception)


# with a hidden layer before the head, with a fixed size, and neither
NETWORKS = [("test_resnet", None), ("mobilenetv3_small_050", None), ("test_vit", 64)]


@pytest.mark.parametrize(("name", "image_size"), NETWORKS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.usefixtures("timm")
def test_a_network_of_timm_is_a_classifier_that_a_kit_may_name(
    name: str, image_size: int | None, channels: int
) -> None:
    network = spec(name, channels=channels, image_size=image_size)
    classifier = network.build_classifier(allow_custom=False).eval()
    images = torch.randn(2, channels, 64, 64)
    features = classifier.features(images)
    assert features.dim() == 2
    assert torch.equal(classifier(images), classifier.head(features))
    assert classifier(images).shape == (2, 7)
    # nothing of timm's own head is left, which nobody would train
    classifier.train()(torch.randn(4, channels, 64, 64)).square().sum().backward()
    assert [n for n, p in classifier.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    "name", ["resnet_of_mine", "hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp/resnet18", ""]
)
@pytest.mark.usefixtures("timm")
def test_only_names_that_timm_builds_from_its_own_code_are_taken(name: str) -> None:
    with pytest.raises(KitError, match=r"timm has no network .* names all"):
        spec(name).build(allow_custom=False)


@pytest.mark.usefixtures("timm")
def test_a_kit_cannot_make_timm_load_a_file() -> None:
    with pytest.raises(KitError, match="unexpected keyword argument 'checkpoint_path'"):
        spec("test_resnet", checkpoint_path="/tmp/x").build(allow_custom=False)


def test_without_timm_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(KitError, match=r"pip install -e '\.\[timm\]'"):
        spec("resnet18").build()
