"""The chain from products to pairs, on simulated SAFE and DIMAP products with planted shift, gain, clouds and changed parcels."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.rpc import RPC
from rasterio.warp import transform

from otbsr.errors import GridError, InputError, OutputError, UsageError
from otbsr.grid import Grid
from otbsr.pairs.alignment import Field
from otbsr.pairs.chain import REASONS, TEN, Chain, ChainSettings, make_pairs, read_settings, steps_of
from otbsr.pairs.manifest import Steps
from otbsr.pairs.patches import PatchSettings, read_patches_image
from otbsr.products import open_product
from otbsr.products.product import Band, Product
from otbsr.progress import silent
from otbsr.serving import otb
from otbsr.serving.dry_run import meeting_lines
from otbsr.world.simulate import WorldSettings, simulate

SHIFT = (6.3, -4.1)
PATCHES = PatchSettings(patch=16, step=8, block=24, buffer=2, valid=0.2, seed=1)


@pytest.fixture(scope="module")
def applications():
    if shutil.which(otb.LAUNCHER) is None:
        pytest.skip("OTB is not installed")
    try:
        if not (otb.application_folder() / "otbapp_PatchesSelection.so").exists():
            pytest.skip("PatchesSelection is not built")
    except otb.MissingToolError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """1.5 km of country and town, a tenth under cloud, some parcels changed before Spot came."""
    folder = tmp_path_factory.mktemp("chain") / "world"
    settings = WorldSettings(seed=12, extent=1500, urban=0.3, shift=SHIFT, gain=1.08, bias=0.01, cloud_cover=0.06, changed=0.08, products=("safe", "dimap"))
    simulate(folder, settings)
    return folder


@pytest.fixture(scope="module")
def products(world):
    return next(world.glob("*.SAFE")), world / "PROD_SPOT6_001"


@pytest.fixture(scope="module")
def made(products, applications, tmp_path_factory):
    """(folder of pairs, manifest), its steps kept."""
    out = tmp_path_factory.mktemp("pairs") / "pairs"
    return out, make_pairs(*products, out, PATCHES, keep=True)


def image(path):
    with rasterio.open(path) as file:
        return file.read()


def test_shift_gain_and_target(world, made):
    """The planted shift within 0.2 m; the target is what Sentinel-2's bands see at 2.5 m, where nothing changed."""
    out, manifest = made
    np.testing.assert_allclose(manifest["alignment"]["shift"], SHIFT, atol=0.2)
    assert min(manifest["alignment"]["r2"]) > 0.97
    steps = out.with_name("pairs.steps")
    grid, wanted = Grid.read(steps / "target.tif"), Grid.read(world / "reference_2m5.tif")
    grid.require_same(wanted, "target and reference")
    target, reference = image(steps / "target.tif").astype(float), image(world / "reference_2m5.tif").astype(float)
    same = np.kron(image(world / "changes_10m.tif")[0] == 0, np.ones((4, 4), bool)) & (target > -10000).all(0)
    assert same.mean() > 0.8
    likeness = [np.corrcoef(a[same], b[same])[0, 1] for a, b in zip(target, reference, strict=True)]
    assert min(likeness[:3]) > 0.97
    assert likeness[3] > 0.9, "the panchromatic band sees no near infrared: pansharpening gives it other detail"
    for axis in (0, 1):  # moved by a pixel, it is less like it
        for a, b, best in zip(target, reference, likeness, strict=True):
            assert max(np.corrcoef(np.roll(a, step, axis)[same], b[same])[0, 1] for step in (-1, 1)) < best
    lr = image(steps / "input.tif")
    np.testing.assert_array_equal(lr, image(world / "sentinel2_10m.tif"))


def test_clouded_and_changed_patches_are_rejected_and_clean_ones_kept(world, made):
    out, _ = made
    table = dict(np.load(out.with_name("pairs.steps") / "candidates.npz"))
    clouds, changes = image(world / "clouds_10m.tif")[0] > 0, image(world / "changes_10m.tif")[0]
    size = PATCHES.patch
    clouded, changed = (np.array([plane[r : r + size, c : c + size].mean() for r, c in table["corners"]]) for plane in (clouds, changes))
    rejected = (table["reason"] > 0) & (table["reason"] < REASONS.index("between the splits"))
    bad = (clouded > 0.01) | (changed > 0.02)
    clean = (changed == 0) & (clouded_nearby(clouds, table["corners"], size) == 0)
    assert bad.sum() > 30
    assert clean.sum() > 30
    assert rejected[bad].mean() >= 0.95
    assert (~rejected[clean]).mean() >= 0.9


