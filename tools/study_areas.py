"""The areas of doc/study.md: simulated landscapes with a second date (Study A), and real 1 m images with land cover (Study B).

python tools/study_areas.py simulated areas/a --count 20
python tools/study_areas.py chesapeake areas/b --data ../shared/data/chesapeake_1m
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.features import shapes
from scipy import ndimage

from otbsr.grid import Grid
from otbsr.world.sensors import REFERENCE_MTF, SENTINEL2, SPOT_2M5, Sampler, observe
from otbsr.world.simulate import BANDS, HARMONISED, WorldSettings, simulate, write_image, write_raster

FIRST_SEED = 9101
"""No model was trained or stopped early on landscapes of 9001 and above (doc/decisions.md)."""
SCALE = np.array([1.2e-3, 1.2e-3, 1.2e-3, 1.8e-3], np.float32)
"""Reflectance of a count of 8 bits, as in `otbsr aerial`."""
CRS = "EPSG:32617"
CLASSES = {
    1: ("water", "#4292c6", False),
    2: ("tree", "#33a02c", False),
    3: ("low vegetation", "#a6d96a", False),
    4: ("barren", "#d9b382", False),
    5: ("impervious, other", "#969696", True),
    6: ("road", "#525252", True),
    7: ("building", "#d7301f", True),
}
LEAST_SHARE = 0.01
"""Classes with less of the ground are not judged: leaving a patch out, the rest has nothing to learn them from."""
MARGIN = 8
"""Metres at each side of a patch that only the sensor's blur sees: 240 of 256 m remain, 24 x 24 pixels of 10 m."""


def simulated(out: Path, count: int, extent: int) -> None:
    """Landscapes from open country to town, spring to autumn, each with Sentinel-2's image 70 days earlier or later as its other date."""
    for index in range(count):
        seed = FIRST_SEED + index
        random = np.random.default_rng([seed, 77])
        day = int(random.integers(110, 270))
        shift = tuple(float(v) for v in random.uniform(-0.8, 0.8, 2).round(2))
        settings = WorldSettings(
            seed=seed, extent=extent, urban=round(float(random.uniform(0.15, 0.75)), 2), gradient=float(random.choice([0.2, 0.6, 0.9])), day=day, shift=shift
        )
        area, other = out / f"a{seed}", out / f".other-{seed}"
        simulate(area, settings)
        if not (area / "sentinel2_other_10m.tif").is_file():
            simulate(other, settings.model_copy(update={"day": day + 70 if day < 190 else day - 70}), overwrite=True)
            os.replace(other / "sentinel2_10m.tif", area / "sentinel2_other_10m.tif")
            shutil.rmtree(other)
        print(area, flush=True)


