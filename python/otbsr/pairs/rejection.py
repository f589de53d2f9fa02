"""Rejection: which patches do not show the same ground twice, and why: no data, cloud and shadow, saturation, change, poor likeness.

Every pixel of the coarse grid gets the masks of both products and how far the harmonised target, seen by the coarse sensor, is from
the input. The residual is smoothed over 3 x 3 pixels, where misplaced edges cancel and a changed field does not, and is counted in
units of the robust residual of all bands, so that a pixel above `change` differs by more than noise and the sensors' bands explain.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from rasterio.windows import Window
from scipy import ndimage

from otbsr.grid import Grid
from otbsr.pairs.alignment import Alignment, Raster
from otbsr.pairs.alignment import Field as Displacement
from otbsr.pairs.resample import reach, seen_through
from otbsr.products.product import Product
from otbsr.progress import Report, silent

BITS = {"nodata": 1, "cloud": 2, "shadow": 4, "snow": 8, "saturation": 16, "invalid": 32}
"""In the first two bands of masks (input, target): a kind of `products.KINDS`."""
HIDDEN = BITS["cloud"] | BITS["shadow"] | BITS["snow"] | BITS["invalid"]
REASONS = ("", "no data", "cloud, shadow or snow in the input", "cloud, shadow or snow in the target", "saturation", "change", "unlike", "between the splits")
"""By number; '' is for accepted patches."""
LEAST_TEXTURE = 0.004
"""Standard deviation (reflectance) of the input in a patch below which its correlation is that of noise."""
SIDE = 256
"""Of the windows of input pixels in which images are compared and patches measured."""
Codes = NDArray[np.uint8]


class RejectionSettings(BaseModel):
    """What a patch may have before it is rejected; shares of its pixels 0..1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    masked: float = Field(0.005, ge=0, le=1, description="share under cloud, shadow or snow in either product")
    dilation: int = Field(2, ge=0, le=20, description="pixels by which clouds and shadows are widened: masks stop short of their edges")
    saturated: float = Field(0.01, ge=0, le=1, description="share of saturated pixels in either product")
    change: float = Field(5.0, gt=0, description="smoothed residual from which a pixel has changed, in robust standard deviations of the residual")
    changed: float = Field(0.01, ge=0, le=1, description="share of changed pixels")
    likeness: float = Field(0.5, ge=-1, le=1, description="least correlation between the input and the target as the input's sensor sees it")


def masks(product: Product, names: Sequence[str], grid: Grid, window: Window, own_pixels: bool, dilation: int) -> Codes:
    """`BITS` of a product on a window of `grid`: own_pixels tells that its images are on a map of the grid's CRS, so that they are asked for no-data too."""
    around = Window(window.col_off - dilation, window.row_off - dilation, window.width + 2 * dilation, window.height + 2 * dilation)
    codes: Codes = np.zeros((int(window.height), int(window.width)), np.uint8)
    for kind, bit in BITS.items():
        if kind in ("nodata", "saturation"):
            if not own_pixels:
                continue
            found = product.mask((kind,), names, window, grid)
        else:
            found = np.zeros((int(around.height), int(around.width)), bool)
            first = product.select(names)[0]
            sensor = (first.path, *first.files) if product.sensor else ()
            for layer in product.layers:
                if layer.kind == kind and (not layer.bands or set(layer.bands) & set(names)):
                    found |= layer.read(grid.cropped(around), sensor)
            if dilation and found.any() and kind in ("cloud", "shadow"):
                found = ndimage.binary_dilation(found, iterations=dilation)
            found = found[dilation : dilation + codes.shape[0], dilation : dilation + codes.shape[1]]
        codes[found] |= np.uint8(bit)
    return codes


def compare(
    lr: Path, bands: Sequence[int], target: Path, mask: Path, out: Path, alignment: Alignment, blurred: float, report: Report = silent
) -> dict[str, float]:
    """Write, on the coarse grid, int16: masks of input and target (`BITS`), change x 100, residual and values of both in DN, mean of the bands.

    bands: numbers (from 1) in `lr` of the target's. blurred: Gaussian variance (square metres) that making the target has added.
    """
    with Raster(lr, bands) as coarse, Raster(target) as fine, rasterio.open(mask) as known:
        grid, factor = coarse.grid, coarse.grid.factor_to(fine.grid)
        nowhere = Displacement(grid.bounds, (0.0,), (0.0,))
        variances = [max(sigma**2 - blurred, 0.0) for sigma in alignment.sigma]
        deviation = np.array([max(value, 1e-4) for value in alignment.rmse], np.float32)[:, None, None] * 1e4
        profile = {
            "driver": "GTiff", "width": grid.width, "height": grid.height, "count": 6, "dtype": "int16", "crs": grid.crs or None, "transform": grid.transform,
            "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "zlevel": 1, "interleave": "band",
        }  # fmt: skip
        changed = clear = done = 0
        with rasterio.open(out, "w", **profile) as file:
            file.descriptions = ("masks of the input", "masks of the target", "change x 100", "residual", "input", "target")
            for window in grid.windows(SIDE):
                left, top = int(window.col_off), int(window.row_off)
                wide = Window(left - 2, top - 2, window.width + 4, window.height + 4)
                values = coarse.read(wide)
                seen = np.stack([
                    seen_through(fine.only(band), grid.cropped(wide), nowhere, variance, reach(variance, fine.grid.dx, grid.dx))[0]
                    for band, variance in enumerate(variances)
                ])  # fmt: skip
                residual = values - seen
                gone = ~np.isfinite(residual).all(0)
                smooth = smoothed(np.where(gone[None], 0, residual), ~gone)
                change = np.sqrt(np.mean(np.square(smooth / deviation), 0))
                inside = (slice(2, 2 + int(window.height)), slice(2, 2 + int(window.width)))
                codes = known.read(window=window).astype(np.int16)
                own = fine.read(Window(left * factor, top * factor, window.width * factor, window.height * factor))
                lost = ~np.isfinite(own).all(0).reshape(int(window.height), factor, int(window.width), factor).all((1, 3))
                codes[1] |= np.where(lost, BITS["nodata"], 0).astype(np.int16)
                codes[0] |= np.where(np.isfinite(values[(slice(None), *inside)]).all(0), 0, BITS["nodata"]).astype(np.int16)
                measures = [100 * change, np.sqrt(np.mean(np.square(residual), 0)), values.mean(0), seen.mean(0)]
                numbers = [np.where(gone[inside], 0, np.clip(np.rint(np.nan_to_num(one[inside])), -32768, 32767)) for one in measures]
                file.write(np.stack([*codes, *numbers]).astype(np.int16), window=window)
                good = ~gone[inside] & (codes == 0).all(0)
                clear += int(good.sum())
                changed += int((change[inside][good] > 5).sum())
                done += int(window.width) * int(window.height)
                report("comparison", done / (grid.width * grid.height))
    return {"clear_pixels": clear, "changed_share": changed / max(clear, 1)}


