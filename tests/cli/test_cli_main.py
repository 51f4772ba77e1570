"""The command's frame: quick help, exit codes, one-line errors."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys

import click
import pytest

from localmoe.cli import main as frame
from localmoe.errors import LocalMoeError, UsageError
from quant.errors import ModelFileError, QuantError, VariableError

HEAVY = ("numpy", "torch", "numba", "rich", "prompt_toolkit", "sentencepiece", "sqlite3", "jinja2")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "localmoe", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, json\nfrom localmoe.cli.main import run\nsys.argv = ['localmoe', '--help']\nrun()\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(result.stdout.splitlines()[-1]))
    assert loaded.isdisjoint(HEAVY)
    assert "chat" in result.stdout


def test_help_is_quick() -> None:
    def seconds_used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    best = 9.0
    for _ in range(3):  # processor time, and the best of several: the machine may be busy with other things
        start = seconds_used()
        command("--help")
        best = min(best, seconds_used() - start)
    assert best <= 0.25


@pytest.mark.parametrize("module", ["localmoe", "localmoe.cli.main"])
def test_version(module: str) -> None:
    line = [sys.executable, "-m", module, "--version"]
    result = subprocess.run(line, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("localmoe 0.")


def test_no_arguments_shows_help() -> None:
    result = command()
    assert result.returncode == 0
    assert "Commands:" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["caht"], "did you mean 'chat'?"), (["--colour"], "No such option"), (["xyzzy"], "no command 'xyzzy'")],
)
def test_usage_errors_are_one_line(arguments: list[str], expected: str) -> None:
    result = command(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (LocalMoeError("it broke"), 1, "localmoe: it broke"),
        (UsageError("bad\x1b[31m name\nhere"), 2, "localmoe: bad [31m name here"),
        (ModelFileError("x.gguf: truncated"), 2, "localmoe: x.gguf: truncated"),
        (VariableError("X=y: no"), 2, "localmoe: X=y: no"),
        (QuantError("no such format"), 1, "localmoe: no such format"),
        (click.FileError("x", "gone"), 2, "localmoe: Could not open file 'x': gone"),
        (PermissionError(13, "Permission denied", "/x"), 1, "localmoe: Permission denied: /x"),
        (MemoryError(), 1, "localmoe: out of memory (no more detail); a smaller --context or --ram may help"),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
    ],
)
def test_error_mapping(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(frame.cli, "make_context", fail)
    assert frame.run([]) == code
    assert capsys.readouterr().err.strip() == line


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(frame.cli, "make_context", fail)
    with pytest.raises(ZeroDivisionError):
        frame.run([])


def test_stdin_may_hold_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), "utf-8"))
    assert frame.run(["--version"]) == 0
    assert sys.stdin.readline() == "caf\ufffd\n"


def test_closed_pipe_is_quiet() -> None:
    reader = subprocess.Popen(
        [sys.executable, "-m", "localmoe", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert reader.stdout is not None
    assert reader.stderr is not None
    reader.stdout.close()
    assert reader.stderr.read() == b""
    assert reader.wait(60) == 0
    reader.stderr.close()
