"""The inner loop of dense kernels: four terms of a product added to a strip of a matrix.

A compiler that is given plain loops has to ask for every row whether the matrices overlap, which
takes as long as 32 columns do, and reads the terms anew for every row. Here a strip of the four
rows on the right stays in registers while the rows on the left go by: that needs vectors by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import obstacle
from imac_torch.kernels.fetch import ask

Array = NDArray[np.float64]
Panel = Callable[[Array, int, int, int, Array, int, Array, int], None]
TERMS = 4
STRIP = 16
"""Numbers of a row that stay in registers, with another row of as many."""


def _plain(lanes: int) -> Panel:
    def panel(
        result: Array, first: int, last: int, j: int, left: Array, k: int, right: Array, p: int
    ) -> None:
        strip = right[p : p + TERMS, j : j + lanes]
        for i in range(first, last):
            result[i, j : j + lanes] += left[i, k : k + TERMS] @ strip

    return panel


def _panel(lanes: int) -> Panel:
    """A function that adds left[i, k..k+4]·right[p..p+4, j..j+lanes] to result[i, j..j+lanes].

    For every i in first..last. ``result`` and ``left`` may be the same matrix, if these columns
    are not those; ``right`` and ``result`` have neighbours of a row side by side.
    """
    if obstacle() is not None:
        return _plain(lanes)
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    vector = ir.VectorType(ir.DoubleType(), lanes)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ANN401
        result, left, right = (
            context.make_array(signature.args[n])(context, builder, values[n]) for n in (0, 4, 6)
        )
        first, last, j, k, p = (values[n] for n in (1, 2, 3, 5, 7))

        def place(array: Any, row: Any, column: Any) -> Any:  # noqa: ANN401
            strides = cgutils.unpack_tuple(builder, array.strides, 2)
            offset = builder.add(builder.mul(row, strides[0]), builder.mul(column, strides[1]))
            return cgutils.pointer_add(builder, array.data, offset)

        def strip(array: Any, row: Any) -> Any:  # noqa: ANN401
            return builder.bitcast(place(array, row, j), vector.as_pointer())

        fused = ("contract",)
        numbers = [ir.Constant(first.type, n) for n in range(TERMS)]
        rows = [builder.load(strip(right, builder.add(p, n)), align=8) for n in numbers]
        zero = ir.Constant(ir.IntType(32), 0)
        mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        with cgutils.for_range(builder, last, start=first, intp=first.type) as loop:
            at = strip(result, loop.index)
            total = builder.load(at, align=8)
            for n, row in zip(numbers, rows, strict=True):
                one = builder.load(place(left, loop.index, builder.add(k, n)), align=8)
                empty = ir.Constant(vector, ir.Undefined)
                one = builder.insert_element(empty, one, zero)
                same = builder.shuffle_vector(one, empty, mask)
                total = builder.fadd(total, builder.fmul(same, row, flags=fused), flags=fused)
            builder.store(total, at, align=8)
        return context.get_dummy_value()

    def panel(
        typing: Any, result: Any, first: Any, last: Any, j: Any, left: Any, k: Any,  # noqa: ANN401
        right: Any, p: Any,  # noqa: ANN401
    ) -> Any:  # fmt: skip  # noqa: ANN401
        arrays = (result, left, right)
        if not all(isinstance(item, types.Array) and item.ndim == 2 for item in arrays):
            return None
        whole = types.intp
        return types.void(result, whole, whole, whole, left, whole, right, whole), generate

    typed: Panel = intrinsic(panel)  # type: ignore[assignment]
    return typed


add_16 = _panel(16)
add_8 = _panel(8)
add_4 = _panel(4)


Rows = Callable[[Array, int, Array, Array], None]


def _rows(lanes: int, count: int) -> Rows:
    """A function that adds left·right to ``count`` rows of result from ``first`` on.

    ``left`` is in strips of :data:`TERMS` columns, (strips, rows, TERMS); sums stay in registers
    while the strips go by. Every element is summed in the order of the columns.
    """
    if obstacle() is not None:

        def plain(result: Array, first: int, left: Array, right: Array) -> None:
            for strip in range(left.shape[0]):
                terms = right[TERMS * strip : TERMS * (strip + 1), :lanes]
                for i in range(first, first + count):
                    result[i, :lanes] += left[strip, i] @ terms

        return plain
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    vector = ir.VectorType(ir.DoubleType(), lanes)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ANN401
        result, left, right = (
            context.make_array(signature.args[n])(context, builder, values[n]) for n in (0, 2, 3)
        )
        first = values[1]

        def place(array: Any, *indices: Any) -> Any:  # noqa: ANN401
            strides = cgutils.unpack_tuple(builder, array.strides, len(indices))
            offset = first.type(0)
            for stride, index in zip(strides, indices, strict=True):
                offset = builder.add(offset, builder.mul(stride, index))
            return cgutils.pointer_add(builder, array.data, offset)

        def strip_of(array: Any, row: Any) -> Any:  # noqa: ANN401
            return builder.bitcast(place(array, row, first.type(0)), vector.as_pointer())

        fused = ("contract",)
        zero = ir.Constant(ir.IntType(32), 0)
        mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        rows = [builder.add(first, first.type(n)) for n in range(count)]
        totals = [cgutils.alloca_once(builder, vector) for _ in rows]
        for row, total in zip(rows, totals, strict=True):
            builder.store(builder.load(strip_of(result, row), align=8), total)
        strips = cgutils.unpack_tuple(builder, left.shape, 3)[0]
        with cgutils.for_range(builder, strips, intp=first.type) as loop:
            # A strip's next rows: strips lie far apart.
            following = builder.add(rows[0], first.type(count))
            ask(builder, place(left, loop.index, following, first.type(0)))
            for n in range(TERMS):
                term = builder.mul(loop.index, first.type(TERMS))
                terms = builder.load(
                    strip_of(right, builder.add(term, first.type(n))), align=8
                )
                for row, total in zip(rows, totals, strict=True):
                    one = builder.load(place(left, loop.index, row, first.type(n)), align=8)
                    empty = ir.Constant(vector, ir.Undefined)
                    one = builder.insert_element(empty, one, zero)
                    same = builder.shuffle_vector(one, empty, mask)
                    product = builder.fmul(same, terms, flags=fused)
                    builder.store(builder.fadd(builder.load(total), product, flags=fused), total)
        for row, total in zip(rows, totals, strict=True):
            builder.store(builder.load(total), strip_of(result, row), align=8)
        return context.get_dummy_value()

    def added(typing: Any, result: Any, first: Any, left: Any, right: Any) -> Any:  # noqa: ANN401
        arrays = (result, left, right)
        if not all(isinstance(item, types.Array) for item in arrays):
            return None
        return types.void(result, types.intp, left, right), generate

    typed: Rows = intrinsic(added)  # type: ignore[assignment]
    return typed


two_rows_16 = _rows(16, 2)
one_row_16 = _rows(16, 1)


Plain = Callable[[Array, int, Array, int, Array, int, int], None]


def _plain_rows(lanes: int, count: int) -> Plain:
    """A function that adds left·right to ``count`` rows of result, over some columns of left.

    ``(result, first, left, row, right, begin, columns)``: result[first + n] += Σ left[row + n, k]
    ·right[begin + k] for k below ``columns``, ``lanes`` wide. Result and right may be one matrix;
    16 sums of a row at a time stay in registers.
    """
    if obstacle() is not None:

        def plain(
            result: Array, first: int, left: Array, row: int, right: Array, begin: int, columns: int
        ) -> None:
            for n in range(count):
                result[first + n, :lanes] += (
                    left[row + n, :columns] @ right[begin : begin + columns, :lanes]
                )

        return plain
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    vector = ir.VectorType(ir.DoubleType(), STRIP)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ANN401
        result, left, right = (
            context.make_array(signature.args[n])(context, builder, values[n]) for n in (0, 2, 4)
        )
        first, row, begin, columns = (values[n] for n in (1, 3, 5, 6))
        whole = columns.type

        def place(array: Any, row: Any, column: Any) -> Any:  # noqa: ANN401
            strides = cgutils.unpack_tuple(builder, array.strides, 2)
            offset = builder.add(builder.mul(strides[0], row), builder.mul(strides[1], column))
            return cgutils.pointer_add(builder, array.data, offset)

        def strip(array: Any, row: Any, lane: int) -> Any:  # noqa: ANN401
            return builder.bitcast(place(array, row, whole(lane)), vector.as_pointer())

        fused = ("contract",)
        zero = ir.Constant(ir.IntType(32), 0)
        mask = ir.Constant(ir.VectorType(ir.IntType(32), STRIP), [0] * STRIP)
        empty = ir.Constant(vector, ir.Undefined)
        rows = [builder.add(first, whole(n)) for n in range(count)]
        factors = [builder.add(row, whole(n)) for n in range(count)]
        for lane in range(0, lanes, STRIP):
            totals = [cgutils.alloca_once(builder, vector) for _ in rows]
            for target, total in zip(rows, totals, strict=True):
                builder.store(builder.load(strip(result, target, lane), align=8), total)
            with cgutils.for_range(builder, columns, intp=whole) as loop:
                terms = builder.load(strip(right, builder.add(begin, loop.index), lane), align=8)
                for factor, total in zip(factors, totals, strict=True):
                    one = builder.load(place(left, factor, loop.index), align=8)
                    same = builder.shuffle_vector(
                        builder.insert_element(empty, one, zero), empty, mask
                    )
                    product = builder.fmul(same, terms, flags=fused)
                    builder.store(builder.fadd(builder.load(total), product, flags=fused), total)
            for target, total in zip(rows, totals, strict=True):
                builder.store(builder.load(total), strip(result, target, lane), align=8)
        return context.get_dummy_value()

    def added(
        typing: Any, result: Any, first: Any, left: Any, row: Any, right: Any, begin: Any,  # noqa: ANN401
        columns: Any,  # noqa: ANN401
    ) -> Any:  # fmt: skip  # noqa: ANN401
        arrays = (result, left, right)
        if not all(isinstance(item, types.Array) and item.ndim == 2 for item in arrays):
            return None
        whole = types.intp
        return types.void(result, whole, left, whole, right, whole, whole), generate

    typed: Plain = intrinsic(added)  # type: ignore[assignment]
    return typed


two_rows_32 = _plain_rows(32, 2)
one_row_32 = _plain_rows(32, 1)
