"""Noise of circuits: its spectra at an operating point, what it adds up to, and draws of it."""
