"""PatchesExtraction, run as users run it: footprints, layout, rejections, order, messages."""

from __future__ import annotations

import re
import subprocess
import sys

import geopandas
import numpy as np
import pytest
import rasterio
from application import CRS, LEFT, TOP, extraction, needs, otb, pair_scene, points, read, write
from rasterio.transform import Affine
from shapely.geometry import box

from otbsr.serving.otb import command_line, otb_environment

pytestmark = needs("PatchesExtraction")


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("spacing", "factor", "left"), [(10.0, 4, LEFT), (10.0, 3, 300000.1), (6.0, 4, 123456.7), (10 / 6, 2, LEFT)])
def test_a_pair_has_one_footprint_wherever_the_point_is_in_the_pixel(tmp_path, spacing, factor, left, swapped):
    coarse, fine, _ = pair_scene(tmp_path, spacing, factor, left=left)
    # All over the pixels, on their edges and corners, and just beside these.
    parts = np.concatenate([np.linspace(0, 1, 9), [1e-7, 1 - 1e-7, 1e-3, 1 - 1e-3]])
    where = [(left + (12 + u) * spacing, TOP - (11 + v) * spacing) for u in parts for v in parts]
    vec = points(tmp_path / "points.gpkg", where)
    parameters = extraction(tmp_path, coarse, fine, vec, factor=factor)
    if swapped:
        parameters = {re.sub("source[12]", lambda m: {"source1": "source2", "source2": "source1"}[m[0]], key): v for key, v in parameters.items()}
    status, log = otb("PatchesExtraction", parameters, sources=2)
    assert status == 0, log
    assert re.search(rf"accepted {len(where)}, rejected 0\b", log)
    lr, hr = read(tmp_path / "lr.tif", 6), read(tmp_path / "hr.tif", 6 * factor)
    assert len(lr) == len(hr) == len(where)
    means = hr.reshape(-1, 6, factor, 6, factor, 2).mean((2, 4), dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(means, lr)


def test_the_patch_is_otbtfs(tmp_path):
    """§8: centre pixel c: the patch is [c - n/2, c - n/2 + n - 1], for odd and even n; a point on an edge belongs to the pixel after it."""
    coarse, _, pixels = pair_scene(tmp_path)
    vec = points(tmp_path / "points.gpkg", [(LEFT + 105, TOP - 85), (LEFT + 110, TOP - 90)])
    for n, first in ((5, 2), (6, 3)):
        out = tmp_path / f"{n}.tif"
        keys = {"source1.il": [coarse], "source1.patchsizex": n, "source1.patchsizey": n, "source1.out": [out, "float"], "vec": vec, "field": "id"}
        status, log = otb("PatchesExtraction", keys)
        assert status == 0, log
        for patch, (column, row) in zip(read(out, n), [(10, 8), (11, 9)], strict=True):
            np.testing.assert_array_equal(patch, pixels[row - first : row - first + n, column - first : column - first + n])


def test_layout_order_labels_and_pixel_types(tmp_path):
    """§8: one patch below the other, signed spacing, origin 0 at the first pixel's centre, no projection; bands stacked; labels 1 x n."""
    random = np.random.default_rng(3)
    first = random.integers(-32768, 32767, (20, 20, 2)).astype(np.int16)
    second = random.integers(-32768, 32767, (20, 20, 1)).astype(np.int16)
    images = [write(tmp_path / "a.tif", first, 10.0), write(tmp_path / "b.tif", second, 10.0)]
    cells = [(12, 5), (4, 15), (8, 8), (1, 8), (6, 6)]  # the fourth leaves the image
    labels = [7, 250, 3, 9, 0]
    vec = points(tmp_path / "points.gpkg", [(LEFT + 10 * c + 3, TOP - 10 * r - 4) for c, r in cells], label=labels)
    keys = {"source1.il": images, "source1.patchsizex": 4, "source1.patchsizey": 6, "source1.out": [tmp_path / "p.tif", "int16"]}
    status, log = otb("PatchesExtraction", {**keys, "vec": vec, "field": "label", "outlabels": tmp_path / "l.tif"})
    assert status == 0, log
    assert re.search(r"accepted 4, rejected 1 \(outside source 1: 1\)", log)
    stack = np.concatenate([first, second], axis=-1)
    kept = [cell for cell in cells if cell != (1, 8)]
    with rasterio.open(tmp_path / "p.tif") as image:
        assert (image.width, image.height, image.count, image.dtypes[0]) == (4, 24, 3, "int16")
        assert (image.transform, image.crs) == (Affine(10, 0, -5, 0, -10, 5), None)
        assert image.interleaving is not None and image.interleaving.value == "BAND"  # read back faster
        pixels = image.read().transpose(1, 2, 0)
    expected = np.concatenate([stack[r - 3 : r + 3, c - 2 : c + 2] for c, r in kept])
    np.testing.assert_array_equal(pixels, expected)
    with rasterio.open(tmp_path / "l.tif") as image:
        assert image.dtypes[0] == "uint8"
        np.testing.assert_array_equal(image.read(1), [[7], [250], [3], [0]])


def test_no_data_may_be_nan_and_systems_must_agree(tmp_path):
    coarse, fine, _ = pair_scene(tmp_path)
    with rasterio.open(coarse, "r+") as image:
        pixels = image.read()
        pixels[0, 5, 5] = np.nan
        image.write(pixels)
    vec = points(tmp_path / "points.gpkg", [(LEFT + 10 * c + 5, TOP - 10 * r - 5) for c, r in [(6, 6), (14, 14)]])
    status, log = otb("PatchesExtraction", {**extraction(tmp_path, coarse, fine, vec), "source1.nodata": "nan"}, sources=2)
    assert status == 0 and re.search(r"accepted 1, rejected 1 \(.*no-data.*: 1\)", log), log
    with rasterio.open(fine, "r+") as image:
        image.crs = "EPSG:32630"  # the same coordinates, 6 degrees to the west
    status, log = otb("PatchesExtraction", extraction(tmp_path, coarse, fine, vec), sources=2)
    assert status == 1 and "source 1 and source 2: the coordinate reference systems differ: WGS 84 / UTM zone 31N and WGS 84 / UTM zone 30N" in log, log


def test_no_data_in_any_band_of_any_source_rejects_the_pair(tmp_path):
    """§8: unlike PatchesSelection, for which all bands must be no-data."""
    coarse, fine, pixels_of_coarse = pair_scene(tmp_path)
    with rasterio.open(fine, "r+") as image:
        pixels = image.read()
        pixels[1, 40, 40] = -9999  # coarse pixel (10, 10), second band only
        image.write(pixels)
    cells = [(7, 7), (8, 8), (10, 10), (13, 13), (14, 14)]  # of 6 x 6 patches [c - 3, c + 2], the middle three hold it
    vec = points(tmp_path / "points.gpkg", [(LEFT + 10 * c + 5, TOP - 10 * r - 5) for c, r in cells])
    status, log = otb("PatchesExtraction", {**extraction(tmp_path, coarse, fine, vec), "source2.nodata": -9999}, sources=2)
    assert status == 0, log
    assert "accepted 2, rejected 3 (no-data: 3)" in log
    lr, hr = read(tmp_path / "lr.tif", 6), read(tmp_path / "hr.tif", 24)
    np.testing.assert_array_equal(lr, np.stack([pixels_of_coarse[r - 3 : r + 3, c - 3 : c + 3] for c, r in ((7, 7), (14, 14))]))
    assert len(hr) == 2


def test_grids_that_do_not_nest_are_rejected_and_nothing_is_written(tmp_path):
    coarse, fine, _ = pair_scene(tmp_path)
    with rasterio.open(fine, "r+") as image:
        image.transform = Affine(2.5, 0, LEFT + 1.0, 0, -2.5, TOP)
    vec = points(tmp_path / "points.gpkg", [(LEFT + 100, TOP - 100), (LEFT + 120, TOP - 100)])
    status, log = otb("PatchesExtraction", extraction(tmp_path, coarse, fine, vec), sources=2)
    assert status != 0
    assert re.search(r"No patch to sample.*no equal footprint in source 2: 2", log)
    assert not (tmp_path / "lr.tif").exists() and not (tmp_path / "hr.tif").exists()


@pytest.mark.parametrize("value", ["two", "2x", "0", "-1", "", "1.5", "999999999999999999999"])
def test_a_bad_number_of_sources_is_one_clear_error(tmp_path, value):
    """§1, §14: upstream aborts, or reads 1 or the leading digits."""
    coarse, fine, _ = pair_scene(tmp_path)
    vec = points(tmp_path / "points.gpkg", [(LEFT + 100, TOP - 100)])
    parameters = {key: v for key, v in extraction(tmp_path, coarse, fine, vec).items() if not key.startswith("source2")}
    status, log = otb("PatchesExtraction", parameters, sources=value)
    assert status == 1
    assert log.count("OTB_TF_NSOURCES") == 1 and f"'{value}'" in log
    assert not (tmp_path / "lr.tif").exists()


def test_bad_input_is_one_clear_error(tmp_path):
    """§8: no field, no point, nothing accepted, a label beyond 32 bits; §1: images of one source."""
    coarse, fine, _ = pair_scene(tmp_path)
    inside = [(LEFT + 100, TOP - 100)]
    small = write(tmp_path / "small.tif", np.ones((5, 5, 1), np.float32), 10.0)
    elsewhere = write(tmp_path / "elsewhere.tif", np.ones((24, 24, 1), np.float32), 10.0, left=LEFT + 3.0)
    good = extraction(tmp_path, coarse, fine, points(tmp_path / "points.gpkg", inside))
    polygons = tmp_path / "polygons.gpkg"
    geopandas.GeoDataFrame({"id": [1]}, geometry=[box(LEFT, TOP - 50, LEFT + 50, TOP)], crs=CRS).to_file(polygons)
    far = points(tmp_path / "far.gpkg", [(3.0, 43.0)])
    cases = [
        ({"field": "absent"}, "no field 'absent'"),
        ({"vec": polygons}, "is not a point"),
        ({"vec": far}, "No patch to sample"),
        ({"vec": points(tmp_path / "null.gpkg", inside, id=[None])}, "no value in the field: 1"),
        ({"vec": tmp_path / "missing.gpkg"}, "missing.gpkg"),
        ({"source1.il": [coarse, small]}, "5 x 5"),
        ({"source1.il": [coarse, elsewhere]}, "grids differ"),
        ({"vec": points(tmp_path / "big.gpkg", inside, id=[2**40])}, "32 bits"),
    ]
    for change, message in cases:
        status, log = otb("PatchesExtraction", {**good, **change}, sources=2)
        assert status != 0 and message in log, log


@pytest.mark.parametrize("value", [0, -4])
def test_patch_sizes_that_are_none(tmp_path, value):
    """OTB itself would take 1, without a word."""
    coarse, fine, _ = pair_scene(tmp_path)
    vec = points(tmp_path / "points.gpkg", [(LEFT + 100, TOP - 100)])
    for key in ("source1.patchsizex", "source2.patchsizey"):
        status, log = otb("PatchesExtraction", {**extraction(tmp_path, coarse, fine, vec), key: value}, sources=2)
        assert status == 1 and f"{key} is {value}, expected an integer of 1 or more" in log, log


def test_a_file_is_not_written_twice_nor_over_an_input(tmp_path):
    """Upstream: the last one stays, or the image is destroyed while it is read."""
    coarse, fine, _ = pair_scene(tmp_path)
    vec = points(tmp_path / "points.gpkg", [(LEFT + 100, TOP - 100)])
    good = {**extraction(tmp_path, coarse, fine, vec), "outlabels": tmp_path / "labels.tif"}
    before = fine.read_bytes()
    for change, message in (
        ({"source2.out": tmp_path / "lr.tif"}, "source1.out and source2.out are one file"),
        ({"outlabels": f"{tmp_path}/./hr.tif?&gdal:co:COMPRESS=LZW"}, "source2.out and outlabels are one file"),
        ({"source1.out": fine}, "source1.out and source2.il are one file"),
        ({"source1.out": tmp_path / "fine"}, "source1.out and source2.il are one file"),  # OTB adds .tif
    ):
        status, log = otb("PatchesExtraction", {**good, **change}, sources=2)
        assert status == 1 and message in log, log
    assert fine.read_bytes() == before and not list(tmp_path.glob("?r.tif"))


def test_names_without_an_ending(tmp_path):
    """OTB adds ".tif"."""
    coarse, fine, pixels = pair_scene(tmp_path)
    vec = points(tmp_path / "points.gpkg", [(LEFT + 105, TOP - 85)])
    folder = tmp_path / "out"
    folder.mkdir()
    keys = {**extraction(tmp_path, coarse, fine, vec), "source1.out": folder / "lr", "source2.out": folder / "hr", "outlabels": folder / "labels"}
    status, log = otb("PatchesExtraction", keys, sources=2)
    assert status == 0, log
    assert sorted(path.name for path in folder.iterdir()) == ["hr.tif", "labels.tif", "lr.tif"]
    np.testing.assert_array_equal(read(folder / "lr.tif", 6)[0], pixels[5:11, 7:13])


def test_labels_are_truncated_and_features_without_one_are_counted(tmp_path):
    """§8: reals are truncated, texts read up to what is no number."""
    coarse, _, _ = pair_scene(tmp_path)
    where = [(LEFT + 100 + 10 * k, TOP - 100) for k in range(4)]
    keys = {"source1.il": [coarse], "source1.patchsizex": 4, "source1.patchsizey": 4, "source1.out": tmp_path / "p.tif"}
    for values, expected in (([3.7, -3.7, np.nan, 2.0], [3, -3, 2]), (["12", "abc", None, "4"], [12, 0, 4])):
        vec = points(tmp_path / "points.gpkg", where, label=values)
        status, log = otb("PatchesExtraction", {**keys, "vec": vec, "field": "label", "outlabels": [tmp_path / "l.tif", "int32"]})
        assert status == 0, log
        assert "accepted 3, rejected 1 (no value in the field: 1)" in log
        with rasterio.open(tmp_path / "l.tif") as image:
            assert image.read(1).ravel().tolist() == expected


@pytest.mark.parametrize(("dtype", "asked"), [(np.int32, "int32"), (np.uint32, "uint32"), (np.float64, "double"), (np.int16, "int32"), (np.uint8, "")])
def test_wide_pixels_keep_every_digit(tmp_path, dtype, asked):
    """§1 and §8: upstream reads everything as float32; here the pixels are what the user asks for."""
    random = np.random.default_rng(11)
    if dtype is np.float64:
        pixels = random.normal(0, 1e9, (30, 30, 2))
    else:
        pixels = random.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (30, 30, 2), endpoint=True, dtype=dtype)
    image = write(tmp_path / "a.tif", pixels, 10.0)
    vec = points(tmp_path / "points.gpkg", [(LEFT + 105, TOP - 85), (LEFT + 195, TOP - 185)])
    out = [tmp_path / "p.tif", asked] if asked else tmp_path / "p.tif"
    keys = {"source1.il": [image], "source1.patchsizex": 7, "source1.patchsizey": 7, "source1.out": out, "vec": vec, "field": "id"}
    status, log = otb("PatchesExtraction", keys)
    assert status == 0, log
    with rasterio.open(tmp_path / "p.tif") as patches:
        assert patches.dtypes[0] == {"double": "float64", "": "float32"}.get(asked, asked)
    np.testing.assert_array_equal(read(tmp_path / "p.tif", 7), np.stack([pixels[5:12, 7:14], pixels[15:22, 16:23]]))


