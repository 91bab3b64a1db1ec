"""The small kit that the tests of unlearning use."""

from tests.unlearning.conftest import kit

__all__ = ["kit"]
