"""Compiled CPU kernels; numba is imported only by the modules that are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from imac_torch.errors import SolverError
from imac_torch.kernels.compiled import obstacle

if TYPE_CHECKING:
    from torch import Tensor

Kernel: TypeAlias = Literal["auto", "torch", "numba"]
"""What shall run the arithmetic; "auto" takes the faster one that can."""


def choose_kernel(kernel: Kernel, tensor: Tensor) -> Literal["torch", "numba"]:
    """What ``kernel`` ("auto", "torch" or "numba") means for a tensor's device and dtype.

    "auto" is numba for float64 on the CPU where numba can be used, and torch otherwise.

    Raises:
        SolverError: The name is unknown, or numba is asked for where it cannot be used.
    """
    if kernel not in ("auto", "torch", "numba"):
        raise SolverError(f'kernel = {kernel!r} is not one of "auto", "torch", "numba"')
    if kernel == "torch":
        return "torch"
    import torch  # kernels do without, and so does the process that compiles some ahead

    problem = None
    if tensor.device.type != "cpu":
        problem = f"the conductances are on {tensor.device}"
    elif tensor.dtype != torch.float64:
        problem = f"the conductances are {tensor.dtype}, not torch.float64"
    else:
        problem = obstacle()
    if problem is None:
        return "numba"
    if kernel == "numba":
        raise SolverError(f'kernel = "numba" cannot be used: {problem}; use "auto" or "torch"')
    return "torch"
