"""Every command with its output redirected and the network blocked; history, config, completion, doctor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from localmoe.chat import conversation_commands
from localmoe.cli.main import COMMANDS, run
from localmoe.history.store import History

Localmoe = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def talk(home: Path) -> str:
    """The id of a saved conversation."""
    with History(home / "data" / "history" / "history.db") as history:
        other = history.create(title="Weather")
        history.add(other, None, "user", "is it raining?")
        name = history.create(title="Cats", system="Be kind.", model="demo")
        question = history.add(name, None, "user", "my cat is Milo")
        history.add(name, question, "assistant", "What a \x1b[31mnice\x1b[0m name.")
    return name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(localmoe: Localmoe, name: str) -> None:
    result = localmoe(name, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: localmoe {name}")
    assert result.stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [
        "chat -p hello --dry-run",
        "models list",
        "models list --json",
        "models show demo",
        "models verify demo",
        "history list",
        "history list --json",
        "config show",
        "config show demo --json",
        "config path",
        "completion zsh",
        "completion fish",
        "inspect demo.gguf",
        "inspect demo.gguf --tensors --json",
    ],
)
def test_redirected_output_without_a_network(localmoe: Localmoe, home: Path, arguments: str) -> None:
    from localmoe.catalogue import demo_path

    (home / "demo.gguf").symlink_to(demo_path())
    result = localmoe(*arguments.split())
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() or arguments == "history list"
    if "--json" in arguments:
        json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        "chat --plan",
        "chat --plan --json",
        "chat demo.gguf -p hello -n 20",
        "chat -p hello -n 20 --json --stats",
        "doctor",
        "doctor --json",
        "bench demo -p 16 -n 4 -r 1",
        "bench demo -p 16 -n 4 -r 1 --json",
        "perplexity demo text.txt --window 32",
        "perplexity demo text.txt --window 32 --json",
        "imatrix demo text.txt -o imatrix.gguf",
        "experts demo",
        "experts demo --json",
        "quantize demo.gguf -o out.gguf -t q4_0 --allow-requantize",
    ],
)
def test_redirected_output_of_the_slower_ones(localmoe: Localmoe, home: Path, arguments: str) -> None:
    from localmoe.catalogue import demo_path

    (home / "demo.gguf").symlink_to(demo_path())
    (home / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 60)
    result = localmoe(*arguments.split(), timeout=280)  # the kernels may have to be compiled first
    assert result.returncode == 0, result.stderr
    if "--json" in arguments:
        json.loads(result.stdout)


def test_imatrix_looks_first_whether_it_can_write(localmoe: Localmoe, home: Path) -> None:
    (home / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 60)
    result = localmoe("imatrix", "demo", "text.txt", "-o", "none/imatrix.gguf")
    assert (result.returncode, result.stderr) == (2, "localmoe: none: no such directory; make it first\n")


def test_history_list_show_search(localmoe: Localmoe, talk: str) -> None:
    listed = json.loads(localmoe("history", "list", "--json").stdout)
    assert [one["title"] for one in listed] == ["Cats", "Weather"]
    assert localmoe("history", "list").stdout.startswith(talk)
    shown = localmoe("history", "show", talk[:5]).stdout
    assert "## User\n\nmy cat is Milo\n\n## Assistant\n\nWhat a nice name." in shown
    data = json.loads(localmoe("history", "show", talk, "--json").stdout)
    assert data["messages"][1]["content"] == "What a \x1b[31mnice\x1b[0m name."
    assert "my cat is Milo" in localmoe("history", "search", "milo").stdout
    found = json.loads(localmoe("history", "search", "cat", "raining", "--any", "--json").stdout)
    assert len(found) == 2
    assert localmoe("history", "search", "nothing").stdout == ""


def test_history_export_import_rm(
    home: Path, talk: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    assert run(["history", "export", "--all", "-o", "all.jsonl"]) == 0
    assert run(["history", "export", "--all", "-o", "all.jsonl"]) == 2
    assert "--force" in capfd.readouterr().err
    assert run(["history", "export", talk, "-o", "one.md"]) == 0
    assert (home / "one.md").read_text().startswith("# Cats\n")
    assert run(["history", "export"]) == 2
    assert run(["history", "rm", talk]) == 2  # nobody to ask
    assert run(["history", "rm", "--all", "--yes"]) == 0
    capfd.readouterr()
    assert run(["history", "import", "all.jsonl"]) == 0
    assert run(["history", "list", "--json"]) == 0
    assert [one["title"] for one in json.loads(capfd.readouterr().out)] == ["Cats", "Weather"]
    (home / "bad.jsonl").write_text('{"messages": 3}\n')
    assert run(["history", "import", "bad.jsonl"]) == 2
    assert run(["history", "import", "gone.jsonl"]) == 2
    assert run(["history", "show", "zzzzzz"]) == 2


def test_config(home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["config", "path"]) == 0
    file = Path(capfd.readouterr().out.strip())
    assert file == home / "config" / "config.toml"
    file.parent.mkdir()
    file.write_text('temprature = 1\ntop_k = 7\n[models.demo]\ntop_k = 9\nram = "2GiB"\ncolour = 1\n')
    monkeypatch.setenv("LOCALMOE_MIN_P", "0.1")
    assert run(["config", "show", "--json"]) == 0
    output = capfd.readouterr()
    values = json.loads(output.out)
    assert values["top_k"] == {"value": 7, "origin": "config.toml"}
    assert values["min_p"] == {"value": 0.1, "origin": "environment"}
    assert "unknown key 'temprature'; did you mean 'temperature'?" in output.err
    assert "[models.demo]: unknown key 'colour'" in output.err
    assert run(["config", "show", "demo", "--json"]) == 0
    values = json.loads(capfd.readouterr().out)
    assert values["top_k"] == {"value": 9, "origin": "config.toml [models.demo]"}
    assert values["ram"]["value"] == 2 << 30
    assert values["temperature"]["origin"] == "catalogue"
    file.write_text("top_p = 3\n")
    assert run(["config", "show"]) == 2
    assert "top_p must be between 0 and 1" in capfd.readouterr().err
    assert run(["config", "edit"]) == 2  # no terminal


def test_config_edit(home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(conversation_commands, "keyboard", lambda echo: nullcontext())
    monkeypatch.delenv("VISUAL", raising=False)
    file, draft, new = home / "config" / "config.toml", home / "config" / "config.draft.toml", home / "new"

    def edit(written: bytes | None, expected: str) -> int:
        """`config edit` in an editor that writes this; None: that only looks."""
        new.write_bytes(written or b"")
        monkeypatch.setenv("EDITOR", "true" if written is None else f"cp {new}")
        code = run(["config", "edit"])
        assert expected in " ".join(capfd.readouterr().err.split())
        return code

    assert edit(None, "Nothing was changed.") == 0
    assert not file.exists()
    assert edit(b"temperature = 0.5\n", "Saved to") == 0
    for wrong, reason in (
        (b"temperature = \n", "Invalid value"),
        (b"temperature = 99\n", "temperature must be between 0 and 5"),
        (b"[models.other]\ntop_p = 7\n", "top_p must be between 0 and 1"),
        ("system = 'R\xe9pondez'\n".encode("latin-1"), "can't decode byte 0xe9"),
    ):
        assert edit(wrong, reason) == 2
        assert (file.read_bytes(), draft.read_bytes()) == (b"temperature = 0.5\n", wrong)
    assert edit(None, f"This goes on with {draft}") == 2
    assert edit(b"\xef\xbb\xbftemprature = 1\n", f"{file}: unknown key 'temprature'") == 0
    assert not draft.exists()
    assert run(["config", "show"]) == 0  # a byte order mark does no harm
    file.write_bytes("system = 'R\xe9pondez'\n".encode("latin-1"))
    assert run(["config", "show"]) == 2
    assert edit(None, "Nothing was changed.") == 0
    assert b"\xe9" in file.read_bytes()
    monkeypatch.setenv("EDITOR", "sed -i s/\ufffd/é/")
    assert run(["config", "edit"]) == 0
    assert file.read_text("utf-8") == "system = 'Répondez'\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(home: Path, shell: str) -> None:
    line = [sys.executable, "-m", "localmoe"]
    script = subprocess.run([*line, "completion", shell], capture_output=True, text=True, check=True)
    assert "_LOCALMOE_COMPLETE" in script.stdout

    def complete(words: str) -> str:
        environment = {
            **os.environ,
            "_LOCALMOE_COMPLETE": f"{shell}_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": words.split(" ")[-1] if shell == "fish" else str(len(words.split(" ")) - 1),
        }
        return subprocess.run(line, env=environment, capture_output=True, text=True, check=False).stdout

    assert "perplexity" in complete("localmoe per")
    assert "demo" in complete("localmoe chat de")
    assert "--temperature" in complete("localmoe chat --temp")


def test_doctor(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (home / "config").mkdir()
    (home / "config" / "config.toml").write_text("temprature = 1\n")
    assert run(["doctor", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["cpu"]["threads"] == os.cpu_count()
    assert facts["memory"]["total_bytes"] > 0
    assert facts["cpu"]["simd"]
    assert facts["paths"]["data"] == str(home / "data")
    assert any("temperature" in problem for problem in facts["problems"])
    assert run(["doctor"]) == 0
    assert "PROBLEM" in capfd.readouterr().out
