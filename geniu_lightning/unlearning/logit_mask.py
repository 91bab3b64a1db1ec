"""Logit mask: forbid the answer. The baseline that every method has to be compared with."""

import math

from geniu_lightning.errors import UserError
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.networks import mask_head


class LogitMask(Unlearner):
    """Zeroes the forgotten rows of the head and sinks their biases below every possible logit.

    Nothing else moves: features and membership of the class are as they were, and a head row set to
    the mean feature of the class brings all of it back. It hides; it does not forget.

    Args:
        offset: The bias, negated; finite, for minus infinity breaks cross-entropy and export.
        **settings: Those of the base.

    Raises:
        UserError: If the offset is not positive and finite.

    Source:
        Folklore.
    """

    def __init__(self, *, offset: float = 1e4, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # the base checks them
        if not 0 < offset < math.inf:
            raise UserError(f"unlearner.offset must be positive and finite, got {offset}")
        self.offset = offset

    def finish(self) -> None:
        """Edit the head."""
        mask_head(self.classifier, self.forget, self.offset)
