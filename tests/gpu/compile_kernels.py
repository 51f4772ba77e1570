"""Compiles the kernels offline, without a GPU, exactly as the launcher would launch them at Mixtral 8x7B's
shapes, and at Qwen3-30B-A3B's and gpt-oss-20b's where these make other kernels of them.

    python compile_kernels.py ARCHES [TYPES] [--matvec]      such as 86,90 q4_k,q6_k

Prints a line for each: kernel, architecture, type, registers, bytes of stack and local memory, exchanges
between lanes. Exits 1 on a spill in a matvec kernel (a stack frame or local memory), and where its lanes
exchange more than the sums of rows.
"""

import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from localmoe.kernels import (
    gpu_attention,
    gpu_elementwise,
    gpu_handshake,
    gpu_launch,
    gpu_matvec,
    gpu_prefill,
    gpu_product,
)
from localmoe.kernels.gpu_launch import Launcher
from localmoe.kernels.gpu_resolve import MOST_WISHES
from localmoe.kernels.gpu_tiles import ExpertShape
from localmoe.kernels.matrix import Matrix
from quant.blocks import FORMATS

TYPES = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.int32: "*i32", torch.int64: "*i64",
}  # fmt: skip
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
HIDDEN, FFN, VOCAB, K, EXPERTS, LAYERS, CONTEXT = 4096, 14336, 32000, 2, 8, 32, 8192
# of a matrix's kernel, for the sums of rows; where a tile's tensors differ in layout there are more of either
MOST_SHUFFLES, MOST_BARRIERS = 60, 18
MATVECS = ("linear_kernel", "qkv_kernel", "gate_up_kernel", "down_kernel")
QWEN_HIDDEN, QWEN_FFN, QWEN_K, QWEN_EXPERTS, QWEN_LAYERS = 2048, 768, 8, 128, 48
OSS_HIDDEN, OSS_FFN, OSS_K, OSS_EXPERTS, OSS_LAYERS, OSS_HEADS = 2880, 2880, 4, 128, 36, 64
FAR, BIAS = 1 << 46, 1 << 45  # addresses


class Recorder:
    """Stands for a kernel: a launch is noted, not done."""

    def __init__(self, function, launches):
        self.function, self.launches = function, launches

    def __getitem__(self, grid):
        return lambda *args, **options: self.launches.append((self.function, args, options))


def record(modules, launches):
    """Replaces every kernel of the modules that the launcher uses; returns what restores them."""
    before = []
    for module in modules:
        for name, value in list(vars(module).items()):
            if isinstance(value, triton.runtime.JITFunction) and name.endswith("_kernel"):
                before.append((module, name, value))
                setattr(module, name, Recorder(value, launches))
    return before


