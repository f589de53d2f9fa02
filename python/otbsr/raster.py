"""Whether a raster file is all there: GDAL opens truncated files, and OTB ends with status 0 on a full disk."""

from __future__ import annotations

from pathlib import Path

import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window


def damage(path: str | Path) -> str:
    """What is wrong with the raster file `path` in a few words, '' when it is whole.

    TIFF: every block's offset and size must lie within the file, so that a file cut anywhere is found without decoding it.
    Every format: the last block of the last band is decoded.
    """
    path = Path(path)
    if not path.exists():
        return "does not exist"
    try:
        with rasterio.open(path) as dataset:
            if dataset.driver == "GTiff":
                lost = lost_blocks(dataset, path.stat().st_size)
                if lost:
                    return f"is incomplete ({lost} blocks lie outside the file)"
            rows, columns = dataset.block_shapes[-1]
            last = Window((dataset.width - 1) // columns * columns, (dataset.height - 1) // rows * rows, columns, rows)
            dataset.read(dataset.count, window=last.intersection(Window(0, 0, dataset.width, dataset.height)))
    except (RasterioError, OSError) as error:
        return f"cannot be read ({first_line(error)})"
    return ""


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


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or of what caused it when rasterio only refers to that."""
    cause = error.__cause__ or error
    return (str(cause) or str(error) or type(error).__name__).splitlines()[0]
