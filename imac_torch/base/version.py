"""The version of this code, which need not be what was once installed."""

from __future__ import annotations

from typing import Final

__all__ = ["VERSION"]

VERSION: Final = "0.2.0.dev0"
