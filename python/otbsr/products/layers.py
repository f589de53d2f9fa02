"""Layers: what a product says of its pixels (cloud, shadow, ...), as codes or bits of an image or as polygons of a GML file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.features import rasterize
from rasterio.rpc import RPC
from rasterio.transform import RPCTransformer
from rasterio.warp import reproject, transform_geom

from otbsr.errors import InputError, first_line
from otbsr.grid import Grid
from otbsr.products.files import local, nodes, read_xml
from otbsr.raster import known_damage

Mask = NDArray[np.bool_]

KINDS = ("nodata", "cloud", "shadow", "snow", "saturation", "invalid")
"""nodata: no measurement; cloud: also haze and cirrus; shadow: of clouds; invalid: the processor's other reasons not to use a pixel."""


@dataclass(frozen=True)
class Layer:
    """Pixels of one kind: those of band `index` of `path` with one of `values` or any of `bits`, or in its polygons when it ends in .gml.

    bands: those that it speaks of, () for all. outside: the polygons hold the good pixels. feature: only polygons of that maskType.
    """

    kind: str
    path: Path
    index: int = 1
    values: tuple[int, ...] = ()
    bits: int = 0
    bands: tuple[str, ...] = ()
    outside: bool = False
    feature: str = ""

    def read(self, grid: Grid, sensor: Sequence[Path] = ()) -> Mask:
        """Where the kind is, bool of (height, width) of `grid`, in the layer's or another spacing.

        A pixel coarser than the layer's is of the kind when any within it is; a pixel outside the layer is not.
        sensor: images, one of them with RPC to place geographic polygons on, for products in sensor geometry.
        Raises `InputError` for a file that is missing or cannot be read.
        """
        if self.path.suffix.lower() == ".gml":
            return self.outside ^ self.rasterised(grid, sensor)
        if reason := known_damage(self.path):
            raise InputError(f"{self.path}: {reason}; fetch the file again")
        try:
            with rasterio.open(self.path) as file:
                return self.resampled(file, grid)
        except RasterioError as error:
            raise InputError(f"{self.path}: cannot be read ({first_line(error)}); fetch the file again") from error

    def resampled(self, file: rasterio.DatasetReader, grid: Grid) -> Mask:
        """The kind's pixels on `grid`."""
        own = Grid.of(file, south_up=True)
        window = own.window_over(grid, 1)
        if window is None:
            return np.zeros((grid.height, grid.width), bool)
        codes = file.read(self.index, window=window)
        flags = np.isin(codes, self.values) if self.values else (codes.astype(np.int64) & self.bits) != 0
        return on_grid(flags, own.cropped(window), grid)

    def rasterised(self, grid: Grid, sensor: Sequence[Path]) -> Mask:
        """The pixels of `grid` that the polygons touch (for `outside`: whose centre they hold)."""
        shapes = [placed(shape, crs, grid, sensor) for shape, crs, kind in polygons(self.path) if not self.feature or kind == self.feature]
        if not shapes:
            return np.full((grid.height, grid.width), self.outside, bool)  # no region given: the whole image is the region
        size = (grid.height, grid.width)
        return np.asarray(rasterize(shapes, size, transform=grid.transform, all_touched=not self.outside, dtype="uint8"), bool)


def on_grid(flags: NDArray[np.bool_], own: Grid, grid: Grid, every: bool = False) -> Mask:
    """Flags of the pixels of `own` on `grid`, False outside: nearest when it is finer; when it is coarser, those where any (every) pixel within has it."""
    if own.same(grid):
        return np.asarray(flags, bool)
    found: NDArray[np.uint8] = np.zeros((grid.height, grid.width), np.uint8)
    crs = own.crs or grid.crs or "EPSG:3857"  # without georeferencing any plane serves: both sides have the same
    coarser = Resampling.min if every else Resampling.max
    reproject(
        flags.astype(np.uint8), found, src_transform=own.transform, src_crs=crs, dst_transform=grid.transform, dst_crs=grid.crs or crs,
        resampling=coarser if grid.dx > own.dx * 1.001 else Resampling.nearest, tolerance=0,
    )  # fmt: skip
    return found.astype(bool)


