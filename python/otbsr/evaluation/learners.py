"""Land-cover maps by OTB's own applications: samples, learners, maps, and the confusion matrix that OTB counts."""

from __future__ import annotations

import csv
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype

from otbsr.errors import InputError, OutputError, ProcessingError, UsageError, nearest
from otbsr.files import write_vectors
from otbsr.products.files import read_xml
from otbsr.progress import Report, part, silent
from otbsr.raster import damage, settle
from otbsr.serving.otb import run_otb

FIELD = "label"
"""Name of the integer field with the class code in every vector file that goes to OTB."""
PREFIX = "value_"
LEAST = 100
"""A class with fewer pixels than this does not lower the number of samples of the others."""


@dataclass(frozen=True)
class Learner:
    """One of OTB's learners: its parameters, whether features are to be scaled, whether OTB gives a confidence, samples a class at most.

    binary: it tells two classes only.
    """

    name: str
    parameters: Mapping[str, object]
    scaled: bool = False
    confidence: bool = True
    most: int | None = None
    binary: bool = False


LEARNERS = {
    one.name: one
    for one in (
        # var 0: OpenCV takes the square root of the number of features at each node, so that arms with more features are not held back.
        Learner("rf", {"classifier.rf.nbtrees": 50, "classifier.rf.max": 15, "classifier.rf.min": 5, "classifier.rf.var": 0, "classifier.rf.acc": 0.0}),
        Learner("libsvm", {"classifier.libsvm.k": "rbf", "classifier.libsvm.opt": True, "classifier.libsvm.prob": True}, scaled=True, most=150),
        Learner("boost", {"classifier.boost.t": "real", "classifier.boost.w": 100, "classifier.boost.m": 2}, confidence=False, binary=True),
        Learner("knn", {"classifier.knn.k": 15}, scaled=True),
    )
}


def learner_of(name: str, classes: int) -> Learner:
    """The learner of that name; raises `UsageError` for an unknown one and for one that cannot tell so many classes."""
    if name not in LEARNERS:
        raise UsageError(f"learner is '{name}'{nearest(name, LEARNERS)}, expected one of {', '.join(LEARNERS)}")
    learner = LEARNERS[name]
    if learner.binary and classes > 2:
        raise UsageError(f"OTB's {name} tells two classes, not {classes}; choose another learner, or two classes (--artificial)")
    return learner


def otb_version() -> str:
    """OTB's version as its ImageClassifier says, "unknown" when it says none."""
    try:
        said = run_otb("ImageClassifier", {"version": []})
    except ProcessingError as error:  # the launcher says its version and ends with status 1
        said = str(error)
    matched = re.search(r"version (\d+(?:\.\d+)+)", said)
    return matched[1] if matched else "unknown"


def count_polygons(image: Path, polygons: Path, scratch: Path, field: str = FIELD, mask: Path | None = None) -> dict[int, int]:
    """Pixels of `image` (where `mask` is not 0) whose centre lies in a polygon, by class (PolygonClassStatistics)."""
    out = scratch / "polygons.xml"
    write_counts(image, polygons, out, field, mask)
    pixels: dict[int, int] = {}
    for statistic in read_xml(out).iter("Statistic"):
        if statistic.get("name") == "samplesPerClass":
            pixels = {int(str(one.get("key"))): int(str(one.get("value"))) for one in statistic.iter("StatisticMap")}
    return pixels


def write_counts(image: Path, polygons: Path, out: Path, field: str = FIELD, mask: Path | None = None) -> None:
    """Run PolygonClassStatistics."""
    run_otb("PolygonClassStatistics", {"in": image, "mask": mask, "vec": polygons, "field": field, "out": out}, silent, [out], threads=1)


def write_mask(image: Path, out: Path) -> Path | None:
    """Where all bands of `image` have data (ManageNoData): `out`, uint8, 1 or 0; None where the file's numbers cannot say no-data."""
    with rasterio.open(image) as dataset:
        if dataset.nodata is None and not any(kind.startswith("float") for kind in dataset.dtypes):
            return None
    parameters = {"in": image, "usenan": True, "mode": "buildmask", "out": [f"{out}?&gdal:co:COMPRESS=DEFLATE&gdal:co:ZLEVEL=1", "uint8"]}
    run_otb("ManageNoData", parameters, silent, [out])
    return out


