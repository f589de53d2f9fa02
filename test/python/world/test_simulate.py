"""A world as a whole: its files, grids, proportions, products, and what happens on a second call."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas
import numpy as np
import pytest
import rasterio
from image_files import read

from otbsr.errors import OutputError, UsageError
from otbsr.grid import Grid
from otbsr.world import materials, sensors
from otbsr.world.landscape import LandCover
from otbsr.world.simulate import BANDS, WorldSettings, fine_grid, simulate

PRODUCTS = ("safe", "theia", "dimap")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A clear world with all products."""
    folder = tmp_path_factory.mktemp("world") / "a"
    return folder, simulate(folder, WorldSettings.parse(seed=5, extent=720, products=PRODUCTS))


@pytest.fixture(scope="module")
def cloudy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same place under clouds, with a Spot image 60 days later, moved and miscalibrated, all noise off."""
    folder = tmp_path_factory.mktemp("world") / "b"
    simulate(
        folder,
        WorldSettings.parse(seed=5, extent=720, cloud_cover=0.25, date_gap=60, shift=(2.5, -5.0), gain=1.2, bias=0.01, noise=0.0, products=("safe", "theia")),
    )
    return folder


def test_grids_nest_and_bands_are_named(world: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = world
    coarse = Grid.read(folder / "sentinel2_10m.tif")
    assert (coarse.left % 60, coarse.top % 60, coarse.width) == (0, 0, 72)
    for name in ("reference_2m5.tif", "spot_2m5.tif", "landcover_2m5.tif"):
        assert coarse.factor_to(Grid.read(folder / name)) == 4
    for name in ("sentinel2_10m.tif", "reference_2m5.tif", "spot_2m5.tif"):
        with rasterio.open(folder / name) as file:
            assert (file.descriptions, file.nodata, set(file.dtypes), file.crs.to_epsg()) == (BANDS, -10000, {"int16"}, 32631)


def test_sentinel2_is_the_degraded_reference_plus_the_declared_noise(world: tuple[Path, dict[str, Any]]) -> None:
    folder, content = world
    sentinel2 = np.moveaxis(read(folder / "sentinel2_10m.tif"), 0, -1)
    degraded = sensors.degrade(np.moveaxis(read(folder / "reference_2m5.tif"), 0, -1))
    difference = (sentinel2 - degraded)[4:-4, 4:-4] * 1e-4
    for index, name in enumerate(BANDS):
        assert difference[..., index].std() == pytest.approx(content["noise"][name], rel=0.06)
        assert abs(difference[..., index].mean()) < 4 * content["noise"][name] / 64


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """All 13 bands at x2 with a SAFE, noise off."""
    folder = tmp_path_factory.mktemp("world") / "s"
    return folder, simulate(folder, WorldSettings.parse(seed=5, extent=720, noise=0.0, bands=("all",), factor=2, products=("safe",)))


def test_coarser_bands_are_their_own_pixels_repeated(stacked: tuple[Path, dict[str, Any]]) -> None:
    folder, content = stacked
    assert content["pair"] | {"bands": 0} == {"input": "sentinel2_stack_10m.tif", "target": "reference_stack_5m.tif", "bands": 0, "factor": 2}
    stack = read(folder / "sentinel2_stack_10m.tif")
    with rasterio.open(folder / "sentinel2_stack_10m.tif") as file:
        names = file.descriptions
    assert sorted(names) == sorted(materials.SENTINEL2_BANDS)
    assert names[:4] == BANDS and np.array_equal(stack[:4], read(folder / "sentinel2_10m.tif"))
    safe = next(folder.glob("S2A_MSIL2A_*.SAFE"))
    for index, name in enumerate(names):
        if name == "B10":  # not in Level-2A
            continue
        spacing = round(sensors.SENTINEL2[name].spacing)
        code = name if name == "B8A" else f"B{int(name[1:]):02d}"
        own = read(next(safe.glob(f"GRANULE/*/IMG_DATA/R{spacing}m/*_{code}_{spacing}m.jp2")))[0].astype(int) - 1000
        assert np.array_equal(stack[index], own.repeat(spacing // 10, 0).repeat(spacing // 10, 1)), name


@pytest.mark.parametrize("name", materials.SENTINEL2_BANDS)
def test_each_band_is_its_reference_seen_through_its_own_pixel(stacked: tuple[Path, dict[str, Any]], name: str) -> None:
    """Without noise: what is left is the rounding of both, and the kernel's being sampled at 5 m."""
    folder, content = stacked
    index, ratio = content["pair"]["bands"].index(name), round(sensors.SENTINEL2[name].spacing / 10)
    sharp, seen = (read(folder / content["pair"][key])[index].astype(np.float32) for key in ("target", "input"))
    difference = sensors.degrade(sharp[..., None], 2 * ratio, (name,))[..., 0] - seen[::ratio, ::ratio]
    inner = difference[2:-2, 2:-2]
    assert inner.size >= 64
    worst, mean = (20, 2.5) if ratio == 1 else (2, 0.5)  # DN; rounding alone leaves 0.3, a kernel of two 5 m pixels is a rough one
    assert np.abs(inner).max() < worst and np.sqrt((inner**2).mean()) < mean, (np.abs(inner).max(), inner.std())
    assert sharp.std() > seen.std(), "the reference is the sharper one"


