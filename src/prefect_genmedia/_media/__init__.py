"""Media files: what is in them, where they go, and downloads that are not published yet."""
