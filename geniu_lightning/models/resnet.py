"""ResNet-18 for small images."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from geniu_lightning.settings.checked import PositiveInt, checked

STAGES = ((1, 1), (2, 2), (4, 2), (8, 2))  # (width multiple, stride), two blocks each


@checked
class ResNet18(nn.Module):
    """ResNet-18 with a 3×3 stem and no max-pooling, as is usual for images of 28 to 64 pixels.

    Args:
        width: Channels of the first stage; 64 is the usual network (11,173,962 parameters for
            colour images and ten classes).

    Source:
        He et al., Deep Residual Learning, arXiv 1512.03385, section 4.2 for the small stem.
    """

    def __init__(
        self, channels: PositiveInt = 3, num_classes: PositiveInt = 10, width: PositiveInt = 64
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        inputs = width
        for multiple, stride in STAGES:
            outputs = multiple * width
            blocks += [Residual(inputs, outputs, stride), Residual(outputs, outputs, 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Return penultimate features: normalised images `(N, C, H, W)` to `(N, 8 width)`."""
        return cast(Tensor, self.blocks(self.stem(images))).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape `(N, classes)`."""
        return cast(Tensor, self.head(self.features(images)))


class Residual(nn.Module):
    """Two 3×3 convolutions and a shortcut: the identity, or a 1×1 convolution to another shape."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, maps: Tensor) -> Tensor:
        """Return ReLU of the sum of both branches."""
        return F.relu(self.body(maps) + self.shortcut(maps))
