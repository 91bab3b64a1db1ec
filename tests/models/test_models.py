import pytest
import torch
from torch import nn

from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.models.resnet import ResNet18
from geniu_lightning.models.vae import VAE

CLASSIFIERS = [
    (AllCNN, {"channels": 1, "num_classes": 10, "width": 8}, 16),
    (AllCNN, {"channels": 3, "num_classes": 7, "width": 4}, 8),
    (ResNet18, {"channels": 1, "num_classes": 10, "width": 4}, 32),
    (ResNet18, {"channels": 3, "num_classes": 7, "width": 2}, 16),
]


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, channels: int, size: int) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=stream())


@pytest.mark.parametrize(
    ("build", "settings", "count"),
    [
        (AllCNN, {}, 1_618_282),
        (AllCNN, {"channels": 3}, 1_620_010),
        (ResNet18, {}, 11_173_962),
        (VAE, {}, 1_180_641),
        (VAE, {"image_size": 32}, 1_180_641),
        (VAE, {"channels": 3, "image_size": 32, "latent": 256}, 1_575_267),
    ],
)
def test_networks_have_their_published_number_of_parameters(
    build: type[nn.Module], settings: dict[str, int], count: int
) -> None:
    with torch.device("meta"):
        model = build(**settings)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(("build", "settings", "width"), CLASSIFIERS)
@pytest.mark.parametrize("size", [8, 28, 33])
def test_a_classifier_is_its_head_on_its_features(
    build: type[nn.Module], settings: dict[str, int], width: int, size: int
) -> None:
    model = build(**settings).eval()
    batch = images(3, settings["channels"], size)
    features = model.features(batch)
    assert features.shape == (3, width)
    assert isinstance(model.head, nn.Linear)
    assert model(batch).shape == (3, settings["num_classes"])
    assert torch.equal(model(batch), model.head(features))


@pytest.mark.parametrize(("build", "settings", "width"), CLASSIFIERS)
def test_features_are_the_average_over_the_last_maps(
    build: type[nn.Module], settings: dict[str, int], width: int
) -> None:
    model = build(**settings).eval()
    maps: list[torch.Tensor] = []
    model.blocks.register_forward_hook(lambda module, inputs, output: maps.append(output))
    features = model.features(images(3, settings["channels"], 24))
    assert maps[0].shape[-1] > 1
    wanted = torch.einsum("ncij->nc", maps[0]) / maps[0][0, 0].numel()
    torch.testing.assert_close(features, wanted, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("build", "settings", "width"), CLASSIFIERS)
def test_a_classifier_looks_at_each_image_alone_and_at_all_of_it(
    build: type[nn.Module], settings: dict[str, int], width: int
) -> None:
    model = build(**settings).eval()
    batch = images(4, settings["channels"], 12).requires_grad_()
    torch.testing.assert_close(model(batch)[1:2], model(batch[1:2]))
    (gradient,) = torch.autograd.grad(model.features(batch)[0].sum(), batch)
    assert gradient[1:].abs().max() == 0
    reached = gradient[0].abs().sum(0) > 0
    assert reached[0].any()
    assert reached[-1].any()
    assert reached[:, 0].any()
    assert reached[:, -1].any()


@pytest.mark.parametrize(("build", "settings", "width"), CLASSIFIERS)
def test_every_parameter_of_a_classifier_is_trained(
    build: type[nn.Module], settings: dict[str, int], width: int
) -> None:
    model = build(**settings).train()
    model(images(8, settings["channels"], 16)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_allcnn_has_the_layers_of_the_published_network() -> None:
    convolutions = [m for m in AllCNN(width=96).modules() if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0]) for c in convolutions] == [
        (96, 3, 1),
        (96, 3, 1),
        (192, 3, 2),
        (192, 3, 1),
        (192, 3, 1),
        (192, 3, 2),
        (192, 3, 1),
        (192, 1, 1),
    ]
    maps = AllCNN(width=4).eval().blocks(images(1, 1, 28))
    assert maps.shape == (1, 8, 7, 7)  # the published pooling window at 28 pixels


