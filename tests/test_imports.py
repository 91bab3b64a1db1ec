"""Start-up: a command that is told what to do answers before the heavy libraries are imported."""

import subprocess
import sys

HEAVY = {"datasets", "matplotlib", "pandas", "pytorch_lightning", "sklearn", "torch", "wandb"}


def test_commands_start_without_the_heavy_libraries() -> None:
    modules = (
        "geniu_lightning",
        *(f"geniu_lightning.cli.{n}" for n in ("main", "train", "unlearn")),
    )
    code = (
        f"import sys; from importlib import import_module\n"
        f"for name in {modules}:\n"
        f"    import_module(name); found = sorted({HEAVY} & set(sys.modules))\n"
        f"    assert not found, f'{{name}} imports {{found}}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
