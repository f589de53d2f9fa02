"""PatchesExtraction and PatchesSelection, run as users run them: footprints, layout, rejections, order, messages."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import geopandas
import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine
from shapely.geometry import Point, box

from otbsr.errors import MissingToolError
from otbsr.serving.otb import application_folder, command_line, otb_environment

LEFT, TOP, CRS = 500040.0, 4800000.0, "EPSG:32631"


def built() -> bool:
    try:
        return all((application_folder() / f"otbapp_{name}.so").exists() for name in ("PatchesExtraction", "PatchesSelection"))
    except MissingToolError:
        return False


pytestmark = pytest.mark.skipif(not built(), reason="the applications are not built")


def otb(application, parameters, sources=None, **environment):
    """Run an application: (exit status, output)."""
    env = {**otb_environment(), **environment}
    env.pop("OTB_TF_NSOURCES", None)
    if sources is not None:
        env["OTB_TF_NSOURCES"] = str(sources)
    done = subprocess.run(command_line(application, parameters), env=env, text=True, capture_output=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def write(path, pixels, spacing, left=LEFT, top=TOP, north_up=True):
    """Write [rows, columns, bands] in the array's own type."""
    transform = Affine(spacing, 0, left, 0, -spacing, top) if north_up else Affine(spacing, 0, left, 0, spacing, top - spacing * len(pixels))
    kind = {"width": pixels.shape[1], "height": pixels.shape[0], "count": pixels.shape[2], "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs=CRS, transform=transform, **kind) as image:
        image.write(pixels.transpose(2, 0, 1))
    return path


def points(path, coordinates, **fields):
    fields = fields or {"id": np.arange(len(coordinates))}
    geopandas.GeoDataFrame(fields, geometry=[Point(*c) for c in coordinates], crs=CRS).to_file(path)
    return path


def read(path, side):
    """A patches image as [n, side, side, bands]."""
    with rasterio.open(path) as image:
        pixels = image.read()
    assert pixels.shape[2] == side
    return pixels.transpose(1, 2, 0).reshape(-1, side, side, pixels.shape[0])


def pair_scene(folder, spacing=10.0, factor=4, size=24, left=LEFT):
    """A fine image in which every pixel differs, and its block means; exact in float32."""
    fine = np.arange((size * factor) ** 2, dtype=np.float32).reshape(size * factor, size * factor)
    fine = np.stack([fine, -2 * fine], axis=-1)
    coarse = fine.reshape(size, factor, size, factor, 2).mean((1, 3), dtype=np.float64).astype(np.float32)
    return write(folder / "coarse.tif", coarse, spacing, left), write(folder / "fine.tif", fine, spacing / factor, left), coarse


def extraction(folder, coarse, fine, vec, size=6, factor=4, field="id", **more):
    return {
        "source1.il": [coarse],
        "source1.patchsizex": size,
        "source1.patchsizey": size,
        "source1.out": [folder / "lr.tif", "float"],
        "source2.il": [fine],
        "source2.patchsizex": size * factor,
        "source2.patchsizey": size * factor,
        "source2.out": [folder / "hr.tif", "float"],
        "vec": vec,
        "field": field,
        **more,
    }


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
    """Centre pixel c: the patch is [c - n/2, c - n/2 + n - 1], for odd and even n; a point on an edge belongs to the pixel after it."""
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
        assert (image.transform.a, image.transform.e, image.crs) == (10.0, -10.0, None)
        pixels = image.read().transpose(1, 2, 0)
    expected = np.concatenate([stack[r - 3 : r + 3, c - 2 : c + 2] for c, r in kept])
    np.testing.assert_array_equal(pixels, expected)
    with rasterio.open(tmp_path / "l.tif") as image:
        assert image.dtypes[0] == "uint8"
        np.testing.assert_array_equal(image.read(1), [[7], [250], [3], [0]])


def test_no_data_in_any_band_of_any_source_rejects_the_pair(tmp_path):
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
    coarse, fine, _ = pair_scene(tmp_path)
    vec = points(tmp_path / "points.gpkg", [(LEFT + 100, TOP - 100)])
    parameters = {key: v for key, v in extraction(tmp_path, coarse, fine, vec).items() if not key.startswith("source2")}
    status, log = otb("PatchesExtraction", parameters, sources=value)
    assert status == 1
    assert log.count("OTB_TF_NSOURCES") == 1 and f"'{value}'" in log
    assert not (tmp_path / "lr.tif").exists()


def test_bad_input_is_one_clear_error(tmp_path):
    coarse, fine, _ = pair_scene(tmp_path)
    inside = [(LEFT + 100, TOP - 100)]
    small = write(tmp_path / "small.tif", np.ones((5, 5, 1), np.float32), 10.0)
    good = extraction(tmp_path, coarse, fine, points(tmp_path / "points.gpkg", inside))
    polygons = tmp_path / "polygons.gpkg"
    geopandas.GeoDataFrame({"id": [1]}, geometry=[box(LEFT, TOP - 50, LEFT + 50, TOP)], crs=CRS).to_file(polygons)
    far = points(tmp_path / "far.gpkg", [(3.0, 43.0)])
    cases = [
        ({"field": "absent"}, "no field 'absent'"),
        ({"vec": polygons}, "is not a point"),
        ({"vec": far}, "No patch to sample"),
        ({"vec": tmp_path / "missing.gpkg"}, "missing.gpkg"),
        ({"source1.il": [coarse, small]}, "5 x 5"),
        ({"vec": points(tmp_path / "big.gpkg", inside, id=[2**40])}, "32 bits"),
    ]
    for change, message in cases:
        status, log = otb("PatchesExtraction", {**good, **change}, sources=2)
        assert status != 0 and message in log, log


def test_labels_are_truncated_and_features_without_one_are_counted(tmp_path):
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
    """An input with options is read by OTB itself; an output's options stay."""
    pixels = np.random.default_rng(2).integers(0, 1000, (40, 40, 3)).astype(np.uint16)
    image = write(tmp_path / "a.tif", pixels, 10.0)
    vec = points(tmp_path / "points.gpkg", [(LEFT + 105, TOP - 85), (LEFT + 195, TOP - 185), (LEFT + 55, TOP - 305)])
    keys = {"source1.patchsizex": 6, "source1.patchsizey": 6, "vec": vec, "field": "id"}
    out = f"{tmp_path / 'p.tif'}?&gdal:co:COMPRESS=DEFLATE&box=0:6:6:12"
    status, log = otb("PatchesExtraction", {**keys, "source1.il": [f"{image}?&bands=2,3", image], "source1.out": [out, "uint16"]})
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
        done = subprocess.run([sys.executable, "-c", PEAK, *map(str, command)], env=environment, text=True, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        peaks.append(int(done.stdout.split("PEAK")[1]))
        patches = read(folder / "p.tif", 64)
        assert len(patches) == count
        for k in range(0, count, 7):
            column, row = corners[k]
            np.testing.assert_array_equal(patches[k], pixels[row : row + 64, column : column + 64])
    assert [path.name for path in folder.iterdir()] == ["p.tif"]
    assert peaks[1] < peaks[0] + 110, peaks  # the difference of the patches is 177 MB, and upstream holds them twice


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


@pytest.fixture
def small_disk(tmp_path):
    """A folder of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_an_error_and_leaves_no_half_product(tmp_path, small_disk):
    coarse, fine, _ = pair_scene(tmp_path, size=100)
    vec = points(tmp_path / "points.gpkg", [(LEFT + 10 * i + 100, TOP - 10 * j - 100) for i in range(80) for j in range(0, 80, 8)])
    status, log = otb("PatchesExtraction", extraction(small_disk, coarse, fine, vec), sources=2)
    assert status != 0 and "was not written whole" in log
    assert list(small_disk.iterdir()) == []
    status, log = select(small_disk, fine, 1, 5, strategy="all")
    assert status != 0 and "train.gpkg: cannot be written" in log and "free space" in log
    assert list(small_disk.iterdir()) == []


# --- PatchesSelection --------------------------------------------------------------------------------------------------------


def select(folder, image, step=5, size=5, **more):
    keys = {"in": image, "grid.step": step, "grid.psize": size, "outtrain": folder / "train.gpkg", **more}
    return otb("PatchesSelection", keys)


def cells(path, size, spacing=10.0):
    """Centre pixels (column, row) of the points, as PatchesExtraction finds them."""
    frame = geopandas.read_file(path)
    assert frame.crs == CRS
    shift = 0.0 if size % 2 else 0.5  # even: the point is the corner before the centre column and after the centre row
    column, row = (frame.geometry.x - LEFT) / spacing, (TOP - frame.geometry.y) / spacing
    return [(int(np.floor(c + shift)), int(np.floor(r + shift)) - (size % 2 == 0)) for c, r in zip(column, row, strict=True)]


def expected_centres(extent, size, step, offset=0):
    r = size // 2
    return [i for i in range(r, extent - r) if int(np.fmod(i - (r + 1), step)) == offset % step]


@pytest.mark.parametrize(("size", "step", "offset"), [(5, 5, 0), (4, 4, 0), (6, 3, 0), (1, 1, 0), (4, 5, 2), (3, 1, 0)])
def test_selection_places_otbtfs_grid(tmp_path, size, step, offset):
    image = write(tmp_path / "image.tif", np.ones((23, 31, 1), np.float32), 10.0)
    more = {"strategy": "all", "grid.offsetx": offset, "grid.offsety": 0}
    status, log = select(tmp_path, image, step, size, **more)
    assert status == 0, log
    columns, rows = expected_centres(31, size, step, offset), expected_centres(23, size, step)
    assert cells(tmp_path / "train.gpkg", size) == [(c, r) for r in rows for c in columns]
    assert geopandas.read_file(tmp_path / "train.gpkg")["id"].tolist() == list(range(len(columns) * len(rows)))
    # A no-data value that is nowhere changes nothing, whatever the strips' height.
    os.remove(tmp_path / "train.gpkg")
    status, log = select(tmp_path, image, step, size, nodata=-1, **more)
    assert status == 0, log
    assert cells(tmp_path / "train.gpkg", size) == [(c, r) for r in rows for c in columns]


def test_selected_patches_are_inside_and_free_of_no_data(tmp_path):
    random = np.random.default_rng(5)
    pixels = random.integers(1, 100, (60, 70, 2)).astype(np.int16)
    holes = random.random((60, 70)) < 0.01
    pixels[holes] = 0
    pixels[5::7, 3::9, 0] = 0  # no-data in one band only: not no-data for the selection
    mask = np.ones((60, 70, 1), np.uint8)
    mask[:, 50:] = 0
    image, mask_file = write(tmp_path / "image.tif", pixels, 10.0), write(tmp_path / "mask.tif", mask, 10.0)
    status, log = select(tmp_path, image, 2, 6, strategy="all", nodata=0, mask=mask_file)
    assert status == 0, log
    bad = holes | (mask[..., 0] == 0)
    expected = [(c, r) for r in expected_centres(60, 6, 2) for c in expected_centres(70, 6, 2) if not bad[r - 3 : r + 4, c - 3 : c + 4].any()]
    assert cells(tmp_path / "train.gpkg", 6) == expected and expected
    # The mask alone counts at the centre.
    status, log = select(tmp_path, image, 2, 6, strategy="all", mask=mask_file, outtrain=tmp_path / "masked.gpkg")
    assert status == 0, log
    assert cells(tmp_path / "masked.gpkg", 6) == [(c, r) for r in expected_centres(60, 6, 2) for c in expected_centres(70, 6, 2) if c < 50]


def test_chessboard_and_split(tmp_path):
    image = write(tmp_path / "image.tif", np.ones((100, 100, 1), np.float32), 10.0)
    out = {"outvalid": tmp_path / "valid.gpkg", "outtest": tmp_path / "test.gpkg"}
    everything = [(c, r) for r in expected_centres(100, 5, 5) for c in expected_centres(100, 5, 5)]

    status, log = select(tmp_path, image, strategy="chessboard", outvalid=out["outvalid"])
    assert status == 0, log
    train, valid = cells(tmp_path / "train.gpkg", 5), cells(out["outvalid"], 5)
    assert sorted(train + valid) == sorted(everything)
    assert all((c // 5 + r // 5) % 2 == 0 for c, r in train) and all((c // 5 + r // 5) % 2 == 1 for c, r in valid)
    numbers = [geopandas.read_file(path)["id"].tolist() for path in (tmp_path / "train.gpkg", out["outvalid"])]
    assert [k for group in numbers for k in group] == list(range(len(everything)))

    shares = {"strategy": "split", "strategy.split.trainprop": 60, "strategy.split.validprop": 30, "strategy.split.testprop": 10}
    orders = []
    for random in (False, True, True):
        status, log = select(tmp_path, image, **shares, **out, **{"strategy.split.random": random})
        assert status == 0, log
        groups = [cells(path, 5) for path in (tmp_path / "train.gpkg", *out.values())]
        assert sorted(cell for group in groups for cell in group) == sorted(everything)
        for group, share in zip(groups, (0.6, 0.3, 0.1), strict=True):
            assert abs(len(group) - share * len(everything)) <= 2
        orders.append(groups)
    assert orders[1] == orders[2] != orders[0]  # random, and the same in every run


def test_selected_points_are_the_centres_of_equal_footprints(tmp_path):
    coarse, fine, pixels = pair_scene(tmp_path)
    status, log = select(tmp_path, coarse, 4, 4, strategy="all")
    assert status == 0, log
    status, log = otb("PatchesExtraction", extraction(tmp_path, coarse, fine, tmp_path / "train.gpkg", size=4), sources=2)
    assert status == 0, log
    assert "rejected 0" in log
    corners = [(c - 2, r + 1 - 2) for c, r in cells(tmp_path / "train.gpkg", 4)]
    np.testing.assert_array_equal(read(tmp_path / "lr.tif", 4), np.stack([pixels[r : r + 4, c : c + 4] for c, r in corners]))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_grid_is_the_rules_by_brute_force(tmp_path_factory, data):
    """§9: the grid rule, no-data in all bands, the mask, even and odd sizes, offsets of any sign; and the points, as PatchesExtraction sees them."""
    folder = tmp_path_factory.mktemp("grid")
    rows, columns = data.draw(st.integers(3, 25)), data.draw(st.integers(3, 25))
    size, step = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 7))
    offsets = data.draw(st.tuples(st.integers(-9, 9), st.integers(-9, 9)))
    random = np.random.default_rng(data.draw(st.integers(0, 100)))
    pixels = random.integers(0, 3, (rows, columns, 2)).astype(np.int16)
    pixels[random.random((rows, columns)) < 0.01] = 0
    mask = (random.random((rows, columns, 1)) > 0.02).astype(np.uint8) * random.integers(1, 3, dtype=np.uint8)
    with_nodata, with_mask = data.draw(st.booleans()), data.draw(st.booleans())
    keys = {"strategy": "all", "grid.offsetx": offsets[0], "grid.offsety": offsets[1]}
    valid = np.ones((rows, columns), bool)
    if with_nodata:
        keys["nodata"] = 0
        valid &= ~(pixels == 0).all(axis=2)
    if with_mask:
        keys["mask"] = write(folder / "mask.tif", mask, 10.0)
        valid &= mask[..., 0] != 0
    r, expected = size // 2, []
    for i in range(r, rows - r):
        for j in range(r, columns - r):
            first = [step > 1 and k == r for k in (i, j)]
            on_grid = (i - (r + 1) - offsets[1]) % step == 0 and (j - (r + 1) - offsets[0]) % step == 0 and not any(first)
            around = valid[i - r : i + r + 1, j - r : j + r + 1].all()
            kept = around if with_nodata else not with_mask or mask[i, j, 0] == 1
            if on_grid and kept:
                expected.append((j, i))
    status, log = select(folder, write(folder / "image.tif", pixels, 10.0), step, size, **keys)
    if expected:
        assert status == 0, log
        assert cells(folder / "train.gpkg", size) == expected
    else:
        assert status != 0 and "can be placed" in log
        assert not (folder / "train.gpkg").exists()


def test_south_up_image_and_image_without_georeference(tmp_path):
    """§9: the point of an even patch is half a pixel towards smaller x and y; PatchesExtraction finds the patch again."""
    pixels = np.arange(16 * 20, dtype=np.float32).reshape(16, 20, 1)
    south_up = write(tmp_path / "south.tif", pixels, 10.0, north_up=False)
    plain = tmp_path / "plain.tif"
    with rasterio.open(plain, "w", driver="GTiff", width=20, height=16, count=1, dtype="float32") as image:
        image.write(pixels.transpose(2, 0, 1))
    for path in (south_up, plain):
        status, log = select(tmp_path, path, 4, 4, strategy="all")
        assert status == 0, log
        keys = {"source1.il": [path], "source1.patchsizex": 4, "source1.patchsizey": 4, "source1.out": tmp_path / "p.tif"}
        status, log = otb("PatchesExtraction", {**keys, "vec": tmp_path / "train.gpkg", "field": "id"})
        assert status == 0, log
        corners = [(c - 2, r - 2) for r in expected_centres(16, 4, 4) for c in expected_centres(20, 4, 4)]
        np.testing.assert_array_equal(read(tmp_path / "p.tif", 4), np.stack([pixels[r : r + 4, c : c + 4] for c, r in corners]))


def test_outputs_that_a_strategy_does_not_fill_are_ignored_with_a_warning(tmp_path):
    """§9: outtest with chessboard, outvalid and outtest with all."""
    image = write(tmp_path / "image.tif", np.ones((30, 30, 1), np.float32), 10.0)
    out = {"outvalid": tmp_path / "valid.gpkg", "outtest": tmp_path / "test.gpkg"}
    status, log = select(tmp_path, image, strategy="chessboard", **out)
    assert status == 0 and "outtest is ignored: strategy chessboard does not fill it" in log, log
    assert out["outvalid"].exists() and not out["outtest"].exists()
    out["outvalid"].unlink()
    status, log = select(tmp_path, image, strategy="all", **out)
    assert status == 0 and "outvalid is ignored" in log and "outtest is ignored" in log, log
    assert not out["outvalid"].exists() and not out["outtest"].exists()
    # Split: shares of outputs that are not given count as 0, and shares are relative.
    status, log = select(tmp_path, image, strategy="split", outtest=out["outtest"], **{"strategy.split.trainprop": 1, "strategy.split.testprop": 3})
    assert status == 0, log
    train, test = (len(geopandas.read_file(path)) for path in (tmp_path / "train.gpkg", out["outtest"]))
    assert train + test == len(expected_centres(30, 5, 5)) ** 2 and abs(test - 3 * train) <= 3 and not out["outvalid"].exists()


@pytest.mark.parametrize(("ending", "driver"), [("gpkg", "GPKG"), ("shp", "ESRI Shapefile"), ("sqlite", "SQLite"), ("json", "GeoJSON")])
def test_point_files_of_any_format_replace_whole_files(tmp_path, ending, driver):
    """Field, layer name and projection; an older file, with all that is beside it, is replaced, and nothing else is left."""
    image = write(tmp_path / "image.tif", np.ones((30, 30, 1), np.float32), 10.0)
    out = tmp_path / f"my points.{ending}"
    geopandas.GeoDataFrame({"other": [1, 2, 3]}, geometry=[Point(LEFT, TOP)] * 3, crs=CRS).to_file(out, driver=driver)
    if ending == "shp":
        out.with_suffix(".qix").write_bytes(b"stale spatial index")
    status, log = select(tmp_path, image, strategy="all", outtrain=out)
    assert status == 0, log
    frame = geopandas.read_file(out)
    assert list(frame.columns) == ["id", "geometry"] and len(frame) == len(expected_centres(30, 5, 5)) ** 2
    assert frame["id"].tolist() == list(range(len(frame)))
    assert frame.crs.to_epsg() == 32631 and geopandas.list_layers(out)["name"].tolist() == ["my points"]
    suffixes = {path.suffix for path in tmp_path.iterdir()} - {".tif"}
    assert suffixes == ({".shp", ".shx", ".dbf", ".prj"} if ending == "shp" else {f".{ending}"})


def test_a_failed_selection_leaves_the_older_files(tmp_path):
    image = write(tmp_path / "image.tif", np.ones((30, 30, 1), np.float32), 10.0)
    old = points(tmp_path / "train.gpkg", [(LEFT, TOP)])
    before = old.read_bytes()
    for change, message in (({"outvalid": tmp_path / "absent" / "valid.gpkg"}, "absent"), ({"outvalid": tmp_path / "valid.unknown"}, "ending of the name")):
        status, log = select(tmp_path, image, strategy="chessboard", **change)
        assert status != 0 and message in log, log
        assert old.read_bytes() == before and {path.name for path in tmp_path.iterdir()} == {"image.tif", "train.gpkg"}


def test_balanced_evens_out_the_classes(tmp_path):
    """§9 balanced: of 400 patches of one class each (320, 60 and 20), 42 are 14 of each; of mixed ones, far more even than the image."""
    random = np.random.default_rng(8)
    size, side = 4, 20
    kinds = random.permutation(np.repeat([0, 1, 2], [320, 60, 20])).reshape(side, side)
    labels = np.full((size * side + 3, size * side + 3), 7, np.uint8)
    # The first centre is r + 1 = 3: patches of even size cover rows and columns [1 + 4 k, 5 + 4 k[, rows one lower.
    labels[2 : 2 + size * side, 1 : 1 + size * side] = kinds.repeat(size, 0).repeat(size, 1)
    image = write(tmp_path / "image.tif", np.ones((*labels.shape, 1), np.float32), 10.0)
    label_image = write(tmp_path / "labels.tif", labels[..., None], 10.0)
    keys = {"strategy": "balanced", "strategy.balanced.nclasses": 3, "strategy.balanced.labelimage": label_image}
    status, log = select(tmp_path, image, size, size, **keys, **{"strategy.balanced.sp": 42 / 400}, outvalid=tmp_path / "valid.gpkg")
    assert status == 0 and "0: 224, 1: 224, 2: 224" in log and "outvalid is ignored" in log, log
    chosen = cells(tmp_path / "train.gpkg", size)
    assert len(chosen) == 42 and len({row // 20 for _, row in chosen}) >= 4  # from all over the image
    counts = np.bincount([kinds[(row - 3) // size, (column - 3) // size] for column, row in chosen])
    assert counts.tolist() == [14, 14, 14]
    first = (tmp_path / "train.gpkg").read_bytes()
    # The same in every run; the default share is a quarter, and the rare class runs out.
    status, log = select(tmp_path, image, size, size, **keys, **{"strategy.balanced.sp": 42 / 400})
    assert status == 0 and cells(tmp_path / "train.gpkg", size) == chosen and len(first) > 0
    status, log = select(tmp_path, image, size, size, **keys)
    assert status == 0, log
    counts = np.bincount([kinds[(row - 3) // size, (column - 3) // size] for column, row in cells(tmp_path / "train.gpkg", size)])
    assert counts.sum() == 100 and counts[2] == 20 and abs(counts[0] - counts[1]) <= 4, counts


def test_balanced_with_overlapping_mixed_patches(tmp_path):
    random = np.random.default_rng(9)
    labels = (random.random((60, 60)) ** 3 * 4).astype(np.uint8)[..., None].repeat(3, 0).repeat(3, 1)
    image, label_image = (write(tmp_path / f"{name}.tif", values, 10.0) for name, values in (("i", labels.astype(np.float32)), ("l", labels)))
    keys = {"strategy": "balanced", "strategy.balanced.nclasses": 4, "strategy.balanced.labelimage": label_image, "strategy.balanced.sp": 0.05}
    status, log = select(tmp_path, image, 3, 7, **keys)
    assert status == 0, log
    patches = [labels[row - 3 : row + 4, column - 3 : column + 4] for column, row in cells(tmp_path / "train.gpkg", 7)]
    assert len(patches) == round(0.05 * len(expected_centres(180, 7, 3)) ** 2)
    counts = np.bincount(np.ravel(patches), minlength=4)
    said = [int(count) for count in re.search(r"chosen patches: 0: (\d+), 1: (\d+), 2: (\d+), 3: (\d+)", log).groups()]
    assert counts.tolist() == said
    image_counts = np.bincount(labels.ravel(), minlength=4)
    assert counts.min() / counts.max() > 4 * image_counts.min() / image_counts.max(), (counts, image_counts)


def test_balanced_refuses_what_it_cannot_do(tmp_path):
    image = write(tmp_path / "image.tif", np.ones((20, 20, 1), np.float32), 10.0)
    labels = write(tmp_path / "labels.tif", np.full((20, 20, 1), 9, np.uint8), 10.0)
    small = write(tmp_path / "small.tif", np.ones((10, 10, 1), np.uint8), 10.0)
    elsewhere = write(tmp_path / "elsewhere.tif", np.ones((20, 20, 1), np.uint8), 10.0, left=LEFT + 3.0)
    good = {"strategy": "balanced", "strategy.balanced.nclasses": 3, "strategy.balanced.labelimage": labels}
    cases = [
        ({}, "no label from 0 to 2"),
        ({"strategy.balanced.labelimage": small}, "10 x 10"),
        ({"strategy.balanced.labelimage": elsewhere}, "grids differ"),
        ({"mask": elsewhere}, "grids differ"),
        ({"strategy.balanced.sp": 0}, "above 0"),
    ]
    for change, message in cases:
        status, log = select(tmp_path, image, **{**good, **change})
        assert status != 0 and log.count("(FATAL)") == 1 and message in log, log
        assert not (tmp_path / "train.gpkg").exists()


def test_selection_refuses_what_it_cannot_do(tmp_path):
    image = write(tmp_path / "image.tif", np.zeros((20, 20, 1), np.float32), 10.0)
    other = write(tmp_path / "mask.tif", np.ones((10, 10, 1), np.uint8), 10.0)
    cases = [
        ({"nodata": 0}, "no patch of 5 pixels can be placed"),
        ({"size": 50}, "no patch of 50 pixels can be placed"),
        ({"mask": other}, "10 x 10"),
        ({"strategy": "split", "strategy.split.trainprop": 0}, "shares"),
        ({"outtrain": tmp_path / "absent" / "train.gpkg"}, "absent"),
    ]
    for change, message in cases:
        status, log = select(tmp_path, image, **change)
        assert status != 0 and message in log, log