def clouded_nearby(clouds, corners, size):
    """Share of cloud or shadow in patches and the 4 pixels around, where masks of 20 m, made wider, may reach."""
    wide = np.pad(clouds, 4)
    return np.array([wide[r : r + size + 8, c : c + size + 8].mean() for r, c in corners])


def test_the_folder_holds_what_training_and_people_read(made):
    out, manifest = made
    assert manifest == json.loads((out / "manifest.json").read_text())
    assert [product["date"] for product in manifest["products"]] == ["2023-06-14", "2023-06-14"]
    assert manifest["days"] == 0
    assert [step["step"] for step in manifest["steps"]] == [
        "input", "calibration_multispectral", "calibration_pan", "pansharpening", "hidden", "alignment", "resampling_and_harmonisation", "comparison",
        "artificial", "rejection",
    ]  # fmt: skip
    coarse = Grid.read(out.with_name("pairs.steps") / "input.tif")
    ground = np.zeros((coarse.height, coarse.width), int)
    for place in manifest["footprints"]:
        assert rasterio.CRS.from_string(place["crs"]).to_epsg() == 32631
        (left, top), (right, bottom) = coarse.position(place["bounds"][0], place["bounds"][3]), coarse.position(place["bounds"][2], place["bounds"][1])
        ground[round(top) : round(bottom), round(left) : round(right)] += 1
    expected = np.zeros_like(ground)
    for split in ("train", "valid"):
        entry = manifest["splits"][split]
        lines = [json.loads(line) for line in (out / f"{split}.jsonl").read_text().splitlines()]
        lr, target = read_patches_image(out / entry["lr"], 16), read_patches_image(out / entry["target"], 64)
        assert len(lines) == len(lr) == len(target) == entry["accepted"] > 0
        whole = image(out.with_name("pairs.steps") / "input.tif")
        for line, patch in zip(lines, lr, strict=True):
            row, column = line["corner"]
            np.testing.assert_array_equal(patch, whole[:, row : row + 16, column : column + 16].transpose(1, 2, 0))
            assert line["bounds"][:1] + line["bounds"][3:] == list(coarse.corner(column, row))
            assert line["dates"] == ["2023-06-14", "2023-06-14"]
            assert line["masked"] <= 0.005
            assert 0 <= line["artificial"] <= 1
            np.testing.assert_allclose(line["shift"], SHIFT, atol=0.3)
            if split == "train":
                expected[row : row + 16, column : column + 16] = 1
    np.testing.assert_array_equal(ground, expected)
    candidates = geopandas.read_file(out / "candidates.gpkg")
    assert len(candidates) == manifest["candidates"]
    counted = candidates[candidates["reason"].isin(REASONS[1:])].groupby("reason").size()
    assert {name: int(counted.get(name, 0)) for name in REASONS[1:]} == manifest["rejected"]
    page = (out / "pairs.html").read_text()
    assert "rejected: change" in page
    assert "rejected: cloud, shadow or snow in the input" in page
    assert page.count("data:image/png;base64,") > 20
    assert not re.search(r"(src|href)=\"(?!data:)", page), "the page needs no other file"


def test_training_reads_the_pairs(made):
    pytest.importorskip("tensorflow")
    from otbsr.methods.patches import read_pairs

    training, validation, common = read_pairs([made[0]])
    assert common["bands"] == ["B4", "B3", "B2", "B8"]
    assert training.lr.shape[1:] == (16, 16, 4)
    assert validation.target.shape[1:] == (64, 64, 4)


def chain_of(sentinel2, spot, folder, settings=None):
    folder.mkdir(exist_ok=True)
    return Chain(sentinel2, spot, settings or ChainSettings(), PATCHES, Steps(Path(tempfile.mkdtemp(dir=folder))), silent)


def edited(folder, copy, **changes):
    """A copy of a Spot bundle with the numbers of tags changed by functions."""
    shutil.copytree(folder, copy)
    for document in copy.rglob("DIM_*.XML"):
        content = document.read_text()
        for tag, change in changes.items():
            content = re.sub(rf"<{tag}>([^<]+)</{tag}>", lambda found, tag=tag, change=change: f"<{tag}>{change(float(found[1]))!r}</{tag}>", content)
        document.write_text(content)
    return copy


