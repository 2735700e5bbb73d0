"""Converted models as torch modules: analog layers and networks of them."""
