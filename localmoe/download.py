"""Downloading models: the one place in localmoe that opens a network socket.

Files come from a Hugging Face hub over HTTPS, into `NAME.partial` files that a later call resumes; each is
checked against the size and digest that the hub lists before it gets its name. `HF_ENDPOINT` chooses
another hub, `HF_TOKEN` is sent to it (and not to where it redirects).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from time import sleep
from typing import Any, Protocol, TypeVar

from localmoe.errors import LocalMoeError, UsageError
from localmoe.experts.sizes import format_size

if sys.platform != "win32":
    import fcntl

_CHUNK = 1 << 20
_TIMEOUT = 60.0
_ATTEMPTS = 5
_LONGEST_PAUSE = 60.0  # seconds; a server that wants more is left alone until the user's next try
_MAX_SIZE = 1 << 50

T = TypeVar("T")
Progress = Callable[[str, int, int], None]  # file, bytes done, bytes in all


class DownloadError(LocalMoeError):
    """A download failed; the message says why and what to do."""


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. `sha256` is empty for small files, which the hub lists by their git id."""

    path: str
    size: int
    sha256: str
    git_id: str

    def digest(self) -> Digest:
        """A hash that gives `expected` for the right bytes."""
        if self.sha256:
            return hashlib.sha256()
        blob = hashlib.sha1(usedforsecurity=False)
        blob.update(f"blob {self.size}\0".encode())
        return blob

    @property
    def expected(self) -> str:
        return self.sha256 or self.git_id


def endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def remote_files(repo: str, patterns: Sequence[str]) -> tuple[str, list[RemoteFile]]:
    """The commit that `repo` stands on, and its files that match `patterns`. Raises `DownloadError`."""
    address = f"{endpoint()}/api/models/{urllib.parse.quote(repo)}"
    commit = _field(_json(f"{address}/revision/main"), "sha", str)
    listing = _json(f"{address}/tree/{commit}?recursive=true")
    if not isinstance(listing, list):
        raise _no_hub("list of files")
    found = []
    for one in listing:
        path = _field(one, "path", str)
        if _field(one, "type", str) != "file" or not any(fnmatch(path, pattern) for pattern in patterns):
            continue
        sha256 = _field(one["lfs"], "oid", str) if one.get("lfs") else ""
        size = _field(one, "size", int)
        if not 0 <= size < _MAX_SIZE:
            raise _no_hub("sizes of files")
        found.append(RemoteFile(_safe_path(path), size, sha256, _field(one, "oid", str)))
    if not found:
        raise DownloadError(f"{repo} holds none of the files {', '.join(patterns)}; it may have changed")
    return commit, found


def _field(answer: Any, key: str, kind: type[T]) -> T:
    """What a hub's answer holds at `key`. Raises `DownloadError` where it has nothing such."""
    value = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(value, kind):
        raise _no_hub(key)
    return value


def _no_hub(lacking: str) -> DownloadError:
    return DownloadError(f"{endpoint()} does not answer as a hub does (no {lacking}); check HF_ENDPOINT")


