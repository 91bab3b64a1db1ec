import pytest
import torch
from torch import nn

from geniu_lightning.errors import SettingError
from geniu_lightning.models.vae import VAE


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, channels: int, size: int) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=stream())


def test_a_vae_grows_with_its_images_and_its_code_does_not() -> None:
    for size, side, blocks in (
        *((16, 1, 4), (17, 2, 4), (28, 2, 4), (31, 2, 4), (33, 3, 4), (47, 3, 4), (64, 4, 4)),
        *((65, 3, 5), (128, 4, 5), (131, 3, 6), (256, 4, 6)),
    ):
        model = VAE(3, size, latent=5, width=2).eval()
        generated = model(images(2, 3, size))
        assert generated.images.shape == (2, 3, size, size)
        assert generated.mean.shape == generated.log_variance.shape == (2, 5)
        assert model.code_shape == (16, side, side)
        assert len(model.encoder) == len(model.decoder) == blocks
        channels = [m.out_channels for m in model.encoder.modules() if isinstance(m, nn.Conv2d)]
        assert channels == [2, 4, 8, *[16] * (blocks - 3)]
    with pytest.raises(SettingError, match="image_size must be greater than or equal to 16"):
        VAE(image_size=15)


def test_images_lie_in_zero_to_one_however_large_the_prompts() -> None:
    model = VAE(1, 16, latent=4).eval()
    decoded = model(1e4 * images(8, 1, 16), sample=False).images
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    nn.init.constant_(model.to_image.bias, 50.0)
    assert torch.equal(model(images(1, 1, 16)).images, torch.ones(1, 1, 16, 16))


def test_the_code_is_the_mean_and_with_sampling_a_deviation_from_the_given_stream() -> None:
    model = VAE(1, 16, latent=4).eval()
    nn.init.constant_(model.log_variance.bias, 1.5)
    prompts = images(3, 1, 16)
    mean, log_variance = model.encode(prompts)
    assert not torch.equal(mean, log_variance)
    plain = model(prompts, sample=False)
    assert torch.equal(plain.mean, mean)
    assert torch.equal(plain.log_variance, log_variance)
    assert torch.equal(plain.images, model.decode(mean))
    sampled = model(prompts, generator=stream(3)).images
    noise = torch.randn(3, 4, generator=stream(3))
    torch.testing.assert_close(model.decode(mean + log_variance.exp().sqrt() * noise), sampled)
    assert not torch.equal(model(prompts, generator=stream(4)).images, sampled)


def test_every_parameter_is_trained_and_prompts_get_a_gradient() -> None:
    model = VAE(1, 16, latent=4).train()
    prompts = images(6, 1, 16).requires_grad_()
    model(prompts, generator=stream()).images.square().sum().backward()
    assert prompts.grad is not None
    assert prompts.grad.abs().max() > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
