"""``python -m geniu_lightning.report FOLDER …``: what finished runs found, as tables."""

import argparse
import sys
from pathlib import Path

from geniu_lightning.errors import UserError
from geniu_lightning.report.runs import find
from geniu_lightning.report.screen import print_tables, print_values
from geniu_lightning.report.tables import tables
from geniu_lightning.report.values import sheets


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m geniu_lightning.report", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders of them")
    parser.add_argument("--markdown", action="store_true", help="for a document, not for a screen")
    parser.add_argument("--values", action="store_true", help="every value of each run instead")
    options = parser.parse_args(arguments)
    try:
        if options.values:
            print_values(sheets(options.folders), options.markdown)
        else:
            print_tables(tables(find(options.folders)), options.markdown)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
