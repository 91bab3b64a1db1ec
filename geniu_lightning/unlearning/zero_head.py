"""Zero head: empty the forgotten rows of the head. A baseline that does not even hide."""

import torch

from geniu_lightning.kit.networks import head_of
from geniu_lightning.unlearning.base import Unlearner


class ZeroHead(Unlearner):
    """Sets the weights and biases of the forgotten rows of the head to zero.

    A logit of 0 still wins where every retained logit is negative, which is what a trained network
    says of the forgotten class: accuracy on it stays high. With ``renormalise`` the retained rows
    are first centred on their mean, which changes no answer among them and makes 0 their average,
    so that it never wins: then it equals ``logit_mask`` in every answer.

    Args:
        renormalise: Centre the retained rows.
        **settings: Those of the base.

    Source:
        Folklore.
    """

    def __init__(self, *, renormalise: bool = False, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # the base checks them
        self.renormalise = renormalise

    @torch.no_grad()
    def finish(self) -> None:
        """Edit the head."""
        head, gone = head_of(self.classifier), list(self.forget)
        if self.renormalise:
            kept = [k for k in range(head.out_features) if k not in gone]
            head.weight[kept] -= head.weight[kept].mean(dim=0)
            head.bias[kept] -= head.bias[kept].mean()
            if len(kept) == 1:  # centred on itself it is 0 too, and a tie names the smallest index
                head.bias[kept] = 1.0
        head.weight[gone] = 0.0
        head.bias[gone] = 0.0
