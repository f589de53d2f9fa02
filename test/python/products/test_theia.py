"""Theia/MAJA: grids of both spacings, FRE and SRE, mask bits, metadata; images named on the command line."""

from __future__ import annotations

import os
import re
from pathlib import Path

import image_files
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.windows import Window

from otbsr.errors import GridError, InputError, UsageError
from otbsr.products import open_product, stack
from otbsr.products.info import describe

DATA = Path(os.environ.get("OTBSR_SHARED_DATA", Path(__file__).parents[3] / ".." / "shared" / "data")).resolve()
THEIA = "SENTINEL2C_20250301-105107-455_L2A_T30TYP_C_V3-1"
FINE, COARSE = ("B2", "B3", "B4", "B8"), ("B5", "B6", "B7", "B8A", "B11", "B12")


def write(path: Path, pixels: np.ndarray, spacing: float, left: float = 600000, top: float = 4900020, **options: object) -> None:
    image_files.write(path, pixels, **{"crs": "EPSG:32630", "transform": image_files.at(spacing, left, top), **options})


def theia(root: Path, masks: dict[str, np.ndarray] | None = None, metadata: bool = True) -> Path:
    """A product of 12 x 12 pixels at 10 m; SRE is FRE + 100."""
    folder = root / THEIA
    for number, band in enumerate((*FINE, *COARSE)):
        side, spacing = (12, 10) if band in FINE else (6, 20)
        pixels = np.full((side, side), 1000 + 10 * number, np.int16)
        pixels[0, 0] = -10000
        write(folder / f"{THEIA}_FRE_{band}.tif", pixels, spacing)
        write(folder / f"{THEIA}_SRE_{band}.tif", np.where(pixels == -10000, pixels, pixels + 100).astype(np.int16), spacing)
    for name, pixels in ({"CLM_R1": np.zeros((12, 12), np.uint8)} | (masks or {})).items():
        write(folder / "MASKS" / f"{THEIA}_{name}.tif", pixels, 120 / pixels.shape[0])
    template = DATA / "product_metadata" / "MAJA_SENTINEL2_MUSCATE_template_MTD_ALL.xml"
    if metadata and template.is_file():
        text = re.sub(r"NOT_INITIALIZED\s+", "", template.read_text()).replace("VALUE>1462", "VALUE>10000")
        (folder / f"{THEIA}_MTD_ALL.xml").write_text(text)
    return folder


def test_real_product_has_right_grids_for_both_spacings(tmp_path: Path) -> None:
    folder = DATA / "sentinel2_theia_gers"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    product = open_product(folder)
    fine, coarse = product.grid(["B4"]), product.grid(["B5", "B12"])
    assert (fine.left, fine.top, fine.dx, fine.width, fine.height) == (742910, 4848610, 10, 1198, 1170)
    assert (coarse.left, coarse.top, coarse.dx, coarse.width, coarse.height) == (742900, 4848620, 20, 599, 585)
    with rasterio.open(next(folder.glob("*_FRE_B5.tif"))) as file:
        own = file.read(1).astype(np.float32) * np.float32(1e-4)
    # A 10 m pixel's centre lies in the 20 m pixel that counts from 10 m further west and north.
    columns, rows = (10 * np.arange(1198) + 15) // 20, (10 * np.arange(1170) + 15) // 20
    with pytest.raises(GridError, match="B4 and B5 have different grids"):
        product.read(["B4", "B5"])
    nearest = product.read(["B4", "B5"], resampling="nearest")[1]
    inside = np.ix_(rows < 585, columns < 599)
    assert np.array_equal(nearest[inside], own[np.ix_(rows[rows < 585], columns[columns < 599])])
    assert np.isnan(nearest[rows >= 585]).all() and np.isnan(nearest[:, columns >= 599]).all()
    # Bilinear by its definition, half-way between two pairs of pixels with weights 3/4 and 1/4.
    smooth = product.read(["B5"], grid=fine, resampling="bilinear")[0]
    x, y = (10 * np.arange(1198) + 15) / 20 - 0.5, (10 * np.arange(1170) + 15) / 20 - 0.5
    x0, y0 = np.floor(x).astype(int)[:1100], np.floor(y).astype(int)[:1100]
    wx, wy = (x[:1100] - x0)[None, :], (y[:1100] - y0)[:, None]
    by_hand = (own[np.ix_(y0, x0)] * (1 - wx) + own[np.ix_(y0, x0 + 1)] * wx) * (1 - wy) + (
        own[np.ix_(y0 + 1, x0)] * (1 - wx) + own[np.ix_(y0 + 1, x0 + 1)] * wx
    ) * wy
    assert np.abs(smooth[:1100, :1100] - by_hand).max() < 1e-6
    # The file for the applications holds the same, rounded.
    grid = stack(product, ["B4", "B5"], tmp_path / "s.vrt", resampling="bilinear")
    with rasterio.open(tmp_path / "s.vrt") as file:
        assert file.dtypes == ("int16", "int16") and file.transform == grid.transform == fine.transform
        pixels = file.read(2)
        assert np.abs(pixels[:1100, :1100] - 1e4 * smooth[:1100, :1100]).max() <= 0.51
        assert (pixels[np.isnan(smooth)] == -10000).all()
        assert np.array_equal(file.read(2, window=((301, 350), (77, 99))), pixels[301:350, 77:99])
    assert product.time.isoformat() == "2018-10-23T10:51:07+00:00"
    with rasterio.open(next((folder / "MASKS").glob("*_CLM_R1.tif"))) as file:
        assert np.array_equal(product.mask(["cloud"]), file.read(1) == 11)
    assert product.mask(["cloud"], grid=coarse).sum() > 0


