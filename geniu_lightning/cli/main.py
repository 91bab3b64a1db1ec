"""The console command `geniu`: its first word names the command."""

import sys
from importlib import import_module

COMMANDS = {
    "train": "train a classifier and its kit",
    "unlearn": "make a classifier forget classes, from its kit",
    "evaluate": "tell whether the classes are gone from weights, whoever made them",
    "report": "compare finished runs in tables, figures and a page",
    "kit": "show what a kit holds",
    "dashboard": "make a wandb workspace that compares runs",
}


def main() -> None:
    """Run the command that the first word names; its other words are the command's own."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        sys.argv = [f"geniu {name}", *sys.argv[2:]]
        sys.exit(import_module(f"geniu_lightning.cli.{name}").main())
    usage = "\n".join(f"  geniu {command:10} {what}" for command, what in COMMANDS.items())
    if name in ("-h", "--help"):
        sys.stdout.write(f"Usage:\n{usage}\n\n'geniu COMMAND --help' lists its settings.\n")
        sys.exit(0)
    sys.stderr.write(f"error: there is no command {name!r}; there are {', '.join(COMMANDS)}\n")
    sys.exit(2)
