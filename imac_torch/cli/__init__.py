"""The command line ``imac-torch``."""

from imac_torch.cli.app import app, main

__all__ = ["app", "main"]
