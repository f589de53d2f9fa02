"""Our applications, the graphical model and the style in a real QGIS. It ignores exit status, so pixels and georeferencing are compared."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from desktop import algorithms, built, plain_environment

from otbsr.grid import Grid
from otbsr.serving.otb import run_otb
from otbsr.world.landscape import LEGEND
from otbsr.world.simulate import WorldSettings, simulate

FACTOR, MARGIN = 4, 25


def read(path):
    with rasterio.open(path) as file:
        return file.read(), Grid.of(file), file.dtypes[0]


def test_every_application_is_in_the_toolbox(qgis):
    listed = algorithms(qgis.words("list"))
    assert set(built()) <= listed
    assert {"ImageClassifier", "TrainImagesClassifier", "BandMath"} <= listed
    assert len(listed) > 100


def test_super_resolution(qgis, image, models, tmp_path):
    """The same pixels on the same grid as from the command line; the pixel type is the model's."""
    said = qgis.run("otb:SuperResolution", {"in": image, "model": models / "f-light-x4", "out": tmp_path / "é sr.tif"})
    run_otb("SuperResolution", {"in": image, "model": models / "f-light-x4", "out": tmp_path / "cli.tif"})
    pixels, grid, kind = read(tmp_path / "é sr.tif")
    expected, expected_grid, expected_kind = read(tmp_path / "cli.tif")
    coarse = read(image)[1]
    assert (kind, expected_kind) == ("int16", "int16"), said
    assert grid.same(expected_grid) and grid.same(coarse.refined(FACTOR))
    np.testing.assert_array_equal(pixels, expected)
    source = read(image)[0].astype(float)
    means = pixels.astype(float).reshape(4, 64, FACTOR, 80, FACTOR).mean((2, 4))
    assert np.corrcoef(means.ravel(), source.ravel())[0, 1] > 0.95  # it is this image


