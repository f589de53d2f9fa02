"""DensePolygonClassStatistics (§11), run as users run it: counts, format, fields, reprojection, the chain to SampleSelection."""

from __future__ import annotations

import sqlite3
import xml.etree.ElementTree as ElementTree
from contextlib import closing

import geopandas
import numpy as np
import pytest
from application import CRS, LEFT, TOP, needs, otb, write
from shapely.geometry import Polygon, box

pytestmark = needs("DensePolygonClassStatistics")


def count(folder, image, vec, field="class", out="counts.xml", **more):
    return otb("DensePolygonClassStatistics", {"in": image, "vec": vec, "field": field, "out": folder / out, **more})


def read_counts(path):
    tree = ElementTree.parse(path)
    assert tree.getroot().tag == "GeneralStatistics"
    return {
        statistic.get("name"): {entry.get("key"): int(entry.get("value")) for entry in statistic.findall("StatisticMap")}
        for statistic in tree.getroot().findall("Statistic")
    }


def ground(column, row, width, height):
    """A rectangle in pixels of 10 m, as a polygon."""
    return box(LEFT + 10 * column, TOP - 10 * (row + height), LEFT + 10 * (column + width), TOP - 10 * row)


def polygons(path, shapes, **fields):
    geopandas.GeoDataFrame(fields, geometry=shapes, crs=CRS).to_file(path)
    return path


@pytest.fixture
def image(tmp_path):
    return write(tmp_path / "image.tif", np.ones((40, 50, 1), np.uint8), 10.0)


TRIANGLE = Polygon([(LEFT + 303, TOP - 11), (LEFT + 471, TOP - 47.3), (LEFT + 388, TOP - 372)])
SHAPES = [ground(2, 3, 5, 4), ground(10, 3, 7, 7).difference(ground(12, 5, 2, 3)), TRIANGLE, ground(-5, 30, 10, 20)]


@pytest.mark.parametrize("classes", [[3, 12, 3, 5], ["wheat", 'oats & "rye" <é>', "wheat", "12"]])
def test_the_file_is_polygon_class_statistics(tmp_path, image, classes):
    """§11: OTB's own application counts pixel by pixel; the same bytes for polygons with holes, over the image's edge, and any field."""
    vec = polygons(tmp_path / "polygons.gpkg", SHAPES, **{"class": classes})
    status, log = count(tmp_path, image, vec)
    assert status == 0, log
    counts = read_counts(tmp_path / "counts.xml")
    assert counts["samplesPerVector"] | {"3": 0} == {"1": 20, "2": 49 - 6, "4": 5 * 10, "3": 0}
    assert sum(counts["samplesPerClass"].values()) == sum(counts["samplesPerVector"].values())
    assert counts["samplesPerClass"][str(classes[1])] == 43 and set(counts["samplesPerClass"]) == {str(name) for name in classes}
    status, log = otb("PolygonClassStatistics", {"in": image, "vec": vec, "field": "class", "out": tmp_path / "otb.xml"})
    assert status == 0, log
    assert (tmp_path / "counts.xml").read_bytes() == (tmp_path / "otb.xml").read_bytes()


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integer_fields_small_ram_and_upper_case_names(tmp_path, dtype):
    """Strips do not change the counts; a field's name is taken as it is written."""
    image = write(tmp_path / "image.tif", np.ones((700, 900, 1), np.uint8), 10.0)
    random = np.random.default_rng(1)
    where = [(column, row) for column in range(0, 840, 60) for row in range(0, 640, 60)]
    sizes = random.integers(5, 60, (len(where), 2))
    labels = random.integers(0, 4, len(where)).astype(dtype)
    shapes = [ground(c, r, w, h) for (c, r), (w, h) in zip(where, sizes.tolist(), strict=True)]
    vec = polygons(tmp_path / "polygons.gpkg", shapes, Class_ID=labels)
    status, log = count(tmp_path, image, vec, field="Class_ID", ram=1)
    assert status == 0, log
    counts = read_counts(tmp_path / "counts.xml")
    assert counts["samplesPerVector"] == {str(k + 1): w * h for k, (w, h) in enumerate(sizes.tolist())}
    assert counts["samplesPerClass"] == {str(k): int((sizes.prod(axis=1) * (labels == k)).sum()) for k in range(4)}