@pytest.mark.parametrize(("factor", "name", "width"), [(2, "5m", 96), (3, "3m33", 144), (5, "2m", 240), (6, "1m67", 288), (8, "1m25", 384)])
def test_references_of_other_factors_nest_and_show_the_same_ground(factor: int, name: str, width: int, tmp_path: Path) -> None:
    made = simulate(tmp_path / "w", WorldSettings.parse(seed=5, extent=480, factor=factor))
    assert made["pair"]["target"] == f"reference_{name}.tif" and made["pair"]["input"] == "sentinel2_10m.tif"
    fine, coarse = (Grid.read(tmp_path / "w" / made["pair"][key]) for key in ("target", "input"))
    assert coarse.factor_to(fine) == factor and (fine.width, fine.height) == (width, width)
    means = [
        read(tmp_path / "w" / file).reshape(4, 48, size, 48, size).mean((2, 4)) for file, size in ((f"reference_{name}.tif", factor), ("reference_2m5.tif", 4))
    ]
    inner = (means[0] - means[1])[:, 1:-1, 1:-1]
    assert np.abs(inner.mean()) < 2 and inner.std() < 0.15 * means[1].std()


def test_a_world_made_before_bands_and_factors_is_still_this_world(tmp_path: Path) -> None:
    settings = WorldSettings.parse(extent=480, seed=9)
    simulate(tmp_path / "w", settings)
    path = tmp_path / "w" / "world.json"
    content = json.loads(path.read_text())
    del content["settings"]["bands"], content["settings"]["factor"], content["pair"]
    path.write_text(json.dumps(content))
    again = simulate(tmp_path / "w", settings)
    assert again["cached"] and again["pair"]["target"] == "reference_2m5.tif"
    with pytest.raises(OutputError, match="--overwrite"):
        simulate(tmp_path / "w", WorldSettings.parse(extent=480, seed=9, bands=("ten",)))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_class_is_there_in_sane_proportions(seed: int, tmp_path: Path) -> None:
    from otbsr.world.landscape import make_landscape
    from otbsr.world.scene import Scene
    from otbsr.world.simulate import MARGIN

    grid = fine_grid(1200)
    scene = Scene(make_landscape(seed, 1200 + 2 * MARGIN, 0.4, 0.6), grid, seed, 165, (60.0, 140.0))
    share = np.bincount(scene.land_cover().ravel(), minlength=10) / (grid.width * grid.height)
    assert share[0] == 0
    bounds = {"BUILDING": (0.02, 0.15), "ROAD": (0.05, 0.25), "BARE_SOIL": (0.002, 0.25), "CROP": (0.1, 0.5), "GRASSLAND": (0.02, 0.3)}
    bounds |= {"BROADLEAF": (0.02, 0.4), "CONIFER": (0.0005, 0.3), "WATER": (0.002, 0.15), "GARDEN": (0.08, 0.35)}
    for name, (low, high) in bounds.items():
        assert low <= share[LandCover[name]] <= high, (name, share[LandCover[name]])


