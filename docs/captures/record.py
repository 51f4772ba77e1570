"""Records what the captures beside this file show, in a real pseudo-terminal: from the embedded model, and,
since that cannot write code, `code.txt` from the tests' model of scripted answers.

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
    "How do I quantize a model to five bits?",
    "How do I chat with it on 8 GiB of GPU memory?",
    "My name is Ada, I live in Turin and I have a cat. Make JSON with keys name, city and pet.",
    "/copy",
    "Write a poem about the sea.",
]
RESUMED = ["What is my name?", "/stats"]
HELP = ["/help"]
CODE = ["longest line"]
SCRIPTED = str(HERE.parents[1] / "tests" / "chat" / "fake_model.py")


def record(
    name: str, environment: dict[str, str], arguments: list[str], prompts: list[str], program: str = ""
) -> None:
    """Type `prompts` into `localmoe chat ARGUMENTS` (or `program`) and write what the terminal then shows."""
    start = [program] if program else ["-m", "localmoe"]
    with Program([*start, "chat", *arguments], environment, rows=44) as chat:
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
        slowly = {**environment, "FAKE_DELAY": "0.002", "FAKE_CONTEXT": "8192"}
        record("code", slowly, [], CODE, SCRIPTED)


if __name__ == "__main__":
    main()
