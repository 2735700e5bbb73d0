"""What becomes of results when something ends a run midway."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from imac_torch.errors import ImacError
from imac_torch.reports.model_report import ModelReport
from imac_torch.reports.report import Report

__all__ = ["keeping"]


@contextmanager
def keeping(
    done: Callable[[], int], report: Callable[[str], Report | ModelReport]
) -> Iterator[None]:
    """Let whatever ends a run midway carry the report of what was finished before it.

    That is an exception of any kind, or Ctrl-C; its ``report`` is it. Errors of ours also say so.

    Args:
        done: How many samples are finished; with none there is no report.
        report: Of those, told what ended the run.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if done():
            with contextlib.suppress(Exception):  # the error that stopped it is the one to be told
                error.report = report(f"{type(error).__name__}: {error}")  # type: ignore[union-attr]
                if isinstance(error, ImacError):
                    error.args = (
                        f"{error}; {done()} samples were finished before: error.report",
                    )
        raise
