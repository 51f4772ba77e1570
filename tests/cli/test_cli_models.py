"""Models by name: catalogue, downloads from a local stand-in for the hub, import, verify, rm."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter

from localmoe import catalogue, download
from localmoe.cli.main import run
from localmoe.errors import UsageError
from localmoe.settings import canonical, parse
from quant.parts import open_model

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
from tiny_models import split_model, write_model

WEIGHTS = bytes(range(256)) * 9000
CONFIG = b'{"a": 1}'
COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Serves a repository as the hub does; `cut` ends the first transfers early, `damage` changes a byte."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"model.gguf": WEIGHTS, "config.json": CONFIG, "other.bin": b"x"}
        self.names = dict.fromkeys(self.files, "")
        self.cut = 0
        self.damage = False
        self.status = 200
        self.answers: list[str] = []  # to the first questions about the repository
        self.busy: list[tuple[int, str | None]] = []  # answers to the first transfers: status, Retry-After
        self.seen: list[tuple[str, str | None, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_arguments: Any) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        hub = self.server
        hub.seen.append((self.path, self.headers["Range"], self.headers["Authorization"]))
        if hub.status != 200:
            self._send(b"", hub.status)
        elif self.path.startswith("/api/") and hub.answers:
            self._send(hub.answers.pop(0).encode())
        elif self.path == "/api/models/some/repo/revision/main":
            self._send(json.dumps({"sha": COMMIT}).encode())
        elif self.path.startswith(f"/api/models/some/repo/tree/{COMMIT}"):
            listing = [{"type": "directory", "path": "d", "oid": "0", "size": 0}]
            listing += [self._entry(name, data) for name, data in hub.files.items()]
            self._send(json.dumps(listing).encode())
        elif self.path.startswith(f"/some/repo/resolve/{COMMIT}/"):  # the real hub redirects to another host
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{hub.server_address[1]}/cdn/{self.path.rsplit('/')[-1]}")
            self.end_headers()
        elif self.path.startswith("/cdn/") and hub.busy:
            status, after = hub.busy.pop(0)
            self._send(b"", status, {"Retry-After": after} if after else {})
        elif self.path.startswith("/cdn/"):
            self._file(hub.files[self.path.rsplit("/")[-1]])
        else:
            self._send(b"", 404)

    def _entry(self, name: str, data: bytes) -> dict[str, Any]:
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        path = self.server.names[name] or name
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git}
        if name.endswith(".gguf"):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}
        return entry

    def _file(self, data: bytes) -> None:
        start = int((self.headers["Range"] or "bytes=0-")[6:-1])
        body = data[start:]
        if self.server.damage:
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.cut and len(data) > 1000:
            self.server.cut -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def _send(self, body: bytes, status: int = 200, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("LOCALMOE_DATA_DIR", str(tmp_path / "data"))
    facts = vars(catalogue.entries()["mixtral-8x7b"])
    gguf = catalogue.Source("gguf", "some/repo", ["*.gguf"], 1)
    original = catalogue.Source("safetensors", "some/repo", ["*.json"], 1)
    small = catalogue.Entry(**{**facts, "name": "small", "sources": (gguf, original)})
    known = {**catalogue.entries(), "small": small}
    monkeypatch.setattr(catalogue, "entries", lambda: known)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts in seconds; no test waits for them."""
    waited: list[float] = []
    monkeypatch.setattr(download, "sleep", waited.append)
    return waited


def test_pull_resumes_and_registers(
    hub: Hub, pauses: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.cut = 2
    assert run(["models", "pull", "small"]) == 0
    target = tmp_path / "data" / "models" / "small" / "model.gguf"
    assert target.read_bytes() == WEIGHTS
    assert not list(target.parent.glob("*.partial"))
    ranges = [wanted for path, wanted, _ in hub.seen if path.startswith("/cdn")]
    half = len(WEIGHTS) // 2
    assert ranges == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]
    assert pauses == [1, 2]
    output = capsys.readouterr()
    assert output.out.strip() == str(target)
    assert "\x1b" not in output.err
    assert catalogue.find("small").path == target
    hub.seen.clear()
    assert run(["models", "pull", "small"]) == 0
    assert not [path for path, _, _ in hub.seen if path.startswith("/cdn")]  # nothing is fetched twice


def test_a_later_run_goes_on(hub: Hub, tmp_path: Path) -> None:
    partial = tmp_path / "data" / "models" / "small" / "model.gguf.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(WEIGHTS[:1000])
    assert run(["models", "pull", "small"]) == 0
    assert partial.with_suffix("").read_bytes() == WEIGHTS
    assert "bytes=1000-" in [wanted for _, wanted, _ in hub.seen]