def share_out(there: Sequence[Mapping[int, int]], most: int, least: int) -> list[dict[int, int]]:
    """How many samples of each class to take from each place, of `there` pixels by class in each: equally many of every class in all.

    That number is what the scarcest class has in all places, between `least` and `most`; a class that has fewer gives all. A class's
    number is spread evenly over the places, those that have too few giving all.
    """
    total: dict[int, int] = {}
    for place in there:
        for code, pixels in place.items():
            total[code] = total.get(code, 0) + pixels
    number = min(most, max(least, min((pixels for pixels in total.values() if pixels), default=0)))
    taken: list[dict[int, int]] = [{} for _ in there]
    for code in sorted(total):
        left = min(number, total[code])
        order = sorted((place.get(code, 0), index) for index, place in enumerate(there) if place.get(code, 0))
        for rank, (pixels, index) in enumerate(order):
            taken[index][code] = min(pixels, -(-left // (len(order) - rank)))
            left -= taken[index][code]
    return [{code: pixels for code, pixels in place.items() if pixels} for place in taken]


def select_samples(image: Path, polygons: Path, wanted: Mapping[int, int], seed: int, scratch: Path, mask: Path | None = None) -> gpd.GeoDataFrame:
    """`wanted` samples by class at random pixels of `image` within `polygons` (SampleSelection), whose `count_polygons` is in `scratch`.

    Returns points with `FIELD`. Raises `ProcessingError` when OTB selects other numbers.
    """
    (scratch / "wanted.csv").write_text(wanted_table(wanted), encoding="utf-8")
    out = choose_points(image, polygons, seed, scratch, mask=mask)
    points = gpd.read_file(out)[[FIELD, "geometry"]]
    points[FIELD] = points[FIELD].astype(int)
    selected = {int(code): int(pixels) for code, pixels in points[FIELD].value_counts().items()}
    if selected != dict(wanted):
        raise ProcessingError(f"{polygons}: SampleSelection took {selected} samples by class, expected {dict(wanted)}; report this as a bug")
    return points


def wanted_table(wanted: Mapping[int, int]) -> str:
    """The file by which SampleSelection is told how many samples of each class to take."""
    return "".join(f"{code} {pixels}\n" for code, pixels in wanted.items())


def choose_points(image: Path, polygons: Path, seed: int, scratch: Path, field: str = FIELD, mask: Path | None = None) -> Path:
    """Run SampleSelection for wanted.csv and polygons.xml in `scratch`; returns the points' file."""
    out = scratch / "points.sqlite"
    parameters = {
        "in": image,
        "mask": mask,
        "vec": polygons,
        "instats": scratch / "polygons.xml",
        "field": field,
        "sampler": "random",
        "strategy": "byclass",
        "strategy.byclass.in": scratch / "wanted.csv",
        "rand": seed,
        "out": out,
    }
    run_otb("SampleSelection", parameters, silent, [], threads=1)
    return out


def extract_samples(image: Path, points: Path, out: Path, report: Report = silent) -> gpd.GeoDataFrame:
    """The bands of `image` at `points` (SampleExtraction) as fields value_0, value_1 ... beside the points' own; `out`: file for OTB."""
    read_values(image, points, out, report)
    if not out.is_file():
        raise OutputError(f"{out}: was not written although SampleExtraction ended well; check the free space and run it again")
    return gpd.read_file(out)


def read_values(image: Path, points: Path, out: Path, report: Report = silent, field: str = FIELD) -> None:
    """Run SampleExtraction."""
    run_otb("SampleExtraction", {"in": image, "vec": points, "field": field, "outfield.prefix.name": PREFIX, "out": out}, report, [], threads=1)


def write_points(points: gpd.GeoDataFrame, path: Path) -> None:
    """Write a vector file that OTB reads, replacing the study's own former one."""
    write_vectors(points, path, "samples")


def write_scaling(images: Sequence[Path], out: Path, mask: Path | None = None) -> None:
    """Mean and deviation of the bands over whole images, or over one image's pixels in `mask` (ComputeImagesStatistics): no label enters."""
    background: float | None = None
    if mask:  # what is ignored is a number, in all bands at once
        (image,), filled = images, out.with_name("masked.tif")
        with rasterio.open(image) as dataset:
            background = -32768.0 if dataset.nodata is None else dataset.nodata  # ManageNoData keeps a value that the image has
        parameters: dict[str, object] = {"in": image, "mode": "apply", "mode.apply.mask": mask, "mode.apply.ndval": background, "out": [filled, "float"]}
        run_otb("ManageNoData", parameters, silent, [filled])
        images = [filled]
    run_otb("ComputeImagesStatistics", {"il": list(images), "bv": background, "out.xml": out}, silent, [out], threads=1)


def train(samples: Sequence[Path], features: int, out: Path, learner: Learner, seed: int, scaling: Path | None = None, field: str = FIELD) -> str:
    """Train on vector files with `FIELD` and value_0 ... (TrainVectorClassifier); return OTB's log."""
    parameters: dict[str, object] = {
        "io.vd": list(samples),
        "cfield": field,
        "feat": [f"{PREFIX}{index}" for index in range(features)],
        "io.stats": scaling,
        "io.out": out,
        "classifier": learner.name,
        "rand": seed,
        "v": False,
    }
    return run_otb("TrainVectorClassifier", {**parameters, **learner.parameters}, silent, [out], threads=1)


def classify(
    image: Path,
    model: Path,
    out: Path,
    *,
    confidence: Path | None = None,
    mask: Path | None = None,
    scaling: Path | None = None,
    report: Report = silent,
    step: str = "",
    threads: int | None = None,
) -> str:
    """Map `image` with a trained `model` into `out` (uint8; 0 where `mask` is 0) and `confidence` (float32); return OTB's log."""
    options = "?&gdal:co:COMPRESS=DEFLATE&gdal:co:ZLEVEL=1"
    parameters: dict[str, object] = {"in": image, "model": model, "mask": mask, "imstat": scaling, "out": [f"{out}{options}", "uint8"]}
    if confidence:
        parameters["confmap"] = [f"{confidence}{options}", "float"]
    return run_otb("ImageClassifier", parameters, report, [out, *([confidence] if confidence else [])], step, threads)


def regularise(mapped: Path, out: Path, radius: int) -> None:
    """Majority vote in the square of `radius` pixels around each (ClassificationMapRegularization); ties keep the pixel's own label."""
    parameters = {
        "io.in": mapped,
        "io.out": [f"{out}?&gdal:co:COMPRESS=DEFLATE", "uint8"],
        "ip.radius": radius,
        "ip.suvbool": False,
        "ip.onlyisolatedpixels": False,
    }
    run_otb("ClassificationMapRegularization", parameters, silent, [out], threads=1)


def classify_image(
    image: str | Path,
    polygons: str | Path,
    out: str | Path,
    *,
    learner: str = "rf",
    field: str = "class",
    confidence: bool = False,
    radius: int = 0,
    samples: int = 1000,
    seed: int = 1,
    overwrite: bool = False,
    threads: int | None = None,
    report: Report = silent,
) -> dict[int, int]:
    """Map one image by the chain of the study: statistics, selection and extraction of samples, training, map.

    polygons: vector file with an integer `field` of class codes 1..255. confidence: `out`_confidence.tif too. radius: of the majority
    vote, 0 for none. samples: of each class at most. Pixels without data in a band train nothing and are 0. `out` and what lies beside
    it get their names when they are whole. Returns the number of samples by class. Raises `InputError`, `UsageError`, `OutputError`
    and what OTB raises.
    """
    from otbsr.serving.apply import require_writable

    image, out = Path(image), Path(out)
    beside = out.with_name(f"{out.stem}_confidence.tif") if confidence else None
    for path in (out, *([beside] if beside else [])):
        require_writable(path, overwrite)
    table, chosen = open_training(image, Path(polygons), field, learner, confidence)
    with rasterio.open(image) as dataset:
        bands, crs = dataset.count, dataset.crs
    if crs and table.crs is not None and rasterio.CRS.from_wkt(table.crs.to_wkt()) != crs:
        table = table.to_crs(crs.to_wkt())
    with tempfile.TemporaryDirectory(prefix=f".{out.stem}-", dir=out.parent, ignore_cleanup_errors=True) as temporary:
        scratch = Path(temporary)
        write_points(table, scratch / "polygons.gpkg")
        mask = write_mask(image, scratch / "mask.tif")
        there = count_polygons(image, scratch / "polygons.gpkg", scratch, mask=mask)
        counts = samples_wanted(image, Path(polygons), there, samples, chosen)
        points = select_samples(image, scratch / "polygons.gpkg", counts, seed, scratch, mask)
        write_points(points, scratch / "points.gpkg")
        write_points(extract_samples(image, scratch / "points.gpkg", scratch / "extracted.sqlite"), scratch / "samples.gpkg")
        scaling = scratch / "scaling.xml" if chosen.scaled else None
        if scaling:
            write_scaling([image], scaling, mask)
        report("classification", 0.2)
        train([scratch / "samples.gpkg"], bands, scratch / "learner.model", chosen, seed, scaling)
        rest = part(report, "classification", 0.4, 1.0)
        mapped, sure = scratch / "map.tif", scratch / "confidence.tif" if beside else None
        classify(image, scratch / "learner.model", mapped, confidence=sure, mask=mask, scaling=scaling, report=rest, step="classification", threads=threads)
        if radius:
            regularise(mapped, scratch / "smooth.tif", radius)
            mapped = scratch / "smooth.tif"
        if sure and beside:
            settle(sure, beside)
        settle(mapped, out)
    report("classification", 1.0)
    return counts


def open_training(image: Path, polygons: Path, field: str, learner: str, confidence: bool) -> tuple[gpd.GeoDataFrame, Learner]:
    """The polygons and the learner for a map of `image`; raises `InputError` and `UsageError` for what cannot be mapped so."""
    if reason := damage(image):
        raise InputError(f"{image}: {reason}; check the path and the file")
    table = labelled(polygons, field)
    chosen = learner_of(learner, table[FIELD].nunique())
    if confidence and not chosen.confidence:
        raise UsageError(f"OTB gives no confidence for {learner}; leave out --confidence or choose another learner")
    return table, chosen


def samples_wanted(image: Path, polygons: Path, there: Mapping[int, int], most: int, learner: Learner) -> dict[int, int]:
    """How many samples of each class to take, of `there` pixels by class and `most` of each; raises `InputError` when there is none."""
    there = {code: pixels for code, pixels in there.items() if pixels}
    if not there:
        raise InputError(f"{polygons}: no polygon holds the centre of a pixel with data of {image}; check that both show the same place")
    if len(there) < 2:
        raise InputError(f"{polygons}: only class {next(iter(there))} lies where {image} has data, a learner needs two; add polygons of another class")
    return share_out([there], min(most, learner.most or most), LEAST)[0]


def labelled(path: Path, field: str) -> gpd.GeoDataFrame:
    """Polygons with their codes in `FIELD`; raises `InputError` when the field is missing or holds no codes 1..255."""
    from pyogrio.errors import DataSourceError

    try:
        table = gpd.read_file(path)
    except (DataSourceError, OSError) as error:
        raise InputError(f"{path}: cannot be read as vectors ({error}); check the path and the file") from error
    if field not in table:
        raise InputError(
            f"{path}: no field {field}{nearest(field, set(table) - {'geometry'})}; it has {', '.join(name for name in table if name != 'geometry')} (--field)"
        )
    if not isinstance(table, gpd.GeoDataFrame) or table.geometry.isna().all():
        raise InputError(f"{path}: holds no polygon; check the file and its layer")
    table = table[~(table.geometry.isna() | table.geometry.is_empty)]
    codes = table[field]
    if not is_numeric_dtype(codes.dtype) or codes.isna().any() or not codes.between(1, 255).all() or (codes % 1 != 0).any():
        found = ", ".join(map(repr, codes.drop_duplicates().head(3).tolist()))
        raise InputError(f"{path}: field {field} holds {found} ..., expected whole numbers from 1 to 255, class codes of a uint8 map; choose another --field")
    return gpd.GeoDataFrame({FIELD: codes.astype(int).to_numpy()}, geometry=table.geometry.to_numpy(), crs=table.crs)


def confusion_of(mapped: Path, reference: Path, out: Path, classes: int) -> NDArray[np.int64]:
    """OTB's confusion matrix (classes, classes) of labels 1..classes, rows = reference; pixels where either is 0 do not count."""
    write_confusion(mapped, reference, out)
    return read_confusion(out, classes)


def write_confusion(mapped: Path, reference: Path, out: Path) -> None:
    """Run ComputeConfusionMatrix."""
    parameters = {"in": mapped, "out": out, "ref": "raster", "ref.raster.in": reference, "ref.raster.nodata": 0, "nodatalabel": 0}
    run_otb("ComputeConfusionMatrix", parameters, silent, [out], threads=1)


def read_confusion(path: Path, classes: int) -> NDArray[np.int64]:
    """A ComputeConfusionMatrix CSV as (classes, classes); labels it does not list are zero. Raises `ProcessingError`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        rows, columns = ([int(label) for label in line.split(":", 1)[1].split(",")] for line in lines[:2])
        values = np.array([[int(float(value)) for value in row] for row in csv.reader(lines[2:]) if row], dtype=np.int64)
        matrix = np.zeros((classes, classes), np.int64)
        matrix[np.ix_(np.array(rows) - 1, np.array(columns) - 1)] = values
    except (IndexError, ValueError) as error:
        raise ProcessingError(f"{path}: not a confusion matrix of OTB with labels 1 to {classes} ({error}); delete it and run again") from error
    return matrix


def count_confusion(mapped: NDArray[np.uint8], reference: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Our own count of the same: (classes, classes), rows = reference, pixels where either is 0 left out."""
    used = (mapped > 0) & (reference > 0)
    index = (reference[used].astype(np.int64) - 1) * classes + mapped[used].astype(np.int64) - 1
    return np.bincount(index, minlength=classes * classes)[: classes * classes].reshape(classes, classes)