def test_metadata_give_angles_and_both_surfaces_can_be_read(tmp_path: Path) -> None:
    folder = theia(tmp_path)
    product = open_product(folder)
    assert (product.provenance["surface"], product.provenance["satellite"]) == ("FRE", "SENTINEL2C")
    assert product.read(["B4"])[0, 5, 5] == pytest.approx(0.1020)
    assert open_product(folder, surface="sre").read(["B4"])[0, 5, 5] == pytest.approx(0.1120)
    assert np.isnan(product.read(["B4", "B5"])[:, 0, 0]).all() and np.isnan(product.read(["B5", "B4"])[0, :2, :2]).all()
    if not list(folder.glob("*_MTD_ALL.xml")):
        pytest.skip("no shared metadata for the angles")
    assert (product.angles.sun_zenith, product.angles.sun_azimuth) == pytest.approx((39.9718067, 154.744010))
    assert product.angles.view_zenith == pytest.approx(7.25, abs=0.15) and product.angles.view_azimuth == pytest.approx(105.4, abs=0.5)
    assert describe(product)["complete"]


def test_surfaces_that_are_not_there(tmp_path: Path) -> None:
    folder = theia(tmp_path)
    for file in folder.glob("*_FRE_*.tif"):
        file.unlink()
    with pytest.raises(InputError, match=r"SRE files only; expected \*_FRE_B"):
        open_product(folder)
    assert open_product(folder, surface="SRE").read(["B2"])[0, 3, 3] == pytest.approx(0.11)
    with pytest.raises(UsageError, match="surface is 'TOA'"):
        open_product(folder, surface="TOA")