def test_wide_integers_written_as_float_are_warned_about(tmp_path):
    image = write(tmp_path / "a.tif", np.full((9, 9, 1), 2**24 + 1, np.int32), 10.0)
    vec = points(tmp_path / "points.gpkg", [(LEFT + 45, TOP - 45)])
    keys = {"source1.il": [image], "source1.patchsizex": 3, "source1.patchsizey": 3, "source1.out": tmp_path / "p.tif", "vec": vec, "field": "id"}
    status, log = otb("PatchesExtraction", keys)
    assert status == 0 and "lose digits beyond 2^24" in log, log


def test_no_data_of_wide_integers_is_not_rounded(tmp_path):
    """2^24 + 1 is not the no-data value 2^24, though it is in float32."""
    pixels = np.full((9, 18, 1), 2**24 + 1, np.int32)
    pixels[4, 13] = 2**24
    vec = points(tmp_path / "points.gpkg", [(LEFT + 45, TOP - 45), (LEFT + 135, TOP - 45)])
    keys = {"source1.il": [write(tmp_path / "a.tif", pixels, 10.0)], "source1.patchsizex": 3, "source1.patchsizey": 3, "source1.nodata": 2**24}
    status, log = otb("PatchesExtraction", {**keys, "source1.out": [tmp_path / "p.tif", "int32"], "vec": vec, "field": "id"})
    assert status == 0 and "accepted 1, rejected 1 (no-data: 1)" in log, log


