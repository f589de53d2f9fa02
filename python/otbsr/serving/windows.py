"""The folder in which a long run keeps its finished windows, so that the same command goes on after a kill, a power cut or a full disk.

A file has its final name only when it is whole, and counts only when the manifest has its checksum: what lies there otherwise is made again.

One run holds the folder (`window_folder`) and alone writes the manifest and gives names. Others may make windows for it: each attempt writes
files with a mark of its own, so that two attempts at one window, one of them given up for dead, never write the same file; the holder adopts what
an attempt hands over. Runs that nobody waits for (`shared_folder`, a Slurm array) leave a record for the next holder instead.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otbsr.errors import OutputError
from otbsr.files import digest, unwritable, write_text

MANIFEST = "manifest.json"
LOCK = "lock"
RECORD = "made_"
AGAIN = "free some space and run the same command again"


PATIENCE = 30.0
"""Seconds until a file that another machine has written must be seen here (network file systems keep what they knew of a folder for a while)."""


@dataclass(frozen=True)
class Made:
    """A whole file that waits for its name: what it is called in the folder (None: a window without data), its size and checksum."""

    file: str | None
    bytes: int = 0
    sha256: str = ""

    @classmethod
    def of(cls, partial: Path | None) -> Made:
        """Measure a whole file and have the disk keep it: a name must not outlive its content in a power cut. Raises `OSError`."""
        if partial is None:
            return cls(None)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        return cls(partial.name, partial.stat().st_size, digest(partial))

    def entry(self) -> dict[str, Any]:
        """How the manifest lists it."""
        return {"bytes": self.bytes, "sha256": self.sha256} if self.bytes else {"bytes": 0}


class Attempt:
    """Where windows are made: finished files are read by name, new ones are written under partial names that bear the attempt's `mark`."""

    def __init__(self, folder: Path, done: dict[str, dict[str, Any]], mark: str | None = None) -> None:
        self.folder, self.done, self.mark = folder, done, uuid.uuid4().hex[:12] if mark is None else mark

    def path(self, name: str) -> Path | None:
        """The finished file `name`; None when it is finished and holds no data. Raises `KeyError` when it is not finished."""
        return self.folder / f"{name}.tif" if self.done[name]["bytes"] else None

    def partial(self, name: str) -> Path:
        """Where the file `name` is written before it is whole."""
        return self.folder / f"part{self.mark}_{name}.tif"

    def discard(self) -> None:
        """Delete what the attempt has written."""
        for path in self.folder.glob(f"part{self.mark}_*"):
            path.unlink(missing_ok=True)


class WindowFolder(Attempt):
    """An open, locked folder of windows; see `window_folder`."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], done: dict[str, dict[str, Any]]) -> None:
        super().__init__(folder, done, mark="")
        self.identity, self.found = dict(identity), frozenset(done)

    def finish(self, name: str, partial: Path | None) -> None:
        """Give the whole file `partial` its name and list it in the manifest; None: a window without data. Raises `OutputError`."""
        try:
            self.adopt({name: Made.of(partial)})
        except OSError as error:
            raise unwritable(self.folder / name, error, AGAIN) from error

    def adopt(self, made: Mapping[str, Made]) -> None:
        """Give files their names and list them in the manifest; raises `OutputError`."""
        try:
            for name, one in made.items():
                if one.file is not None:
                    partial = self.folder / one.file
                    if not seen(partial, one.bytes):
                        raise OutputError(f"{partial}: is not here with its {one.bytes} bytes; all machines must see this folder under this name")
                    os.replace(partial, self.folder / f"{name}.tif")
                self.done[name] = one.entry()
            self.save()
        except OSError as error:
            raise unwritable(self.folder, error, AGAIN) from error

    def save(self) -> None:
        """Write the manifest anew."""
        write_manifest(self.folder, self.identity, self.done)

    def tidy(self) -> None:
        """Delete what attempts that were given up have left."""
        for path in self.folder.glob("part*"):
            path.unlink(missing_ok=True)


def seen(path: Path, size: int) -> bool:
    """Whether a file of `size` bytes is there, or comes within `PATIENCE`."""
    end = time.monotonic() + PATIENCE
    while True:
        if path.is_file() and path.stat().st_size == size:
            return True
        if time.monotonic() > end:
            return False
        os.listdir(path.parent)  # has a network file system look again
        time.sleep(0.2)


def write_manifest(folder: Path, identity: Mapping[str, Any], done: Mapping[str, Any], new: bool = False) -> None:
    """Write a folder's manifest; `new`: unless there is one. Raises `OSError`."""
    temporary = folder / f".{MANIFEST}.{uuid.uuid4().hex[:12]}.part"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({"format": 1, "identity": identity, "windows": dict(sorted(done.items()))}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    if not new:
        os.replace(temporary, folder / MANIFEST)
        return
    try:
        os.link(temporary, folder / MANIFEST)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


@contextmanager
def window_folder(folder: Path, identity: Mapping[str, Any], overwrite: bool = False) -> Iterator[WindowFolder]:
    """Open or make `folder` for the run that `identity` describes (JSON), alone: yields a `WindowFolder` with what an earlier run finished.

    Raises `OutputError` when another run holds the folder or it has windows of another run (which `overwrite` deletes), or it cannot be
    written. What is damaged or half-written in it is deleted. The folder stays when the block ends; a folder without a finished window goes.
    """
    identity = json.loads(json.dumps(identity, default=str))
    with alone(folder):
        windows = WindowFolder(folder, identity, read_finished(folder, identity, overwrite))
        try:
            windows.save()
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written ({error.strerror}); choose another place for the product") from error
        try:
            yield windows
        finally:
            if not windows.done:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(folder: Path, kind: int, what: str = "product") -> Iterator[None]:
    """Make `folder` and hold its lock, LOCK_EX (alone) or LOCK_SH (beside others of the kind), which goes with the process however it ends.

    Raises `OutputError` when another run holds it or it cannot be made.
    """
    try:
        folder.mkdir(exist_ok=True)
        lock = (folder / LOCK).open("a+")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); choose another place for the {what}") from error
    with lock:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"{folder}: another run is writing this {what}; wait for its end, or choose another name") from error
        yield