def test_legend_and_proportions_agree_with_the_map(world: tuple[Path, dict[str, Any]]) -> None:
    folder, content = world
    legend = json.loads((folder / "legend.json").read_text("utf-8"))["classes"]
    codes = read(folder / "landcover_2m5.tif")
    assert {c["code"] for c in legend} >= set(np.unique(codes).tolist())
    assert sum(content["proportions"].values()) == pytest.approx(1.0)
    assert [c["name"] for c in legend if c["artificial"]] == ["building", "road and paved"]


def test_polygons_have_the_class_that_the_map_has(world: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = world
    polygons = geopandas.read_file(folder / "polygons.gpkg", layer="polygons")
    assert polygons.crs.to_epsg() == 32631
    assert len(set(polygons["id"])) == len(polygons)
    assert polygons["class"].nunique() >= 8
    assert (polygons["class"].value_counts() >= 3).sum() >= 8
    assert polygons.area.min() < 150
    assert polygons.area.max() > 800
    with rasterio.open(folder / "landcover_2m5.tif") as file:
        codes, transform = file.read(1), file.transform
    from rasterio.features import rasterize

    burnt = rasterize(zip(polygons.geometry, polygons["class"], strict=True), out_shape=codes.shape, transform=transform)
    assert (codes[burnt > 0] == burnt[burnt > 0]).mean() > 0.95


def test_same_settings_same_pixels_in_another_process(world: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = world
    settings = ["--seed", "5", "--extent", "720", "--products", "safe,theia,dimap", "--quiet"]
    subprocess.run([sys.executable, "-m", "otbsr", "simulate", str(tmp_path / "again"), *settings], check=True, capture_output=True)
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in (".tif", ".jp2")]
    assert len(names) > 20
    for name in names:
        assert np.array_equal(read(folder / name), read(tmp_path / "again" / name)), name


def test_another_seed_is_another_place(world: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    simulate(tmp_path / "c", WorldSettings.parse(seed=6, extent=720))
    assert (read(world[0] / "landcover_2m5.tif") != read(tmp_path / "c" / "landcover_2m5.tif")).mean() > 0.3


def test_second_call_is_cached_and_another_world_is_refused(world: tuple[Path, dict[str, Any]]) -> None:
    folder, content = world
    before = (folder / "sentinel2_10m.tif").stat().st_mtime_ns
    start = time.perf_counter()
    again = simulate(folder, WorldSettings.parse(seed=5, extent=720, products=PRODUCTS))
    assert time.perf_counter() - start < 0.5
    assert again["cached"]
    assert again["noise"] == content["noise"]
    with pytest.raises(OutputError, match="--overwrite"):
        simulate(folder, WorldSettings.parse(seed=6, extent=720))
    assert (folder / "sentinel2_10m.tif").stat().st_mtime_ns == before


def test_a_folder_that_is_no_world_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="not a simulated world"):
        simulate(tmp_path, WorldSettings.parse(extent=480), overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_unwritable_folder_and_full_disk_are_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        simulate(tmp_path / "file" / "w", WorldSettings.parse(extent=480))
    # As on a full disk: the last bytes of one file never arrive, and nobody raises.
    monkeypatch.setattr("otbsr.world.simulate.write_spot", lambda folder, *_: (folder / "spot_2m5.tif").write_bytes(b"II*\0"))
    with pytest.raises(OutputError, match="space left"):
        simulate(tmp_path / "w", WorldSettings.parse(extent=480))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_incomplete_world_is_made_again_with_overwrite(tmp_path: Path) -> None:
    settings = WorldSettings.parse(extent=480, seed=9)
    simulate(tmp_path / "w", settings)
    (tmp_path / "w" / "spot_2m5.tif").unlink()
    with pytest.raises(OutputError, match="incomplete"):
        simulate(tmp_path / "w", settings)
    assert not simulate(tmp_path / "w", settings, overwrite=True)["cached"]
    assert (tmp_path / "w" / "spot_2m5.tif").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"extent": 1000}, "extent is 1000: must be a multiple of 60"),
        ({"urban": 1.5}, "urban is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"shift": (90.0, 0.0)}, "at most 30 m"),
        ({"products": ("landsat",)}, "landsat"),
        ({"colour": 1}, "colour"),
        ({"factor": 7}, "factor is 7: Input should be 2, 3, 4, 5, 6 or 8"),
        ({"bands": ("B4", "B13")}, "B13 is no band of Sentinel-2; give ten, all, or some of B1, B2"),
        ({"bands": ("B4", "B4")}, "a band is named twice"),
        ({"bands": ()}, "bands is"),
    ],
)
def test_bad_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        WorldSettings.parse(**values)


