"""`geniu kit show FILE`: what is inside a kit."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import Tensor

from geniu_lightning.data.classes import labelled
from geniu_lightning.errors import UserError
from geniu_lightning.kit.archive_info import ArchiveInfo
from geniu_lightning.kit.distribution import Distribution
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.header import kit_path


def main(arguments: list[str] | None = None) -> int:
    """Show a kit; return the exit status."""
    parser = argparse.ArgumentParser(prog="geniu kit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print what is inside, after verifying it")
    show.add_argument("file", help="the file, or the folder of the run that wrote it")
    show.add_argument("--proxies", type=Path, metavar="PNG", help="draw the decoded proxies")
    show.add_argument("--samples", type=Path, metavar="PNG", help="draw samples of distributions")
    show.add_argument(
        "--allow-custom",
        action="store_true",
        help="build networks that are not ours: runs their code",
    )
    options = parser.parse_args(arguments)
    try:
        path = kit_path(options.file)
        kit = Kit.load(path, options.allow_custom)
        _describe(kit, path)
        _draw(kit, options.proxies, options.samples)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _draw(kit: Kit, proxies: Path | None, samples: Path | None) -> None:
    """Write the pictures that are asked for, a row a class."""
    from geniu_lightning.report.pictures import grid

    names = [kit.info.class_names[k] for k in kit.info.remaining]
    if proxies is not None:
        images = kit.proxies().images
        grid(images.view(len(names), -1, *images.shape[1:]), names, "proxies", proxies)
    if samples is not None:
        grid(kit.sample_grid(), names, "samples", samples)


def _prompts(prompts: Tensor, sizes: dict[str, int]) -> str:
    number, size = prompts.shape[0] * prompts.shape[1], sizes["prompts"] + sizes["generator"]
    return (
        f"{tuple(prompts.shape)}: {number:,} images, {size:,} bytes with the generator,"
        f" {size / number:,.1f} an image; likenesses of training images"
    )


def _archive(archive: ArchiveInfo, size: int) -> str:
    number = sum(archive.counts)
    return (
        f"{archive.settings.format}: {number:,} images, {size:,} bytes, {size / number:,.1f} an"
        " image; as confidential as the images"
    )


def _distribution(distribution: Distribution, sizes: dict[str, int]) -> str:
    parts = [len(mixture.weights) for mixture in distribution.mixtures.values()]
    each = sizes["distribution"] / len(parts)
    return (
        f"{len(parts)} classes of {min(parts)} to {max(parts)} Gaussians, {each:,.0f} bytes a class"
        f" and {sizes['decoder']:,} of the decoder; no image, but means and spreads of images"
    )


def _describe(kit: Kit, path: Path) -> None:
    info = kit.info
    sizes = {
        name: sum(t.numel() * t.element_size() for t in network.state_dict().values())
        for name, network in (("classifier", kit.classifier), ("generator", kit.generator))
        if network is not None
    }
    if kit.prompts is not None:
        sizes["prompts"] = kit.prompts.numel() * kit.prompts.element_size()
    if kit.archive:
        sizes["archive"] = sum(part.numel() for part in kit.archive.values())
    held = kit.distribution
    if held is not None:
        sizes["distribution"] = sum(mixture.bytes for mixture in held.mixtures.values())
        sizes["decoder"] = sum(value.nbytes for value in held.decoder.state_dict().values())
    rows = {
        "file": f"{path}, {path.stat().st_size:,} bytes, checksum verified",
        "classifier": f"{info.classifier.target} {info.classifier.arguments}",
        "generator": f"{info.generator.target} {info.generator.arguments}"
        if info.generator
        else "none",
        "prompts": "none" if kit.prompts is None else _prompts(kit.prompts, sizes),
        "distribution": "none" if held is None else _distribution(held, sizes),
        "archive": "none" if info.archive is None else _archive(info.archive, sizes["archive"]),
        "bytes": ", ".join(f"{name} {size:,}" for name, size in sizes.items()),
        "images": f"{info.spec.channels}x{info.spec.size}x{info.spec.size},"
        f" mean {info.spec.mean}, deviation {info.spec.std}",
        "classes": ", ".join(
            f"{labelled([k], info.class_names)}: {count:,}"
            for k, count in enumerate(info.class_counts)
        ),
        "forgotten": labelled(info.forgotten, info.class_names) or "none",
        "data": f"fingerprint {info.data_fingerprint[:16]}…"
        if info.data_fingerprint
        else "unknown",
        "training seed": str(info.seed),
        "written by": f"geniu_lightning {info.library}, revision {info.revision or 'unknown'},"
        f" format {info.format}",
    }
    table = Table(show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    Console(highlight=False, markup=False, emoji=False).print(table)  # names are a stranger's
