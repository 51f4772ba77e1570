"""SIMD vectors for numba: types whose data model is an LLVM vector, and intrinsics that emit vector IR.

Kernels are written once, in 64-byte vectors (`i8x64`, `i32x16`, `f32x16`); LLVM splits them for narrower
machines. Only the byte dot product needs a form of its own, because no compiler finds those instructions by
itself:

    avx512vnni   vpdpbusd on 64 bytes            avxvnni    vpdpbusd on 32 bytes, VEX-coded
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

from localmoe.kernels.half import float_to_half, half_to_float
from quant.compiled import cpu_name, simd_request

FORMS = ("avx512vnni", "avxvnni", "avx2", "neon", "portable")
_FEATURES = {
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
    "znver4": "avx512vnni",
}  # fmt: skip


class SimdError(ValueError):
    """`LOCALMOE_SIMD` names a form that does not exist or that this CPU cannot run."""


def available_forms() -> list[str]:
    """The forms that this CPU can run, best first."""
    features = llvm.get_host_cpu_features()
    return [form for form in FORMS if all(features.get(name, False) for name in _FEATURES[form])]


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
i16x16, i16x32 = Vector("i16", 16), Vector("i16", 32)
i32x8, i32x16 = Vector("i32", 8), Vector("i32", 16)
f32x8, f32x16 = Vector("f32", 8), Vector("f32", 16)


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
store_i8x16 = _store(i8x16, i8x16.llvm)
store_f16_f32x16 = _store(f32x16, ir.VectorType(_I16, 16), _f32_to_f16)


def _prefetch(builder: Any, address: Any) -> None:
    hints = [ir.Constant(_I32, x) for x in (0, 3, 1)]  # to read; into every level of cache; data
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), _pointer(builder, address, _I8), *hints)


prefetch = define(types.none(types.int64), _prefetch)
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


args4, args6, args8, args10, args12, args14, args16, args20 = (_load_args(n) for n in (4, 6, 8, 10, 12, 14,
                                                                                       16, 20))


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


def _tree_max(builder: Any, v: Any) -> Any:
    n = v.type.count
    while n > 1:
        n //= 2
        low, high = (_shuffle(builder, v, v, [at + i for i in range(n)]) for at in (0, n))
        v = builder.select(builder.fcmp_ordered(">", low, high), low, high)
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
max16 = define(f32x16(f32x16, f32x16), lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y))
min16 = define(f32x16(f32x16, f32x16), lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y))
abs16 = define(f32x16(f32x16), lambda b, x: _call(b, "llvm.fabs.v16f32", f32x16.llvm, x))
round16 = define(f32x16(f32x16), lambda b, x: _call(b, "llvm.rint.v16f32", f32x16.llvm, x))
sum16 = define(types.float32(f32x16), _tree_sum)
max_lane16 = define(types.float32(f32x16), _tree_max)
to_f32x16 = define(f32x16(i32x16), lambda b, v: b.sitofp(v, f32x16.llvm))
to_i32x16 = define(i32x16(f32x16), lambda b, v: b.fptosi(v, i32x16.llvm))
to_i8x16 = define(i8x16(i32x16), lambda b, v: b.trunc(v, i8x16.llvm))


def _pow2(builder: Any, n: Any) -> Any:
    """2**n for integer lanes in [-126, 127], by building the exponent field."""
    biased = builder.add(n, _constant(i32x16.llvm, 127))
    return builder.bitcast(builder.shl(biased, _constant(i32x16.llvm, 23)), f32x16.llvm)


pow2_16 = define(f32x16(i32x16), _pow2)

# ---------------------------------------------------------------- arithmetic on integer lanes
add_i32x16 = define(i32x16(i32x16, i32x16), lambda b, x, y: b.add(x, y))
sub_i32x16 = define(i32x16(i32x16, i32x16), lambda b, x, y: b.sub(x, y))
mul_i32x16 = define(i32x16(i32x16, i32x16), lambda b, x, y: b.mul(x, y))
sum_i32x16 = define(types.int64(i32x16), lambda b, v: b.sext(_tree_sum(b, v), _I64))
and_bytes = define(i8x64(i8x64, types.int64), lambda b, v, x: b.and_(v, _splat(b, b.trunc(x, _I8), 64)))
or_bytes = define(i8x64(i8x64, i8x64), lambda b, x, y: b.or_(x, y))
or_bytes32 = define(i8x32(i8x32, i8x32), lambda b, x, y: b.or_(x, y))
flip_sign_bytes = define(i8x64(i8x64), lambda b, v: b.xor(v, _constant(i8x64.llvm, -128)))
high_nibbles = define(i8x64(i8x64), lambda b, v: b.lshr(v, _constant(i8x64.llvm, 4)))
low_nibbles = define(i8x64(i8x64), lambda b, v: b.and_(v, _constant(i8x64.llvm, 15)))
join_i8x32 = define(i8x64(i8x32, i8x32), lambda b, x, y: _shuffle(b, x, y, list(range(64))))
join_i8x16 = define(i8x32(i8x16, i8x16), lambda b, x, y: _shuffle(b, x, y, list(range(32))))
select_bytes = define(  # table[indices]: a 16-entry lookup, for formats whose codes are not linear
    i8x64(i8x16, i8x64), lambda b, table, at: _lookup16(b, table, at)
)


def _lookup16(builder: Any, table: Any, indices: Any) -> Any:
    if FORM == "avx512vnni":
        wide = _shuffle(builder, table, table, list(range(16)) * 4)
        return _call(builder, "llvm.x86.avx512.pshuf.b.512", i8x64.llvm, wide, indices)
    if FORM in ("avx2", "avxvnni"):
        wide = _shuffle(builder, table, table, list(range(16)) * 2)
        halves = _split(builder, indices, 2)
        return _concat(builder, [_call(builder, "llvm.x86.avx2.pshuf.b", i8x32.llvm, wide,
                                       h) for h in halves])
    if FORM == "neon":
        parts = _split(builder, indices, 4)
        return _concat(builder, [_call(builder, "llvm.aarch64.neon.tbl1.v16i8", i8x16.llvm, table,
                                       p) for p in parts])
    out = ir.Constant(i8x64.llvm, ir.Undefined)
    for lane in range(64):
        at = builder.extract_element(indices, ir.Constant(_I32, lane))
        out = builder.insert_element(out, builder.extract_element(table, at), ir.Constant(_I32, lane))
    return out


def _split(builder: Any, v: Any, parts: int) -> list[Any]:
    n = v.type.count // parts
    return [_shuffle(builder, v, v, list(range(i * n, (i + 1) * n))) for i in range(parts)]


def _concat(builder: Any, parts: list[Any]) -> Any:
    while len(parts) > 1:
        n = parts[0].type.count
        parts = [_shuffle(builder, a, b, list(range(2 * n))) for a, b in zip(parts[::2], parts[1::2],
                                                                             strict=True)]
    return parts[0]


def _nibbles(builder: Any, v: Any) -> Any:
    """32 bytes → 64 unsigned 4-bit values: all low halves, then all high halves."""
    low = builder.and_(v, _constant(v.type, 15))
    return _shuffle(builder, low, builder.lshr(v, _constant(v.type, 4)), list(range(64)))


nibbles = define(i8x64(i8x32), _nibbles)
nibbles16 = define(
    i8x32(i8x16),
    lambda b, v: _concat(b, [b.and_(v, _constant(v.type, 15)), b.lshr(v, _constant(v.type, 4))]),
)


def _bit_planes(builder: Any, v: Any, first: Any) -> Any:
    """32 bytes → 64 values of 0 or 16: bit `first` of every byte, then bit `first + 1` of every byte."""
    shift = _splat(builder, builder.trunc(first, _I8), 32)
    one = _constant(v.type, 1)
    low = builder.and_(builder.lshr(v, shift), one)
    high = builder.and_(builder.lshr(v, builder.add(shift, one)), one)
    low, high = (builder.shl(x, _constant(v.type, 4)) for x in (low, high))
    return _shuffle(builder, low, high, list(range(64)))


bit_planes = define(i8x64(i8x32, types.int64), _bit_planes)


def _bits_to_16(builder: Any, mask: Any) -> Any:
    """The 32 bits of a mask → 32 bytes of 0 or 16."""
    bits = builder.bitcast(mask, ir.VectorType(ir.IntType(1), 32))
    return builder.select(bits, _constant(i8x32.llvm, 16), _constant(i8x32.llvm, 0))


bits_to_16 = define(i8x32(types.uint32), _bits_to_16)


def _two_bits(builder: Any, v: Any, first: Any) -> Any:
    """32 bytes → 64 values in {0, 16, 32, 48}: bits first..first+1 of every byte, then the two bits above
    those.
    """
    three = _constant(v.type, 3)

    def at(extra: int) -> Any:
        shift = builder.add(_splat(builder, builder.trunc(first, _I8), 32), _constant(v.type, extra))
        return builder.shl(builder.and_(builder.lshr(v, shift), three), _constant(v.type, 4))

    return _shuffle(builder, at(0), at(2), list(range(64)))


two_bits = define(i8x64(i8x32, types.int64), _two_bits)


# ---------------------------------------------------------------- the dot product of bytes
def _dot_x86_narrow(builder: Any, acc: Any, u: Any, s: Any) -> Any:
    ones = _constant(i16x16.llvm, 1)
    out = []
    for a, x, y in zip(_split(builder, acc, 2), _split(builder, u, 2), _split(builder, s, 2), strict=True):
        pairs = _call(builder, "llvm.x86.avx2.pmadd.ub.sw", i16x16.llvm, x, y)
        out.append(builder.add(a, _call(builder, "llvm.x86.avx2.pmadd.wd", i32x8.llvm, pairs, ones)))
    return _concat(builder, out)


def _dot_portable(builder: Any, acc: Any, u: Any, s: Any) -> Any:
    wide = ir.VectorType(_I32, 64)
    product = builder.mul(builder.zext(u, wide), builder.sext(s, wide))
    for offset in range(4):
        acc = builder.add(acc, _shuffle(builder, product, product, list(range(offset, 64, 4))))
    return acc


def _dot(builder: Any, acc: Any, u: Any, s: Any) -> Any:
    if FORM == "avx512vnni":
        return _call(builder, "llvm.x86.avx512.vpdpbusd.512", i32x16.llvm, acc, u, s)
    if FORM == "avxvnni":
        parts = zip(_split(builder, acc, 2), _split(builder, u, 2), _split(builder, s, 2), strict=True)
        name = "llvm.x86.avx512.vpdpbusd.256"
        return _concat(builder, [_call(builder, name, i32x8.llvm, a, x, y) for a, x, y in parts])
    if FORM == "avx2":
        return _dot_x86_narrow(builder, acc, u, s)
    if FORM == "neon":
        parts = zip(_split(builder, acc, 4), _split(builder, u, 4), _split(builder, s, 4), strict=True)
        name, quad = "llvm.aarch64.neon.sdot.v4i32.v16i8", ir.VectorType(_I32, 4)
        return _concat(builder, [_call(builder, name, quad, a, x, y) for a, x, y in parts])
    return _dot_portable(builder, acc, u, s)


def _dot_wide(builder: Any, acc: Any, u: Any, s: Any) -> Any:
    """The same for u up to 255, where pairs of products overflow vpmaddubsw and sdot reads u as signed."""
    if FORM not in ("avx2", "neon"):
        return _dot(builder, acc, u, s)
    low, high = builder.and_(u, _constant(u.type, 15)), builder.lshr(u, _constant(u.type, 4))
    upper = _dot(builder, ir.Constant(i32x16.llvm, None), high, s)
    return _dot(builder, builder.add(acc, builder.shl(upper, _constant(i32x16.llvm, 4))), low, s)


dot_bytes = define(i32x16(i32x16, i8x64, i8x64), _dot)
dot_bytes.__doc__ = "acc[i] + the sum of u[4i:4i+4] * s[4i:4i+4]; u unsigned and at most 127, s signed."
dot_bytes_wide = define(i32x16(i32x16, i8x64, i8x64), _dot_wide)


# ---------------------------------------------------------------- shapes that block formats need
def _quarter_scales(repeat: int) -> Callable[[Any, Any, Any], Any]:
    def emit(builder: Any, packed: Any, first: Any) -> Any:
        """Lanes first..first+16/repeat-1 of 16 int32, each repeated."""
        base = _splat(builder, builder.trunc(first, _I32), 16)
        at = builder.add(base, _lanes([i // repeat for i in range(16)]))
        if FORM == "avx512vnni":
            return _call(builder, "llvm.x86.avx512.permvar.si.512", i32x16.llvm, packed, at)
        out = ir.Constant(i32x16.llvm, ir.Undefined)
        for group in range(16 // repeat):
            value = builder.extract_element(packed, builder.add(builder.trunc(first, _I32),
                                                                ir.Constant(_I32, group)))
            for lane in range(group * repeat, (group + 1) * repeat):
                out = builder.insert_element(out, value, ir.Constant(_I32, lane))
        return out

    return emit


repeat4 = define(i32x16(i32x16, types.int64), _quarter_scales(4))
repeat8 = define(i32x16(i32x16, types.int64), _quarter_scales(8))


def _fold(builder: Any, v0: Any, v1: Any, v2: Any, v3: Any) -> Any:
    """Four vectors of 2 x 8 lanes → the eight sums, in the order of vectors 0..3 first halves, then second
    halves.
    """
    even, odd = [], []
    for k in range(0, 16, 4):
        even += [k, k + 2, k + 16, k + 18]
        odd += [k + 1, k + 3, k + 17, k + 19]

    def pairs(a: Any, b: Any) -> Any:
        return builder.add(_shuffle(builder, a, b, even), _shuffle(builder, a, b, odd))

    c = pairs(pairs(v0, v1), pairs(v2, v3))  # quad q: sums of lanes 4q..4q+3 of each vector
    first = _shuffle(builder, c, c, [0, 1, 2, 3, 8, 9, 10, 11])
    second = _shuffle(builder, c, c, [4, 5, 6, 7, 12, 13, 14, 15])
    return builder.add(first, second)


fold_halves = define(i32x8(i32x16, i32x16, i32x16, i32x16), _fold)


def _load_halves(builder: Any, address: Any, stride: Any) -> Any:
    """Eight float16 at address + k * stride, as float32, in the order of `fold_halves`: k = 0 2 4 6 1 3 5
    7.
    """
    out = ir.Constant(ir.VectorType(_I16, 8), ir.Undefined)
    for lane, k in enumerate(FOLD_ORDER):
        at = builder.add(address, builder.mul(stride, ir.Constant(_I64, k)))
        half = builder.load(_pointer(builder, at, _I16))
        half.align = 1
        out = builder.insert_element(out, half, ir.Constant(_I32, lane))
    return _f16_to_f32(builder, out)


FOLD_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
load_halves = define(f32x8(types.int64, types.int64), _load_halves)
to_f32x8 = define(f32x8(i32x8), lambda b, v: b.sitofp(v, f32x8.llvm))
mul8 = define(f32x8(f32x8, f32x8), lambda b, x, y: b.fmul(x, y))
fma8 = define(f32x8(f32x8, f32x8, f32x8), _fma)
sum8 = define(types.float32(f32x8), _tree_sum)
sum_i32x8 = define(types.int64(i32x8), lambda b, v: b.sext(_tree_sum(b, v), _I64))
mul_i32x8 = define(i32x8(i32x8, i32x8), lambda b, x, y: b.mul(x, y))
sub_scaled_i32x8 = define(  # x - y * n
    i32x8(i32x8, i32x8, types.int64), lambda b, x, y, n: b.sub(x, b.mul(y, _splat(b, b.trunc(n, _I32), 8)))
)


def _k_scales(high: bool) -> Callable[[Any, Any], Any]:
    def emit(builder: Any, address: Any) -> Any:
        """The eight 6-bit scales (lanes 0..7 of 16) or minima (8 lanes) of GGUF's 12-byte K-quant header, as
        int32.
        """
        words = []
        for at in (0, 4, 8):
            word = builder.load(_pointer(builder, builder.add(address, ir.Constant(_I64, at)), _I32))
            word.align = 1
            words.append(word)
        d, m, md = words
        own = m if high else d

        def mask(x: Any, bits: int) -> Any:
            return builder.and_(x, ir.Constant(_I32, bits))

        def shift(x: Any, by: int) -> Any:
            return builder.lshr(x, ir.Constant(_I32, by))

        first = mask(own, 0x3F3F3F3F)
        low = mask(shift(md, 4), 0x0F0F0F0F) if high else mask(md, 0x0F0F0F0F)
        second = builder.or_(low, builder.shl(mask(shift(own, 6), 0x03030303), ir.Constant(_I32, 4)))
        both = builder.or_(builder.zext(first, _I64), builder.shl(builder.zext(second, _I64),
                                                                  ir.Constant(_I64, 32)))
        eight = builder.zext(builder.bitcast(both, ir.VectorType(_I8, 8)), i32x8.llvm)
        return eight if high else _shuffle(builder, eight, ir.Constant(i32x8.llvm, None), list(range(16)))

    return emit


k_scales, k_minima = define(i32x16(types.int64), _k_scales(False)), define(i32x8(types.int64),
                                                                           _k_scales(True))


def _pair_sums(order: tuple[int, ...]) -> Callable[[Any, Any], Any]:
    def emit(builder: Any, address: Any) -> Any:
        """16 int16 at an address, added in pairs: 8 int32, pair `order[lane]` in each lane."""
        v = builder.load(_pointer(builder, address, i16x16.llvm))
        v.align = 1
        wide = builder.sext(v, i32x16.llvm)
        even, odd = (_shuffle(builder, wide, wide, [2 * k + at for k in order]) for at in (0, 1))
        return builder.add(even, odd)

    return emit


load_pair_sums = define(i32x8(types.int64), _pair_sums((0, 1, 2, 3, 4, 5, 6, 7)))
load_folded_sums = define(i32x8(types.int64), _pair_sums(FOLD_ORDER))
load_i16_i32x16 = _load(i32x16, i16x16.llvm, lambda b, v: b.sext(v, i32x16.llvm))
