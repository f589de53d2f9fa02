"""Data sets of Sentinel-2 with sharper images: their layouts read as areas, each an input and a target, and written as aligned GeoTIFFs.

An area becomes a folder with `input.tif` (10 m) and `target.tif` (nested in it), int16, reflectance x 10000, no-data -10000, and `area.json`.
`otbsr pairs input.tif target.tif` goes on from there. Layouts are those of the publishers' archives, unpacked.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.warp import reproject

from otbsr.errors import InputError, OutputError, UsageError, first_line, nearest
from otbsr.files import write_json
from otbsr.grid import Grid
from otbsr.products.download import ZENODO, Remote, remote_of, zenodo_files
from otbsr.products.files import read_bytes
from otbsr.products.product import NODATA, SCALE
from otbsr.products.tensor import read_tensor
from otbsr.progress import Report, silent
from otbsr.raster import damage, new_raster

Image = NDArray[np.float32]

MODEL_BANDS = ("B4", "B3", "B2", "B8")
FORMAT = 1


@dataclass(frozen=True)
class Area:
    """One place of a data set: reflectance float32 of (bands, rows, columns), NaN without data, on two grids of which the target's nests.

    calibrated: the target is reflectance as published; otherwise its counts were fitted to the input band by band (`fit`).
    """

    name: str
    split: str
    bands: tuple[str, ...]
    input: Image
    target: Image
    grid: Grid
    fine: Grid
    calibrated: bool = True
    details: Mapping[str, Any] = field(default_factory=dict)


Place = tuple[str, Callable[[], Area]]
"""The name of an area, and what reads it; that raises `InputError` for an area that cannot be used."""


@dataclass(frozen=True)
class DataSet:
    """A data set that can be imported: what it is, its licence, how its areas are found, and where it is published."""

    title: str
    licence: str
    areas: Callable[[Path], Iterator[Place]]
    zenodo: str = ""
    urls: tuple[str, ...] = ()


# --- WorldStrat ------------------------------------------------------------------------------------------------------------------


def worldstrat(root: Path) -> Iterator[Place]:
    """WorldStrat (Cornebise et al. 2022): Spot-6/7 pansharpened counts at 1.5 m and up to 16 Sentinel-2 L2A images at 10 m of 2.5 km.

    Of an area's images, the one without cloud (CLM) that is nearest in date is the input; the target is averaged to a quarter of the
    input's spacing on a grid nested in it, and its counts are fitted to the input band by band.
    """
    high, low = root / "hr_dataset", root / "lr_dataset"
    if not high.is_dir() or not low.is_dir():
        raise InputError(f"{root}: no hr_dataset and lr_dataset, expected WorldStrat's archives unpacked side by side; unpack hr_dataset and lr_dataset_l2a")
    splits = split_table(root, "tile", "split")
    for file in sorted([*high.glob("*/*_ps.tiff"), *high.glob("12bit/*/*_ps.tiff")]):
        name = file.parent.name
        yield name, partial(worldstrat_area, name, splits.get(name, ""), file, low / name / "L2A")


def worldstrat_area(name: str, split: str, file: Path, revisits: Path) -> Area:
    """One area of WorldStrat; raises `InputError`."""
    image, about = best_revisit(revisits, name)
    with opened_raster(image) as dataset:
        if dataset.count != 12:
            raise InputError(f"{image}: {dataset.count} bands, expected WorldStrat's 12 (B01 to B12 without B10); fetch the file again")
        coarse = Grid.of(dataset)
        planes = np.stack([without_nodata(dataset, index) for index in (4, 3, 2, 8)])  # B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B11 B12
    with opened_raster(file) as dataset:
        if dataset.count != 4:
            raise InputError(f"{file}: {dataset.count} bands, expected red, green, blue and near infrared; fetch the file again")
        fine = coarse.refined(4)
        counts = np.stack([onto(dataset, index, fine, nodata=0) for index in (1, 2, 3, 4)])
    target, fit = fitted(counts, planes)
    return Area(name, split, MODEL_BANDS, planes, target, coarse, fine, False, {"input": image.name, "target": file.name, "fit": fit, **about})


def best_revisit(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """The clear image nearest in date, with what its metadata say; raises `InputError` when none has less than 1 % of cloud."""
    found = []
    for image in sorted(folder.glob(f"{name}-*-L2A_data.tiff")):
        stem = image.name.removesuffix("L2A_data.tiff")
        about = json_of(image.with_name(f"{stem}L2A.metadata"), image.with_name(f"{stem}L2A_metadata.json"), image.with_name(f"{stem}.metadata"))
        mask = next(
            (
                path
                for path in (image.with_name(f"{stem}L2A-CLM.tiff"), image.with_name(f"{stem}CLM.tiff"), image.with_name(f"{stem}L2A_CLM.tiff"))
                if path.exists()
            ),
            None,
        )
        cloud = float(about.get("cloud_cover", 0) or 0)
        if mask:
            with opened_raster(mask) as dataset:
                cloud = float((dataset.read(1) != 0).mean())
        gap = about.get("delta")
        days = abs(float(gap)) if isinstance(gap, int | float) else abs(duration(str(gap))) if gap else 0.0
        number = int(re.sub(r"\D", "", stem.removeprefix(name)) or 0)
        found.append((cloud, days, number, image, {"cloud": cloud, "gap_days": days, "revisit": number, "date": str(about.get("datetime", ""))}))
    clear = [one for one in found if one[0] <= 0.01]
    if not clear:
        raise InputError(f"{folder}: none of {len(found)} Sentinel-2 images has less than 1 % of cloud")
    best = min(clear, key=lambda one: one[1:3])
    return best[3], best[4]


def duration(text: str) -> float:
    """Days in "3 days, 2:10:00" or "2:10:00" or "-1"."""
    match = re.match(r"\s*(-?\d+(?:\.\d+)?)\s*(?:days?)?\s*$|\s*(-?\d+) days?,", text)
    return float(match[1] or match[2]) if match else 0.0


# --- FLAIR-HUB -------------------------------------------------------------------------------------------------------------------


def flairhub(root: Path) -> Iterator[Place]:
    """FLAIR-HUB (IGN 2025): Spot at 1.6 m and Sentinel-2 series at 10.24 m in patches of 102.4 m; the patches of a region (ROI) are joined.

    The input is the date with the least cloud and snow, of those the one with the most data; the target is averaged to 2.56 m. Bands: B4, B3, B2, B8.
    """
    folders = sorted(path for base in (root, root / "data") if base.is_dir() for path in base.glob("*_SPOT_RGBI") if path.is_dir())
    if not folders:
        raise InputError(f"{root}: no folder *_SPOT_RGBI, expected FLAIR-HUB's archives unpacked (D012-2019_SPOT_RGBI and so on); unpack them side by side")
    for folder in folders:
        domain = folder.name.removesuffix("_SPOT_RGBI")
        series = folder.with_name(f"{domain}_SENTINEL2_TS")
        if not series.is_dir():
            raise InputError(f"{folder}: no {series.name} beside it; unpack the Sentinel-2 series of the same domain")
        for region in sorted(path for path in folder.iterdir() if path.is_dir()):
            masks = folder.with_name(f"{domain}_SENTINEL2_MSK-SC") / region.name
            yield f"{domain}_{region.name}", partial(flair_region, domain, region, series / region.name, masks)


def flair_region(domain: str, spot: Path, series: Path, masks: Path) -> Area:
    """The area of one region: its patches that have both images, joined; raises `InputError`."""
    tiles = {}
    for file in sorted(spot.glob("*.tif")):
        other = series / file.name.replace("_SPOT_RGBI_", "_SENTINEL2_TS_")
        if other.exists():
            tiles[file] = other
    if not tiles:
        raise InputError(f"{spot}: no patch that has a Sentinel-2 series too ({series}); unpack both archives of the domain")
    with opened_raster(next(iter(tiles.values()))) as dataset:
        dates = dataset.count // 10
        if dataset.count % 10 or not dates:
            raise InputError(f"{next(iter(tiles.values()))}: {dataset.count} bands, expected 10 for each date; fetch the file again")
    clouds = np.zeros(dates)
    for file in tiles.values():
        mask = masks / file.name.replace("_SENTINEL2_TS_", "_SENTINEL2_MSK-SC_")
        if mask.exists():
            with opened_raster(mask) as dataset:
                cover = dataset.read().astype(float).reshape(-1, 2, dataset.height, dataset.width).mean(axis=(1, 2, 3))  # snow, cloud of each date
            clouds[: len(cover)] += cover[:dates]
    date = int(np.argmin(clouds))
    coarse = joined_grid(list(tiles.values()))
    planes = joined(list(tiles.values()), coarse, [10 * date + band for band in (3, 2, 1, 7)]) * np.float32(SCALE)  # B2 B3 B4 B5 B6 B7 B8 B8A B11 B12
    fine = coarse.refined(4)
    sharp = joined_grid(list(tiles))
    counts = joined(list(tiles), sharp, [1, 2, 3, 4])
    target = np.stack([averaged(plane, sharp, fine) for plane in counts]) * np.float32(SCALE)
    details = {"date_index": date, "dates": dates, "cloud_snow": round(float(clouds[date]) / len(tiles), 3), "patches": len(tiles), "domain": domain}
    return Area(f"{domain}_{spot.name}", "", MODEL_BANDS, planes, target, coarse, fine, True, details)


def joined_grid(files: Sequence[Path]) -> Grid:
    """The grid that holds all of some files, which are on one lattice; raises `InputError` when they are not."""
    grids = [read_grid(file) for file in files]
    first = grids[0]
    left, top = min(grid.left for grid in grids), max(grid.top for grid in grids)
    right, bottom = max(grid.right for grid in grids), min(grid.bottom for grid in grids)
    whole = Grid(left, top, first.dx, first.dy, round((right - left) / first.dx), round((top - bottom) / first.dy), first.crs)
    for file, grid in zip(files, grids, strict=True):
        if whole.window_of(grid) is None:
            raise InputError(f"{file}: {grid.describe()} is not on the lattice of {files[0]}, {first.describe()}; fetch the files again")
    return whole


def joined(files: Sequence[Path], whole: Grid, indices: Sequence[int]) -> Image:
    """Some bands of files placed on a grid that holds them all, NaN between."""
    planes: Image = np.full((len(indices), whole.height, whole.width), np.nan, np.float32)
    for file in files:
        with opened_raster(file) as dataset:
            window = whole.window_of(Grid.of(dataset))
            if window is None:  # `joined_grid` has checked it
                raise InputError(f"{file}: is not on the lattice of the others; fetch it again")
            rows, columns = window.toslices()
            planes[:, rows, columns] = np.stack([without_nodata(dataset, index, 0) for index in indices])
    return planes


# --- SEN2VENuS -------------------------------------------------------------------------------------------------------------------


def sen2venus(root: Path) -> Iterator[Place]:
    """SEN2VENuS (Michel et al. 2022), one site's folder or several: patches of 1.28 km with Sentinel-2 at 10 m and VENuS at 5 m (factor 2).

    Version 1 keeps the patches of a day in a PyTorch file, which is read without PyTorch, and their place in a GeoPackage; without that
    they get a grid of their own. Bands: B2, B3, B4, B8.
    """
    tables = sorted([*root.glob("index.csv"), *root.glob("*/index.csv")])
    if not tables:
        raise InputError(f"{root}: no index.csv, expected a site's folder of SEN2VENuS (version 1) or one that holds such folders; unpack a site's archive")
    for table in tables:
        for row in csv_rows(table):
            low, high = (column_of(row, table, f"tensor_{name}_b2b3b4b8") for name in ("10m", "05m"))
            if low and high:
                day = VenusDay(table, row, inside(table.parent, low, table), inside(table.parent, high, table))
                site = f"{row.get('vns_site', table.parent.name)}_{row.get('s2_tile', '')}_{row.get('date', '')}"
                count = int(row["nb_patches"]) if row.get("nb_patches", "").isdigit() else len(day.tensors[0])
                yield from ((f"{site}_{index:04d}", partial(day.area, f"{site}_{index:04d}", index)) for index in range(count))


@dataclass(frozen=True)
class VenusDay:
    """The patches of one site and day: a row of the table, and the files of both tensors."""

    table: Path
    row: Mapping[str, str]
    low: Path
    high: Path

    @cached_property
    def tensors(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Both tensors, (N, 4, H, W) and (N, 4, 2 H, 2 W); raises `InputError`."""
        low, high = read_tensor(self.low), read_tensor(self.high)
        if low.ndim != 4 or low.shape[1] != 4 or high.shape != (*low.shape[:2], 2 * low.shape[2], 2 * low.shape[3]):
            raise InputError(f"{self.low}: {low.shape} and {high.shape} for 10 m and 5 m, expected (N, 4, H, W) and twice that; fetch the site again")
        return low, high

    @cached_property
    def grids(self) -> list[Grid]:
        """The 10 m grid of each patch."""
        return patch_grids(self.table.parent / self.row.get("patches_gpkg", ""), self.tensors[0].shape)

    def area(self, name: str, index: int) -> Area:
        """One patch; raises `InputError`."""
        low, high = self.tensors
        if index >= len(low):
            raise InputError(f"{self.low}: {len(low)} patches, {self.table} says {self.row.get('nb_patches')}; fetch the site again")
        details = {"input": self.row.get("sentinel2_product_id", ""), "target": self.row.get("venus_product_id", ""), "date": self.row.get("date", "")}
        grid = self.grids[index]
        return Area(name, "", ("B2", "B3", "B4", "B8"), dn(low[index]), dn(high[index]), grid, grid.refined(2), True, details)


