"""A whole run: the loop, its state on disk, previews, the report."""
