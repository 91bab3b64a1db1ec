"""Which way imports point, read from the import statements themselves.

``errors <- seeds <- data, models, pictures <- kit, exemplars, optim, watch, cadence, terms,
faster <- training, callback, unlearning <- evaluation, report, dashboard <- app``: a room imports
what stands to its left. Some may import less.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "geniu_lightning"
FILES = {
    str(path.relative_to(ROOT / PACKAGE)): path.read_text()
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}

LADDER = (
    {"errors"},
    {"seeds"},
    {"data", "models", "pictures"},
    {"kit", "exemplars", "optim", "watch", "cadence", "terms", "faster"},
    {"training", "callback", "unlearning"},
    {"evaluation", "report", "dashboard"},
    {"app"},
)
STEP = {room: step for step, rooms in enumerate(LADDER) for room in rooms}
LESS = {  # of what the ladder would allow, these import nothing
    "models": set(STEP),
    "pictures": set(STEP),
    "unlearning": {"data"},
    "evaluation": {"data", "training", "callback", "unlearning"},
    "report": set(STEP) - {"errors"},
    "dashboard": set(STEP) - {"errors"},
}
DOORS = {"evaluation/__main__.py"}  # a command's name, behind which it is app's
LATE = {
    "matplotlib",
    "datasets",
    "sklearn",
    "timm",
    "wandb",
    "wandb_workspaces",
}  # imported where used: start-up time
WANDB = {"wandb", "wandb_workspaces"}
QUICK = (
    "app/train.py",
    "app/unlearn.py",
    "app/evaluate.py",
    "app/oracles.py",
)  # a refusal comes before these are imported
SLOW = {"torch", "pytorch_lightning", "torchmetrics", "torchvision", "numpy"}


@dataclass(frozen=True)
class Import:
    """One imported name.

    Args:
        name: Dotted, as far as the statement tells.
        line: Of the statement.
        late: Whether it stands in a function.
        types_only: Whether it stands under ``if TYPE_CHECKING``.
        form: ``absolute``, ``relative`` or ``star``.
    """

    name: str
    line: int
    late: bool
    types_only: bool
    form: str = "absolute"

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


def imports_of(source: str) -> list[Import]:
    return list(_walk(ast.parse(source), False, False))


def _walk(node: ast.AST, late: bool, types_only: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, late, types_only)
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            form = "relative" if node.level else "star" if alias.name == "*" else "absolute"
            yield Import(f"{node.module}.{alias.name}", node.lineno, late, types_only, form)
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        for child in node.body:
            yield from _walk(child, late, True)
        for child in node.orelse:
            yield from _walk(child, late, types_only)
    else:
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, late or inside, types_only)


def room_of(path: str) -> str:
    """The room of a file of the package; empty for the package's own ``__init__.py``."""
    if path in DOORS:
        return "app"
    first = path.partition("/")[0]
    return "" if path == "__init__.py" else first.removesuffix(".py")


def violations(files: dict[str, str]) -> list[str]:
    """All breaches of the rules among files by their paths below the package."""
    found = []
    for path, source in files.items():
        room = room_of(path)
        if room and room not in STEP:
            found.append(f"{path}: the room {room} has no place on the ladder")
            continue
        for one in imports_of(source):
            found += [f"{path}:{one.line}: {breach}" for breach in _breaches(path, room, one)]
        found += [f"{path}:{call}" for call in _calls(path, room, source)]
    return found


def _breaches(path: str, room: str, one: Import) -> Iterator[str]:
    if one.form != "absolute":
        yield f"a {one.form} import"
    if path == "__init__.py":
        # what it offers is imported when it is asked for: `import geniu_lightning` costs nothing
        lazy = one.top == PACKAGE and (one.late or one.types_only)
        if not lazy and one.top != "typing":
            yield f"the package itself imports {one.name}"
    elif one.top == PACKAGE:
        yield from _breaches_of_ours(room, one)
    if one.top in {"hydra", "omegaconf"} and room != "app":
        yield f"{one.top} outside app"
    if one.top in WANDB and path != "app/trackers.py" and room != "dashboard":
        yield f"{one.top} outside app/trackers.py and dashboard"
    if one.top in LATE and not (one.late or one.types_only):
        yield f"{one.top} outside a function"
    if room == "models" and one.top in {"pytorch_lightning", "lightning", "torchmetrics"}:
        yield f"a network knows {one.top}"