def test_tensorflow_model_serve(qgis, image, models, tmp_path):
    """A boolean and a pixel type get through: OTBTF's parameters give what SuperResolution gives."""
    side = {"source1.rfieldx": 16 + 2 * MARGIN, "source1.rfieldy": 16 + 2 * MARGIN, "output.efieldx": 64, "output.efieldy": 64}
    parameters = {"source1.il": image, "model.dir": models / "f-light-x4", "model.fullyconv": "true", "output.spcscale": 0.25, **side}
    said = qgis.run("otb:TensorflowModelServe", {**parameters, "outputpixeltype": 2, "out": tmp_path / "served.tif"})
    run_otb("SuperResolution", {"in": image, "model": models / "f-light-x4", "out": tmp_path / "cli.tif"})
    pixels, grid, kind = read(tmp_path / "served.tif")
    expected, expected_grid, _ = read(tmp_path / "cli.tif")
    assert kind == "int16", said
    assert grid.same(expected_grid)
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_patches(qgis, image, tmp_path):
    """Points on a grid, without the parameters of the strategies that are not chosen; then patches with exactly the image's pixels."""
    size, points = 16, tmp_path / "points.gpkg"
    chosen = {"strategy": "all", "grid.step": size, "grid.psize": size}
    said = qgis.run("otb:PatchesSelection", {"in": image, **chosen, "outtrain": points})
    frame = geopandas.read_file(points)
    source, grid, _ = read(image)
    places = [range(size // 2 + 1, length - size // 2, size) for length in (80, 64)]  # OTBTF's grid
    assert len(frame) == len(places[0]) * len(places[1]) == 12, said
    assert frame.crs == rasterio.open(image).crs
    said = qgis.run(
        "otb:PatchesExtraction",
        {"source1.il": image, "vec": points, "field": "id", "source1.patchsizex": size, "source1.patchsizey": size, "source1.out": tmp_path / "patches.tif"}
        | {"outlabels": tmp_path / "labels.tif", "outputpixeltype": 2},
    )
    with rasterio.open(tmp_path / "patches.tif") as file, rasterio.open(tmp_path / "labels.tif") as column:
        patches, kind, labels = file.read(), file.dtypes[0], column.read()
    assert kind == "int16", said
    assert patches.shape == (4, size * len(frame), size)
    assert labels.ravel().tolist() == frame["id"].tolist()
    for number, point in enumerate(frame.geometry):
        column, row = grid.position(point.x, point.y)
        left, top = round(column - size / 2), round(row - size / 2)
        np.testing.assert_array_equal(patches[:, size * number : size * (number + 1)], source[:, top : top + size, left : left + size])


def test_zero_is_passed(qgis, tmp_path):
    """QGIS leaves out numbers that are 0: as a no-data label it must arrive, the default of -1 would pick class 0 too."""
    labels = np.zeros((12, 12), np.uint8)
    labels[3:9, 3:9] = 1
    with rasterio.open(
        tmp_path / "labels.tif",
        "w",
        driver="GTiff",
        width=12,
        height=12,
        count=1,
        dtype="uint8",
        crs="EPSG:32631",
        transform=rasterio.Affine(10, 0, 0, 0, -10, 0),
    ) as file:
        file.write(labels, 1)
    said = qgis.run("otb:LabelImageSampleSelection", {"inref": tmp_path / "labels.tif", "strategy": "all", "nodata": 0, "outvec": tmp_path / "p.gpkg"})
    found = geopandas.read_file(tmp_path / "p.gpkg")
    assert found["label"].unique().tolist() == [1], said
    assert len(found) == 36


def test_a_failure_is_told(qgis, image, tmp_path):
    """QGIS sees no exit status: the launcher says it in a line that QGIS shows as an error."""
    (tmp_path / "empty").mkdir()
    said = qgis.run("otb:SuperResolution", {"in": image, "model": tmp_path / "empty", "out": tmp_path / "sr.tif"})
    assert "ERROR: SuperResolution ended with exit status 1" in said
    assert "model.json" in said
    assert not (tmp_path / "sr.tif").exists()


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "w"
    simulate(folder, WorldSettings.parse(seed=3, extent=960))
    polygons = geopandas.read_file(folder / "polygons.gpkg")
    polygons[::2].to_file(folder / "train.gpkg")
    polygons[1::2].to_file(folder / "test.gpkg")
    return folder


def test_graphical_model(qgis, world, models, tmp_path):
    """Super-resolve, classify, compare: the file in the profile runs as a whole, and its products agree with each other and with OTB."""
    arms = {
        "super_base:Baseline image": "base",
        "super_sr:Super-resolved image": "sr",
        "map_base:Baseline map": "map_base",
        "map_sr:Super-resolved map": "map_sr",
    }
    products = {key: tmp_path / f"{name}.tif" for key, name in (arms | {"changes:Changes": "changes"}).items()}
    products |= {f"matrix_{arm}:{title} confusion matrix": tmp_path / f"{arm}.csv" for arm, title in (("base", "Baseline"), ("sr", "Super-resolved"))}
    inputs = {"image": world / "sentinel2_10m.tif", "model": models / "f-light-x4", "baseline": models / "bicubic-x4"}
    said = qgis.run(str(qgis.setup.model), {**inputs, "training": world / "train.gpkg", "test": world / "test.gpkg", "field": "class", **products})
    fine = read(inputs["image"])[1].refined(FACTOR)
    found = {}
    for name in ("base", "sr", "map_base", "map_sr", "changes"):
        found[name], grid, _ = read(tmp_path / f"{name}.tif")
        assert grid.same(fine), said
    for name, model in (("base", "baseline"), ("sr", "model")):
        run_otb("SuperResolution", {"in": inputs["image"], "model": inputs[model], "out": tmp_path / "cli.tif"})
        np.testing.assert_array_equal(found[name], read(tmp_path / "cli.tif")[0])
    base, better = found["map_base"], found["map_sr"]
    assert set(np.unique(better)) <= {int(code) for code in LEGEND}
    assert (base != better).any()
    np.testing.assert_array_equal(found["changes"], np.where(base == better, 0, better))
    truth = read(world / "landcover_2m5.tif")[0]
    for arm, drawn in (("base", base), ("sr", better)):
        matrix = np.loadtxt(tmp_path / f"{arm}.csv", delimiter=",", comments="#")
        accuracy = np.trace(matrix) / matrix.sum()
        assert accuracy > 0.4  # nine classes from one small landscape; chance would be 0.1
        assert (drawn == truth).mean() > 0.3


LOADED = """
import json, sys
from qgis.core import QgsApplication, QgsRasterLayer
application = QgsApplication([], False); application.initQgis()
layer = QgsRasterLayer(sys.argv[1], "map")
message, good = layer.loadNamedStyle(sys.argv[2])
picture = layer.previewAsImage(__import__("qgis.PyQt.QtCore", fromlist=["QSize"]).QSize(3, 3))
pixels = [picture.pixelColor(x, y).name() for y in range(3) for x in range(3)]
classes = [[one.value, one.label, one.color.name()] for one in layer.renderer().classes()]
print(json.dumps({"good": good, "type": layer.renderer().type(), "classes": classes, "pixels": pixels}))
"""


def test_style_has_the_studys_colours(qgis, tmp_path):
    """Loaded on a map with one pixel of each class: the colours that QGIS draws are those of the legend."""
    with rasterio.open(
        tmp_path / "map.tif", "w", driver="GTiff", width=3, height=3, count=1, dtype="uint8", crs="EPSG:32631", transform=rasterio.Affine(10, 0, 0, 0, -10, 0)
    ) as file:
        file.write(np.arange(1, 10, dtype=np.uint8).reshape(3, 3), 1)
    words = ["/usr/bin/python3", "-c", LOADED, str(tmp_path / "map.tif"), str(qgis.setup.style)]
    done = subprocess.run(words, env=plain_environment(qgis.profile), capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip(), done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert loaded["good"]
    assert loaded["type"] == "paletted"
    assert loaded["classes"] == [[int(code), name, colour] for code, (name, colour, _) in LEGEND.items()]
    assert loaded["pixels"] == [colour for _, colour, _ in LEGEND.values()]