def smoothed(residual: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mean of the known pixels among each 3 x 3, band by band."""
    count = ndimage.uniform_filter(known.astype(np.float32), 3, mode="constant")
    total = np.stack([ndimage.uniform_filter(plane, 3, mode="constant") for plane in residual])
    return np.asarray(total / np.maximum(count, 1e-6), np.float32)


def patch_measures(quality: Path, corners: NDArray[np.int64], patch: int, change: float, report: Report = silent) -> dict[str, NDArray[np.float32]]:
    """For patches at `corners` [n, 2] (row, column): shares nodata, input_hidden, target_hidden, saturated, changed; residual, texture, likeness: [n].

    quality: what `compare` wrote, read by blocks. Residual and texture (the input's standard deviation) are in reflectance.
    """
    names = ("nodata", "input_hidden", "target_hidden", "saturated", "changed", "square", "x", "y", "xx", "yy", "xy")
    sums = {name: np.zeros(len(corners), np.float64) for name in names}
    tiles, tile = np.unique(corners // SIDE, axis=0, return_inverse=True)
    members = np.split(np.argsort(tile.ravel(), kind="stable"), np.bincount(tile.ravel(), minlength=len(tiles)).cumsum()[:-1])
    with rasterio.open(quality) as file:
        for number, (chosen, (top, left)) in enumerate(zip(members, (tiles * SIDE).tolist(), strict=False)):
            window = Window(left, top, min(SIDE + patch, file.width - left), min(SIDE + patch, file.height - top))
            # Whole numbers, whose sums do not depend on the block.
            own, other, changes, residual, x, y = file.read(window=window).astype(np.int64)
            clear = ((own | other) & (BITS["nodata"] | HIDDEN)) == 0
            planes = {
                "nodata": (own | other) & BITS["nodata"] != 0, "input_hidden": own & HIDDEN != 0, "target_hidden": other & HIDDEN != 0,
                "saturated": (own | other) & BITS["saturation"] != 0, "changed": clear & (changes > 100 * change), "square": residual * residual,
                "x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y,
            }  # fmt: skip
            rows, columns = corners[chosen, 0] - top, corners[chosen, 1] - left
            for name, plane in planes.items():
                total = np.pad(plane.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
                inside = total[rows + patch, columns + patch] - total[rows, columns + patch] - total[rows + patch, columns] + total[rows, columns]
                sums[name][chosen] = inside / patch**2
            report("rejection", (number + 1) / len(tiles))
    texture = np.sqrt(np.maximum(sums["xx"] - sums["x"] ** 2, 0)) * 1e-4
    spread = np.sqrt(np.maximum(sums["xx"] - sums["x"] ** 2, 0) * np.maximum(sums["yy"] - sums["y"] ** 2, 0))
    likeness = np.where(spread > 0, (sums["xy"] - sums["x"] * sums["y"]) / np.maximum(spread, 1e-9), 0.0)
    found = {name: sums[name] for name in names[:5]} | {"residual": np.sqrt(sums["square"]) * 1e-4, "likeness": likeness, "texture": texture}
    return {name: value.astype(np.float32) for name, value in found.items()}


def judge(measures: dict[str, NDArray[np.float32]], settings: RejectionSettings) -> NDArray[np.int64]:
    """The first of `REASONS` that holds for each patch, by number; 0 for those accepted."""
    s = settings
    conditions = [
        measures["nodata"] > 0, measures["input_hidden"] > s.masked, measures["target_hidden"] > s.masked, measures["saturated"] > s.saturated,
        measures["changed"] > s.changed, (measures["likeness"] < s.likeness) & (measures["texture"] > LEAST_TEXTURE),
    ]  # fmt: skip
    return np.asarray(np.select(conditions, [1, 2, 3, 4, 5, 6], 0), np.int64)
