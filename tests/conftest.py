"""Isolation of all tests: one thread, no user cache, no network, no account."""

import os
from pathlib import Path

import pytest

pytest_plugins = ("tests.commands",)  # the commands, one kit and one bank of oracles

# before torch is imported: small networks gain nothing from more threads, and bits depend on them
os.environ.setdefault("OMP_NUM_THREADS", "1")
# before datasets is imported: it reads this once
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["GENIU_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["WANDB_MODE"] = "offline"
    os.environ["WANDB_SILENT"] = "true"
    os.environ.pop("GENIU_DATA", None)


@pytest.fixture
def shared_data() -> Path:
    """Folder of real data sets next to the checkout; the test is skipped without it."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("there is no folder shared/data next to this checkout")
    return folder
