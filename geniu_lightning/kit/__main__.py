"""The old form of `geniu kit`."""

from geniu_lightning.errors import refuse_old_form

refuse_old_form("kit")
