"""`geniu dashboard`: a workspace of wandb that compares runs."""

import argparse
import sys
from collections.abc import Sequence

from geniu_lightning.errors import UserError
from geniu_lightning.tracking.workspace import save, spec_of, workspace_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="geniu dashboard", description="Make a view in wandb that compares runs of a project."
    )
    parser.add_argument("--project", default="geniu", help="as logger.wandb.project (geniu)")
    parser.add_argument("--entity", help="account or team that the project belongs to")
    parser.add_argument("--group", help="show the runs of this wandb group alone, as a sweep's")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the view as JSON; needs no account"
    )
    options = parser.parse_args(arguments)
    try:
        if options.entity is None and not options.dry_run:
            raise UserError("name the account or team: --entity NAME (or look first: --dry-run)")
        workspace = workspace_of(options.project, options.entity or "", options.group)
        sys.stdout.write((spec_of(workspace) if options.dry_run else save(workspace)) + "\n")
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0
