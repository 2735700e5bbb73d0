"""Asking memory for what will be needed soon, in kernels whose data outgrow the caches.

A processor looks ahead some hundred instructions. What is longer than that between two places in
memory waits for each of them, unless they are asked for before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import obstacle

__all__ = ["ask", "fetch"]

LINE = 8
"""Numbers of a line of a cache, or fewer."""


def ask(builder: Any, pointer: Any) -> None:  # noqa: ANN401 - llvmlite has no types
    """Write the instruction, for a pointer to anything."""
    from llvmlite import ir
    from numba.core import cgutils

    number, anything = ir.IntType(32), ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [anything, number, number, number])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    to_read, near, data = (ir.Constant(number, n) for n in (0, 3, 1))
    builder.call(function, [builder.bitcast(pointer, anything), to_read, near, data])


def _fetch() -> Any:  # noqa: ANN401 - numba's own
    if obstacle() is not None:

        def nothing(values: NDArray[np.float64], first: int, last: int) -> None:
            """Nothing to be done: results are the same."""

        return nothing
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        first, last = arguments[1:]
        step = ir.Constant(first.type, LINE)
        with cgutils.for_range_slice(builder, first, last, step, intp=first.type) as (place, _):
            ask(builder, builder.gep(data, [place]))
        return context.get_dummy_value()

    def fetched(typing: Any, values: Any, first: Any, last: Any) -> Any:  # noqa: ANN401
        return types.void(values, types.intp, types.intp), generate

    return intrinsic(fetched)


fetch = _fetch()
"""``fetch(values, first, last)``: that these numbers of a flat array will be read soon."""
