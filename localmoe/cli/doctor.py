"""`localmoe doctor`: what this machine has and what localmoe would do with it."""

from __future__ import annotations

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(as_json: bool) -> None:
    """Show what localmoe found on this machine: CPU, RAM, GPU, versions, directories, problems."""
    from localmoe.chat.output import to_json
    from localmoe.doctor import examine, report
    from localmoe.text.safe import safe

    facts = examine()
    click.echo(to_json(facts) if as_json else safe("\n".join(report(facts))))
