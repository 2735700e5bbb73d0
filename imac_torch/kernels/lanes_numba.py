"""What numba must know of :mod:`imac_torch.kernels.lanes`: a type that is a vector of LLVM's."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import (
    AbstractTemplate,
    ConcreteTemplate,
    infer_global,
    signature,
)
from numba.extending import lower_builtin, models, register_model
from numba.np.arrayobj import make_array


class LanesType(types.Type):
    """Numbers of some images."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(name=f"Lanes({count})")


@register_model(LanesType)
class LanesModel(models.PrimitiveModel):
    """As LLVM has them."""

    def __init__(self, manager: Any, of: LanesType) -> None:
        super().__init__(manager, of, ir.VectorType(ir.DoubleType(), of.count))


def _spread(builder: Any, value: Any, count: int) -> Any:
    """A number in all lanes; lanes as they are."""
    if isinstance(value.type, ir.VectorType):
        return value
    vector = ir.VectorType(ir.DoubleType(), count)
    nowhere = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(nowhere, value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count)
    return builder.shuffle_vector(first, nowhere, zeros)


def register(count: int, **functions: Callable[..., Any]) -> None:
    """Compile operators of lanes, and these functions of them.

    Args:
        count: Of images.
        functions: By the names that they have below.
    """
    lanes, number = LanesType(count), types.float64
    words = ir.VectorType(ir.IntType(64), count)

    def define(function: Any, emit: Callable[..., Any], result: Any, *cases: Any) -> None:
        """``emit(builder, *values)`` for arguments of these types."""

        def lowered(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return emit(builder, *args)

        signatures = [signature(result, *case) for case in cases]
        infer_global(function)(type("Of_lanes", (ConcreteTemplate,), {"cases": signatures}))
        for case in cases:
            lower_builtin(function, *case)(lowered)

    def arithmetic(name: str) -> Callable[..., Any]:
        return lambda builder, a, b: getattr(builder, name)(
            _spread(builder, a, count), _spread(builder, b, count)
        )

    for name, emit in (("add", "fadd"), ("sub", "fsub"), ("mul", "fmul"), ("truediv", "fdiv")):
        for function in (getattr(operator, name), getattr(operator, "i" + name)):
            define(
                function, arithmetic(emit), lanes, (lanes, lanes), (lanes, number), (number, lanes)
            )

    def absolute(builder: Any, a: Any) -> Any:
        bits = builder.and_(builder.bitcast(a, words), ir.Constant(words, [2**63 - 1] * count))
        return builder.bitcast(bits, a.type)

    def choose(builder: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", a, b), yes, no)

    def beyond(builder: Any, a: Any, limit: Any) -> Any:
        which = builder.fcmp_ordered(">", a, _spread(builder, limit, count))
        bits = builder.bitcast(which, ir.IntType(count))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    def scaled(builder: Any, a: Any, shifted: Any) -> Any:
        bits = builder.add(builder.bitcast(shifted, words), ir.Constant(words, [1023] * count))
        bits = builder.shl(bits, ir.Constant(words, [52] * count))
        return builder.fmul(a, builder.bitcast(bits, a.type))

    define(abs, absolute, lanes, (lanes,))
    define(operator.neg, lambda builder, a: builder.fneg(a), lanes, (lanes,))
    define(functions["same"], lambda builder, a: _spread(builder, a, count), lanes, (number,))
    define(functions["choose"], choose, lanes, (lanes, lanes, lanes, lanes))
    define(functions["beyond"], beyond, types.boolean, (lanes, number))
    define(functions["scaled"], scaled, lanes, (lanes, lanes))

    def place(context: Any, builder: Any, array: Any, value: Any, index: Any) -> Any:
        data = make_array(array)(context, builder, value).data
        offset = builder.mul(index, ir.Constant(index.type, count))
        pointer = ir.VectorType(ir.DoubleType(), count).as_pointer()
        return builder.bitcast(builder.gep(data, [offset]), pointer)

    class Load(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            return signature(lanes, args[0], types.intp)

    class Store(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            return signature(types.void, args[0], types.intp, lanes)

    class Number(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            return signature(number, args[0], types.intp)

    infer_global(functions["number"])(Number)
    infer_global(functions["load"])(Load)
    infer_global(functions["store"])(Store)

    @lower_builtin(functions["load"], types.Array, types.intp)
    def load(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        found = builder.load(place(context, builder, sig.args[0], args[0], args[1]))
        found.align = 8
        return found

    @lower_builtin(functions["number"], types.Array, types.intp)
    def one(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = make_array(sig.args[0])(context, builder, args[0]).data
        return builder.load(builder.gep(data, [args[1]]))

    @lower_builtin(functions["store"], types.Array, types.intp, lanes)
    def store(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = place(context, builder, sig.args[0], args[0], args[1])
        builder.store(args[2], pointer).align = 8
        return context.get_dummy_value()