@pytest.mark.parametrize(("east", "north"), [(15.0, 0.3), (-9.7, -15.0)])
def test_moved_and_recalibrated_products(products, made, tmp_path, east, north):
    """The bundle's corner and gains changed in its metadata: shift and gain change by that, within 0.2 m and 1 %."""
    _, manifest = made
    spot = edited(products[1], tmp_path / "moved", ULXMAP=lambda x: x + east - SHIFT[0], ULYMAP=lambda y: y + north - SHIFT[1], GAIN=lambda gain: gain / 1.2)
    for picture in spot.rglob("*.TIF"):  # DIMAP's place counts, but both are moved, as in a product
        with rasterio.open(picture, "r+") as file:
            t = file.transform
            file.transform = rasterio.Affine(t.a, 0, t.c + east - SHIFT[0], 0, t.e, t.f + north - SHIFT[1])
    chain = chain_of(open_product(products[0]), open_product(spot).renamed(), tmp_path / "steps")
    chain.input()
    found = chain.align(chain.sharp())
    np.testing.assert_allclose(found.shift, (east, north), atol=0.2)
    np.testing.assert_allclose(np.array(found.gain) * 1.2, manifest["alignment"]["gain"], rtol=0.01)


def test_images_are_aligned_too(world, applications, tmp_path):
    """The sharp image in Sentinel-2's own bands, scaled: gain and bias are those planted, within 1 %; ten bands in, four out."""
    values = image(world / "reference_2m5.tif")
    with rasterio.open(world / "reference_2m5.tif") as source:
        profile, names = source.profile, source.descriptions
    with rasterio.open(tmp_path / "spot.tif", "w", **profile) as file:
        file.write(np.rint(values * 0.8 + 150).astype(np.int16))
        file.descriptions = names
    settings = read_settings(bands=["ten"], most=20, tfrecords=True, labels=world / "landcover_2m5.tif", artificial=["1", "2"])
    assert settings.bands == TEN
    pytest.importorskip("tensorflow")
    manifest = make_pairs(next(world.glob("*.SAFE")), tmp_path / "spot.tif", tmp_path / "pairs", PATCHES, settings, keep=True)
    found = manifest["alignment"]
    np.testing.assert_allclose(found["gain"], 1.25, rtol=0.01)
    np.testing.assert_allclose(found["bias"], -0.015 * 1.25, atol=0.001)
    np.testing.assert_allclose(found["shift"], (0, 0), atol=0.1)
    assert (manifest["bands"], manifest["outputs"]) == (list(TEN), list(TEN[:4]))
    assert manifest["splits"]["train"]["accepted"] == 20
    share = image(world / "landcover_2m5.tif")[0]
    for line in map(json.loads, (tmp_path / "pairs" / "train.jsonl").read_text().splitlines()):
        row, column = (4 * value for value in line["corner"])
        assert line["artificial"] == pytest.approx(np.isin(share[row : row + 64, column : column + 64], (1, 2)).mean(), abs=0.01)
    counts = [stratum["train"] for stratum in manifest["strata"]]
    assert sum(counts) == 20
    assert max(counts) <= 14, "drawn evenly: no stratum has nearly all"
    from otbtf.tfrecords import TFRecords

    batches = TFRecords(tmp_path / "pairs" / "train_tfrecords").read(batch_size=1, target_keys=["target"])
    first = [(np.asarray(a["lr"])[0], np.asarray(b["target"])[0]) for a, b in batches]
    assert len(first) == 20
    np.testing.assert_array_equal(np.stack([a for a, _ in first]), read_patches_image(tmp_path / "pairs" / "train_lr.tif", 16))
    np.testing.assert_array_equal(np.stack([b for _, b in first]), read_patches_image(tmp_path / "pairs" / "train_target.tif", 64))