def test_options_in_input_and_output_names(tmp_path):
    """An input with options is read by OTB itself, to the last digit; an output's options stay."""
    pixels = np.random.default_rng(2).integers(-(2**31), 2**31 - 1, (40, 40, 3)).astype(np.int32)
    image = write(tmp_path / "a.tif", pixels, 10.0)
    vec = points(tmp_path / "points.gpkg", [(LEFT + 105, TOP - 85), (LEFT + 195, TOP - 185), (LEFT + 55, TOP - 305)])
    keys = {"source1.patchsizex": 6, "source1.patchsizey": 6, "vec": vec, "field": "id"}
    out = f"{tmp_path / 'p.tif'}?&gdal:co:COMPRESS=DEFLATE&box=0:6:6:12"
    status, log = otb("PatchesExtraction", {**keys, "source1.il": [f"{image}?&bands=2,3", image], "source1.out": [out, "int32"]})
    assert status == 0, log
    expected = np.stack([pixels[r - 3 : r + 3, c - 3 : c + 3][..., [1, 2, 0, 1, 2]] for c, r in ((19, 18), (5, 30))])
    np.testing.assert_array_equal(read(tmp_path / "p.tif", 6), expected)
    with rasterio.open(tmp_path / "p.tif") as patches:
        assert patches.compression is not None and patches.compression.name == "deflate"


