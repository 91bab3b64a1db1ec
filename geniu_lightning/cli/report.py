"""`geniu report FOLDER …`: what finished runs found, as tables, figures and a page."""

import argparse
import sys
from pathlib import Path

from geniu_lightning.errors import UserError
from geniu_lightning.report import output
from geniu_lightning.report.figures import drawings
from geniu_lightning.report.load import find, find_training
from geniu_lightning.report.page import as_html
from geniu_lightning.report.tables import tables
from geniu_lightning.report.text import SHAPE, as_csv, as_latex, print_tables, print_values
from geniu_lightning.report.values import sheets

FILES = (
    "The tables are printed in any case; --csv, --html and --figures write files too, all of them"
    " whole or none. A file that exists is replaced if this command wrote it, any other only with"
    " --force."
)


def main(arguments: list[str] | None = None) -> int:
    """Print the tables and write what was asked for; return the exit status."""
    parser = argparse.ArgumentParser(prog="geniu report", description=__doc__, epilog=FILES)
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders of them")
    printed = parser.add_mutually_exclusive_group()
    printed.add_argument("--markdown", action="store_true", help="for a document, not for a screen")
    printed.add_argument("--latex", action="store_true", help="for a paper: booktabs, a table each")
    parser.add_argument("--values", action="store_true", help="every value of each run instead")
    parser.add_argument("--csv", type=Path, metavar="FILE", help=SHAPE)
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="one page with tables, figures and each run's verdict and why; needs no network",
    )
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="the figures as PNG files")
    parser.add_argument("--force", action="store_true", help="replace files that are not ours")
    options = parser.parse_args(arguments)
    if options.values and options.latex:
        parser.error("--values are for a screen or --markdown")
    try:
        if options.values:
            print_values(sheets(options.folders), options.markdown)
        if not options.values or options.csv or options.html or options.figures:
            _report(options)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _report(options: argparse.Namespace) -> None:
    found = tables(find(options.folders))
    for sentence in (one for table in found for one in table.left_out):
        sys.stderr.write(f"{sentence}\n")
    contents: list[tuple[Path, bytes]] = []
    if options.csv:
        contents.append((options.csv, as_csv(found).encode()))
    if options.html or options.figures:
        training = find_training(options.folders)
        pictures = {table.setting: drawings(table, training) for table in found}
        if options.html:
            contents.append((options.html, as_html(found, pictures).encode()))
        if options.figures:
            for setting, one in ((name, one) for name, each in pictures.items() for one in each):
                if one.png:
                    contents.append((options.figures / f"{one.name}.png", one.png))
                else:
                    sys.stderr.write(f"{setting}: {one.caption}\n")
    output.write(contents, options.force)
    if options.latex:
        sys.stdout.write(as_latex(found))
    elif not options.values:
        print_tables(found, options.markdown)
    for path, _ in contents:
        sys.stderr.write(f"wrote {path}\n")