def dn(numbers: NDArray[np.generic]) -> Image:
    """Reflectance of int16 numbers x 10000, NaN for no-data."""
    values = numbers.astype(np.float32) * np.float32(SCALE)
    values[numbers == NODATA] = np.nan
    return values


def column_of(row: Mapping[str, str], table: Path, name: str) -> str:
    """A column of index.csv; raises `InputError` when the table lacks it."""
    if name not in row:
        raise InputError(f"{table}: no column {name}, there are {', '.join(row)}; expected SEN2VENuS version 1")
    return row[name].strip()


def patch_grids(file: Path, shape: Sequence[int]) -> list[Grid]:
    """The 10 m grid of each patch, from its polygon; without the GeoPackage side by side without a CRS."""
    count, _, height, width = shape
    if file.is_file():
        import pyogrio

        try:
            frame = pyogrio.read_dataframe(file)
        except Exception as error:  # GDAL's errors have many types here
            raise InputError(f"{file}: cannot be read ({first_line(error)}); unpack the site again") from error
        if len(frame) != count:
            raise InputError(f"{file}: {len(frame)} patches, the tensors have {count}; unpack the site again")
        crs = frame.crs.to_wkt() if frame.crs else ""
        return [Grid(bounds[0], bounds[3], 10.0, 10.0, width, height, crs) for bounds in (geometry.bounds for geometry in frame.geometry)]
    return [Grid(float(10 * width * index), 0.0, 10.0, 10.0, width, height) for index in range(count)]


