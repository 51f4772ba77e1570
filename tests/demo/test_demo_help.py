"""Help must not teach commands that do not exist."""

import re
import shlex

import click
import pytest
from skills.help import TASKS, TOUR_ANSWER, WHAT_ANSWER

from localmoe.cli import main as cli


def command_tree() -> click.Group:
    groups = [value for value in vars(cli).values() if isinstance(value, click.Group)]
    assert groups, "localmoe.cli.main holds no click group"
    return groups[0]


def command_lines() -> list[str]:
    answers = [task.answer for task in TASKS.values()] + [WHAT_ANSWER]
    tour = [line for line in TOUR_ANSWER.splitlines() if line.startswith("localmoe ")]
    return [answer[answer.index(": localmoe ") + 2 :] for answer in answers] + tour


@pytest.mark.parametrize("line", command_lines())
def test_every_command_and_option_that_help_names_exists(line: str) -> None:
    words = shlex.split(line)
    assert words.pop(0) == "localmoe"
    command: click.Command = command_tree()
    context = click.Context(command, info_name="localmoe")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command = found
        context = click.Context(command, parent=context, info_name=command.name)
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    named = {word for word in words if re.match(r"--?[a-z]", word)}
    assert named <= options, f"{line}: no such option {named - options}"


def test_each_task_has_an_answer_of_its_own() -> None:
    assert len({task.answer for task in TASKS.values()}) == len(TASKS)
