"""Slow, obvious solutions that the fast ones are tested against: dense nodal analysis."""
