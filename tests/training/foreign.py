"""A user's own training, which knows nothing of kits, and a small callback beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from geniu_lightning import ImageSpec, KitCallback
from geniu_lightning.kit.info import NetworkSpec
from geniu_lightning.models.vae import VAE

SIZE, BATCH, EPOCHS = 16, 40, 4
NAMES = tuple(f"digit {k}" for k in range(10))
SPEC = ImageSpec.of(SIZE, 1, 0.5, 0.5)


class Net(nn.Module):
    """Batch statistics and random draws, both of which a bystander could disturb."""

    def __init__(self, width: int = 6, dropout: float = 0.2) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.Flatten(), nn.Dropout(dropout),
        )  # fmt: skip
        self.head = nn.Linear(2 * width * (SIZE // 4) ** 2, 10)

    def features(self, images: Tensor) -> Tensor:
        return self.layers(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class Foreign(LightningModule):
    def __init__(self, **of_net: Any) -> None:
        super().__init__()
        self.net = Net(**of_net)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)]


class ByHand(Foreign):
    """The same with steps of its own."""

    def __init__(self, **of_net: Any) -> None:
        super().__init__(**of_net)
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


def images_and_labels(count: int = 400) -> tuple[Tensor, Tensor]:
    digits = load_digits()
    images = torch.tensor(digits.images[:count], dtype=torch.float32).unsqueeze(1) / 16
    return (F.interpolate(images, SIZE) - 0.5) / 0.5, torch.tensor(digits.target[:count])


class Digits(LightningDataModule):
    def __init__(self, shuffle: bool = True) -> None:
        super().__init__()
        self.shuffle = shuffle

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*images_and_labels()), BATCH, shuffle=self.shuffle)


def fit(
    module: LightningModule,
    folder: Path,
    *callbacks: Callback,
    data: Any = None,
    resume: str | None = None,
    **of_trainer: Any,
) -> Trainer:
    """Train as somebody would."""
    usual: dict[str, Any] = {
        "max_epochs": EPOCHS,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "callbacks": list(callbacks),
    }
    trainer = Trainer(**usual | of_trainer)
    trainer.fit(module, Digits() if data is None else data, ckpt_path=resume)
    return trainer


def seeded(kind: Callable[..., LightningModule] = Foreign, **of_net: Any) -> Any:
    """Return a module with the weights that a seed gives."""
    torch.manual_seed(3)
    return kind(**of_net)


class DroppingVAE(VAE):
    """A generator that draws from torch's own stream, which is the user's."""

    def decode(self, latent: Tensor) -> Tensor:
        return super().decode(F.dropout(latent, 0.5, self.training))


def vae(width: int, target: str = "geniu_lightning.models.vae.VAE") -> NetworkSpec:
    form = {"channels": 1, "image_size": SIZE, "latent": 16, "width": width}
    return NetworkSpec(target, form)


def kit_callback(path: Path, **settings: Any) -> KitCallback:
    few = {"proxies_per_class": 2, "min_generator_steps": 20, "prompt_batch": 8}
    usual = {"classifier": "net", "generator": vae(width=4), **few}
    return KitCallback(path, NAMES, SPEC, **usual | settings)
