"""Whether a raster file is all there, and how one gets its name only when it is: GDAL opens truncated files, OTB ends with 0 on a full disk."""

from __future__ import annotations

import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO

import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from otbsr.errors import OutputError, first_line

JP2_SIGNATURE = bytes.fromhex("0000000c6a5020200d0a870a")
ARCHIVED = re.compile(r"^/vsizip/\{(?P<archive>.+)\}/(?P<member>.+)$")
"""GDAL's name of a file in a zip archive."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """(binary stream, length) of a file on disk or in an archive; raises `OSError` or `zipfile.BadZipFile`."""
    if match := ARCHIVED.match(str(path)):
        with zipfile.ZipFile(match["archive"]) as archive:
            try:
                member = archive.getinfo(match["member"])
            except KeyError:
                raise FileNotFoundError(2, "not in the archive", str(path)) from None
            with archive.open(member) as stream:
                yield stream, member.file_size
    else:
        with path.open("rb") as stream:
            yield stream, path.stat().st_size


def damage(path: str | Path) -> str:
    """What is wrong with the raster file `path` in a few words, '' when it is whole.

    TIFF: every block's offset and size must lie within the file, so that a file cut anywhere is found without decoding it.
    JPEG 2000: its boxes and tile-parts must lie within the file and its end marker stand at the end. Every format: the last block of
    the last band is decoded. `path` may lie in a zip archive (/vsizip/{...}/...).
    """
    path = Path(path)
    try:
        with opened(path) as (stream, length):
            if stream.read(len(JP2_SIGNATURE)) == JP2_SIGNATURE and (gap := lost_codestream(stream, length)):
                return f"is incomplete ({gap})"
    except FileNotFoundError:
        return "does not exist"
    except (OSError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        return f"cannot be read ({first_line(error)})"
    try:
        with rasterio.open(path) as dataset:
            if dataset.driver == "GTiff":
                lost = lost_blocks(dataset, length)
                if lost:
                    return f"is incomplete ({lost} blocks lie outside the file)"
            rows, columns = dataset.block_shapes[-1]
            last = Window((dataset.width - 1) // columns * columns, (dataset.height - 1) // rows * rows, columns, rows)
            dataset.read(dataset.count, window=last.intersection(Window(0, 0, dataset.width, dataset.height)))
    except (RasterioError, OSError) as error:
        return f"cannot be read ({first_line(error)})"
    return ""


@contextmanager
def new_raster(out: Path, remedy: str = "check the free space") -> Iterator[Path]:
    """Where to write the raster `out`: a hidden name beside it, which becomes `out` when the block ends well and the file is whole.

    Otherwise the file goes away and what was called `out` before stays. Raises `OutputError` with `remedy` for what the disk, GDAL or the
    look at the file have to complain of; other errors pass.
    """
    temporary = out.with_name(f".{out.stem}.part{out.suffix}")
    try:
        temporary.unlink(missing_ok=True)
        yield temporary
        if reason := damage(temporary):
            raise OutputError(f"{out}: {reason}; {remedy}")
        settle(temporary, out)
    except (OSError, RasterioError) as error:
        raise OutputError(f"{out}: cannot be written ({first_line(error)}); {remedy}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def settle(temporary: Path, out: Path) -> None:
    """Give a whole file its name once its content is on the disk: the name must not outlive the content in a power cut. Raises `OSError`."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, out)


def stamp(path: Path) -> tuple[Path, int, int]:
    """A path with what changes when its file does, so that what is known of it is kept as long as it holds."""
    archived = ARCHIVED.match(str(path))
    try:
        status = Path(archived["archive"] if archived else path).stat()
    except OSError:
        return path, 0, 0
    return path, status.st_mtime_ns, status.st_size


def known_damage(path: Path) -> str:
    """`damage`, looked for once a version of the file."""
    return damage_once(*stamp(path))


@lru_cache(maxsize=4096)
def damage_once(path: Path, modified: int, size: int) -> str:
    """`damage` of a file as it was then."""
    return damage(path)


def lost_blocks(dataset: rasterio.DatasetReader, length: int) -> int:
    """Number of a GeoTIFF's blocks that were never written or reach beyond `length` bytes."""
    rows, columns = dataset.block_shapes[0]
    bands = range(1, dataset.count + 1) if dataset.interleaving is not None and dataset.interleaving.value == "BAND" else (1,)
    lost = 0
    for band in bands:
        for row in range(-(-dataset.height // rows)):
            for column in range(-(-dataset.width // columns)):
                offset = dataset.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=band)
                size = dataset.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=band)
                lost += offset is None or size is None or int(offset) + int(size) > length
    return lost


def lost_codestream(stream: IO[bytes], length: int) -> str:
    """What a JPEG 2000 file (ISO/IEC 15444-1, annexes A and I) lacks, '' when its tile-parts and its end marker are there.

    `stream` is at any place; `length` is the file's in bytes.
    """
    place = 0
    while place + 8 <= length:
        stream.seek(place)
        size, kind = struct.unpack(">I4s", stream.read(8))
        header = 8
        if size == 1:
            size, header = struct.unpack(">Q", stream.read(8))[0], 16
        end = place + size if size else length
        if size and size < header:
            return f"a box of {size} bytes"
        if kind == b"jp2c":
            return lost_tiles(stream, place + header, end, length)
        place = end
    return "no codestream"


def lost_tiles(stream: IO[bytes], place: int, end: int, length: int) -> str:
    """What the codestream from `place` to `end` lacks: walks its markers to the tile-parts, and from one to the next by their lengths."""
    if end > length:
        return f"{end - length} bytes of its codestream lie outside the file"
    place += 2  # start of codestream
    while place + 4 <= end:
        stream.seek(place)
        marker, size = struct.unpack(">HH", stream.read(4))
        if marker == 0xFFD9:
            return ""
        if marker == 0xFF90:  # start of tile-part: its index, its length with this marker (0: the rest)
            _, part = struct.unpack(">HI", stream.read(6))
            if part == 0:
                part = end - place - 2
            if part < 14:
                return f"a tile-part of {part} bytes"
            place += part
        else:
            place += 2 + size
    if place + 2 <= end:
        stream.seek(place)
        if stream.read(2) == bytes.fromhex("ffd9"):
            return ""
    return "its end marker"