PEAK = """import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print("PEAK", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
sys.exit(code)"""


@pytest.mark.parametrize("order", ["scan", "random"])
def test_memory_does_not_grow_with_the_patches_in_any_order(tmp_path, order):
    """0.2 GB of patches, in several streams. In random order they go through a temporary file, of which nothing is left."""
    random = np.random.default_rng(4)
    pixels = random.integers(0, 60000, (1024, 1024, 4)).astype(np.uint16)
    profile = {"width": 1024, "height": 1024, "count": 4, "dtype": "uint16", "tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", crs=CRS, transform=Affine(10, 0, LEFT, 0, -10, TOP), **profile) as image:
        image.write(pixels.transpose(2, 0, 1))
    folder = tmp_path / "out"
    folder.mkdir()
    peaks = []
    for count in (300, 3000):
        corners = random.integers(0, 1024 - 64, (count, 2))
        if order == "scan":
            corners = corners[np.lexsort((corners[:, 0], corners[:, 1]))]
        vec = points(tmp_path / f"{count}.gpkg", [(LEFT + 10 * (c + 32) + 3, TOP - 10 * (r + 32) - 4) for c, r in corners.tolist()])
        keys = {"source1.il": [tmp_path / "a.tif"], "source1.patchsizex": 64, "source1.patchsizey": 64, "vec": vec, "field": "id"}
        command = command_line("PatchesExtraction", {**keys, "source1.out": [folder / "p.tif", "float"]})
        environment = {**otb_environment(), "OTB_MAX_RAM_HINT": "8000"}
        if order == "random":
            environment["GDAL_CACHEMAX"] = "1"  # less than the image, or no order would need the temporary file
        done = subprocess.run([sys.executable, "-c", PEAK, *map(str, command)], env=environment, text=True, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        peaks.append(int(done.stdout.split("PEAK")[1]))
        patches = read(folder / "p.tif", 64)
        assert len(patches) == count
        for k in range(0, count, 7):
            column, row = corners[k]
            np.testing.assert_array_equal(patches[k], pixels[row : row + 64, column : column + 64])
    assert [path.name for path in folder.iterdir()] == ["p.tif"]
    assert peaks[1] < peaks[0] + 30, peaks  # the difference of the patches is 177 MB, and upstream holds them twice


def test_a_damaged_input_is_one_error_and_leaves_nothing(tmp_path):
    coarse, fine, _ = pair_scene(tmp_path, size=100)
    with open(fine, "r+b") as file:
        file.truncate(fine.stat().st_size // 2)
    vec = points(tmp_path / "points.gpkg", [(LEFT + 500, TOP - 10 * row) for row in (50, 950)])
    status, log = otb("PatchesExtraction", {**extraction(tmp_path, coarse, fine, vec), "outlabels": tmp_path / "l.tif"}, sources=2)
    assert status != 0 and log.count("(FATAL)") == 1 and "fine.tif" in log and "is the file whole?" in log, log
    assert not any((tmp_path / name).exists() for name in ("lr.tif", "hr.tif", "l.tif"))


def test_labels_that_do_not_fit_are_widened(tmp_path):
    """§8: labels are uint8 unless said otherwise; OTB would write 255 for 300."""
    image = write(tmp_path / "a.tif", np.ones((20, 20, 1), np.float32), 10.0)
    vec = points(tmp_path / "points.gpkg", [(LEFT + 45, TOP - 45), (LEFT + 55, TOP - 45)], label=[300, -(2**31)])
    keys = {"source1.il": [image], "source1.patchsizex": 3, "source1.patchsizey": 3, "source1.out": tmp_path / "p.tif"}
    status, log = otb("PatchesExtraction", {**keys, "vec": vec, "field": "label", "outlabels": tmp_path / "l.tif"})
    assert status == 0 and "do not fit uint8: written as int32" in log, log
    with rasterio.open(tmp_path / "l.tif") as labels:
        assert (labels.width, labels.height, labels.dtypes[0], labels.transform.a) == (1, 2, "int32", 1.0)
        assert labels.read(1).ravel().tolist() == [300, -(2**31)]


def test_a_full_disk_is_an_error_and_leaves_no_half_product(tmp_path, small_disk):
    coarse, fine, _ = pair_scene(tmp_path, size=100)
    vec = points(tmp_path / "points.gpkg", [(LEFT + 10 * i + 100, TOP - 10 * j - 100) for i in range(80) for j in range(0, 80, 8)])
    status, log = otb("PatchesExtraction", extraction(small_disk, coarse, fine, vec), sources=2)
    assert status != 0 and "was not written whole" in log
    assert list(small_disk.iterdir()) == []