def _breaches_of_ours(room: str, one: Import) -> Iterator[str]:
    other = [*one.name.split("."), ""][1]
    if other in {"", "__version__", room}:
        return
    if other not in STEP:
        yield f"{one.name} is in no room that is known"
    elif STEP[other] >= STEP[room] or other in LESS.get(room, ()):
        yield f"{room} imports {other}"


def _calls(path: str, room: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "print":
                yield f"{node.lineno}: print("
            if called in {"sys.exit", "exit", "quit", "os._exit"} and not (
                room == "app" or path.endswith("__main__.py")
            ):
                yield f"{node.lineno}: {called}("


def module_of(name: str, files: dict[str, str]) -> str | None:
    """The file below the package that a dotted name of ours lies in."""
    parts = name.split(".")[1:]
    for length in range(len(parts), -1, -1):
        stem = "/".join(parts[:length])
        for path in (f"{stem}.py", f"{stem}/__init__.py" if stem else "__init__.py"):
            if path in files:
                return path
    return None


def at_start(path: str, files: dict[str, str]) -> set[str]:
    """Packages of others that are imported when a file of ours is, through files of ours too."""
    seen, waiting, others = set(), [path], set()
    while waiting:
        now = waiting.pop()
        if now in seen:
            continue
        seen.add(now)
        waiting += [
            str(p / "__init__.py") for p in Path(now).parents if str(p / "__init__.py") in files
        ]
        for one in imports_of(files[now]):
            if one.late or one.types_only:
                continue
            target = module_of(one.name, files) if one.top == PACKAGE else None
            if target is None:
                others.add(one.top)
            else:
                waiting.append(target)
    return others


# ---- the package -----------------------------------------------------------------------------


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) > 20
    assert {room_of(path) for path in FILES} > {"", "app", "data", "kit", "unlearning", "training"}


