"""The software model that a circuit is made of: what its modules compute, as they are now."""
