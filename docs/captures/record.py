"""Records what the captures beside this file show: the embedded model in a real pseudo-terminal.

    python docs/captures/record.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests" / "chat"))

from terminal import Program  # noqa: E402 # found by the line above

FIRST_START = ["Hello!", "My name is Ada and I live in Turin.", "What is 47 plus 38?", "Where do I live?"]
LONG_ANSWER = [
    "Give me a tour.",
    "/copy",
    "How do I quantize a model to five bits?",
    "My name is Ada, I live in Turin and I have a cat. Make JSON with keys name, city and pet.",
    "Write a poem about the sea.",
]
RESUMED = ["What is my name?", "/stats"]
HELP = ["/help"]


def record(name: str, environment: dict[str, str], arguments: list[str], prompts: list[str]) -> None:
    """Type `prompts` into `localmoe chat ARGUMENTS` and write what the terminal then shows."""
    with Program(["-m", "localmoe", "chat", *arguments], environment, rows=44) as chat:
        chat.see("/help lists the commands", seconds=300)
        chat.prompt(300)
        for prompt in prompts:
            chat.say(prompt)
        command = " ".join(["$ localmoe chat", *arguments])
        (HERE / f"{name}.txt").write_text(f"{command}\n{chat.text()}\n", "utf-8")
        chat.type("\x04")
        chat.end()


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        places = {"LOCALMOE_DATA_DIR": f"{home}/data", "LOCALMOE_CONFIG_DIR": f"{home}/config"}
        environment = {**os.environ, **places, "PYTHONPATH": str(HERE.parents[1])}
        record("first-start", environment, [], FIRST_START)
        record("resumed", environment, ["-c"], RESUMED)
        record("long-answer", environment, [], LONG_ANSWER)
        record("help", environment, [], HELP)


if __name__ == "__main__":
    main()
