"""LabelImageSampleSelection (§10), run as users run it: labels of any sign and size, intervals, no-data, pad, messages."""

from __future__ import annotations

import geopandas
import image_files
import numpy as np
import pytest
import rasterio
from application import CRS, LEFT, TOP, needs, otb, write
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine

pytestmark = needs("LabelImageSampleSelection")


def sample(folder, labels, **more):
    image = labels if not isinstance(labels, np.ndarray) else write(folder / "labels.tif", labels[..., None], 10.0)
    return otb("LabelImageSampleSelection", {"inref": image, "outvec": folder / "points.gpkg", **more})


def picked(folder):
    """(row, column, class, label) of the points in the file's order; the points are pixel centres."""
    frame = geopandas.read_file(folder / "points.gpkg")
    assert frame.crs == CRS and list(frame.columns) == ["class", "label", "geometry"]
    columns, rows = (frame.geometry.x - LEFT) / 10 - 0.5, (TOP - frame.geometry.y) / 10 - 0.5
    np.testing.assert_array_equal([columns % 1, rows % 1], 0)
    return list(zip(rows.astype(int), columns.astype(int), frame["class"], frame["label"], strict=True))


def expected(labels, strategy, number, nodata=-1, pad=0):
    """The rule of §10: of each class the pixels number step, 2 step ... along the rows, `target` at most."""
    inner = labels[pad : labels.shape[0] - pad, pad : labels.shape[1] - pad]
    values, counts = np.unique(inner[inner != nodata], return_counts=True)
    rows = []
    for value, count in zip(values, counts, strict=True):
        if strategy == "total":
            step, target = max(1, counts.sum() // number), count
        else:
            target = {"constant": number, "smallest": counts.min(), "all": count}[strategy]
            step = max(1, count // target)
        where = np.argwhere(inner == value)[step - 1 :: step][:target] + pad
        rows += [(r, c, int(value) - int(values[0]), int(value)) for r, c in where.tolist()]
    return sorted(rows)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_pixels_are_the_rules_by_brute_force(tmp_path_factory, data):
    """§10: constant, total, smallest, all; no-data; pad; points in the order of the rows, whatever the strips."""
    folder = tmp_path_factory.mktemp("labels")
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    shape = data.draw(st.tuples(st.integers(5, 30), st.integers(5, 30)))
    labels = random.choice(np.array([-7, -1, 0, 2, 40000], np.int32), shape, p=[0.1, 0.2, 0.4, 0.25, 0.05])
    strategy, number = data.draw(st.sampled_from(["constant", "total", "smallest", "all"])), data.draw(st.integers(1, 400))
    nodata, pad = data.draw(st.sampled_from([-1, 0, -7])), data.draw(st.integers(0, 2))
    keys = {"strategy": strategy, "nodata": nodata, "pad": pad}
    if strategy in ("constant", "total"):
        keys[f"strategy.{strategy}.{'nb' if strategy == 'constant' else 'v'}"] = number
    status, log = sample(folder, labels, **keys)
    rows = expected(labels, strategy, number, nodata, pad)
    if not rows:
        assert status != 0 and ("interval" in log or "no pixel to sample" in log), log
        return
    assert status == 0, log
    found = picked(folder)
    assert sorted(found) == rows
    assert [row[:2] for row in found] == sorted(row[:2] for row in found)
    assert f"{len(rows)} points" in log


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (np.int16, [-32768, -5, 3]),  # §14: negative labels abort upstream
        (np.uint16, [32767, 32768, 65535]),
        (np.int32, [-(2**31), 0, 2**24 + 1, 2**31 - 1]),
        (np.uint32, [0, 2**24 + 1, 2**32 - 1]),
        (np.float64, [-3.0, 1.0, 2.0**24 + 1]),
    ],
)
def test_labels_of_any_sign_and_size(tmp_path, dtype, values):
    """§10: upstream reads int16, and indexes out of bounds for negative labels and for those from 32767 on; empty classes do not matter."""
    labels = np.array(values, dtype).repeat(4).reshape(len(values), 4)
    status, log = sample(tmp_path, labels, strategy="smallest")
    assert status == 0, log
    assert picked(tmp_path) == [(r, c, int(value - values[0]), int(value)) for r, value in enumerate(values) for c in range(4)]


