"""Rounded weights: hand values, the layers that are rounded, and a class that comes back."""

import pytest
import torch
from torch import nn

from geniu_lightning.errors import SettingError
from geniu_lightning.evaluation.context import Context, Split
from geniu_lightning.evaluation.metric import Absent
from geniu_lightning.evaluation.metrics.quantisation import Quantisation, quantised, rounded
from tests.evaluation.clouds import Plain, Small, points, split_of
from tests.evaluation.worlds import measured


def test_each_output_channel_has_a_scale_of_its_own() -> None:
    weight = torch.tensor([[1.0, -0.5, 0.26], [0.0, 0.0, 0.0], [30.0, 6.0, -14.0]])
    third = torch.tensor([[1.0, -2 / 3, 1 / 3], [0.0, 0.0, 0.0], [30.0, 10.0, -10.0]])
    torch.testing.assert_close(quantised(weight, 3), third)  # levels -3 to 3
    signs = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [30.0, 0.0, 0.0]])
    assert torch.equal(quantised(weight, 2).abs(), signs)  # -1, 0 and 1
    kernels = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    for kernel, found in zip(kernels, quantised(kernels, 4), strict=True):
        step = kernel.abs().max() / 7
        assert (found / step).allclose((found / step).round(), atol=1e-5)
        assert (found - kernel).abs().max() <= step / 2 + 1e-6
        assert len((found / step).round().unique()) > 3


def test_only_weights_of_convolutions_and_linear_layers_are_rounded() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    after = rounded(network, 2).state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {"0.weight", "3.weight"}


def returning() -> Context:
    """Return a model that answers class 0 at 4 bits: its row is rounded up, the other one down."""
    network = Plain(classes=2)
    network.head.weight.data.zero_()
    network.head.weight.data[:, :2] = torch.tensor([[1.0, 0.505], [1.2, 0.52]])
    network.head.bias.data.zero_()
    labels = torch.tensor([0, 1, 0, 1, 1])
    images = torch.zeros(5, 8)
    images[labels == 0, 1] = images[labels == 1, 0] = 1.0
    test = Split(labels, lambda positions: images.unflatten(1, (2, 2, 2))[positions])
    return points((0,), 2, unlearned=network, splits={"test": test})


def test_a_class_may_come_back_at_few_bits() -> None:
    found = measured(Quantisation(), returning())
    assert found == {"b8.forget": 0.0, "b8.retain": 1.0, "b4.forget": 1.0, "b4.retain": 1.0}


def test_images_are_counted_by_side_and_absent_where_there_are_none() -> None:
    context = points((1, 2), unlearned=Small(1))  # 20 test images of each of four classes
    assert Quantisation((4,), scored=10).images_processed(context) == 2 * 10 + 2 * 5
    assert Quantisation().images_processed(context) == 2 * 80
    assert Quantisation().images_processed(points(splits={})) == 0
    nothing = {"b4.forget": Absent("the run has no test images")}
    assert measured(Quantisation((4,)), points(splits={})).items() >= nothing.items()
    unseen = points((3,), splits={"test": split_of(0, torch.arange(9) % 3)})
    assert isinstance(measured(Quantisation(), unseen)["b8.forget"], Absent)
    for bits in ((1,), ()):
        with pytest.raises(SettingError, match="bits"):
            Quantisation(bits)
