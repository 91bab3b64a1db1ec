"""AllCNN: a classifier of convolutions, used in GENIU's experiments."""

from typing import cast

from torch import Tensor, nn

from geniu_lightning.settings.checked import PositiveInt, checked

# (width multiple, kernel, stride) of each block, arXiv 2412.13790 and 2201.05629
BLOCKS = (
    (1, 3, 1),
    (1, 3, 1),
    (2, 3, 2),
    (2, 3, 1),
    (2, 3, 1),
    (2, 3, 2),
    (2, 3, 1),
    (2, 1, 1),
)


@checked
class AllCNN(nn.Module):
    """Eight blocks of convolution, batch norm and ReLU, a global average, a linear head.

    Args:
        width: Channels of the first block; 96 is the published network (1,618,282 parameters for
            grey images and ten classes).

    Source:
        Springenberg et al., Striving for Simplicity, arXiv 1412.6806; layers as in the public
        experiments on zero-shot unlearning (arXiv 2201.05629). Departure: the average is over the
        whole map, which equals theirs at 28 and 32 pixels and admits other sizes.
    """

    def __init__(
        self, channels: PositiveInt = 1, num_classes: PositiveInt = 10, width: PositiveInt = 96
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        inputs = channels
        for multiple, kernel, stride in BLOCKS:
            outputs = multiple * width
            blocks.append(
                nn.Sequential(
                    nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(),
                )
            )
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Return penultimate features: normalised images `(N, C, H, W)` to `(N, 2 width)`."""
        return cast(Tensor, self.blocks(images)).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape `(N, classes)`."""
        return cast(Tensor, self.head(self.features(images)))