# --- BreizhSR --------------------------------------------------------------------------------------------------------------------


def breizhsr(root: Path) -> Iterator[Place]:
    """BreizhSR (2024): Spot-6 patches of 296 pixels at 2.5 m, 8 bits, with series of Sentinel-2 patches of 74 pixels at 10 m, B4, B3, B2.

    The tables are pickles of pandas, which may run what they hold: convert them to CSV first (dataset_train.csv, dataset_test.csv with the columns
    spot6_image, sen2_acquisitions). Of a series the date nearest to Spot's is taken. Spot's 8 bits are fitted to the input band by band.
    """
    tables = [path for path in (root / "dataset_train.csv", root / "dataset_test.csv") if path.is_file()]
    if not tables:
        have = ", ".join(path.name for path in sorted(root.glob("dataset_*.pkl")))
        hint = f"there is {have}, a pickle that may run anything" if have else "expected dataset_train.csv"
        raise InputError(
            f"{root}: no table, {hint}; where you trust it: python -c \"import pandas; pandas.read_pickle('dataset_train.pkl').to_csv('dataset_train.csv')\""
        )
    for table in tables:
        split = table.stem.removeprefix("dataset_")
        for index, row in enumerate(csv_rows(table)):
            name = f"{split}_{index:05d}"
            yield name, partial(breizhsr_area, root, table, name, split, row)


