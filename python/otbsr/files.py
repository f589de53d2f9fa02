"""Files and folders that are there whole or not at all: a hidden name until the last byte is written.

Rasters, which need a closer look, have theirs in `otbsr.raster`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otbsr.errors import OutputError, first_line

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

SPACE = "check the free space"


@contextmanager
def new_file(out: Path, remedy: str = SPACE) -> Iterator[Path]:
    """Where to write the file `out`: a hidden name beside it, which becomes `out` when the block ends well. Makes the folder.

    Otherwise the file goes away and what was called `out` before stays. An `OSError` becomes an `OutputError` with `remedy`.
    """
    temporary = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, out)
    except OSError as error:
        raise unwritable(out, error, remedy) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(out: Path, remedy: str = SPACE) -> Iterator[Path]:
    """The same of a folder: an empty one to fill, which takes the name `out` in place of what was there."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        if out.exists():
            shutil.rmtree(out)
        os.replace(temporary, out)
    except OSError as error:
        raise unwritable(out, error, remedy) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_replaceable(out: Path, overwrite: bool, kind: str, marks: Sequence[str]) -> None:
    """Raise `OutputError` where the folder (or file) `out` is there without `overwrite`, or is a folder that `overwrite` must not take away.

    kind: what `out` is to be, for the message; marks: files of which any folder of this kind has one. Asked before any work: a whole folder of
    something else is never replaced.
    """
    if not out.exists():
        return
    if not overwrite:
        raise OutputError(f"{out}: exists already; choose another name or give --overwrite")
    if out.is_dir() and any(out.iterdir()) and not any((out / mark).is_file() for mark in marks):
        raise OutputError(f"{out}: is no {kind}, and --overwrite replaces nothing else; choose another name")


def unwritable(out: Path, error: Exception, remedy: str = SPACE) -> OutputError:
    """The error for what the disk, or a library that writes on it, does not take."""
    return OutputError(f"{out}: cannot be written ({getattr(error, 'strerror', None) or first_line(error)}); {remedy}")


def write_text(out: Path, text: str, remedy: str = SPACE) -> None:
    """Write a text in UTF-8, its line ends as they are; raises `OutputError`."""
    with new_file(out, remedy) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(out: Path, content: Mapping[str, Any], remedy: str = SPACE) -> None:
    """Write JSON; raises `OutputError`."""
    write_text(out, json.dumps(content, indent=1) + "\n", remedy)


def write_vectors(frame: GeoDataFrame, out: Path, layer: str, append: bool = False) -> None:
    """Write a GeoPackage's layer in place of the file, or add to it; raises `OutputError`, where a full disk shows as anything from GDAL."""
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        if not append:
            out.unlink(missing_ok=True)
        frame.to_file(out, driver="GPKG", layer=layer, engine="pyogrio", mode="a" if append else "w")
    except (DataLayerError, DataSourceError, OSError) as error:
        raise unwritable(out, error) from error


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; raises `OSError`."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            total.update(piece)
    return total.hexdigest()
