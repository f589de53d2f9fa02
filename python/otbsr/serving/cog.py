"""A Cloud Optimized GeoTIFF put together from the compressed tiles of finished window files: no pixel is decoded and encoded again.

The windows are BigTIFFs of equal layout with overviews inside, and begin at whole tiles at every level that they carry; what is smaller is
averaged from their smallest level. TIFF 6.0 (1992); BigTIFF; GDAL's COG layout (image file directories first, overviews' data before the
image's).
"""

from __future__ import annotations

import itertools
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from otbsr.errors import OutputError, first_line
from otbsr.grid import Grid
from otbsr.raster import damage

TILE = 512
"""Side of the file's tiles, pixels."""
WIDTH, HEIGHT, TILE_OFFSETS, TILE_SIZES, SUBFILE = 256, 257, 324, 325, 254
LAYOUT = (258, 259, 277, 284, 317, 322, 323, 339)
"""Tags that say how a tile is packed: bits, compression, samples, planes, predictor, width, height, sample format."""
GEOREFERENCING_AND_METADATA = (33550, 33922, 34264, 34735, 34736, 34737, 42112)
"""Tags that overviews do not repeat."""
BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value by TIFF type."""
GHOST = b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\nBLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
"""GDAL's note that the file is laid out as a COG; the last blank lets GDAL take it back when somebody edits the file."""
AROUND = 8
"""Bytes around a tile: its size before it, its last four bytes again behind it, so that a reader needs no index for the next one."""


@dataclass(frozen=True)
class Layer:
    """What a mosaic of windows is: its grid, bands and pixel type, and what its readers are told (`label`)."""

    grid: Grid
    dtype: str
    bands: tuple[str, ...]
    nodata: float | None
    scale: float = 1.0
    offset: float = 0.0
    categories: bool = False  # whole numbers that must not be averaged

    def profile(self, grid: Grid | None = None) -> dict[str, Any]:
        """The profile for rasterio of a file of this layer on `grid` (default the layer's own): tiled, zstd, BigTIFF."""
        grid = grid or self.grid
        return {
            "driver": "GTiff",
            "width": grid.width,
            "height": grid.height,
            "count": len(self.bands),
            "dtype": self.dtype,
            "nodata": self.nodata,
            "transform": grid.transform,
            "crs": grid.crs or None,
            **storage(self.dtype),
        }

    def label(self, dataset: rasterio.io.DatasetWriter) -> None:
        """Write band names, scale and offset into an open file."""
        dataset.descriptions = self.bands
        dataset.scales = (self.scale,) * len(self.bands)
        dataset.offsets = (self.offset,) * len(self.bands)


@dataclass(frozen=True)
class Piece:
    """A finished window file and the layer's pixel (column, row) where it begins; without a file it holds no data."""

    column: int
    row: int
    width: int
    height: int
    path: Path | None


@dataclass(frozen=True)
class Tag:
    """A TIFF tag: type, number of values, and their bytes (little-endian)."""

    kind: int
    count: int
    data: bytes

    def numbers(self) -> tuple[int, ...]:
        """The values of a tag of unsigned integers."""
        return struct.unpack(f"<{self.count}{ {1: 'B', 3: 'H', 4: 'L', 16: 'Q'}[self.kind] }", self.data)


Directory = dict[int, Tag]


def storage(dtype: str) -> dict[str, Any]:
    """Creation options of every file here, as rasterio takes them."""
    predictor = 3 if dtype.startswith("float") else 2
    options = {"tiled": True, "blockxsize": TILE, "blockysize": TILE, "interleave": "pixel", "bigtiff": "yes"}
    return {**options, "compress": "zstd", "zstd_level": 1, "predictor": predictor}


