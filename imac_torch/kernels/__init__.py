"""Compiled CPU kernels; numba is imported only by the modules that are asked for."""

from __future__ import annotations

import importlib.util
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from imac_torch.errors import SolverError

Kernel: TypeAlias = Literal["auto", "torch", "numba"]
"""What shall run the arithmetic; "auto" takes the faster one that can."""


def choose_kernel(kernel: Kernel, tensor: Tensor) -> Literal["torch", "numba"]:
    """What ``kernel`` ("auto", "torch" or "numba") means for a tensor's device and dtype.

    "auto" is numba for float64 on the CPU where numba is installed, and torch otherwise.

    Raises:
        SolverError: The name is unknown, or numba is asked for where it cannot be used.
    """
    if kernel not in ("auto", "torch", "numba"):
        raise SolverError(f'kernel = {kernel!r} is not one of "auto", "torch", "numba"')
    if kernel == "torch":
        return "torch"
    obstacle = None
    if tensor.device.type != "cpu":
        obstacle = f"the conductances are on {tensor.device}"
    elif tensor.dtype != torch.float64:
        obstacle = f"the conductances are {tensor.dtype}, not torch.float64"
    elif importlib.util.find_spec("numba") is None:
        obstacle = "numba is not installed"
    if obstacle is None:
        return "numba"
    if kernel == "numba":
        raise SolverError(f'kernel = "numba" cannot be used: {obstacle}; use "auto" or "torch"')
    return "torch"
