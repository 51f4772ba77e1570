"""Downloading models: the one place in localmoe that opens a network socket.

Files come from a Hugging Face hub over HTTPS, into `NAME.partial` files that a later call resumes; each is
checked against the size and digest that the hub lists before it gets its name. `HF_ENDPOINT` chooses
another hub, `HF_TOKEN` is sent to it (and not to where it redirects).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from localmoe.errors import LocalMoeError, UsageError
from localmoe.experts.sizes import format_size

_CHUNK = 1 << 20
_TIMEOUT = 60.0
_ATTEMPTS = 5

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
    quoted = urllib.parse.quote(repo)
    commit = str(_json(f"{endpoint()}/api/models/{quoted}/revision/main")["sha"])
    listing = _json(f"{endpoint()}/api/models/{quoted}/tree/{commit}?recursive=true")
    found = []
    for one in listing:
        if one.get("type") != "file" or not any(fnmatch(one["path"], pattern) for pattern in patterns):
            continue
        lfs = one.get("lfs") or {}
        found.append(RemoteFile(_safe_path(one["path"]), int(one["size"]), lfs.get("oid", ""), one["oid"]))
    if not found:
        raise DownloadError(f"{repo} holds none of the files {', '.join(patterns)}; it may have changed")
    return commit, found


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
    missing = sum(one.size for one in files if not _complete(directory, one))
    free = shutil.disk_usage(directory).free
    if missing > free:
        raise UsageError(
            f"{directory}: {format_size(missing)} are needed and {format_size(free)} are free; make room "
            "or set LOCALMOE_DATA_DIR"
        )
    for one in files:
        if not _complete(directory, one):
            _fetch(f"{endpoint()}/{urllib.parse.quote(repo)}/resolve/{commit}/", one, directory, progress)


def _complete(directory: Path, file: RemoteFile) -> bool:
    target = directory / file.path
    return target.is_file() and target.stat().st_size == file.size


def _fetch(base: str, file: RemoteFile, directory: Path, progress: Progress) -> None:
    target = directory / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    url = base + urllib.parse.quote(file.path)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _append(url, file, partial, progress)
            break
        except (urllib.error.URLError, HTTPException, OSError) as error:
            status = getattr(error, "code", None)
            if attempt == _ATTEMPTS or (status is not None and status < 500 and status != 429):
                raise _explained(error, url) from error
    digest = file.digest()
    for chunk in _chunks(partial):
        digest.update(chunk)
    if digest.hexdigest() != file.expected:
        partial.unlink()
        raise DownloadError(f"{file.path} arrived damaged (its digest differs) and was removed; try again")
    partial.replace(target)


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
            while chunk := response.read(_CHUNK):
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
    return urllib.request.urlopen(request, timeout=_TIMEOUT)


def _json(url: str) -> Any:
    try:
        with _open(url, {}) as response:
            return json.loads(response.read(64 << 20))
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
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
