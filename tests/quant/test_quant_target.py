"""Where a conversion writes: what it must not overwrite, two at a time, what the system refuses."""

import errno
import os
import resource
import shutil
import sys

import numpy as np
import pytest
from conversions import interrupted, planned

from quant.convert import Progress, convert
from quant.errors import ModelFileError, QuantError
from quant.gguf import GGUFFile, GGUFWriter
from quant.imatrix import Importance, Statistics, read_imatrix


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_targets_that_cannot_be_written_are_refused(mixtral, tmp_path, monkeypatch):
    out = tmp_path / "m.gguf"
    with pytest.raises(ModelFileError, match="no such directory"):
        convert(planned(mixtral), tmp_path / "none" / "m.gguf")
    with pytest.raises(ModelFileError, match="is a directory"):
        convert(planned(mixtral), tmp_path)
    out.write_text("mine")
    with pytest.raises(ModelFileError, match=r"exists; .*--force"):
        convert(planned(mixtral), out)
    assert out.read_text() == "mine"
    usage = type("Usage", (), {"free": 1 << 20})
    monkeypatch.setattr("quant.target.shutil.disk_usage", lambda path: usage)
    with pytest.raises(ModelFileError, match=r"has 0\.0 GB free, the file needs .*make room"):
        convert(planned(mixtral), tmp_path / "other.gguf")
    monkeypatch.setattr("quant.target.os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(ModelFileError, match=r"other\.gguf: its directory may not be written to"):
        convert(planned(mixtral), tmp_path / "other.gguf")
    assert names(tmp_path) == ["m.gguf"]


# What must not be overwritten


@pytest.mark.parametrize("name", ["m.gguf", "m.gguf.partial", "m.gguf.journal"])
@pytest.mark.parametrize("restart", [False, True])
def test_a_gguf_source_is_not_written_over(mixtral, tmp_path, name, restart):
    source = tmp_path / name
    convert(planned(mixtral, "q8_0"), tmp_path / "whole.gguf", threads=2)
    (tmp_path / "whole.gguf").rename(source)
    before = source.read_bytes()
    with pytest.raises(ModelFileError, match=rf"{name} is a file of the source itself"):
        convert(planned(source), tmp_path / "m.gguf", force=True, restart=restart)
    assert source.read_bytes() == before
    assert names(tmp_path) == [name]


def test_no_part_of_a_split_source_is_written_over(mixtral, tmp_path):
    convert(planned(mixtral, "q8_0"), tmp_path / "whole.gguf", threads=2)
    first, second = (tmp_path / f"s-0000{i}-of-00002.gguf" for i in (1, 2))
    with GGUFFile.open(tmp_path / "whole.gguf") as file:
        split = {"split.count": np.uint16(2)}
        with GGUFWriter(first, file.metadata | split):  # without a tensor, as llama.cpp's splits can be
            pass
        with GGUFWriter(second, split) as writer:
            for name, tensor in file.tensors.items():
                writer.declare(name, tensor.shape, tensor.type)
            for name, tensor in file.tensors.items():
                writer.write(name, tensor.data)
    before = first.read_bytes()
    with pytest.raises(ModelFileError, match="file of the source itself"):
        convert(planned(second), first, force=True)
    assert first.read_bytes() == before


@pytest.mark.parametrize("name", ["tokenizer.model", "config.json", "model-00002-of-00002.safetensors"])
def test_no_file_of_a_source_directory_is_written_over(mixtral, tmp_path, name):
    source = shutil.copytree(mixtral, tmp_path / "m")
    (tmp_path / "link").symlink_to(source / name)
    for out in (source / name, tmp_path / "link"):
        with pytest.raises(ModelFileError, match="file of the source itself"):
            convert(planned(source), out, force=True)
    assert (source / name).read_bytes() == (mixtral / name).read_bytes()
    for _ in range(2):  # what conversions leave there is not of the source
        convert(planned(source), source / "m.gguf", threads=2, force=True)


def test_the_importance_matrix_is_not_written_over(mixtral, tmp_path):
    out, ones = tmp_path / "m.gguf", np.ones((1, 256), np.float32)
    Importance({"output.weight": Statistics(ones, ones[0, :1])}).write(out)
    with pytest.raises(ModelFileError, match="file of the source itself"):
        convert(planned(mixtral, importance=read_imatrix(out)), out, force=True)


@pytest.mark.parametrize("ending", ["partial", "journal"])
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("content", ["my notes\n", "GGUF of something else", '{"a": 1}\n'])
def test_what_is_no_conversions_is_left_as_it_is(mixtral, tmp_path, ending, restart, content):
    other = tmp_path / f"m.gguf.{ending}"
    other.write_text(content)
    with pytest.raises(ModelFileError, match=rf"m\.gguf\.{ending} was not left by this .*move it away"):
        convert(planned(mixtral), tmp_path / "m.gguf", restart=restart)
    assert other.read_text() == content
    assert names(tmp_path) == [other.name]


def test_a_strangers_file_beside_a_journal_goes_only_when_asked(mixtral, tmp_path):
    out, partial = tmp_path / "m.gguf", tmp_path / "m.gguf.partial"
    interrupted(planned(mixtral), out, 5)
    partial.write_text("something else")
    with pytest.raises(ModelFileError, match=r"partial was not left by this"):
        convert(planned(mixtral), out)
    assert partial.read_text() == "something else"
    assert convert(planned(mixtral), out, threads=2, restart=True).resumed == 0


@pytest.mark.parametrize("left", [b"", b'{"sou', b'{"source": "0123'])
def test_a_journal_cut_short_in_its_first_line_is_begun_anew(mixtral, tmp_path, left):
    (tmp_path / "m.gguf.journal").write_bytes(left)
    assert convert(planned(mixtral), tmp_path / "m.gguf", threads=2).resumed == 0
    assert names(tmp_path) == ["m.gguf"]


# Two at a time


@pytest.mark.parametrize("restart", [False, True])
def test_two_conversions_to_one_file_do_not_meet(mixtral, tmp_path, restart):
    out = tmp_path / "m.gguf"
    seen = []

    def second(progress: Progress) -> None:
        if progress.tensor == 5 and not seen:
            seen.append(1)
            with pytest.raises(QuantError, match="in use"):
                convert(planned(mixtral), out, restart=restart)

    convert(planned(mixtral), tmp_path / "whole.gguf", threads=2)
    convert(planned(mixtral), out, threads=2, progress=second)
    assert seen
    assert out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_a_file_that_took_the_partial_ones_place_gets_no_final_name(mixtral, tmp_path):
    partial, journal = tmp_path / "m.gguf.partial", tmp_path / "m.gguf.journal"

    def replace(progress: Progress) -> None:
        if progress.tensor == 5:
            for path in (partial, journal):
                path.unlink(missing_ok=True)
                path.write_text("another's")

    with pytest.raises(QuantError, match="was replaced while it was written"):
        convert(planned(mixtral), tmp_path / "m.gguf", threads=2, progress=replace)
    assert names(tmp_path) == [journal.name, partial.name]
    assert partial.read_text() == journal.read_text() == "another's"


def test_a_journal_removed_before_it_was_locked_is_made_anew(tmp_path, monkeypatch):
    from quant.journal import Journal

    path, lock, calls = tmp_path / "m.gguf.journal", Journal._lock, []

    def ended_meanwhile(self, handle):
        calls.append(handle)
        if len(calls) == 1:
            path.unlink()
        lock(self, handle)

    monkeypatch.setattr(Journal, "_lock", ended_meanwhile)
    journal = Journal(path)
    journal.append({"source": "x"})
    assert path.read_text() == '{"source": "x"}\n'
    journal.close()


# What the system refuses


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_a_full_disk_is_reported_and_can_be_gone_on_from(mixtral, tmp_path, monkeypatch):
    write, calls = GGUFWriter.write, []

    def full(self, name, data):
        calls.append(name)
        if len(calls) == 6:
            self.abandon()
            self._file = os.fdopen(os.open("/dev/full", os.O_RDWR), "w+b")
            self._file.write(b"in the buffer, which cannot be flushed when the file is closed either")
        write(self, name, data)

    monkeypatch.setattr(GGUFWriter, "write", full)
    out, plan, before = tmp_path / "m.gguf", planned(mixtral), names_of_open_files()
    with pytest.raises(ModelFileError, match=r"m\.gguf: the disk is full; make room"):
        convert(plan, out, threads=1)
    plan.source.close()
    assert names_of_open_files() == before
    assert not out.exists()
    assert convert(planned(mixtral), out, threads=1).resumed == 5


def names_of_open_files():
    handles = [f"/proc/self/fd/{handle}" for handle in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(handle) for handle in handles if os.path.exists(handle))


def test_a_limit_on_a_files_size_is_reported_and_can_be_gone_on_from(mixtral, tmp_path):
    out, (soft, hard) = tmp_path / "m.gguf", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        with pytest.raises(ModelFileError, match=r"m\.gguf: .*allows no file so large; write elsewhere"):
            convert(planned(mixtral), out, threads=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert convert(planned(mixtral), out, threads=1).resumed > 0


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EROFS])
def test_other_refusals_name_the_file(mixtral, tmp_path, monkeypatch, number):
    def refuse(self):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(GGUFWriter, "flush", refuse)
    with pytest.raises(ModelFileError, match=r"m\.gguf(: the disk is full| cannot be written: Read-only)"):
        convert(planned(mixtral), tmp_path / "m.gguf", threads=1)


def test_an_error_of_reading_is_not_told_as_one_of_writing(mixtral, tmp_path, monkeypatch):
    def refuse(self, path, offset, nbytes):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("quant.sources.Files.read", refuse)
    with pytest.raises(PermissionError, match="safetensors"):
        convert(planned(mixtral), tmp_path / "m.gguf", threads=1)
