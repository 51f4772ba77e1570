"""benchmarks/larger_than_memory.py: its figures, what it refuses, and the group that bounds memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from localmoe.cgroups import Hierarchy, hierarchies
from localmoe.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
MIB, GIB = 1 << 20, 1 << 30
linux = pytest.mark.skipif(sys.platform != "linux", reason="control groups, mincore and /proc are Linux's")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import larger_than_memory

    return larger_than_memory


@pytest.fixture
def groups(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import memory_group

    return memory_group


def run(side: str, *seconds: float, script) -> dict[str, object]:
    return {
        "side": side, "prefill_s": 2.0, "load_s": 1.0, "disk_bytes_per_token": 3 * 10**9,
        "group_peak_bytes": None, **script.rates(seconds),
    }  # fmt: skip


def test_rates_and_the_median_of_the_pairs_ratios(script):
    cold = script.rates([4.0, 2.0, 1.0, 1.0])
    assert cold == {"tokens_per_s": 0.5, "second_half_tokens_per_s": 1.0, "median_s": 1.5}
    times = {"localmoe": [(2, 1), (4, 1), (1, 1)], "llama.cpp": [(4, 4), (4, 2), (8, 8)]}
    rows = [run(side, *each, script=script) for pair in zip(*times.values(), strict=True)
            for side, each in zip(times, pair, strict=True)]  # fmt: skip
    result = script.compare(rows)
    medians = {"localmoe": 1.0, "llama.cpp": 0.25}
    assert result["second half"] == medians | {"ratio": 4.0, "ratios": [2.0, 4.0, 8.0]}
    assert result["all"]["ratios"] == pytest.approx([6 / 5, 8 / 3, 8.0])
    head, ours, theirs = script.table([rows[0] | {"hit_rate": 0.64}, rows[1]], 1.5e9)
    assert {len(head), len(ours), len(theirs)} == {len(head)}
    assert "64%" in ours
    assert theirs.split()[-5:] == ["3.00", "GB", "2.00", "s", "unknown"]


def test_ram_leaves_room_beside_it(script):
    assert script.ram_for(12 * GIB, None) == str(12 * GIB - script.BESIDE)
    assert script.ram_for(12 * GIB, "9GiB") == "9GiB"
    assert script.ram_for(12 * GIB, "auto") is None
    with pytest.raises(UsageError, match="--memory 256 MiB"):
        script.ram_for(256 * MIB, None)


def test_bad_input_gets_one_line(script, tmp_path, monkeypatch, capsys):
    file = tmp_path / "small.gguf"
    file.write_bytes(b"x" * 1000)
    cases = [
        (["--memory", "twelve"], "'twelve' is not a size"),
        (["--memory", "12GiB"], "is not larger than --memory 12.0 GiB"),
        (["--memory", "12GiB", "--file", str(tmp_path / "none")], "no such file"),
        (["--memory", "999", "--ram", "auto", "--peer", str(tmp_path / "none")], "No such file or directory"),
        (["--memory", "999", "--ram", "auto", "--peer", "/bin/false"], "has no llama-cpp-python"),
    ]
    for options, message in cases:
        given = ["x", "--peer", sys.executable, "--file", str(file), *options]
        monkeypatch.setattr(sys, "argv", given)
        with pytest.raises(SystemExit) as caught:
            script.main()
        error = capsys.readouterr().err
        assert (caught.value.code, error.count("\n")) == (2, 1)
        assert message in error


def test_both_sides_are_given_the_same_ids_and_threads(script):
    options = ["--peer", "PEER", "--prompt", "5", "--threads", "3"]
    given = script.commands(script.parser().parse_args(options), Path("f.gguf"), Path("ids.npy"), "9GiB")
    for command in given.values():
        line = " ".join(command)
        assert "f.gguf" in line
        assert "ids.npy" in line
        assert "--prompt 5 --threads 3" in line
    assert given["localmoe"][-2:] == ["--ram", "9GiB"]
    assert "--ram" not in given["llama.cpp"]


@linux
def test_what_is_missing_is_said_in_one_line(groups, tmp_path):
    (tmp_path / "cgroup").write_text("0::/\n")
    (tmp_path / "mountinfo").write_text("")
    with pytest.raises(groups.NoGroup, match="no control group"), groups.memory_group(GIB, tmp_path):
        pass
    mount = tmp_path / "mount"
    mount.mkdir()
    (tmp_path / "mountinfo").write_text(f"35 31 0:32 / {mount} rw - cgroup2 cgroup2 rw\n")
    (mount / "cgroup.controllers").write_text("cpu hugetlb\n")
    with pytest.raises(groups.NoGroup, match="counts no memory") as caught:
        groups.memory_group(GIB, tmp_path).__enter__()
    assert "\n" not in str(caught.value)
    assert "systemd-run" in str(caught.value)
    assert caught.value.exit_code == 2


@linux
def test_version_2_moves_this_process_down_and_back(groups, tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    (tmp_path / "cgroup.subtree_control").write_text("\n")
    with ExitStack() as undo:
        group = groups.make_group(Hierarchy(tmp_path, tmp_path, True), GIB, undo)
        assert (group.path / "memory.max").read_text() == str(GIB)
        assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"
        leaf = tmp_path / f"localmoe-self-{os.getpid()}"
        assert (leaf / "cgroup.procs").read_text() == str(os.getpid())
        for made in (leaf / "cgroup.procs", group.path / "memory.max"):
            made.unlink()  # the kernel's files go with their directory, ours do not
    assert (tmp_path / "cgroup.procs").read_text() == str(os.getpid())
    assert (tmp_path / "cgroup.subtree_control").read_text() == "-memory"
    assert not leaf.exists()
    assert not group.path.exists()


@linux
def test_a_group_bounds_what_a_program_takes_and_the_pages_of_what_it_reads(groups, tmp_path):
    file, code = tmp_path / "large", "import sys; print(len(open(sys.argv[1], 'rb').read(1 << 25)))"
    file.write_bytes(bytes(96 * MIB))
    groups.drop_file(file)
    read = "import sys\nf = open(sys.argv[1], 'rb', 0)\nwhile f.read(1 << 20): pass\nprint('read')"
    try:
        with groups.memory_group(64 * MIB) as group:
            assert group.run([sys.executable, "-c", read, str(file)]) == "read\n"
            assert groups.cached_bytes(file) < 64 * MIB <= group.peak() + 4 * MIB
            assert group.run([sys.executable, "-c", code, str(file)]) == f"{1 << 25}\n"
            with pytest.raises(groups.Failed, match="killed by signal 9"):
                group.run([sys.executable, "-c", "bytearray(1 << 27)"])
        assert not group.path.exists()
    except groups.NoGroup as missing:
        if any(not one.unified and os.access(one.own, os.W_OK) for one in hierarchies()):
            raise  # version 1 asks for no more than that; version 2 also that nobody else is in the group
        pytest.skip(str(missing))


def file_system(file: Path) -> str:
    """The type of the one that the file is on."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    inside = [(len(place), kind) for place, kind in mounts if file.is_relative_to(place)]
    return max(inside)[1]


@linux
def test_what_is_dropped_from_the_page_cache_is_seen_to_be_gone(groups, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(MIB + 1))
    if file_system(file) in ("tmpfs", "ramfs"):
        pytest.skip("this file system keeps its files in memory: none of their pages can be dropped")
    assert groups.drop_file(file) == 0
    file.read_bytes()
    assert groups.cached_bytes(file) >= MIB


@linux
def test_a_given_file_of_ids_is_what_is_measured(groups, tmp_path):
    from localmoe.catalogue import demo_path

    np.save(tmp_path / "ids.npy", np.arange(300, 312))
    command = [sys.executable, str(ROOT / "benchmarks/release_residency.py"), str(demo_path())]
    command += ["--ids", str(tmp_path / "ids.npy"), "--prompt", "5", "--threads", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
    row = json.loads(done.stdout)
    assert (row["prompt_tokens"], row["tokens"], len(row["seconds_per_token"])) == (5, 7, 7)
    assert any("20 positions" in line for line in row["plan"])
