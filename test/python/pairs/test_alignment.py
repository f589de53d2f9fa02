"""Alignment: planted displacement, gain, bias and blur are found again, on drawn and on real texture, with noise, clouds and gaps."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy import ndimage

from otbsr.errors import GridError, InputError
from otbsr.grid import Grid
from otbsr.pairs.alignment import Alignment, AlignmentSettings, Array, Raster, estimate
from otbsr.pairs.harmonisation import robust_fit
from otbsr.pairs.resample import operators
from otbsr.world.aerial import read_reflectance
from otbsr.world.sensors import SENTINEL2, SPOT_2M5, Sampler, gaussian_sigma, observe

DATA = Path(os.environ.get("OTBSR_SHARED_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
BANDS = ("B4", "B3", "B2", "B8")
SCENE = Grid(500000.0, 4800000.0, 1.25, 1.25, 896, 896, "EPSG:32631")
COARSE = Grid(500040.0, 4799960.0, 10.0, 10.0, 104, 104, "EPSG:32631")


def drawn(seed=0):
    """Fields and specks on the scene's grid, one plane in reflectance."""
    random = np.random.default_rng(seed)
    cells = random.uniform(0.03, 0.35, (SCENE.height // 28, SCENE.width // 28)).repeat(28, 0).repeat(28, 1)
    specks = ndimage.gaussian_filter(random.standard_normal(cells.shape), 2.0)
    return (cells + 0.3 * specks).clip(0.01, 0.6).astype(np.float32)


def seen(plane, scene, grid, mtf, shift=(0.0, 0.0)):
    return Sampler(scene, grid, mtf, shift)(plane)


def relative_sigma(mtf, coarse=10.0, fine=2.5, mtf_fine=0.25):
    return math.sqrt(gaussian_sigma(coarse, mtf) ** 2 - gaussian_sigma(fine, mtf_fine) ** 2)


def look(plane, shift=(0.0, 0.0), gain=1.0, bias=0.0, mtf=0.25, noise=1.0, seed=1, scene=SCENE, coarse=COARSE, spacing=2.5):
    """(fine, coarse) images of one band as the two sensors report them."""
    random = np.random.default_rng(seed)
    fine = replace(coarse, dx=spacing, dy=spacing, width=round(coarse.width * 10 / spacing), height=round(coarse.height * 10 / spacing))
    high = observe(seen(plane, scene, fine, 0.25, shift), SPOT_2M5["B1"], random, noise, gain, bias)
    low = observe(seen(plane, scene, coarse, mtf), SENTINEL2["B4"], random, noise)
    return Array(high[None], fine), Array(low[None], coarse)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.3, -0.3), (-4.7, 2.2), (15.0, -15.0)])
def test_planted_parameters_are_found(shift):
    found = estimate(*look(drawn(), shift, 1.25, 0.03, mtf=0.3))
    np.testing.assert_allclose(found.shift, shift, atol=0.1)
    assert found.gain[0] == pytest.approx(1 / 1.25, rel=0.01)
    assert found.bias[0] == pytest.approx(-0.03 / 1.25, abs=0.001)
    assert found.sigma[0] == pytest.approx(relative_sigma(0.3), rel=0.03)
    assert found.mtf()[0] == pytest.approx(0.3 / fine_mtf_at(0.05), rel=0.02)
    assert found.score > 0.98
    assert found.r2[0] > 0.98


def fine_mtf_at(frequency):
    """MTF of the 2.5 m image at a frequency in cycles a metre."""
    return math.exp(-2 * (math.pi * frequency * gaussian_sigma(2.5, 0.25)) ** 2) * np.sinc(2.5 * frequency)


def test_real_texture():
    """Four bands of an aerial image, each with its own MTF."""
    if not (DATA / "naip_1m").is_dir():
        pytest.skip(f"{DATA / 'naip_1m'} is not there")
    planes, grid = read_reflectance([DATA / "naip_1m" / f"NAIP-VA-b{i}.tiff" for i in (1, 2, 3, 4)], (1.2e-3, 1.2e-3, 1.2e-3, 1.8e-3))
    scene = Grid(0.0, grid.height, 1.0, 1.0, grid.width, grid.height, "EPSG:32631")
    coarse = Grid(40.0, scene.top - 40, 10.0, 10.0, (scene.width - 80) // 10, (scene.height - 80) // 10, scene.crs)
    fine, random = coarse.refined(4), np.random.default_rng(3)
    shift = (3.3, -7.1)
    high = np.stack([observe(seen(plane, scene, fine, 0.25, shift), SPOT_2M5["B1"], random, 1, 1.1, 0.02) for plane in planes])
    low = np.stack([observe(seen(plane, scene, coarse, SENTINEL2[name].mtf), SENTINEL2[name], random) for name, plane in zip(BANDS, planes, strict=True)])
    found = estimate(Array(high, fine, BANDS), Array(low, coarse, BANDS))
    np.testing.assert_allclose(found.shift, shift, atol=0.1)
    np.testing.assert_allclose(found.gain, 1 / 1.1, rtol=0.01)
    np.testing.assert_allclose(found.sigma, [relative_sigma(SENTINEL2[name].mtf) for name in BANDS], rtol=0.03)
    assert found.bands == BANDS
    assert Alignment.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.05, -0.4), (7.5, 15.0)])
