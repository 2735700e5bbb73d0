"""What stands around the arrays. One package per part, in it one file per kind of that part.

A part's class answers whatever anybody has to know of it (solvers, netlists, area, configuration);
it knows no solver and no dialect, so both sides of the package may ask it.
"""