def _safe_path(path: str) -> str:
    """`path` if it stays inside the directory it is written to. Raises `DownloadError`."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path or ":" in path or not path.isprintable():
        raise DownloadError(f"the hub lists a file {path!r} to be written elsewhere; nothing was done")
    return path


def download(
    repo: str, commit: str, files: Sequence[RemoteFile], directory: Path, progress: Progress
) -> None:
    """Fetch `files` into `directory`; what is complete there already is only checked by size.

    Raises `DownloadError`; partial files stay, and the next call goes on with them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
        missing = [one for one in files if _size(directory / one.path) != one.size]
        needed = sum(one.size - _arrived(directory, one) for one in missing)
        free = shutil.disk_usage(directory).free
        if needed > free:
            raise UsageError(
                f"{directory}: {format_size(needed)} are needed and {format_size(free)} are free; make room "
                "or set LOCALMOE_DATA_DIR"
            )
        for one in missing:
            _fetch(f"{endpoint()}/{urllib.parse.quote(repo)}/resolve/{commit}/", one, directory, progress)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep every other pull out of `directory`, where the system can lock one (Windows and NFS cannot).

    Raises `DownloadError` where another pull is at work.
    """
    if sys.platform == "win32":
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError(f"{directory}: another pull is writing there; wait for it") from None
        except OSError:
            pass  # NFS
        yield
    finally:
        os.close(handle)


def _size(path: Path) -> int:
    """Bytes of a file, -1 where there is none."""
    return path.stat().st_size if path.is_file() else -1


def _partial(directory: Path, file: RemoteFile) -> Path:
    target = directory / file.path
    return target.with_name(target.name + ".partial")


def _arrived(directory: Path, file: RemoteFile) -> int:
    """Bytes of `file` that an earlier call left to go on with."""
    size = _size(_partial(directory, file))
    return size if 0 <= size <= file.size else 0


def _fetch(base: str, file: RemoteFile, directory: Path, progress: Progress) -> None:
    target, partial = directory / file.path, _partial(directory, file)
    target.parent.mkdir(parents=True, exist_ok=True)
    url = base + urllib.parse.quote(file.path)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _append(url, file, partial, progress)
            break
        except (urllib.error.URLError, HTTPException) as error:
            pause = _pause(error, attempt)
            if attempt == _ATTEMPTS or pause is None:
                raise _explained(error, url) from error
            sleep(pause)
        except OSError as error:
            raise DownloadError(
                f"{partial} cannot be written: {error.strerror or error}; what has arrived is kept: run the "
                "same command again when that is settled"
            ) from error
    digest = file.digest()
    for chunk in _chunks(partial):
        digest.update(chunk)
    if digest.hexdigest() != file.expected:
        partial.unlink()
        raise DownloadError(f"{file.path} arrived damaged (its digest differs) and was removed; try again")
    partial.replace(target)


def _pause(error: Exception, attempt: int) -> float | None:
    """Seconds to wait before the next attempt: twice as long each time, and as long as the server asks.

    None where another attempt is of no use: a refusal, or a server that wants to be left alone for long.
    """
    pause = float(1 << (attempt - 1))
    if not isinstance(error, urllib.error.HTTPError):
        return pause
    if error.code < 500 and error.code != 429:
        return None
    asked = error.headers.get("Retry-After", "")
    if asked.isascii() and asked.isdigit():  # it may be a date as well
        pause = max(pause, float(asked))
    return pause if pause <= _LONGEST_PAUSE else None


def _append(url: str, file: RemoteFile, partial: Path, progress: Progress) -> None:
    """Fetch what `partial` lacks of `file`."""
    done = partial.stat().st_size if partial.exists() else 0
    if done > file.size:
        partial.unlink()
        done = 0
    if done == file.size:
        partial.touch()
        return
    with _open(url, {"Range": f"bytes={done}-"} if done else {}) as response:
        if done and response.status != 206:
            done = 0  # the server sends everything again
        with partial.open("ab" if done else "wb") as output:
            while chunk := _over_network(lambda: response.read(_CHUNK)):
                output.write(chunk)
                done += len(chunk)
                progress(file.path, done, file.size)
    if done < file.size:
        raise HTTPException(f"the connection ended after {done:,} of {file.size:,} bytes")


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as data:
        while chunk := data.read(_CHUNK):
            yield chunk


def sha256_of(path: Path, progress: Progress = lambda name, done, size: None) -> str:
    """The SHA-256 of a file."""
    digest, done, size = hashlib.sha256(), 0, path.stat().st_size
    for chunk in _chunks(path):
        digest.update(chunk)
        done += len(chunk)
        progress(path.name, done, size)
    return digest.hexdigest()


def _open(url: str, headers: dict[str, str]) -> Any:
    if urllib.parse.urlsplit(url).scheme not in ("https", "http"):
        raise UsageError(f"HF_ENDPOINT must be an https address, not {endpoint()!r}")
    request = urllib.request.Request(url, headers={"User-Agent": "localmoe", **headers})
    token = os.environ.get("HF_TOKEN")
    if token:  # unredirected: where files lie is another host, which must not see it
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return _over_network(lambda: urllib.request.urlopen(request, timeout=_TIMEOUT))


def _over_network(step: Callable[[], Any]) -> Any:
    """`step()`; its errors are `URLError` and `HTTPException`, a plain `OSError` is always the disk's."""
    try:
        return step()
    except (urllib.error.URLError, HTTPException):
        raise
    except OSError as error:
        raise urllib.error.URLError(error) from error


def _json(url: str) -> Any:
    try:
        with _open(url, {}) as response:
            return json.loads(response.read(64 << 20))
    except (urllib.error.URLError, HTTPException, OSError, ValueError, RecursionError) as error:
        raise _explained(error, url) from error


def _explained(error: Exception, url: str) -> DownloadError:
    host = urllib.parse.urlsplit(url).netloc
    code = getattr(error, "code", None)
    if code in (401, 403):
        return DownloadError(
            f"{host} wants you to be signed in for this model: accept its terms there, then set HF_TOKEN"
        )
    if code == 404:
        return DownloadError(f"{host} does not have {urllib.parse.urlsplit(url).path}")
    reason = getattr(error, "reason", None) or error
    return DownloadError(f"{host}: {reason}; what has arrived is kept: run the same command again later")
