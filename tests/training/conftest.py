"""A kit that was trained once beside a user's module."""

from pathlib import Path

import pytest

from geniu_lightning import KitCallback
from tests.training.foreign import Foreign, fit, kit_callback, seeded, vae


@pytest.fixture(scope="session")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Foreign, KitCallback]:
    """A kit's file, the module that it was trained beside, and the callback; not to be changed."""
    path = tmp_path_factory.mktemp("grown") / "deep" / "kit.safetensors"
    callback, module = kit_callback(path, min_generator_steps=300, generator=vae(width=8)), seeded()
    fit(module, path.parents[1], callback)
    return path, module, callback
