"""Real texture instead of a drawn landscape: an aerial image seen by the simulated sensors (Wald's protocol).

The image is taken as the ground's reflectance; the 2.5 m reference and Sentinel-2's 10 m image are both made from it with the same
sensor model as the simulated landscapes, so that the two kinds of pairs can be mixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from otbsr.errors import InputError, UsageError
from otbsr.files import new_folder, require_replaceable, unwritable, write_json
from otbsr.grid import Grid
from otbsr.world.sensors import REFERENCE_MTF, SENTINEL2, Sampler, observe
from otbsr.world.simulate import BANDS, spacing_name, write_image

FACTORS = (2, 3, 4, 5, 6, 8)
LEAST = 8
"""Input pixels that a side of the images has at least."""
MARGIN = 20.0
"""Metres at each side of the aerial image that only the sensors' blur sees."""


def read_reflectance(files: Sequence[str | Path], scale: Sequence[float]) -> tuple[NDArray[np.float32], Grid]:
    """Red, green, blue and near infrared of one file with four bands or four files with one, as reflectance [4, h, w], and their grid.

    scale: reflectance of one count, for each band. Raises `InputError` for other numbers of bands and for files that do not match.
    """
    planes: list[NDArray[Any]] = []
    grid: Grid | None = None
    for file in files:
        try:
            with rasterio.open(file) as dataset:
                planes += list(dataset.read())
        except rasterio.RasterioIOError as error:
            raise InputError(f"{file}: cannot be read as an image ({error}); give GeoTIFFs with red, green, blue and near infrared") from error
        own = Grid.read(file)
        if grid is not None and (own.width, own.height, own.corner(0, 0)) != (grid.width, grid.height, grid.corner(0, 0)):
            raise InputError(f"{file}: its grid is not that of {files[0]}; give bands of one image")
        grid = own
    if len(planes) < 4 or grid is None:
        raise InputError(f"{files[0]}: {len(planes)} bands, expected red, green, blue and near infrared in one file or four")
    return np.stack([plane.astype(np.float32) * value for plane, value in zip(planes[:4], scale, strict=True)]), grid


def read_scale(text: str) -> tuple[float, ...]:
    """Reflectance of one count as an option has it: one number for all bands, or four with commas; raises `UsageError`."""
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 4) or not all(0 < value < 1 for value in values):
        raise UsageError(f"scale is '{text}', expected one number between 0 and 1 or four with commas, such as 0.0012,0.0012,0.0012,0.0018 (8 bits)")
    return values * (4 // len(values))


def observe_aerial(
    files: Sequence[str | Path],
    out: str | Path,
    factor: int = 4,
    spacing: float = 10.0,
    scale: Sequence[float] = (1.2e-3, 1.2e-3, 1.2e-3, 1.8e-3),
    zoom: float = 1.0,
    offset: tuple[float, float] = (0.0, 0.0),
    seed: int = 0,
    noise: float = 1.0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write `OUT/sentinel2_10m.tif` and its noise-free target `OUT/reference_2m5.tif` from an aerial image; int16 DN, nested grids.

    Another factor puts its own spacing into the target's name. scale: reflectance of one count of each band (8-bit images have no
    calibration: the default spans what land reflects). zoom: the image is taken to be this many times larger on the ground than it is:
    real texture at another size. offset: metres east and south by which the pixels' corner is moved, so that the same texture falls
    otherwise into them. Returns the content of `OUT/world.json`: settings, the pair's files and, where the image has a CRS, the `ground` that it
    shows (`Grid.footprint`). Raises `UsageError`, `InputError` when the image is too small or coarser than the target, `OutputError` when OUT exists
    or cannot be written.
    """
    out = Path(out)
    require_replaceable(out, overwrite, "simulated world", ("world.json",))
    if factor not in FACTORS or not 0 < zoom < math.inf or not all(0 <= value < math.inf for value in (noise, *offset)):
        raise UsageError(
            f"factor {factor}, zoom {zoom:g}, noise {noise:g}, offset {offset[0]:g} {offset[1]:g}: expected a factor of {', '.join(map(str, FACTORS))}, "
            "a zoom above 0, noise and offset of 0 or more"
        )
    reflectance, grid = read_reflectance(files, scale)
    fine = spacing / factor
    step = max(grid.dx, grid.dy) * zoom
    if step > fine * (1 + 1e-6):
        raise InputError(f"{files[0]}: pixels of {step:g} m cannot show the ground at {fine:g} m; use a smaller --factor (at most {int(spacing / step)})")
    scene = Grid(0.0, grid.height * grid.dy * zoom, grid.dx * zoom, grid.dy * zoom, grid.width, grid.height, "EPSG:32631")
    columns, rows = (int((side - 2 * MARGIN - moved) // spacing) for side, moved in ((scene.right, offset[0]), (scene.top, offset[1])))
    if min(columns, rows) < LEAST:
        least = LEAST * spacing + 2 * MARGIN + max(offset)
        raise InputError(f"{files[0]}: {scene.right:g} x {scene.top:g} m is too small; expected at least {least:g} m")
    coarse = Grid(MARGIN + offset[0], scene.top - MARGIN - offset[1], spacing, spacing, columns, rows, "EPSG:32631")
    target = coarse.refined(factor)
    random = np.random.default_rng([seed, 11])
    sharp = [Sampler(scene, target, REFERENCE_MTF)(plane) for plane in reflectance]
    seen = [observe(Sampler(scene, coarse, SENTINEL2[band].mtf)(plane), SENTINEL2[band], random, noise) for band, plane in zip(BANDS, reflectance, strict=True)]
    names = {"input": "sentinel2_10m.tif", "target": f"reference_{spacing_name(fine)}.tif"}
    settings = {"aerial": [Path(file).name for file in files], "factor": factor, "zoom": zoom, "offset": list(offset), "scale": list(scale)}
    world: dict[str, Any] = {"settings": settings | {"noise": noise, "seed": None}, "pair": {**names, "bands": list(BANDS), "factor": factor}}
    if grid.crs:
        world["ground"] = grid.footprint
    remedy = "check the folder's rights and the space left"
    try:
        with new_folder(out, remedy) as partial:
            write_image(partial / names["target"], sharp, target, BANDS)
            write_image(partial / names["input"], seen, coarse, BANDS)
            write_json(partial / "world.json", world)
    except RasterioError as error:
        raise unwritable(out, error, remedy) from error
    return world
