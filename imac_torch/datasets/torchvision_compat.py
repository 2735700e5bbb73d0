"""Import torchvision although its compiled operators do not fit the installed torch.

torchvision's wheels on the usual package index are linked against a CUDA build of torch. Beside a
CPU build its shared library does not load, torchvision goes on without operators, and then fails
on registering shape functions for two of them: ``operator torchvision::nms does not exist``.
Data sets and transforms need none of these operators, so declaring their signatures is enough.
"""

from __future__ import annotations

import importlib
import re
import sys
from types import ModuleType
from typing import Final

import torch

__all__ = ["import_torchvision"]

# Signatures after torchvision 0.28's own operator documentation (``torchvision.ops.nms``: boxes,
# scores, IoU threshold -> kept indices). Without a kernel behind them, calling the operators still
# raises an error.
_SCHEMAS: Final = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_MISSING: Final = re.compile(r"operator torchvision::(\w+) does not exist")

# torch forgets a declaration together with the Library object that made it.
_declared: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Import torchvision, declaring the operators that its shared library failed to declare.

    Nothing is declared if torchvision imports as it is. If it fails for any other reason than
    those missing operators, its own error is passed on.

    Returns:
        The module ``torchvision``, with ``torchvision.datasets`` and ``torchvision.transforms``.

    Raises:
        ImportError: torchvision is not installed, or cannot be imported.
        RuntimeError: torchvision failed in another way while it was imported.
    """
    while True:
        if "torchvision" not in sys.modules:
            # What an earlier attempt imported halfway must run again from the start.
            for name in [name for name in sys.modules if name.startswith("torchvision.")]:
                del sys.modules[name]
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            match = _MISSING.search(str(error))
            if match is None or match[1] not in _SCHEMAS or _is_declared(match[1]):
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(_SCHEMAS[match[1]])
            _declared.append(library)


def _is_declared(name: str) -> bool:
    return hasattr(torch.ops.torchvision, name)
