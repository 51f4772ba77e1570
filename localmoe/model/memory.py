"""How much memory a model needs here: what the plan (`experts.plan`) is made from."""

from __future__ import annotations

from localmoe.experts.layout import ExpertLayout
from localmoe.experts.plan import Needs, Plan, available_memory, plan_cpu
from localmoe.kernels.buffers import Shape, scratch_for
from localmoe.model.config import ModelConfig
from localmoe.model.kv_cache import KVCache
from localmoe.model.weights import check_tensors
from quant.gguf import GGUFFile

CHUNK = 512  # tokens computed at once in prefill


def shape_of(config: ModelConfig, file: GGUFFile, exact: bool = False) -> Shape:
    """What the compute buffers depend on."""
    c = config
    return Shape(
        hidden=c.hidden,
        heads=c.heads,
        kv_heads=c.kv_heads,
        head_dim=c.head_dim,
        ffn=c.ffn,
        experts=c.experts,
        experts_used=c.experts_used,
        vocab=c.vocab,
        rope_pairs=c.rope_dim // 2,
        rope_halves=not c.family.interleaved,
        epsilon=c.epsilon,
        clamped=c.family.clamped,
        float_ffn=exact or _has_float_down(file),
    )


def _has_float_down(file: GGUFFile) -> bool:
    """Whether some layer's down projection is unquantized, so that its input must be kept in float32."""
    return any(".ffn_down" in name and t.type in ("f32", "f16", "bf16") for name, t in file.tensors.items())


def needs_of(file: GGUFFile, config: ModelConfig, context: int, kv_type: str, threads: int) -> Needs:
    """The model's demands for one conversation of `context` positions. ModelFileError where the tensors are
    not what the metadata say.
    """
    check_tensors(file, config)  # first: buffers for a width that only damaged metadata have fit nowhere
    layout = ExpertLayout.of(file, config.layers, config.experts) if config.is_mixture else None
    experts = layout.total_bytes if layout else 0
    rope = context * config.rope_dim * 4
    return Needs(
        name=config.name,
        weights=sum(t.nbytes for t in file.tensors.values()) - experts,
        kv_cache=KVCache.bytes_for(config, context, kv_type),
        scratch=scratch_for(shape_of(config, file), threads, min(CHUNK, context), context) + rope,
        context=context,
        layout=layout,
        chosen=config.experts_used,
    )


def plan_for(needs: Needs, ram: int | None) -> Plan:
    """What goes where on this machine. UsageError names the smallest `--ram` that would do, or, without a
    bound, what memory cannot hold.
    """
    return plan_cpu(needs, ram, None if ram is not None else available_memory())