def test_equal_grids(shift):
    """Within 0.02 pixel, and the blur of one relative to the other, by definition: variances add."""
    grid = COARSE.refined(4)
    random = np.random.default_rng(5)
    plane = drawn(4)
    mtf = 0.03
    first = observe(seen(plane, SCENE, grid, 0.25, shift), SPOT_2M5["B1"], random)
    second = observe(seen(plane, SCENE, grid, mtf), SPOT_2M5["B1"], random)
    found = estimate(Array(first[None], grid), Array(second[None], grid))
    np.testing.assert_allclose(found.shift, shift, atol=0.02 * 2.5)
    assert found.sigma[0] == pytest.approx(relative_sigma(mtf, 2.5, 2.5), rel=0.03)
    assert found.gain[0] == pytest.approx(1, rel=0.01)


def test_grids_that_do_not_nest():
    """A 1.5 m image against 10 m: the blur is the one between the two sensors."""
    found = estimate(*look(drawn(2), (2.0, 6.0), spacing=1.5625))
    np.testing.assert_allclose(found.shift, (2.0, 6.0), atol=0.1)
    assert found.sigma[0] == pytest.approx(relative_sigma(0.25, fine=1.5625), rel=0.03)


def test_clouds_changes_and_gaps_do_not_turn_the_estimate():
    """A quarter of the coarse image under unmasked cloud, parcels changed, a gap in each image."""
    plane = drawn(3)
    fine, coarse = look(plane, (5.0, 1.0), 1.1, 0.01)
    high, low = fine.read(window(fine.grid)), coarse.read(window(coarse.grid))
    low[:, :52, :52] = 0.6 + 0.05 * ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((52, 52)), 4)
    low[:, 70:85, 60:90] += 0.12
    low[:, 30:34, :] = np.nan
    high[:, :, 100:140] = np.nan
    found = estimate(Array(high, fine.grid), Array(low, coarse.grid), AlignmentSettings(window=24))
    np.testing.assert_allclose(found.shift, (5.0, 1.0), atol=0.15)
    assert found.gain[0] == pytest.approx(1 / 1.1, rel=0.01)
    assert sum(found.rejected.values()) >= 3
    assert found.used + sum(found.rejected.values()) == 16


def window(grid):
    return rasterio.windows.Window(0, 0, grid.width, grid.height)


def test_a_field_of_displacement():
    """Stretched by 0.4 % eastward: the field gives the displacement of every place, and it is flat where there is none."""
    plane = drawn(6)
    columns = np.arange(SCENE.width)
    middle = (SCENE.width - 1) / 2
    # Content at column c is moved to c + 0.004 (c - middle).
    moved = ndimage.map_coordinates(plane, np.meshgrid(np.arange(SCENE.height), middle + (columns - middle) / 1.004, indexing="ij"), order=3, mode="nearest")
    fine, coarse = look(plane)[1].grid.refined(4), look(plane)[1]
    high = seen(moved.astype(np.float32), SCENE, fine, 0.25, (1.0, 2.0))
    found = estimate(Array(high[None], fine), coarse, AlignmentSettings(window=16))
    assert len(found.field.east) > 1
    x0 = (SCENE.left + SCENE.right) / 2
    for x in (COARSE.left + 100, x0, COARSE.right - 100):
        east, north = found.field.at(x, COARSE.top - 500)
        assert east == pytest.approx(1.0 + 0.004 * (x - x0), abs=0.2)
        assert north == pytest.approx(2.0, abs=0.2)
    flat = estimate(*look(plane, (1.0, 2.0)), AlignmentSettings(window=16))
    np.testing.assert_allclose(flat.field.at(COARSE.left, COARSE.top), (1.0, 2.0), atol=0.2)


def test_refusals():
    random = np.random.default_rng(0)
    fine, coarse = look(drawn())
    flat = [Array(0.2 + 0.002 * random.standard_normal((1, grid.height, grid.width)).astype(np.float32), grid) for grid in (fine.grid, coarse.grid)]
    with pytest.raises(InputError, match=r"too little texture.*choose an area with fields"):
        estimate(*flat)
    with pytest.raises(InputError, match=r"too little texture|do not show the same ground"):
        estimate(fine, look(drawn(9))[1])
    empty = Array(np.full((1, coarse.grid.height, coarse.grid.width), np.nan), coarse.grid)
    with pytest.raises(InputError, match="no window with data in both"):
        estimate(fine, empty)
    with pytest.raises(InputError, match="fine image has 1 bands, the coarse one 2"):
        estimate(fine, Array(np.zeros((2, coarse.grid.height, coarse.grid.width)), coarse.grid))
    away = replace(coarse.grid, left=coarse.grid.left + 1e5)
    with pytest.raises(GridError, match="do not overlap"):
        estimate(fine, Array(coarse.read(window(coarse.grid)), away))
    with pytest.raises(GridError, match="different coordinate reference systems"):
        estimate(fine, Array(coarse.read(window(coarse.grid)), replace(coarse.grid, crs="EPSG:32630")))
    with pytest.raises(GridError, match="exchange them"):
        estimate(coarse, fine)
    with pytest.raises(InputError, match="12 x 12 coarse pixels, expected at least 16"):
        small = replace(coarse.grid, width=12, height=12)
        estimate(fine, Array(coarse.read(window(small)), small))


