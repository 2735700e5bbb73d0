"""Hostile inputs, kills, lying simulators and shared directories: ``make fuzz``.

Every area is a module with a class that attacks one side of the package and says of every attempt
what became of it (:mod:`fuzz.harness`): a clear error, a run, or something bad. Attempt ``n`` of
an area depends on the seed and ``n`` only, so that any of them can be had again::

    make fuzz SEED=7 FUZZ="--area readers --case 123"

To add a reader: one line in the table of ``readers.py``. To add a command: one in ``commands.py``.
"""
