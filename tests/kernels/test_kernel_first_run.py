"""Compiling in several processes: what they leave is loaded, and whatever goes wrong only costs time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import localmoe.kernels.cpu  # noqa: F401  # links every part
from localmoe import load, runner
from localmoe.kernels import first_run
from quant import compiled

ONE_MODULE = (
    "from localmoe.kernels import first_run\n"
    "first_run.MODULES, first_run._this_cpus = {{'dot_k': 2, {other!r}: 1}}, dict\n"
    "first_run.CALLERS = {{}}\n"
    "first_run.compile_modules(2)"
)
HITS = (
    "from localmoe.kernels import dot_k; from quant import compiled\n"
    "compiled.link(dot_k.quad_q4_k); print(*[made.cache_hits for made in compiled._linked.values()])"
)
IMPORTS = "from localmoe.kernels import " + ", ".join(
    name for name in first_run.MODULES if name not in ("program", "kv_append")
)


def output(code: str, cache: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "LOCALMOE_CACHE_DIR": str(cache)},
    )  # fmt: skip
    return result.stdout.strip()


@pytest.mark.parametrize("other", ["half", "no_such_module"])
def test_what_another_process_compiled_is_loaded(other, tmp_path):
    """Also where a second one fails."""
    output(ONE_MODULE.format(other=other), tmp_path)
    assert output(HITS, tmp_path) == "1"


def test_modules_compiled_apart_compile_nothing_when_they_are_imported(tmp_path):
    """Otherwise a process that compiles one of them would compile others too, and so would the next."""
    output(IMPORTS, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_every_part_is_compiled_by_a_process_of_its_own():
    apart = {f"localmoe.kernels.{name}" for name in (*first_run.MODULES, *first_run._this_cpus())}
    parts = {name.rpartition(".")[0] for name in compiled._linked} - {"localmoe.kernels.dot"}  # it calls them
    assert parts
    assert parts <= apart


def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `compile_modules` starts from here on: processes that do nothing."""
    found: list[str] = []

    def start(modules: list[str]) -> subprocess.Popen[bytes]:
        found.extend(modules)
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0)"])

    monkeypatch.setattr(first_run, "_start", start)
    return found


def test_each_module_is_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setattr(first_run, "cache_directory", lambda: tmp_path / "new")
    found = started(monkeypatch)
    first_run.compile_modules(3)
    apart = {*first_run.MODULES, *first_run._this_cpus()}
    assert set(found[: len(apart)]) == apart
    assert sorted(found[len(apart) :]) == sorted(first_run.CALLERS)  # once what they call is there


def test_each_process_gets_about_as_much_to_do():
    seconds = {"a": 5.0, "b": 4.0, "c": 3.0, "d": 3.0, "e": 1.0}
    assert first_run.shares(seconds, 2) == [["a", "d"], ["b", "c", "e"]]
    assert first_run.shares(seconds, 9) == [["a"], ["b"], ["c"], ["d"], ["e"]]


def test_nothing_is_started_where_it_would_gain_nothing(monkeypatch, tmp_path):
    found = started(monkeypatch)
    monkeypatch.setattr(first_run, "cache_directory", lambda: tmp_path)
    first_run.compile_modules(1)
    monkeypatch.setattr(sys, "executable", "/opt/editor/bin/editor")  # a program that embeds Python
    first_run.compile_modules(2)
    monkeypatch.undo()
    found = started(monkeypatch)
    (tmp_path / "file").touch()
    monkeypatch.setattr(first_run, "cache_directory", lambda: tmp_path / "file" / "cache")
    first_run.compile_modules(2)
    assert found == []


def test_an_interrupt_leaves_no_process_behind(monkeypatch, tmp_path):
    running: list[subprocess.Popen[bytes]] = []

    def start(modules: list[str]) -> subprocess.Popen[bytes]:
        running.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"]))
        return running[-1]

    def interrupt(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        monkeypatch.setattr(subprocess.Popen, "wait", wait)
        raise KeyboardInterrupt

    wait = subprocess.Popen.wait
    monkeypatch.setattr(first_run, "cache_directory", lambda: tmp_path)
    monkeypatch.setattr(first_run, "_start", start)
    monkeypatch.setattr(subprocess.Popen, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        first_run.compile_modules(2)
    assert len(running) == 2
    assert [process.returncode for process in running] == [-signal.SIGKILL] * 2


def test_a_first_run_is_announced_until_one_was_complete(monkeypatch, tmp_path):
    """A directory that `quantize` or an interrupted run made does not count."""
    monkeypatch.setattr(first_run, "cache_directory", lambda: tmp_path)
    monkeypatch.setattr(runner, "compile_modules", lambda processes: None)
    monkeypatch.setattr(runner, "drop_old_caches", lambda: None)
    for expected in (1, 0):
        notices: list[str] = []
        load("demo", learn=False, notice=notices.append).close()
        assert sum("First run" in line for line in notices) == expected


def test_an_end_that_cannot_be_noted_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setattr(first_run, "cache_directory", lambda: tmp_path / "missing")
    first_run.end_first_run()
    assert first_run.is_first_run()
