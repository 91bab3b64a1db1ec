"""The receipt of an unlearning run: what was asked, read and found, and what nobody looked at.

For people who answer for a deletion and do not read code. Everything follows from ``metrics.json``
and the files of the run.
"""

import importlib.metadata
import json
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from geniu_lightning.cli.judge import Result
from geniu_lightning.cli.request import Request
from geniu_lightning.cli.terminal import say
from geniu_lightning.evaluation.metrics.accuracy import mean_over
from geniu_lightning.files import now, sha256_of, write_json, write_text
from geniu_lightning.kit.header import KIT
from geniu_lightning.receipt.page import page_of
from geniu_lightning.receipt.words import NEW_KIT, STILL_HOLD, Facts, Json, receipt_of
from geniu_lightning.runs.folder import WEIGHTS, RunFolder
from geniu_lightning.runs.revision import revision
from geniu_lightning.version import __version__


def write(folder: RunFolder, request: Request, result: Result, document: Json) -> None:
    """Write ``receipt.json`` and ``receipt.md`` beside the weights.

    Args:
        folder: Of the run; one of an oracle gets none, for nobody asked it to forget.
        request: What was asked.
        result: What was found, this time.
        document: What ``metrics.json`` is to hold.
    """
    if folder.description["run"]["job"] == "oracle":
        return
    receipt = receipt_of(document, _facts(folder.path, request, result, document))
    write_json(folder.path / "receipt.json", receipt)
    write_text(folder.path / "receipt.md", page_of(receipt))
    say(f"receipt: {folder.path / 'receipt.md'}")


def _facts(folder: Path, request: Request, result: Result, document: Json) -> Facts:
    return Facts(
        forget=dict(zip(request.forget, request.names, strict=True)),
        earlier=request.kit.info.forgotten,
        kit=request.path.name,
        draws=request.kit.prompts is not None,
        files=list(_files(folder, request, document["word"])),
        before=_before(request, result),
        unlearned=_unlearned(folder, document["cost"]),
        judged={"at": now(), "versions": versions()},
    )


def versions() -> dict[str, str | None]:
    """Return the versions of what computes; git's is ``None`` outside a checkout."""
    found = {name: importlib.metadata.version(name) for name in ("torch", "pytorch-lightning")}
    own = {"geniu_lightning": __version__, "git revision": revision()}
    return {**own, **found, "python": platform.python_version()}


def _unlearned(folder: Path, cost: Json) -> Json:
    """Return when the weights were made, and by which software where that is known."""
    done, earlier = folder / "done.json", folder / "receipt.json"
    if not done.is_file():
        return {"at": cost["ended"], "versions": versions()}
    if earlier.is_file():
        found: Json = json.loads(earlier.read_text())["unlearned"]
        return found
    ended = json.loads(done.read_text())["ended"]
    return {"at": cost.get("ended", ended), "versions": None}


def _files(folder: Path, request: Request, said: str | None) -> Iterator[Json]:
    def of(path: Path, name: str, what: str, delete: bool) -> Json:
        return {"what": what, "file": name, "sha256": sha256_of(path), "delete": delete}

    kit, run, holds = request.path, request.path.parent, said in STILL_HOLD
    yield of(folder / WEIGHTS, WEIGHTS, "the unlearned weights", holds)
    if (folder / KIT).is_file():
        yield of(folder / KIT, KIT, NEW_KIT, holds)
    drawn = " and what draws its classes" if request.kit.prompts is not None else ""
    yield of(kit, kit.name, f"the old kit: the model before{drawn}", True)
    beside = "beside the old kit:"
    if (run / "run.json").is_file():  # the kit lies where a run left it
        for path in sorted(run.glob("checkpoints/*.ckpt")):
            yield of(path, f"{path.parent.name}/{path.name}", f"{beside} the model before", True)
        holding = (
            (WEIGHTS, "the model before"),
            (KIT, "the model before and what draws its classes"),
            ("proxies.png", "pictures of classes"),
        )
        for name, what in holding:
            if (run / name).is_file() and name != kit.name:
                yield of(run / name, name, f"{beside} {what}", True)
    earlier = run / "receipt.json"
    if earlier.is_file():  # the kit was left by an earlier request
        for file in json.loads(earlier.read_text())["files"]:
            if file["delete"]:
                yield file | {"what": f"by the receipt of the request before, {file['what']}"}
    elsewhere = request.kit.info.settings.get("weights_sha256")
    if elsewhere:
        what = "the weights that the old kit was made for"
        yield {"what": what, "file": None, "sha256": elsewhere, "delete": True}


def _before(request: Request, result: Result) -> dict[str, float]:
    if result.assessment.before is None:
        return {}
    each = torch.tensor(result.assessment.before)
    kept = tuple(k for k in range(len(each)) if k not in request.forget)
    split = request.config.evaluation.split
    means = {"forget": mean_over(each, request.forget), "retain": mean_over(each, kept)}
    return {f"accuracy.{split}.{k}": v for k, v in means.items() if isinstance(v, float)}
