"""Networks of timm, where it is installed."""

import sys

import pytest
import torch

from geniu_lightning.errors import KitError
from geniu_lightning.kit.info import NetworkSpec

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
    # a head of timm's own would get no gradient
    classifier.train()(torch.randn(4, channels, 64, 64)).square().sum().backward()
    assert [n for n, p in classifier.named_parameters() if p.grad is None] == []


@pytest.mark.usefixtures("timm")
def test_a_kit_names_networks_of_timms_own_code_and_loads_no_file() -> None:
    for name in ("resnet_of_mine", "hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp/resnet18", ""):
        with pytest.raises(KitError, match=r"timm has no network .* names all"):
            spec(name).build(allow_custom=False)
    with pytest.raises(KitError, match="checkpoint_path is no setting of Timm"):
        spec("test_resnet", checkpoint_path="/tmp/x").build(allow_custom=False)


def test_without_timm_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(KitError, match=r"pip install -e '\.\[timm\]'"):
        spec("resnet18").build()
