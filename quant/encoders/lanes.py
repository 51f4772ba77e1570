"""Sixteen float32 side by side: a numba type that is an LLVM vector, its operators, and a few functions.

The encoders give each (sub-)block a lane and walk through the blocks' weights in step, so that sums and
maxima over a block need no shuffling. LLVM splits the vectors on machines that have narrower ones.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 16
_F32, _I32, _I8 = ir.FloatType(), ir.IntType(32), ir.IntType(8)
_VECTOR = ir.VectorType(_F32, LANES)


class _Lanes(types.Type):  # type: ignore[misc]  # numba carries no types
    def __init__(self) -> None:
        super().__init__(name="lanes<16 x f32>")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]  # numba carries no types
    def __init__(self, manager: Any, kind: _Lanes) -> None:
        super().__init__(manager, kind, _VECTOR)


lanes = _Lanes()


def _operator(function: Any, emit: str) -> None:
    """Teach numba `lanes <operator> lanes`."""

    @infer_global(function)
    class _Typing(ConcreteTemplate):  # type: ignore[misc]  # numba carries no types
        cases = [signature(lanes, lanes, lanes)]  # noqa: RUF012 (numba reads it off the class)

    @lower_builtin(function, lanes, lanes)
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, emit)(*args)


for _function, _emit in (
    (operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv"),
):  # fmt: skip
    _operator(_function, _emit)


def _define(result: Any, *arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """An intrinsic of fixed types, from a function that emits its LLVM value."""

    def decorate(emit: Callable[..., Any]) -> Any:
        def typed() -> tuple[Any, Any]:
            def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                value = emit(builder, *args)
                return context.get_dummy_value() if result is types.none else value

            return result(*arguments), codegen

        # numba reads the number of arguments off the function
        shapes: dict[int, Callable[..., Any]] = {
            1: lambda typingctx, a: typed(),
            2: lambda typingctx, a, b: typed(),
            3: lambda typingctx, a, b, c: typed(),
            4: lambda typingctx, a, b, c, d: typed(),
        }
        return intrinsic(shapes[len(arguments)])

    return decorate


def _call(builder: Any, name: str, *args: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(args))
    return builder.call(
        cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32"), args
    )


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


@_define(lanes, types.intp)
def load(builder: Any, address: Any) -> Any:
    """Sixteen float32 from an address of any alignment."""
    value = builder.load(_pointer(builder, address, _VECTOR))
    value.align = 4
    return value


@_define(lanes, types.intp)
def load_halves(builder: Any, address: Any) -> Any:
    """Sixteen float16."""
    value = builder.load(_pointer(builder, address, ir.VectorType(ir.HalfType(), LANES)))
    value.align = 2
    return builder.fpext(value, _VECTOR)


@_define(types.none, types.intp, lanes)
def store(builder: Any, address: Any, value: Any) -> None:
    builder.store(value, _pointer(builder, address, _VECTOR)).align = 4


@_define(types.none, types.intp, lanes)
def store_bytes(builder: Any, address: Any, value: Any) -> None:
    """Whole numbers from 0 to 255 (or -128 to 127) as sixteen bytes."""
    kind = ir.VectorType(_I8, LANES)
    whole = builder.fptosi(value, ir.VectorType(_I32, LANES))
    builder.store(builder.trunc(whole, kind), _pointer(builder, address, kind)).align = 1


@_define(types.none, types.intp, lanes)
def store_halves(builder: Any, address: Any, value: Any) -> None:
    """As sixteen float16."""
    kind = ir.VectorType(ir.HalfType(), LANES)
    builder.store(builder.fptrunc(value, kind), _pointer(builder, address, kind)).align = 2


@_define(types.none, types.intp, types.float32)
def store_half(builder: Any, address: Any, value: Any) -> None:
    """One number as a float16."""
    builder.store(builder.fptrunc(value, ir.HalfType()), _pointer(builder, address, ir.HalfType())).align = 2


@_define(lanes, types.float32)
def splat(builder: Any, x: Any) -> Any:
    """The same number in every lane."""
    empty = ir.Constant(_VECTOR, ir.Undefined)
    one = builder.insert_element(empty, x, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, empty, ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES))


@_define(lanes, lanes, lanes, lanes)
def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    return _call(builder, "fma", a, b, c)


@_define(lanes, lanes)
def absolute(builder: Any, a: Any) -> Any:
    return _call(builder, "fabs", a)


@_define(lanes, lanes)
def root(builder: Any, a: Any) -> Any:
    return _call(builder, "sqrt", a)


@_define(lanes, lanes)
def rounded(builder: Any, a: Any) -> Any:
    """To the nearest whole number, halves to even."""
    return _call(builder, "rint", a)


@_define(lanes, lanes)
def truncated(builder: Any, a: Any) -> Any:
    """Toward zero."""
    return _call(builder, "trunc", a)


@_define(lanes, lanes, lanes)
def least(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


@_define(lanes, lanes, lanes)
def greatest(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@_define(lanes, lanes, lanes, lanes, lanes)
def where_less(builder: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    """yes where a < b, else no."""
    return builder.select(builder.fcmp_ordered("<", a, b), yes, no)


@_define(types.uint32, lanes, lanes)
def bits_not_less(builder: Any, a: Any, b: Any) -> Any:
    """Sixteen bits, the lowest for the first lane: a >= b."""
    bits = builder.bitcast(builder.fcmp_ordered(">=", a, b), ir.IntType(LANES))
    return builder.zext(bits, _I32)


@_define(types.float32, lanes)
def first(builder: Any, a: Any) -> Any:
    """The first lane."""
    return builder.extract_element(a, ir.Constant(_I32, 0))


def _reduce(builder: Any, name: str, a: Any) -> Any:
    kind = ir.FunctionType(_F32, [_VECTOR])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.{name}.v{LANES}f32")
    return builder.call(function, [a], fastmath=("nnan",))


@_define(types.float32, lanes)
def highest(builder: Any, a: Any) -> Any:
    """The largest lane."""
    return _reduce(builder, "fmax", a)


@_define(types.float32, lanes)
def lowest(builder: Any, a: Any) -> Any:
    """The smallest lane."""
    return _reduce(builder, "fmin", a)


@_define(lanes, lanes)
def inverse(builder: Any, a: Any) -> Any:
    """1 / a, and 0 where a is 0."""
    zero, one = ir.Constant(_VECTOR, [0.0] * LANES), ir.Constant(_VECTOR, [1.0] * LANES)
    return builder.select(builder.fcmp_ordered("==", a, zero), zero, builder.fdiv(one, a))


@_define(lanes, lanes)
def to_half(builder: Any, a: Any) -> Any:
    """Rounded to what a float16 can hold."""
    return builder.fpext(builder.fptrunc(a, ir.VectorType(ir.HalfType(), LANES)), _VECTOR)


def _across(width: int, combine: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
    """Combine the lanes of each group of `width`, and give every lane of the group the result."""

    def emit(builder: Any, a: Any) -> Any:
        step = 1
        while step < width:
            order = ir.Constant(ir.VectorType(_I32, LANES), [i ^ step for i in range(LANES)])
            a = combine(builder, a, builder.shuffle_vector(a, a, order))
            step *= 2
        return a

    return emit


def _add(builder: Any, a: Any, b: Any) -> Any:
    return builder.fadd(a, b)


def _max(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


sum8 = _define(lanes, lanes)(_across(8, _add))
max8 = _define(lanes, lanes)(_across(8, _max))
sum16 = _define(lanes, lanes)(_across(16, _add))
max16 = _define(lanes, lanes)(_across(16, _max))