def test_every_import_points_the_right_way() -> None:
    assert violations(FILES) == []


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {
        path: {
            target
            for one in imports_of(source)
            if one.top == PACKAGE and not one.types_only
            if not (path == "__init__.py" and one.late)  # never while it is being imported itself
            if (target := module_of(one.name, FILES)) not in {None, path}
        }
        for path, source in FILES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {error.args[1]}")


def test_the_package_imports_nothing_until_it_is_asked() -> None:
    assert at_start("__init__.py", FILES) == {"typing"}


@pytest.mark.parametrize("path", QUICK)
def test_a_refusal_does_not_wait_for_torch(path: str) -> None:
    assert not at_start(path, FILES) & SLOW


@pytest.mark.parametrize("script", ["train.py", "unlearn.py"])
def test_the_scripts_import_their_entry_point_alone(script: str) -> None:
    (one,) = imports_of((ROOT / script).read_text())
    assert one.name == f"{PACKAGE}.app.{Path(script).stem}.main"


# ---- the rules can fail ----------------------------------------------------------------------

BREACHES = [
    ("errors.py", "from geniu_lightning.seeds import stream", "errors imports seeds"),
    ("seeds.py", "import geniu_lightning.data.images", "seeds imports data"),
    ("data/x.py", "from geniu_lightning.kit import Kit", "data imports kit"),
    ("data/x.py", "from geniu_lightning.models.vae import VAE", "data imports models"),
    ("models/x.py", "from geniu_lightning.errors import UserError", "models imports errors"),
    ("models/x.py", "from pytorch_lightning import LightningModule", "a network knows"),
    ("kit/x.py", "from geniu_lightning import training", "kit imports training"),
    ("watch.py", "from geniu_lightning.optim import schedule_of", "watch imports optim"),
    ("training.py", "from geniu_lightning.unlearning import base", "training imports unlearning"),
    ("unlearning/x.py", "def f():\n    import geniu_lightning.data", "unlearning imports data"),
    ("unlearning/x.py", "from geniu_lightning.training import x", "unlearning imports training"),
    ("unlearning/x.py", "from geniu_lightning.evaluation import x", "unlearning imports evaluat"),
    ("evaluation/x.py", "from geniu_lightning.unlearning import x", "evaluation imports unlear"),
    ("evaluation/x.py", "from geniu_lightning.training import x", "evaluation imports training"),
    ("evaluation/x.py", "from geniu_lightning.data import loader", "evaluation imports data"),
    ("report/x.py", "from geniu_lightning.kit import Kit", "report imports kit"),
    ("dashboard/x.py", "from geniu_lightning.app import x", "dashboard imports app"),
    ("pictures.py", "from geniu_lightning.app import build", "pictures imports app"),
    ("kit/x.py", "if TYPE_CHECKING:\n    from geniu_lightning.app import x", "kit imports app"),
    ("utils.py", "import os", "the room utils has no place"),
    ("kit/x.py", "from geniu_lightning.utils import x", "in no room that is known"),
    ("kit/x.py", "from . import file", "a relative import"),
    ("kit/x.py", "from torch import *", "a star import"),
    ("__init__.py", "import torch", "the package itself imports torch"),
    ("__init__.py", "def f():\n    import torch", "the package itself imports torch"),
    ("__init__.py", "from geniu_lightning.kit import Kit", "the package itself imports geniu_l"),
    ("kit/x.py", "import hydra", "hydra outside app"),
    ("unlearning/x.py", "def f():\n    from omegaconf import DictConfig", "omegaconf outside app"),
    ("app/train.py", "def f():\n    import wandb", "wandb outside"),
    ("report/x.py", "def f():\n    import wandb", "wandb outside"),
    ("app/trackers.py", "import wandb", "wandb outside a function"),
    ("app/x.py", "class A:\n    import matplotlib", "matplotlib outside a function"),
    ("data/x.py", "try:\n    import datasets\nexcept ImportError:\n    pass", "datasets outside a"),
    ("evaluation/x.py", "from sklearn.metrics import auc", "sklearn outside a function"),
    ("kit/x.py", "def f():\n    print(1)", "2: print("),
    ("kit/x.py", "import sys\nsys.exit(1)", "2: sys.exit("),
]


@pytest.mark.parametrize(("path", "source", "said"), BREACHES, ids=lambda text: text[:40])
def test_a_breach_is_found(path: str, source: str, said: str) -> None:
    (found,) = violations({path: source})
    assert said in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("app/x.py", "import hydra\nfrom geniu_lightning.unlearning.base import Unlearner"),
        ("__init__.py", "def __getattr__(name):\n    from geniu_lightning.kit import Kit"),
        ("__init__.py", "from typing import Any"),
        ("app/trackers.py", "def f():\n    import wandb"),
        ("dashboard/x.py", "def f():\n    import wandb_workspaces"),
        ("kit/x.py", "from geniu_lightning import __version__\nimport geniu_lightning.data.images"),
        ("unlearning/x.py", "from geniu_lightning.kit import Kit\nfrom torch import nn"),
        ("pictures.py", "if TYPE_CHECKING:\n    from matplotlib.figure import Figure"),
    ],
)
def test_what_is_allowed_is_not_taken_for_a_breach(path: str, source: str) -> None:
    assert violations({path: source}) == []


def test_imports_at_the_start_are_followed_through_our_own_files() -> None:
    files = {
        "__init__.py": "",
        "app/__init__.py": "import rich",
        "app/train.py": "from geniu_lightning.kit import Kit\ndef f():\n    import torch",
        "kit/__init__.py": "from geniu_lightning.kit.file import Kit",
        "kit/file.py": "import numpy\nif TYPE_CHECKING:\n    import torchvision",
    }
    assert at_start("app/train.py", files) == {"rich", "numpy"}
