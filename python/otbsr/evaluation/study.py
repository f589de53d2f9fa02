"""The study: the same learner on the same samples in every arm, judged on blocks that its learner did not see."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.warp import reproject
from rasterio.windows import Window
from shapely.geometry import box

from otbsr import __version__
from otbsr.errors import InputError, ModelError, OutputError, ProcessingError, UsageError
from otbsr.evaluation import landcover, statistics
from otbsr.evaluation.quality import quality
from otbsr.grid import Grid
from otbsr.methods.model_folder import ModelFolder
from otbsr.progress import Report, part, silent
from otbsr.serving.apply import apply

BASELINE = "bicubic"
TITLES = {
    "native": "Native 10 m (nearest)",
    "bicubic": "Bicubic to 2.5 m",
    "f": "Method F",
    "spot": "Spot oracle 2.5 m",
}


@dataclass(frozen=True)
class Protocol:
    """What can be chosen: lengths in metres, samples in pixels a class, at most.

    With two `folds` the chequerboard is judged twice, training and test halves swapped, so that every block is a test block once per
    repeat; one fold judges the half that `seed` chooses.
    """

    seed: int = 1
    folds: int = 2
    repeats: int = 3
    block: float = 500.0
    buffer: float = 60.0
    samples: int = 1000
    replicates: int = 2000
    learner: dict[str, object] = field(default_factory=lambda: dict(landcover.FOREST))

    def __post_init__(self) -> None:
        """Raises `UsageError`."""
        if self.folds not in (1, 2):
            raise UsageError(f"{self.folds} folds; a chequerboard has two halves: choose 1 or 2")
        if self.repeats < 1:
            raise UsageError(f"{self.repeats} repeats; choose 1 at least")


@dataclass(frozen=True)
class World:
    """A simulated area: its files, checked."""

    path: Path
    settings: dict[str, Any]
    classes: list[dict[str, Any]]
    fine: Grid

    @classmethod
    def open(cls, path: str | Path) -> World:
        """Check that the folder holds what `otbsr simulate` writes, on nested grids; raises `InputError` and `GridError`."""
        folder = Path(path)
        for name in ("world.json", "legend.json", "landcover_2m5.tif", "polygons.gpkg", "reference_2m5.tif", "spot_2m5.tif", "sentinel2_10m.tif"):
            if not (folder / name).is_file():
                raise InputError(f"{folder}: no {name} in it; expected a folder written by `otbsr simulate`")
        try:
            settings = json.loads((folder / "world.json").read_text(encoding="utf-8"))["settings"]
            classes = sorted(json.loads((folder / "legend.json").read_text(encoding="utf-8"))["classes"], key=lambda one: int(one["code"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: world.json or legend.json cannot be read ({error}); simulate the area again") from error
        if [int(one["code"]) for one in classes] != list(range(1, len(classes) + 1)):
            raise InputError(f"{folder / 'legend.json'}: class codes are {[one['code'] for one in classes]}, expected 1 to {len(classes)}")
        fine = Grid.read(folder / "landcover_2m5.tif")
        for name in ("reference_2m5.tif", "spot_2m5.tif"):
            fine.require_same(Grid.read(folder / name), name)
        Grid.read(folder / "sentinel2_10m.tif").factor_to(fine)
        return cls(folder, settings, classes, fine)


@dataclass(frozen=True)
class Study:
    """What `study` found: the answer in a sentence and the content of study.json."""

    answer: str
    content: dict[str, Any]


def study(
    world: str | Path, model: str | Path, out: str | Path, protocol: Protocol | None = None, *, overwrite: bool = False, report: Report = silent
) -> Study:
    """Compare the arms native, bicubic, F and Spot oracle on one simulated area; write study.json, maps and matrices into `out`.

    Finished arms are taken from `out` when area, model and protocol are the same; `overwrite` does them again. Raises `InputError`,
    `UsageError` (an area that is too small, or one that the network was trained on), and what `apply` and OTB raise.
    """
    protocol, out = protocol or Protocol(), Path(out)
    area, folder = World.open(world), ModelFolder.open(model)
    seen = refuse_leak(area, folder)
    prepare_folder(out, overwrite)
    identity = {"world": file_hash(area.path / "world.json", area.path / "sentinel2_10m.tif", area.path / "landcover_2m5.tif"), "protocol": asdict(protocol)}
    folds, blocks = split(area.fine, protocol)
    report("areas", 0.0)
    counts = write_areas(area, folds, blocks, protocol, out)
    report("areas", 1.0)

    makers: dict[str, Callable[[Path, Report], None]] = {
        "native": lambda path, _: resample(area, path, Resampling.nearest),
        "bicubic": lambda path, _: resample(area, path, Resampling.cubic),
        "f": lambda path, progress: super_resolve(area, folder.path, path, progress),
        "spot": lambda path, _: link(area.path / "spot_2m5.tif", path),
    }
    keys = {name: fingerprint({**identity, "arm": name, "model": folder.sidecar.sha256 if name == "f" else ""}) for name in makers}
    finished = {name: read_arm(out / "arms" / name, key) for name, key in keys.items()}
    for name, make in makers.items():
        image = out / "arms" / name / "image_2m5.tif"
        if finished[name] is None:
            image.parent.mkdir(parents=True, exist_ok=True)
            make(image, report)
    todo = [name for name in makers if finished[name] is None]
    done: dict[str, float] = dict.fromkeys(todo, 0.0)

    def progress(name: str) -> Report:
        def advance(_step: str, share: float) -> None:
            done[name] = share
            report("classification", sum(done.values()) / len(done))

        return advance

    # OpenCV's training uses one core: two arms at once use both.
    with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        futures = {name: pool.submit(run_arm, area, out, name, keys[name], protocol, blocks, progress(name)) for name in todo}
        arms = {name: futures[name].result() if name in futures else finished[name] for name in makers}
    report("classification", 1.0)
    report("intervals", 0.0)
    content = evaluate(area, folder, seen, protocol, {name: arm for name, arm in arms.items() if arm}, counts, out)
    write_json(out / "study.json", content)
    report("intervals", 1.0)
    return Study(content["answer"], content)


def refuse_leak(area: World, folder: ModelFolder) -> str:
    """What the sidecar says of this area: "untrained" (a baseline), "unseen", or "unknown" when it lists no seeds of landscapes.

    Raises `UsageError` when the network was trained on a landscape with this seed, whatever its other settings: its result would be
    no answer.
    """
    if folder.sidecar.method == "baseline":
        return "untrained"
    training = folder.sidecar.training
    given = [seed for key in ("world_seeds", "seeds") for seed in training.get(key) or []]
    if not given:
        return "unknown"
    try:
        seeds = {int(seed) for seed in given}
    except (TypeError, ValueError) as error:
        raise ModelError(f"{folder.path}: model.json lists {given} as seeds of the training landscapes, expected integers; correct the list") from error
    if area.settings.get("seed") in seeds:
        raise UsageError(
            f"{area.path}: seed {area.settings['seed']} is among those that {folder.sidecar.name} was trained on; simulate an area with another seed"
        )
    return "unseen"


def prepare_folder(out: Path, overwrite: bool) -> None:
    """Make `out`; empty its arms with `overwrite`; refuse a folder of somebody else's files."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be made ({error.strerror}); choose another folder") from error
    if any(out.iterdir()) and not (out / "arms").is_dir():
        raise OutputError(f"{out}: is not empty and not a study's folder; choose another folder")
    if overwrite:
        shutil.rmtree(out / "arms", ignore_errors=True)
    (out / "arms").mkdir(exist_ok=True)


