"""Any network of the package timm as a classifier of features and head."""

from typing import cast

from torch import Tensor, nn

from geniu_lightning.settings.checked import PositiveInt, checked


@checked
class Timm(nn.Module):
    """A network of timm by its name, its last layer replaced by a linear head.

    Weights are always fresh: a kit is rebuilt without a network connection, and pretrained weights
    may have seen a class that an oracle must never see. Other arguments of timm are refused: some
    load files, and a kit may come from a stranger.

    Args:
        name: As `timm.list_models()` has it, such as `resnet18`.
        image_size: Side of the images, for networks that are built for one size (`vit_*`, …);
            `None` for the others.

    Source:
        Wightman, PyTorch Image Models, https://github.com/huggingface/pytorch-image-models.
    """

    def __init__(
        self,
        name: str,
        channels: PositiveInt = 3,
        num_classes: PositiveInt = 10,
        image_size: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise RuntimeError(
                "it needs the package timm: pip install -e '.[timm]' in the checkout"
            ) from error
        # a name with a colon would be looked up on a hub or in a folder
        if ":" in name or not timm.is_model(name):
            like = timm.list_models(f"*{name.split('_')[0].split(':')[-1]}*")[:8]
            known = f", such as {', '.join(like)}" if like else ""
            raise ValueError(f"timm has no network {name!r}; timm.list_models() names all{known}")
        size = {} if image_size is None else {"img_size": image_size}
        self.backbone: nn.Module = timm.create_model(
            name, pretrained=False, in_chans=channels, num_classes=0, **size
        )
        # some networks have a hidden layer between pooling and head
        width = getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features
        self.head = nn.Linear(cast(int, width), num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Return penultimate features: normalised images `(N, C, H, W)` to `(N, D)`."""
        return cast(Tensor, self.backbone(images))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape `(N, classes)`."""
        return cast(Tensor, self.head(self.features(images)))
