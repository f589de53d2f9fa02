"""A world: one landscape, what each sensor makes of it, the exact land cover, and labelled polygons, in one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import geopandas
import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.errors import RasterioError
from scipy import ndimage
from shapely import affinity

from otbsr import __version__
from otbsr.errors import OutputError, UsageError, flaw, nearest
from otbsr.files import new_folder, unwritable
from otbsr.grid import Grid
from otbsr.progress import Report, part, silent
from otbsr.raster import damage
from otbsr.world import materials, sensors
from otbsr.world.clouds import make_clouds
from otbsr.world.landscape import LEGEND, LandCover, Landscape, make_landscape
from otbsr.world.products import Acquisition, scene_classification, write_dimap, write_safe, write_theia
from otbsr.world.scene import FINE, Scene, skylight, sun_position

FORMAT = 1
CRS = "EPSG:32631"
LEFT, TOP = 374040.0, 4830000.0
"""Upper-left corner of every world: multiples of 60 m in UTM zone 31 N, tile 31TCJ."""
MARGIN = 60
"""Metres of landscape around the images, so that point spread functions and shadows see real ground at the border."""
BANDS = ("B4", "B3", "B2", "B8")
BAND_SETS = {"ten": (*BANDS, "B5", "B6", "B7", "B8A", "B11", "B12"), "all": (*BANDS, "B5", "B6", "B7", "B8A", "B11", "B12", "B1", "B9", "B10")}
"""Words that stand for bands: those of 10 and 20 m; all 13."""
NODATA = -10000
HARMONISED = {"B4": "B2", "B3": "B1", "B2": "B0", "B8": "B3"}
"""Spot's band nearest to each of Sentinel-2's."""


class WorldSettings(BaseModel):
    """What to simulate. Lengths in metres, angles in degrees, reflectance 0..1."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = Field(default=1, ge=0, description="same seed and settings, same pixels")
    extent: int = Field(default=2520, ge=480, le=30000, description="side of the square, a multiple of 60 m")
    urban: float = Field(default=0.4, ge=0.0, le=1.0, description="share of the area that is built up")
    gradient: float = Field(default=0.6, ge=0.0, le=1.0, description="0: towns scattered; 1: a slope from country to town")
    day: int = Field(default=165, ge=1, le=366, description="day of the year of the Sentinel-2 image")
    date_gap: int = Field(default=0, ge=-180, le=180, description="days from Sentinel-2 to Spot")
    shift: tuple[float, float] = Field(default=(0.0, 0.0), description="residual misregistration of Spot, east and north")
    gain: float = Field(default=1.0, gt=0.0, le=3.0, description="factor on Spot's reflectance")
    bias: float = Field(default=0.0, ge=-0.2, le=0.2, description="added to Spot's reflectance")
    noise: float = Field(default=1.0, ge=0.0, le=20.0, description="factor on every sensor's noise")
    cloud_cover: float = Field(default=0.0, ge=0.0, le=0.9, description="share of the Sentinel-2 image under cloud")
    changed: float = Field(default=0.0, ge=0.0, le=1.0, description="share of the parcels that are ploughed or sown between Sentinel-2 and Spot")
    sun_elevation: float | None = Field(default=None, ge=15.0, le=85.0, description="from the date when absent")
    sun_azimuth: float | None = Field(default=None, ge=0.0, lt=360.0, description="from the date when absent")
    products: tuple[Literal["safe", "theia", "dimap"], ...] = Field(default=(), description="products written besides the GeoTIFFs")
    bands: tuple[str, ...] = Field(default=BANDS, min_length=1, description="of the pair of images to train on; `ten` and `all` stand for many")
    factor: Literal[2, 3, 4, 5, 6, 8] = Field(default=4, description="10 m over the spacing of that pair's reference")

    @field_validator("bands")
    @classmethod
    def known_bands(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Sentinel-2's names, each once; a word for many is replaced by them."""
        value = BAND_SETS[value[0]] if len(value) == 1 and value[0] in BAND_SETS else value
        strange = [name for name in value if name not in materials.SENTINEL2_BANDS]
        if strange:
            hint = nearest(strange[0], materials.SENTINEL2_BANDS)
            raise ValueError(f"{strange[0]} is no band of Sentinel-2{hint}; give {', '.join(BAND_SETS)}, or some of {', '.join(materials.SENTINEL2_BANDS)}")
        if len(set(value)) < len(value):
            raise ValueError("a band is named twice")
        return value

    @field_validator("extent")
    @classmethod
    def whole_pixels(cls, value: int) -> int:
        """10, 20 and 60 m grids share their corners."""
        if value % 60:
            raise ValueError(f"must be a multiple of 60 m; the nearest is {max(480, round(value / 60) * 60)}")
        return value

    @field_validator("shift")
    @classmethod
    def small_shift(cls, value: tuple[float, float]) -> tuple[float, float]:
        """The scene has a margin of `MARGIN` metres."""
        if max(map(abs, value)) > MARGIN / 2:
            raise ValueError(f"must be at most {MARGIN // 2} m each way, the landscape's margin allows no more")
        return value

    @classmethod
    def parse(cls, **values: Any) -> WorldSettings:
        """The settings, or a `UsageError` that names the first wrong one."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise UsageError(f"{flaw(error, flags=False)}; see `otbsr simulate --help`") from None

    @property
    def pair(self) -> tuple[str, str]:
        """File names of the pair of images to train on: input on the 10 m grid, reference of the same bands at 10 m / factor."""
        stack = "" if self.bands == BANDS else "stack_"
        return f"sentinel2_{stack}10m.tif", f"reference_{stack}{spacing_name(10 / self.factor)}.tif"

    def described_pair(self) -> dict[str, Any]:
        """The same with bands and factor, as ``world.json`` has it."""
        return {"input": self.pair[0], "target": self.pair[1], "bands": list(self.bands), "factor": self.factor}

    def sun(self, day: int) -> tuple[float, float]:
        """Elevation and azimuth of the sun."""
        elevation, azimuth = sun_position(day)
        return self.sun_elevation or max(elevation, 15.0), azimuth if self.sun_azimuth is None else self.sun_azimuth


def spacing_name(spacing: float) -> str:
    """A spacing in metres as file names have it: 2.5 -> "2m5", 5 -> "5m", 10 / 3 -> "3m33"."""
    whole, _, rest = f"{spacing:.2f}".rstrip("0").partition(".")
    return f"{whole}m{rest}"


def grid_of(extent: int, spacing: float) -> Grid:
    """The images' grid at a spacing that divides the extent."""
    size = round(extent / spacing)
    return Grid(LEFT, TOP, spacing, spacing, size, size, rasterio.CRS.from_string(CRS).to_wkt())


def fine_grid(extent: int) -> Grid:
    """The scene's grid: the images' footprint and `MARGIN` metres around it."""
    size = round((extent + 2 * MARGIN) / FINE)
    return Grid(LEFT - MARGIN, TOP + MARGIN, FINE, FINE, size, size, rasterio.CRS.from_string(CRS).to_wkt())


def simulate(out: Path, settings: WorldSettings, report: Report = silent, overwrite: bool = False) -> dict[str, Any]:
    """Write a world into the folder `out`.

    Files (all north-up, EPSG:32631, nested grids that share the corner): ``sentinel2_10m.tif``, ``reference_2m5.tif`` and
    ``spot_2m5.tif`` (int16, reflectance x 10000, no-data -10000, bands B4 B3 B2 B8), ``landcover_2m5.tif`` (uint8 codes of
    ``legend.json``), ``landscape.gpkg`` (layers landscape and trees), ``polygons.gpkg`` (field class), ``world.json``, and the
    products asked for. Other bands than these four add ``sentinel2_stack_10m.tif`` (bands of 20 and 60 m by repeating their pixels) and
    ``reference_stack_2m5.tif``, another factor a reference with its spacing in its name (``reference_5m.tif``); the pair to train on is
    named in ``world.json``; changed parcels are in ``changes_10m.tif`` (share of the pixel). A folder that already holds this very world is left as it is.

    Args:
        out: folder to make.
        settings: what to simulate.
        report: told the progress.
        overwrite: replace a world with other settings; a folder that is not a world is never replaced.

    Returns:
        The content of ``world.json``, with ``cached`` telling whether it was there already.

    Raises:
        OutputError: `out` exists and is another world (without `overwrite`) or no world at all, or cannot be written.

    """
    out = Path(out).absolute()
    existing = read_world(out)
    if existing is not None and made_with(existing) == settings and complete(out, existing):
        return {**existing, "pair": settings.described_pair(), "cached": True}
    if out.exists() and (not out.is_dir() or (existing is None and any(out.iterdir()))):
        raise OutputError(f"{out}: exists and is not a simulated world; choose another folder")
    if existing is not None and not overwrite:
        raise OutputError(f"{out}: holds a world with other settings or an incomplete one; add --overwrite or choose another folder")
    remedy = "check the folder's rights and the space left"
    try:
        with new_folder(out, remedy) as partial:
            world = write_world(partial, settings, report)
            # A full disk need not raise: what was written is looked at before it gets its name.
            damaged = [f"{name} {reason}" for name in world["files"] if name.endswith(".tif") and (reason := damage(partial / name))]
            if damaged:
                raise OutputError(f"{out}: {damaged[0]}; check the space left on the disk")
    except (RasterioError, DataLayerError, DataSourceError) as error:
        raise unwritable(out, error, remedy) from error
    return {**world, "cached": False}


def read_world(folder: Path) -> dict[str, Any] | None:
    """``world.json`` of a folder when it is one of this version's worlds, else None."""
    try:
        world: dict[str, Any] = json.loads((folder / "world.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return world if isinstance(world, dict) and world.get("format") else None


def made_with(world: dict[str, Any]) -> WorldSettings | None:
    """The settings of a world, those that it does not name at their defaults; None when they are not this program's."""
    try:
        return WorldSettings.model_validate(world.get("settings"))
    except ValidationError:
        return None


def complete(folder: Path, world: dict[str, Any]) -> bool:
    """Whether the world is of this program's version and all its files are there with their sizes."""
    current = world.get("format") == FORMAT and world.get("version") == __version__
    return current and all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in world["files"].items())


def write_world(folder: Path, settings: WorldSettings, report: Report) -> dict[str, Any]:
    """Make all files in `folder`; returns ``world.json``'s content."""
    step = "simulate"
    report(step, 0.0)
    extent = settings.extent
    landscape = make_landscape(settings.seed, extent + 2 * MARGIN, settings.urban, settings.gradient)
    report(step, 0.12)
    fine, middle, coarse = fine_grid(extent), grid_of(extent, 2.5), grid_of(extent, 10.0)
    scene = Scene(landscape, fine, settings.seed, settings.day, settings.sun(settings.day))
    report(step, 0.35)
    land_cover = majority(scene.land_cover(), fine, middle)
    write_land_cover(folder, land_cover, middle)
    write_vectors(folder, landscape, scene, land_cover, fine, middle, settings.seed)
    report(step, 0.45)

    sky = make_clouds(settings.seed, coarse, settings.cloud_cover, scene.sun) if settings.cloud_cover else None
    wanted = [name for name in materials.SENTINEL2_BANDS if name != "B10"] if {"safe", "theia"} & set(settings.products) else []
    names = list(dict.fromkeys((*BANDS, *wanted, *settings.bands)))
    at_reference = sensors.Sampler(fine, middle, sensors.REFERENCE_MTF)
    target = coarse.refined(settings.factor)
    at_target = at_reference if settings.factor == 4 else sensors.Sampler(fine, target, sensors.REFERENCE_MTF)
    reference, sharp, sentinel2, noise = {}, {}, {}, {}
    for index, name in enumerate(names):
        plane = scene.reflectance(materials.response(name))
        if name in BANDS:
            reference[name] = at_reference(plane)
        if name in settings.bands and settings.pair[1] != "reference_2m5.tif":
            sharp[name] = reference[name] if name in BANDS and settings.factor == 4 else at_target(plane)
        band = sensors.SENTINEL2[name]
        clean = sensors.Sampler(fine, grid_of(extent, band.spacing), band.mtf)(plane)
        if sky is not None:
            cloud = float(materials.CLOUD[materials.SENTINEL2_BANDS.index(name)])
            clean = sky.coarsened(round(band.spacing / coarse.dx)).over(clean, cloud, skylight(materials.response(name)))
        generator = np.random.default_rng(np.random.SeedSequence([settings.seed, 3, materials.SENTINEL2_BANDS.index(name)]))
        sentinel2[name] = sensors.observe(clean, band, generator, settings.noise)
        # Root mean square over the image of the noise drawn, with that of rounding to 1e-4.
        noise[name] = float(np.sqrt(np.mean((settings.noise * band.noise(clean)) ** 2) + 1e-8 / 12))
        report(step, 0.45 + 0.3 * (index + 1) / len(names))
    write_image(folder / "reference_2m5.tif", list(reference.values()), middle, BANDS)
    write_image(folder / "sentinel2_10m.tif", [sentinel2[name] for name in BANDS], coarse, BANDS)
    if sharp:
        write_image(folder / settings.pair[1], [sharp[name] for name in settings.bands], target, settings.bands)
    if settings.bands != BANDS:
        write_image(folder / settings.pair[0], [on_grid(sentinel2[name], coarse) for name in settings.bands], coarse, settings.bands)
    mask = sky.mask() if sky is not None else np.zeros((coarse.height, coarse.width), np.uint8)
    if sky is not None:
        write_raster(folder / "clouds_10m.tif", [mask], coarse, ["0 clear, 1 cloud, 2 cloud shadow"])
    grids = {name: grid_of(extent, sensors.SENTINEL2[name].spacing) for name in wanted or BANDS}
    look = Acquisition({name: sentinel2[name] for name in grids}, grids, settings.day, scene.sun)
    if "safe" in settings.products:
        at_20 = grid_of(extent, 20.0)
        masked = mask.reshape(at_20.height, 2, at_20.width, 2)
        joined = np.where((masked == 1).any(axis=(1, 3)), 1, np.where((masked == 2).any(axis=(1, 3)), 2, 0)).astype(np.uint8)
        write_safe(folder, look, scene_classification(majority(scene.land_cover(), fine, at_20), joined))
    if "theia" in settings.products:
        write_theia(folder, look, mask)
    report(step, 0.8)

    harmonisation = write_spot(folder, scene, settings, part(report, step, 0.8, 1.0))

    world = {
        "format": FORMAT,
        "version": __version__,
        "settings": settings.model_dump(mode="json"),
        "crs": CRS,
        "corner": [LEFT, TOP],
        "bands": list(BANDS),
        "pair": settings.described_pair(),
        "noise": noise,
        "mtf": {"sentinel2": {name: sensors.SENTINEL2[name].mtf for name in names}, "reference": sensors.REFERENCE_MTF},
        "sun": {"elevation": settings.sun(settings.day)[0], "azimuth": settings.sun(settings.day)[1]},
        "spot_harmonisation": harmonisation,
        "proportions": {LEGEND[c][0]: float((land_cover == c).mean()) for c in LandCover},
    }
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    world["files"] = {name: (folder / name).stat().st_size for name in files}
    (folder / "world.json").write_text(json.dumps(world, indent=1) + "\n", "utf-8")
    report(step, 1.0)
    return world


def on_grid(plane: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """A band on a nested finer grid of the same footprint, by repeating its pixels: what a network is given of a coarser band."""
    return plane.repeat(grid.height // plane.shape[0], 0).repeat(grid.width // plane.shape[1], 1)


def write_spot(folder: Path, scene: Scene, settings: WorldSettings, report: Report) -> dict[str, tuple[float, float]]:
    """``spot_2m5.tif``, and the DIMAP bundle when asked for; returns slope and intercept of the harmonisation per band.

    Harmonised: each band is brought to Sentinel-2's by a line fitted on the spectra of the Sentinel-2 day, so that neither the
    date's change nor the misregistration, gain, bias and noise that the settings ask for is absorbed.
    """
    fine, middle = scene.grid, grid_of(settings.extent, 2.5)
    spot, bundle = [], {}
    lines = {name: scene.line(materials.response(f"SPOT_{HARMONISED[name]}"), materials.response(name)) for name in BANDS}
    if settings.date_gap:
        scene.see(spot_day(settings), settings.sun(spot_day(settings)))
    if settings.changed:
        size, margin, factor = settings.extent // 10, round(MARGIN / FINE), round(10 / FINE)
        inside = scene.change(settings.changed)[margin : margin + size * factor, margin : margin + size * factor]
        area = inside.reshape(size, factor, size, factor).mean((1, 3), dtype=np.float32)
        write_raster(folder / "changes_10m.tif", [area], grid_of(settings.extent, 10.0), ["share of the pixel that changed"])
    for index, name in enumerate(BANDS):
        band = sensors.SPOT_2M5[HARMONISED[name]]
        plane = scene.reflectance(materials.response(f"SPOT_{band.name}"))
        seen = sensors.Sampler(fine, middle, band.mtf, settings.shift)(plane)
        slope, intercept = lines[name]
        harmonised = np.float32(slope) * seen + np.float32(intercept)
        generator = np.random.default_rng(np.random.SeedSequence([settings.seed, 4, index]))
        spot.append(sensors.observe(harmonised, band, generator, settings.noise, settings.gain, settings.bias))
        if "dimap" in settings.products:
            bundle[band.name] = spot_band(scene, plane, band.name, settings, index)
        report("", (index + 1) / 5)
    write_image(folder / "spot_2m5.tif", spot, middle, BANDS)
    if "dimap" in settings.products:
        bundle["PAN"] = spot_band(scene, scene.reflectance(materials.response("SPOT_PAN")), "PAN", settings, len(BANDS))
        grids = {name: grid_of(settings.extent, sensors.SPOT[name].spacing) for name in bundle}
        write_dimap(folder, Acquisition(bundle, grids, scene.day, scene.sun))
    return lines


def spot_band(scene: Scene, plane: NDArray[np.float32], name: str, settings: WorldSettings, index: int) -> NDArray[np.float32]:
    """One band of the Spot-6/7 bundle on its own grid."""
    band = sensors.SPOT[name]
    clean = sensors.Sampler(scene.grid, grid_of(settings.extent, band.spacing), band.mtf, settings.shift)(plane)
    generator = np.random.default_rng(np.random.SeedSequence([settings.seed, 7, index]))
    return sensors.observe(clean, band, generator, settings.noise, settings.gain, settings.bias)


def spot_day(settings: WorldSettings) -> int:
    """Day of the year of the Spot image."""
    return (settings.day + settings.date_gap - 1) % 365 + 1


def majority(classes: NDArray[np.uint8], fine: Grid, coarse: Grid) -> NDArray[np.uint8]:
    """The class with the largest area in each coarse pixel; of equals the lowest code."""
    factor, margin = round(coarse.dx / fine.dx), round(MARGIN / fine.dx)
    inside = classes[margin : margin + coarse.height * factor, margin : margin + coarse.width * factor]
    best = np.zeros((coarse.height, coarse.width), np.uint8)
    most = np.zeros((coarse.height, coarse.width), np.uint16)
    for code in LandCover:
        area = (inside == code).reshape(coarse.height, factor, coarse.width * factor).sum(axis=1, dtype=np.uint16)
        area = area.reshape(coarse.height, coarse.width, factor).sum(axis=2, dtype=np.uint16)
        more = area > most
        best[more], most[more] = code, area[more]
    return best


def write_raster(
    path: Path, planes: Sequence[NDArray[Any]], grid: Grid, names: Sequence[str], colours: Mapping[int, tuple[int, ...]] | None = None, **options: Any
) -> None:
    """Write planes as a tiled, compressed raster with band names; colours: red, green, blue, opacity of the first plane's values."""
    defaults = {"driver": "GTiff", "compress": "deflate", "tiled": True, "blockxsize": 256, "blockysize": 256}
    if min(grid.width, grid.height) < 256:
        defaults |= {"tiled": False}
        del defaults["blockxsize"], defaults["blockysize"]
    profile = {**defaults, "width": grid.width, "height": grid.height, "count": len(planes), "crs": CRS, "transform": grid.transform}
    profile |= {"dtype": planes[0].dtype, **options}
    with rasterio.open(path, "w", **profile) as file:
        if colours:
            file.write_colormap(1, dict(colours))
        for index, (plane, name) in enumerate(zip(planes, names, strict=True), start=1):
            file.write(plane, index)
            if name:
                file.set_band_description(index, name)


def write_image(path: Path, planes: Sequence[NDArray[np.float32]], grid: Grid, names: Sequence[str]) -> None:
    """Write reflectance as int16 x 10000 with no-data -10000."""
    numbers = [sensors.quantise(plane, low=-9999).astype(np.int16) for plane in planes]
    write_raster(path, numbers, grid, names, nodata=NODATA, predictor=2, interleave="pixel")


def write_land_cover(folder: Path, land_cover: NDArray[np.uint8], grid: Grid) -> None:
    """The land-cover map with its colours, and the legend."""
    colours = {int(code): (*(int(colour[i : i + 2], 16) for i in (1, 3, 5)), 255) for code, (_, colour, _) in LEGEND.items()}
    write_raster(folder / "landcover_2m5.tif", [land_cover], grid, ["land cover"], colours, nodata=0)
    classes = [{"code": int(code), "name": name, "colour": colour, "artificial": artificial} for code, (name, colour, artificial) in LEGEND.items()]
    (folder / "legend.json").write_text(json.dumps({"classes": classes}, indent=1) + "\n", "utf-8")


def write_vectors(folder: Path, landscape: Landscape, scene: Scene, land_cover: NDArray[np.uint8], fine: Grid, middle: Grid, seed: int) -> None:
    """``landscape.gpkg`` and ``polygons.gpkg``."""
    move = [1.0, 0.0, 0.0, 1.0, fine.left, fine.bottom]
    shapes = [affinity.affine_transform(feature.geometry, move) for feature in landscape.features]
    classes = scene.classes_of_objects[: len(shapes)]
    table = geopandas.GeoDataFrame(
        {
            "class": classes.astype("int32"),
            "name": [LEGEND[LandCover(code)][0] for code in classes],
            "material": [materials.NAMES[m] for m in scene.materials_of_objects[: len(shapes)]],
            "layer": [int(feature.layer) for feature in landscape.features],
            "height": [feature.height for feature in landscape.features],
        },
        geometry=shapes,
        crs=CRS,
    )
    frame = shapely.box(*middle.bounds)
    table[table.intersects(frame)].to_file(folder / "landscape.gpkg", layer="landscape", driver="GPKG")
    trees = landscape.trees
    points = shapely.points(trees[:, 0] + fine.left, trees[:, 1] + fine.bottom)
    kinds = np.where(trees[:, 4] > 0, int(LandCover.CONIFER), int(LandCover.BROADLEAF))
    forest = geopandas.GeoDataFrame({"class": kinds, "radius": trees[:, 2], "height": trees[:, 3]}, geometry=points, crs=CRS)
    forest.to_file(folder / "landscape.gpkg", layer="trees", driver="GPKG")
    labelled_polygons(table, land_cover, middle, seed).to_file(folder / "polygons.gpkg", layer="polygons", driver="GPKG")


def labelled_polygons(
    table: geopandas.GeoDataFrame, land_cover: NDArray[np.uint8], grid: Grid, seed: int, per_class: int | None = None
) -> geopandas.GeoDataFrame:
    """Labelled polygons of every class: interiors of parcels, and small objects whole.

    A candidate is an object's shape without what is painted over it, or, for trees and gardens, a patch of the map; it is kept
    where at least 90 % of its pixels have its class. Fields: id, class, name.

    Args:
        table: the landscape's objects in painting order, with a column ``class``.
        land_cover: (h, w) class codes on `grid`.
        grid: the map's grid.
        seed: chooses among the candidates.
        per_class: how many of each class at most; by default 8 and 5 more a square kilometre, between 12 and 60.

    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 5]))
    frame = shapely.box(*grid.bounds)
    wanted = per_class or max(12, min(60, round(5 * frame.area / 1e6)) + 8)
    tree = shapely.STRtree(table.geometry.to_numpy())
    chosen: list[dict[str, Any]] = []
    for code in LandCover:
        found = 0
        ids = np.flatnonzero((table["class"] == code).to_numpy() & (table.area.to_numpy() < 0.2 * frame.area))
        candidates = [("object", int(i)) for i in rng.permutation(ids)[: 8 * wanted]]
        patches = patches_of(land_cover == code, grid, rng, 6 * wanted)
        mixed: list[Any] = [item for pair in zip(candidates, patches, strict=False) for item in pair]
        mixed += candidates[len(patches) :] + patches[len(candidates) :]
        for kind, item in mixed:
            if found >= wanted:
                break
            shape = interior(item, table, tree, frame) if kind == "object" else item
            for piece in trim(shape, rng):
                if purity(piece, land_cover, grid, int(code)) >= 0.9 and not any(
                    piece.intersects(other["geometry"]) for other in chosen if other["class"] == code
                ):
                    chosen.append({"id": len(chosen) + 1, "class": int(code), "name": LEGEND[code][0], "geometry": piece})
                    found += 1
                    break
    return geopandas.GeoDataFrame(chosen, geometry="geometry", crs=CRS)


def patches_of(mask: NDArray[np.bool_], grid: Grid, rng: np.random.Generator, count: int) -> list[tuple[str, shapely.Polygon]]:
    """Small discs about places of the map where the class fills the neighbourhood."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    rows, columns = np.nonzero(depth >= 2.2)
    pick = rng.permutation(rows.size)[:count]
    return [("patch", shapely.Point(grid.centre(int(columns[i]), int(rows[i]))).buffer(min(depth[rows[i], columns[i]] - 0.8, 6.0) * grid.dx)) for i in pick]


def interior(index: int, table: geopandas.GeoDataFrame, tree: shapely.STRtree, frame: shapely.Polygon) -> shapely.Geometry:
    """An object less what covers it, drawn in by 4 m when large, by a little when small."""
    shape = table.geometry.iloc[index]
    above = [i for i in tree.query(shape, predicate="intersects") if i > index]
    visible = shape.difference(shapely.union_all(table.geometry.to_numpy()[above])) if above else shape
    return visible.buffer(-4.0 if visible.area > 2000 else -0.5).intersection(frame)


def trim(shape: shapely.Geometry, rng: np.random.Generator) -> list[shapely.Polygon]:
    """Polygons of at most some 3000 m2, largest first; large ones are cut to a disc about a point inside."""
    pieces = sorted((p for p in shapely.get_parts(shape) if isinstance(p, shapely.Polygon) and p.area > 20), key=lambda p: -p.area)[:2]
    result = []
    for piece in pieces:
        if piece.area > 3000:
            centre = piece.representative_point()
            disc = piece.intersection(centre.buffer(rng.uniform(16, 31)))
            result += [p for p in shapely.get_parts(disc) if isinstance(p, shapely.Polygon) and p.area > 20][:1]
        else:
            result.append(piece)
    return result


def purity(piece: shapely.Polygon, land_cover: NDArray[np.uint8], grid: Grid, code: int) -> float:
    """Share of the pixels whose centre is in `piece` that have this class; 0 when there are fewer than three."""
    x0, y0, x1, y1 = piece.bounds
    (c0, r0), (c1, r1) = (tuple(int(v) for v in grid.position(x, y)) for x, y in ((x0, y1), (x1, y0)))
    r0, c0, r1, c1 = max(r0, 0), max(c0, 0), min(r1, grid.height - 1), min(c1, grid.width - 1)
    rows, columns = np.mgrid[r0 : r1 + 1, c0 : c1 + 1]
    centres = [grid.centre(c, r) for c, r in zip(columns.ravel(), rows.ravel(), strict=True)]
    inside = shapely.contains_xy(piece, [x for x, _ in centres], [y for _, y in centres])
    if inside.sum() < 3:
        return 0.0
    return float((land_cover[rows.ravel()[inside], columns.ravel()[inside]] == code).mean())
