"""`localmoe chat`: a conversation in the terminal, or one answer in a pipe."""

from __future__ import annotations

from typing import Any

import click

from localmoe.cli.options import model_argument, model_options, sampling_options


@click.command()
@model_argument(required=False)
@click.option("-p", "--prompt", metavar="TEXT", help="Answer this and exit; text on stdin comes before it.")
@click.option("-s", "--system", metavar="TEXT", help="System prompt: how the model should behave.")
@click.option("-f", "--file", "files", metavar="FILE", multiple=True, help="Attach a text file; repeatable.")
@click.option("-c", "--continue", "go_on", is_flag=True, help="Continue the last conversation.")
@click.option("--resume", metavar="ID", help="Continue this conversation (see `localmoe history list`).")
@sampling_options
@model_options
@click.option("--think/--no-think", default=None, help="Let a model that can think before it answers do so.")
@click.option("--effort", metavar="LEVEL", help="How hard it thinks, if it can be told: low, medium, high.")
@click.option("--json-schema", metavar="FILE|JSON", help="Answer in JSON of this schema; '{}': any JSON.")
@click.option("--grammar", metavar="FILE", help="Answer by the grammar in this file (GBNF or Lark).")
@click.option("--overflow", metavar="POLICY", help="Full context: drop (oldest turns), stop or summarize.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of the plain answer.")
@click.option("--jsonl", is_flag=True, help="Answer each line of stdin (JSON) with a line of JSON.")
@click.option("--logprobs", metavar="N", type=click.IntRange(0), default=0, help="With --json: N likeliest.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing but the answer.")
@click.option("--no-history", is_flag=True, help="Neither read nor write anything about this conversation.")
@click.option("--stats", is_flag=True, help="Speed and context use after the answer, on stderr.")
@click.option("--plan", is_flag=True, help="Show where the weights would go, and exit.")
@click.option("--dry-run", is_flag=True, help="Show the exact prompt and its token count, and exit.")
def chat(model: str | None, **options: Any) -> int:
    """Talk to MODEL: a file, a name from `localmoe models list`, or (when left out) the built-in demo.

    With -p, or when text comes from a pipe, it answers once and exits. In a conversation, /help lists the
    commands.
    """
    from localmoe.chat.start import start

    return start(model, options)