def polygons(path: Path) -> list[tuple[dict[str, Any], str, str]]:
    """(GeoJSON polygon in x, y order, CRS or "", kind) of a GML file's polygons; raises `InputError`.

    kind: maskType or maskNature of the feature. CRS: srsName of the polygon, else of anything around it.
    """
    root = read_xml(path)
    outer = next((node.attrib["srsName"] for node in root.iter() if node.attrib.get("srsName")), "")
    found = []
    features = [node for node in root.iter() if local(node) in ("MaskFeature", "Mask_Feature")] or [root]
    for feature in features:
        kind = next(((node.text or "").strip() for node in feature.iter() if local(node) in ("maskType", "maskNature")), "")
        for polygon in nodes(feature, "Polygon"):
            rings = [ring(node, path) for side in ("exterior", "interior") for node in nodes(polygon, side)]
            if rings:
                found.append(({"type": "Polygon", "coordinates": rings}, polygon.attrib.get("srsName", outer), kind))
    return found


def ring(node: Any, path: Path) -> list[tuple[float, float]]:
    """The points of a ring, from posList (2 or 3 coordinates a point), pos or coordinates."""
    try:
        listed = nodes(node, "posList")
        if listed:
            values = [float(word) for word in (listed[0].text or "").split()]
            step = int(listed[0].attrib.get("srsDimension", "0")) or (3 if len(values) % 3 == 0 and len(values) % 2 else 2)
            points = [(values[i], values[i + 1]) for i in range(0, len(values) - step + 1, step)]
        elif nodes(node, "coordinates"):
            words = (nodes(node, "coordinates")[0].text or "").split()
            points = [(float(word.split(",")[0]), float(word.split(",")[1])) for word in words]
        else:
            points = [(float(x), float(y)) for x, y, *_ in ((one.text or "").split() for one in nodes(node, "pos"))]
    except (ValueError, IndexError) as error:
        raise InputError(f"{path}: coordinates of a polygon cannot be read ({error}); fetch the file again") from error
    if len(points) < 3:
        raise InputError(f"{path}: a polygon has {len(points)} points, expected 3 or more; fetch the file again")
    return points if points[0] == points[-1] else [*points, points[0]]


def placed(shape: dict[str, Any], crs: str, grid: Grid, sensor: Sequence[Path]) -> dict[str, Any]:
    """A polygon in the grid's coordinates. Without a CRS of its own it has the grid's."""
    if not crs:
        return shape
    try:
        own = rasterio.CRS.from_user_input(crs)
    except (RasterioError, ValueError):  # CRSError is the latter
        return shape  # a name that only its publisher knows: the product's own CRS
    if own.is_geographic and crs.lower().startswith(("urn:", "http")):  # these names put latitude first
        shape = {**shape, "coordinates": [[(y, x) for x, y in points] for points in shape["coordinates"]]}
    if grid.crs:
        return dict(transform_geom(own, grid.crs, shape))
    rpcs = next((found for file in sensor if (found := rpcs_of(file)) is not None), None)
    if rpcs is None or not own.is_geographic:
        return shape
    lines = []
    with RPCTransformer(rpcs) as transformer:
        for points in shape["coordinates"]:
            xs, ys = zip(*points, strict=True)
            rows, columns = transformer.rowcol(xs, ys, zs=[rpcs.height_off] * len(xs), op=lambda value: value)
            lines.append([grid.corner(column, row) for row, column in zip(rows, columns, strict=True)])
    return {**shape, "coordinates": lines}


def rpcs_of(path: Path) -> RPC | None:
    """The rational functions that place an image on the ground, None without them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return file.rpcs