def test_bands_that_do_not_nest_need_a_resampling(products, tmp_path):
    """A band of 20 m that lies 5 m off the corner, as Theia's may: refused by name, and right where a resampling is given."""
    sentinel2, spot = open_product(products[0]), open_product(products[1]).renamed()
    band, moved = sentinel2.bands["B5"], tmp_path / "b5.tif"
    with rasterio.open(band.path) as source:
        t, values = source.transform, source.read()
        profile = source.profile | {"driver": "GTiff", "transform": rasterio.Affine(t.a, 0, t.c + 5, 0, t.e, t.f - 5)}
    with rasterio.open(moved, "w", **profile) as file:
        x, y = np.meshgrid(np.arange(values.shape[2]), np.arange(values.shape[1]))
        file.write((2000 + 20 * x + 10 * y)[None].astype(values.dtype))  # cubic convolution keeps a plane
    product = replace(sentinel2, bands={**sentinel2.bands, "B5": replace(band, path=moved)})
    bands = ("B4", "B3", "B2", "B8", "B5")
    with pytest.raises(GridError, match=r"b5.tif: .* does not nest in .*; name a resampling \(nearest, bilinear, cubic, average\)"):
        chain_of(product, spot, tmp_path / "steps", ChainSettings(bands=bands)).input()
    chain = chain_of(product, spot, tmp_path / "steps", read_settings(bands=list(bands), resampling="cubic"))
    chain.input()
    x, y = np.meshgrid(np.arange(chain.grid.width), np.arange(chain.grid.height))
    columns, rows = (((10 * (value + 0.5) - 5) / 20) - 0.5 for value in (x, y))
    found = image(chain.path("input.tif"))[4]
    inside = (slice(6, -6), slice(6, -6))
    np.testing.assert_allclose(found[inside], (2000 + 20 * columns + 10 * rows - 1000)[inside], atol=1)
    assert chain.steps.records["input"]["parameters"]["resampling"] == "cubic"
    with pytest.raises(UsageError, match="resampling is 'sinc'"):
        read_settings(resampling="sinc")


def test_a_killed_run_goes_on(products, made, tmp_path):
    """Killed with SIGKILL after pansharpening: the same command keeps the finished steps and ends with the same pairs."""
    out = tmp_path / "pairs"
    command = [
        sys.executable,
        "-m",
        "otbsr",
        "pairs",
        *map(str, products),
        "-o",
        str(out),
        "--patch",
        "16",
        "--step",
        "8",
        "--block",
        "24",
        "--valid",
        "0.2",
        "--seed",
        "1",
    ]
    command += ["--quiet", "--keep"]
    process = subprocess.Popen(command, start_new_session=True)
    record, deadline = tmp_path / "pairs.steps" / "pansharpening.json", time.monotonic() + 240
    while not record.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert record.exists()
    assert not out.exists()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "pairs.steps").iterdir() if not path.name.startswith("partial.")}
    subprocess.run(command, check=True, capture_output=True)
    for name in ("input.tif", "masks.tif", "spot_pan.tif", "spot_multispectral.tif", "sharp.tif"):
        assert (tmp_path / "pairs.steps" / name).stat().st_mtime_ns == before[name]
    assert not list((tmp_path / "pairs.steps").glob("partial.*"))
    for name in ("train_lr.tif", "train_target.tif", "valid_target.tif"):
        np.testing.assert_array_equal(image(out / name), image(made[0] / name))


def test_steps_are_made_again_when_what_they_depend_on_changes(tmp_path):
    made = []

    def make(name, fail=False):
        def write(path):
            made.append(name)
            path.write_text(name)
            if fail:
                raise InputError("stopped")
            return {"of": name}

        return write

    for first, second in ((1, 1), (1, 1), (1, 2), (2, 2)):
        steps = Steps(tmp_path / "steps")
        steps.run("a", {"value": first}, ["a.txt"], make("a"))
        assert steps.run("b", {"value": second}, ["b.txt"], make("b")) == {"of": "b"}
        with pytest.raises(OutputError, match="another run works in it"):
            Steps(tmp_path / "steps")
        steps.close(remove=False)
    assert made == ["a", "b", "b", "a", "b"]
    (tmp_path / "steps" / "b.txt").unlink()
    steps = Steps(tmp_path / "steps")
    steps.run("a", {"value": 2}, ["a.txt"], make("a"))
    with pytest.raises(InputError, match="stopped"):
        steps.run("b", {"value": 2}, ["b.txt"], make("b", fail=True))
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == [".steps", "a.json", "a.txt"], "no half product, no record of it"
    steps.close(remove=True)
    assert not (tmp_path / "steps").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("of the user")
    with pytest.raises(OutputError, match="holds no steps of pairs"):
        Steps(tmp_path / "mine")


