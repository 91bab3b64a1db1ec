"""A kit's description from the file's header, without importing torch; tensors unverified."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from geniu_lightning.data.classes import class_indices, labelled
from geniu_lightning.errors import KitError, UserError
from geniu_lightning.kit.info import KitInfo

KIT = "kit.safetensors"


def kit_path(named: str) -> Path:
    """Return the file of a kit that is named by its file or its folder."""
    path = Path(named).expanduser()
    return path / KIT if path.is_dir() else path


def kit_metadata(path: Path) -> dict[str, str]:
    """Return a kit's metadata from its header."""
    if not path.is_file():
        raise KitError(f"there is no kit at {path}; train one, or set kit=FILE")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise KitError(f"{path} is truncated or is no safetensors file ({error})") from error
    if "geniu" not in metadata:
        raise KitError(f"{path} is a safetensors file, but no kit of geniu_lightning")
    return metadata


def forgotten(wanted: object, kit: KitInfo) -> tuple[int, ...]:  # the value of forget=
    """Return the classes to forget, with those that the kit of a description forgot before."""
    names = kit.class_names
    forget = class_indices([] if wanted is None else wanted, names)
    if not forget:
        raise UserError("say what to forget: forget=[0], forget=[3,5] or forget=[ship]")
    again = [k for k in forget if k in kit.forgotten]
    if again:
        raise UserError(f"{labelled(again, names)}: forgotten already, by this kit's own account")
    forget = tuple(sorted({*forget, *kit.forgotten}))
    if len(forget) == len(names):
        raise UserError("all classes are to be forgotten: then there is nothing to retain")
    return forget