def compiled(function, args, options, arch):
    """A compiled kernel for the architecture."""
    names = list(function.arg_names)
    given = dict(zip(names, args, strict=False))
    settings = {k: v for k, v in options.items() if k not in names}
    given.update({k: v for k, v in options.items() if k in names})
    constants = {p.name for p in function.params if p.is_constexpr}
    signature, values, attributes = {}, {}, {}
    for place, name in enumerate(names):
        value = given[name]
        if name in constants or value is None:
            signature[name], values[(place,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name], attributes[(place,)] = TYPES[value.dtype], [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if value < 2**31 else "i64"
    source = ASTSource(function, signature, values, attributes)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=settings)


def usage(kernel, disassembled):
    """(registers, stack bytes, local bytes, shuffles, barriers); the last two are only counted where it is
    `disassembled`, which takes longer than to compile it.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        sass = ["--dump-sass"] if disassembled else []
        command = [CUOBJDUMP, "--dump-resource-usage", *sass, file.name]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", out)
    return *(int(n) for n in found.groups()), out.count(" SHFL."), out.count(" BAR.")


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def experts_of(hidden, ffn, kind, oss):
    """`oss`: as gpt-oss's, which have biases and another gated unit."""
    wide, tall = (Matrix(FAR, *s, kind, BIAS if oss else 0) for s in ((ffn, hidden), (hidden, ffn)))
    return ExpertShape(wide, wide, tall, (0, wide.nbytes, 2 * wide.nbytes), oss)


def matvecs(launch, kind):
    """The kernels of one decoded token that read weights."""
    far, i32, i64 = FAR, torch.int32, torch.int64
    launch.linear(meta(HIDDEN), meta(VOCAB), Matrix(far, VOCAB, HIDDEN, kind))
    launch.linear(meta(HIDDEN), meta(HIDDEN), Matrix(far, HIDDEN, HIDDEN, kind), add=True)
    launch.linear(meta(QWEN_HIDDEN), meta(HIDDEN), Matrix(far, HIDDEN, QWEN_HIDDEN, kind))
    for hidden, kv_rows, kv_kind in ((HIDDEN, HIDDEN // 4, "q8_0"), (QWEN_HIDDEN, HIDDEN // 8, kind)):
        q, kv = Matrix(far, HIDDEN, hidden, kind), Matrix(far, kv_rows, hidden, kv_kind)
        launch.qkv(meta(hidden), (meta(HIDDEN), meta(kv_rows), meta(kv_rows)), (q, kv, kv))
    shapes = [(HIDDEN, FFN, K, False), (QWEN_HIDDEN, QWEN_FFN, QWEN_K, False)]
    if OSS_HIDDEN % FORMATS[kind].block_size == 0:
        shapes.append((OSS_HIDDEN, OSS_FFN, OSS_K, True))
        launch.linear(meta(HIDDEN), meta(OSS_HIDDEN), Matrix(far, OSS_HIDDEN, HIDDEN, kind, BIAS), add=True)
        q, kv = (Matrix(far, rows, OSS_HIDDEN, kind, BIAS) for rows in (HIDDEN, HIDDEN // 8))
        launch.qkv(meta(OSS_HIDDEN), (meta(HIDDEN), meta(kv.rows), meta(kv.rows)), (q, kv, kv))
    for hidden, ffn, k, oss in shapes:
        shape = experts_of(hidden, ffn, kind, oss)
        work = meta(k, dtype=i32), meta(k, dtype=i64), meta(k, dtype=i64), meta(k, dtype=i32)
        launch.gate_up(meta(hidden), meta(k, ffn), shape, *work)
        launch.down(meta(k, ffn), meta(hidden), meta(k), shape, *work)


def others(launch, kind):
    """Everything else that depends on the type of the weights."""
    many_tokens(launch, kind, HIDDEN, FFN, False)
    if kind == "mxfp4":
        many_tokens(launch, kind, OSS_HIDDEN, OSS_FFN, True)


def many_tokens(launch, kind, hidden, ffn, oss):
    i32, i64, bf16 = torch.int32, torch.int64, torch.bfloat16
    shape, bias = experts_of(hidden, ffn, kind, oss), BIAS if oss else 0
    listed, place, starts = meta(1, dtype=i32), meta(EXPERTS, dtype=i64), meta(EXPERTS + 1, dtype=i32)
    launch.embed(meta(512, dtype=i32), meta(512, hidden), Matrix(FAR, VOCAB, hidden, kind), 512)
    scratch = meta(hidden * ffn, dtype=bf16)
    for tokens in (48, 512):
        launch.linear_many(meta(tokens, hidden, dtype=bf16), meta(tokens, hidden),
                           Matrix(FAR, hidden, hidden, kind, bias), tokens, scratch, add=True)  # fmt: skip
    launch.expert_many(
        meta(512, hidden, dtype=bf16), meta(512, ffn, dtype=bf16), meta(512, hidden), shape, 0, FAR,
        meta(512, dtype=i32), scratch,
    )  # fmt: skip
    launch.gate_up_many(
        meta(512, hidden, dtype=bf16), meta(1024, ffn, dtype=bf16), shape, listed, place, starts,
        meta(1024, dtype=i32), 512
    )
    launch.down_many(meta(1024, ffn, dtype=bf16), meta(1024, hidden), shape, listed, place, starts, 512)


def the_rest(launch):
    """Kernels that know no weight types."""
    i32, bf16 = torch.int32, torch.bfloat16
    for q8 in (False, True):
        cache = cache_of(32, 128, q8)
        position, norms = meta(1, dtype=i32), (meta(128), meta(128))
        for weights, rope, halves in (
            (None, meta(CONTEXT, 64, 2), False), (norms, meta(CONTEXT, 2, 64), True)
        ):  # fmt: skip
            launch.append(
                meta(1, 4096), meta(1, 1024), meta(1, 1024), weights, 1e-5, rope, halves, cache, position, 1
            )
        for held, window, sinks in (
            (cache, 0, None), (cache_of(OSS_HEADS, 64, q8), 128, meta(OSS_HEADS))
        ):  # fmt: skip
            partial, many = meta(held.heads * 32 * (held.head_dim + 2)), meta(512, 4096)
            launch.attend(meta(4096), meta(4096), held, position, partial, 0.088, window, sinks, 32)
            out = meta(512, 4096, dtype=bf16)
            launch.attend_many(many, out, held, position, 512, 0.088, window, sinks)
    for tokens in (1, 512):
        launch.norm(meta(tokens, HIDDEN), meta(HIDDEN), meta(tokens, HIDDEN), meta(HIDDEN),
            meta(tokens, HIDDEN, dtype=bf16),
                    1e-5, tokens)  # fmt: skip
    for hidden, experts, k, layers, ffn, oss in (
        (HIDDEN, EXPERTS, K, LAYERS, FFN, False),
        (QWEN_HIDDEN, QWEN_EXPERTS, QWEN_K, QWEN_LAYERS, QWEN_FFN, False),
        (OSS_HIDDEN, OSS_EXPERTS // 4, OSS_K, OSS_LAYERS * 2 // 3, OSS_FFN, True),
        (OSS_HIDDEN, OSS_EXPERTS, OSS_K, OSS_LAYERS, OSS_FFN, True),
    ):
        routing(launch, hidden, experts, k, layers, ffn, oss)


def cache_of(heads, head_dim, q8):
    """A KV cache of eight heads."""
    kind, scales = (torch.int8, head_dim // 32) if q8 else (torch.float16, 0)
    return SimpleNamespace(
        heads=heads, kv_heads=8, head_dim=head_dim, context=CONTEXT, q8=q8,
        keys=meta(8, CONTEXT, head_dim, dtype=kind),
        values=meta(8, CONTEXT, head_dim, dtype=kind),
        key_scales=meta(8, CONTEXT, scales, dtype=torch.float16),
        value_scales=meta(8, CONTEXT, scales, dtype=torch.float16),
    )  # fmt: skip


def routing(launch, hidden, experts, k, layers, ffn, oss):
    """From the router to the sum of its experts' outputs."""
    far, i32, flat, router = FAR, torch.int32, torch.int64, meta(experts, hidden)
    bias = meta(experts) if oss else None
    for tensor in (router, bias) if oss else (router,):
        tensor.data_ptr = lambda: far
    for tokens in (1, 512):
        chosen, weights, logits = meta(tokens, k, dtype=i32), meta(tokens, k), meta(tokens, experts)
        launch.route(meta(tokens, hidden), meta(hidden), router, bias, logits, chosen, weights, k, tokens)
    pairs, places = (layers, experts), meta(512 * k, dtype=i32)
    launch.combine(meta(512, hidden), meta(512 * k, hidden), weights, places, hidden, k, 512)
    tables = SimpleNamespace(
        estimates=meta(5, *pairs, dtype=i32), used=meta(*pairs, dtype=i32), totals=meta(*pairs, dtype=flat),
        evidence=meta(4, 5, dtype=flat), pending=meta(3, 5, dtype=flat), clock=meta(2, dtype=flat),
        address=meta(*pairs, dtype=flat), home=meta(*pairs, dtype=flat), slot_of=meta(*pairs, dtype=i32),
        class_of=meta(layers, dtype=i32), slot_base=meta(2, dtype=flat), slot_bytes=meta(2, dtype=flat),
        slots=meta(2, dtype=i32),
        filled=meta(2, dtype=i32), staging=meta(k, dtype=flat), mode=meta(1, dtype=i32),
        share=meta(k + 1, dtype=i32),
        counters=meta(8, dtype=flat), wishes=meta(MOST_WISHES, 3, dtype=i32),
    )  # fmt: skip
    work = SimpleNamespace(source=meta(k, dtype=flat), target=meta(k, dtype=flat), rows=meta(k, dtype=i32))
    launch.resolve(tables, meta(k, dtype=i32), 7, work, ffn)
    epoch = meta(1, dtype=i32)
    launch.post(far, epoch, meta(hidden), meta(k, dtype=i32), work.rows, 7, ffn)
    launch.join(far, far, epoch, meta(hidden), meta(k), work.rows, ffn, 4_000_000)


def main(arches, kinds, matvec_only):
    launches = []
    restore = record([gpu_attention, gpu_elementwise, gpu_handshake, gpu_launch, gpu_matvec, gpu_prefill,
        gpu_product], launches)
    launch = Launcher(interpreted=False)
    for kind in kinds:
        matvecs(launch, kind)
        if not matvec_only:
            others(launch, kind)
    if not matvec_only:
        the_rest(launch)
    for module, name, value in restore:
        setattr(module, name, value)
    with ThreadPoolExecutor(1) as pool:  # kernels are looked at while others are compiled
        found = [
            (function.__name__, arch, options.get("KIND", "-"),
             pool.submit(usage, compiled(function, args, options, arch), function.__name__ in MATVECS))
            for function, args, options in launches for arch in arches
        ]  # fmt: skip
    return report(found)


def report(found):
    """Prints a line for each kernel; 1 if a matvec spills or exchanges, else 0."""
    spills = exchanging = 0
    for name, arch, kind, used in found:
        registers, stack, local, shuffles, barriers = used.result()
        spilled = name in MATVECS and (stack > 0 or local > 0)
        parts = 3 if name == "qkv_kernel" else 1
        exchanged = shuffles > MOST_SHUFFLES * parts or barriers > MOST_BARRIERS * parts
        spills += spilled
        exchanging += exchanged
        print(name, f"sm_{arch}", f"type {kind}", f"{registers} registers", f"{stack} stack",
            f"{local} local", f"{shuffles} shuffles", f"{barriers} barriers", "SPILL" if spilled else "",
            "EXCHANGES" if exchanged else "")  # fmt: skip
    print(f"{len(found)} compiled, {spills} spill, {exchanging} exchange")
    return 1 if spills or exchanging else 0


if __name__ == "__main__":
    words = [w for w in sys.argv[1:] if not w.startswith("--")]
    chosen_kinds = words[1].split(",") if len(words) > 1 else ["q4_k"]
    sys.exit(main([int(a) for a in words[0].split(",")], chosen_kinds, "--matvec" in sys.argv))
