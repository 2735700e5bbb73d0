"""Circuit-accurate simulation of in-memory analog computing circuits for PyTorch models."""

__version__ = "0.1.0"
