"""Files of a folder: what is there, and when it changed."""

import os
from pathlib import Path


def listing(folder: Path) -> str:
    """Return all files below a folder with sizes and times; links to folders are followed."""
    found, seen = [], set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        found += [Path(root, name) for name in files]
    return ";".join(f"{path.relative_to(folder)}{stat_of(path)}" for path in sorted(found))


def stat_of(path: Path) -> str:
    """Return size and time of a file, as a part of a key."""
    stat = path.stat() if path.exists() else path.lstat()  # a link that leads nowhere
    return f":{stat.st_size}:{stat.st_mtime_ns}"


def visible(folder: Path) -> list[Path]:
    """Return what a folder holds but for files and folders of systems, sorted."""
    systems = ("Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found")
    return sorted(p for p in folder.iterdir() if p.name not in systems and p.name[0] != ".")


def place_of(path: Path) -> str:
    """Return the names of a file and of its folder."""
    return f"{path.parent.name}/{path.name}"
