"""Crossbars eliminated to their ports, exactly."""
