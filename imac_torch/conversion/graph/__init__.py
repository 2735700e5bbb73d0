"""Models that are no chain of modules: traced, cut into segments, put together again."""
