"""What a person sees, from the embedded model in a pseudo-terminal."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from demo_chat import Demo

from localmoe.catalogue import demo_path
from quant.gguf import GGUFFile
from quant.gguf_writer import GGUFWriter

pytestmark = pytest.mark.slow
TOUR = "Give me a tour."
GREETING = "Nice to meet you, Ada!"
CURSOR_UP_OR_ERASE = re.compile(rb"\x1b\[\d*[AJ]")


def test_markdown_and_code(demo: Demo) -> None:
    with demo.chat(rows=12) as chat:  # lower than the answer is long: it scrolls
        chat.say(TOUR)
        text = chat.text()
        assert " 1 Convert the weights to a smaller file, standard GGUF." in text
        assert "**" not in text
        assert "```bash\nlocalmoe quantize mixtral/ -o mixtral.gguf\nlocalmoe chat mixtral" in text
        assert 'import localmoe\n\nwith localmoe.load("mixtral.gguf") as model:\n    for piece in' in text
        assert text.count("import localmoe") == 1  # what streamed was replaced, not repeated
        assert text.rstrip().split("\n")[-3].strip() == "localmoe --help lists all commands."
        answer = chat.received.split(TOUR.encode())[-1]
        assert re.search(rb"\x1b\[[0-9;]*3[0-9;]*mimport", answer)  # highlighted


def test_finished_text_is_never_touched_again(demo: Demo) -> None:
    with demo.chat(delay=0.004) as chat:
        chat.type(TOUR + "\r")
        chat.see("The same from Python")
        seen = len(chat.received)
        chat.prompt()
        screen = chat.text()
        assert screen.count("A short tour:") == 1
        assert screen.count("--plan") == 1
        # Once a block stands, only rows of the open block are redrawn: never more than the Python block has.
        for move in CURSOR_UP_OR_ERASE.findall(chat.received[seen:]):
            assert int(re.sub(rb"\D", b"", move) or b"0") <= 8


def test_copying(demo: Demo) -> None:
    with demo.chat() as chat:
        chat.say(TOUR)
        chat.say("/copy")
        chat.see("Code block copied")
        code = re.findall(rb"\x1b\]52;c;([^\x07]*)\x07", chat.received)[-1]  # there is no desktop here
        assert base64.b64decode(code).decode().startswith("import localmoe\n")
        chat.say("My name is Ada.")
        chat.say("/copy")
        chat.see("Answer copied")
        assert base64.b64decode(re.findall(rb"52;c;([^\x07]*)\x07", chat.received)[-1]).decode() == GREETING


def test_the_status_line_and_the_experts(demo: Demo) -> None:
    with demo.chat("--ram", "17MiB") as chat:  # some experts do not fit
        chat.say("hello")
        chat.see("tokens · ", " tok/s · first ", "s · context ", "/2,048", " · experts ")
        before = chat.text().count("tok/s")
        chat.say("/set status off")
        chat.say("hello again")
        assert chat.text().count("tok/s") == before


def test_no_colour(demo: Demo) -> None:
    with demo.chat(NO_COLOR="1") as chat:
        chat.say(TOUR)
        assert b"\x1b[38" not in chat.received
        assert re.search(rb"\x1b\[[0-9;]*3[0-9]m", chat.received) is None


def test_letters_split_between_tokens(demo: Demo) -> None:
    with demo.chat("-s", "Greet in Spanish.") as chat:
        chat.say("hello")
        chat.see("¡Hola!")  # no piece of the vocabulary: two tokens of a byte each


def hostile(path: Path) -> None:
    """The embedded model with a vocabulary that attacks the terminal when it greets somebody."""
    pieces = {
        "▁meet": "▁meet\x1b",  # a sequence that begins in one token and ends in the next
        "▁you": "]0;owned\x07▁you\x9b31m\u202e[bold]fine[/bold]\x1b[2J",
    }
    with GGUFFile.open(demo_path()) as source:
        metadata = dict(source.metadata)
        tokens = metadata["tokenizer.ggml.tokens"]
        metadata["tokenizer.ggml.tokens"] = [pieces.get(one, one) for one in tokens]
        metadata["general.name"] = "bad\x1b]0;owned\x07"
        with GGUFWriter(path, metadata) as file:
            for name, tensor in source.tensors.items():
                file.declare(name, tensor.shape, tensor.type)
            for name, tensor in source.tensors.items():
                file.write(name, tensor.data.reshape(-1))


def test_a_hostile_model_and_a_hostile_file(demo: Demo) -> None:
    model = demo.home / "bad\x1b]0;owned\x07 [red]name.gguf"
    hostile(model)
    (demo.home / "a\x1b]0;owned\x07[b].txt").write_text("x")
    with demo.chat(str(model)) as chat:
        chat.see("bad [red]name · context")
        chat.say("My name is Ada.")
        chat.see("Nice to meet you[bold]fine[/bold], Ada!")
        chat.say("/show")
        chat.type("/file a")
        chat.pump(0.5)
        chat.type("\x15\x04")
        chat.end()
        assert b"owned" not in chat.received
        assert b"\xc2\x9b" not in chat.received
        assert "\u202e".encode() not in chat.received
    with demo.chat(str(model), "-f", str(demo.home / "a\x1b]0;owned\x07[b].txt")) as chat:
        chat.say("My name is Ada.")
        chat.say("/show")
        assert b"\x1b]0;owned" not in chat.received
    kept = demo.said("assistant")[0]  # on disk it is what the model said
    assert "\x1b]0;owned\x07 you\x9b31m\u202e" in kept


def test_redirected_in_a_terminal(demo: Demo) -> None:
    """With stdout in a file answers are plain there; with stderr in one there is no prompt and no spinner."""
    code, shown = demo.shell(f"echo '{TOUR}' | localmoe chat > answer 2> errors; cat -v answer errors")
    assert code == 0
    assert "```python\nimport localmoe" in shown
    assert "^[" not in shown
