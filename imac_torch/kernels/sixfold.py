"""One cell of six bicubic spline tables in vector instructions.

As :mod:`imac_torch.kernels.patch` for two; here the functions of a node are a vector.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from imac_torch.kernels.fetch import ask

FUNCTIONS: Final = 6
"""Of a node, side by side."""
_WIDTH: Final = 8
"""Of a vector: those of a node and two of what follows it, which are left alone."""
_VECTOR: Final = ir.VectorType(ir.DoubleType(), _WIDTH)
_INT: Final = ir.IntType(32)


def _six_patch(
    _: Any, table: Any, corner: Any, step: Any, scratch: Any, weights: Any, results: Any,  # noqa: ANN401
    stride: Any, soon: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """All functions' values and derivatives at one point, whose splines are given.

    Args:
        _: Numba's.
        table: Coefficients, row-major, six of a node side by side, and two numbers behind the last.
        corner: Of the point's 4×4 nodes, uint64.
        step: From row to row.
        scratch: What follows is in it, ``stride`` apart.
        weights: The four splines across the rows, their four slopes, and the same along them.
        results: Written: six values, six derivatives across the rows, six along them.
        stride: Between the items of ``weights`` and of ``results``.
        soon: The corner of a point that will be asked for soon.
    """
    signature = types.void(table, corner, step, scratch, weights, results, stride, soon)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        _, corner, step, _, weights, results, stride, soon = arguments
        coefficients, work = (
            context.make_array(signature.args[k])(context, builder, arguments[k]).data
            for k in (0, 3)
        )
        fused = ("contract",)

        def item(first: Any, number: int) -> Any:  # noqa: ANN401
            away = builder.mul(stride, ir.Constant(stride.type, number))
            return builder.gep(work, [builder.add(first, away)])

        def splat(number: int) -> Any:  # noqa: ANN401
            undefined = ir.Constant(_VECTOR, ir.Undefined)
            value = builder.load(item(weights, number))
            single = builder.insert_element(undefined, value, ir.Constant(_INT, 0))
            same = ir.Constant(ir.VectorType(_INT, _WIDTH), [0] * _WIDTH)
            return builder.shuffle_vector(single, undefined, same)

        def add(total: Any, weight: Any, term: Any) -> Any:  # noqa: ANN401
            product = builder.fmul(weight, term, flags=fused)
            return product if total is None else builder.fadd(total, product, flags=fused)

        for _row in range(4):
            for away in (0, 8, 16, 23):
                place = builder.add(soon, ir.Constant(soon.type, away))
                ask(builder, builder.gep(coefficients, [place]))
            soon = builder.add(soon, step)
        a, da = [splat(k) for k in range(4)], [splat(4 + k) for k in range(4)]
        b, db = [splat(8 + k) for k in range(4)], [splat(12 + k) for k in range(4)]
        value, across, along = None, None, None
        for column in range(4):
            here, slope = None, None
            place = builder.add(corner, ir.Constant(corner.type, FUNCTIONS * column))
            for row in range(4):
                pointer = builder.bitcast(
                    builder.gep(coefficients, [place]), _VECTOR.as_pointer()
                )
                node = builder.load(pointer, align=8)
                here, slope = add(here, a[row], node), add(slope, da[row], node)
                place = builder.add(place, step)
            value, across, along = (
                add(value, b[column], here), add(across, b[column], slope),
                add(along, db[column], here),
            )  # fmt: skip
        for k, vector in enumerate((value, across, along)):
            for function in range(FUNCTIONS):
                found = builder.extract_element(vector, ir.Constant(_INT, function))
                builder.store(found, item(results, FUNCTIONS * k + function))
        return context.get_dummy_value()

    return signature, generate


six_patch: Any = intrinsic(_six_patch)
