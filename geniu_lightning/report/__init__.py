"""From metrics.json files to tables: reads no model and no image."""
