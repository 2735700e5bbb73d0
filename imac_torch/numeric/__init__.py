"""Numerical tools that know nothing of circuits."""