def test_only_what_is_missing_needs_room(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = tmp_path / "data" / "models" / "small" / "model.gguf.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(WEIGHTS[:-1000])
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 999}))
    assert run(["models", "pull", "small"]) == 2
    assert "1000 B are needed" in capsys.readouterr().err
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 1000}))
    assert run(["models", "pull", "small"]) == 0


def test_a_second_pull_is_refused(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "data" / "models" / "small"
    directory.mkdir(parents=True)
    with download._locked(directory):
        assert run(["models", "pull", "small"]) == 1
    assert "another pull" in capsys.readouterr().err
    assert run(["models", "pull", "small"]) == 0


@pytest.mark.parametrize(
    ("busy", "code", "expected"),
    [
        ([(429, "7"), (503, None), (429, "0"), (500, "Wed, 21 Oct 2037 07:28:00 GMT")], 0, [7, 2, 4, 8]),
        ([(429, "61")], 1, []),  # not within one command
        ([(503, None)] * 5, 1, [1, 2, 4, 8]),
        ([(403, "1")], 1, []),
    ],
)
def test_a_busy_hub_is_given_time(
    hub: Hub, pauses: list[float], busy: list[tuple[int, str | None]], code: int, expected: list[float]
) -> None:
    hub.busy = busy
    assert run(["models", "pull", "small"]) == code
    assert pauses == expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device without room")
def test_a_full_disk_is_not_the_network(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    partial = tmp_path / "data" / "models" / "small" / "model.gguf.partial"
    partial.parent.mkdir(parents=True)
    partial.symlink_to("/dev/full")
    assert run(["models", "pull", "small"]) == 1
    assert f"{partial} cannot be written: No space left" in capsys.readouterr().err
    assert len([path for path, _, _ in hub.seen if path.startswith("/cdn")]) == 1


SHA = json.dumps({"sha": COMMIT})
LISTED = {"type": "file", "path": "model.gguf", "size": 1, "oid": "0"}


@pytest.mark.parametrize(
    "answers",
    [
        *([answer] for answer in ("[]", "{}", '"x"', "1", '{"sha": 1}', "[" * 10**5, "<html>")),
        *([SHA, answer] for answer in ("{}", "1", '"x"', "[[]]", "[{}]")),
        *([SHA, json.dumps([LISTED | {key: value}])] for key, value in (
            ("size", -1), ("size", 10**400), ("size", "1"), ("oid", None), ("path", 1), ("type", []),
            ("lfs", [1]), ("lfs", {"oid": 1}),
        )),
    ],
)  # fmt: skip
def test_what_is_no_hub(hub: Hub, capsys: pytest.CaptureFixture[str], answers: list[str]) -> None:
    hub.answers = answers
    assert run(["models", "pull", "small"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_token_goes_to_the_hub_only(hub: Hub) -> None:
    assert run(["models", "pull", "small"]) == 0
    tokens = {path.split("/")[1]: token for path, _, token in hub.seen}
    assert tokens == {"api": "Bearer secret", "some": "Bearer secret", "cdn": None}


def test_damage_is_found(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.damage = True
    assert run(["models", "pull", "small"]) == 1
    assert "arrived damaged" in capsys.readouterr().err
    assert not list((tmp_path / "data" / "models" / "small").iterdir())
    assert run(["models", "pull", "small", "--source", "safetensors"]) == 1  # checked by the git id


def test_original_weights_have_a_name_of_their_own(
    hub: Hub, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "data" / "models" / "small-safetensors"
    assert run(["models", "pull", "small", "--source", "safetensors"]) == 0
    steps = f"localmoe quantize {directory} -o small.gguf && localmoe models import small.gguf"
    assert f"Next: {steps}\n" in capsys.readouterr().err
    for name in ("small", "small-safetensors"):
        with pytest.raises(UsageError, match=f"converted first: {steps}"):
            catalogue.find(name)
    converted = tiny.rename(tmp_path / "small.gguf")
    assert run(["models", "import", str(converted)]) == 0
    assert catalogue.find("small").path == converted
    assert run(["models", "pull", "small", "--source", "safetensors"]) == 0
    assert catalogue.find("small").path == converted
    assert "models import small-q4_k_m.gguf" in capsys.readouterr().err  # small is taken
    assert run(["models", "verify", "small-safetensors"]) == 0
    assert run(["models", "rm", "small-safetensors", "--yes"]) == 0
    assert not directory.exists()
    assert converted.exists()


@pytest.mark.parametrize(("status", "expected"), [(401, "HF_TOKEN"), (404, "does not have"), (500, "later")])
def test_refusals(hub: Hub, capsys: pytest.CaptureFixture[str], status: int, expected: str) -> None:
    hub.status = status
    assert run(["models", "pull", "small"]) == 1
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["../x.gguf", "/etc/x.gguf", "a\\..\\x.gguf", "c:x.gguf", "e\x1bx.gguf"])
def test_a_hub_cannot_write_elsewhere(hub: Hub, capsys: pytest.CaptureFixture[str], name: str) -> None:
    hub.names["model.gguf"] = name
    assert run(["models", "pull", "small"]) == 1
    assert "written elsewhere" in capsys.readouterr().err


def test_no_room(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 1000}))
    assert run(["models", "pull", "small"]) == 2
    assert "make room" in capsys.readouterr().err


def test_pull_without_a_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "pull", "demo"]) == 2
    assert "built in" in capsys.readouterr().err
    assert run(["models", "pull", "mixtral-8x7"]) == 2
    assert "did you mean 'mixtral-8x7b'?" in capsys.readouterr().err


# What is on this machine


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCALMOE_DATA_DIR", str(tmp_path / "data"))
    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(path, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("copy", [False, True])
def test_import_verify_rm(tiny: Path, copy: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "import", str(tiny), "--name", "mine", *(["--copy"] if copy else [])]) == 0
    path = catalogue.find("mine").path
    assert (path != tiny) == copy
    assert run(["models", "verify", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["good"]
    path.write_bytes(path.read_bytes() + b"x")
    assert run(["models", "verify", "mine"]) == 1
    assert "damaged" in capsys.readouterr().out
    assert run(["models", "rm", "mine"]) == 2  # nobody to ask
    assert run(["models", "rm", "mine", "--yes"]) == 0
    assert tiny.exists()
    assert path.exists() != copy
    with pytest.raises(UsageError, match="no model or file 'mine'"):
        catalogue.find("mine")


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A model in three files."""
    monkeypatch.setenv("LOCALMOE_DATA_DIR", str(tmp_path / "data"))
    return split_model(write_model(tmp_path / "whole.gguf"), 5, 12, stem=tmp_path / "m")


@pytest.mark.parametrize("copy", [False, True])
def test_any_part_imports_all(parts: list[Path], copy: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "import", str(parts[1]), *(["--copy"] if copy else [])]) == 0
    assert capsys.readouterr().err.endswith("m-00001-of-00003.gguf, in 3 parts\n")
    assert run(["models", "import", str(parts[2])]) == (2 if copy else 0)  # known by then, where it is
    first = catalogue.find("m").path
    assert (first != parts[0]) == copy
    kept = [first.with_name(part.name) for part in parts]
    assert [path.read_bytes() for path in kept] == [part.read_bytes() for part in parts]
    size = sum(part.stat().st_size for part in parts)
    capsys.readouterr()
    assert run(["models", "list", "--installed", "--json"]) == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert listed["m"]["bytes"] == size
    assert run(["models", "verify", "m", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == {part.name: "good" for part in parts}
    data = kept[1].read_bytes()
    kept[1].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    kept[2].unlink()
    assert run(["models", "verify", "m"]) == 1
    results = ("good", "damaged", "missing")
    expected = [f"{part.name}: {result}" for part, result in zip(parts, results, strict=True)]
    assert capsys.readouterr().out.splitlines() == expected
    assert run(["models", "rm", "m", "--yes"]) == 0
    assert [path.exists() for path in kept] == [not copy, not copy, False]
    assert parts[0].exists()


def test_parts_are_imported_by_the_names_of_links(parts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    for number, part in enumerate(parts):
        part.rename(tmp_path / "blobs" / f"{number}")
        part.symlink_to(tmp_path / "blobs" / f"{number}")
    assert run(["models", "import", str(parts[2]), "--name", "linked"]) == 0
    assert catalogue.find("linked").path == parts[0]
    assert run(["models", "verify", "linked"]) == 0


def test_a_copy_of_parts_cut_short_leaves_nothing(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copyfile = shutil.copyfile

    def full(source: Path, target: Path) -> None:
        if source == parts[1]:
            raise OSError(28, "No space left on device")
        copyfile(source, target)

    monkeypatch.setattr("localmoe.cli.models.shutil.copyfile", full)
    assert run(["models", "import", str(parts[0]), "--copy"]) == 2
    assert not list((tmp_path / "data" / "models").iterdir())


def test_parts_that_are_not_all_there_are_not_imported(
    parts: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    parts[2].unlink()
    assert run(["models", "import", str(parts[0])]) == 2
    assert f"{parts[2]}: no such file" in capsys.readouterr().err
    assert "m" not in catalogue.installed()
    assert run(["models", "verify", str(parts[0])]) == 2


def test_a_model_in_parts_is_found_by_any(parts: list[Path]) -> None:
    found = [catalogue.find(str(part)) for part in parts]
    assert found == [found[0]] * 3
    assert found[0].path == parts[0]
    assert found[0].names == ("m", "m-00001-of-00003", str(parts[0]))


@pytest.mark.parametrize("missing", [None, 0, 2])
def test_pull_of_a_model_in_parts(
    hub: Hub, parts: list[Path], tmp_path: Path, missing: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files = {part.name: part.read_bytes() for i, part in reversed([*enumerate(parts)]) if i != missing}
    hub.names = {name: f"Q4_K_M/{name}" for name in hub.files}
    directory = tmp_path / "data" / "models" / "small"
    if missing is not None:
        assert run(["models", "pull", "small"]) == 1
        assert f"some/repo lacks {parts[missing].name}, a part of the model" in capsys.readouterr().err
        assert not directory.exists()
        return
    assert run(["models", "pull", "small"]) == 0
    first = directory / "Q4_K_M" / parts[0].name
    assert capsys.readouterr().out == f"{first}\n"
    assert catalogue.find("small").path == first
    assert catalogue.installed()["small"].size == sum(part.stat().st_size for part in parts)
    assert run(["models", "verify", "small"]) == 0
    good = [f"{part.name}: good" for part in parts]
    assert sorted(capsys.readouterr().out.splitlines()) == good
    with open_model(first) as model:
        assert len(model.parts) == 3
    (directory / "Q4_K_M" / parts[1].name).unlink()
    assert run(["models", "verify", "small"]) == 1
    assert f"{parts[1].name} cannot be used; pull or import it again" in capsys.readouterr().err
    assert run(["models", "pull", "small"]) == 0
    assert run(["models", "verify", "small"]) == 0
    assert run(["models", "rm", "small", "--yes"]) == 0
    assert not directory.exists()


def test_import_refuses(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "import", str(tmp_path / "gone.gguf")]) == 2
    (tmp_path / "text.gguf").write_text("not a model")
    assert run(["models", "import", str(tmp_path / "text.gguf")]) == 2
    assert run(["models", "import", str(tiny), "--name", "../x"]) == 2
    assert run(["models", "import", str(tiny), "--name", "demo"]) == 2
    assert run(["models", "import", str(tiny)]) == 0
    other = tmp_path / "other" / "tiny.gguf"
    other.parent.mkdir()
    other.write_bytes(tiny.read_bytes())
    capsys.readouterr()
    assert run(["models", "import", str(other)]) == 2
    assert "choose another --name" in capsys.readouterr().err


def test_a_copy_cut_short_leaves_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_source: Path, target: Path) -> None:
        target.write_bytes(b"GGUF")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("localmoe.cli.models.shutil.copyfile", full)
    assert run(["models", "import", str(tiny), "--copy"]) == 2
    assert "No space left on device; make room there, or import it without --copy" in capsys.readouterr().err
    assert not list((tmp_path / "data" / "models").iterdir())


def test_list_and_show(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["models", "import", str(tiny)])
    capsys.readouterr()
    assert run(["models", "list", "--json"]) == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert listed["tiny"]["installed"]
    assert listed["mixtral-8x7b"]["sources"][0]["repo"].startswith("TheBloke/")
    assert run(["models", "show", "mixtral-8x7b"]) == 0
    assert "8 experts, 2 per token" in capsys.readouterr().out
    assert run(["models", "show", "mixtral-8x7"]) == 2


def test_find(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.parent)
    assert catalogue.find("tiny.gguf").path == Path("tiny.gguf")
    for name, expected in {
        "gone.gguf": "no such file",
        "mixtral-8x22b": "models pull mixtral-8x22b",
        "mixtral-8x22": "did you mean 'mixtral-8x22b'",
        "What is this?": "chat -p TEXT",
    }.items():
        with pytest.raises(UsageError, match=expected):
            catalogue.find(name)


def test_the_catalogue_is_sound() -> None:
    for entry in catalogue.entries().values():
        assert 0 < entry.active <= entry.parameters
        assert entry.experts_used <= entry.experts
        assert all(source.files and source.repo.count("/") == 1 for source in entry.sources)
        assert all(parse(canonical(name), value) == value for name, value in entry.settings.items())
        for source in entry.sources:
            if source.kind == "safetensors":
                read = ("config.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json",
                        "chat_template.jinja", "chat_template.json")  # fmt: skip
                assert all(any(fnmatch(name, pattern) for pattern in source.files) for name in read)
