"""`localmoe experts`: which experts a model uses, and what keeping some of them in fast memory would
bring.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from localmoe.cli.options import model_argument
from localmoe.errors import UsageError
from localmoe.text.safe import safe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from localmoe.catalogue import Found


@click.command()
@model_argument()
@click.option("--simulate", is_flag=True, help="Replay a trace: hit rates by policy at 10 to 90 %.")
@click.option("--trace", "trace_path", metavar="FILE.npz", type=click.Path(path_type=Path),
              help="Use this routing trace; if there is no such file, record one there.")  # fmt: skip
@click.option("--plot", "plot_path", metavar="FILE.png", type=click.Path(path_type=Path),
              help="Draw the heat map, and with --simulate the hit rates.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def experts(
    model: str, simulate: bool, trace_path: Path | None, plot_path: Path | None, as_json: bool
) -> None:
    """Show which experts MODEL uses: a heat map of layers by experts, and how much the hottest take.

    The counts are those of all conversations with MODEL so far, or of the trace, where one is given. Where
    there is neither, a short built-in text is run through the model.
    """
    from localmoe.catalogue import find
    from localmoe.chat.output import colours, to_json
    from localmoe.experts import report
    from localmoe.experts.simulate import simulate as replay

    found = find(model)
    usage = _usage(found, trace_path, simulate)
    results = replay(usage.trace, usage.counts.shape[1]) if simulate and usage.trace is not None else []
    shares = usage.counts / usage.counts.sum(1, keepdims=True).clip(1)  # [layers, experts]
    if plot_path is not None:
        report.save_plot(plot_path, found.name, shares, results)
    if as_json:
        answer = _as_json(found.name, usage, shares)
        if simulate:
            answer["simulation"] = [result.as_json() for result in results]
        click.echo(to_json(answer))
        return
    layers, count = usage.counts.shape
    click.echo(f"{safe(found.name)}: {layers} layers, {usage.chosen} of {count} experts per token")
    click.echo(f"from {usage.tokens} tokens of {safe(usage.source)}")
    width = shutil.get_terminal_size().columns
    tables = [
        report.heat_map(shares, width, colours(sys.stdout)),
        report.concentration_table(usage.counts),
        report.simulation_table(results) if results else [],
    ]
    click.echo("\n\n".join("\n".join(table) for table in tables if table))


@dataclass(frozen=True)
class _Usage:
    """How often each expert was chosen, int64 [layers, experts], and the trace, if that is where it is
    from.
    """

    counts: NDArray[np.int64]
    chosen: int
    tokens: int
    source: str
    trace: NDArray[np.uint8] | None


def _usage(found: Found, trace_path: Path | None, needs_trace: bool) -> _Usage:
    """From the trace, else the stored statistics, else a run of the built-in text."""
    from localmoe.chat.output import Notices
    from localmoe.experts.store import StatisticsStore
    from localmoe.experts.traces import load_trace, save_trace
    from localmoe.model.config import ModelConfig
    from localmoe.model.identity import identity
    from quant.parts import open_model

    with open_model(found.path) as file:
        config = ModelConfig.from_gguf(file)
        digest = identity(file)
    if not config.is_mixture:
        raise UsageError(f"{found.name} has no experts: it is not a mixture-of-experts model")
    if trace_path is not None and trace_path.exists():
        trace = load_trace(trace_path, config.layers, config.experts)
        return _counted(trace, config.experts, f"{trace_path}")
    if trace_path is None and not needs_trace:
        store = StatisticsStore(digest)
        statistics = store.load(config.layers, config.experts, config.experts_used)
        if store.note:
            Notices.write(store.note)
        if statistics.tokens:
            return _Usage(statistics.totals, config.experts_used, statistics.tokens, "all use so far", None)
    trace = _run_sample(found)
    if trace_path is not None:
        save_trace(trace_path, trace)
        Notices.write(f"{trace_path}: recorded")
    return _counted(trace, config.experts, "a built-in text")


def _run_sample(found: Found) -> NDArray[np.uint8]:
    """The routing of the built-in text: [tokens, layers, k]."""
    import numpy as np

    import localmoe
    from localmoe.chat.output import Notices
    from localmoe.experts.sample_text import SAMPLE_TEXT

    # Learned, the sample would be reported as use from then on.
    with localmoe.load(found.path, device="cpu", learn=False, notice=Notices.write) as model:
        texts = [model.tokenizer.encode(text)[: model.context] for text in SAMPLE_TEXT]
        return np.concatenate([model.routing(ids) for ids in texts])


def _counted(trace: NDArray[np.uint8], experts: int, source: str) -> _Usage:
    import numpy as np

    layers = range(trace.shape[1])
    counts = np.stack([np.bincount(trace[:, layer].ravel(), minlength=experts) for layer in layers])
    return _Usage(counts, trace.shape[2], len(trace), source, trace)


def _as_json(name: str, usage: _Usage, shares: NDArray[np.float64]) -> dict[str, Any]:
    from localmoe.experts.simulate import concentration
    from localmoe.experts.traces import repeat_share

    layers, experts = shares.shape
    return {
        "model": name,
        "layers": layers,
        "experts": experts,
        "experts_used": usage.chosen,
        "tokens": usage.tokens,
        "source": usage.source,
        "shares": shares.round(6).tolist(),
        "concentration": [
            {"experts": share, "routing": taken} for share, taken in concentration(usage.counts)
        ],
        "repeat": None if usage.trace is None or len(usage.trace) < 2 else repeat_share(usage.trace),
    }