def breizhsr_area(root: Path, table: Path, name: str, split: str, row: Mapping[str, str]) -> Area:
    """One patch of BreizhSR; raises `InputError`."""
    sharp = inside(root, row.get("spot6_image", ""), table)
    acquisitions = acquisitions_of(row.get("sen2_acquisitions", ""), table)
    gap, file = min(acquisitions.items(), key=lambda pair: (abs(pair[0]), pair[0]))
    low = inside(root, file, table)
    with opened_raster(low) as dataset:
        coarse = Grid.of(dataset)
        planes = np.stack([without_nodata(dataset, band) for band in (1, 2, 3)]) * np.float32(SCALE)
    with opened_raster(sharp) as dataset:
        counts = np.stack([without_nodata(dataset, band) for band in (1, 2, 3)])
    if counts.shape[1:] != (4 * planes.shape[1], 4 * planes.shape[2]):
        raise InputError(f"{sharp}: {counts.shape[1:]} pixels, expected four times those of {low}, {planes.shape[1:]}; fetch the files again")
    target, fit = fitted(counts, planes)
    details = {"input": low.name, "target": sharp.name, "gap_days": gap, "fit": fit}
    return Area(name, split, ("B4", "B3", "B2"), planes, target, coarse, coarse.refined(4), False, details)


