"""Networks that were taught once, for all attacks that fine-tune."""

import pytest
from torch import nn

from tests.evaluation.attacks.taught import taught_models


@pytest.fixture(scope="session")
def models() -> dict[str, nn.Module]:
    """Read-only."""
    return taught_models()
