"""What lives where: a memory plan, made before anything is loaded.

First what every token needs: the weights outside the experts, the KV cache for the context asked for,
scratch. Then room for the experts of one token on their way. What remains becomes expert slots, the same
share of each size class. A bound that not even the first two fit into is refused, with the smallest setting
that would do.

On a CPU the memory is RAM (`--ram`); without a bound, or under one that everything fits into, experts are
used where the file is mapped. With a GPU the device's memory is planned so (`model.gpu_plan`), and RAM holds
copies of the experts, pinned, as far as it goes; what is in neither stays in the file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from localmoe.cgroups import free_in_groups
from localmoe.errors import UsageError
from localmoe.experts.layout import ExpertLayout, SizeClass
from localmoe.experts.sizes import format_size, round_up_setting

OF_AVAILABLE = 0.85  # of the free memory, where a bound is chosen because the file exceeds it


@dataclass(frozen=True)
class Needs:
    """What a model needs besides its experts, in bytes, for one context; `layout` is None for a dense
    model.
    """

    name: str
    weights: int
    kv_cache: int
    scratch: int
    context: int
    layout: ExpertLayout | None
    chosen: int  # experts per token

    @property
    def fixed(self) -> int:
        """Bytes that must be in memory whatever happens to the experts."""
        return self.weights + self.kv_cache + self.scratch

    @property
    def expert_bytes(self) -> int:
        """Bytes of all experts."""
        return self.layout.total_bytes if self.layout else 0


@dataclass(frozen=True)
class Item:
    """One line of a plan: so many bytes of this in that place ("GPU", "RAM" or "file")."""

    what: str
    place: str
    nbytes: int
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """`slots` are the RAM slots per size class, or None if experts are used where the file is mapped;
    `transit` more hold experts that are not kept. `gpu_slots` likewise in device memory, None without a
    GPU."""

    needs: Needs
    items: tuple[Item, ...]
    slots: tuple[int, ...] | None
    transit: int
    gpu_slots: tuple[int, ...] | None = None
    note: str = ""

    def bytes_in(self, place: str) -> int:
        """Bytes that the plan puts in "GPU", "RAM" or "file"."""
        return sum(item.nbytes for item in self.items if item.place == place)

    def share(self, slots: Sequence[int] | None) -> float:
        """The share of all experts that `slots` hold."""
        layout = self.needs.layout
        if layout is None or slots is None:
            return 1.0
        return sum(slots) / (layout.layers * layout.experts)

    def lines(self) -> list[str]:
        """The plan as a table of plain text."""
        rows = [(item.what, item.place, format_size(item.nbytes), item.note) for item in self.items]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        table = [
            f"{what:<{widths[0]}}  {place:<{widths[1]}}  {size:>{widths[2]}}  {note}".rstrip()
            for what, place, size, note in rows
        ]
        for place in ("GPU", "RAM"):
            if self.bytes_in(place):
                table.append(f"{f'{place} in all':<{widths[0] + 2 + widths[1]}}  "
                             f"{format_size(self.bytes_in(place)):>{widths[2]}}")  # fmt: skip
        return [*table, self.note] if self.note else table

    def as_json(self) -> dict[str, object]:
        """For `chat --plan --json`."""
        return {
            "model": self.needs.name,
            "context": self.needs.context,
            "items": [
                {"what": item.what, "place": item.place, "bytes": item.nbytes, "note": item.note}
                for item in self.items
            ],
            "gpu_bytes": self.bytes_in("GPU"),
            "ram_bytes": self.bytes_in("RAM"),
            "resident_share": self.share(self.slots if self.gpu_slots is None else self.gpu_slots),
            "note": self.note,
        }


def plan_cpu(needs: Needs, ram: int | None = None, available: int | None = None) -> Plan:
    """A plan for the CPU under a bound of `ram` bytes, or, if None, for what the file and `available` bytes
    suggest.

    UsageError if the bound is too small, or `available` for what no file can give back.
    """
    if ram is None and available is not None:
        _check_available(needs, available)
    everything, free = needs.fixed + needs.expert_bytes, None
    if ram is None and available is not None and everything > available and needs.layout is not None:
        ram, free = max(int(available * OF_AVAILABLE), smallest(needs)), available
    if ram is None or needs.layout is None or everything <= ram:
        if ram is not None and everything > ram:
            raise too_small(needs, "--ram", ram, everything)
        kept = [Item("experts", "RAM", needs.expert_bytes, "mapped from the file")] if needs.layout else []
        return Plan(needs, (*_fixed_items(needs, "RAM"), *kept), None, 0)
    if ram < smallest(needs):
        raise too_small(needs, "--ram", ram, smallest(needs))
    layout, transit = needs.layout, _transit_bytes(needs)
    counts = spread(layout, ram - needs.fixed - transit)
    plan = Plan(
        needs,
        (
            *_fixed_items(needs, "RAM"),
            Item("experts on their way", "RAM", transit, f"{needs.chosen} slots"),
            *_slot_items(layout, counts, "RAM"),
            _file_item(layout, counts),
        ),
        counts,
        needs.chosen,
    )
    return plan if free is None else replace(plan, note=_limited_by(plan, free, ram))


def _check_available(needs: Needs, available: int) -> None:
    """UsageError where memory cannot hold what is written while tokens flow. Weights are mapped: what does
    not fit is read from the file again, which is slow, but works.
    """
    passing = _transit_bytes(needs)
    if needs.kv_cache + needs.scratch + passing > available:
        raise UsageError(
            f"{needs.name} with a context of {needs.context} needs {_written(needs, passing)} in "
            f"memory, of which {format_size(available)} are free; use a shorter --context, or --kv-type q8_0"
        )


def _written(needs: Needs, passing: int) -> str:
    """What is needed besides weights, in words; `passing` bytes are for experts on their way."""
    experts = f" and {format_size(passing)} for experts on their way" if passing else ""
    return f"{format_size(needs.kv_cache)} of KV cache, {format_size(needs.scratch)} of scratch{experts}"


def _limited_by(plan: Plan, free: int, ram: int) -> str:
    """What a person should know where nobody asked for a bound: that memory is short, and what it costs."""
    needed = format_size(plan.needs.fixed + plan.needs.expert_bytes)
    return (
        f"the model needs {needed}, more than the {format_size(free)} of free memory: "
        f"{plan.share(plan.slots):.0%} of its experts stay there, as with --ram {round_up_setting(ram)}; "
        "the others are read from the file when chosen, which limits the speed"
    )


def plan_beside_gpu(needs: Needs, gpu_slots: tuple[int, ...], transit: int, ram: int | None) -> Plan:
    """The plan of a GPU that holds `gpu_slots` experts of each size class and `transit` bytes for experts on
    their way; `needs` are what else is in its memory. Unless that is all experts, RAM holds copies, `ram`
    bytes at most (None: of all).
    """
    layout = needs.layout
    if layout is None:
        return Plan(needs, _fixed_items(needs, "GPU"), None, 0, ())
    everything = _all_slots(layout)
    in_ram = everything if ram is None else spread(layout, ram)
    items = [
        *_fixed_items(needs, "GPU"),
        Item("experts on their way", "GPU", transit),
        *_slot_items(layout, gpu_slots, "GPU"),
    ]
    if gpu_slots != everything:
        items += _slot_items(layout, in_ram, "RAM", "copies, pinned")
        if in_ram != everything:
            items.append(_file_item(layout, in_ram, "computed by the CPU when chosen"))
    return Plan(needs, tuple(items), in_ram, 0, gpu_slots)


def smallest(needs: Needs) -> int:
    """The least RAM that a CPU can run this model in: no expert stays, each passes through."""
    return needs.fixed + _transit_bytes(needs)


def too_small(needs: Needs, flag: str, given: int, least: int) -> UsageError:
    """The error for a bound that is too small; its last words are the smallest setting that would do."""
    return UsageError(
        f"{flag} {format_size(given)} is too small for {needs.name} with a context of {needs.context}: "
        f"it needs {format_size(needs.weights)} of weights, {_written(needs, least - needs.fixed)}; "
        f"use at least {flag} {round_up_setting(least)}"
    )


def spread(layout: ExpertLayout, nbytes: int) -> tuple[int, ...]:
    """As many slots per size class as fit into `nbytes`, the same share of each class as nearly as can be."""
    most = _all_slots(layout)
    sizes = [each.slot_bytes for each in layout.classes]
    share = min(1.0, nbytes / sum(size * count for size, count in zip(sizes, most, strict=True)))
    counts = [int(share * count) for count in most]
    left = nbytes - sum(size * count for size, count in zip(sizes, counts, strict=True))
    while True:
        room = [n for n in range(len(sizes)) if counts[n] < most[n] and sizes[n] <= left]
        if not room:
            return tuple(counts)
        neediest = min(room, key=lambda n: counts[n] / most[n])
        counts[neediest] += 1
        left -= sizes[neediest]


def available_memory() -> int | None:
    """Bytes of memory that this process could get without swapping: of the machine's, and of what its
    control groups (a container's, say) may use; None where the system does not say.
    """
    known = [free for free in (_free_of_machine(), free_in_groups()) if free is not None]
    return min(known, default=None)


def _free_of_machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4
    except (AttributeError, ValueError, OSError):
        return None


def _all_slots(layout: ExpertLayout) -> tuple[int, ...]:
    return tuple(len(each.layers) * layout.experts for each in layout.classes)


def _transit_bytes(needs: Needs) -> int:
    return needs.chosen * max(each.slot_bytes for each in needs.layout.classes) if needs.layout else 0


def _fixed_items(needs: Needs, place: str) -> tuple[Item, ...]:
    return (
        Item("weights outside the experts", place, needs.weights),
        Item("KV cache", place, needs.kv_cache, f"{needs.context} positions"),
        Item("scratch", place, needs.scratch),
    )


def _slot_items(layout: ExpertLayout, counts: Sequence[int], place: str, note: str = "") -> list[Item]:
    def described(size_class: SizeClass, count: int) -> str:
        most = len(size_class.layers) * layout.experts
        words = f"{count} of {most}, {format_size(size_class.slot_bytes)} each"
        return f"{words}; {note}" if note else words

    return [
        Item("expert slots", place, count * size_class.slot_bytes, described(size_class, count))
        for size_class, count in zip(layout.classes, counts, strict=True)
    ]


def _file_item(layout: ExpertLayout, counts: Sequence[int], note: str = "read when chosen") -> Item:
    held = sum(sum(each.parts) * count for each, count in zip(layout.classes, counts, strict=True))
    return Item("other experts", "file", layout.total_bytes - held, note)