def rpcs_of(grid):
    """RPC of a map's grid at height 0: a second-order fit of (row, column) on longitude and latitude, good to a centimetre over 2 km."""
    x, y = (values.ravel() for values in np.meshgrid(np.linspace(grid.left, grid.right, 12), np.linspace(grid.bottom, grid.top, 12)))
    longitude, latitude = (np.array(values) for values in transform(grid.crs, "EPSG:4326", x, y))
    column, row = grid.position(x, y)
    # RPC count from pixels' centres.
    column, row = column - grid.position(*grid.centre(0, 0))[0], row - grid.position(*grid.centre(0, 0))[1]
    middles = {"long": longitude.mean(), "lat": latitude.mean(), "line": row.mean(), "samp": column.mean()}
    scales = {"long": np.ptp(longitude), "lat": np.ptp(latitude), "line": np.ptp(row), "samp": np.ptp(column)}
    u, v = (longitude - middles["long"]) / scales["long"], (latitude - middles["lat"]) / scales["lat"]
    terms = np.stack([np.ones_like(u), u, v, u * v, u * u, v * v], -1)
    places = [0, 1, 2, 4, 7, 8]
    numerators = {}
    for name, values in (("line", row), ("samp", column)):
        numbers = np.zeros(20)
        numbers[places] = np.linalg.lstsq(terms, (values - middles[name]) / scales[name], rcond=None)[0]
        numerators[name] = numbers.tolist()
    one = [1.0] + [0.0] * 19
    return RPC(
        height_off=0.0, height_scale=500.0, lat_off=middles["lat"], lat_scale=scales["lat"], line_den_coeff=one, line_num_coeff=numerators["line"],
        line_off=middles["line"], line_scale=scales["line"], long_off=middles["long"], long_scale=scales["long"], samp_den_coeff=one,
        samp_num_coeff=numerators["samp"], samp_off=middles["samp"], samp_scale=scales["samp"],
    )  # fmt: skip


def test_sensor_geometry_is_orthorectified(products, applications, tmp_path):
    """The bundle without its map, with RPC that lead back to it: the planted shift is found again."""
    spot = open_product(products[1]).renamed()
    bands = {}
    for name in ("pan", "B4"):
        band = spot.bands[name]
        with rasterio.open(band.path) as source:
            values, grid = source.read(), Grid.of(source)
        path = tmp_path / f"{name}.tif"
        with rasterio.open(path, "w", driver="GTiff", width=grid.width, height=grid.height, count=len(values), dtype=values.dtype, rpcs=rpcs_of(grid)) as file:
            file.write(values)
        names = ("pan",) if name == "pan" else ("B4", "B3", "B2", "B8")
        bands |= {one: replace(spot.bands[one], path=path, files=()) for one in names}
    sensor = replace(spot, bands=bands, layers=(), sensor=True)
    chain = chain_of(open_product(products[0]), sensor, tmp_path / "steps")
    chain.input()
    found = chain.align(chain.sharp())
    np.testing.assert_allclose(found.shift, SHIFT, atol=0.2)
    assert {"orthorectification_pan", "orthorectification_multispectral"} <= set(chain.steps.records)
    # The lines of a dry run, pasted among the steps' files, make the same.
    steps, out = chain.steps.folder, tmp_path / "pairs"
    before = {path: image(path) for path in steps.glob("*.tif") if path.name.endswith("_map.tif") or path.name == "sharp.tif"}
    text = "\n".join(meeting_lines(chain, out)).replace(str(steps_of(out)), str(steps))
    for path in [*before, *steps.glob("*.geom")]:
        path.unlink()
    subprocess.run(["sh", "-ec", text.partition("otbcli_PatchesSelection")[0]], check=True, capture_output=True)
    assert len(before) == 3 and all(np.array_equal(image(path), pixels) for path, pixels in before.items())
    without = replace(sensor, bands={name: replace(band, path=world_file(products)) for name, band in bands.items()})
    with pytest.raises(InputError, match=r"has no RPC \(RPC_\*\.XML\); fetch the whole product"):
        chain_of(open_product(products[0]), without, tmp_path / "other")


def world_file(products):
    return products[0].parent / "sentinel2_10m.tif"


def test_another_coordinate_system_is_reprojected(products, made, applications, tmp_path):
    """Spot in the next UTM zone: the same shift, to a fifth of a metre."""
    from otbsr.pairs.orthorectification import reproject

    steps = made[0].with_name("pairs.steps")
    reproject(steps / "sharp.tif", tmp_path / "spot.tif", "EPSG:2154")
    chain = chain_of(open_product(products[0]), open_product(tmp_path / "spot.tif"), tmp_path / "steps")
    chain.input()
    found = chain.align(chain.sharp())
    assert "reprojection" in chain.steps.records
    np.testing.assert_allclose(found.shift, SHIFT, atol=0.2)


