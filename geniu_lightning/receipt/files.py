"""The files of a request, with their checksums: the unlearned weights, and what to delete."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geniu_lightning.files import sha256_of
from geniu_lightning.kit.header import KIT


def files_of(
    weights: Path, kit: Path, draws: bool, still_inside: bool, made_for: str | None
) -> Iterator[dict[str, Any]]:
    """Yield `{what, file, sha256, delete}` of each file that a receipt names.

    Args:
        weights: The unlearned weights.
        kit: The kit that they were made from; what its run left holds the class too.
        draws: Whether that kit holds what draws pictures of its classes.
        still_inside: Whether the unlearned weights and the new kit hold the class.
        made_for: Digest of foreign weights that the kit was made for, if it was.
    """

    def entry(path: Path, what: str, delete: bool = True, name: str = "") -> dict[str, Any]:
        name = name or path.name
        return {"what": what, "file": name, "sha256": sha256_of(path), "delete": delete}

    yield entry(weights, "the unlearned weights", still_inside)
    new = weights.with_name(KIT)
    if new.is_file():
        yield entry(new, "the new kit, in the same folder", still_inside)
    drawing = " and what draws its classes" if draws else ""
    yield entry(kit, f"the old kit: the model before{drawing}")
    run = kit.parent
    if (run / "run.json").is_file():  # a run wrote the kit
        for path in sorted(run.glob("checkpoints/*.ckpt")):
            name = f"{path.parent.name}/{path.name}"
            yield entry(path, "beside the old kit: the model before", name=name)
        others = {
            weights.name: "the model before",
            KIT: "the model before and what draws its classes",
            "proxies.png": "pictures of classes",
        }
        for name, what in others.items():
            if (run / name).is_file() and name != kit.name:
                yield entry(run / name, f"beside the old kit: {what}")
    earlier = run / "receipt.json"
    if earlier.is_file():  # the kit is that of an earlier request
        for file in json.loads(earlier.read_text())["files"]:
            if file["delete"]:
                yield file | {"what": f"by the receipt of the request before, {file['what']}"}
    if made_for:
        what = "the weights that the old kit was made for"
        yield {"what": what, "file": None, "sha256": made_for, "delete": True}
