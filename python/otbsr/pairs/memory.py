"""Bounds: what keeps the memory of making pairs apart from the size of the scene.

Images are read and written by windows; what has to wait for its turn waits in a file; and GDAL, which would keep decoded blocks up to a
twentieth of the computer's memory, gets a fixed cache, in this process and in OTB's.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import rasterio
from numpy.typing import NDArray

from otbsr.errors import OutputError, first_line

WINDOW = 512
"""Side, in pixels, of the windows in which images are made; a multiple of the files' blocks of 256."""
CACHE = 32
"""Megabytes of decoded blocks that GDAL may keep: what a column of windows needs again."""
RAM = 32
"""Megabytes that an OTB application may take for its buffers."""
FEATURES = 20_000
"""Features of a vector file that are in memory at a time."""


@contextmanager
def bounded_cache(megabytes: int = CACHE) -> Iterator[None]:
    """GDAL's cache of blocks bounded, here and in programs started within; a user's own GDAL_CACHEMAX stays."""
    if "GDAL_CACHEMAX" in os.environ:
        yield
        return
    os.environ["GDAL_CACHEMAX"] = str(megabytes)  # GDAL takes numbers below 100,000 as megabytes
    try:
        with rasterio.Env(GDAL_CACHEMAX=megabytes << 20):
            yield
    finally:
        os.environ.pop("GDAL_CACHEMAX", None)


class Shelf:
    """Arrays that wait in a file without a name; it goes with this object, or with the process."""

    def __init__(self, folder: str | Path | None = None) -> None:
        """Make the file in `folder`, default the system's for temporary files; raises `OutputError`."""
        self._size = 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115, closed by `close`
        except OSError as error:
            raise OutputError(
                f"{folder or tempfile.gettempdir()}: no temporary file can be made ({first_line(error)}); set TMPDIR to another folder"
            ) from error

    def put(self, values: NDArray[np.float32]) -> Kept:
        """Lay an array down at the end; raises `OutputError` when the disk is full."""
        kept = Kept(self, self._size, values.nbytes, ())
        self._size += values.nbytes
        kept.put(values)
        return kept

    def write(self, offset: int, values: NDArray[np.float32]) -> None:
        """Write the array's bytes at `offset`."""
        content, done = memoryview(values.tobytes()), 0
        try:
            while done < len(content):
                done += os.pwrite(self._file.fileno(), content[done:], offset + done)
        except OSError as error:
            raise OutputError(f"{self._size >> 20} MB of temporary files cannot be written ({first_line(error)}); free some space, or set TMPDIR") from error

    def read(self, offset: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The array of this shape at `offset`."""
        content, done = bytearray(4 * math.prod(shape)), 0
        while done < len(content):
            count = os.preadv(self._file.fileno(), [memoryview(content)[done:]], offset + done)
            if not count:
                raise OutputError("a temporary file was cut short; check the free space and run the command again")
            done += count
        return np.frombuffer(content, np.float32).reshape(shape)

    def close(self) -> None:
        """Give the space back."""
        self._file.close()

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@dataclass
class Kept:
    """An array's place on a shelf: `room` bytes from `offset`."""

    shelf: Shelf
    offset: int
    room: int
    shape: tuple[int, ...]

    def get(self) -> NDArray[np.float32]:
        """The array, read anew."""
        return self.shelf.read(self.offset, self.shape)

    def put(self, values: NDArray[np.float32]) -> None:
        """Another array of float32 in its stead, which must not be larger."""
        if values.nbytes > self.room:
            raise ValueError(f"{values.nbytes} bytes do not fit where {self.room} were")
        self.shelf.write(self.offset, values)
        self.shape = values.shape
