"""AllCNN and ResNet-18: their layers, and the interface of a classifier."""

import pytest
import torch
from torch import nn

from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.models.frozen import frozen
from geniu_lightning.models.resnet import ResNet18
from geniu_lightning.models.vae import VAE


def images(count: int, channels: int, size: int) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_networks_have_their_published_number_of_parameters() -> None:
    for build, settings, count in (
        (AllCNN, {}, 1_618_282),
        (AllCNN, {"channels": 3}, 1_620_010),
        (ResNet18, {}, 11_173_962),
        (VAE, {}, 1_180_641),
        (VAE, {"image_size": 32}, 1_180_641),
        (VAE, {"channels": 3, "image_size": 32, "latent": 256}, 1_575_267),
    ):
        with torch.device("meta"):
            model = build(**settings)
        assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(
    ("build", "channels", "width"), [(AllCNN, 3, 8), (AllCNN, 1, 8), (ResNet18, 1, 16)]
)
def test_a_classifier_is_its_head_on_the_average_of_its_maps(
    build: type[AllCNN | ResNet18], channels: int, width: int
) -> None:
    model = build(channels, num_classes=7, width=width // (2 if build is AllCNN else 8)).eval()
    maps: list[torch.Tensor] = []
    model.blocks.register_forward_hook(lambda module, inputs, output: maps.append(output))
    for size in (8, 24, 33):
        features = model.features(images(3, channels, size))
        wanted = torch.einsum("ncij->nc", maps[-1]) / maps[-1][0, 0].numel()
        torch.testing.assert_close(features, wanted, rtol=1e-4, atol=0)
        assert features.shape == (3, width)
        logits = model(images(3, channels, size))
        assert torch.equal(logits, model.head(features))
        assert logits.shape == (3, 7)
    # each image is looked at alone, and all of it
    batch = images(4, channels, 12).requires_grad_()
    torch.testing.assert_close(model(batch)[1:2], model(batch[1:2]))
    (gradient,) = torch.autograd.grad(model.features(batch)[0].sum(), batch)
    assert gradient[1:].abs().max() == 0
    reached = gradient[0].abs().sum(0) > 0
    assert all(edge.any() for edge in (reached[0], reached[-1], reached[:, 0], reached[:, -1]))
    # every parameter is trained
    model.train()(images(8, channels, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_allcnn_has_the_layers_of_the_published_network() -> None:
    convolutions = [m for m in AllCNN(width=4).modules() if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels // 4, c.kernel_size[0], c.stride[0]) for c in convolutions] == [
        *[(1, 3, 1), (1, 3, 1), (2, 3, 2), (2, 3, 1), (2, 3, 1), (2, 3, 2), (2, 3, 1), (2, 1, 1)]
    ]
    maps = AllCNN(width=4).eval().blocks(images(1, 1, 28))
    assert maps.shape == (1, 8, 7, 7)  # the published pooling window at 28 pixels


def test_resnet_has_eighteen_layers_no_pooling_and_residual_blocks() -> None:
    model = ResNet18(width=4).eval()
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    shortcuts = [m for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert (len(layers) - len(shortcuts), len(shortcuts)) == (18, 3)
    assert model.blocks(model.stem(images(1, 3, 32))).shape == (1, 32, 4, 4)
    block = model.blocks[1]
    nn.init.zeros_(block.body[-1].weight)  # type: ignore[union-attr, index]
    maps = images(2, 4, 5).abs()
    assert torch.equal(block(maps), maps)
    assert torch.equal(block(-maps), torch.zeros_like(maps))


def test_a_frozen_network_passes_gradients_on_and_is_restored() -> None:
    model = AllCNN(width=2)
    model.blocks[0].eval()
    model.head.bias.requires_grad_(False)
    modes = [layer.training for layer in model.modules()]
    batch = images(2, 1, 8).requires_grad_()
    buffers = [b.clone() for b in model.buffers()]

    def interrupted() -> None:
        with frozen(model):
            model(batch).sum().backward()
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        interrupted()
    assert batch.grad is not None
    assert batch.grad.abs().max() > 0
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), buffers, strict=True))
    assert [layer.training for layer in model.modules()] == modes
    assert [p for p in model.parameters() if not p.requires_grad] == [model.head.bias]
