"""Run by itself: `simd_lower.py FORM TRIPLE CPU FEATURES` prints the assembly of every SIMD intrinsic.

The form is forced by assignment before anything is emitted, so forms of machines other than this one can be
compiled, though not run. Intrinsics are emitted into plain LLVM functions, without numba's pipeline, which
compiles for the host.
"""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import binding as llvm
from llvmlite import ir
from numba import types

from localmoe.kernels import (
    atomics,
    simd,
    simd_amx,
    simd_bits,
    simd_blocks,
    simd_dot,
    simd_formats,
    simd_quad,
    simd_tile,
)

SCALARS = {
    types.int64: ir.IntType(64),
    types.uint32: ir.IntType(32),
    types.float32: ir.FloatType(),
    types.voidptr: ir.IntType(8).as_pointer(),
    types.none: ir.VoidType(),
}
OWNERS = (simd, simd_bits, simd_blocks, simd_dot, simd_formats, simd_quad, simd_tile, atomics)


class Context:
    """What emitting needs of numba's target context: the value of None."""

    def get_dummy_value(self) -> None:
        return None


def lowered(kind: Any) -> Any:
    if isinstance(kind, simd.Vector):
        return kind.llvm
    if isinstance(kind, types.BaseTuple):
        return ir.ArrayType(lowered(kind.dtype), len(kind))
    return SCALARS[kind]


def emit(module: ir.Module, name: str, intrinsic: Any) -> None:
    """A function that calls the intrinsic. Vectors come and go by address, as no ABI fits them all."""
    define = intrinsic._defn
    arity = define.__code__.co_argcount - 1
    signature, codegen = define(None, *[None] * arity)
    kinds, result = [lowered(a) for a in signature.args], lowered(signature.return_type)
    pointers = [k.as_pointer() for k in [*kinds, ir.IntType(8) if result == ir.VoidType() else result]]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), pointers), "probe_" + name)
    builder = ir.IRBuilder(function.append_basic_block())
    value = codegen(Context(), builder, signature, [builder.load(a) for a in function.args[:-1]])
    if value is not None and result != ir.VoidType():
        builder.store(value, function.args[-1])
    builder.ret_void()


def main(form: str, triple: str, cpu: str, features: str) -> None:
    for owner in OWNERS:
        owner.FORM, owner.AVX512 = form, form in ("amx", "avx512vnni")
        owner.GFNI = owner.VBMI = form == "avx512vnni" and "+gfni" in features
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, opt=3)
    module = ir.Module("probe")
    module.triple, module.data_layout = triple, str(machine.target_data)
    for owner in [*OWNERS, simd_amx] if form == "amx" else OWNERS:  # other CPUs have no such instructions
        for name, value in vars(owner).items():
            new = f"probe_{name}" not in module.globals
            if type(value).__name__ == "_Intrinsic" and name != "call_task" and new:
                emit(module, name, value)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    print(machine.emit_assembly(parsed))


if __name__ == "__main__":
    main(*sys.argv[1:5])