def majority(labels: NDArray[np.uint8], step: int, classes: int) -> NDArray[np.uint8]:
    """The class with most pixels in each square of `step`; of equals the lowest code; 0 does not count."""
    rows, columns = (size // step for size in labels.shape)
    squares = labels.reshape(rows, step, columns, step).transpose(0, 2, 1, 3).reshape(rows, columns, -1)
    counts = np.stack([(squares == code).sum(axis=2) for code in range(1, classes + 1)])
    return np.where(counts.max(axis=0) > 0, counts.argmax(axis=0) + 1, 0).astype(np.uint8)


def training(labels: NDArray[np.uint8], scene: Grid, frame: shapely.Geometry) -> gpd.GeoDataFrame:
    """Polygons of the 1 m labels, each class drawn in by a pixel."""
    inside = np.zeros_like(labels)
    for code in np.unique(labels[labels > 0]):
        inside[ndimage.binary_erosion(labels == code, np.ones((3, 3)))] = code
    found = [(shapely.geometry.shape(outline).intersection(frame), int(code)) for outline, code in shapes(inside, inside > 0, transform=scene.transform)]
    kept = [(outline, code) for outline, code in found if outline.area >= 4]
    return gpd.GeoDataFrame({"class": [code for _, code in kept]}, geometry=[outline for outline, _ in kept], crs=CRS)


def chesapeake(out: Path, data: Path) -> None:
    """One area a patch of 256 m; the places are made up, since the patches have no georeferencing: a kilometre apart."""
    patches = sorted(data.glob("*.npz"))
    raw = [np.load(path)["arr_0"][0] for path in patches]
    truth = []
    for patch in raw:
        labels = np.rint(patch[8]).astype(int)
        labels = np.where((labels >= 1) & (labels <= 6), labels, 0)
        truth.append(np.where((patch[28] > 0) & (labels == 5), 7, labels).astype(np.uint8))
    shares = np.bincount(np.concatenate([labels.ravel() for labels in truth]), minlength=8) / sum(labels.size for labels in truth)
    used = [code for code in CLASSES if shares[code] >= LEAST_SHARE]
    recode = np.zeros(8, np.uint8)
    recode[used] = np.arange(1, len(used) + 1)
    for index, (path, patch, labels) in enumerate(zip(patches, raw, truth, strict=True)):
        folder = out / f"b{index}"
        folder.mkdir(parents=True, exist_ok=True)
        size = patch.shape[1]
        scene = Grid(500000.0 + 1000.0 * index, 4100000.0, 1.0, 1.0, size, size, rasterio.CRS.from_string(CRS).to_wkt())
        coarse = Grid(scene.left + MARGIN, scene.top - MARGIN, 10.0, 10.0, (size - 2 * MARGIN) // 10, (size - 2 * MARGIN) // 10, scene.crs)
        fine = coarse.refined(4)
        counts = patch[:4] if patch[:4].max() > 2 else patch[:4] * 255
        ground = counts.astype(np.float32) * SCALE[:, None, None]
        random = np.random.default_rng([index, 12])
        seen = [observe(Sampler(scene, coarse, SENTINEL2[b].mtf)(plane), SENTINEL2[b], random) for b, plane in zip(BANDS, ground, strict=True)]
        write_in_place(folder / "sentinel2_10m.tif", seen, coarse)
        sharp = [SPOT_2M5[HARMONISED[b]] for b in BANDS]
        spot = [observe(Sampler(scene, fine, band.mtf)(plane), band, random) for band, plane in zip(sharp, ground, strict=True)]
        write_in_place(folder / "spot_2m5.tif", spot, fine)
        write_in_place(folder / "reference_2m5.tif", [Sampler(scene, fine, REFERENCE_MTF)(plane) for plane in ground], fine)
        codes = recode[labels]
        half = codes.repeat(2, 0).repeat(2, 1)[2 * MARGIN : 2 * (MARGIN + 10 * coarse.height), 2 * MARGIN : 2 * (MARGIN + 10 * coarse.width)]
        write_raster(folder / "landcover_2m5.tif", [majority(half, 5, len(used))], fine, ["land cover"], nodata=0, crs=CRS)
        training(codes, scene, shapely.box(*fine.bounds)).to_file(folder / "polygons.gpkg", layer="polygons", driver="GPKG")
        legend = [{"code": i, "name": CLASSES[c][0], "colour": CLASSES[c][1], "artificial": CLASSES[c][2]} for i, c in enumerate(used, 1)]
        write_json(folder / "legend.json", {"classes": legend})
        source = f"NAIP 2014 and land cover of 1 m, West Virginia ({path.stem}), seen by the simulated sensor; its place on the map is made up"
        write_json(folder / "world.json", {"source": source, "settings": {"patch": path.name, "scale": SCALE.tolist(), "noise": 1.0}})
        print(folder, flush=True)


def write_in_place(path: Path, planes: list[NDArray[np.float32]], grid: Grid) -> None:
    """As the simulator writes, with this area's CRS."""
    write_image(path, planes, grid, BANDS)
    with rasterio.open(path, "r+") as dataset:
        dataset.crs = CRS


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("simulated", "chesapeake"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--extent", type=int, default=1500)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/chesapeake_1m"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.kind == "simulated":
        simulated(given.out, given.count, given.extent)
    else:
        chesapeake(given.out, given.data)


if __name__ == "__main__":
    main()
