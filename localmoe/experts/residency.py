"""What the engine sees: experts in memory when the router asks for them, and counts of what that took.

Two kinds. *Mapped*: every expert is used where the mapped file shows it, and nothing ever moves. *Paged*, for
a memory bound that the file does not fit into: experts come from the file into slots. The engine does not
tell them apart:

    with residency.step():                            # one forward pass; passes of other threads wait
        per layer, once its router has chosen `chosen` [tokens, k]:
            for active, table in residency.batches(layer, chosen):
                compute the experts `active`, whose bytes are at table[expert] (gate, up, down)

Where everything is mapped the engine may run a lone token through all layers at once, in compiled code that
ends with `job`, and tells of it afterwards: `observed`.

A batch holds until the next is asked for. A pass of one token is decoding: it feeds statistics and policy at
once, and a missing expert is read into its victim's slot if the policy admits it, else into a transit slot,
which the next layer's misses use again. A longer pass is prefill: each missing expert is read once, while
others are computed; it evicts nothing, but keeps the most used in slots that are free, evenly over the
layers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from localmoe.experts import policy
from localmoe.experts.layout import ExpertLayout
from localmoe.experts.pager import ExpertFile, Pager
from localmoe.experts.slots import ExpertSlots
from localmoe.experts.statistics import ExpertStatistics
from localmoe.experts.store import StatisticsStore
from localmoe.experts.traces import TraceRecorder
from localmoe.experts.transit import Arrival, TransitSlots

if TYPE_CHECKING:
    from localmoe.kernels.program import Job

SAVE_EVERY_S = 60.0
ALL = slice(None)


@dataclass
class Counters:
    """What happened since the start. A hit or miss is one expert in one layer of one decoded token, or of one
    prefill pass; `decode_hits` and `decode_misses` are those of decoding."""

    tokens: int = 0
    hits: int = 0
    misses: int = 0
    decode_hits: int = 0
    decode_misses: int = 0
    decode_tokens: int = 0
    decode_bytes: int = 0
    admissions: int = 0
    evictions: int = 0


class _Recording(threading.local):
    """Where the passes of a thread are recorded, if anywhere."""

    recorder: TraceRecorder | None = None


class Residency:
    """The experts of one model. Not reentrant: one step at a time, by whichever thread holds it."""

    def __init__(
        self,
        layout: ExpertLayout,
        statistics: ExpertStatistics,
        slots: Sequence[int] | None = None,
        transit: int | None = None,
        store: StatisticsStore | None = None,
    ) -> None:
        """Mapped if `slots` is None; else paged, with so many slots for each size class.

        `transit` more, by default as many as the router chooses and never fewer, hold what is not kept.
        """
        self.layout, self.statistics, self.store = layout, statistics, store
        self.counters = Counters()
        self._recording = _Recording()
        self.paged = slots is not None
        self.slots = ExpertSlots(layout, slots if slots is not None else [0] * len(layout.classes))
        self.table = self.slots.table
        self.lock = threading.Lock()  # held during a pass
        self._seen: list[NDArray[np.uint8] | None] = [None] * layout.layers  # this pass's routing, by layer
        self._last_save = time.monotonic()
        if not self.paged:
            return
        self._reader = self.slots.reader()
        self._arrivals: list[Arrival] = []  # of this layer
        count = statistics.chosen if transit is None else transit
        if count < statistics.chosen:
            raise ValueError(f"{count} transit slots for {statistics.chosen} experts at a time")
        self._transit = TransitSlots(layout, count)
        self._file = ExpertFile(layout)
        self._pager = Pager(self.slots, self._file, int(layout.expert_bytes.max()))

    # -- the engine's side -----------------------------------------------------------------------------------

    @contextmanager
    def step(self) -> Iterator[None]:
        """One forward pass of any number of tokens."""
        with self.lock:
            self._seen = [None] * self.layout.layers
            if self.paged:
                self._pager.step()
            try:
                yield
                self._learn()
            finally:
                self.statistics.pending[:] = 0  # of a pass that broke off
                if self.paged:
                    self._reader.leave()
                    self._settle_arrivals()
            self._save_now_and_then()

    def batches(
        self, layer: int, chosen: NDArray[np.integer], computed: slice = ALL
    ) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        """The experts that `chosen` [tokens, k] names for the tokens `computed`, each once, some at a time.
        The others' are counted only.

        Yields (experts int32 [n], table int64 [experts, 3]): the table's rows of these n are valid until the
        next batch. ReadError if the file fails.
        """
        self._seen[layer] = chosen.astype(np.uint8)
        decoding = len(chosen) == 1
        if decoding and not self.paged:  # on the path of the fastest models: nothing that costs a microsecond
            yield np.array(chosen[0], np.int32), self.table[layer]
            return
        uses = np.bincount(chosen[computed].ravel(), minlength=self.layout.experts)
        used = chosen[0].astype(np.int64) if decoding else np.flatnonzero(uses)  # decoding keeps router order
        if not self.paged:
            yield used.astype(np.int32), self.table[layer]
            return
        self._reader.leave()  # the last layer's experts are no longer in use: their slots may change
        self._settle_arrivals()
        missing = self._missing(layer, used.tolist())
        self._count(layer, len(used) - len(missing), len(missing), decoding)
        if decoding:
            self.statistics.observe(layer, chosen[0])
            cold = missing
            for expert in cold:
                self._await(layer, expert, self._place_for(layer, expert, used))
        else:
            cold = sorted(missing, key=lambda expert: -int(uses[expert]))
            share = self._free_share(layer)
            for turn, expert in enumerate(cold):
                self._await(layer, expert, self._free_place(layer) if turn < share else None)
        self._reader.enter()
        table = self.table[layer].copy()
        arrivals = list(self._arrivals)
        for arrival in arrivals[: self._transit.count]:
            arrival.start()
        hits = np.array([expert for expert in used if expert not in missing], np.int32)
        if hits.size:
            yield hits, table
        for turn, expert in enumerate(cold):
            table[expert] = arrivals[turn].finish()
            yield np.array([expert], np.int32), table
            for arrival in arrivals[turn + self._transit.count :][:1]:  # into its transit slot, now done with
                arrival.start()

    def job(self, routing: int) -> Job:
        """For a lone token's pass in compiled code, where experts are mapped and the engine reads `table`
        itself: a task and its arguments, which feed the statistics from int32 [layers, k] at `routing`.
        """
        from localmoe.experts import replay

        return replay.token_task.address, (routing, *self.statistics.addresses())

    def observed(self, routing: NDArray[np.integer]) -> None:
        """After a pass that ended with `job`, with `lock` held: what its token was sent to, [layers, k]."""
        self.counters.tokens += 1
        self.counters.decode_tokens += 1
        if self._recording.recorder is not None:
            self._recording.recorder.append(routing.astype(np.uint8)[None])
        self._save_now_and_then()

    # -- around it -------------------------------------------------------------------------------------------

    def warm(self) -> None:
        """Load, in the background, the experts that the statistics think most of, as far as slots go."""
        if not self.paged or not self.statistics.tokens:
            return
        cold = self.slots.slot_of < 0
        wanted: list[int] = []
        for number, size_class in enumerate(self.layout.classes):
            of_class = np.zeros_like(cold)
            of_class[list(size_class.layers)] = True
            count = self.slots.free(number)
            wanted += policy.hottest(self.statistics, cold & of_class, count).tolist()
        self._pager.want(divmod(flat, self.layout.experts) for flat in wanted)

    def settle(self) -> None:
        """Wait until the background has loaded what `warm` asked for."""
        if self.paged:
            self._pager.drain()

    @contextmanager
    def recording(self) -> Iterator[TraceRecorder]:
        """While the block runs, the routing of this thread's passes is recorded; of no other's."""
        before = self._recording.recorder
        self._recording.recorder = recorder = TraceRecorder()
        try:
            yield recorder
        finally:
            self._recording.recorder = before

    @property
    def nbytes(self) -> int:
        """Bytes of memory that slots and transit slots may take."""
        return self.slots.nbytes + self._transit.nbytes if self.paged else 0

    @property
    def bytes_read(self) -> int:
        """Bytes read from the file so far, in the background too."""
        return self._file.bytes_read if self.paged else 0

    def status(self) -> dict[str, float | int | bool | None]:
        """For status lines and `bench`: hit rate of decoding (None before any), bytes paged per decoded
        token, ...
        """
        counters = self.counters
        looked_up = counters.decode_hits + counters.decode_misses
        tokens = counters.decode_tokens
        experts = self.layout.layers * self.layout.experts
        return {
            "paged": self.paged,
            "hit_rate": counters.decode_hits / looked_up if looked_up else None,
            "paged_bytes_per_token": counters.decode_bytes / tokens if tokens else 0.0,
            "resident_experts": int((self.slots.slot_of >= 0).sum()) if self.paged else experts,
            "experts": experts,
            "slot_bytes": self.nbytes,
            "hits": counters.hits,
            "misses": counters.misses,
            "admissions": counters.admissions,
            "evictions": counters.evictions,
            "bytes_read": self.bytes_read,
            "half_life": self.statistics.half_life,
        }

    def save(self) -> None:
        """Merge the statistics into their file, if there is one."""
        self._last_save = time.monotonic()
        if self.store is not None and self.statistics.tokens:
            self.store.save(self.statistics)

    def close(self) -> None:
        """Save the statistics and stop the background. Addresses are void from here on."""
        with self.lock:
            self.save()
            if self.paged:
                self._settle_arrivals()
                self._pager.close()
                self._file.close()

    # -- inside ----------------------------------------------------------------------------------------------

    def _save_now_and_then(self) -> None:
        if self.store is not None and time.monotonic() - self._last_save > SAVE_EVERY_S:
            self.save()

    def _learn(self) -> None:
        """The pass is complete: its routing enters the statistics (where paged decoding already put it)."""
        rows = [row for row in self._seen if row is not None]
        if len(rows) != self.layout.layers:
            return
        routing = np.stack(rows, axis=1)  # [tokens, layers, k]
        if self.paged and len(routing) == 1:
            self.statistics.end_token()
        else:
            self.statistics.observe_tokens(routing)
        self.counters.tokens += len(routing)
        self.counters.decode_tokens += len(routing) == 1
        if self._recording.recorder is not None:
            self._recording.recorder.append(routing)

    def _count(self, layer: int, hits: int, misses: int, decoding: bool) -> None:
        counters = self.counters
        counters.hits += hits
        counters.misses += misses
        if decoding:
            counters.decode_hits += hits
            counters.decode_misses += misses
            counters.decode_bytes += misses * int(self.layout.expert_bytes[layer])

    def _missing(self, layer: int, experts: list[int]) -> list[int]:
        """Those of `experts` that have no slot; one that the pager is loading right now is waited for."""
        missing = [expert for expert in experts if self.slots.slot_of[layer, expert] < 0]
        for expert in missing:
            self._pager.withdraw(layer, expert)
        return [expert for expert in missing if self.slots.slot_of[layer, expert] < 0]

    def _place_for(self, layer: int, expert: int, in_use: NDArray[np.int64]) -> int | None:
        """A slot that the policy grants to a missing expert, or None: then it only passes through."""
        number = int(self.layout.class_of[layer])
        slot = self.slots.take(number)
        if slot is None and self.slots.slabs[number].count:
            same_size = list(self.layout.classes[number].layers)
            candidates = np.zeros_like(self.slots.slot_of, bool)
            candidates[same_size] = self.slots.slot_of[same_size] >= 0
            candidates[layer, in_use] = False
            victim = policy.victim(policy.scores(self.statistics), candidates)
            newcomer = layer * self.layout.experts + expert
            if victim < 0 or not policy.admits(self.statistics, newcomer, victim):
                return None
            self.slots.evict(*divmod(victim, self.layout.experts))
            self.counters.evictions += 1
            slot = self.slots.take(number)
        if slot is not None:
            self.counters.admissions += 1
        return slot

    def _free_share(self, layer: int) -> int:
        """How many of the free slots a prefill may fill in this layer: the same for each that is left."""
        number = int(self.layout.class_of[layer])
        layers_left = sum(other >= layer for other in self.layout.classes[number].layers)
        return -(-self.slots.free(number) // layers_left)

    def _free_place(self, layer: int) -> int | None:
        slot = self.slots.take(int(self.layout.class_of[layer]))
        self.counters.admissions += slot is not None
        return slot

    def _await(self, layer: int, expert: int, slot: int | None) -> None:
        """Have that expert arrive in `slot`, or in the next transit slot if that is None."""
        turn = len(self._arrivals)
        self._arrivals.append(Arrival(self._file, self.slots, self._transit, layer, expert, slot, turn))

    def _settle_arrivals(self) -> None:
        """Let what is still being read end, so that nothing writes into a slot behind anybody's back. What
        Ctrl-C keeps from being done here is for the next pass to do.
        """
        while self._arrivals:
            self._arrivals[-1].settle()
            self._arrivals.pop()