def test_a_class_with_less_than_the_constant_is_taken_whole_with_a_warning(tmp_path):
    labels = np.zeros((20, 20), np.uint8)
    labels[3, 4:7] = 9
    status, log = sample(tmp_path, labels, **{"strategy.constant.nb": 50})
    assert status == 0 and "the smallest class has 3 pixels" in log, log
    rows = picked(tmp_path)
    assert [row for row in rows if row[3] == 9] == [(3, 4, 9, 9), (3, 5, 9, 9), (3, 6, 9, 9)]
    assert sum(row[3] == 0 for row in rows) == 50


def test_default_is_a_thousand_of_each_class(tmp_path):
    labels = np.arange(100 * 100).reshape(100, 100) % 3
    status, log = sample(tmp_path, labels.astype(np.uint8))
    assert status == 0, log
    assert picked(tmp_path) == sorted(expected(labels, "constant", 1000), key=lambda row: row[:2])
    assert len(picked(tmp_path)) == 3000


def test_thousands_of_labels_are_one_short_line(tmp_path):
    status, log = sample(tmp_path, np.arange(3000, dtype=np.int32).reshape(50, 60), strategy="all")
    assert status == 0 and "3000 points" in log and "49: 1 of 1 and 2950 labels more;" in log, log
    assert len(log) < 3000


def test_patches_are_cut_around_the_points(tmp_path):
    """The chain: the label image's patches of one pixel are the labels, by either field."""
    labels = np.random.default_rng(3).choice(np.array([-4, 7, 300], np.int32), (30, 30))
    status, log = sample(tmp_path, labels, **{"strategy.constant.nb": 20})
    assert status == 0, log
    keys = {"source1.il": [tmp_path / "labels.tif"], "source1.patchsizex": 1, "source1.patchsizey": 1, "vec": tmp_path / "points.gpkg"}
    out = {"source1.out": [tmp_path / "p.tif", "int32"], "outlabels": [tmp_path / "l.tif", "int32"]}
    for field, first in (("label", 0), ("class", -4)):
        status, log = otb("PatchesExtraction", {**keys, **out, "field": field})
        assert status == 0, log
        with rasterio.open(tmp_path / "p.tif") as patches, rasterio.open(tmp_path / "l.tif") as values:
            assert patches.height == 60
            np.testing.assert_array_equal(patches.read(1), values.read(1).astype(int) + first)


def test_what_cannot_be_sampled_is_one_clear_error(tmp_path):
    whole = np.ones((10, 10), np.uint8)
    fractions = np.full((10, 10), 1.5, np.float32)
    two_bands = write(tmp_path / "two.tif", np.ones((10, 10, 2), np.uint8), 10.0)
    turned = image_files.write(tmp_path / "turned.tif", whole, transform=Affine(10, 1, LEFT, 1, -10, TOP))
    cases = [
        (whole, {"inref": turned}, "rotated or sheared"),  # OTB would not look: the points would be elsewhere
        (whole.astype(np.int64), {}, "labels.tif: band 1 has integers of 64 bits (Int64), which OTB cannot read; convert it"),
        (whole, {"nodata": 1}, "no pixel to sample: all are no-data (1)"),
        (whole, {"pad": -1}, "pad is -1, expected an integer of 0 or more"),
        (whole, {"strategy.constant.nb": 0}, "strategy.constant.nb is 0, expected an integer of 1 or more"),
        (whole, {"strategy": "total", "strategy.total.v": -5}, "strategy.total.v is -5, expected an integer of 1 or more"),
        (whole, {"pad": 5}, "pad is 5, but the image has only 10 x 10 pixels"),
        (fractions, {}, "is 1.5, expected an integer label"),
        (two_bands, {}, "has 2 bands, expected 1"),
        (whole, {"outvec": tmp_path / "points.unknown"}, "ending of the name"),
    ]
    for labels, change, message in cases:
        status, log = sample(tmp_path, labels, **change)
        assert status != 0 and log.count("(FATAL)") == 1 and message in log, log
        assert {path.name for path in tmp_path.iterdir()} <= {"labels.tif", "two.tif", "turned.tif"}
