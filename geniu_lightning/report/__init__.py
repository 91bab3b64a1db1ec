"""From metrics.json files to tables, figures and a page: reads no model and no image data."""
