"""Draw a crop of a simulated world for the README: Sentinel-2, the 2.5 m reference, the land cover.

Usage: python tools/draw_world.py WORLD OUT.png [COLUMN ROW SIZE] (pixels of the 10 m grid)
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import rasterio
from rasterio.windows import Window


def natural(path: Path, window: Window) -> np.ndarray:
    """Bands B4, B3, B2 stretched for the eye, (h, w, 3) in 0..1."""
    with rasterio.open(path) as file:
        image = np.moveaxis(file.read([1, 2, 3], window=window).astype(float), 0, -1)
    return np.clip(image / (2300, 2000, 1700), 0, 1) ** 0.7


def main() -> None:
    """Draw three panels side by side."""
    world, out = Path(sys.argv[1]), Path(sys.argv[2])
    column, row, size = (int(text) for text in sys.argv[3:6]) if len(sys.argv) > 5 else (120, 95, 64)
    coarse, fine = Window(column, row, size, size), Window(4 * column, 4 * row, 4 * size, 4 * size)
    with rasterio.open(world / "landcover_2m5.tif") as file:
        codes, colours = file.read(1, window=fine), file.colormap(1)
    palette = np.array([colours[code][:3] for code in range(256)], np.uint8)
    panels = [
        ("Sentinel-2, 10 m (simulated)", natural(world / "sentinel2_10m.tif", coarse)),
        ("reference, 2.5 m", natural(world / "reference_2m5.tif", fine)),
        ("land cover, 2.5 m", palette[codes]),
    ]
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.25))
    for axis, (title, picture) in zip(axes, panels, strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title, fontsize=11)
        axis.axis("off")
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.005, top=0.93, wspace=0.02)
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    main()
