"""Blocks, folds and the refusal of leaks, by hand-made areas and sidecars."""

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from drawn_area import draw_area, parcels, town
from rasterio.warp import transform_bounds

from otbsr.errors import InputError, ModelError, UsageError
from otbsr.evaluation.area import Area, open_areas
from otbsr.evaluation.blocks import Blocks, assign_folds, refuse_leak, refuse_samples_in_test, training_polygons, training_record
from otbsr.grid import Grid
from otbsr.methods.model_folder import ModelFolder

MODELS = Path(__file__).parents[3] / "models"
GRID = Grid(1000.0, 9000.0, 2.5, 2.5, 400, 600, "EPSG:32631")


@pytest.fixture(scope="module")
def area(tmp_path_factory: pytest.TempPathFactory) -> Area:
    return Area.open(draw_area(tmp_path_factory.mktemp("areas") / "real", town(160)))


def trained(training: dict[str, object]) -> ModelFolder:
    folder = ModelFolder.open(MODELS / "bicubic-x4")
    return ModelFolder(folder.path, folder.sidecar.model_copy(update={"method": "fidelity", "name": "mine", "training": training}))


def test_blocks_cover_the_area_once() -> None:
    blocks = Blocks.cut(GRID, 500)
    assert len(blocks.outlines) == 6 and np.bincount(blocks.index.ravel()).tolist() == [40000] * 6
    assert sum(one.area for one in blocks.outlines) == shapely.union_all(list(blocks.outlines)).area == 1000 * 1500
    assert blocks.outlines[0].bounds == (1000, 8500, 1500, 9000) and blocks.outlines[5].bounds == (1500, 7500, 2000, 8000)
    for x, y in ((1001, 8999), (1999, 8001), (1400, 7501)):
        column, row = (int(v) for v in GRID.position(x, y))
        assert blocks.outlines[blocks.index[row, column]].contains(shapely.Point(x, y))
    assert len(Blocks.cut(GRID, 5000).outlines) == 1
    labels = np.ones((600, 400), np.uint8)
    labels[:200, :200], labels[200:210] = 2, 0
    assert blocks.count(labels, 2).tolist() == [[0, 40000], [40000, 0], [38000, 0], [38000, 0], [40000, 0], [40000, 0]]


def test_folds_are_equal_in_size_and_spread_the_classes() -> None:
    content = np.zeros((12, 4), int)
    content[:, 0] = 100
    content[[0, 1, 2], 1] = 50  # a class in three blocks: one for each fold
    content[[5, 6, 7], 2] = 10
    content[3, 3] = 5  # a class in one block cannot be spread
    for seed in range(3):
        folds = assign_folds(content, 3, seed)
        assert np.bincount(folds).tolist() == [4, 4, 4]
        assert sorted(folds[:3]) == [0, 1, 2] and sorted(folds[5:8]) == [0, 1, 2]
        assert np.array_equal(folds, assign_folds(content, 3, seed))
    assert not np.array_equal(assign_folds(content, 3, 0), assign_folds(content, 3, 1))
    assert sorted(assign_folds(content[:4], 5, 0)) == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="1 blocks and 1 folds, expected 2 at least"):
        assign_folds(content[:1], 5, 0)


def test_training_polygons_keep_away_from_test_blocks() -> None:
    polygons = gpd.GeoDataFrame({"class": [1, 2, 3]}, geometry=[shapely.box(0, 0, 100, 10), shapely.box(0, 20, 40, 30), shapely.box(90, 0, 99, 5)])
    kept = training_polygons(polygons, [shapely.box(80, -50, 200, 50)], 10.0)
    assert kept["class"].tolist() == [1, 2] and kept.geometry[0].bounds == (0, 0, 70, 10) and kept.geometry[1].equals(polygons.geometry[1])
    assert len(training_polygons(polygons, [], 10.0)) == 3


def test_a_sample_in_a_test_block_is_refused_with_its_number(area: Area) -> None:
    blocks = Blocks.cut(area.fine, 200)
    points = gpd.GeoSeries([shapely.Point(*blocks.outlines[3].centroid.coords[0])])
    refuse_samples_in_test(area, blocks, [0], points, 60)
    with pytest.raises(UsageError, match=r"lies 0\.0 m from test block 3, expected 60 m"):
        refuse_samples_in_test(area, blocks, [0, 3], points, 60)
    with pytest.raises(UsageError, match="test block 3"):
        refuse_samples_in_test(area, blocks, [3], points, 0)
    near = gpd.GeoSeries([shapely.Point(blocks.outlines[0].bounds[2] + 59, blocks.outlines[0].bounds[1] + 5)])
    with pytest.raises(UsageError, match=r"lies 59.0 m from test block 0"):
        refuse_samples_in_test(area, blocks, [0], near, 60)


