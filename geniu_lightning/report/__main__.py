"""The old form of `geniu report`."""

from geniu_lightning.errors import refuse_old_form

refuse_old_form("report")
