"""Traces on disk, and sizes as people write them."""

import numpy as np
import pytest

from localmoe.errors import UsageError
from localmoe.experts.sizes import format_size, parse_size, round_up_setting
from localmoe.experts.traces import TraceRecorder, generate_trace, load_trace


def test_a_recorded_trace_is_read_back(tmp_path):
    routing = generate_trace(20, 3, seed=2)
    recorder = TraceRecorder()
    recorder.append(routing[:15])
    for token in routing[15:]:
        recorder.append(token)
    recorder.save(tmp_path / "trace.npz")
    loaded = load_trace(tmp_path / "trace.npz", 3, 8)
    np.testing.assert_array_equal(loaded, routing)
    assert loaded.dtype == np.uint8
    assert [path.name for path in tmp_path.iterdir()] == ["trace.npz"]
    with np.load(tmp_path / "trace.npz") as archive:
        assert archive.files == ["routing"]


def test_an_unwritable_trace_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="cannot write"):
        TraceRecorder().save(tmp_path / "missing" / "trace.npz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"routing": np.zeros((4, 3, 2), np.int64)}, "uint8"),
        ({"routing": np.zeros((4, 3), np.uint8)}, "uint8"),
        ({"routing": np.zeros((0, 3, 2), np.uint8)}, "not empty"),
        ({"other": np.zeros((4, 3, 2), np.uint8)}, "named routing"),
        ({"routing": np.full((4, 3, 2), 9, np.uint8)}, "8 experts"),
        ({"routing": np.zeros((4, 5, 2), np.uint8)}, "5 layers"),
        ({"routing": np.zeros((4, 3, 2), np.uint8)}, "twice"),
        ({"routing": np.array([None], object)}, "named routing"),
    ],
)
def test_what_is_not_a_trace_of_this_model_is_refused(tmp_path, content, message):
    np.savez(tmp_path / "t.npz", **content)
    with pytest.raises(UsageError, match=message):
        load_trace(tmp_path / "t.npz", 3, 8)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "t.npz"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not a trace"):
        load_trace(path, 3, 8)
    with pytest.raises(UsageError, match="cannot read"):
        load_trace(tmp_path / "missing.npz", 3, 8)


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 << 30), ("12G", 12 << 30), ("8000MB", 8_000_000_000), ("0.5 gib", 1 << 29),
     ("1048576", 1 << 20), ("1.5t", 3 << 39),
     ("512kb", 512_000), (" 2 MiB ", 2 << 20), ("7B", 7), (".5K", 512)],
)  # fmt: skip
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "GiB", "-1G", "8 GiBs", "1e9", "0", "nan", "inf", "8,5G", "1_0G", "٣G", "9" * 500, "99999999T"],
)
def test_what_is_no_size_is_refused_in_one_line(text):
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)


def test_sizes_are_shown_with_three_digits():
    assert [format_size(n) for n in (512, 1 << 20, 15 << 29, 426 << 20, 28_400_000_000)] == [
        "512 B", "1.00 MiB", "7.50 GiB", "426 MiB", "26.4 GiB",
    ]  # fmt: skip
    assert (round_up_setting((3 << 30) + 1), round_up_setting(100 << 20)) == ("3.1GiB", "100MiB")
    assert parse_size(round_up_setting(12_345_678_901)) >= 12_345_678_901
