"""No unlearning: the original classifier, for the table."""

from geniu_lightning.unlearning.base import Unlearner


class NoUnlearning(Unlearner):
    """Returns a copy of the original."""