def acquisitions_of(text: str, table: Path) -> dict[float, str]:
    """{days: path} of a table's cell such as "{-3: 'a.tif', 12: 'b.tif'}"; raises `InputError`."""
    import ast

    try:
        found = ast.literal_eval(text)
        listed = {float(days): str(file) for days, file in found.items()}
        if not listed:
            raise ValueError("no date")
        return listed
    except (ValueError, SyntaxError, AttributeError, TypeError, MemoryError, RecursionError) as error:
        raise InputError(f"{table}: sen2_acquisitions is '{text[:60]}', expected {{days: 'path', ...}}; write the table again") from error


def inside(root: Path, name: str, table: Path) -> Path:
    """A path of a table, below the data set's folder; raises `InputError` for one that leads out of it."""
    path = (root / name).resolve()
    if not name or not path.is_relative_to(root.resolve()):
        raise InputError(f"{table}: path '{name}' is not below {root}; write paths from that folder")
    return path


# --- shared ----------------------------------------------------------------------------------------------------------------------


def opened_raster(path: Path) -> rasterio.DatasetReader:
    """A raster file, checked to be whole; raises `InputError`."""
    if reason := damage(path):
        raise InputError(f"{path}: {reason}; fetch the file again")
    try:
        return rasterio.open(path)
    except RasterioError as error:
        raise InputError(f"{path}: cannot be read as an image ({first_line(error)}); fetch the file again") from error


def read_grid(path: Path) -> Grid:
    """The grid of a file that is whole; raises `InputError`."""
    with opened_raster(path) as dataset:
        return Grid.of(dataset)


def without_nodata(dataset: rasterio.DatasetReader, index: int, nodata: float | None = None) -> Image:
    """A band as float32, NaN where it is the file's no-data or `nodata`."""
    numbers = dataset.read(index)
    values: Image = numbers.astype(np.float32)
    empty = dataset.nodatavals[index - 1] if dataset.nodatavals[index - 1] is not None else nodata
    if empty is not None and not np.isnan(empty):
        values[numbers == empty] = np.nan
    return values


def onto(dataset: rasterio.DatasetReader, index: int, grid: Grid, nodata: float | None = None) -> Image:
    """A band averaged to a grid, whatever its CRS, NaN where nothing of it lies."""
    found: Image = np.full((grid.height, grid.width), np.nan, np.float32)
    reproject(
        without_nodata(dataset, index, nodata), found, src_transform=dataset.transform, src_crs=dataset.crs or grid.crs, src_nodata=np.nan,
        dst_transform=grid.transform, dst_crs=grid.crs or dataset.crs, dst_nodata=np.nan, resampling=Resampling.average,
    )  # fmt: skip
    return found


def averaged(plane: Image, own: Grid, grid: Grid) -> Image:
    """A plane averaged from one grid to another of the same CRS."""
    found: Image = np.full((grid.height, grid.width), np.nan, np.float32)
    crs = own.crs or "EPSG:3857"
    reproject(plane, found, src_transform=own.transform, src_crs=crs, src_nodata=np.nan, dst_transform=grid.transform, dst_crs=crs, dst_nodata=np.nan,
              resampling=Resampling.average)  # fmt: skip
    return found


