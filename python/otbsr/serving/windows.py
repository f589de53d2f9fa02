"""The folder in which a long run keeps its finished windows, so that the same command goes on after a kill, a power cut or a full disk.

A file has its final name only when it is whole, and counts only when the manifest has its checksum: what lies there otherwise is made again.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from otbsr.errors import OutputError
from otbsr.methods.model_folder import digest
from otbsr.raster import settle

MANIFEST = "manifest.json"
LOCK = "lock"


class WindowFolder:
    """An open, locked folder of windows; see `window_folder`."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], done: dict[str, dict[str, Any]]) -> None:
        self.folder, self.identity, self.done = folder, dict(identity), done
        self.found = frozenset(done)

    def path(self, name: str) -> Path | None:
        """The finished file `name`; None when it is finished and holds no data. Raises `KeyError` when it is not finished."""
        return self.folder / f"{name}.tif" if self.done[name]["bytes"] else None

    def partial(self, name: str) -> Path:
        """Where the file `name` is written before it is whole."""
        return self.folder / f"part_{name}.tif"

    def finish(self, name: str, partial: Path | None) -> None:
        """Give the whole file `partial` its name and list it in the manifest; None: a window without data. Raises `OutputError`."""
        entry: dict[str, Any] = {"bytes": 0}
        try:
            if partial is not None:
                entry = {"bytes": partial.stat().st_size, "sha256": digest(partial)}
                settle(partial, self.folder / f"{name}.tif")
            self.done[name] = entry
            self.save()
        except OSError as error:
            raise OutputError(f"{self.folder / name}: cannot be written ({error.strerror}); free some space and run the same command again") from error

    def save(self) -> None:
        """Write the manifest anew."""
        temporary = self.folder / f".{MANIFEST}.part"
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({"format": 1, "identity": self.identity, "windows": dict(sorted(self.done.items()))}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.folder / MANIFEST)


@contextmanager
def alone(folder: Path, what: str = "product") -> Iterator[None]:
    """Hold a folder's lock, which goes with the process however it ends; raises `OutputError` when another run holds it or it cannot be made."""
    try:
        lock = (folder / LOCK).open("a+")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); choose another place for the {what}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"{folder}: another run is writing this {what}; wait for its end, or choose another name") from error
        yield


@contextmanager
def window_folder(folder: Path, identity: Mapping[str, Any], overwrite: bool = False) -> Iterator[WindowFolder]:
    """Open or make `folder` for the run that `identity` describes (JSON), alone: yields a `WindowFolder` with what an earlier run finished.

    Raises `OutputError` when another run holds the folder or it has windows of another run (which `overwrite` deletes), or it cannot be
    written. What is damaged or half-written in it is deleted. The folder stays when the block ends; a folder without a finished window goes.
    """
    identity = json.loads(json.dumps(identity, default=str))
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror}); choose another place for the product") from error
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


def read_finished(folder: Path, identity: Mapping[str, Any], overwrite: bool) -> dict[str, dict[str, Any]]:
    """The manifest's windows whose files are there and unchanged; deletes every other file but the lock."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        known, listed = content["identity"], dict(content["windows"])
    except (OSError, ValueError, KeyError, TypeError):
        known, listed = None, {}
    if known is not None and known != identity:
        if not overwrite:
            different = [key for key in {**known, **identity} if known.get(key) != identity.get(key)]
            raise OutputError(f"{folder}: holds windows of another run (other {', '.join(different)}); finish that run, delete the folder, or give --overwrite")
        listed = {}
    done = {}
    for name, entry in listed.items():
        path = folder / f"{name}.tif"
        if not entry["bytes"] or (path.is_file() and path.stat().st_size == entry["bytes"] and digest(path) == entry["sha256"]):
            done[name] = entry
    kept = {LOCK, *(f"{name}.tif" for name, entry in done.items() if entry["bytes"])}
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in kept:
            path.unlink(missing_ok=True)
    return done
