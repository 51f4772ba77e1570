"""gpu_suite's kernels: checks against NumPy, bandwidths of memory, bus and CPU, and of matvecs by tiles."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gpu_synthetic as synthetic
import numpy as np
import torch
from gpu_suite_base import Suite

from localmoe.kernels import handshake_layout as L
from localmoe.kernels.gpu_launch import Launcher
from localmoe.kernels.gpu_tiles import ExpertShape, Tiles
from localmoe.kernels.matrix import Matrix

ROOT = Path(__file__).resolve().parents[1]
CHECKS = ROOT / "tests/gpu/kernel_checks.py"
GIB = 1 << 30
PIECE = 32 << 20  # bytes of a copy whose end is looked for
SHAPES = ((4096, 14336), (14336, 4096))  # columns and rows of Mixtral 8x7B's expert matrices
DOWN_TYPES = ("q4_k", "q6_k")
MATVEC_TYPES = ("q2_k", "q3_k", *DOWN_TYPES)
ALTERNATIVES = [
    Tiles(rows, {}, linear_warps=warps, gate_up_warps=warps, down_warps=warps, few_warps={})
    for rows in (4, 8) for warps in (1, 2, 4)
]
synthetic_int = np.ctypeslib.as_ctypes_type(np.int32)


class Kernels(Suite):
    def kernels(self) -> None:
        checks = self.start_checks()
        self.model(synthetic.TINY if self.dry else self.mixtral)  # meanwhile
        for name, process in checks.items():
            said, _ = process.communicate(timeout=280)
            right = process.returncode == 0
            self.note("kernels", f"check {name}", "right" if right else said[-600:])
        self.bandwidths()
        for kind in MATVEC_TYPES:
            for cols, rows in [(256, 512)] if self.dry else SHAPES:
                self.note("kernels", f"matvec {kind} {rows}x{cols} GB/s", self.matvec(kind, rows, cols))
        for kind in DOWN_TYPES:
            self.note("kernels", f"experts with {kind} down GB/s", self.experts(kind))

    def start_checks(self) -> dict[str, subprocess.Popen[str]]:
        """A process per check of tests/gpu/kernel_checks.py, and one for each set of tiles, which leaves its
        compiled kernels in Triton's cache."""
        import kernel_checks

        names = ["norm_and_embed", "route"] if self.dry else list(kernel_checks.CHECKS)
        commands = {name: [str(CHECKS), f"--device={self.device}", name] for name in names}
        if not self.dry:
            suite = str(ROOT / "benchmarks/gpu_suite.py")
            commands |= {f"tiles {i}": [suite, f"--compile={i}"] for i in range(len(ALTERNATIVES))}
        return {
            name: subprocess.Popen(
                [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            for name, command in commands.items()
        }  # fmt: skip

    def matvec(self, kind: str, rows: int, cols: int) -> dict[str, float]:
        """GB/s of weights by tiles, over many matrices: together far beyond the L2 cache."""
        copies = 2 if self.dry else 24
        data = torch.from_numpy(synthetic.random_rows(rows, cols, kind, np.random.default_rng(0)))
        many = data.to(self.device).repeat(copies, 1, 1)
        x, y = torch.randn(cols, device=self.device), torch.empty(rows, device=self.device)
        matrices = [Matrix(int(m.data_ptr()), rows, cols, kind) for m in many]
        rates = {}
        for tiles in [None] if self.dry else ALTERNATIVES:
            launch = Launcher(self.dry, tiles)

            def work(launch: Launcher = launch) -> None:
                for m in matrices:
                    launch.linear(x, y, m)

            name = f"rows {tiles.rows}, warps {tiles.linear_warps}" if tiles else "interpreted"
            rates[name] = round(many.numel() / self.seconds(self.graph(work)) / 1e9, 1)
        return rates

    def experts(self, down: str) -> dict[str, float]:
        """GB/s of the two kernels of resident experts by tiles: gate and up in q4_k, down in `down`."""
        (cols, ffn), count = ((256, 512), 2) if self.dry else (SHAPES[0], 12)
        shape = expert_shape(cols, ffn, down)
        slots = torch.randint(0, 256, (count, shape.nbytes), dtype=torch.uint8, device=self.device)
        slots &= 0x3B  # no scale that is infinite or not a number
        address = torch.tensor([int(s.data_ptr()) for s in slots], device=self.device)
        rows = torch.full((2,), ffn, dtype=torch.int32, device=self.device)
        x, y = torch.randn(cols, device=self.device), torch.zeros(cols, device=self.device)
        inner, weights = torch.randn(2, ffn, device=self.device), torch.full((2,), 0.5, device=self.device)
        rates = {}
        for tiles in [None] if self.dry else ALTERNATIVES:
            launch = Launcher(self.dry, tiles)

            def gate_up(launch: Launcher = launch) -> None:
                for i in range(0, count, 2):
                    launch.gate_up(x, inner, shape, None, address[i : i + 2], address[i : i + 2], rows)

            def downs(launch: Launcher = launch) -> None:
                for i in range(0, count, 2):
                    launch.down(
                        inner, y, weights, shape, None, address[i : i + 2], address[i : i + 2], rows
                    )

            name = f"rows {tiles.rows}, warps {tiles.linear_warps}" if tiles else "interpreted"
            inner_bytes = shape.gate.nbytes + shape.up.nbytes
            for part, work, nbytes in (
                ("gate and up", gate_up, inner_bytes), ("down", downs, shape.down.nbytes)
            ):  # fmt: skip
                took = self.seconds(self.graph(work))
                rates[f"{part}, {name}"] = round(count * nbytes / took / 1e9, 1)
        return rates

    def bandwidths(
        self, again: bool = False, part: str = "kernels", of: synthetic.Size | None = None
    ) -> dict[str, float]:
        """Bg, Bp, Bc, Bd of design section 6, GB/s; Bd with copies from the experts' own memory, as in
        `split`, and, to tell how the machine's memory is built, from other memory too. The CPU's are with
        experts `of` a size (default: Mixtral 8x7B's); kept with the results of `part`.

        `again`: measured anew, and the best of both times counts (just after a large model was made, a
        virtual machine's RAM is slower for a while).
        """
        found = self.results.get(part, {}).get("bandwidth GB/s", {})
        if found and not again:
            return dict(found)
        size = 1 << 20 if self.dry else GIB
        a = torch.empty(size, dtype=torch.uint8, device=self.device)
        b = torch.empty_like(a)
        host = torch.zeros(size, dtype=torch.uint8)
        host = host if self.dry else host.pin_memory()
        bg = 2 * size / self.seconds(lambda: b.copy_(a)) / 1e9
        bp = size / self.seconds(lambda: a.copy_(host, non_blocking=True), 8) / 1e9
        bc, bd, elsewhere = self.cpu_bandwidths(a, host, of)
        now = {"Bg": bg, "Bp": bp, "Bc": bc, "Bd": bd, "Bd, bus from other memory": elsewhere}
        found = {k: round(max(v, found.get(k, 0.0)), 4) for k, v in now.items()}
        if of is None:
            self.results["bandwidth_GBps"] = found
        self.note(part, "bandwidth GB/s", found)
        return found

    def cpu_bandwidths(
        self, device: Any, host: Any, of: synthetic.Size | None
    ) -> tuple[float, float, float]:
        """Bc, the CPU worker's rate on cold experts, asked as the GPU asks it; and Bd, what worker and bus
        read from RAM together: the bus from the experts, then from `host`.
        """
        model = self.model(of or (synthetic.TINY if self.dry else self.mixtral))
        k = model.size.experts_used
        s, residency = model.size, model.open(self.device, [0] * len(model.layout.classes), 1, 64).residency
        region = residency.worker.region
        header = np.ctypeslib.as_array((synthetic_int * 3).from_address(region.address + L.HEADER))
        ids, ranks = ((synthetic_int * k).from_address(region.address + at) for at in (L.IDS, L.RANKS))
        turns = 0

        def work(rounds: int) -> tuple[int, float]:
            nonlocal turns
            residency.worker.begin_step()  # wakes whoever sleeps
            moved, begin = 0, time.perf_counter()
            for _ in range(rounds):
                layer, turns = turns % s.layers, turns + 1
                header[:] = layer, k, 0
                ids[:], ranks[:] = [(turns + i) % s.experts for i in range(k)], list(range(k))
                region.set_flag(L.POSTED, turns)
                while region.flag(L.DONE) != turns and time.perf_counter() - begin < 60:
                    time.sleep(2e-5)  # a busy loop here would take a core from the worker
                moved += k * int(model.layout.expert_bytes[layer])
            return moved, time.perf_counter() - begin

        # the best of several stretches: other work of the machine passes
        rounds, stretches = (2, 1) if self.dry else (24, 8)
        bc = max(moved / took / 1e9 for moved, took in (work(rounds) for _ in range(stretches)))
        experts = model.host.arena.tensor(0, min(host.numel(), model.host.arena.nbytes))
        both = []
        for source in (experts, host):
            best = 0.0
            for _ in range(stretches):
                copied = [] if self.dry else copies_in_flight(device, source)
                moved, took = work(rounds)
                moved += PIECE * sum(event.query() for event in copied)  # that ended in its time
                best = max(best, moved / took / 1e9)
                if copied:
                    copied[-1].synchronize()
            both.append(best)
        residency.worker.end_step()
        residency.close()
        return bc, both[0], both[1]


def copies_in_flight(device: Any, host: Any) -> list[Any]:
    """Enqueues copies of PIECE bytes over the bus, for longer than the worker's part; their ends."""
    ends = [torch.cuda.Event() for _ in range(10 * GIB // PIECE)]
    for i, end in enumerate(ends):
        at = i * PIECE % host.numel()
        device[at : at + PIECE].copy_(host[at : at + PIECE], non_blocking=True)
        end.record()
    return ends


def expert_shape(cols: int, ffn: int, down: str) -> ExpertShape:
    gate, last = Matrix(0, ffn, cols, "q4_k"), Matrix(0, cols, ffn, down)
    return ExpertShape(gate, gate, last, (0, gate.nbytes, 2 * gate.nbytes))


def compile_tiles(number: int) -> None:
    """Compiles the matvecs of one set of tiles by running them once."""
    launch = Launcher(False, ALTERNATIVES[number])
    for down in DOWN_TYPES:
        shape = expert_shape(*SHAPES[0], down)
        where = torch.zeros(2, dtype=torch.int64, device="cuda")
        none = torch.zeros(2, dtype=torch.int32, device="cuda")  # rows: nothing is read
        x, y = torch.zeros(shape.gate.cols, device="cuda"), torch.zeros(shape.gate.cols, device="cuda")
        inner, weights = torch.zeros(2, shape.gate.rows, device="cuda"), torch.zeros(2, device="cuda")
        launch.gate_up(x, inner, shape, None, where, where, none)
        launch.down(inner, y, weights, shape, None, where, where, none)
    for kind in MATVEC_TYPES:
        for cols, rows in SHAPES:
            data = torch.from_numpy(synthetic.random_rows(rows, cols, kind, np.random.default_rng(0))).cuda()
            x, y = torch.randn(cols, device="cuda"), torch.empty(rows, device="cuda")
            launch.linear(x, y, Matrix(int(data.data_ptr()), rows, cols, kind))
    torch.cuda.synchronize()
