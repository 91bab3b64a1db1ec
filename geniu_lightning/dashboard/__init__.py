"""Holds only the old form of `geniu dashboard`; the dashboard is in `tracking`."""
