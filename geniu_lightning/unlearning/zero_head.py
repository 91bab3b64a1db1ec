"""Zero head: rows of zeros for the forget classes. A baseline that forgets nothing."""

from typing import Any

import torch

from geniu_lightning.kit.networks import head_of
from geniu_lightning.unlearning.base import Unlearner


class ZeroHead(Unlearner):
    """Sets the weights and biases of the forget classes' rows of the head to zero.

    A logit of 0 is still the largest where every retained logit is negative, as a trained network
    has it on the forget class: accuracy on it stays high. With `renormalise` the retained rows are
    first centred on their mean, which changes no answer among them and makes 0 their average, never
    the largest: then all answers are those of `logit_mask`.
    """

    def __init__(self, *, renormalise: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.renormalise = renormalise

    @torch.no_grad()
    def finish(self) -> None:
        """Edit the head."""
        head, forget = head_of(self.classifier), list(self.forget)
        if self.renormalise:
            retained = [k for k in range(head.out_features) if k not in forget]
            head.weight[retained] -= head.weight[retained].mean(dim=0)
            head.bias[retained] -= head.bias[retained].mean()
            if len(retained) == 1:  # centred on itself it is 0 too, and ties go to the first
                head.bias[retained] = 1.0
        head.weight[forget] = 0.0
        head.bias[forget] = 0.0
