"""`localmoe.load` and `localmoe.Model`: a model file, ready to answer."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localmoe.catalogue import find
from localmoe.errors import UsageError
from localmoe.generate.loop import stream
from localmoe.generate.sampling import Sampling
from localmoe.model.config import ModelConfig
from localmoe.model.identity import identity
from localmoe.model.weights import bind
from localmoe.text.prompts import prompt_format
from localmoe.text.tokenizer import load_tokenizer
from quant.compiled import cache_directory
from quant.gguf import GGUFFile

Notice = Callable[[str], None]
DEFAULT_CONTEXT = 8192
CHUNK = 512  # tokens computed at once in prefill


def load(
    path_or_name: str | os.PathLike[str],
    device: str = "auto",
    threads: int | None = None,
    gpu_memory: int | str | None = None,
    ram: int | str | None = None,
    context: int | None = None,
    mode: str = "auto",
    *,
    kv_type: str = "f16",
    exact: bool = False,
    notice: Notice | None = None,
) -> Model:
    """Opens a model by path, catalogue name or "demo".

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".
        threads: CPU threads; default: the physical cores this process may use.
        gpu_memory, ram: bounds in bytes or as text ("8GiB").
        context: positions; default: the smaller of the model's and 8,192.
        mode: what a GPU does with experts it does not hold: "auto", "stream", "cpu" or "split".
        kv_type: "f16" or "q8_0".
        exact: keep activations in float32 instead of int8 (slow; for comparison).
        notice: called with lines a person should see, such as that kernels are being compiled for the first
        time.

    Raises:
        UsageError, quant.ModelFileError: the file or an argument cannot be used; one line says what to do.
    """
    found = find(os.fspath(path_or_name))
    _check_device(device)
    file = GGUFFile.open(found.path)
    config = ModelConfig.from_gguf(file)
    length = _context(config, context)
    if notice is not None and not cache_directory().exists():
        notice(
            "First run on this machine: compiling the kernels for this CPU, once, for about 20 seconds ..."
        )
    return Model(file, config, found.name, length, _threads(threads), kv_type, exact)


class Model:
    """A loaded model. One at a time may compute; conversations are kept apart by their decoders."""

    def __init__(
        self,
        file: GGUFFile,
        config: ModelConfig,
        name: str,
        context: int,
        threads: int,
        kv_type: str,
        exact: bool,
    ) -> None:
        from localmoe.kernels.cpu import Cpu
        from localmoe.model.decoder import rope_table, shape_of
        from localmoe.model.experts import MappedExperts, Observer
        from localmoe.model.transformer import Layer, Transformer

        weights = bind(file, config)
        self.config, self.name, self.context, self.path, self.metadata = (
            config,
            name,
            context,
            file.path,
            file.metadata,
        )
        self.threads = threads
        self.tokenizer = load_tokenizer(file.metadata)
        self.prompt_format = prompt_format(file.metadata, self.tokenizer)
        self._observers: list[Observer] = []
        self._file, self._kv_type, self._weights = file, kv_type, weights
        rope = rope_table(config, max(context, 1), weights.rope_factors)
        self._compute = Cpu(shape_of(config), threads, min(CHUNK, context), rope, exact)
        layers = [
            Layer(w.attention_norm, w.q, w.k, w.v, w.output, w.ffn_norm, w.router,
                  MappedExperts(i, w.experts, self._observers) if w.experts else None, w.dense)
            for i, w in enumerate(weights.layers)
        ]  # fmt: skip
        self._transformer = Transformer(weights.embedding, layers, weights.norm, weights.output)
        self._identity: str | None = None

    @property
    def identity(self) -> str:
        """A hex digest that tells this model from others."""
        if self._identity is None:
            self._identity = identity(self._file)
        return self._identity

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The ids of a conversation in the model's own prompt format, up to where its answer begins."""
        return self.prompt_format.encode(messages)

    def decoder(self, context: int | None = None) -> Any:
        """A fresh KV cache, for one conversation: see `localmoe.model.decoder.Decoder`."""
        from localmoe.model.decoder import Decoder

        return Decoder(self._transformer, self.config, self._compute, context or self.context, self._kv_type)

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """float32 [len(ids), vocab]: what follows after each id. No conversation is touched."""
        if not len(ids):
            raise UsageError("logits of no tokens: give at least one id")
        return self.decoder(min(self.context, max(len(ids), 1))).extend_all(list(ids))  # type: ignore[no-any-return]  # see decoder

    def routing(self, ids: Sequence[int]) -> NDArray[np.uint8]:
        """uint8 [len(ids), layers, k]: the experts that each token was sent to, in router order."""
        from localmoe.model.experts import RoutingRecorder

        if not self.config.is_mixture:
            raise UsageError(f"{self.name} has no experts to route to")
        recorder = RoutingRecorder(self.config.layers)
        self._observers.append(recorder)
        try:
            self.decoder(len(ids)).extend(list(ids))
        finally:
            self._observers.remove(recorder)
        return recorder.routing()

    def generate_ids(
        self,
        ids: Sequence[int],
        max_tokens: int | None = None,
        temperature: float = 0.7,
        seed: int | None = None,
        ignore_eos: bool = False,
        **sampling: Any,
    ) -> Iterator[int]:
        """Yields the ids of a continuation; the first one comes after the prefill. Further keywords:
        `Sampling`'s.
        """
        settings = Sampling(temperature=temperature, seed=seed, **sampling)
        pieces = stream(
            self.decoder(),
            self.tokenizer,
            list(ids),
            sampling=settings,
            max_tokens=max_tokens,
            ignore_eos=ignore_eos,
        )
        for piece in pieces:
            if piece.token is not None:
                yield piece.token

    def generate(
        self,
        text_or_messages: str | Sequence[Mapping[str, str]],
        max_tokens: int | None = None,
        temperature: float = 0.7,
        seed: int | None = None,
        stop: Sequence[str] = (),
        **sampling: Any,
    ) -> Iterator[str]:
        """Yields an answer in pieces of text. Text is one user message; a list of messages is a
        conversation.
        """
        if isinstance(text_or_messages, str):
            text_or_messages = [{"role": "user", "content": text_or_messages}]
        settings = Sampling(temperature=temperature, seed=seed, **sampling)
        pieces = stream(
            self.decoder(), self.tokenizer, self.encode_chat(text_or_messages),
            sampling=settings, max_tokens=max_tokens, stop=stop,
        )  # fmt: skip
        for piece in pieces:
            if piece.text:
                yield piece.text

    def bytes_per_token(self) -> int:
        """Bytes of weights that decoding one token reads: everything but the embedding, and the chosen
        experts.
        """
        total = self._weights.output.nbytes
        for layer in self._weights.layers:
            total += layer.q.nbytes + layer.k.nbytes + layer.v.nbytes + layer.output.nbytes
            total += layer.attention_norm.nbytes + layer.ffn_norm.nbytes
            if layer.experts is not None and layer.router is not None:
                total += layer.router.nbytes + self.config.experts_used * layer.experts.nbytes
            elif layer.dense is not None:
                total += sum(matrix.nbytes for matrix in layer.dense)
        return total

    def status(self) -> dict[str, Any]:
        """What the status line shows: device, threads, SIMD form, bytes of weights per token."""
        from localmoe.kernels.simd import FORM

        return {
            "device": "cpu",
            "threads": self.threads,
            "simd": FORM,
            "bytes_per_token": self.bytes_per_token(),
        }

    def close(self) -> None:
        """Ends the threads and unmaps the file."""
        self._compute.close()
        self._file.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_device(device: str) -> None:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError(f"--device {device}: use auto, cpu, cuda or cuda:N")


def _context(config: ModelConfig, asked: int | None) -> int:
    if asked is None:
        return min(config.context, DEFAULT_CONTEXT)
    if not 1 <= asked <= config.context:
        raise UsageError(
            f"--context {asked}: the model {config.name} has a context of 1 to {config.context} tokens"
        )
    return asked


def _threads(asked: int | None) -> int:
    from localmoe.kernels.pool import usable_cores

    if asked is None:
        return usable_cores()
    if not 1 <= asked <= 1024:
        raise UsageError(f"--threads {asked}: give 1 to 1024")
    return asked
