"""SIMD vectors for numba: types whose data model is an LLVM vector, and intrinsics that emit vector IR.

Kernels are written once, in 64-byte vectors (`i8x64`, `i32x16`, `f32x16`); LLVM splits them for narrower
machines. Only dot products of bytes (`simd_dot`) and table lookups (`simd_formats`) need forms of their own,
because no compiler finds those instructions by itself:

    amx          avx512vnni's, and products of int8 matrices for prefill (`simd_amx`)
    avx512vnni   vpdpbusd, vpdpwssd on 64 bytes  avxvnni    the same on 32 bytes, VEX-coded
    avx2         vpmaddubsw + vpmaddwd           neon       sdot on 16 bytes
    portable     widen, multiply, add: any target

All forms compute the same integers, so results do not depend on the form. Loads and stores take addresses
(int64): a kernel follows an address wherever the bytes are: an array, a mapped file, a slot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from localmoe.errors import UsageError
from localmoe.kernels.half import float_to_half, half_to_float
from quant.compiled import amx_permitted, cpu_name, simd_request

FORMS = ("amx", "avx512vnni", "avxvnni", "avx2", "neon", "portable")
_FEATURES = {
    "amx": ("avx512f", "avx512bw", "avx512vl", "avx512vnni", "amx-tile", "amx-int8"),
    "avx512vnni": ("avx512f", "avx512bw", "avx512vl", "avx512vnni"),
    "avxvnni": ("avx2", "fma", "f16c", "avxvnni"),
    "avx2": ("avx2", "fma", "f16c"),
    "neon": ("neon", "dotprod"),
    "portable": (),
}
# Forms of CPUs that may be named through NUMBA_CPU_NAME; a name that is not here gets the portable form.
_NAMED_CPUS = {
    "haswell": "avx2", "broadwell": "avx2", "skylake": "avx2", "znver2": "avx2", "znver3": "avx2",
    "alderlake": "avxvnni", "raptorlake": "avxvnni",
    "cascadelake": "avx512vnni", "icelake-server": "avx512vnni", "sapphirerapids": "avx512vnni",
    "znver4": "avx512vnni", "znver5": "avx512vnni",
}  # fmt: skip


class SimdError(UsageError):
    """`LOCALMOE_SIMD` names a form that does not exist or that this CPU cannot run."""


def available_forms() -> list[str]:
    """The forms that this CPU can run, best first."""
    features = llvm.get_host_cpu_features()
    forms = [form for form in FORMS if all(features.get(name, False) for name in _FEATURES[form])]
    return [form for form in forms if form != "amx" or amx_permitted()]


def choose_form(request: str | None = None) -> str:
    """The form in force: the one asked for (`LOCALMOE_SIMD`), else the best of the CPU kernels compile
    for.
    """
    request = simd_request() if request is None else request
    if request and request not in FORMS:
        raise SimdError(f"LOCALMOE_SIMD={request}: no such form; choose one of {', '.join(FORMS)}")
    if request and request not in available_forms():
        raise SimdError(f"LOCALMOE_SIMD={request}: this CPU can run only {', '.join(available_forms())}")
    if request:
        return request
    if numba.config.CPU_NAME and cpu_name() not in ("host", llvm.get_host_cpu_name()):
        return _NAMED_CPUS.get(cpu_name(), "portable")
    return available_forms()[0]


FORM = choose_form()  # read once: kernels are compiled for one form per process
AVX512 = FORM in ("amx", "avx512vnni")  # AMX's CPUs have it too, and use it for all but prefill
# Intel's cores have one port for shuffles of 64 bytes.
INTEL_512 = AVX512 and not cpu_name().startswith("znver")


def amd_512_with(feature: str) -> bool:
    """Whether kernels are compiled for one of AMD's CPUs with AVX-512 and this: what LLVM knows by name has
    all; a virtual machine may hide some.
    """
    named = cpu_name() not in ("host", llvm.get_host_cpu_name())
    return AVX512 and not INTEL_512 and (named or llvm.get_host_cpu_features().get(feature, False))

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_F32, _F16 = ir.FloatType(), ir.HalfType()
_SCALARS = {"i8": _I8, "i16": _I16, "i32": _I32, "f16": _F16, "f32": _F32}


class Vector(types.Type):  # type: ignore[misc]  # numba carries no types
    """`n` lanes of `element`."""

    def __init__(self, element: str, n: int) -> None:
        self.element, self.n = element, n
        super().__init__(name=f"vector<{n} x {element}>")

    @property
    def llvm(self) -> ir.VectorType:
        return ir.VectorType(_SCALARS[self.element], self.n)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]  # numba carries no types
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.llvm)


i8x16, i8x32, i8x64 = (Vector("i8", n) for n in (16, 32, 64))
i16x8, i16x16, i16x32 = (Vector("i16", n) for n in (8, 16, 32))
i32x4, i32x8, i32x16 = (Vector("i32", n) for n in (4, 8, 16))
f32x4, f32x16 = Vector("f32", 4), Vector("f32", 16)


def _lanes(indices: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(_I32, len(indices)), indices)


def _shuffle(builder: Any, a: Any, b: Any, indices: list[int]) -> Any:
    return builder.shuffle_vector(a, b, _lanes(indices))


def _splat(builder: Any, scalar: Any, n: int) -> Any:
    empty = ir.Constant(ir.VectorType(scalar.type, n), ir.Undefined)
    return _shuffle(builder, builder.insert_element(empty, scalar, ir.Constant(_I32, 0)), empty, [0] * n)


def _constant(kind: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _call(builder: Any, name: str, result: Any, *args: Any) -> Any:
    signature = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), args)


def define(signature: Any, emit: Callable[..., Any]) -> Any:
    """An intrinsic of fixed signature: `emit(builder, *llvm_values)` returns the LLVM value of the result."""
    arity = len(signature.args)

    def typed(*arguments: Any) -> tuple[Any, Any]:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            value = emit(builder, *args)
            return context.get_dummy_value() if signature.return_type == types.none else value

        return signature, codegen

    # numba reads the number of arguments off the function, so each arity needs its own.
    shapes: dict[int, Callable[..., Any]] = {
        0: lambda typingctx: typed(),
        1: lambda typingctx, a: typed(a),
        2: lambda typingctx, a, b: typed(a, b),
        3: lambda typingctx, a, b, c: typed(a, b, c),
        4: lambda typingctx, a, b, c, d: typed(a, b, c, d),
        5: lambda typingctx, a, b, c, d, e: typed(a, b, c, d, e),
    }
    return intrinsic(shapes[arity])


# ---------------------------------------------------------------- memory
def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _load(result: Any, kind: Any, widen: Callable[[Any, Any], Any] | None = None) -> Any:
    def emit(builder: Any, address: Any) -> Any:
        value = builder.load(_pointer(builder, address, kind))
        value.align = 1
        return widen(builder, value) if widen else value

    return define(result(types.int64), emit)


def _store(value: Any, kind: Any, narrow: Callable[[Any, Any], Any] | None = None) -> Any:
    def emit(builder: Any, address: Any, x: Any) -> None:
        done = builder.store(narrow(builder, x) if narrow else x, _pointer(builder, address, kind))
        done.align = 1

    return define(types.none(types.int64, value), emit)


def _bf16_to_f32(builder: Any, bits: Any) -> Any:
    wide = ir.VectorType(_I32, bits.type.count)
    shifted = builder.shl(builder.zext(bits, wide), _constant(wide, 16))
    return builder.bitcast(shifted, ir.VectorType(_F32, bits.type.count))


def _f16_to_f32(builder: Any, bits: Any) -> Any:
    """The i16 bits of float16, one or a vector → float32."""
    if FORM == "portable":
        return half_to_float(builder, bits)
    if not isinstance(bits.type, ir.VectorType):
        return builder.fpext(builder.bitcast(bits, _F16), _F32)
    n = bits.type.count
    return builder.fpext(builder.bitcast(bits, ir.VectorType(_F16, n)), ir.VectorType(_F32, n))


def _f32_to_f16(builder: Any, value: Any) -> Any:
    """float32, one or a vector → the i16 bits of float16."""
    if FORM == "portable":
        return float_to_half(builder, value)
    if not isinstance(value.type, ir.VectorType):
        return builder.bitcast(builder.fptrunc(value, _F16), _I16)
    n = value.type.count
    return builder.bitcast(builder.fptrunc(value, ir.VectorType(_F16, n)), ir.VectorType(_I16, n))


load_i8x16, load_i8x32, load_i8x64 = (_load(v, v.llvm) for v in (i8x16, i8x32, i8x64))
load_i16x16, load_i16x32, load_i32x16, load_f32x16 = (_load(v, v.llvm) for v in (i16x16, i16x32, i32x16,
                                                                                 f32x16))
load_f16_f32x16 = _load(f32x16, ir.VectorType(_I16, 16), _f16_to_f32)
load_bf16_f32x16 = _load(f32x16, ir.VectorType(_I16, 16), _bf16_to_f32)
load_i8_f32x16 = _load(f32x16, i8x16.llvm, lambda b, v: b.sitofp(b.sext(v, i32x16.llvm), f32x16.llvm))
load_i8_i32x16 = _load(i32x16, i8x16.llvm, lambda b, v: b.sext(v, i32x16.llvm))
load_u8 = _load(types.int64, _I8, lambda b, v: b.zext(v, _I64))
load_i8 = _load(types.int64, _I8, lambda b, v: b.sext(v, _I64))
load_i16 = _load(types.int64, _I16, lambda b, v: b.sext(v, _I64))
load_u32 = _load(types.uint32, _I32)
load_i32 = _load(types.int64, _I32, lambda b, v: b.sext(v, _I64))
load_i64 = _load(types.int64, _I64)
load_f32 = _load(types.float32, _F32)
load_f16 = _load(types.float32, _I16, _f16_to_f32)
store_i8 = _store(types.int64, _I8, lambda b, v: b.trunc(v, _I8))
store_i16 = _store(types.int64, _I16, lambda b, v: b.trunc(v, _I16))
store_i32 = _store(types.int64, _I32, lambda b, v: b.trunc(v, _I32))
store_i64 = _store(types.int64, _I64)
store_f32 = _store(types.float32, _F32)
store_f16 = _store(types.float32, _I16, _f32_to_f16)
store_f32x16 = _store(f32x16, f32x16.llvm)
store_i8x64, store_i32x16 = _store(i8x64, i8x64.llvm), _store(i32x16, i32x16.llvm)
store_i8x16, store_f32x4 = _store(i8x16, i8x16.llvm), _store(f32x4, f32x4.llvm)


def _prefetch(level: int) -> Callable[[Any, Any], None]:
    def emit(builder: Any, address: Any) -> None:
        hints = [ir.Constant(_I32, x) for x in (0, level, 1)]  # to read; how near; data
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), _pointer(builder, address, _I8), *hints)

    return emit


prefetch = define(types.none(types.int64), _prefetch(3))  # into every level of cache
prefetch_far = define(types.none(types.int64), _prefetch(2))  # into the second level: for much later
prefetch_once = define(types.none(types.int64), _prefetch(0))  # into the first level alone, to be read once
bits_to_f32 = define(types.float32(types.int64), lambda b, v: b.bitcast(b.trunc(v, _I32), _F32))


def _load_args(n: int) -> Any:
    """`n` consecutive int64 at an address, as a tuple to be unpacked into names."""
    result = types.UniTuple(types.int64, n)

    def emit(builder: Any, address: Any) -> Any:
        array = ir.ArrayType(_I64, n)
        value = builder.load(_pointer(builder, address, array))
        value.align = 8
        return value

    return define(result(types.int64), emit)


args4, args10, args16, args20, args21 = (_load_args(n) for n in (4, 10, 16, 20, 21))


# ---------------------------------------------------------------- arithmetic on float lanes
def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    suffix = f"v{a.type.count}f32" if isinstance(a.type, ir.VectorType) else "f32"
    return _call(builder, f"llvm.fma.{suffix}", a.type, a, b, c)


def _tree_sum(builder: Any, v: Any) -> Any:
    """Halves added until one lane is left: one order of addition on every target."""
    n = v.type.count
    while n > 1:
        n //= 2
        low, high = (_shuffle(builder, v, v, [at + i for i in range(n)]) for at in (0, n))
        v = builder.fadd(low, high) if v.type.element == _F32 else builder.add(low, high)
    return builder.extract_element(v, ir.Constant(_I32, 0))


def _larger(builder: Any, x: Any, y: Any) -> Any:
    """The larger of two in each lane; of floats y, where either is NaN."""
    more = builder.fcmp_ordered if x.type.element == _F32 else builder.icmp_signed
    return builder.select(more(">", x, y), x, y)


def _tree_max(builder: Any, v: Any) -> Any:
    n = v.type.count
    while n > 1:
        n //= 2
        low, high = (_shuffle(builder, v, v, [at + i for i in range(n)]) for at in (0, n))
        v = _larger(builder, low, high)
    return builder.extract_element(v, ir.Constant(_I32, 0))


zero_f32x16 = define(f32x16(), lambda b: ir.Constant(f32x16.llvm, None))
zero_i32x16 = define(i32x16(), lambda b: ir.Constant(i32x16.llvm, None))
splat_f32x16 = define(f32x16(types.float32), lambda b, x: _splat(b, x, 16))
splat_i32x16 = define(i32x16(types.int64), lambda b, x: _splat(b, b.trunc(x, _I32), 16))
fma = define(types.float32(types.float32, types.float32, types.float32), _fma)
fma16 = define(f32x16(f32x16, f32x16, f32x16), _fma)
add16 = define(f32x16(f32x16, f32x16), lambda b, x, y: b.fadd(x, y))
sub16 = define(f32x16(f32x16, f32x16), lambda b, x, y: b.fsub(x, y))
mul16 = define(f32x16(f32x16, f32x16), lambda b, x, y: b.fmul(x, y))
div16 = define(f32x16(f32x16, f32x16), lambda b, x, y: b.fdiv(x, y))
max16 = define(f32x16(f32x16, f32x16), _larger)
min16 = define(f32x16(f32x16, f32x16), lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y))
round16 = define(f32x16(f32x16), lambda b, x: _call(b, "llvm.rint.v16f32", f32x16.llvm, x))
sum16 = define(types.float32(f32x16), _tree_sum)
max_lane16 = define(types.float32(f32x16), _tree_max)
to_f32x16 = define(f32x16(i32x16), lambda b, v: b.sitofp(v, f32x16.llvm))
to_i32x16 = define(i32x16(f32x16), lambda b, v: b.fptosi(v, i32x16.llvm))
zero_f32x4 = define(f32x4(), lambda b: ir.Constant(f32x4.llvm, None))
splat_f32x4 = define(f32x4(types.float32), lambda b, x: _splat(b, x, 4))
to_f32x4 = define(f32x4(i32x4), lambda b, v: b.sitofp(v, f32x4.llvm))
mul4 = define(f32x4(f32x4, f32x4), lambda b, x, y: b.fmul(x, y))
fma4 = define(f32x4(f32x4, f32x4, f32x4), _fma)
fnma4 = define(f32x4(f32x4, f32x4, f32x4), lambda b, x, y, z: _fma(b, b.fneg(x), y, z))  # z - x * y
to_i8x16 = define(i8x16(i32x16), lambda b, v: b.trunc(v, i8x16.llvm))


def _pow2(builder: Any, n: Any) -> Any:
    """2**n for integer lanes in [-126, 127], by building the exponent field."""
    biased = builder.add(n, _constant(i32x16.llvm, 127))
    return builder.bitcast(builder.shl(biased, _constant(i32x16.llvm, 23)), f32x16.llvm)


def _magnitude(builder: Any, x: Any) -> Any:
    return builder.and_(builder.bitcast(x, i32x16.llvm), _constant(i32x16.llvm, 0x7FFFFFFF))


pow2_16 = define(f32x16(i32x16), _pow2)
magnitude16 = define(i32x16(f32x16), _magnitude)  # the bits of |x|: ordered as |x| is, NaN above all

# ---------------------------------------------------------------- arithmetic on integer lanes
add_i32x16 = define(i32x16(i32x16, i32x16), lambda b, x, y: b.add(x, y))
sub_i32x16 = define(i32x16(i32x16, i32x16), lambda b, x, y: b.sub(x, y))
sub_i32x4 = define(i32x4(i32x4, i32x4), lambda b, x, y: b.sub(x, y))
max_i32x16 = define(i32x16(i32x16, i32x16), _larger)
max_lane_i32x16 = define(types.int64(i32x16), lambda b, v: b.sext(_tree_max(b, v), _I64))
mul_i32x16 = define(i32x16(i32x16, i32x16), lambda b, x, y: b.mul(x, y))
sum_i32x16 = define(types.int64(i32x16), lambda b, v: b.sext(_tree_sum(b, v), _I64))
or_bytes = define(i8x64(i8x64, i8x64), lambda b, x, y: b.or_(x, y))
or_bytes32 = define(i8x32(i8x32, i8x32), lambda b, x, y: b.or_(x, y))
flip_sign_bytes = define(i8x64(i8x64), lambda b, v: b.xor(v, _constant(i8x64.llvm, -128)))
high_nibbles = define(i8x64(i8x64), lambda b, v: b.lshr(v, _constant(i8x64.llvm, 4)))
low_nibbles = define(i8x64(i8x64), lambda b, v: b.and_(v, _constant(i8x64.llvm, 15)))
join_i8x32 = define(i8x64(i8x32, i8x32), lambda b, x, y: _shuffle(b, x, y, list(range(64))))


# ---------------------------------------------------------------- cutting and joining, for emitters
def _split(builder: Any, v: Any, parts: int) -> list[Any]:
    n = v.type.count // parts
    return [_shuffle(builder, v, v, list(range(i * n, (i + 1) * n))) for i in range(parts)]


def _concat(builder: Any, parts: list[Any]) -> Any:
    while len(parts) > 1:
        n = parts[0].type.count
        parts = [_shuffle(builder, a, b, list(range(2 * n))) for a, b in zip(parts[::2], parts[1::2],
                                                                             strict=True)]
    return parts[0]
