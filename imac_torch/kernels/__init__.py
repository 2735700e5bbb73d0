"""Compiled CPU kernels; numba is imported only by the modules that are asked for."""