def test_files_give_what_arrays_give(tmp_path):
    """int16 files with no-data and a mask, read by windows that reach beyond the image."""
    fine, coarse = look(drawn(1), (3.0, -2.0))
    rasters = []
    for name, image in (("fine", fine), ("coarse", coarse)):
        values = np.rint(image.read(window(image.grid)) * 1e4).astype(np.int16)
        values[:, :40, :40] = -10000
        grid = image.grid
        with rasterio.open(
            tmp_path / f"{name}.tif",
            "w",
            driver="GTiff",
            width=grid.width,
            height=grid.height,
            count=1,
            dtype="int16",
            crs=grid.crs,
            transform=grid.transform,
            nodata=-10000,
        ) as file:
            file.write(values)
        masked = np.zeros(values.shape[1:], np.uint8)
        masked[-30:] = 1
        with rasterio.open(
            tmp_path / f"{name}_mask.tif",
            "w",
            driver="GTiff",
            width=grid.width,
            height=grid.height,
            count=1,
            dtype="uint8",
            crs=grid.crs,
            transform=grid.transform,
        ) as file:
            file.write(masked, 1)
        rasters.append(Raster(tmp_path / f"{name}.tif", scale=1e-4, mask=tmp_path / f"{name}_mask.tif"))
        expected = np.where((values == -10000) | (masked == 1), np.nan, values * 1e-4)
        got = rasters[-1].read(rasterio.windows.Window(-5, -3, grid.width + 9, grid.height + 9))
        np.testing.assert_allclose(got[:, 3:-6, 5:-4], expected, atol=1e-7)
        assert np.isnan(got[:, :3]).all()
        assert np.isnan(got[:, :, -4:]).all()
    found = estimate(*rasters)
    np.testing.assert_allclose(found.shift, (3.0, -2.0), atol=0.1)
    for raster in rasters:
        raster.close()


def test_robust_fit_by_hand():
    """A line with a quarter of outliers on one side; an exact line; weights that leave values out."""
    random = np.random.default_rng(0)
    x = random.uniform(0, 1, 2000)
    y = 2.0 * x - 0.5 + 0.01 * random.standard_normal(x.size)
    y[:500] += random.uniform(0.2, 1.0, 500)
    design = np.stack([x, np.ones_like(x)], -1)
    fit = robust_fit(design, y)
    np.testing.assert_allclose(fit.coefficients, (2.0, -0.5), atol=0.005)
    assert (fit.weights[:500] == 0).all()
    exact = robust_fit(design, 3.0 * x + 1.0)
    np.testing.assert_allclose(exact.coefficients, (3.0, 1.0), atol=1e-9)
    chosen = robust_fit(design, np.where(np.arange(x.size) % 2 == 0, x, -x), (np.arange(x.size) % 2 == 0).astype(float))
    np.testing.assert_allclose(chosen.coefficients, (1.0, 0.0), atol=1e-9)


@pytest.mark.parametrize(("source", "wanted", "variance"), [(2.5, 10.0, 20.0), (1.5, 2.5, 0.9), (1.5, 10.0, 25.0), (2.5, 2.5, 0.0)])
def test_operators_follow_their_frequency_response(source, wanted, variance):
    """A cosine comes out with the amplitude exp(-2 pi2 v f2) sinc(wanted f) / sinc(source f), where it should be; rows sum to 1 and 0."""
    grid = np.arange(400) * source
    out = 60 * source + np.arange(60) * wanted * 0.37 + 0.123
    out = out[out < grid[-1] - 60 * source]
    for cycles in (0.0, 0.05, 0.2):
        f = cycles / source
        kernel, by_centre, by_variance = operators(grid, out, variance, source, wanted, derivatives=True)
        gain = math.exp(-2 * (math.pi * f) ** 2 * variance) * np.sinc(wanted * f) / np.sinc(source * f)
        wave = np.cos(2 * math.pi * f * grid)
        np.testing.assert_allclose(kernel @ wave, gain * np.cos(2 * math.pi * f * out), atol=3e-3)
        np.testing.assert_allclose(by_centre @ wave, -2 * math.pi * f * gain * np.sin(2 * math.pi * f * out), atol=3e-3)
        np.testing.assert_allclose(by_variance @ wave, -2 * (math.pi * f) ** 2 * gain * np.cos(2 * math.pi * f * out), atol=2e-2 / source**2)
