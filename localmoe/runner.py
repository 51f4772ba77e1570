"""`localmoe.load` and `localmoe.Model`: a model file, ready to answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from localmoe.catalogue import find
from localmoe.errors import UsageError
from localmoe.experts.plan import Plan
from localmoe.experts.sizes import parse_size
from localmoe.experts.store import StatisticsStore
from localmoe.generate.loop import stream, texts
from localmoe.generate.sampling import Sampling
from localmoe.kernels.first_run import compile_modules, end_first_run, is_first_run
from localmoe.model.config import ModelConfig
from localmoe.model.device import choose_device
from localmoe.model.identity import identity
from localmoe.model.weights import bind
from localmoe.text.constraint import Constraints
from localmoe.text.grammar import Grammar
from localmoe.text.prompts import prompt_format
from localmoe.text.tokenizer import load_tokenizer
from quant.compiled import drop_old_caches
from quant.gguf import GGUFFile
from quant.parts import open_model

if TYPE_CHECKING:
    from localmoe.kernels.cpu import Cpu
    from localmoe.model.decoder import Decoder
    from localmoe.model.engine import Engine

Notice = Callable[[str], None]
DEFAULT_CONTEXT = 8192
MODES = ("auto", "stream", "cpu", "split")


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
    learn: bool = True,
    notice: Notice | None = None,
    compute: Callable[[GGUFFile], Callable[..., Cpu]] | None = None,
) -> Model:
    """Opens a model by path, catalogue name or "demo".

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".
        threads: CPU threads; default: the physical cores this process may use.
        gpu_memory, ram: bounds in bytes or as text ("8GiB").
        context: positions; default: the smaller of the model's and 8,192.
        mode: what a GPU does with experts it does not hold: "auto", "stream", "cpu" or "split".
        kv_type: "f16" or "q8_0".
        exact: keep activations and the KV cache in float32 (slow; for comparison).
        learn: keep routing statistics on disk, so that the next start begins warm.
        notice: called with lines a person should see, such as that kernels are being compiled.
        compute: makes the arithmetic, given the file (for tools that watch activations).

    Raises:
        UsageError, quant.ModelFileError: the file or an argument cannot be used; one line says what to do.
    """
    if mode not in MODES:
        raise UsageError(f"the mode {mode!r} is unknown; use {', '.join(MODES)}")
    if kv_type not in ("f16", "q8_0"):
        raise UsageError(f"--kv-type {kv_type}: choose one of f16, q8_0")
    gpu_bound, ram_bound = _bytes(gpu_memory), _bytes(ram)
    chosen = choose_device("cpu" if exact else device, notice or (lambda line: None))
    kv_type = "f32" if exact else kv_type
    found = find(os.fspath(path_or_name))
    file = open_model(found.path)
    try:
        config = ModelConfig.from_gguf(file)
        plan = make_plan(file, config, context, kv_type, threads, ram_bound) if chosen == "cpu" else None
        if plan is not None and plan.slots is None:
            file.ask_for_huge_pages()  # before a weight is looked at: what was read in small pages stays so
        if is_first_run():
            bind(file, config)  # a file that is refused is refused before anything is compiled
            load_tokenizer(file.metadata)
            _first_run(_threads(threads), notice)
        if plan is None:
            return Model(file, found.name, _gpu_engine(
                file, config, context, kv_type, threads, device=chosen, gpu_memory=gpu_bound, ram=ram_bound,
                mode=mode, identity=identity(file), learn=learn,
            ))  # fmt: skip
        if notice is not None and plan.note:
            notice(plan.note)
        store = StatisticsStore(identity(file)) if learn and config.is_mixture else None
        made = compute(file) if compute is not None else None
        engine = _engine(file, config, plan, threads, kv_type, exact, store, made)
        if notice is not None and store is not None and store.note:
            notice(store.note)  # the statistics start afresh
        return Model(file, found.name, engine)
    except BaseException:
        file.close()
        raise


def _first_run(threads: int, notice: Notice | None) -> None:
    """Compiles the kernels, and says so."""
    import localmoe.kernels.simd  # refuses an unknown LOCALMOE_SIMD before anything is said

    drop_old_caches()
    if notice is not None:
        notice("First run: compiling the kernels for this CPU (once, 15 to 60 seconds) ...")
    compile_modules(threads)
    import localmoe.model.engine  # noqa: F401  # compiles what is left

    end_first_run()


class Model:
    """A loaded model. One pass computes at a time; conversations are kept apart by their decoders."""

    def __init__(self, file: GGUFFile, name: str, engine: Engine) -> None:
        self.config: ModelConfig = engine.config
        self.name, self.path, self.metadata = name, file.path, file.metadata
        self.context, self.threads = engine.plan.needs.context, engine.threads
        self.tokenizer = load_tokenizer(file.metadata)
        self.prompt_format = prompt_format(file.metadata, self.tokenizer)
        self.constraints = Constraints(self.tokenizer)
        self._file, self._engine = file, engine
        self._identity: str | None = None

    @property
    def identity(self) -> str:
        """A hex digest that tells this model from others."""
        if self._identity is None:
            self._identity = identity(self._file)
        return self._identity

    @property
    def plan(self) -> Plan:
        """What lives where."""
        return self._engine.plan

    @property
    def compute(self) -> Cpu:
        """The arithmetic in use."""
        return self._engine.compute

    def encode_chat(
        self, messages: Sequence[Mapping[str, str]], *, think: bool = True, effort: str | None = None
    ) -> list[int]:
        """The ids of a conversation in the model's own prompt format, up to where its answer begins.

        `think`: whether a model that can think before it answers shall; `effort`: how hard it does, where it
        can be told ("low", "medium", "high"; None: as its format has it).
        """
        return self.prompt_format.encode(messages, think=think, effort=effort)

    def decoder(self, context: int | None = None) -> Decoder:
        """A fresh KV cache, for one conversation."""
        decoder = self._engine.decoder(context)
        decoder.model = self
        decoder.most_read = self._file.expect_reuse
        return decoder

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """float32 [len(ids), vocab]: what follows after each id. No conversation is touched."""
        if not len(ids):
            raise UsageError("logits of no tokens: give at least one id")
        return self.decoder(min(self.context, len(ids))).extend_all(list(ids))

    def routing(self, ids: Sequence[int]) -> NDArray[np.uint8]:
        """uint8 [len(ids), layers, k]: the experts that each token was sent to, in router order."""
        residency = self._engine.residency
        if residency is None:
            if self.config.is_mixture:
                raise UsageError("routing is recorded on the CPU only: load the model with device cpu")
            raise UsageError(f"{self.name} has no experts to route to")
        if not len(ids):
            raise UsageError("routing of no tokens: give at least one id")
        with residency.recording() as recorder:
            self.decoder(min(self.context, len(ids))).extend(list(ids))
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
        """Yields the ids of a continuation; the first one comes after the prefill.

        Further keywords are those of `Sampling`.
        """
        settings = Sampling(temperature=temperature, seed=seed, **sampling)
        pieces = stream(
            self.decoder(), self.tokenizer, list(ids),
            sampling=settings, max_tokens=max_tokens, ignore_eos=ignore_eos,
        )  # fmt: skip
        for piece in pieces:
            if piece.token is not None:
                yield piece.token

    def generate(
        self,
        text_or_messages: str | Sequence[Mapping[str, str]],
        max_tokens: int | None = None,
        temperature: float = 0.7,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        think: bool = True,
        effort: str | None = None,
        json_schema: str | Mapping[str, Any] | None = None,
        grammar: str | None = None,
        **sampling: Any,
    ) -> Iterator[str]:
        """Yields an answer in pieces of text. Text is one user message, a list of messages a conversation.

        What a model thinks before it answers comes first, between `<think>` and `</think>`. `think` and
        `effort` are those of `encode_chat`, further keywords those of `Sampling`. The answer is JSON that
        `json_schema` describes (`{}`: any JSON), or a text that `grammar` derives (GBNF, or Lark's syntax).

        Raises:
            UsageError: the schema or the grammar cannot be used.
        """
        if json_schema is not None and grammar is not None:
            raise UsageError("json_schema and grammar both say what form an answer has: leave one out")
        form = None if grammar is None else Grammar.from_text(grammar)
        form = form if json_schema is None else Grammar.from_json_schema(json_schema)
        if isinstance(text_or_messages, str):
            text_or_messages = [{"role": "user", "content": text_or_messages}]
        settings = Sampling(temperature=temperature, seed=seed, **sampling)
        ids = self.encode_chat(text_or_messages, think=think, effort=effort)
        pieces = stream(
            self.decoder(), self.tokenizer, ids, sampling=settings, max_tokens=max_tokens, stop=stop,
            constraint=None if form is None else self.constraints.start(form, ids),
        )  # fmt: skip
        yield from texts(pieces)

    def status(self) -> dict[str, Any]:
        """What the status line shows: device, threads, SIMD form, bytes per token, expert hit rate, ..."""
        return self._engine.status()

    def close(self) -> None:
        """Saves routing statistics, ends the threads and unmaps the file."""
        self._engine.close()
        self._file.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_plan(
    file: GGUFFile,
    config: ModelConfig,
    context: int | None = None,
    kv_type: str = "f16",
    threads: int | None = None,
    ram: int | str | None = None,
    *,
    device: str = "cpu",
    gpu_memory: int | None = None,
) -> Plan:
    """What would live where on `device` ("cpu" or "cuda:N"); nothing is loaded. UsageError where a bound is
    too small for the model.
    """
    from localmoe.model.memory import needs_of, plan_for

    needs = needs_of(file, config, _context(config, context), kv_type, _threads(threads))
    if device == "cpu":
        return plan_for(needs, _bytes(ram))
    from localmoe.model.gpu_plan import plan_for_gpu

    return plan_for_gpu(
        file, config, needs, kv_type, device=device, gpu_memory=gpu_memory, ram=_bytes(ram)
    )


def _engine(
    file: GGUFFile, config: ModelConfig, plan: Plan, threads: int | None, kv_type: str, exact: bool,
    store: StatisticsStore | None, compute: Callable[..., Cpu] | None,
) -> Engine:  # fmt: skip
    from localmoe.model.engine import Engine

    return Engine(file, config, plan, _threads(threads), kv_type, exact, store, compute)


def _gpu_engine(
    file: GGUFFile, config: ModelConfig, context: int | None, kv_type: str, threads: int | None,
    **options: Any,
) -> Engine:  # fmt: skip
    from localmoe.model.gpu_engine import GpuEngine
    from localmoe.model.memory import needs_of

    needs = needs_of(file, config, _context(config, context), kv_type, _threads(threads))
    engine = GpuEngine(file, config, needs, _threads(threads), kv_type, **options)
    return cast("Engine", engine)  # the same interface


def _bytes(size: int | str | None) -> int | None:
    """A bound in bytes. UsageError for text that is no size."""
    return parse_size(size) if isinstance(size, str) else size


def _context(config: ModelConfig, asked: int | None) -> int:
    if asked is None:
        return min(config.context, DEFAULT_CONTEXT)
    if not 1 <= asked <= config.context:
        raise UsageError(f"--context {asked}: {config.name} has a context of 1 to {config.context} tokens")
    return asked


def _threads(asked: int | None) -> int:
    from localmoe.kernels.cores import usable_cores

    if asked is None:
        return usable_cores()
    if not 1 <= asked <= 1024:
        raise UsageError(f"--threads {asked}: give 1 to 1024")
    return asked