def test_overlaps_no_data_nulls_and_polygons_outside(tmp_path):
    """§11: a pixel in two polygons counts for the last; no-data of the image plays no role; what is not on the image is not there."""
    image = write(tmp_path / "image.tif", np.zeros((40, 50, 1), np.uint8), 10.0)
    shapes = [ground(0, 0, 10, 10), ground(5, 5, 10, 10), ground(100, 100, 5, 5), ground(20, 20, 5, 5), ground(30.1, 30.1, 0.3, 0.3)]
    vec = polygons(tmp_path / "polygons.gpkg", shapes, **{"class": ["a", "b", "c", None, "d"]})
    status, log = count(tmp_path, f"{image}?&nodata=0", vec)
    assert status == 0 and "1 features have no geometry or no value in the field: skipped" in log, log
    assert read_counts(tmp_path / "counts.xml") == {"samplesPerClass": {"a": 75, "b": 100}, "samplesPerVector": {"1": 75, "2": 100}}


def test_polygons_in_another_crs_and_images_without_one(tmp_path, image):
    shapes = [ground(10.4, 10.4, 9.9, 9.9), ground(30.4, 5.4, 4.9, 19.9)]
    vec = polygons(tmp_path / "utm.gpkg", shapes, **{"class": [1, 2]})
    geopandas.read_file(vec).to_crs("EPSG:4326").to_file(tmp_path / "degrees.gpkg")
    expected = {"1": 100, "2": 100}
    for name in ("utm", "degrees"):
        status, log = count(tmp_path, image, tmp_path / f"{name}.gpkg", out=f"{name}.xml")
        assert status == 0, log
        assert read_counts(tmp_path / f"{name}.xml")["samplesPerClass"] == expected
    south_up = write(tmp_path / "south.tif", np.ones((40, 50, 1), np.uint8), 10.0, north_up=False)
    status, log = count(tmp_path, south_up, tmp_path / "utm.gpkg", out="south.xml")
    assert status == 0, log
    # The same ground, 400 m higher than the north-up image's: rows from the bottom.
    assert read_counts(tmp_path / "south.xml") == read_counts(tmp_path / "utm.xml")


def test_sample_selection_reads_the_counts(tmp_path, image):
    """The chain of OTB's tutorials: statistics, then positions."""
    vec = polygons(tmp_path / "polygons.gpkg", SHAPES, **{"class": ["wheat", "oats", "wheat", "maize"]})
    status, log = count(tmp_path, image, vec)
    assert status == 0, log
    keys = {"in": image, "vec": vec, "field": "class", "instats": tmp_path / "counts.xml", "out": tmp_path / "samples.gpkg"}
    status, log = otb("SampleSelection", {**keys, "strategy": "constant", "strategy.constant.nb": 15})
    assert status == 0, log
    assert geopandas.read_file(tmp_path / "samples.gpkg")["class"].value_counts().to_dict() == {"wheat": 15, "oats": 15, "maize": 15}


def test_classes_with_control_characters_and_quotes(tmp_path, image):
    names = ["line\nbreak", "tab\there", "a'b\"c", "<&>"]
    status, log = count(tmp_path, image, polygons(tmp_path / "polygons.gpkg", SHAPES, **{"class": names}))
    assert status == 0, log
    assert set(read_counts(tmp_path / "counts.xml")["samplesPerClass"]) == set(names)


def test_what_cannot_be_counted_is_one_clear_error(tmp_path, image):
    vec = polygons(tmp_path / "polygons.gpkg", SHAPES, **{"class": [1, 2, 3, 4], "real": [0.5, 1.5, 2.5, 3.5]})
    far = polygons(tmp_path / "far.gpkg", [ground(500, 500, 10, 10)], **{"class": [1]})
    with closing(sqlite3.connect(tmp_path / "empty.sqlite")) as database:
        database.execute("VACUUM")  # a file of the right kind without a layer
    before = {path.name for path in tmp_path.iterdir()}
    cases = [
        ({"vec": tmp_path / "empty.sqlite"}, "empty.sqlite"),
        ({"out": "counts.txt"}, '.txt is a wrong extension for parameter "out": Expected .xml'),
        ({"out": "counts"}, 'wrong extension for parameter "out": Expected .xml'),
        ({"vec": far}, "covers a pixel's centre"),
        ({"field": "real"}, "real"),
        ({"field": "absent"}, "absent"),
        ({"out": "absent/counts.xml"}, "absent"),
    ]
    for change, message in cases:
        status, log = count(tmp_path, image, **{"vec": vec, **change})
        assert status != 0 and message in log and "Traceback" not in log, log
        assert {path.name for path in tmp_path.iterdir()} == before
