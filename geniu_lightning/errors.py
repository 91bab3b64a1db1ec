"""What a person asked for that cannot work: told in one sentence, exit status 2."""

import sys
from typing import NoReturn


class UserError(Exception):
    """A request that cannot be carried out; the message is the one sentence its reader needs.

    It may quote a stranger's file, so what would disturb a terminal is escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def first_line(error: Exception) -> str:
    """Return the first line of a library's message, cut, or the error's type where it has none."""
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__


def printable(text: str) -> str:
    """Return a text on one line, with everything escaped that is no printable character."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


class DataNotFoundError(UserError):
    """The images are neither at the local place nor at the remote one."""


class AccessError(UserError):
    """A method asked for training images that it did not declare."""


class KitError(UserError):
    """A file is no kit, is damaged, or holds what may not be loaded."""


class TrainingDivergedError(UserError):
    """The loss stopped being a finite number."""


class BusyError(UserError):
    """Another process is at work in the same folder."""


class SettingError(UserError):
    """A setting holds what it may not, or does not exist.

    Args:
        message: What it must be and what it is, without its name.
        key: Name of the setting; empty if the message names it.
    """

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(f"{key} {message}" if key else message)
        self.message = message
        self.key = key

    def below(self, prefix: str) -> "SettingError":
        """Return the same error with the path of the settings group before the name."""
        return SettingError(self.message, f"{prefix}.{self.key}" if self.key else "")


class Terminated(KeyboardInterrupt):
    """The system asked the process to end (SIGTERM): what Ctrl-C ends ends by it, too."""


def refuse_old_form(command: str) -> NoReturn:
    """End `python -m geniu_lightning.<command>`, which older versions had, with the new form."""
    sys.stderr.write(f"error: this command is now `geniu {command}`, with the same arguments\n")
    sys.exit(2)
