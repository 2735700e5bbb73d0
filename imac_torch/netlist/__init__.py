"""Netlists of a circuit for HSPICE and ngspice."""
