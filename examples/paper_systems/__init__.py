"""The systems of the papers behind this package; ``examples/papers.py`` is their command line."""
