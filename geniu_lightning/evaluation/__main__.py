"""The old form of `geniu evaluate`."""

from geniu_lightning.errors import refuse_old_form

refuse_old_form("evaluate")
