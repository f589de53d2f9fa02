"""The manifest: which steps made the pairs and with which parameters.

A step's record is written after its products have their names; a record with the same parameters is a finished step, so that the
same command goes on after an interruption.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from otbsr.errors import OutputError
from otbsr.raster import damage

MARKER = ".steps"
"""File that tells a folder of steps, which may be removed, from a user's own."""


class Steps:
    """The finished steps in a folder, in the order in which they were asked for."""

    def __init__(self, folder: Path) -> None:
        """Make `folder` unless it is there; raises `OutputError`, also for a folder that is not of steps or that another run works in."""
        self.folder = folder
        marker = folder / MARKER
        if folder.is_dir() and any(folder.iterdir()) and not marker.exists():
            raise OutputError(f"{folder}: exists and holds no steps of pairs; choose another name for the pairs, or move it away")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = marker.open("w")  # held as long as this object lives, or its process
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{folder}: another run works in it; wait for its end, or choose another name for the pairs") from None
        except OSError as error:
            raise OutputError(f"{folder}: cannot be made ({error.strerror}); choose another place for the pairs") from error
        self.records: dict[str, dict[str, Any]] = {}
        self._before = ""

    def run(self, name: str, parameters: Mapping[str, Any], products: Sequence[str], make: Callable[..., Mapping[str, Any] | None]) -> dict[str, Any]:
        """Make `products` (file names in the folder) by ``make(*paths)``, unless this very step is finished; returns what `make` did.

        parameters: JSON values that the products depend on besides all earlier steps. `make` gets temporary names, whose rasters are
        looked at before they get their own. Raises what `make` raises, `OutputError` for products that are not whole.
        """
        wanted = json.loads(json.dumps(dict(parameters), default=str))
        self._before = hashlib.sha256((self._before + json.dumps([name, wanted], sort_keys=True)).encode()).hexdigest()
        paths, record = [self.folder / product for product in products], self.folder / f"{name}.json"
        known = read_record(record)
        if known.get("chain") == self._before and not any(broken(path) for path in paths):
            self.records[name] = known
            return dict(known["result"])
        record.unlink(missing_ok=True)
        partial = [path.with_name(f"partial.{path.name}") for path in paths]
        for path in partial:
            path.unlink(missing_ok=True)
        try:
            result = json.loads(json.dumps(dict(make(*partial) or {}), default=str))
            for path, final in zip(partial, paths, strict=True):
                if reason := broken(path):
                    raise OutputError(f"{final}: {reason}; check the free space and run the command again")
                os.replace(path, final)
            content = {"step": name, "parameters": wanted, "result": result, "chain": self._before}
            waiting = record.with_name(f"partial.{record.name}")
            waiting.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            os.replace(waiting, record)
        except OSError as error:
            raise OutputError(f"{self.folder}: step {name} cannot be written ({error.strerror or error}); check the free space") from error
        finally:
            for path in partial:
                path.unlink(missing_ok=True)
        self.records[name] = content
        return dict(result)

    def close(self, remove: bool) -> None:
        """Let other runs work here; with `remove`, take the folder away."""
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def described(self) -> list[dict[str, Any]]:
        """Steps with parameters and results, as manifest.json has them."""
        return [{key: record[key] for key in ("step", "parameters", "result")} for record in self.records.values()]


def read_record(path: Path) -> dict[str, Any]:
    """A step's record, {} when there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and "result" in content else {}


def broken(path: Path) -> str:
    """What is wrong with a product, '' when nothing is."""
    if not path.is_file():
        return "was not written"
    return damage(path) if path.suffix.lower() in (".tif", ".vrt") else "" if path.stat().st_size else "is empty"


def identity(paths: Iterable[Path]) -> list[list[Any]]:
    """(name, size, time of change) of files: enough to see that a product is another one, without reading gigabytes."""
    found = []
    for path in sorted(set(paths)):
        if path.is_file():
            status = path.stat()
            found.append([path.name, status.st_size, status.st_mtime_ns])
        else:
            found.append([str(path), 0, 0])
    return found