def test_bits_of_the_masks(tmp_path: Path) -> None:
    """Every bit of CLM, and the bands' bits of SAT, in a pixel of its own."""
    clm, sat = np.zeros((12, 12), np.uint8), np.zeros((12, 12), np.uint8)
    clm[1, :8] = 1 << np.arange(8)
    sat[2, :4] = 1 << np.arange(4)
    coarse_sat, edge, relief = np.zeros((6, 6), np.uint8), np.zeros((12, 12), np.uint8), np.zeros((12, 12), np.uint8)
    coarse_sat[3, :6] = 1 << np.arange(6)
    edge[11, 11], relief[10, :8] = 1, 1 << np.arange(8)
    product = open_product(theia(tmp_path, {"CLM_R1": clm, "SAT_R1": sat, "SAT_R2": coarse_sat, "EDG_R1": edge, "MG2_R1": relief}))
    assert np.argwhere(product.mask(["cloud"])).tolist() == [[1, bit] for bit in (1, 2, 3, 4, 7)]
    assert np.argwhere(product.mask(["shadow"])).tolist() == [[1, 5], [1, 6]]
    assert np.argwhere(product.mask(["snow"])).tolist() == [[10, 2]]
    assert np.argwhere(product.mask(["invalid"])).tolist() == [[10, 5], [11, 11]]
    for column, band in enumerate(FINE):
        assert np.argwhere(product.mask(["saturation"], [band])).tolist() == [[2, column]]
    for column, band in enumerate(COARSE):
        assert np.argwhere(product.mask(["saturation"], [band])).tolist() == [[3, column]]
        assert product.mask(["saturation"], [band], grid=product.grid(["B2"])).sum() == 4


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    folder = theia(tmp_path, metadata=False)
    (folder / f"{THEIA}_FRE_B11.tif").unlink()
    (folder / "MASKS" / f"{THEIA}_CLM_R1.tif").unlink()
    about = describe(open_product(folder))
    assert about["missing"] == [f"{THEIA}_MTD_ALL.xml", f"{THEIA}_FRE_B11.tif", f"MASKS/{THEIA}_CLM_R1.tif"] and not about["complete"]
    file = folder / f"{THEIA}_FRE_B4.tif"
    file.write_bytes(file.read_bytes()[:-40])
    assert "is incomplete" in describe(open_product(folder))["problems"][0]


def test_unfinished_metadata_are_remarked(tmp_path: Path) -> None:
    folder = theia(tmp_path, metadata=False)
    (folder / f"{THEIA}_MTD_ALL.xml").write_text("<M><REFLECTANCE_QUANTIFICATION_VALUE>NOT_INITIALIZED</REFLECTANCE_QUANTIFICATION_VALUE></M>")
    product = open_product(folder)
    assert "10000 and -10000 are taken" in product.remarks[0] and product.bands["B4"].scale == 1e-4


def test_image_without_georeferencing_or_names(tmp_path: Path) -> None:
    path = tmp_path / "i.tif"
    with rasterio.open(path, "w", driver="GTiff", count=2, height=4, width=5, dtype="uint16", crs="EPSG:32631", transform=Affine(10, 0, 0, 0, -10, 0)) as file:
        file.write(np.arange(40, dtype=np.uint16).reshape(2, 4, 5) * 100)
    product = open_product(path, ["red", "B08"])
    assert np.allclose(product.read(["B8", "red"]), np.arange(40).reshape(2, 4, 5)[::-1] * 0.01)
    assert product.mask().sum() == 0 and describe(product)["complete"]
    assert product.renamed({"red": "B4"}).read(["B4"]).shape == (1, 4, 5)
    with pytest.raises(UsageError, match="two bands one name"):
        product.renamed({"red": "B8"})


@pytest.mark.parametrize("spacing", [10.24, 0.1, 1 / 3])
def test_windows_of_spacings_that_floats_only_nearly_hold(tmp_path: Path, spacing: float) -> None:
    path, pixels = tmp_path / "i.tif", np.arange(1, 2501, dtype=np.int16).reshape(50, 50)
    write(path, pixels, spacing, left=512345.67, top=4812345.61)
    product = open_product(path, ["B4"])
    grid = product.grid(["B4"])
    for offset in range(50):
        window = Window(offset, 49 - offset, 7, 5)
        part = np.full((5, 7), np.nan)
        rows, columns = min(5, offset + 1), min(7, 50 - offset)
        part[:rows, :columns] = pixels[49 - offset : 49 - offset + rows, offset : offset + columns] * 1e-4
        for found in (product.read(["B4"], window)[0], product.read(["B4"], grid=grid.cropped(window))[0]):
            assert np.allclose(found, part, equal_nan=True, atol=1e-7)
        fine = product.read(["B4"], grid=grid.cropped(window).refined(3))[0]
        assert np.allclose(fine, part.repeat(3, 0).repeat(3, 1), equal_nan=True, atol=1e-7)