def test_safe_opens_and_its_offset_gives_back_the_reflectance(world: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = world
    safe = next(folder.glob("S2A_MSIL2A_*.SAFE"))
    root = ElementTree.parse(safe / "MTD_MSIL2A.xml").getroot()
    assert {node.text for node in root.iter("BOA_ADD_OFFSET")} == {"-1000"}
    direct = read(folder / "sentinel2_10m.tif")
    for index, code in enumerate(("B04", "B03", "B02", "B08")):
        file = next(safe.glob(f"GRANULE/*/IMG_DATA/R10m/*_{code}_10m.jp2"))
        assert np.array_equal(read(file)[0].astype(int) - 1000, direct[index])
        assert Grid.read(file).same(Grid.read(folder / "sentinel2_10m.tif"))
    sizes = {spacing: {Grid.read(file).width for file in safe.glob(f"GRANULE/*/IMG_DATA/R{spacing}m/*.jp2")} for spacing in (10, 20, 60)}
    assert sizes == {10: {72}, 20: {36}, 60: {12}}
    with rasterio.open(f"SENTINEL2_L2A:{safe / 'MTD_MSIL2A.xml'}:10m:EPSG_32631") as file:
        assert Grid.of(file).same(Grid.read(folder / "sentinel2_10m.tif"))


def test_theia_folder_has_the_same_reflectance(world: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = world
    theia = next(folder.glob("SENTINEL2A_*"))
    direct = read(folder / "sentinel2_10m.tif")
    for index, band in enumerate(BANDS):
        assert np.array_equal(read(next(theia.glob(f"*_FRE_{band}.tif")))[0], direct[index])
    assert len(list(theia.glob("*_FRE_B*.tif"))) == 10
    assert read(next(theia.glob("MASKS/*_CLM_R1.tif"))).max() == 0


def test_dimap_opens_and_its_calibration_gives_back_the_reflectance(world: tuple[Path, dict[str, Any]]) -> None:
    folder, content = world
    multispectral = next(folder.glob("PROD_SPOT6_001/*/IMG_SPOT6_MS_*/DIM_*.XML"))
    pan = next(folder.glob("PROD_SPOT6_001/*/IMG_SPOT6_P_*/DIM_*.XML"))
    frame = Grid.read(folder / "sentinel2_10m.tif").bounds
    assert (Grid.read(pan).dx, Grid.read(multispectral).dx) == (1.5, 6.0)
    assert Grid.read(pan).bounds == Grid.read(multispectral).bounds == frame
    root = ElementTree.parse(multispectral).getroot()
    gains = {node.findtext("BAND_ID"): float(node.findtext("GAIN") or "") for node in root.iter("Band_Radiance")}
    suns = {node.findtext("BAND_ID"): float(node.findtext("VALUE") or "") for node in root.iter("Band_Solar_Irradiance")}
    assert list(gains) == ["B2", "B1", "B0", "B3"]
    height = float(root.findtext(".//SUN_ELEVATION") or "")
    assert height == pytest.approx(content["sun"]["elevation"])
    distance = 1.0 - 0.0167 * np.cos(2 * np.pi * (165 - 4) / 365.25)
    numbers = read(multispectral)
    for index, band in enumerate(gains):
        reflectance = np.pi * numbers[index] / gains[band] * distance**2 / (suns[band] * np.sin(np.radians(height)))
        slope, intercept = content["spot_harmonisation"][BANDS[index]]
        truth = read(folder / "reference_2m5.tif")[index].mean() * 1e-4
        assert slope * reflectance.mean() + intercept == pytest.approx(truth, abs=0.006)


def test_clouds_cover_what_was_asked_brighten_and_are_in_the_masks(world: tuple[Path, dict[str, Any]], cloudy: Path) -> None:
    mask = read(cloudy / "clouds_10m.tif")[0]
    assert (mask == 1).mean() == pytest.approx(0.25, abs=0.02)
    assert (mask == 2).any()
    clear, veiled = read(world[0] / "sentinel2_10m.tif")[2].astype(float), read(cloudy / "sentinel2_10m.tif")[2].astype(float)
    assert np.median((veiled - clear)[mask == 1]) > 1000
    assert np.median((veiled / clear)[mask == 2]) < 0.95
    assert np.abs((veiled - clear)[mask == 0]).mean() < 0.2 * np.abs((veiled - clear)[mask == 1]).mean()
    clm = read(next(cloudy.glob("SENTINEL2A_*/MASKS/*_CLM_R1.tif")))[0]
    assert np.array_equal((clm & 2) > 0, mask == 1)
    assert np.array_equal((clm & 1) > 0, mask > 0)
    scl = read(next(cloudy.glob("S2A_*/GRANULE/*/IMG_DATA/R20m/*_SCL_20m.jp2")))[0]
    assert np.array_equal(scl == 9, (mask == 1).reshape(36, 2, 36, 2).any(axis=(1, 3)))


def test_clouds_and_date_leave_the_reference_alone(world: tuple[Path, dict[str, Any]], cloudy: Path) -> None:
    for name in ("reference_2m5.tif", "landcover_2m5.tif"):
        assert np.array_equal(read(world[0] / name), read(cloudy / name))


def test_spot_is_moved_by_the_shift_and_calibrated_by_gain_and_bias(tmp_path: Path) -> None:
    plain, moved = tmp_path / "p", tmp_path / "m"
    base: dict[str, Any] = {"seed": 8, "extent": 480, "noise": 0.0}
    simulate(plain, WorldSettings.parse(**base))
    simulate(moved, WorldSettings.parse(**base, shift=(5.0, -7.5), gain=1.2, bias=0.01))
    first, second = read(plain / "spot_2m5.tif").astype(float), read(moved / "spot_2m5.tif").astype(float)
    # 5 m east and 7.5 m south are two columns and three rows: the same pixels but for rounding.
    difference = second[:, 3:, 2:] - (1.2 * first[:, :-3, :-2] + 100)
    assert np.abs(difference[:, 8:-8, 8:-8]).max() <= 1.2
    assert np.array_equal(read(plain / "sentinel2_10m.tif"), read(moved / "sentinel2_10m.tif"))


def test_with_the_date_crops_change_and_roads_stay(world: tuple[Path, dict[str, Any]], cloudy: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "later", WorldSettings.parse(seed=5, extent=720, date_gap=60, noise=0.0, sun_elevation=60.0))
    simulate(tmp_path / "same", WorldSettings.parse(seed=5, extent=720, noise=0.0, sun_elevation=60.0))
    codes = read(tmp_path / "same" / "landcover_2m5.tif")[0]
    change = np.abs(read(tmp_path / "later" / "spot_2m5.tif")[3].astype(float) - read(tmp_path / "same" / "spot_2m5.tif")[3])
    assert change[codes == LandCover.CROP].mean() > 5 * change[codes == LandCover.ROAD].mean()