def fitted(counts: Image, reference: Image) -> tuple[Image, list[dict[str, float]]]:
    """Counts as reflectance: for each band the line from counts, averaged to the reference's pixels, to the reference.

    Least squares, five times without the pixels beyond three times the median deviation: clouds and changes leave it. Returns the planes, and
    gain, bias, r2 and share of pixels used of each band. Raises `InputError` when a band cannot be fitted.
    """
    factor = counts.shape[1] // reference.shape[1]
    blocks = counts.reshape(len(counts), reference.shape[1], factor, reference.shape[2], factor).mean(axis=(2, 4))
    planes, lines = np.empty_like(counts), []
    for band, (x, y) in enumerate(zip(blocks, reference, strict=True)):
        known = np.isfinite(x) & np.isfinite(y)
        x, y = x[known].astype(float), y[known].astype(float)
        keep = np.ones(len(x), bool)
        gain, bias = 0.0, 0.0
        for _ in range(5):
            if keep.sum() < 16 or np.ptp(x[keep]) == 0:
                raise InputError(f"band {band + 1}: {int(keep.sum())} pixels of both images to fit counts to reflectance, expected 16 of different brightness")
            gain, bias = np.polyfit(x[keep], y[keep], 1)
            residual = np.abs(y - gain * x - bias)
            keep = residual <= max(3 * 1.4826 * float(np.median(residual)), 1e-6)
        left = y[keep] - gain * x[keep] - bias
        r2 = 1 - float(np.var(left) / max(float(np.var(y[keep])), 1e-12))
        lines.append({"gain": float(gain), "bias": float(bias), "r2": round(r2, 4), "used": round(float(keep.mean()), 4)})
        planes[band] = counts[band] * np.float32(gain) + np.float32(bias)
    return planes, lines


def csv_rows(table: Path) -> list[dict[str, str]]:
    """The rows of a table by column; raises `InputError`."""
    try:
        return list(csv.DictReader(io.StringIO(read_bytes(table).decode("utf-8-sig"))))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{table}: cannot be read as a table ({error}); fetch the file again") from error


def split_table(root: Path, key: str, value: str) -> dict[str, str]:
    """{key: value} of WorldStrat's table of splits, {} without one."""
    table = root / "stratified_train_val_test_split.csv"
    return {row[key]: row[value] for row in csv_rows(table) if key in row and value in row} if table.is_file() else {}


def json_of(*paths: Path) -> dict[str, Any]:
    """The first of some JSON files that is there, {} without one."""
    for path in paths:
        if path.is_file():
            try:
                found = json.loads(path.read_text())
            except (OSError, ValueError) as error:
                raise InputError(f"{path}: cannot be read ({error}); fetch the file again") from error
            return found if isinstance(found, dict) else {}
    return {}


DATASETS: dict[str, DataSet] = {
    "worldstrat": DataSet("WorldStrat, Spot-6/7 and Sentinel-2", "Spot CC BY-NC 4.0 (Airbus), Sentinel-2 CC BY 4.0", worldstrat, "6810792"),
    "flair-hub": DataSet(
        "FLAIR-HUB, Spot and Sentinel-2 over France", "Etalab Open Licence 2.0", flairhub,
        urls=("https://storage.gra.cloud.ovh.net/v1/AUTH_366279ce616242ebb14161b7991a8461/defi-ia/flair_hub/FLAIR-HUB_TOY_DATASET.zip",),
    ),
    "sen2venus": DataSet("SEN2VENuS, VENuS and Sentinel-2", "see LICENCE in the site's archive", sen2venus, "6514159"),
    "breizhsr": DataSet("BreizhSR, Spot-6 and Sentinel-2 over Brittany", "see the record", breizhsr, "11551220"),
}  # fmt: skip


def remotes(source: str, patterns: Sequence[str] = ("*",), checksum: str | None = None, api: str = ZENODO) -> list[Remote]:
    """The files behind an address or a data set's name; asks the publisher for names, sizes and checksums. Uses the network for data sets."""
    if "://" in source:
        return [remote_of(source, checksum)]
    if source not in DATASETS:
        raise UsageError(f"source is '{source}'{nearest(source, DATASETS)}, expected an address or one of {', '.join(DATASETS)}")
    dataset = DATASETS[source]
    return zenodo_files(dataset.zenodo, patterns, api) if dataset.zenodo else [remote_of(url) for url in dataset.urls]


