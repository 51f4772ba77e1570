"""The GPU engine: `model.engine.Engine`'s interface over `model.gpu_runtime`."""

from __future__ import annotations

from typing import Any

from localmoe.experts.plan import Needs
from localmoe.model.config import ModelConfig
from localmoe.model.engine import bytes_per_token
from localmoe.model.gpu_plan import described
from localmoe.model.gpu_runtime import open_gpu
from localmoe.model.kv_cache import KVCache
from localmoe.model.weights import bind
from quant.gguf import GGUFFile


class GpuEngine:
    """A model on one GPU; experts that it does not hold are streamed, computed by the CPU, or split."""

    residency = None  # routing is counted on the device
    compute = None

    def __init__(
        self, file: GGUFFile, config: ModelConfig, needs: Needs, threads: int, kv_type: str, *,
        device: str, gpu_memory: int | None, ram: int | None, mode: str, identity: str, learn: bool,
    ) -> None:  # fmt: skip
        self.config, self.threads, self.kv_type = config, threads, kv_type
        self.weights = bind(file, config)
        self._runtime = open_gpu(
            file, config, self.weights, device=device, context=needs.context, threads=threads,
            identity=identity, kv_type=kv_type, gpu_memory=gpu_memory, ram=ram, mode=mode,
            keep_statistics=learn,
        )  # fmt: skip
        self.plan = described(self._runtime.plan, needs)

    def decoder(self, context: int | None = None) -> Any:
        """A fresh conversation of up to `context` positions (default, and at most: the plan's)."""
        return self._runtime.decoder(context, self.kv_type)

    def status(self) -> dict[str, Any]:
        """As the CPU engine's."""
        read = bytes_per_token(self.weights, self.config)
        kv = KVCache.bytes_per_position(self.config, self.kv_type)
        own = {"threads": self.threads, "simd": "", "bytes_per_token": read, "kv_bytes_per_position": kv}
        return {**own, **self._runtime.status()}

    def close(self) -> None:
        """Saves statistics, frees the device."""
        self._runtime.close()
