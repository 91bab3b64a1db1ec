"""The old form of `geniu dashboard`."""

from geniu_lightning.errors import refuse_old_form

refuse_old_form("dashboard")