def test_resnet_has_eighteen_layers_and_no_pooling() -> None:
    model = ResNet18(width=4).eval()
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    shortcuts = [m for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert len(layers) - len(shortcuts) == 18
    assert len(shortcuts) == 3
    maps = model.blocks(model.stem(images(1, 3, 32)))
    assert maps.shape == (1, 32, 4, 4)


def test_a_residual_block_adds_its_input() -> None:
    model = ResNet18(width=4).eval()
    block = model.blocks[1]
    nn.init.zeros_(block.body[-1].weight)
    maps = torch.rand(2, 4, 5, 5, generator=stream())
    assert torch.equal(block(maps), maps)
    assert torch.equal(block(-maps), torch.zeros_like(maps))


@pytest.mark.parametrize("size", [16, 17, 19, 24, 28, 31, 32, 33, 47, 64, 65, 100, 128, 131])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_vae_gives_images_of_the_size_of_its_prompts(size: int, channels: int) -> None:
    model = VAE(channels, size, latent=5).eval()
    generated = model(images(2, channels, size))
    assert generated.images.shape == (2, channels, size, size)
    assert generated.mean.shape == generated.log_variance.shape == (2, 5)


def test_images_of_a_vae_lie_in_zero_to_one_however_large_its_prompts() -> None:
    model = VAE(1, 16, latent=4).eval()
    decoded = model(1e4 * images(8, 1, 16), sample=False).images
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    nn.init.constant_(model.to_image.bias, 50.0)
    assert torch.equal(model(images(1, 1, 16)).images, torch.ones(1, 1, 16, 16))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"image_size": 15}, "image_size must be at least 16, got 15"),
        ({"image_size": 0}, "image_size must be at least 16, got 0"),
        ({"width": 0}, "latent and width must be at least 1, got 128 and 0"),
        ({"latent": 0}, "latent and width must be at least 1, got 0 and 32"),
    ],
)
def test_a_vae_refuses_what_makes_no_network(settings: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        VAE(**settings)


@pytest.mark.parametrize(
    ("size", "side", "blocks"),
    [(16, 1, 4), (28, 2, 4), (64, 4, 4), (65, 3, 5), (128, 4, 5), (129, 3, 6), (256, 4, 6)],
)
def test_a_vae_grows_with_its_images_and_its_code_does_not(
    size: int, side: int, blocks: int
) -> None:
    model = VAE(1, size, latent=4, width=2)
    assert model.code_shape == (16, side, side)
    assert len(model.encoder) == len(model.decoder) == blocks
    assert [m.out_channels for m in model.encoder.modules() if isinstance(m, nn.Conv2d)] == [
        2, 4, 8, *[16] * (blocks - 3)
    ]  # fmt: skip


def test_without_sampling_a_vae_decodes_the_mean() -> None:
    model = VAE(1, 16, latent=4).eval()
    prompts = images(3, 1, 16)
    first = model(prompts, sample=False)
    torch.rand(3)
    assert torch.equal(model(prompts, sample=False).images, first.images)
    assert torch.equal(model.decode(first.mean), first.images)
    assert not torch.equal(model(prompts).images, first.images)


def test_a_sampled_code_is_the_mean_and_a_deviation_of_noise_from_the_given_stream() -> None:
    model = VAE(1, 16, latent=4).eval()
    nn.init.constant_(model.log_variance.bias, 1.5)
    prompts = images(3, 1, 16)
    generated = model(prompts, generator=stream(3))
    noise = torch.randn(3, 4, generator=stream(3))
    deviation = generated.log_variance.exp().sqrt()
    torch.testing.assert_close(model.decode(generated.mean + deviation * noise), generated.images)
    assert torch.equal(model(prompts, generator=stream(3)).images, generated.images)
    assert not torch.equal(model(prompts, generator=stream(4)).images, generated.images)


def test_the_code_of_a_vae_is_that_of_its_encoder() -> None:
    model = VAE(1, 16, latent=4).eval()
    prompts = images(3, 1, 16)
    mean, log_variance = model.encode(prompts)
    generated = model(prompts)
    assert torch.equal(generated.mean, mean)
    assert torch.equal(generated.log_variance, log_variance)
    assert not torch.equal(mean, log_variance)


def test_every_parameter_of_a_vae_is_trained_and_prompts_get_a_gradient() -> None:
    model = VAE(1, 16, latent=4).train()
    prompts = images(6, 1, 16).requires_grad_()
    model(prompts, generator=stream()).images.square().sum().backward()
    assert prompts.grad is not None
    assert prompts.grad.abs().max() > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
