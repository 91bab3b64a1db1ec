"""A small kit, as it is and as a file."""

from pathlib import Path

import pytest

from geniu_lightning.kit.file import Kit
from tests.kit.small_kits import make_kit


@pytest.fixture
def kit() -> Kit:
    return make_kit()


@pytest.fixture
def unlearned() -> Kit:
    return make_kit(with_generator=False)


@pytest.fixture
def saved(kit: Kit, tmp_path: Path) -> Path:
    kit.save(tmp_path / "kit.safetensors")
    return tmp_path / "kit.safetensors"