def levels_of(grid: Grid) -> int:
    """Number of overviews, each half the one before, until one tile holds the image."""
    return max(0, (max(grid.width, grid.height, 1) - 1) // TILE).bit_length()


def levels_inside(side: int, whole: bool, grid: Grid) -> int:
    """Number of overviews that a window of `side` pixels carries: as long as it begins at whole tiles; all when it is the whole image."""
    tiles = side // TILE
    return levels_of(grid) if whole else min(levels_of(grid), (tiles & -tiles).bit_length() - 1)


def add_overviews(path: Path, layer: Layer, levels: int) -> None:
    """Write `levels` overviews into a window file, each averaged from the one before; raises `OutputError`.

    GDAL's own take three to four times the processor time, which is a fifth of a small network's.
    """
    halves = [path.with_name(f"{path.stem}_{level}.tif") for level in range(1, levels + 1)]
    try:
        for source, half in zip([path, *halves], halves, strict=False):
            write_half(source, half, layer)
        append(path, halves)
    except (RasterioError, OSError) as error:
        raise OutputError(f"{path}: overviews cannot be written ({first_line(error)}); check the free space") from error
    finally:
        for half in halves:
            half.unlink(missing_ok=True)


def write_half(source: Path, out: Path, layer: Layer) -> None:
    """Write the image of `source` with half its pixels each way, tile by tile."""
    with rasterio.Env(GDAL_NUM_THREADS="1", GDAL_CACHEMAX=64 << 20), rasterio.open(source) as dataset:  # each tile is read once
        grid = Grid(0, halved(dataset.height, 1), 1, 1, halved(dataset.width, 1), halved(dataset.height, 1))
        with rasterio.open(out, "w", **layer.profile(grid)) as half:
            for row in range(0, grid.height, TILE):
                for column in range(0, grid.width, TILE):
                    width, height = min(2 * TILE, dataset.width - 2 * column), min(2 * TILE, dataset.height - 2 * row)
                    pixels = halve(dataset.read(window=Window(2 * column, 2 * row, width, height)), layer)
                    half.write(pixels, window=Window(column, row, pixels.shape[2], pixels.shape[1]))


def halve(pixels: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """The mean of the pixels with data of each 2 x 2, rounded half up for whole numbers; for categories the first pixel: [bands, rows, columns].

    A last odd row or column stands for itself.
    """
    if layer.categories:
        return pixels[:, ::2, ::2]
    rows, columns = pixels.shape[1] % 2, pixels.shape[2] % 2
    if rows or columns:
        pixels = np.pad(pixels, ((0, 0), (0, rows), (0, columns)), mode="edge")
    whole = pixels.dtype.kind in "iu"
    wide = np.int64 if pixels.dtype.itemsize > 2 else np.int32
    if whole:
        lacking = None if layer.nodata is None else pixels == layer.nodata
    else:
        lacking = ~np.isfinite(pixels) if layer.nodata is None else ~np.isfinite(pixels) | (pixels == layer.nodata)
    if lacking is None or not lacking.any():
        total = sums(pixels, wide if whole else np.float64)
        return ((total + 2) >> 2 if whole else total / 4).astype(pixels.dtype)
    count = sums(~lacking, np.int32)
    total = sums(np.where(lacking, 0, pixels), wide if whole else np.float64)
    mean = (2 * total + count) // np.maximum(2 * count, 1) if whole else total / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan if layer.nodata is None else layer.nodata).astype(pixels.dtype)


def sums(pixels: NDArray[Any], kind: Any) -> NDArray[Any]:
    """The sum of each 2 x 2, as `kind`; rows first, which lie together."""
    rows = np.add(pixels[:, ::2], pixels[:, 1::2], dtype=kind)
    total: NDArray[Any] = rows[..., ::2] + rows[..., 1::2]
    return total


def append(path: Path, overviews: Sequence[Path]) -> None:
    """Put the image of each of `overviews` behind the file `path`, as its overviews in this order. Raises `OSError`."""
    if not overviews:
        return
    with path.open("r+b") as file:
        link = last_link(file)
        for overview in overviews:
            head = as_overview(directories(overview)[0])
            offsets = []
            file.seek(0, os.SEEK_END)
            with overview.open("rb") as source:
                for offset, size in zip(head[TILE_OFFSETS].numbers(), head[TILE_SIZES].numbers(), strict=True):
                    source.seek(offset)
                    offsets.append(file.tell())
                    file.write(source.read(size))
            head[TILE_OFFSETS] = Tag(16, len(offsets), struct.pack(f"<{len(offsets)}Q", *offsets))
            file.write(bytes(even(file.tell()) - file.tell()))
            begin = file.tell()
            file.write(directory_bytes(head, begin, False))
            file.seek(link)
            file.write(struct.pack("<Q", begin))
            link = begin + 8 + 20 * len(head)


def as_overview(head: Directory) -> Directory:
    """An image's directory as that of an overview."""
    kept = {code: tag for code, tag in head.items() if code not in GEOREFERENCING_AND_METADATA}
    return kept | {SUBFILE: Tag(4, 1, struct.pack("<L", 1))}


def last_link(file: BinaryIO) -> int:
    """Where a BigTIFF's last image file directory says that no other follows."""
    link = 8
    while True:
        file.seek(link)
        (offset,) = struct.unpack("<Q", file.read(8))
        if not offset:
            return link
        file.seek(offset)
        link = offset + 8 + 20 * int(struct.unpack("<Q", file.read(8))[0])


def directories(path: Path) -> list[Directory]:
    """The image file directories of a little-endian BigTIFF, in order; raises `OutputError`."""
    found: list[Directory] = []
    with path.open("rb") as file:
        head = file.read(16)
        if head[:8] != b"II\x2b\0\x08\0\0\0":
            raise OutputError(f"{path}: not the BigTIFF that was to be written; delete it and run again")
        (offset,) = struct.unpack("<Q", head[8:])
        while offset:
            file.seek(offset)
            (count,) = struct.unpack("<Q", file.read(8))
            entries, one = file.read(20 * count + 8), {}
            for code, kind, number, value in struct.iter_unpack("<HHQ8s", entries[:-8]):
                size = BYTES[kind] * number
                if size > 8:
                    file.seek(struct.unpack("<Q", value)[0])
                    value = file.read(size)
                one[code] = Tag(kind, number, value[:size])
            found.append(one)
            (offset,) = struct.unpack("<Q", entries[-8:])
    return found


def assemble(pieces: Sequence[Piece], layer: Layer, levels: int, out: Path, tags: Mapping[str, str]) -> None:
    """Write `pieces`, each with `levels` overviews inside, as one COG with all overviews, statistics and the metadata `tags`.

    The pieces cover the layer's grid without overlap and begin at multiples of TILE * 2**levels pixels (but for a single one). Raises
    `OutputError`; then `out` is not whole.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="assemble-", dir=out.parent) as scratch:
            template = write_template(Path(scratch) / "template.tif", layer, statistics(pieces, layer, levels), tags)
            blank = blank_tile(Path(scratch) / "blank.tif", layer)
            sources = [mosaic_tiles(pieces, layer, level, template, blank) for level in range(levels + 1)]
            if levels < levels_of(layer.grid):
                top = write_top(pieces, layer, levels, Path(scratch) / "top.tif")
                whole = [Piece(0, 0, layer.grid.width, layer.grid.height, top)]
                sources += [mosaic_tiles(whole, layer, level, template, blank, levels) for level in range(levels + 1, levels_of(layer.grid) + 1)]
            write_file(out, template, layer.grid, sources)
    except (RasterioError, OSError) as error:
        raise OutputError(f"{out}: cannot be written ({first_line(error)}); check the free space and run the same command again") from error
    if reason := damage(out):
        raise OutputError(f"{out}: {reason}; check the free space and run the same command again")


def write_template(path: Path, layer: Layer, numbers: Sequence[Mapping[str, str]], tags: Mapping[str, str]) -> Directory:
    """The directory of the whole image as GDAL writes it: an empty file gives it."""
    with rasterio.open(path, "w", **layer.profile(), sparse_ok=True) as dataset:
        layer.label(dataset)
        dataset.update_tags(**tags)
        for band, values in enumerate(numbers, 1):
            dataset.update_tags(band, **values)
    return directories(path)[0]


def blank_tile(path: Path, layer: Layer) -> bytes:
    """A compressed tile without data."""
    grid = Grid(0, TILE, 1, 1, TILE, TILE)
    with rasterio.open(path, "w", **layer.profile(grid)) as dataset:
        dataset.write(np.full((len(layer.bands), TILE, TILE), 0 if layer.nodata is None else layer.nodata, layer.dtype))
    one = directories(path)[0]
    with path.open("rb") as file:
        file.seek(one[TILE_OFFSETS].numbers()[0])
        return file.read(one[TILE_SIZES].numbers()[0])


def halved(size: int, level: int) -> int:
    """Pixels of `size` at an overview `level`."""
    return -(-size // 2**level)


Tile = tuple[Path, int, int] | bytes
"""Where a compressed tile lies (file, offset, bytes), or the tile itself."""


def mosaic_tiles(pieces: Sequence[Piece], layer: Layer, level: int, template: Directory, blank: bytes, base: int = 0) -> list[Tile]:
    """Every tile of an overview level (0: the image), row by row. base: level of the pieces' own image."""
    across, down = (-(-halved(size, level) // TILE) for size in (layer.grid.width, layer.grid.height))
    tiles: list[Tile] = [blank] * (across * down)
    for piece in pieces:
        if piece.path is None:
            continue
        wanted = halved(piece.width, level), halved(piece.height, level)
        head = (directories(piece.path)[level - base :] or [{}])[0]
        if not head or (head[WIDTH].numbers()[0], head[HEIGHT].numbers()[0]) != wanted or any(head.get(tag) != template.get(tag) for tag in LAYOUT):
            raise OutputError(f"{piece.path}: has no level of {wanted[0]} x {wanted[1]} pixels in the layout of the whole; delete the folder and run again")
        own = -(-wanted[0] // TILE)
        left, top = (piece.column >> level) // TILE, (piece.row >> level) // TILE
        for number, (offset, size) in enumerate(zip(head[TILE_OFFSETS].numbers(), head[TILE_SIZES].numbers(), strict=True)):
            tiles[(top + number // own) * across + left + number % own] = (piece.path, offset, size) if size else blank
    return tiles


def level_pixels(pieces: Sequence[Piece], layer: Layer, level: int) -> NDArray[Any]:
    """The mosaic at an overview level that the pieces carry: [bands, rows, columns]."""
    shape = len(layer.bands), halved(layer.grid.height, level), halved(layer.grid.width, level)
    pixels: NDArray[Any] = np.full(shape, 0 if layer.nodata is None else layer.nodata, layer.dtype)
    for piece in pieces:
        if piece.path is not None:
            options = {"overview_level": level - 1} if level else {}
            with rasterio.open(piece.path, **options) as dataset:
                left, top = piece.column >> level, piece.row >> level
                pixels[:, top : top + dataset.height, left : left + dataset.width] = dataset.read()
    return pixels


def write_top(pieces: Sequence[Piece], layer: Layer, levels: int, path: Path) -> Path:
    """The pieces' smallest level as a file of its own, with what is smaller as its overviews."""
    pixels = level_pixels(pieces, layer, levels)
    grid = Grid(0, pixels.shape[1], 1, 1, pixels.shape[2], pixels.shape[1])
    with rasterio.open(path, "w", **layer.profile(grid)) as dataset:
        dataset.write(pixels)
    add_overviews(path, layer, levels_of(layer.grid) - levels)
    return path


def statistics(pieces: Sequence[Piece], layer: Layer, levels: int) -> list[dict[str, str]]:
    """GDAL's statistics of each band, from the largest level of at most 4 million pixels that the pieces carry."""
    grid = layer.grid
    level = next((level for level in range(levels + 1) if halved(grid.width, level) * halved(grid.height, level) <= 1 << 22), levels)
    found = []
    for band in level_pixels(pieces, layer, level):
        values = band[np.isfinite(band) if layer.nodata is None else np.isfinite(band) & (band != layer.nodata)].astype(np.float64)
        if values.size:
            numbers = {
                "MINIMUM": values.min(),
                "MAXIMUM": values.max(),
                "MEAN": values.mean(),
                "STDDEV": values.std(),
                "VALID_PERCENT": 100 * values.size / band.size,
            }
            found.append({f"STATISTICS_{key}": f"{value:.6g}" for key, value in numbers.items()} | ({"STATISTICS_APPROXIMATE": "YES"} if level else {}))
        else:
            found.append({})
    return found


def write_file(out: Path, template: Directory, grid: Grid, levels: Sequence[Sequence[Tile]]) -> None:
    """Write the directories of the image and its overviews, then the tiles, smallest level first."""
    heads = []
    for level, tiles in enumerate(levels):
        head = as_overview(template) if level else dict(template)
        head[WIDTH], head[HEIGHT] = (Tag(4, 1, struct.pack("<L", halved(size, level))) for size in (grid.width, grid.height))
        head[TILE_SIZES] = Tag(4, len(tiles), struct.pack(f"<{len(tiles)}L", *(len(tile) if isinstance(tile, bytes) else tile[2] for tile in tiles)))
        head[TILE_OFFSETS] = Tag(16, len(tiles), bytes(8 * len(tiles)))
        heads.append(head)
    ghost = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % len(GHOST) + GHOST
    begin = 16 + even(len(ghost))
    position = begin + sum(len(directory_bytes(head, 0, False)) for head in heads)
    for head in reversed(heads):
        ends = list(itertools.accumulate((size + AROUND for size in head[TILE_SIZES].numbers()), initial=position))
        head[TILE_OFFSETS] = Tag(16, len(ends) - 1, struct.pack(f"<{len(ends) - 1}Q", *(end + 4 for end in ends[:-1])))
        position = ends[-1]
    with out.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, begin) + ghost.ljust(begin - 16, b"\0"))
        for number, head in enumerate(heads):
            file.write(directory_bytes(head, file.tell(), number < len(heads) - 1))
        with opened() as source:
            for tile in itertools.chain.from_iterable(reversed(levels)):
                data = tile if isinstance(tile, bytes) else os.pread(source(tile[0]), tile[2], tile[1])
                if not isinstance(tile, bytes) and len(data) != tile[2]:
                    raise OutputError(f"{tile[0]}: was cut while it was read; run the same command again")
                file.write(struct.pack("<L", len(data)) + data + data[-4:])
        if file.tell() != position:
            raise OutputError(f"{out}: {file.tell()} bytes were written, expected {position}; report this as a bug")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def opened() -> Iterator[Any]:
    """Yield a function that gives a file's descriptor, opening each file once."""
    files: dict[Path, BinaryIO] = {}

    def descriptor(path: Path) -> int:
        if path not in files:
            files[path] = path.open("rb")
        return files[path].fileno()

    try:
        yield descriptor
    finally:
        for file in files.values():
            file.close()


def even(size: int) -> int:
    """`size` raised to a multiple of 8 bytes."""
    return -(-size // 8) * 8


def directory_bytes(head: Directory, begin: int, followed: bool) -> bytes:
    """An image file directory that lies at the byte `begin`, with its long values right behind it, and the next one behind them when `followed`."""
    size = 8 + 20 * len(head) + 8
    position, entries, values = begin + even(size), b"", b""
    for code in sorted(head):
        tag = head[code]
        if len(tag.data) <= 8:
            entries += struct.pack("<HHQ8s", code, tag.kind, tag.count, tag.data)
        else:
            entries += struct.pack("<HHQQ", code, tag.kind, tag.count, position + len(values))
            values += tag.data.ljust(even(len(tag.data)), b"\0")
    following = position + len(values) if followed else 0
    return (struct.pack("<Q", len(head)) + entries + struct.pack("<Q", following)).ljust(even(size), b"\0") + values
