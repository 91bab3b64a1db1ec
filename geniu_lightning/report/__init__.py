"""From metrics.json files to tables, figures and a page; no model and no image data is read."""
