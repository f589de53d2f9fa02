"""Maps of scores: where an image differs from the reference and from the input, as GeoTIFFs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from otbsr.errors import OutputError, first_line
from otbsr.evaluation.consistency import Consistency
from otbsr.evaluation.corrected import PREFIX
from otbsr.evaluation.measures import whole
from otbsr.evaluation.quality import angles
from otbsr.evaluation.window_scores import Structure, similarity
from otbsr.evaluation.windows import Block, Plane, Scene
from otbsr.raster import damage, settle

MAPS = {
    "error": "root mean square over the bands of image - reference, reflectance",
    "angle": "spectral angle to the reference, degrees",
    "ssim": "structural similarity to the reference, mean over the bands",
    "consistency": "root mean square over the bands of image seen by the sensor - input, reflectance",
    "lpips_alex": "LPIPS to the reference through AlexNet",
    "lpips_vgg": "LPIPS to the reference through VGG16",
}
"""What `--maps` writes, where the files and weights for it are given; "consistency" is on the input's grid, the others on the image's.

With what lies between image and reference found, all but "consistency" are written of the corrected image too.
"""


def planes(block: Block, kernels: dict[int, Plane]) -> dict[str, Plane]:
    """The maps of a block's core; NaN where a pixel, or all that its score looks at, does not count."""
    found: dict[str, Plane] = {}
    if block.seen is not None:
        kept = block.core(block.common)
        first, second = (np.moveaxis(block.core(array), 0, -1) for array in (block.seen, block.image))
        found["error"] = np.where(kept, np.sqrt(np.mean((second - first) ** 2, axis=-1)), np.nan)
        if len(block.image) > 1:
            found["angle"] = np.where(kept, angles(first, second), np.nan)
        around = Structure.RADIUS
        pairs = zip(block.core(block.seen, around), block.core(block.image, around), strict=True)
        kept = whole(block.core(block.common, around), 2 * around + 1)
        found["ssim"] = np.where(kept, np.mean([similarity(x, y) for x, y in pairs], axis=0), np.nan)
    if block.coarse is not None and kernels:
        error, kept = Consistency(len(block.image), block.factor, kernels).errors(block)
        found["consistency"] = np.where(kept, np.sqrt(np.mean(error**2, axis=0)), np.nan)
    return found


class Maps:
    """Writes maps of scores as float32 GeoTIFFs, NaN where there is none; they get their names when all of them are whole."""

    def __init__(self, folder: Path, scene: Scene, overwrite: bool, others: Sequence[str] = (), corrected: bool = False) -> None:
        """Open the files, those of `others` after those of `planes`, and with `corrected` those of the corrected image (`PREFIX`) after both.

        Raises `OutputError` for a map that exists without `overwrite`, and for a folder that cannot be made.
        """
        names = [*(["error", "angle", "ssim"] if scene.reference else []), *(["consistency"] if scene.sensed else [])]
        self.names = [*(name for name in names if name != "angle" or len(scene.image.bands) > 1), *others]
        if corrected:
            self.names += [PREFIX + name for name in self.names if name != "consistency"]
        self.folder, self.scene = folder, scene
        reach = max(((taps.size - scene.factor) // 2 for taps in scene.kernels().values()), default=0)
        self.margin = max(Structure.RADIUS, reach)  # fine pixels around a block that maps look at
        for name in self.names:
            if self.path(name).exists() and not overwrite:
                raise OutputError(f"{self.path(name)}: exists already; choose another folder or give --overwrite")
        self.datasets: dict[str, Any] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in self.names:
                grid = scene.coarse.grid if name == "consistency" and scene.coarse else scene.image.grid
                profile = {"width": grid.width, "height": grid.height, "transform": grid.transform, "crs": grid.crs or None}
                storage = {"tiled": True, "compress": "deflate", "predictor": 3, "bigtiff": "if_safer"}
                self.datasets[name] = rasterio.open(
                    self.path(name, "part"), "w", driver="GTiff", count=1, dtype="float32", nodata=float("nan"), **profile, **storage
                )
                after = "; displacement, gain and bias to the reference taken away" if name.startswith(PREFIX) else ""
                self.datasets[name].descriptions = (MAPS[name.removeprefix(PREFIX)] + after,)
        except (RasterioError, OSError) as error:
            self.discard()
            raise OutputError(f"{folder}: maps cannot be written ({first_line(error)}); choose another folder") from error

    def path(self, name: str, part: str = "") -> Path:
        """Where a map is, and where its `part` is while it is written."""
        return self.folder / (f".{name}.{part}.tif" if part else f"{name}.tif")

    def write(self, row: int, column: int, factor: int, found: dict[str, Plane]) -> None:
        """Write maps of a block that begins at fine (row, column); raises `OutputError`."""
        for name, plane in found.items():
            step = factor if name == "consistency" else 1
            try:
                self.datasets[name].write(plane.astype(np.float32), 1, window=Window(column // step, row // step, plane.shape[1], plane.shape[0]))
            except (RasterioError, OSError) as error:
                raise OutputError(f"{self.path(name)}: cannot be completed ({first_line(error)}); check the free space") from error

    def discard(self) -> None:
        """Close and remove what was begun."""
        for name, dataset in self.datasets.items():
            with suppress(RasterioError, OSError):
                dataset.close()
            self.path(name, "part").unlink(missing_ok=True)

    def finish(self) -> list[Path]:
        """Close the files, check that they are whole, and give them their names; raises `OutputError`."""
        for name, dataset in self.datasets.items():
            try:
                dataset.close()
            except (RasterioError, OSError) as error:
                raise OutputError(f"{self.path(name)}: cannot be completed ({first_line(error)}); check the free space") from error
            if reason := damage(self.path(name, "part")):
                raise OutputError(f"{self.path(name)}: {reason}; check the free space")
        for name in self.names:
            settle(self.path(name, "part"), self.path(name))
        return [self.path(name) for name in self.names]