def import_dataset(name: str, root: str | Path, out: str | Path, limit: int | None = None, overwrite: bool = False, report: Report = silent) -> dict[str, Any]:
    """Write the areas of a data set (a key of `DATASETS`, unpacked at `root`) into folders below `out`; goes on where it stopped.

    Areas that cannot be used are counted with their reason, not written. limit: areas at most. Returns {"areas", "kept", "rejected"}.
    Raises `UsageError` for an unknown name, `InputError` for another layout, `OutputError` when an area cannot be written.
    """
    if name not in DATASETS:
        raise UsageError(f"data set is '{name}'{nearest(name, DATASETS)}, expected {', '.join(DATASETS)}")
    dataset, root, out = DATASETS[name], Path(root), Path(out)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; unpack {dataset.title} and give its folder")
    written, kept, rejected = 0, 0, dict[str, str]()
    for area_name, load in dataset.areas(root):
        if limit is not None and written + kept >= limit:
            break
        label = re.sub(r"[^\w.-]", "_", area_name).lstrip(".")
        if (out / label / "area.json").exists() and not overwrite:
            kept += 1
            continue
        try:
            area = load()
            reason = unusable(area)
        except InputError as error:
            reason = str(error)
        if reason:
            rejected[label] = reason
            continue
        write_area(out / label, name, dataset, area)
        written += 1
        report(f"import: {label}", 0.0 if limit is None else (written + kept) / limit)
    report("import", 1.0)
    if not written + kept:
        why = f"unpack both archives of {dataset.title} there"
        if rejected:
            why = f"the first of {len(rejected)} that were rejected: {next(iter(rejected.values()))}"
        raise InputError(f"{root}: no area that can be used; {why}")
    return {"areas": written, "kept": kept, "rejected": rejected}


def unusable(area: Area) -> str:
    """Why an area cannot train anything, '' when it can."""
    whole = np.isfinite(area.input).all(axis=0), np.isfinite(area.target).all(axis=0)
    if min(part.mean() for part in whole) < 0.5:
        return f"{100 * whole[0].mean():.0f} % of the input and {100 * whole[1].mean():.0f} % of the target hold data, expected 50 % of each"
    if not area.calibrated and (worst := min(line["r2"] for line in area.details["fit"])) < 0.3:
        return f"target follows the input with r2 {worst}, expected 0.3: another place, date or cloud"
    return ""


def write_area(folder: Path, name: str, dataset: DataSet, area: Area) -> None:
    """Write input.tif, target.tif and, last of all, area.json."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, planes, grid in (("input.tif", area.input, area.grid), ("target.tif", area.target, area.fine)):
            write_planes(folder / file, planes, grid, area.bands)
        about = {
            "format": FORMAT, "dataset": name, "title": dataset.title, "licence": dataset.licence, "area": area.name, "split": area.split, "bands": area.bands,
            "factor": area.grid.factor_to(area.fine), "calibrated": area.calibrated, "details": dict(area.details),
            "imported": datetime.now().isoformat("T", "seconds"),
        }  # fmt: skip
        write_json(folder / "area.json", about, "free some space or choose another --out")
    except (OSError, RasterioError) as error:
        raise OutputError(f"{folder}: cannot be written ({first_line(error)}); free some space or choose another --out") from error


def write_planes(out: Path, planes: Image, grid: Grid, bands: Sequence[str]) -> None:
    """Write reflectance as int16 GeoTIFF with named bands, under a temporary name until it is whole."""
    numbers = np.where(np.isfinite(planes), np.clip(np.rint(planes / SCALE), NODATA + 1, 32767), NODATA).astype(np.int16)
    transform = Affine(grid.dx, 0, grid.left, 0, -grid.dy, grid.top)
    profile = {
        "driver": "GTiff", "width": grid.width, "height": grid.height, "count": len(planes), "dtype": "int16", "nodata": NODATA, "crs": grid.crs or None,
        "transform": transform, "compress": "deflate", "predictor": 2, "tiled": grid.width >= 512,
    }  # fmt: skip
    with new_raster(out, "free some space or choose another --out") as temporary, rasterio.open(temporary, "w", **profile) as file:
        file.write(numbers)
        file.descriptions = tuple(bands)
        file.scales, file.offsets = (SCALE,) * len(planes), (0.0,) * len(planes)
