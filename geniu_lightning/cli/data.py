"""The images of a run: those of the settings, or those that a kit recorded."""

import logging
from collections.abc import Mapping
from typing import Any, cast

from geniu_lightning.cli.terminal import paced
from geniu_lightning.data.module import ImageData
from geniu_lightning.errors import DataNotFoundError, UserError
from geniu_lightning.kit.file import KitInfo
from geniu_lightning.settings.configs import built

OURS = "geniu_lightning.data."
log = logging.getLogger(__name__)


def data_of(settings: Mapping[str, Any], imbalance: Mapping[str, Any], **more: Any) -> ImageData:
    """Return the images of settings of a data module and of an imbalance, decoded."""
    due = paced()

    def report(split: str, decoded: int, total: int) -> None:
        if due():
            log.info("reading %s images  %d/%d", split, decoded, total)

    rule = built(dict(imbalance), "imbalance")
    data = cast(ImageData, built(dict(settings), "data", imbalance=rule, **more))
    data.prepare_data(report)
    data.setup()
    return data


def recorded_data(
    info: KitInfo, root: str | None = None, name: str | None = None, allow_custom: bool = False
) -> ImageData:
    """Return the images that a kit was trained on, from other places where these are given."""
    settings = info.settings
    if "data" not in settings or "imbalance" not in settings:
        raise UserError("the kit does not say which data it was trained on")
    moved = {key: value for key, value in (("root", root), ("name", name)) if value is not None}
    described = dict(settings["data"]) | moved
    if not allow_custom:
        _refuse_foreign_targets({"data": described, "imbalance": settings["imbalance"]})
    data = data_of(described, settings["imbalance"])
    if data.fingerprint != info.data_fingerprint:
        raise DataNotFoundError(
            "the images found are not those that the kit was trained on (their fingerprint is"
            f" {data.fingerprint[:12]}…, the kit's {info.data_fingerprint[:12]}…); set data.root"
            " and data.name"
        )
    return data


def _refuse_foreign_targets(node: Any, path: tuple[str, ...] = ()) -> None:
    """Refuse settings of a kit that would run code from outside our data modules."""
    if isinstance(node, list):
        for item in node:
            _refuse_foreign_targets(item, (*path, "item"))
    if not isinstance(node, Mapping):
        return
    if "_target_" in node:
        target = str(node["_target_"])
        # one dotted step below our own modules: a path through them could reach anything
        inner = target.removeprefix(OURS).split(".")
        expected = path in (("data",), ("data", "source"), ("imbalance",))
        if not expected or not target.startswith(OURS) or len(inner) != 2:
            raise UserError(
                f"the kit's data come through {target}, which is not ours;"
                " pass allow_custom=true if you trust it"
            )
    for key, value in node.items():
        _refuse_foreign_targets(value, (*path, str(key)))