def test_a_simulated_landscape_that_the_network_saw_is_refused(tmp_path: Path) -> None:
    world = Area.open(draw_area(tmp_path / "w", town(160), world={"settings": {"seed": 11}}))
    blocks = Blocks.cut(world.fine, 200)
    assert refuse_leak(world, blocks, ModelFolder.open(MODELS / "bicubic-x4")) == "untrained"
    for key in ("world_seeds", "seeds"):
        with pytest.raises(UsageError, match=r"block 0 .*seed 11 .* mine was trained on; simulate an area with another seed"):
            refuse_leak(world, blocks, trained({key: [10, 11]}))
        with pytest.raises(UsageError, match="block 0"):  # what a blend's parts and earlier trainings saw counts too
            refuse_leak(world, blocks, trained({"seeds": [1], "history": [{key: [11]}]}))
        assert refuse_leak(world, blocks, trained({key: [10, 12]})) == "unseen"
        assert refuse_leak(world, blocks, trained({key: []})) == "unknown"
        with pytest.raises(ModelError, match="expected integers"):
            refuse_leak(world, blocks, trained({key: ["eleven"]}))
    assert refuse_leak(world, blocks, trained({"seed": 11})) == "unknown"  # the seed of the weights, not of a landscape
    # All simulated landscapes have the same coordinates: where they lie says nothing.
    everywhere = {"crs": "EPSG:32631", "bounds": [0, 0, 900000, 9000000]}
    assert refuse_leak(world, blocks, trained({"seeds": [1], "footprints": [everywhere]})) == "unseen"


def test_a_planted_footprint_is_refused_with_its_block(area: Area) -> None:
    blocks = Blocks.cut(area.fine, 200)
    left, bottom, right, top = blocks.outlines[2].bounds
    planted = [left + 150, bottom + 150, left + 170, bottom + 160]
    with pytest.raises(UsageError, match=rf"block 2 \({left:.0f}, {bottom:.0f}, {right:.0f}, {top:.0f}\) lies in the training area of mine"):
        refuse_leak(area, blocks, trained({"footprints": [{"crs": "EPSG:32631", "bounds": planted}]}))
    where = gpd.GeoSeries([shapely.box(*planted)], crs=32631).to_crs(4326).total_bounds.tolist()
    with pytest.raises(UsageError, match="block 2"):
        refuse_leak(area, blocks, trained({"footprints": [{"crs": "EPSG:4326", "bounds": where}]}))
    beside = [area.fine.right, bottom, area.fine.right + 10, top]
    assert refuse_leak(area, blocks, trained({"footprints": [{"crs": "EPSG:32631", "bounds": beside}]})) == "unseen"
    assert refuse_leak(area, blocks, trained({"footprints": []})) == refuse_leak(area, blocks, trained({"footprints": [], "areas_complete": True})) == "unseen"
    assert refuse_leak(area, blocks, trained({"footprints": [], "areas_complete": False})) == "unknown"
    with pytest.raises(UsageError, match="block 2"):
        refuse_leak(area, blocks, trained({"footprints": [{"crs": "EPSG:32631", "bounds": planted}], "areas_complete": False}))
    assert refuse_leak(area, blocks, trained({"footprints": [{"crs": "", "bounds": planted}]})) == "unseen"
    assert refuse_leak(area, blocks, trained({"seeds": [1]})) == "unknown"
    for spoiled in ({"crs": "EPSG:32631"}, {"crs": "EPSG:32631", "bounds": [5, 5, 1, 9]}, 7):
        with pytest.raises(ModelError, match=r"expected .*bounds"):
            refuse_leak(area, blocks, trained({"footprints": [spoiled]}))
    with pytest.raises(ModelError, match="nowhere"):
        refuse_leak(area, blocks, trained({"footprints": [{"crs": "nowhere", "bounds": [0, 0, 1, 1]}]}))


def test_the_shipped_networks_are_refused_on_their_own_landscapes(tmp_path: Path) -> None:
    """Reads the committed sidecars: what training writes is what the study looks for."""
    for name in ("f-light-x4", "f-base-x4", "p-base-x4"):
        folder = ModelFolder.open(MODELS / name)
        seed = training_record(folder)["seeds"][0]
        world = Area.open(draw_area(tmp_path / name, town(160), world={"settings": {"seed": seed}}))
        with pytest.raises(UsageError, match=f"seed {seed} .*{name}"):
            refuse_leak(world, Blocks.cut(world.fine, 200), folder)


