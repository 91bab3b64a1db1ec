"""What all tests share: no user cache, no network, no account."""

import os
from pathlib import Path

import pytest

pytest_plugins = ("tests.commands",)  # the commands, one kit and one bank of oracles

# before torch is imported anywhere: small networks gain nothing from more, and bits depend on it
os.environ.setdefault("OMP_NUM_THREADS", "1")
# before datasets is: it looks once
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["GENIU_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["WANDB_MODE"] = "offline"
    os.environ["WANDB_SILENT"] = "true"
    os.environ.pop("GENIU_DATA", None)


@pytest.fixture
def shared_data() -> Path:
    """Real data sets beside the checkout, where there are any."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of shared data sets is not beside this checkout")
    return folder
