"""The images of a run: those of the settings, or those that a kit recorded."""

import logging
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from geniu_lightning.cli.terminal import decoding_report
from geniu_lightning.data import imbalance
from geniu_lightning.data.module import ImageData
from geniu_lightning.data.sources import Digits, HubSet, ImageFolder
from geniu_lightning.errors import DataNotFoundError, SettingError, UserError
from geniu_lightning.kit.info import KitInfo
from geniu_lightning.settings.checked import shown
from geniu_lightning.settings.configs import CONF, built

# what a kit may name: all else would run code, or read a place, of its author's choice
ALLOWED: dict[str, Any] = {
    f"{one.__module__}.{one.__qualname__}": one
    for one in (
        *(Digits, HubSet, ImageFolder),
        *(imbalance.none, imbalance.step, imbalance.exponential, imbalance.custom),
    )
}
FORM = ("pad", "flip", "validation", "resize", "background")
log = logging.getLogger(__name__)


def data_of(settings: Mapping[str, Any], rule: Mapping[str, Any], **more: Any) -> ImageData:
    """Return the images of settings of a data module and of an imbalance, decoded."""
    chosen = built(dict(rule), "imbalance")
    data: ImageData = built(dict(settings), "data", imbalance=chosen, **more)
    data.prepare_data(decoding_report())
    data.setup()
    return data


def recorded_data(
    info: KitInfo,
    root: str | None = None,
    name: str | None = None,
    hub_id: str | None = None,
    *,
    forget: Collection[int] = (),
    allow_custom: bool = False,
    **more: Any,  # of ImageData
) -> ImageData:
    """Return the images that a kit was trained on, as far as they still exist.

    The kit is a stranger's: it says which images they are, and the user where to look.

    Args:
        info: Of the kit.
        root: Folder of local copies; `None` is the usual one, see `HubSet`.
        name: Folder below it; `None` takes the kit's.
        hub_id: Id on the Hub; those in `conf/data` need not be named.
        forget: Classes that may be absent.
        allow_custom: Whether the kit may name sources and imbalances that are not ours.
        **more: Batch size and seed of training batches.
    """
    record, rule = info.settings.get("data"), info.settings.get("imbalance")
    if not record or not rule or "name" not in record:
        raise UserError("the kit does not say which data it was trained on")
    place = Path(record["name"])
    if name is None and (place.is_absolute() or ".." in place.parts):
        raise UserError(f"the kit's images are in {place}, it says: confirm that by data.name=")
    spec = info.spec
    try:
        data = ImageData(
            name=name or record["name"],
            root=root,
            source=_named(record.get("source", {}), "data", allow_custom),
            imbalance=_named(_with_names(rule, info), "imbalance", allow_custom),
            image_size=spec.size,
            channels=spec.channels,
            mean=spec.mean,
            std=spec.std,
            **{key: record[key] for key in FORM if key in record} | more,
        )
        _refuse_foreign_hub(data, hub_id)
        data.prepare_data(decoding_report())
    except SettingError as error:
        raise UserError(f"the kit's record of its data cannot be followed: {error}") from error
    _refuse_others(data, info, forget)
    data.setup()
    return data


def _with_names(rule: Mapping[str, Any], info: KitInfo) -> dict[str, Any]:
    """Return a recorded imbalance with its classes by name: an index may be another's name."""
    names = info.class_names

    def name(one: Any) -> Any:
        if isinstance(one, list):
            return [name(each) for each in one]
        return names[one] if isinstance(one, int) and 0 <= one < len(names) else one

    return {k: name(v) if k in ("majority", "order") else v for k, v in rule.items()}


ROOMS = {"data": "geniu_lightning.data.sources.", "imbalance": "geniu_lightning.data.imbalance."}


def _named(record: Mapping[str, Any], what: str, allow_custom: bool) -> Any:
    """Return what a kit names with its arguments bound."""
    target = str(record.get("_target_"))
    if target not in ALLOWED or not target.startswith(ROOMS[what]):
        if not allow_custom:
            raise UserError(
                f"the kit's {what} come through {shown(target)}, which may run code that the kit"
                " chooses; pass allow_custom=true if you trust it"
            )
        return built(dict(record), what)
    return partial(ALLOWED[target], **{k: v for k, v in record.items() if not k.startswith("_")})


def _refuse_foreign_hub(data: ImageData, named: str | None) -> None:
    """Refuse to fetch from a place of the Hub that neither this package nor the user names."""
    source = data.source
    if not isinstance(source, HubSet) or source.local.is_dir() or source.hub_id is None:
        return
    shipped = [OmegaConf.load(file).source.get("hub_id") for file in CONF.glob("data/*.yaml")]
    if source.hub_id != named and (source.hub_id not in shipped or source.revision is not None):
        raise DataNotFoundError(
            f"the kit's images are neither at {source.local} (data.root, data.name) nor fetched"
            f" unasked from {source.hub_id} on the Hugging Face Hub: data.hub_id={source.hub_id}"
        )


def _refuse_others(data: ImageData, info: KitInfo, forget: Collection[int]) -> None:
    """Refuse other images than the kit's; number those that are there as the kit does."""
    if data.fingerprint == info.data_fingerprint:
        return
    names, known = info.class_names, info.class_fingerprints
    changed = [
        f"{split}/{name}"
        for split, classes in data.class_fingerprints.items()
        for name, digest in classes.items()
        if known.get(split, {}).get(name) != digest
    ]
    lost = {
        split: [name for name in classes if name not in data.class_fingerprints[split]]
        for split, classes in known.items()
    }
    if not changed and known:
        kept = {name for k, name in enumerate(names) if k not in forget}
        missing = [f"{split}/{name}" for split in lost for name in lost[split] if name in kept]
        if not missing:
            for split, classes in lost.items():
                if classes:
                    log.info("the %s images of %s are missing", split, ", ".join(classes))
            data.number_as(names)
            return
        changed = missing
    which = f"; they differ in {', '.join(changed[:5])}" if known else ""
    raise DataNotFoundError(
        "the images found are not those that the kit was trained on (their fingerprint is"
        f" {data.fingerprint[:12]}…, the kit's {info.data_fingerprint[:12]}…{which}); set data.root"
        " and data.name"
    )
