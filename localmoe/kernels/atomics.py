"""Atomic operations on int64 in shared memory, as numba intrinsics. Addresses are int64."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from localmoe.kernels.simd import FORM, define

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _at(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, _I64.as_pointer())


def _swap(builder: Any, address: Any, expected: Any, value: Any) -> Any:
    pair = builder.cmpxchg(_at(builder, address), expected, value, "acq_rel", "acquire")
    return builder.zext(builder.extract_value(pair, 1), _I64)


load_acquire = define(types.int64(types.int64), lambda b, a: b.load_atomic(_at(b, a), "acquire", 8))
store_release = define(
    types.none(types.int64, types.int64), lambda b, a, v: b.store_atomic(v, _at(b, a), "release", 8)
)
fetch_add = define(
    types.int64(types.int64, types.int64), lambda b, a, v: b.atomic_rmw("add", _at(b, a), v, "acq_rel")
)
compare_and_swap = define(types.int64(types.int64, types.int64, types.int64), _swap)
compare_and_swap.__doc__ = "1 if the value at the address was `expected` and is now `value`, else 0."


def _pause(builder: Any) -> None:
    """Tells the core that this is a waiting loop; on other machines than x86 and ARM it is nothing."""
    if FORM in ("amx", "avx512vnni", "avxvnni", "avx2"):
        builder.call(_function(builder, "llvm.x86.sse2.pause", []), [])
    elif FORM == "neon":
        builder.call(_function(builder, "llvm.aarch64.hint", [_I32]), [ir.Constant(_I32, 1)])  # yield


def _function(builder: Any, name: str, arguments: list[Any]) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), arguments), name)


pause = define(types.none(), _pause)


pointer = define(types.voidptr(types.int64), lambda b, a: b.inttoptr(a, ir.IntType(8).as_pointer()))
pointer.__doc__ = "An address as numba's `carray` takes it."


@intrinsic
def call_task(typingctx: Any, function: Any, args: Any, item: Any, worker: Any) -> Any:
    """Calls the compiled task at address `function` with (args, item, worker)."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_I64, _I64, _I64])
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def call_start(typingctx: Any, function: Any, args: Any, item: Any) -> Any:
    """What the compiled function at address `function` returns for (args, item): see `kernels.starts`."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(_I64, [_I64, _I64])
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])

    return types.int64(types.int64, types.int64, types.int64), codegen
