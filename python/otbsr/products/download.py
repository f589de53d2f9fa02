"""Files from the internet: resumed where they stopped, checked, and under their final name only when they are whole.

Nothing here runs unless a command that says so was given. A transfer goes to `<name>.part` with `<name>.part.json` beside it, which says of
which version of which address it is; the same command goes on from there.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import requests

from otbsr.errors import InputError, OutputError, ProcessingError, UsageError
from otbsr.progress import Report, silent

ZENODO = "https://zenodo.org/api/records"
TIMEOUT = (15.0, 60.0)
"""Seconds to connect, and without a byte."""
PIECE = 1 << 16
"""Bytes at a time: what a reset connection loses at most."""
LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
"""Hexadecimal digits of the digests that publishers give."""
MULTIHASH = {"1220": "sha256", "1114": "sha1", "d50110": "md5", "1340": "sha512"}
"""Prefixes of STAC's file:checksum (multiformats) that say which digest follows."""
RESERVE = 64 << 20
"""Bytes that stay free on the disk."""


@dataclass(frozen=True)
class Remote:
    """A file elsewhere: address, name here, bytes and checksum ("sha256:...", or as STAC gives it) where the publisher tells them."""

    url: str
    name: str
    size: int | None = None
    checksum: str | None = None


def remote_of(url: str, checksum: str | None = None) -> Remote:
    """The file at an address; raises `UsageError` for what is no address of a file."""
    parts = urlsplit(url)
    name = unquote(PurePosixPath(parts.path).name)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(f"address is '{url}', expected http:// or https://")
    return Remote(url, safe_name(name or "file"), None, checksum)


def safe_name(name: str) -> str:
    """A file name that stays in its folder; raises `InputError` for one that would not."""
    if not name or name in (".", "..") or re.search(r"[/\\\0]", name):
        raise InputError(f"file name is {name!r}, which leads out of the folder; do not use this source")
    return name


def digest_of(checksum: str) -> tuple[str, str]:
    """(algorithm, digest) of "sha256:...", a bare digest, or a multihash; raises `UsageError`."""
    text = checksum.strip().lower()
    kind, found, digest = text.partition(":")
    if found and LENGTHS.get(kind) == len(digest) and re.fullmatch("[0-9a-f]+", digest):
        return kind, digest
    if not found and re.fullmatch("[0-9a-f]+", text):
        for prefix, name in MULTIHASH.items():
            if text.startswith(prefix) and len(text) == len(prefix) + LENGTHS[name]:
                return name, text[len(prefix) :]
        for name, length in LENGTHS.items():
            if len(text) == length:
                return name, text
    raise UsageError(f"checksum is '{checksum}', expected md5:, sha1:, sha256: or sha512: and its digits")


def fetch(
    remote: Remote,
    folder: str | Path,
    headers: Mapping[str, str] | None = None,
    overwrite: bool = False,
    attempts: int = 5,
    wait: float = 2.0,
    report: Report = silent,
) -> Path:
    """Download a file into `folder` and return its path; a file that is there and has the right checksum is kept.

    A broken transfer is taken up `attempts` times, `wait` seconds after the first failure, twice that after the next, and so on. A server
    that cannot resume, or whose file changed, sends it from the start. Raises `InputError` when the server refuses or the checksum is
    wrong, `OutputError` when the disk is too small or a file of that name is another one, `ProcessingError` when the transfer
    broke for good: the same call goes on.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / safe_name(remote.name)
    wanted = digest_of(remote.checksum) if remote.checksum else None
    if out.exists() and not overwrite:
        if reason := difference(out, remote.size, wanted):
            raise OutputError(f"{out}: exists and {reason}; move it away, or replace it with --overwrite")
        return out
    with requests.Session() as session:
        session.headers.update({"Accept-Encoding": "identity", **(headers or {})})
        for attempt in range(1, attempts + 1):
            try:
                transfer(session, remote, out, report)
                break
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError, Interrupted) as error:
                if attempt == attempts:
                    raise ProcessingError(f"{remote.url}: transfer broke {attempts} times ({error}); the same command goes on from what is there") from error
                time.sleep(wait * 2 ** (attempt - 1))
            except requests.RequestException as error:
                raise InputError(f"{remote.url}: cannot be fetched ({error}); check the address") from error
    partial = part_of(out)
    if reason := difference(partial, remote.size, wanted):
        partial.unlink()
        note_of(out).unlink(missing_ok=True)
        raise InputError(f"{remote.url}: what arrived {reason}, it was removed; fetch it again, and tell its publisher if that happens twice")
    os.replace(partial, out)
    note_of(out).unlink(missing_ok=True)
    report(f"fetch: {out.name}", 1.0)
    return out


class Interrupted(Exception):
    """Raised when a transfer ended before its last byte."""


def part_of(out: Path) -> Path:
    """Where a file is while it is not whole."""
    return out.with_name(out.name + ".part")


def note_of(out: Path) -> Path:
    """What is known of the source of an unfinished file."""
    return out.with_name(out.name + ".part.json")


def transfer(session: requests.Session, remote: Remote, out: Path, report: Report) -> None:
    """One request for what is missing of a file, added to what is there; raises `Interrupted` when it ended early."""
    partial, note = part_of(out), note_of(out)
    known = read_note(note)
    there = partial.stat().st_size if partial.exists() and known.get("url") == remote.url else 0
    headers = {"Range": f"bytes={there}-"} if there else {}
    if there and known.get("validator"):
        headers["If-Range"] = known["validator"]
    with session.get(remote.url, stream=True, timeout=TIMEOUT, headers=headers) as answer:
        if answer.status_code == 416:  # nothing beyond what is there: whole, or another file than begun
            total = total_of(answer.headers.get("Content-Range", ""))
            if total is not None and total == there:
                return
            partial.unlink(missing_ok=True)
            raise Interrupted("the file changed at its source")
        if answer.status_code in (408, 429, 500, 502, 503, 504):
            raise Interrupted(f"status {answer.status_code}")
        if answer.status_code not in (200, 206):
            hint = "; give a token with --token-file" if answer.status_code in (401, 403) else "; check the address"
            raise InputError(f"{remote.url}: the server answers {answer.status_code} {answer.reason}{hint}")
        resumed = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {there}-")
        if answer.status_code == 206 and not resumed:
            partial.unlink(missing_ok=True)
            raise Interrupted("the server sent another part than asked for")
        there = there if resumed else 0
        length = answer.headers.get("Content-Length")
        total = there + int(length) if length and length.isdigit() else remote.size
        require_space(out, total, there)
        note.write_text(json.dumps({"url": remote.url, "validator": validator(answer.headers), "size": total}))
        answer.raw.enforce_content_length = False  # else an early end loses what came before it; lengths are compared below
        with partial.open("ab" if resumed else "wb") as file:
            for piece in answer.iter_content(PIECE):
                try:
                    file.write(piece)
                except OSError as error:
                    raise OutputError(f"{partial}: cannot be written ({error.strerror}); free some space, the same command goes on") from error
                there += len(piece)
                if total:
                    report(f"fetch: {out.name}", there / total)
    if total is not None and there < total:
        raise Interrupted(f"{there} of {total} bytes")


def read_note(note: Path) -> dict[str, Any]:
    """What was noted of an unfinished file, {} when there is nothing sensible."""
    try:
        found = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def validator(headers: Mapping[str, str]) -> str:
    """What tells one version of a remote file from another: a strong ETag, else the date, else ''."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def total_of(content_range: str) -> int | None:
    """The whole length in "bytes 0-9/100" or "bytes */100"."""
    total = content_range.rpartition("/")[2]
    return int(total) if total.isdigit() else None