def alone(folder: Path, what: str = "product") -> AbstractContextManager[None]:
    """Hold a folder's lock alone."""
    return locked(folder, fcntl.LOCK_EX, what)


@contextmanager
def shared_folder(folder: Path, identity: Mapping[str, Any]) -> Iterator[Attempt]:
    """Open or make `folder` beside other runs of the kind, each for windows of its own: yields an `Attempt` that knows what is finished.

    Hand over what was made with `leave_record`. Raises `OutputError` when a run holds the folder alone, or it has windows of another run.
    """
    identity = json.loads(json.dumps(identity, default=str))
    with locked(folder, fcntl.LOCK_SH):
        try:
            write_manifest(folder, identity, {}, new=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written ({error.strerror}); choose another place for the product") from error
        known, done = read_manifest(folder)
        if known != identity:
            raise of_another_run(folder, known or {}, identity, "finish that run, or delete the folder")
        for made in read_records(folder, identity):
            done.update({name: one.entry() for name, one in made.items()})
        attempt = Attempt(folder, done)
        try:
            yield attempt
        except BaseException:
            attempt.discard()
            raise


def leave_record(attempt: Attempt, identity: Mapping[str, Any], made: Mapping[str, Made]) -> None:
    """Tell the next holder of the attempt's folder what was made for the run `identity`. Raises `OutputError`."""
    identity = json.loads(json.dumps(identity, default=str))
    record = attempt.folder / f"{RECORD}{attempt.mark}.json"
    content = {"identity": key_of(identity), "made": {name: [one.file, one.bytes, one.sha256] for name, one in made.items()}}
    write_text(record, json.dumps(content), AGAIN)


def read_records(folder: Path, identity: Mapping[str, Any]) -> Iterator[dict[str, Made]]:
    """What attempts for the run `identity` have left in `folder`; records that cannot be read or are of another run are passed over."""
    for record in sorted(folder.glob(f"{RECORD}*.json")):
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
            if content["identity"] == key_of(identity):
                made = {str(name): Made(*one) for name, one in content["made"].items()}
                if all(one.file is None or Path(one.file).name == one.file for one in made.values()):  # nothing outside the folder
                    yield made
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue


def key_of(identity: Mapping[str, Any]) -> str:
    """A digest of what tells one run from another."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()


def read_manifest(folder: Path) -> tuple[dict[str, Any] | None, dict[str, dict[str, Any]]]:
    """A folder's manifest: the run's identity and its windows; None and nothing when it cannot be read."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return content["identity"], dict(content["windows"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, {}


def of_another_run(folder: Path, known: Mapping[str, Any], identity: Mapping[str, Any], remedy: str) -> OutputError:
    """The error for a folder with windows of another run."""
    different = [key for key in {**known, **identity} if known.get(key) != identity.get(key)]
    return OutputError(f"{folder}: holds windows of another run (other {', '.join(different)}); {remedy}")


def read_finished(folder: Path, identity: Mapping[str, Any], overwrite: bool) -> dict[str, dict[str, Any]]:
    """The windows of manifest and records whose files are there and unchanged; deletes every other file but the lock."""
    known, listed = read_manifest(folder)
    if known is not None and known != identity:
        if not overwrite:
            raise of_another_run(folder, known, identity, "finish that run, delete the folder, or give --overwrite")
        listed = {}
    done = {}
    for name, entry in listed.items():
        if not entry["bytes"] or whole(folder / f"{name}.tif", entry["bytes"], entry["sha256"]):
            done[name] = entry
    for made in read_records(folder, identity):
        for name, one in made.items():
            if name not in done and (one.file is None or whole(folder / one.file, one.bytes, one.sha256)):
                if one.file is not None:
                    os.replace(folder / one.file, folder / f"{name}.tif")
                done[name] = one.entry()
    kept = {LOCK, *(f"{name}.tif" for name, entry in done.items() if entry["bytes"])}
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in kept:
            path.unlink(missing_ok=True)
    return done


def whole(path: Path, size: int, sha256: str) -> bool:
    """Whether a file is there as it was written."""
    return path.is_file() and path.stat().st_size == size and digest(path) == sha256
