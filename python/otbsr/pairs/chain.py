"""The chain: from a Sentinel-2 and a Spot-6/7 product to pairs of patches, each step's product kept until the pairs are written.

input and masks -> Spot in reflectance -> on a map -> pansharpened -> aligned -> resampled and harmonised -> compared -> patches.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from otbsr.errors import GridError, InputError, UsageError, first_line, flaw
from otbsr.grid import Grid
from otbsr.pairs.alignment import Alignment, AlignmentSettings, Raster, estimate
from otbsr.pairs.manifest import Steps, identity
from otbsr.pairs.memory import FEATURES, WINDOW, bounded_cache
from otbsr.pairs.orthorectification import calibrate, footprint, orthorectify, pansharpen, reproject, working_profile
from otbsr.pairs.page import write_page
from otbsr.pairs.patches import SPLITS, PatchSettings, extract_pairs, require_new, split_of, write_features
from otbsr.pairs.rejection import REASONS, RejectionSettings, compare, judge, masks, patch_measures
from otbsr.pairs.resample import resample
from otbsr.products.product import NODATA, SCALE, Product, open_product
from otbsr.progress import Report, silent
from otbsr.serving.otb import run_otb
from otbsr.world.sensors import REFERENCE_MTF, SPOT, gaussian_sigma

OUTPUTS = ("B4", "B3", "B2", "B8")
"""Bands of Sentinel-2 that Spot has too."""
TEN = (*OUTPUTS, "B5", "B6", "B7", "B8A", "B11", "B12")
STRATA = (0.02, 0.1, 0.3)
"""Artificial shares between which patches are of one stratum."""


class ChainSettings(BaseModel):
    """How products become pairs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bands: tuple[str, ...] = Field(OUTPUTS, min_length=1, description="of the input; the target has those of them that Spot has")
    factor: int = Field(4, ge=1, le=8, description="input over target spacing")
    method: Literal["rcs", "lmvm", "bayes"] = Field("rcs", description="of the pansharpening")
    resampling: Literal["nearest", "bilinear", "cubic", "average"] | None = Field(None, description="of input bands that do not nest; default refused")
    dem: Path | None = Field(None, description="folder of elevation tiles, for products in sensor geometry")
    geoid: Path | None = Field(None, description="geoid file, for products in sensor geometry")
    mtf: float = Field(REFERENCE_MTF, gt=0, lt=0.6, description="MTF of the target at its Nyquist frequency")
    source_mtf: float = Field(SPOT["PAN"].mtf, gt=0, lt=0.6, description="MTF of the sharpest Spot image at its own")
    days: int | None = Field(None, ge=0, description="largest difference of dates; default any")
    least_r2: float = Field(0.3, ge=0, le=1, description="least share of the input's variance that the harmonised target explains, mean of the bands")
    alignment: AlignmentSettings = AlignmentSettings()
    rejection: RejectionSettings = RejectionSettings()
    labels: Path | None = Field(None, description="land cover, for the share of artificial surfaces; default a guess from NDVI and brightness")
    artificial: tuple[int, ...] = Field((1, 2), description="codes of artificial surfaces in it")
    most: int | None = Field(None, ge=1, description="training patches at most, drawn evenly from the strata of artificial share")
    tfrecords: bool = Field(False, description="also as TFRecords")


def read_settings(**given: Any) -> ChainSettings:
    """Settings from a command's options, None and empty lists for defaults; `masked` and `changed` are those of the rejection. Raises `UsageError`."""
    values = {name: value for name, value in given.items() if value is not None and value != []}
    if values.get("bands") == ["ten"]:
        values["bands"] = TEN
    try:
        values["rejection"] = RejectionSettings(**{name: values.pop(name) for name in ("masked", "changed") if name in values})
        return ChainSettings(**values)
    except ValidationError as error:
        raise UsageError(f"{flaw(error, flags=False)}; see `otbsr pairs --help`") from None


