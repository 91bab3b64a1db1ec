"""The git revision of the running package."""

import functools
import subprocess
from pathlib import Path


@functools.cache  # what is committed while a run goes on is not what it runs
def revision() -> str | None:
    """Return the git revision of the package's checkout, with `+` if tracked files are changed.

    The value of a process's first call holds for all later ones; runs call it when they begin.
    `None` outside a checkout.
    """

    def git(*words: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", str(Path(__file__)))
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
