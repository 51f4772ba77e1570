"""`localmoe bench`: how fast a model runs here, and how that compares with what the memory allows."""

from __future__ import annotations

import json
import time

import click


@click.command()
@click.argument("model")
@click.option(
    "-p",
    "--prompt",
    "prompt",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Tokens to prefill.",
)
@click.option(
    "-n",
    "--generate",
    "generated",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Tokens to decode.",
)
@click.option(
    "-r", "--repeats", type=click.IntRange(1, 1000), default=3, show_default=True, help="Repetitions."
)
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads [default: physical cores].")
@click.option("--context", type=click.IntRange(1), help="Context length [default: what the test needs].")
@click.option(
    "--kv-type", type=click.Choice(["f16", "q8_0"]), default="f16", show_default=True, help="KV cache format."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--gpu-memory", metavar="SIZE", help="Most GPU memory to use, such as 8GiB.")
@click.option("--ram", metavar="SIZE", help="Most RAM for weights, KV cache and scratch, such as 16GiB.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--markdown", is_flag=True, help="Print a Markdown table to paste.")
def bench(
    model: str, prompt: int, generated: int, repeats: int, threads: int | None, context: int | None,
    kv_type: str,
    device: str, gpu_memory: str | None, ram: str | None, as_json: bool, markdown: bool,
) -> None:  # fmt: skip
    """Measure MODEL's prefill and decode speed.

    Decoding is measured after the prefill, at that depth, with random token ids. A token reads every weight
    it needs once, so tokens/s times bytes per token is a bandwidth; it is printed beside what this
    machine's memory gives.
    """
    start = time.perf_counter()
    import localmoe
    from localmoe.measure import measure_speed

    length = context or _enough(model, prompt + generated)
    loaded = localmoe.load(
        model, device=device, threads=threads, gpu_memory=gpu_memory, ram=ram, context=length,
        kv_type=kv_type, learn=False, notice=lambda line: click.echo(line, err=True),
    )  # fmt: skip
    load_s = time.perf_counter() - start
    with loaded:
        next(
            loaded.generate_ids([loaded.tokenizer.bos_id or 0], max_tokens=1, temperature=0, ignore_eos=True)
        )
        first_token_s = time.perf_counter() - start
        speed = measure_speed(loaded, prompt, generated, repeats, load_s, first_token_s)
    if as_json:
        click.echo(json.dumps(speed.as_json()))
        return
    rows = [
        (f"prefill {prompt}", f"{speed.prefill_tps:.1f} tok/s", _spread(speed.prefill_spread)),
        (f"decode {generated}", f"{speed.decode_tps:.1f} tok/s", _spread(speed.decode_spread)),
        ("read per token", f"{speed.bytes_per_token / 1e6:.1f} MB", ""),
        (
            "bandwidth",
            f"{speed.read_gbps:.1f} GB/s",
            f"{speed.share_of_machine:.0%} of this machine's {speed.machine_gbps:.1f}",
        ),
        ("load", f"{speed.load_s:.2f} s", f"first token after {speed.first_token_s:.2f} s"),
        ("peak memory", f"{speed.peak_rss_bytes / 2**30:.2f} GiB", ""),
    ]
    if speed.hit_rate is not None:
        paged = f"{speed.paged_bytes_per_token / 1e6:.1f} MB paged per token"
        rows.append(("expert hit rate", f"{speed.hit_rate:.1%}", paged))
    title = f"{speed.model}, {speed.threads} threads, {speed.simd}"
    if markdown:
        click.echo(f"| {title} | median | |\n|---|---:|---|")
        for row in rows:
            click.echo("| " + " | ".join(row) + " |")
        return
    click.echo(title)
    for name, value, note in rows:
        click.echo(f"  {name:<16}{value:>16}  {note}".rstrip())


def _spread(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.1f} to {bounds[1]:.1f}"


def _enough(model: str, tokens: int) -> int:
    """The default context, or as much as the test needs where that is more (and the model has it)."""
    from localmoe.catalogue import find
    from localmoe.model.config import ModelConfig
    from localmoe.runner import DEFAULT_CONTEXT
    from quant.parts import open_model

    with open_model(find(model).path) as file:
        return min(ModelConfig.from_gguf(file).context, max(tokens, DEFAULT_CONTEXT))