@bounded_cache()
def make_pairs(
    sentinel2: str | Path,
    spot: str | Path,
    out: str | Path,
    patches: PatchSettings | None = None,
    settings: ChainSettings | None = None,
    data: str = "",
    overwrite: bool = False,
    keep: bool = False,
    report: Report = silent,
) -> dict[str, Any]:
    """Write the folder `out` with pairs of patches from two products (folders, archives or images); returns the manifest.

    Besides what `patches.extract_pairs` writes: `<split>.jsonl` (a line a patch, in the order of the patches images: products, dates,
    place, shift, gain, bias, residual, masks, artificial share), `candidates.gpkg` (all patches with their reason of rejection),
    `pairs.html`, and `<split>_tfrecords`. Steps are kept in ``OUT.steps`` until the pairs are written (for good with `keep`); the same
    call goes on from them. Memory does not depend on the products' size (`otbsr.pairs.memory`). Raises `InputError`, `GridError`,
    `OutputError`, `ProcessingError`, `MissingToolError`, `UsageError`.
    """
    patches, settings, out = patches or PatchSettings(), settings or ChainSettings(), Path(out)
    require_new(out, overwrite)
    products = open_product(sentinel2), open_product(spot).renamed()
    steps = Steps(steps_of(out))
    finished = False
    try:
        manifest = Chain(*products, settings, patches, steps, report).run(out, data, overwrite)
        finished = True
    finally:
        steps.close(remove=finished and not keep)
    return manifest


def steps_of(out: Path) -> Path:
    """The folder of the steps' products."""
    return out.with_name(f"{out.name}.steps")


