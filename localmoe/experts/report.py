"""What `localmoe experts` shows: heat map and tables as text, and the same as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from localmoe.errors import UsageError
from localmoe.experts.simulate import POLICIES, BudgetResult, concentration

_SHADES = " ░▒▓█"
_LARGEST_CELL = 4  # columns of the terminal


def heat_map(shares: NDArray[np.float64], width: int = 80, colour: bool = False) -> list[str]:
    """Layers (rows) by experts (columns), each cell shaded by its share of the layer's routing.

    `shares` [layers, experts] sum to 1 in each layer; the darkest shade is the largest share of all. Where a
    row is longer than `width`, neighbours share a cell. `colour` adds 256-colour escape sequences.
    """
    together = -(-shares.shape[1] // max(1, width - 7))
    shares = np.add.reduceat(shares, range(0, shares.shape[1], together), axis=1)
    layers, experts = shares.shape
    cell = max(1, min(_LARGEST_CELL, (width - 7) // experts))
    levels = shares / max(float(shares.max()), 1e-9)
    header = "".join(f"{expert:<{cell}}" if cell > 2 else "" for expert in range(experts)).rstrip()
    lines = [f"layer  {header}".rstrip()]
    for layer in range(layers):
        row = "".join(_cell(level, cell, colour) for level in levels[layer].tolist())
        lines.append(f"{layer:5}  {row}".rstrip())
    even = 1 / experts
    scale = " ".join(
        f"{_cell(step / 4, 2, colour)} {shares.max() * step / 4:.0%}" for step in range(1, len(_SHADES))
    )
    each = f", {together} a cell" if together > 1 else ""
    return [*lines, f"share of a layer's routing{each}: {scale} (even: {even:.1%})"]


def _cell(level: float, width: int, colour: bool) -> str:
    shade = _SHADES[min(len(_SHADES) - 1, round(level * (len(_SHADES) - 1)))] * width
    grey = 232 + min(23, round(level * 23))
    return f"\x1b[38;5;{grey}m{'█' * width}\x1b[0m" if colour else shade


def concentration_table(counts: NDArray[np.int64]) -> list[str]:
    """How much of the routing the hottest experts of all layers take."""
    rows = concentration(counts)
    return [
        "hottest experts  " + " ".join(f"{share:>6.0%}" for share, _ in rows),
        "of the routing   " + " ".join(f"{taken:>6.1%}" for _, taken in rows),
    ]


def simulation_table(results: Sequence[BudgetResult]) -> list[str]:
    """Hit rates in percent, a row per budget and a column per policy."""
    lines = ["budget  slots  " + " ".join(f"{name:>7}" for name in POLICIES)]
    for result in results:
        rates = " ".join(f"{100 * result.hit_rate[name]:7.2f}" for name in POLICIES)
        lines.append(f"{result.budget:6.0%}  {result.slots:5}  {rates}")
    return lines


def save_plot(
    path: str | os.PathLike[str], title: str, shares: NDArray[np.float64], results: Sequence[BudgetResult]
) -> None:
    """A picture (by the suffix of `path`: png, svg, pdf) of the heat map and, with `results`, the hit rates.

    UsageError if matplotlib is not installed or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("--plot needs matplotlib: pip install 'localmoe[plot]'") from None
    target = Path(path)
    layers, experts = shares.shape
    height = max(4.0, min(9.0, 0.22 * layers + 1.5))
    figure = Figure(figsize=(11 if results else 6, height), layout="constrained")
    plots = figure.subplots(1, 2 if results else 1, squeeze=False)[0]
    image = plots[0].imshow(shares, aspect="auto", cmap="viridis", vmin=0.0)
    plots[0].set(xlabel="expert", ylabel="layer", title=title)
    plots[0].set_xticks(range(0, experts, max(1, experts // 8)))
    figure.colorbar(image, ax=plots[0], label="share of the layer's routing")
    if results:
        draw_hit_rates(plots[1], results)
    try:
        figure.savefig(target, dpi=150)
    except (OSError, ValueError) as error:
        raise UsageError(f"{target}: cannot write the picture: {error}") from error


def draw_hit_rates(axes: object, results: Sequence[BudgetResult], title: str = "hit rate by policy") -> None:
    """A line per policy on matplotlib `axes`."""
    from matplotlib.axes import Axes

    if not isinstance(axes, Axes):
        raise TypeError("axes must be matplotlib's")
    budgets = [100 * result.budget for result in results]
    for name in POLICIES:
        style = "--" if name == "belady" else "-"
        rates = [100 * result.hit_rate[name] for result in results]
        axes.plot(budgets, rates, style, label=name, linewidth=2.2 if name == "ours" else 1.2)
    axes.set(xlabel="experts resident, %", ylabel="hits, %", title=title)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend()
