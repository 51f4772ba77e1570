"""`localmoe experts`: what it prints, and where that is from."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from localmoe.cli.main import run as command
from localmoe.experts.report import concentration_table, heat_map, simulation_table
from localmoe.experts.simulate import simulate
from localmoe.experts.store import StatisticsStore
from localmoe.experts.traces import generate_trace, load_trace, save_trace
from localmoe.model.identity import identity
from quant.gguf import GGUFFile

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tiny_model, tmp_path, monkeypatch, capsys):
    """run(*arguments) -> (exit code, stdout, stderr) of `localmoe experts tiny.gguf ...`."""
    from localmoe.experts import store

    monkeypatch.setattr(store, "default_directory", lambda: tmp_path / "statistics")

    def invoke(*arguments):
        code = command(["experts", str(tiny_model), *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return invoke


def test_a_trace_is_simulated(run, tmp_path):
    trace = generate_trace(200, 3, seed=1)
    save_trace(tmp_path / "t.npz", trace)
    code, out, err = run("--simulate", "--trace", tmp_path / "t.npz", "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    expected = simulate(trace, 8)
    assert [row["budget"] for row in answer["simulation"]] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    for row, result in zip(answer["simulation"], expected, strict=True):
        assert row["slots"] == result.slots == round(row["budget"] * 24)
        assert row["hit_rate"] == result.hit_rate
        assert list(row["hit_rate"]) == ["ours", "lru", "lfu", "static", "belady"]
    assert (answer["layers"], answer["experts"], answer["experts_used"], answer["tokens"]) == (3, 8, 2, 200)
    np.testing.assert_allclose(np.sum(answer["shares"], axis=1), 1, atol=1e-5)


def test_with_nothing_recorded_a_built_in_text_is_run_and_kept(run, tmp_path):
    path = tmp_path / "new.npz"
    code, out, err = run("--trace", path)
    assert code == 0
    assert "built-in text" in out
    assert str(path) in err
    recorded = load_trace(path, 3, 8)
    assert len(recorded) > 400
    assert f"{len(recorded)} tokens" in out
    assert "\x1b" not in out
    code, again, _ = run("--trace", path)
    assert again.splitlines()[2:] == out.splitlines()[2:]


def test_the_built_in_text_is_not_reported_as_use(run):
    first = run("--json")[1]
    assert json.loads(first)["source"] == "a built-in text"
    assert run("--json")[1] == first


def test_the_stored_statistics_are_shown(run, tiny_model, tmp_path):
    with GGUFFile.open(tiny_model) as file:
        store = StatisticsStore(identity(file), tmp_path / "statistics")
    statistics = store.load(3, 8, 2)
    statistics.observe_tokens(generate_trace(321, 3, seed=4))
    store.save(statistics)
    code, out, err = run("--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert (answer["tokens"], answer["source"]) == (321, "all use so far")
    np.testing.assert_allclose(answer["shares"], statistics.totals / 642, atol=1e-6)
    store.path.write_bytes(b"damaged")
    code, out, err = run()
    assert code == 0
    assert "ignored" in err


def test_the_picture_is_drawn(run, tmp_path):
    save_trace(tmp_path / "t.npz", generate_trace(50, 3))
    code, _, _ = run("--simulate", "--trace", tmp_path / "t.npz", "--plot", tmp_path / "p.png")
    assert code == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    code, out, err = run("--trace", tmp_path / "t.npz", "--plot", tmp_path / "p.nonsense")
    assert (code, out) == (2, "")
    assert "cannot write" in err


def test_without_matplotlib_one_line_says_what_to_install(run, tmp_path, monkeypatch):
    save_trace(tmp_path / "t.npz", generate_trace(50, 3))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = run("--trace", tmp_path / "t.npz", "--plot", tmp_path / "p.png")
    assert (code, out) == (2, "")
    assert "pip install" in err
    assert len(err.splitlines()) == 1


def test_what_cannot_be_used_is_one_line(run, tmp_path):
    save_trace(tmp_path / "other.npz", generate_trace(50, 5))
    (tmp_path / "none.npz").write_bytes(b"")
    for name, message in (("other.npz", "5 layers"), ("none.npz", "not a trace")):
        code, out, err = run("--simulate", "--trace", tmp_path / name)
        assert (code, out) == (2, "")
        assert message in err
        assert len(err.splitlines()) == 1


def test_the_command_has_help_without_heavy_imports():
    program = (
        "import sys; from localmoe.cli.main import run; run(['experts', '--help'])\n"
        "print([name for name in ('numpy', 'numba', 'torch', 'matplotlib') if name in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert "--simulate" in output
    assert output.splitlines()[-1] == "[]"


def test_the_heat_map_shades_by_share():
    shares = np.array([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    lines = heat_map(shares, 80)
    assert lines[1] == "    0  ████"
    assert lines[2] == "    1  " + "░" * 16
    assert "even: 25.0%" in lines[-1]
    assert "\x1b[38;5;" in heat_map(shares, 80, colour=True)[1]


def test_a_heat_map_of_more_experts_than_columns_puts_neighbours_together():
    shares = np.zeros((1, 130))
    shares[0, [0, 1, 129]] = 0.25, 0.25, 0.5
    lines = heat_map(shares, 80)
    assert lines[1] == f"    0  █{' ' * 63}█"
    assert lines[-1].startswith("share of a layer's routing, 2 a cell")
    assert "even: 1.5%" in lines[-1]
    assert max(map(len, lines)) <= 80


def test_tables_name_their_columns():
    results = simulate(generate_trace(20, 3), 8, (0.5,))
    header = ["budget", "slots", "ours", "lru", "lfu", "static", "belady"]
    assert simulation_table(results)[0].split() == header
    assert simulation_table(results)[1].split()[:2] == ["50%", "12"]
    assert concentration_table(np.full((3, 8), 5))[1].split()[-1] == "91.7%"
