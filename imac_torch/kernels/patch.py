"""One cell of two bicubic spline tables in vector instructions.

Numba vectorises loops, but the 4×4×2 coefficients of a cell are no loop worth the name: they are
eight vectors' worth of arithmetic. So this writes the vectors out, in LLVM's own terms, which fit
every processor (eight numbers are one, two or four registers). As loops in numba, networks of
FinFETs take 9 % longer (4000 images of 400-120-84-10, one thread, interleaved).

Numba's cache does not see changes of this file: delete ``__pycache__`` of the kernels that use it.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_WIDTH: Final = 8
"""Four columns of two tables."""
_BASIS: Final = (
    (1 / 6, -1 / 2, 1 / 2, -1 / 6),
    (2 / 3, 0.0, -1.0, 1 / 2),
    (1 / 6, 1 / 2, 1 / 2, -1 / 2),
    (0.0, 0.0, 0.0, 1 / 6),
)
"""Cubic B-splines on a cell, by powers of the place in it; de Boor, "A Practical Guide to
Splines", ch. IX, on uniform knots."""
_VECTOR: Final = ir.VectorType(ir.DoubleType(), _WIDTH)
_INT: Final = ir.IntType(32)
_FUSED: Final = ("contract",)
"""Products and sums in one instruction."""


def _indices(values: list[int]) -> Any:  # noqa: ANN401 - llvmlite has no types
    return ir.Constant(ir.VectorType(_INT, len(values)), values)


def _splat(builder: Any, value: Any) -> Any:  # noqa: ANN401
    """A number in all elements."""
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    single = builder.insert_element(undefined, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(single, undefined, _indices([0] * _WIDTH))


def _polynomial(builder: Any, place: Any, factors: list[float]) -> Any:  # noqa: ANN401
    """Σ factors[k]·(coefficient of power k)·place^(k - first power), for each column's spline."""
    total = None
    for power in range(3, 3 - len(factors), -1):
        factor = factors[power - 3 - 1 + len(factors)]
        term = ir.Constant(_VECTOR, [factor * _BASIS[k // 2][power] for k in range(_WIDTH)])
        if total is None:
            total = term
        else:
            product = builder.fmul(total, place, flags=_FUSED)
            total = builder.fadd(product, term, flags=_FUSED)
    return total


def _weigh(builder: Any, weights: list[Any], rows: list[Any]) -> Any:  # noqa: ANN401
    total = builder.fmul(weights[0], rows[0], flags=_FUSED)
    for weight, row in zip(weights[1:], rows[1:], strict=True):
        product = builder.fmul(weight, row, flags=_FUSED)
        total = builder.fadd(total, product, flags=_FUSED)
    return total


def _columns_sum(builder: Any, vector: Any) -> list[Any]:  # noqa: ANN401
    """The sum over the columns, of each table."""
    for size in (4, 2):
        low, high = (
            builder.shuffle_vector(vector, vector, _indices(list(range(first, first + size))))
            for first in (0, size)
        )
        vector = builder.fadd(low, high)
    return [builder.extract_element(vector, ir.Constant(_INT, table)) for table in range(2)]


def _generator(*, across: bool, along: bool) -> Any:  # noqa: ANN401
    """What writes the instructions, with these derivatives or without."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        _, corner, step, _, place, weights, results, stride = arguments
        coefficients, work = (
            context.make_array(signature.args[k])(context, builder, arguments[k]).data
            for k in (0, 3)
        )

        def item(first: Any, number: int) -> Any:  # noqa: ANN401
            away = builder.mul(stride, ir.Constant(stride.type, number))
            return builder.gep(work, [builder.add(first, away)])

        rows = []
        for _k in range(4):
            pointer = builder.bitcast(builder.gep(coefficients, [corner]), _VECTOR.as_pointer())
            rows.append(builder.load(pointer, align=8))
            corner = builder.add(corner, step)
        known = 8 if across else 4
        splats = [_splat(builder, builder.load(item(weights, k))) for k in range(known)]
        value = _weigh(builder, splats[:4], rows)
        t = _splat(builder, builder.load(builder.gep(work, [place])))
        splines = _polynomial(builder, t, [1.0, 1.0, 1.0, 1.0])
        pairs = [(value, splines)]
        if across:
            pairs.append((_weigh(builder, splats[4:], rows), splines))
        if along:
            pairs.append((value, _polynomial(builder, t, [1.0, 2.0, 3.0])))
        for k, pair in enumerate(pairs):
            for number, total in enumerate(_columns_sum(builder, builder.fmul(*pair))):
                builder.store(total, item(results, len(pairs) * number + k))
        return context.get_dummy_value()

    return generate


def _bicubic_patch(
    _: Any, table: Any, corner: Any, step: Any, scratch: Any,  # noqa: ANN401
    place: Any, weights: Any, results: Any, stride: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Both tables' values and derivatives at one point; of its row, all weights are given.

    Called in kernels as ``bicubic_patch(table, corner, step, scratch, place, weights, results,
    stride)``; the arrays are contiguous and float64, the indices are uint64 into them.

    Args:
        _: Numba's.
        table: Coefficients, row-major, of both tables, interleaved.
        corner: Of the point's 4×4 coefficients.
        step: From row to row.
        scratch: What follows is in it, ``stride`` apart.
        place: The place in the cell, along the columns, in [0, 1].
        weights: The four splines across the rows, and their four slopes.
        results: Written, for the first table and then for the second: value, derivative across
            the rows, derivative along the columns in units of one node distance.
        stride: Between the items of ``weights`` and of ``results``.
    """
    signature = types.void(table, corner, step, scratch, place, weights, results, stride)
    return signature, _generator(across=True, along=True)


def _row_patch(
    _: Any, table: Any, corner: Any, step: Any, scratch: Any,  # noqa: ANN401
    weights: Any, stride: Any, results: Any, first: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Both tables' coefficients along the columns at one point of the other axis.

    Called as ``row_patch(table, corner, step, scratch, weights, stride, results, first)``.

    Args:
        _: Numba's.
        table: As of :data:`bicubic_patch`.
        corner: Likewise.
        step: Likewise.
        scratch: Weights are in it, ``stride`` apart.
        weights: The four splines across the rows.
        stride: Between them.
        results: Written: four pairs.
        first: Where they begin.
    """
    signature = types.void(table, corner, step, scratch, weights, stride, results, first)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        _, corner, step, _, weights, stride, _, first = arguments
        coefficients, work, results = (
            context.make_array(signature.args[k])(context, builder, arguments[k]).data
            for k in (0, 3, 6)
        )
        rows, splats = [], []
        for _k in range(4):
            pointer = builder.bitcast(builder.gep(coefficients, [corner]), _VECTOR.as_pointer())
            rows.append(builder.load(pointer, align=8))
            splats.append(_splat(builder, builder.load(builder.gep(work, [weights]))))
            corner, weights = builder.add(corner, step), builder.add(weights, stride)
        pointer = builder.bitcast(builder.gep(results, [first]), _VECTOR.as_pointer())
        builder.store(_weigh(builder, splats, rows), pointer, align=8)
        return context.get_dummy_value()

    return signature, generate


def _value_patch(
    _: Any, table: Any, corner: Any, step: Any, scratch: Any,  # noqa: ANN401
    place: Any, weights: Any, results: Any, stride: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """As :data:`bicubic_patch`, values alone."""
    signature = types.void(table, corner, step, scratch, place, weights, results, stride)
    return signature, _generator(across=False, along=False)


bicubic_patch: Any = intrinsic(_bicubic_patch)
row_patch: Any = intrinsic(_row_patch)
value_patch: Any = intrinsic(_value_patch)