def test_areas_of_one_study_are_apart_and_alike(tmp_path: Path) -> None:
    one = draw_area(tmp_path / "x" / "one", town(80))
    two = draw_area(tmp_path / "y" / "one", town(80), left=700000)
    assert [area.name for area in open_areas([one, two])] == ["one", "one-2"]
    with pytest.raises(UsageError, match="show the same ground"):
        open_areas([one, draw_area(tmp_path / "shifted", town(80), left=600100)])
    left, _, _, top = transform_bounds("EPSG:32631", "EPSG:32630", *Area.open(one).fine.bounds)
    with pytest.raises(UsageError, match="show the same ground"):
        open_areas([one, draw_area(tmp_path / "zone", town(80), left=left, top=top, crs="EPSG:32630")])
    with pytest.raises(UsageError, match=r"legend\.json differs"):
        open_areas([one, draw_area(tmp_path / "legend", parcels(80, 40, 2), {2: (0, 0, 0, 0), 1: (9, 9, 9, 9)}, left=700000)])
    worlds = [draw_area(tmp_path / f"w{i}", town(80), world={"settings": {"seed": seed}}) for i, seed in enumerate((3, 4, 3))]
    assert len(open_areas(worlds[:2])) == 2
    with pytest.raises(UsageError, match="same ground"):
        open_areas(worlds)


def test_an_area_says_what_it_lacks(tmp_path: Path, area: Area) -> None:
    with pytest.raises(InputError, match="no such folder"):
        Area.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match="otbsr simulate"):
        Area.open(tmp_path)
    spoiled = draw_area(tmp_path / "spoiled", town(80))
    (spoiled / "legend.json").write_text(json.dumps({"classes": [{"code": 1, "name": "a"}, {"code": 3, "name": "b"}]}))
    with pytest.raises(InputError, match="class codes are"):
        Area.open(spoiled)
    (spoiled / "legend.json").write_text(json.dumps({"classes": [{"code": 1, "name": "a"}, {"code": 2, "name": "b"}]}))
    with pytest.raises(InputError, match="class code 3 is not among"):
        Area.open(spoiled).labels()
    (spoiled / "spot_2m5.tif").write_bytes((spoiled / "spot_2m5.tif").read_bytes()[:-2000])
    with pytest.raises(InputError, match="spot_2m5"):
        Area.open(spoiled)


def test_labels_from_vectors_clouds_and_merged_classes(tmp_path: Path) -> None:
    folder = draw_area(tmp_path / "v", town(80), world={"settings": {}})
    area = Area.open(folder)
    labels = area.labels()
    assert np.array_equal(labels, town(80)) and [one["role"] for one in area.classes] == ["building", "", "road"]
    merged = Area.open(folder, artificial=True)
    assert np.array_equal(merged.labels(), np.where(labels == 2, 2, 1)) and [one["name"] for one in merged.classes] == ["artificial", "other"]
    assert set(merged.polygons()["class"]) == {1, 2}
    left, top = area.fine.left, area.fine.top
    table = gpd.GeoDataFrame({"class": [2, 1]}, geometry=[shapely.box(left, top - 200, left + 200, top), shapely.box(left, top - 10, left + 5, top)], crs=32631)
    table.to_file(folder / "landcover.gpkg", driver="GPKG")
    drawn = Area.open(folder).labels()
    assert (drawn[:4, :2] == 1).all() and (drawn == 1).sum() == 8 and (drawn == 2).sum() == 80 * 80 - 8
    import rasterio

    with rasterio.open(folder / "sentinel2_10m.tif") as dataset:
        profile, pixels = dataset.profile, dataset.read()
    with rasterio.open(folder / "clouds_10m.tif", "w", **{**profile, "count": 1, "dtype": "uint8", "nodata": None}) as dataset:
        dataset.write(np.eye(20, dtype=np.uint8), 1)
    pixels[2, 0, 5] = -10000
    with rasterio.open(folder / "sentinel2_10m.tif", "w", **profile) as dataset:
        dataset.write(pixels)
    seen = Area.open(folder).labels()
    assert (seen == 0).sum() == 21 * 16 and not seen[:4, 20:24].any() and not seen[76:, 76:].any()
