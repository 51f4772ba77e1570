"""KV states on disk: restored where they fit, capped in size, never a reason to fail."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from fake_model import FakeDecoder, FakeModel

from localmoe.chat.kv_store import KVStore


@pytest.fixture
def decoder(model: FakeModel) -> FakeDecoder:
    decoder = model.decoder()
    decoder.extend(list(range(100)))
    return decoder


def test_saved_and_restored(tmp_path: Path, model: FakeModel, decoder: FakeDecoder) -> None:
    store = KVStore(tmp_path / "kv", 10_000)
    store.save("abc", decoder, "id")
    fresh = model.decoder()
    assert store.restore("abc", fresh, "id") == 100
    assert fresh.tokens == decoder.tokens
    assert stat.S_IMODE((tmp_path / "kv").stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "kv").iterdir()] == [0o600]


def test_what_does_not_fit_is_computed_anew(tmp_path: Path, model: FakeModel, decoder: FakeDecoder) -> None:
    store = KVStore(tmp_path / "kv", 10_000)
    store.save("abc", decoder, "id")
    assert store.restore("abc", model.decoder(), "another model") == 0
    assert store.restore("other", model.decoder(), "id") == 0
    (tmp_path / "kv" / "abc.kv").write_bytes(b"garbage")
    assert store.restore("abc", model.decoder(), "id") == 0
    store.save("abc", decoder, "id")
    store.forget("abc")
    assert store.restore("abc", model.decoder(), "id") == 0


def test_drafts_of_killed_processes_go(tmp_path: Path, decoder: FakeDecoder) -> None:
    store = KVStore(tmp_path / "kv", 10_000)
    store.save("abc", decoder, "id")
    left = tmp_path / "kv" / "abc.1.partial"
    left.write_bytes(b"text")
    other = tmp_path / "kv" / "other.2.partial"
    other.write_bytes(b"text")
    store.save("abc", decoder, "id")
    assert left.exists()  # its process may be about to finish it
    os.utime(left, (0, 0))
    store.save("abc", decoder, "id")
    assert not left.exists()
    left.write_bytes(b"text")
    store.forget("abc")
    assert list((tmp_path / "kv").iterdir()) == [other]


def test_the_longest_unused_goes(tmp_path: Path, model: FakeModel, decoder: FakeDecoder) -> None:
    store = KVStore(tmp_path / "kv", 10_000)
    store.save("a", decoder, "id")
    size = (tmp_path / "kv" / "a.kv").stat().st_size
    store = KVStore(tmp_path / "kv", 2 * size)
    store.save("b", decoder, "id")
    for age, name in ((30, "b"), (20, "a")):
        os.utime(tmp_path / "kv" / f"{name}.kv", (age, age))
    assert store.restore("b", model.decoder(), "id") == 100  # used: now the latest
    store.save("c", decoder, "id")
    assert sorted(file.name for file in (tmp_path / "kv").iterdir()) == ["b.kv", "c.kv"]


def test_a_directory_that_cannot_be_used(tmp_path: Path, decoder: FakeDecoder) -> None:
    (tmp_path / "file").write_text("")
    store = KVStore(tmp_path / "file" / "kv", 10_000)
    store.save("a", decoder, "id")
    assert store.restore("a", decoder, "id") == 0


def test_no_room_means_none_is_kept(tmp_path: Path, decoder: FakeDecoder) -> None:
    KVStore(tmp_path / "kv", 0).save("a", decoder, "id")
    assert not (tmp_path / "kv").exists()
