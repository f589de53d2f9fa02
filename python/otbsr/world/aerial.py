"""Real texture instead of a drawn landscape: an aerial image seen by the simulated sensors (Wald's protocol).

The image is taken as the ground's reflectance; the 2.5 m reference and Sentinel-2's 10 m image are both made from it with the same
sensor model as the simulated landscapes, so that the two kinds of pairs can be mixed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from otbsr.errors import InputError, OutputError
from otbsr.grid import Grid
from otbsr.world.sensors import REFERENCE_MTF, SENTINEL2, Sampler, observe
from otbsr.world.simulate import BANDS, write_image

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


def observe_aerial(
    files: Sequence[str | Path],
    out: str | Path,
    factor: int = 4,
    spacing: float = 10.0,
    scale: Sequence[float] = (1.2e-3, 1.2e-3, 1.2e-3, 1.8e-3),
    zoom: float = 1.0,
    offset: tuple[float, float] = (0.0, 0.0),
    least: int = 8,
    seed: int = 0,
    noise: float = 1.0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write `OUT/reference_2m5.tif` (noise-free target) and `OUT/sentinel2_10m.tif` from an aerial image; int16 DN, nested grids.

    scale: reflectance of one count of each band (8-bit images have no calibration: the default spans what land reflects). zoom: the image
    is taken to be this many times larger on the ground than it is: real texture at another size. offset: metres east and south by which
    the pixels' corner is moved: the same texture falls otherwise into them. least: input pixels a side below which it is an error. Returns the settings, which are
    also written to `OUT/world.json`. Raises `InputError` when the image is too small, `OutputError` when OUT exists.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: exists already; choose another name or give --overwrite")
    reflectance, grid = read_reflectance(files, scale)
    fine = spacing / factor
    scene = Grid(0.0, grid.height * grid.dy * zoom, grid.dx * zoom, grid.dy * zoom, grid.width, grid.height, "EPSG:32631")
    columns, rows = (
        int((count * step * zoom - 2 * MARGIN - moved) // spacing)
        for count, step, moved in zip((grid.width, grid.height), (grid.dx, grid.dy), offset, strict=True)
    )
    if min(columns, rows) < least:
        raise InputError(
            f"{files[0]}: {grid.width * grid.dx * zoom:g} x {grid.height * grid.dy * zoom:g} m is too small; expected at least {least * spacing + 2 * MARGIN + max(offset):g} m"
        )
    left, top = MARGIN + offset[0], scene.top - MARGIN - offset[1]
    coarse = Grid(left, top, spacing, spacing, columns, rows, "EPSG:32631")
    target = Grid(left, top, fine, fine, columns * factor, rows * factor, "EPSG:32631")
    random = np.random.default_rng([seed, 11])
    sharp = [Sampler(scene, target, REFERENCE_MTF)(plane) for plane in reflectance]
    seen = [observe(Sampler(scene, coarse, SENTINEL2[band].mtf)(plane), SENTINEL2[band], random, noise) for band, plane in zip(BANDS, reflectance, strict=True)]
    out.mkdir(parents=True, exist_ok=True)
    settings = {"aerial": [Path(file).name for file in files], "factor": factor, "zoom": zoom, "offset": list(offset), "scale": list(scale), "seed": None}
    write_image(out / "reference_2m5.tif", sharp, target, BANDS)
    write_image(out / "sentinel2_10m.tif", seen, coarse, BANDS)
    (out / "world.json").write_text(json.dumps({"settings": settings}, indent=1) + "\n", encoding="utf-8")
    return settings
