"""Draw the README's picture: a crop of a Sentinel-2 product before and after super-resolution, true and false colour.

Usage: python tools/draw_crop.py PRODUCT SR.tif OUT.png COLUMN ROW SIZE   (input pixels)
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import rasterio
from rasterio.windows import Window

from otbsr.products import open_product

FACTOR = 4
COMPOSITES = {"B4 B3 B2": (0, 1, 2), "B8 B4 B3": (3, 0, 1)}


def main() -> None:
    """Read the windows of both images, stretch them alike, and draw."""
    source, sr, out, *numbers = sys.argv[1:]
    column, row, size = map(int, numbers)
    product = open_product(Path(source))
    before = []
    for band in product.select(["B4", "B3", "B2", "B8"]):
        with rasterio.open(band.path) as dataset:
            before.append(dataset.read(1, window=Window(column, row, size, size)))
    with rasterio.open(sr) as dataset:
        after = dataset.read(window=Window(column * FACTOR, row * FACTOR, size * FACTOR, size * FACTOR))
    images = {"Sentinel-2, 10 m": np.stack(before).astype(float), "after, 2.5 m": after.astype(float)}
    low, high = np.percentile(images["Sentinel-2, 10 m"], (1, 99), axis=(1, 2))
    figure, axes = plt.subplots(2, 2, figsize=(9, 9.3), layout="constrained")
    for line, (name, bands) in zip(axes, COMPOSITES.items(), strict=True):
        for axis, (title, image) in zip(line, images.items(), strict=True):
            picked = list(bands)
            stretched = (image[picked] - low[picked, None, None]) / (high - low)[picked, None, None]
            axis.imshow(np.clip(stretched, 0, 1).transpose(1, 2, 0) ** 0.8, interpolation="nearest")
            axis.set_title(f"{title} ({name})", fontsize=10)
            axis.axis("off")
    figure.savefig(out, dpi=80, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