class Meeting:
    """Two products that can be paired: the bands that both have, the input's grid on the common ground, Spot's sharpest image."""

    def __init__(self, sentinel2: Product, spot: Product, settings: ChainSettings, patches: PatchSettings) -> None:
        """Look at both products; raises when they cannot be paired."""
        self.sentinel2, self.spot, self.settings, self.patches = sentinel2, spot, settings, patches
        self.outputs = [name for name in settings.bands if name in OUTPUTS]
        if not self.outputs:
            raise UsageError(f"bands are {', '.join(settings.bands)}; expected at least one that Spot has too: {', '.join(OUTPUTS)}")
        spot.select(self.outputs)
        self.days = abs((sentinel2.date - spot.date).days) if sentinel2.date and spot.date else None
        if settings.days is not None and (self.days is None or self.days > settings.days):
            said = "a date is not known" if self.days is None else f"they are {self.days} days apart"
            raise InputError(f"{sentinel2.name} ({sentinel2.date}) and {spot.name} ({spot.date}): {said}, at most {settings.days} are allowed (--days)")
        whole = sentinel2.grid(list(settings.bands), nested=False)
        if not whole.crs:
            raise InputError(f"{sentinel2.path}: has no coordinate reference system; give an image on a map (gdal_edit.py -a_srs)")
        left, bottom, right, top = footprint(spot, self.outputs[0], whole.crs)
        (c0, r0), (c1, r1) = whole.position(left, top), whole.position(right, bottom)
        # Outwards to multiples of 6: bands of 20 and 60 m keep their corners.
        begin = [max(0, int(value // 6) * 6) for value in (c0, r0)]
        end = [min(size, -(int(-value // 6)) * 6) for value, size in ((c1, whole.width), (r1, whole.height))]
        if end[0] - begin[0] < patches.patch or end[1] - begin[1] < patches.patch:
            raise GridError(
                f"{sentinel2.name} and {spot.name} share {max(0, end[0] - begin[0])} x {max(0, end[1] - begin[1])} input pixels, expected at least "
                f"{patches.patch} x {patches.patch}, a patch; choose products of the same place"
            )
        self.grid = whole.cropped(Window(begin[0], begin[1], end[0] - begin[0], end[1] - begin[1]))
        self.sharpest = "pan" if "pan" in spot.bands else self.outputs[0]
        spacing, wanted = spot.select([self.sharpest])[0].spacing, self.grid.dx / settings.factor
        if spacing > wanted * (1 + 1e-6):
            raise InputError(
                f"{spot.path}: its sharpest band has {spacing:g} m, the target needs {wanted:g} m or finer; "
                "add the panchromatic image of the bundle, or give a smaller --factor"
            )

    @property
    def images(self) -> dict[str, list[str]]:
        """Spot's images and their bands: multispectral, and pan where it is the sharpest."""
        return {"multispectral": list(self.outputs)} | ({"pan": ["pan"]} if self.sharpest == "pan" else {})


class Chain(Meeting):
    """The steps from two products to pairs; each is skipped where its product is there."""

    def __init__(self, sentinel2: Product, spot: Product, settings: ChainSettings, patches: PatchSettings, steps: Steps, report: Report) -> None:
        """Look at both products; raises when they cannot be paired."""
        super().__init__(sentinel2, spot, settings, patches)
        self.steps, self.report = steps, report

    def path(self, name: str) -> Path:
        """A step's product."""
        return self.steps.folder / name

    def run(self, out: Path, data: str, overwrite: bool) -> dict[str, Any]:
        """All steps; returns the manifest."""
        self.input()
        sharp = self.sharp()
        alignment = self.align(sharp)
        blurred = self.target(sharp, alignment)
        bands = [self.settings.bands.index(name) + 1 for name in self.outputs]
        self.steps.run(
            "comparison", {}, ["quality.tif"],
            lambda path: compare(self.path("input.tif"), bands, self.path("target.tif"), self.path("masks.tif"), path, alignment, blurred, self.report),
        )  # fmt: skip
        self.artificial()
        table = self.judged()
        return self.write(out, table, alignment, data, overwrite)

    def input(self) -> None:
        """The input on the common ground, and the masks of both products on its grid."""
        names = list(self.settings.bands)
        files = [band.path for band in self.sentinel2.select(names)] + [layer.path for layer in (*self.sentinel2.layers, *self.spot.layers)]
        files += [path for band in self.spot.bands.values() for path in (band.path, *band.files)]
        own = not self.spot.sensor and Grid.same_crs(self.grid, self.spot.grid([self.outputs[0]]))
        dilation = self.settings.rejection.dilation

        def make(image: Path, codes: Path) -> dict[str, Any]:
            found = calibrate(self.sentinel2, names, image, self.grid, self.report, self.settings.resampling)
            profile = working_profile(self.grid, 2) | {"dtype": "uint8", "predictor": 1, "nodata": None}
            with rasterio.open(codes, "w", **profile) as file:
                for window in self.grid.windows(WINDOW):
                    file.write(masks(self.sentinel2, names, self.grid, window, True, dilation), 1, window=window)
                    file.write(masks(self.spot, self.outputs, self.grid, window, own, dilation), 2, window=window)
            return {"calibration": found}

        parameters = {"product": self.sentinel2.name, "bands": names, "grid": self.grid.describe(), "files": identity(files), "dilation": dilation}
        parameters |= {"resampling": self.settings.resampling} if self.settings.resampling else {}
        self.steps.run("input", parameters, ["input.tif", "masks.tif"], make)

    def sharp(self) -> Path:
        """Spot in reflectance on a map of the input's CRS, at its sharpest spacing."""
        last, s = {}, self.settings
        for kind, names in self.images.items():
            name = f"spot_{kind}"
            self.steps.run(
                f"calibration_{kind}", {"product": self.spot.name, "bands": names}, [f"{name}.tif"],
                lambda path, names=names: calibrate(self.spot, names, path, report=self.report),
            )  # fmt: skip
            if self.spot.sensor:
                spacing = self.spot.select(names)[0].spacing
                before = self.path(f"{name}.tif")
                name = f"{name}_map"
                self.steps.run(
                    f"orthorectification_{kind}", {"dem": s.dem, "geoid": s.geoid, "spacing": spacing, "crs": self.grid.crs}, [f"{name}.tif"],
                    lambda path, before=before, spacing=spacing: orthorectify(before, path, self.grid.crs, spacing, s.dem, s.geoid, report=self.report),
                )  # fmt: skip
            last[kind] = self.path(f"{name}.tif")
        result = last["multispectral"]
        if "pan" in last:
            self.steps.run(
                "pansharpening", {"method": self.settings.method}, ["sharp.tif"],
                lambda path: pansharpen(last["pan"], last["multispectral"], path, self.settings.method, report=self.report),
            )  # fmt: skip
            result = self.path("sharp.tif")
        if not Grid.same_crs(Grid.read(result), self.grid):
            before_map = result
            self.steps.run("reprojection", {"crs": self.grid.crs}, ["sharp_map.tif"], lambda path: reproject(before_map, path, self.grid.crs, self.report))
            result = self.path("sharp_map.tif")
        return result

    def align(self, sharp: Path) -> Alignment:
        """What lies between the two images."""
        bands = [self.settings.bands.index(name) + 1 for name in self.outputs]
        # Masked as the masks say; Spot's are 30 m wider, since its image has not been moved yet.
        masked = self.path("hidden.tif")

        def hide(path: Path) -> None:
            with rasterio.open(self.path("masks.tif")) as source:
                profile = source.profile | {"count": 1}
                with rasterio.open(path, "w", **profile) as file:
                    for window in self.grid.windows(WINDOW):
                        file.write(((source.read(1, window=window) | (source.read(2, window=window) & ~np.uint8(1))) != 0).astype(np.uint8), 1, window=window)

        self.steps.run("hidden", {}, ["hidden.tif"], hide)

        def make() -> dict[str, Any]:
            with Raster(sharp, scale=SCALE) as fine, Raster(self.path("input.tif"), bands, scale=SCALE, mask=masked) as coarse:
                found = estimate(fine, coarse, self.settings.alignment, self.report, self.steps.folder)
            if np.mean(found.r2) < self.settings.least_r2:
                raise InputError(
                    f"{self.spot.name}: after harmonisation it explains {np.mean(found.r2):.2f} of {self.sentinel2.name}'s variance, expected at least "
                    f"{self.settings.least_r2:g}; choose products of nearer dates"
                )
            return found.to_json()

        parameters = {name: getattr(self.settings.alignment, name) for name in self.settings.alignment.__dataclass_fields__}
        return Alignment.from_json(self.steps.run("alignment", parameters | {"least_r2": self.settings.least_r2}, [], make))

    def target(self, sharp: Path, alignment: Alignment) -> float:
        """The harmonised target on the nested grid; returns the variance of the Gaussian blur that it got, square metres."""
        fine = self.grid.refined(self.settings.factor)
        source = Grid.read(sharp)
        variance = max(0.0, gaussian_sigma(fine.dx, self.settings.mtf) ** 2 - gaussian_sigma(source.dx, self.settings.source_mtf) ** 2)

        def make(path: Path) -> dict[str, Any]:
            with Raster(sharp, scale=SCALE) as image:
                return resample(image, path, fine, alignment.field, variance, alignment.gain, alignment.bias, SCALE, NODATA, report=self.report)

        parameters = {"factor": self.settings.factor, "mtf": self.settings.mtf, "source_mtf": self.settings.source_mtf, "variance": variance}
        self.steps.run("resampling_and_harmonisation", parameters, ["target.tif"], make)
        return variance

    def artificial(self) -> None:
        """Share of artificial surfaces in each input pixel, per cent: from the labels, else 100 where it is neither green, water nor dark."""
        settings = self.settings
        names = list(settings.bands)
        if settings.labels is None and not {"B4", "B8"} <= set(names):
            raise UsageError(f"bands are {', '.join(names)}: without B4 and B8 there is no NDVI to guess artificial surfaces from; give --labels")

        def make(path: Path) -> dict[str, Any]:
            profile = working_profile(self.grid, 1) | {"dtype": "uint8", "predictor": 1, "nodata": None}
            mean = 0.0
            with rasterio.open(path, "w", **profile) as file, rasterio.open(self.path("input.tif")) as image:
                for window in self.grid.windows(WINDOW):
                    if settings.labels is None:
                        red, infrared = (image.read(names.index(name) + 1, window=window).astype(np.float32) * SCALE for name in ("B4", "B8"))
                        share = 100 * ((infrared - red < 0.25 * (infrared + red)) & (infrared > 0.08))
                    else:
                        share = 100 * labelled(settings.labels, settings.artificial, self.grid.cropped(window))
                    file.write(np.rint(share).astype(np.uint8), 1, window=window)
                    mean += float(share.sum()) / (self.grid.width * self.grid.height)
            return {"mean": mean}

        files = identity([settings.labels]) if settings.labels else []
        self.steps.run("artificial", {"labels": settings.labels, "codes": settings.artificial, "files": files}, ["artificial.tif"], make)

    def judged(self) -> dict[str, NDArray[Any]]:
        """Every candidate: corner (row, column) [n, 2], split, reason (of `REASONS`), measures, artificial share."""
        s = self.patches

        def place(path: Path) -> dict[str, Any]:
            with tempfile.TemporaryDirectory(dir=self.steps.folder) as folder:
                points = Path(folder) / "candidates.gpkg"
                run_selection(self.path("input.tif"), points, s, self.report)
                x, y = read_points(points)
            column, row = self.grid.position(x, y)  # type: ignore[arg-type]
            corners: NDArray[np.int64] = np.floor(np.stack([row, column], -1)).astype(np.int64) - s.patch // 2
            split = split_of(self.grid, corners, s)
            measures: dict[str, Any] = patch_measures(self.path("quality.tif"), corners, s.patch, self.settings.rejection.change, self.report)
            measures["artificial"] = means(self.path("artificial.tif"), corners, s.patch)
            reason = judge(measures, self.settings.rejection)
            reason[(reason == 0) & (split < 0)] = REASONS.index("between the splits")
            with path.open("wb") as file:
                np.savez(file, corners=corners, split=split, reason=reason, **measures)
            return {"candidates": len(corners), "reasons": {name: int((reason == i).sum()) for i, name in enumerate(REASONS) if name}}

        self.steps.run("rejection", {"patches": s.model_dump(), "rejection": self.settings.rejection.model_dump()}, ["candidates.npz"], place)
        with np.load(self.path("candidates.npz")) as content:
            return dict(content)

    def write(self, out: Path, table: dict[str, NDArray[Any]], alignment: Alignment, data: str, overwrite: bool) -> dict[str, Any]:
        """The folder of pairs."""
        chosen = {}
        for index, split in enumerate(SPLITS):
            rows = np.flatnonzero((table["reason"] == 0) & (table["split"] == index))
            chosen[split] = self.drawn(rows, table["artificial"]) if split == "train" else rows
        counts = {name: int((table["reason"] == i).sum()) for i, name in enumerate(REASONS) if name}
        if not len(chosen["train"]) and self.patches.valid < 1:
            said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
            raise InputError(f"no training patch: of {len(table['reason'])} placed, {said or 'none is left'}; choose products of nearer dates and fewer clouds")
        products = [described(self.sentinel2), described(self.spot)]

        def complete(folder: Path, manifest: dict[str, Any]) -> None:
            for split in SPLITS:
                self.lines(folder / f"{split}.jsonl", chosen[split], table, alignment, products)
            manifest |= {
                "products": products, "days": self.days, "alignment": alignment.to_json(), "steps": self.steps.described(), "rejected": counts,
                "candidates": len(table["reason"]), "strata": self.strata(chosen, table["artificial"]),
            }  # fmt: skip
            self.points(folder / "candidates.gpkg", table)
            write_page(folder / "pairs.html", manifest, self.path("input.tif"), self.path("target.tif"), table, chosen, self.report)
            if self.settings.tfrecords:
                write_tfrecords(folder, manifest)

        corners = {split: table["corners"][rows] for split, rows in chosen.items()}
        sentence = data or f"{self.sentinel2.name} and {self.spot.name}"
        made = extract_pairs(
            self.path("input.tif"), self.path("target.tif"), out, self.patches, data=sentence, overwrite=overwrite, report=self.report,
            chosen=corners, complete=complete,
        )  # fmt: skip
        self.report("pairs", 1.0)
        return made

    def drawn(self, rows: NDArray[np.int64], artificial: NDArray[np.float32]) -> NDArray[np.int64]:
        """At most `settings.most` of the patches, as even over the strata as they allow, in their order."""
        if self.settings.most is None or len(rows) <= self.settings.most:
            return rows
        stratum = np.digitize(artificial[rows], STRATA)
        random = np.random.default_rng([self.patches.seed, 19])
        # Each patch's place in its stratum's random order: taking the lowest places fills the strata alike.
        turn = np.empty(len(rows), np.int64)
        for value in np.unique(stratum):
            members = np.flatnonzero(stratum == value)
            turn[members] = random.permutation(len(members))
        order = np.lexsort((stratum, turn))[: self.settings.most]
        return np.sort(rows[order])

    def strata(self, chosen: Mapping[str, NDArray[np.int64]], artificial: NDArray[np.float32]) -> list[dict[str, Any]]:
        """Number of patches by artificial share."""
        edges = (0.0, *STRATA, 1.0)
        counts = {split: np.bincount(np.digitize(artificial[rows], STRATA), minlength=len(STRATA) + 1) for split, rows in chosen.items()}
        return [{"artificial": list(edges[i : i + 2]), **{split: int(count[i]) for split, count in counts.items()}} for i in range(len(STRATA) + 1)]

    def lines(self, path: Path, rows: Iterable[int], table: Mapping[str, NDArray[Any]], alignment: Alignment, products: list[dict[str, Any]]) -> None:
        """One line of JSON a patch, in the order of the patches image."""
        size = self.patches.patch
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                top, left = (int(value) for value in table["corners"][row])
                bounds = [*self.grid.corner(left, top + size), *self.grid.corner(left + size, top)]
                measured = {name: round(float(table[name][row]), 5) for name in ("residual", "likeness", "changed", "saturated", "artificial")}
                line = {
                    "input": products[0]["name"], "target": products[1]["name"], "dates": [product["date"] for product in products], "corner": [top, left],
                    "bounds": bounds, "shift": alignment.field.at((bounds[0] + bounds[2]) / 2, (bounds[1] + bounds[3]) / 2), "gain": alignment.gain,
                    "bias": alignment.bias, "masked": round(float(table["input_hidden"][row] + table["target_hidden"][row]), 5), **measured,
                }  # fmt: skip
                file.write(json.dumps(line) + "\n")

    def points(self, path: Path, table: Mapping[str, NDArray[Any]]) -> None:
        """All candidates as squares with split, reason and measures, for a GIS."""
        from shapely import box

        size = self.patches.patch
        names = [name for name in table if name not in ("corners", "split", "reason")]

        def part(rows: slice) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
            top, left = table["corners"][rows].T
            (xmin, ymin), (xmax, ymax) = self.grid.corner(left, top + size), self.grid.corner(left + size, top)
            said = {"split": np.array([*SPLITS, ""])[table["split"][rows]], "reason": np.array(REASONS)[table["reason"][rows]]}
            return said | {name: table[name][rows] for name in names}, box(xmin, ymin, xmax, ymax)

        write_features(path, "candidates", self.grid.crs, len(table["corners"]), part)


def read_points(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates x, y [n] of a vector file's points, in its order."""
    from pyogrio import read_dataframe, read_info
    from shapely import get_coordinates

    count = read_info(path, force_feature_count=True)["features"]
    parts = [get_coordinates(read_dataframe(path, columns=[], skip_features=skip, max_features=FEATURES).geometry) for skip in range(0, count, FEATURES)]
    x, y = np.concatenate(parts).T
    return x, y


def run_selection(image: Path, points: Path, patches: PatchSettings, report: Report = silent) -> None:
    """OTB's PatchesSelection: the centres of all patches of the grid without no-data, as a vector file."""
    parameters = {"in": image, "grid.step": patches.step, "grid.psize": patches.patch, "strategy": "all", "outtrain": points}
    run_otb("PatchesSelection", parameters, report)


def described(product: Product) -> dict[str, Any]:
    """A product as the manifest names it."""
    angles = product.angles
    return {
        "name": product.name, "kind": product.kind, "date": product.date.isoformat() if product.date else None, "provenance": dict(product.provenance),
        "sun_elevation": angles.sun_elevation, "view_zenith": angles.view_zenith, "remarks": list(product.remarks),
    }  # fmt: skip


def labelled(labels: Path, codes: Iterable[int], grid: Grid) -> NDArray[np.float32]:
    """Share of each pixel of `grid` with one of these codes in a raster of labels, which may have any grid and CRS."""
    fine = grid.refined(4)
    try:
        with rasterio.open(labels) as source:
            if source.crs is None:
                raise InputError(f"{labels}: has no coordinate reference system; give it one (gdal_edit.py -a_srs)")
            with WarpedVRT(source, crs=fine.crs, transform=fine.transform, width=fine.width, height=fine.height, resampling=Resampling.nearest) as warped:
                found = np.isin(warped.read(1), list(codes))
    except RasterioError as error:
        raise InputError(f"{labels}: cannot be read as an image ({first_line(error)}); check the path and the file") from error
    return np.asarray(found.reshape(grid.height, 4, grid.width, 4).mean((1, 3)), np.float32)


def means(image: Path, corners: NDArray[np.int64], patch: int) -> NDArray[np.float32]:
    """Mean of the first band, per cent, in the patches at `corners` [n, 2], as a share; read by rows of patches."""
    found = np.zeros(len(corners), np.float32)
    with rasterio.open(image) as file:
        for top in np.unique(corners[:, 0]).tolist():
            chosen = np.flatnonzero(corners[:, 0] == top)
            rows = file.read(1, window=Window(0, top, file.width, patch)).sum(0, dtype=np.int64)
            total = np.concatenate([[0], rows.cumsum()])
            found[chosen] = (total[corners[chosen, 1] + patch] - total[corners[chosen, 1]]) / (100 * patch**2)
    return found


def in_order() -> type:
    """An OTBTF iterator that visits the patches in the file's order, over and over (its own default draws at random)."""
    from otbtf.dataset import IteratorBase

    class InOrder(IteratorBase):  # type: ignore[misc]
        def __init__(self, patches_reader: Any) -> None:
            super().__init__(patches_reader)
            self.indices = itertools.cycle(range(patches_reader.get_size()))  # the dataset's thread reads ahead of the last patch

        def __next__(self) -> int:
            return next(self.indices)

        def shuffle(self) -> None:
            """Nothing to shuffle."""

    return InOrder


def write_tfrecords(folder: Path, manifest: dict[str, Any]) -> None:
    """The patches of each split as TFRecords with keys lr and target, in `<split>_tfrecords`; raises `InputError` where otbtf or TensorFlow is missing."""
    try:
        from otbtf import DatasetFromPatchesImages
        from otbtf.tfrecords import TFRecords
    except ImportError as error:
        raise InputError(f"TFRecords need TensorFlow and otbtf ({error}); install them, or leave --tfrecords out") from error
    for split, entry in manifest["splits"].items():
        if entry["accepted"]:
            dataset = DatasetFromPatchesImages({key: [str(folder / entry[key])] for key in ("lr", "target")}, iterator_cls=in_order())
            TFRecords(folder / f"{split}_tfrecords").ds2tfrecord(dataset, n_samples_per_shard=100, drop_remainder=False)
            entry["tfrecords"] = f"{split}_tfrecords"
