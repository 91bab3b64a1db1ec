"""The images of a run: those of the settings, or those that a kit recorded."""

import logging
import time
from collections.abc import Mapping
from typing import Any, cast

from geniu_lightning.data.cache import OnDecode
from geniu_lightning.data.module import ImageData
from geniu_lightning.errors import UserError
from geniu_lightning.settings.configs import built

OURS = "geniu_lightning.data."
SECONDS_BETWEEN_LINES = 5.0
log = logging.getLogger(__name__)


def data_of(
    settings: Mapping[str, Any],
    imbalance: Mapping[str, Any],
    *,
    on_decode: OnDecode | None = None,
    **more: Any,
) -> ImageData:
    """Return the images that settings describe, decoded into the cache.

    Args:
        settings: Of the data module.
        imbalance: Of the rule that leaves images out.
        on_decode: Reports progress, if images have to be decoded.
        **more: Further arguments of the data module.

    Raises:
        UserError: If a setting does not fit.
        DataNotFoundError: If the images are nowhere.
    """
    rule = built(dict(imbalance), "imbalance")
    data = cast(ImageData, built(dict(settings), "data", imbalance=rule, **more))
    data.prepare_data(on_decode)
    data.setup()
    return data


def recorded_data(
    settings: Mapping[str, Any], root: str | None, name: str | None, allow_custom: bool, **more: Any
) -> ImageData:
    """Return the images that a kit was trained on.

    Args:
        settings: The kit's record of its training.
        root: Folder of local sets, in place of the recorded one.
        name: Folder of the set below it, likewise.
        allow_custom: Also use classes from outside this package, which runs their code.
        **more: Further arguments of the data module.

    Raises:
        UserError: If the record names classes that may not be used, or is missing.
        DataNotFoundError: If the images are nowhere.
    """
    if "data" not in settings or "imbalance" not in settings:
        raise UserError("the kit does not say which data it was trained on")
    moved = {key: value for key, value in (("root", root), ("name", name)) if value is not None}
    data = dict(settings["data"]) | moved
    if not allow_custom:
        _refuse_foreign_targets({"data": data, "imbalance": settings["imbalance"]})
    return data_of(data, settings["imbalance"], **more)


def decoding_progress() -> OnDecode:
    """Return a reporter of decoded images that logs a line every few seconds."""
    last = time.monotonic()

    def report(split: str, decoded: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > SECONDS_BETWEEN_LINES:
            last = now
            log.info("reading %s images  %d/%d", split, decoded, total)

    return report


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