def test_refusals(world, products, tmp_path):
    sentinel2, spot = open_product(products[0]), open_product(products[1]).renamed()
    with pytest.raises(OutputError, match="exists already"):
        make_pairs(*products, world)
    with pytest.raises(InputError, match=r"they are 61 days apart, at most 5 are allowed \(--days\)"):
        chain_of(sentinel2, replace(spot, date=date(2023, 8, 14)), tmp_path / "s", ChainSettings(days=5))
    with pytest.raises(InputError, match="a date is not known, at most 5 are allowed"):
        chain_of(sentinel2, replace(spot, date=None), tmp_path / "s", ChainSettings(days=5))
    with pytest.raises(UsageError, match="bands are B11; expected at least one that Spot has too"):
        chain_of(sentinel2, spot, tmp_path / "s", ChainSettings(bands=("B11",)))
    with pytest.raises(InputError, match=r"its sharpest band has 6 m, the target needs 2.5 m or finer; add the panchromatic image"):
        chain_of(sentinel2, replace(spot, bands={name: band for name, band in spot.bands.items() if name != "pan"}), tmp_path / "s")
    with rasterio.open(world / "spot_2m5.tif") as source:
        profile, values = source.profile, source.read()
    profile["transform"] = rasterio.Affine(2.5, 0, 600000, 0, -2.5, 4830000)
    with rasterio.open(tmp_path / "away.tif", "w", **profile) as file:
        file.write(values)
        file.descriptions = ("B4", "B3", "B2", "B8")
    with pytest.raises(GridError, match=r"share 0 x .* input pixels, expected at least 16 x 16, a patch; choose products of the same place"):
        chain_of(sentinel2, open_product(tmp_path / "away.tif"), tmp_path / "s")
    with pytest.raises(UsageError, match="method is 'ihs'"):
        read_settings(method="ihs")
    with pytest.raises(InputError, match="no such file or folder"):
        make_pairs(tmp_path / "nothing.SAFE", products[1], tmp_path / "out")
    bands = {name: Band(name, world_file(products), i, 10.0, nodata=-10000) for i, name in enumerate(("B4", "B3", "B2", "B8"), 1)}
    assert Product("x", "image", world, None, bands).grid(["B4"]).dx == 10


def test_resampling_moves_blurs_and_harmonises_once(tmp_path):
    """A cosine: out(x) = gain * MTF * cos(2 pi f (x + shift)) + bias, on another grid; pixels that see none are no-data."""
    from otbsr.pairs.alignment import Array
    from otbsr.pairs.resample import resample

    source = Grid(1000.0, 2000.0, 1.5, 1.5, 400, 400, "EPSG:32631")
    target = Grid(1100.0, 1900.0, 2.5, 2.5, 150, 140, "EPSG:32631")
    x, _ = source.axes(rasterio.windows.Window(0, 0, 400, 400))
    frequency, variance = 0.05, 0.9
    values = np.tile(0.3 + 0.1 * np.cos(2 * np.pi * frequency * x), (1, 400, 1)).astype(np.float32)
    values[:, :, 130] = np.nan
    field = Field(target.bounds, (4.0,), (-3.0,))
    resample(Array(values, source, ["B4"]), tmp_path / "out.tif", target, field, variance, [1.5], [-0.1], block=64)
    with rasterio.open(tmp_path / "out.tif") as file:
        assert (file.nodata, file.dtypes[0], file.descriptions) == (-10000, "int16", ("B4",))
        Grid.of(file).require_same(target, "out")
        out = file.read(1)
    lost = out == -10000
    column = target.position(source.centre(130, 0)[0] - 4.0, 0)[0]
    assert lost[:, int(column)].all()
    assert lost.any(0).sum() < 16
    wanted, _ = target.axes(rasterio.windows.Window(0, 0, 150, 140))
    mtf = np.exp(-2 * (np.pi * frequency) ** 2 * variance) * np.sinc(2.5 * frequency) / np.sinc(1.5 * frequency)
    expected = (1.5 * (0.3 + 0.1 * mtf * np.cos(2 * np.pi * frequency * (wanted + 4.0))) - 0.1) * 1e4
    assert np.abs(np.where(lost, 0, out - expected[None])).max() < 4