def split(fine: Grid, protocol: Protocol) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """(folds, blocks): a chequerboard of blocks of about `protocol.block` metres on the fine grid.

    folds: the fold whose test block it is, by (row, column) of blocks: 0 or 1, or -1 for the half that one fold never judges; the other
    blocks are that fold's training blocks. blocks: (height, width) int32, index of each pixel's block, row by row. Raises `UsageError`
    when fewer than 2 x 2 blocks fit.
    """
    block = protocol.block
    rows, columns = (round(size * spacing / block) for size, spacing in ((fine.height, fine.dy), (fine.width, fine.dx)))
    if min(rows, columns) < 2:
        size = f"{fine.width * fine.dx:g} x {fine.height * fine.dy:g} m"
        raise UsageError(
            f"area of {size} holds {columns} x {rows} blocks of {block:g} m, expected 2 x 2 at least; simulate a larger area or take a smaller --block"
        )
    row = np.minimum(np.arange(fine.height) * rows // fine.height, rows - 1)
    column = np.minimum(np.arange(fine.width) * columns // fine.width, columns - 1)
    first = (np.add.outer(np.arange(rows), np.arange(columns)) + protocol.seed) % 2 == 1
    return np.where(first, 0, 1 if protocol.folds == 2 else -1).astype(np.int8), (row[:, None] * columns + column[None, :]).astype(np.int32)


def write_areas(area: World, folds: NDArray[np.int8], blocks: NDArray[np.int32], protocol: Protocol, out: Path) -> dict[str, Any]:
    """Write what the folds train on and are judged by.

    areas.gpkg: blocks, and the fold that judges each. train_N.gpkg: polygons wholly inside the training blocks of fold N less the
    buffer. test_N_2m5.tif: reference in the test blocks of fold N; test_2m5.tif: in those of every fold.
    Returns counts by class: training polygons of each fold, and pixels of the test reference.
    """
    rows = []
    for index, judge in enumerate(folds.ravel()):
        inside = np.argwhere(blocks == index)
        (top, left), (bottom, right) = inside.min(0), inside.max(0) + 1
        grid = area.fine.cropped(Window(int(left), int(top), int(right - left), int(bottom - top)))
        rows.append({"block": index, "fold": int(judge), "geometry": box(*grid.bounds)})
    areas = gpd.GeoDataFrame(rows, crs=area.fine.crs or None)
    write_vector(areas, out / "areas.gpkg", "areas")
    polygons = gpd.read_file(area.path / "polygons.gpkg", layer="polygons")
    with rasterio.open(area.path / "landcover_2m5.tif") as dataset:
        exact, profile = dataset.read(1), dataset.profile
    profile.update(dtype="uint8", count=1, nodata=None, compress="deflate")
    codes, trained = [int(one["code"]) for one in area.classes], []
    for fold in range(protocol.folds):
        train_area = areas[areas.fold != fold].geometry.buffer(-protocol.buffer).union_all()
        kept = polygons[polygons.within(train_area)]
        if kept.empty:
            raise UsageError(f"no training polygon lies inside the training blocks less {protocol.buffer:g} m; take larger blocks (--block)")
        chosen = gpd.GeoDataFrame({landcover.FIELD: kept["class"].astype(int).to_numpy()}, geometry=kept.geometry.to_numpy(), crs=polygons.crs)
        write_vector(chosen, out / f"train_{fold}.gpkg", "train")
        write_labels(out / f"test_{fold}_2m5.tif", np.where(folds.ravel()[blocks] == fold, exact, 0), profile)
        trained.append([int((chosen[landcover.FIELD] == code).sum()) for code in codes])
    truth = np.where(folds.ravel()[blocks] >= 0, exact, 0)
    write_labels(out / "test_2m5.tif", truth, profile)
    return {
        "polygons": trained,
        "test_pixels": [int((truth == code).sum()) for code in codes],
        "test_hectares": [round(float((truth == code).sum() * area.fine.dx * area.fine.dy / 1e4), 2) for code in codes],
        "blocks": {"all": int(folds.size), "test": int((folds >= 0).sum()), "test_by_fold": [int((folds == fold).sum()) for fold in range(protocol.folds)]},
        "folds": folds.tolist(),
    }


def write_labels(path: Path, labels: NDArray[Any], profile: dict[str, Any]) -> None:
    """Write class codes as a uint8 GeoTIFF on the grid that rasterio's `profile` gives."""
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(labels.astype(np.uint8), 1)


def write_vector(frame: gpd.GeoDataFrame, path: Path, layer: str) -> None:
    """Write a GeoPackage with one layer, replacing the study's own former one."""
    path.unlink(missing_ok=True)
    frame.to_file(path, layer=layer, driver="GPKG")


def resample(area: World, out: Path, how: Resampling) -> None:
    """The 10 m image on the fine grid by GDAL's warper: nearest, or Keys' cubic convolution about pixel centres."""
    with rasterio.open(area.path / "sentinel2_10m.tif") as dataset:
        coarse, transform, names, crs = dataset.read(), dataset.transform, dataset.descriptions, dataset.crs
    fine = np.empty((len(coarse), area.fine.height, area.fine.width), np.float32)
    reproject(coarse.astype(np.float32), fine, src_transform=transform, dst_transform=area.fine.transform, src_crs=crs, dst_crs=crs, resampling=how)
    temporary = out.with_name("image.part.tif")
    with rasterio.open(
        temporary,
        "w",
        driver="GTiff",
        width=area.fine.width,
        height=area.fine.height,
        count=len(fine),
        dtype="int16",
        crs=crs,
        transform=area.fine.transform,
        tiled=True,
        compress="deflate",
        predictor=2,
    ) as dataset:
        dataset.write(np.clip(np.rint(fine), -32768, 32767).astype(np.int16))
        dataset.descriptions = names
    os.replace(temporary, out)


def super_resolve(area: World, model: Path, out: Path, report: Report) -> None:
    """The arm F: `otbsr apply`, always anew, because an image left by another model may lie there."""
    apply(area.path / "sentinel2_10m.tif", model, out, overwrite=True, report=report)


def link(source: Path, out: Path) -> None:
    """The arm that already is on the fine grid: a relative link instead of a copy."""
    out.unlink(missing_ok=True)
    out.symlink_to(os.path.relpath(source.resolve(), out.parent.resolve()))


def run_arm(area: World, out: Path, name: str, key: str, protocol: Protocol, blocks: NDArray[np.int32], report: Report) -> dict[str, Any]:
    """Train, map and count one arm, `protocol.repeats` times; write and return its arm.json.

    Each fold's learner maps that fold's test blocks; the maps of the folds together are the repeat's map, counted once. OTB's
    confusion matrix and our count by blocks must agree, else `ProcessingError`.
    """
    folder, reference = out / "arms" / name, out / "test_2m5.tif"
    image, classes = folder / "image_2m5.tif", len(area.classes)
    with rasterio.open(reference) as dataset:
        truth, profile = dataset.read(1), dataset.profile
    matrices, by_block, runs = [], [], protocol.repeats * protocol.folds
    for repeat in range(protocol.repeats):
        mapped, table = folder / f"map_{repeat}.tif", folder / f"confusion_{repeat}.csv"
        found = np.zeros_like(truth)
        for fold in range(protocol.folds):
            run = repeat * protocol.folds + fold
            model, half = folder / f"model_{repeat}_{fold}.rf", folder / f"map_{repeat}_{fold}.tif"
            landcover.train(image, out / f"train_{fold}.gpkg", model, protocol.samples, protocol.seed * 1000 + run + 1, protocol.learner, threads=1)
            progress = part(report, name, (run + 0.3) / runs, (run + 0.9) / runs)
            landcover.classify(image, model, half, out / f"test_{fold}_2m5.tif", progress, name, threads=1)
            with rasterio.open(half) as dataset:
                found += dataset.read(1)  # no pixel is in the test blocks of two folds
            half.unlink()
        write_labels(mapped, found, profile)
        matrix = landcover.confusion_of(mapped, reference, table, classes)
        own = statistics.confusion(truth, found, classes, blocks, int(blocks.max()) + 1)
        if not np.array_equal(own.sum(0), matrix):
            raise ProcessingError(f"{table}: OTB counted {matrix.sum()} pixels, otbsr {own.sum():g}, and the matrices differ; report this as a bug")
        matrices.append(matrix.tolist())
        by_block.append(own.astype(int).tolist())
    measured = quality(image, area.path / "reference_2m5.tif", area.path / "sentinel2_10m.tif")
    arm = {"key": key, "name": name, "confusion": matrices, "by_block": by_block, "quality": measured}
    write_json(folder / "arm.json", arm)
    report(name, 1.0)
    return arm


def evaluate(
    area: World, folder: ModelFolder, seen: str, protocol: Protocol, arms: dict[str, dict[str, Any]], counts: dict[str, Any], out: Path
) -> dict[str, Any]:
    """The content of study.json: measures of each arm, differences to bicubic with intervals, the answer, and what made it.

    Matrices of all test blocks, of both folds, are summed before a measure is taken; blocks of both folds are drawn for its interval.
    """
    folds = np.array(counts["folds"]).ravel()
    tables = {name: np.array(arm["by_block"], dtype=np.float64)[:, folds >= 0] for name, arm in arms.items()}
    fold_of = folds[folds >= 0]
    names = [str(one["name"]) for one in area.classes]
    artificial = np.array([bool(one.get("artificial", False)) for one in area.classes])
    measures: dict[str, statistics.Measure] = {"macro_f1": statistics.macro_f1, "accuracy": statistics.accuracy, "kappa": statistics.kappa}
    if artificial.any():
        measures["artificial_f1"] = statistics.binary(artificial)
    rows = {}
    for name, table in tables.items():
        pooled = table.sum((0, 1))
        against = {key: asdict(statistics.difference(table, tables[BASELINE], one, protocol.replicates, protocol.seed)) for key, one in measures.items()}
        per_class = [
            asdict(statistics.difference(table, tables[BASELINE], statistics.class_f1(i), protocol.replicates, protocol.seed)) for i in range(len(names))
        ]
        rows[name] = {
            "title": TITLES[name] if name != "f" else f"Method F ({folder.sidecar.name})",
            **{key: float(one(pooled)) for key, one in measures.items()},
            "macro_f1_by_repeat": [float(value) for value in statistics.macro_f1(table.sum(1))],
            "macro_f1_by_fold": [float(statistics.macro_f1(table[:, fold_of == fold].sum((0, 1)))) for fold in range(protocol.folds)],
            "class_f1": [float(value) for value in np.nan_to_num(statistics.f1(pooled))],
            "difference": against,
            "class_difference": per_class,
            "confusion": arms[name]["confusion"],
            "quality": arms[name]["quality"],
        }
    return {
        "format": 1,
        "answer": answer(rows["f"]["difference"]["macro_f1"], rows["f"]["macro_f1"], rows[BASELINE]["macro_f1"]),
        "baseline": BASELINE,
        "classes": area.classes,
        "counts": counts,
        "arms": rows,
        "protocol": asdict(protocol),
        "world": {"path": os.path.relpath(area.path.resolve(), out.resolve()), "settings": area.settings, "grid": area.fine.describe()},
        "model": {"name": folder.sidecar.name, "path": str(folder.path), "sha256": folder.sidecar.sha256, "area": seen, "training": folder.sidecar.training},
        "versions": versions(),
        "command": f"otbsr study {area.path} --model {folder.path} --out {out} --seed {protocol.seed} --folds {protocol.folds} --repeats {protocol.repeats}"
        f" --block {protocol.block:g} --samples {protocol.samples}",
    }


def answer(change: dict[str, float], score: float, base: float) -> str:
    """The study's answer in a sentence, with its interval; says so when no difference is shown."""
    interval = statistics.Interval(**change)
    limits = f"95 % interval {100 * interval.low:+.1f} to {100 * interval.high:+.1f}"
    numbers = f"{100 * interval.value:+.1f} points of macro-F1 over bicubic ({100 * score:.1f} against {100 * base:.1f}; {limits})"
    if not interval.shown:
        return f"No difference shown: super-resolution changes the land-cover map by {numbers}, and the interval includes zero."
    return f"Super-resolution {'helped' if interval.value > 0 else 'harmed'} the land-cover map on this area: {numbers}."


def versions() -> dict[str, str]:
    """What ran: otbsr, OTB, Python and the libraries that counted."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"otbsr": __version__, "otb": landcover.otb_version(), "python": platform.python_version(), "gdal (rasterio)": rasterio.__gdal_version__}
    for name in ("numpy", "rasterio", "tensorflow", "tensorflow-cpu", "keras"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def file_hash(*paths: Path) -> str:
    """SHA-256 over the content of files, in order."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()


def fingerprint(content: dict[str, Any]) -> str:
    """SHA-256 of what decides a result, as sorted JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def read_arm(folder: Path, key: str) -> dict[str, Any] | None:
    """A finished arm's arm.json when it was made from the same things, else None."""
    try:
        arm: dict[str, Any] = json.loads((folder / "arm.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return arm if arm.get("key") == key and (folder / "image_2m5.tif").exists() and (folder / "map_0.tif").exists() else None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON to a temporary name, then move it; raises `OutputError`."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written ({error.strerror}); check the free space") from error