def require_space(out: Path, total: int | None, there: int) -> None:
    """Raise `OutputError` when the disk cannot hold what is missing."""
    free = shutil.disk_usage(out.parent).free
    if total is not None and total - there + RESERVE > free:
        raise OutputError(f"{out}: {(total - there) / 1e9:.2f} GB are missing, the disk has {free / 1e9:.2f} GB free; free some space or choose another --out")


def difference(path: Path, size: int | None, wanted: tuple[str, str] | None) -> str:
    """How a file differs from what its publisher says, '' when it does not."""
    if size is not None and path.stat().st_size != size:
        return f"has {path.stat().st_size} bytes, expected {size}"
    if wanted:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, wanted[0]).hexdigest() if hasattr(hashlib, "file_digest") else hash_of(file.read, wanted[0])
        if digest != wanted[1]:
            return f"has {wanted[0]} {digest}, expected {wanted[1]}"
    return ""


def hash_of(read: Any, kind: str) -> str:
    """Digest of a stream by pieces (Python 3.10 has no `hashlib.file_digest`)."""
    digest = hashlib.new(kind)
    while piece := read(PIECE):
        digest.update(piece)
    return digest.hexdigest()


def fetch_all(
    remotes: Sequence[Remote], folder: str | Path, headers: Mapping[str, str] | None = None, overwrite: bool = False, report: Report = silent
) -> list[Path]:
    """`fetch` several files one after another; refuses at once when the disk cannot hold what is not there yet."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [remote.name for remote in remotes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{', '.join(twice)}: several files of one name; fetch them one by one into different folders")
    absent = [remote for remote in remotes if overwrite or not (folder / remote.name).exists()]
    if absent:
        begun = sum(part_of(folder / remote.name).stat().st_size for remote in absent if part_of(folder / remote.name).exists())
        require_space(folder / "all", sum(remote.size or 0 for remote in absent), begun)
    return [fetch(remote, folder, headers, overwrite, report=report) for remote in remotes]


def zenodo_files(record: str, patterns: Iterable[str] = ("*",), api: str = ZENODO) -> list[Remote]:
    """The files of a Zenodo record that match any of the patterns, with sizes and checksums; raises `InputError`."""
    url = f"{api.rstrip('/')}/{record}"
    try:
        answer = requests.get(url, timeout=TIMEOUT)
        answer.raise_for_status()
        found = [
            Remote(entry["links"].get("content") or entry["links"]["self"], safe_name(entry["key"]), int(entry["size"]), entry.get("checksum"))
            for entry in answer.json()["files"]
        ]
    except requests.RequestException as error:
        raise InputError(f"{url}: cannot be fetched ({error}); check the network and the record") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{url}: answer is not as of a Zenodo record ({error!r}); check the address") from error
    chosen = [remote for remote in found if any(fnmatch.fnmatch(remote.name, pattern) for pattern in patterns)]
    if not chosen:
        raise InputError(f"{url}: no file matches {', '.join(patterns)}; there are {', '.join(remote.name for remote in found[:20])}")
    return chosen
