"""`localmoe chat` in pipes: what goes to stdout, what to stderr, and the exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from localmoe import catalogue
from localmoe.chat.attachments import read_attachment
from localmoe.cli.main import run
from localmoe.errors import UsageError

RUNNER = Path(__file__).with_name("fake_model.py")
ROOT = RUNNER.parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOCALMOE_")}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "LOCALMOE_DATA_DIR": str(tmp_path / "data"),
        "LOCALMOE_CONFIG_DIR": str(tmp_path / "config"),
        "HOME": str(tmp_path),
    }


class Chat:
    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.database = Path(environment["LOCALMOE_DATA_DIR"]) / "history" / "history.db"

    def start(self, *arguments: str, **settings: Any) -> subprocess.Popen[bytes]:
        line = [sys.executable, str(RUNNER), "chat", *arguments]
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(line, env=self.environment, **{**pipes, **settings})

    def __call__(self, *arguments: str, text: str | bytes = b"") -> tuple[int, str, str]:
        process = self.start(*arguments)
        data = text.encode() if isinstance(text, str) else text
        out, err = process.communicate(data, timeout=60)
        assert b"\x1b" not in out + err
        assert b"Traceback" not in err
        return process.returncode, out.decode(), err.decode()

    def rows(self, query: str) -> Sequence[Any]:
        connection = sqlite3.connect(self.database)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()


@pytest.fixture
def chat(environment: dict[str, str]) -> Chat:
    return Chat(environment)


def test_prompt(chat: Chat) -> None:
    assert chat("-p", "hello") == (0, "You said: hello\n", "")


def test_stdin_comes_before_the_prompt(chat: Chat) -> None:
    assert chat(text="hello\n")[1] == "You said: hello\n"
    assert chat("-p", "Sum up.", text="a\nb\n")[1] == "You said: a\nb\n\nSum up.\n"


def test_files(chat: Chat, tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text("```\nx\n```")
    expected = "You said: n.txt:\n````\n```\nx\n```\n````\n\nread\n"
    assert chat("-p", "read", "-f", str(tmp_path / "n.txt"))[1] == expected
    (tmp_path / "b.bin").write_bytes(b"\0" * 2048)
    (tmp_path / "large.txt").write_bytes(b"x" * (1 << 20) + b"y")
    for name, reason in (("b.bin", "in UTF-8 (2.00 KiB)"), ("large.txt", "1.00 MiB"), ("no", "read")):
        with pytest.raises(UsageError, match=re.escape(reason)):
            read_attachment(tmp_path / name)
    with pytest.raises(UsageError, match="directory"):
        read_attachment(tmp_path)
    with pytest.raises(UsageError, match="NUL"):
        read_attachment("a\0b")


def test_json(chat: Chat) -> None:
    code, out, err = chat("-p", "hostile", "--json", "--stats")
    data = json.loads(out)
    assert code == 0
    assert data["text"] == "a\x1b]0;title\x07b\x1b[31mc\x9b1md\u202ee"
    assert not set(out) & {"\x1b", "\x07", "\x9b", "\u202e"}
    wanted = {"text", "finish_reason", "prompt_tokens", "completion_tokens", "timings", "seed", "model"}
    assert wanted <= set(data)
    assert data["completion_tokens"] == len(data["text"].encode())
    assert "tok/s" in err
    assert out.count("\n") == 1


def test_thoughts_stay_out_of_the_answer(chat: Chat) -> None:
    assert chat("-p", "ponder")[1] == "<think>\nHm.\n</think>\n\nYes.\n"  # a vocabulary without the markers
    chat.environment["FAKE_THINKS"] = "1"
    assert chat("-p", "ponder") == (0, "Yes.\n", "")
    data = json.loads(chat("-p", "ponder", "--json")[1])
    assert (data["text"], data["thoughts"]) == ("Yes.", "Hm.")
    assert "thoughts" not in json.loads(chat("-p", "x", "--json", "--no-think")[1])
    (line,) = chat("--jsonl", text='"ponder"\n')[1].splitlines()
    assert (json.loads(line)["text"], json.loads(line)["thoughts"]) == ("Yes.", "Hm.")


def test_the_channels_of_harmony_are_told_apart(chat: Chat) -> None:
    chat.environment["FAKE_HARMONY"] = "1"
    assert chat("-p", "channels", "--stop", "assistant") == (0, "Yes.\n", "")  # a header is no text
    data = json.loads(chat("-p", "channels", "--json", "--effort", "high")[1])
    assert (data["text"], data["thoughts"]) == ("Yes.", "Hm.")
    (line,) = chat("--jsonl", text='"channels"\n')[1].splitlines()
    assert (json.loads(line)["text"], json.loads(line)["thoughts"]) == ("Yes.", "Hm.")
    assert chat("-p", "channels", "--effort", "high")[2] == ""  # which its format knows
    code, out, err = chat("-p", "channels", "--effort", "most")
    assert (code, out) == (2, "")
    assert "effort must be one of low, medium, high" in err


def test_a_setting_without_effect_is_told(chat: Chat) -> None:
    code, out, err = chat("-p", "x", "--effort", "low")
    assert (code, out) == (0, "You said: x\n")
    assert err == "fake's prompt format cannot say how hard to think: effort has no effect.\n"
    assert chat("-p", "x", "--effort", "low", "-q")[2] == ""


def test_a_seed_repeats_and_logprobs(chat: Chat) -> None:
    data = json.loads(chat("-p", "x", "--json", "--seed", "5", "--logprobs", "2", "-n", "3")[1])
    assert (data["seed"], data["text"], data["finish_reason"]) == (5, "You", "length")
    assert [one["token"] for one in data["logprobs"]] == ["Y", "o", "u"]
    assert len(data["logprobs"][0]["top"]) == 2


def test_plain_output_holds_no_terminal_control(chat: Chat) -> None:
    assert chat("-p", "hostile")[1] == "abcde\n"


def test_quiet(chat: Chat) -> None:
    Path(chat.environment["LOCALMOE_CONFIG_DIR"]).mkdir()
    (Path(chat.environment["LOCALMOE_CONFIG_DIR"]) / "config.toml").write_text("temprature = 1\n")
    assert "did you mean 'temperature'" in chat("-p", "x")[2]
    assert chat("-p", "x", "-q", "--stats") == (0, "You said: x\n", "")


def test_jsonl(chat: Chat) -> None:
    lines = [
        '"a"',
        "{broken",
        '{"prompt": "b", "id": "B"}',
        "",
        '{"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}',
        '[{"role": "system", "content": "s"}, {"role": "user", "content": "e"}]',
        json.dumps({"prompt": "f" * 5000}),
        '{"prompt": "g", "system": 3}',
        '"h"',
    ]
    code, out, _err = chat("--jsonl", text="\n".join(lines))
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [one["line"] for one in answers] == [1, 2, 3, 5, 6, 7, 8, 9]
    assert [one.get("text") for one in answers] == [
        "You said: a", None, "You said: b", None, "You said: e", None, None, "You said: h",
    ]  # fmt: skip
    errors = [one["error"] for one in answers if "error" in one]
    assert answers[2]["id"] == "B"
    assert "not JSON" in errors[0]
    assert "must be the user's" in errors[1]
    assert "only" in errors[2]
    assert not chat.database.exists()
    assert chat("--jsonl", text='"a"\n')[0] == 0


def test_jsonl_refuses_what_it_would_misread(chat: Chat) -> None:
    lines = [
        b'\xef\xbb\xbf"a"',
        b'"caf\xe9"',
        b'{"prompt": "b", "max_tokens": 2}',
        b'{"prompt": "b", "id": NaN}',
        b'{"prompt": "b", "id": 1e999}',
        b'{"prompt": "b", "id": [7]}',
        b"[" * 200_000,
        b'"c"',
    ]
    code, out, _err = chat("--jsonl", text=b"\n".join(lines))
    answers = [json.loads(line) for line in out.splitlines()]
    assert (code, len(answers)) == (1, len(lines))
    assert (answers[0]["text"], answers[-1]["text"]) == ("You said: a", "You said: c")
    reasons = ("not UTF-8: byte 5", "'max_tokens'; a line holds prompt,", "NaN", "1e999", "`id`", "too deep")
    for answer, reason in zip(answers[1:-1], reasons, strict=True):
        assert reason in answer["error"]


def test_ctrl_c_ends_jsonl_while_it_waits_for_a_line(chat: Chat) -> None:
    process = chat.start("--jsonl")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'"a"\n')
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["text"] == "You said: a"
    time.sleep(0.2)  # until it waits again
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.communicate() == (b"", b"")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--temperature 9 -p x", "between 0 and 5"),
        ("--device tpu -p x", "device must be"),
        ("--gpu-memory lots -p x", "write it like 8GiB"),
        ("--overflow x -p x", "drop, stop, summarize"),
        ("-c --no-history -p x", "leave one out"),
        ("-c -p x", "no conversation to continue"),
        ("--resume zzzz -p x", "history list"),
        ("--jsonl -p x", "without -p"),
        ("--frobnicate", "No such option"),
        ("nonesuch.gguf -p x", "no such file"),
        ("~nosuchuser/x.gguf -p x", "no such home"),
        ("-f ~nosuchuser/x -p x", "no such home"),
        ("", "nothing to answer"),
        ("--prompt= --quiet", "-p needs a text"),
    ],
)
def test_usage_errors(
    arguments: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LOCALMOE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LOCALMOE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setattr(catalogue, "demo_path", lambda: Path(__file__))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert run(["chat", *arguments.split()]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert expected in output.err
    assert output.err.count("\n") == 1


def test_binary_input_is_refused(chat: Chat) -> None:
    assert chat(text=b"\xff\xfe\0")[0] == 2


def test_history_and_continuing(chat: Chat) -> None:
    chat("-p", "one", "-s", "Be kind.")
    name = json.loads(chat("-c", "-p", "two", "--json")[1])["conversation"]
    chat("-p", "other")
    assert json.loads(chat("--resume", name[:5], "-p", "three", "--json")[1])["conversation"] == name
    told = chat.rows(f"SELECT content FROM messages WHERE conversation = '{name}' AND role = 'user'")
    assert told == [("one",), ("two",), ("three",)]
    assert chat.rows(f"SELECT system FROM conversations WHERE id = '{name}'") == [("Be kind.",)]
    assert len(chat.rows("SELECT 1 FROM conversations")) == 2


def test_no_history_leaves_no_trace(chat: Chat) -> None:
    assert chat("-p", "x", "--no-history")[1] == "You said: x\n"
    assert not Path(chat.environment["LOCALMOE_DATA_DIR"]).exists()


def test_a_history_that_cannot_be_used(chat: Chat) -> None:
    chat.database.parent.mkdir(parents=True)
    chat.database.write_bytes(b"garbage " * 1000)
    code, out, err = chat("-p", "x")
    assert (code, out) == (0, "You said: x\n")
    assert "damaged" in err
    assert "not saved" in err
    assert chat("-c", "-p", "x")[0] == 1


def test_a_closed_pipe_ends_quietly(chat: Chat) -> None:
    chat.environment["FAKE_DELAY"] = "0.005"
    process = chat.start("-p", "count", stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(10) == b"0 1 2 3 4 "
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(20) == 0
    status, text = chat.rows("SELECT status, content FROM messages WHERE role = 'assistant'")[0]
    assert status == "interrupted"
    assert text.startswith("0 1 2 3 4 5")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_may_be_closed(chat: Chat, closed: str) -> None:
    line = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, str(RUNNER), "chat", "-p", "hello"]
    done = subprocess.run(line, env=chat.environment, input=b"", capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == (b"" if ">&-" in closed.replace("2>&-", "") else b"You said: hello\n")
    assert chat.rows("SELECT content FROM messages WHERE role = 'assistant'") == [("You said: hello",)]


def test_interrupted(chat: Chat) -> None:
    chat.environment["FAKE_DELAY"] = "0.01"
    process = chat.start("-p", "count", stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.read(10)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert out.endswith(b"\n")
    assert err == b""


def test_kill_loses_at_most_the_last_second(chat: Chat) -> None:
    chat.environment["FAKE_DELAY"] = "0.02"
    process = chat.start("-p", "count", stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    received = process.stdout.read(40)
    began = time.monotonic()
    while time.monotonic() - began < 1.5:  # what is older than a second must be there, and 40 bytes are
        process.stdout.read1(100)  # type: ignore[attr-defined] # a buffered reader
    process.kill()
    process.communicate()
    saved = chat.rows("SELECT content FROM messages WHERE role = 'assistant'")[0][0]
    assert saved.startswith(received.decode())


@pytest.mark.slow
def test_twenty_at_once(chat: Chat) -> None:
    processes = [chat.start("-p", f"number {n}") for n in range(20)]
    results = [process.communicate(b"", timeout=100) for process in processes]
    assert [out for out, _ in results] == [f"You said: number {n}\n".encode() for n in range(20)]
    assert {err for _, err in results} == {b""}
    assert len(chat.rows("SELECT 1 FROM conversations")) == 20


def test_settings_from_the_environment_and_the_file(chat: Chat) -> None:
    config = Path(chat.environment["LOCALMOE_CONFIG_DIR"])
    config.mkdir()
    (config / "config.toml").write_text('max_tokens = 5\n[models.fake]\nmax_tokens = 4\nstop = ["z"]\n')
    assert chat("-p", "x")[1] == "You \n"
    chat.environment["LOCALMOE_MAX_TOKENS"] = "3"
    assert chat("-p", "x")[1] == "You\n"
    assert chat("-p", "x", "--max-tokens", "2")[1] == "Yo\n"
    (config / "config.toml").write_text("max_tokens = [\n")
    assert chat("-p", "x")[0] == 2
