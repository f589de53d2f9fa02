"""Pairs from an aerial image: the same sensor model as the landscapes', nested grids, right place."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner

from otbsr.cli import app
from otbsr.errors import InputError, OutputError, UsageError
from otbsr.grid import Grid
from otbsr.world.aerial import MARGIN, observe_aerial, read_scale
from otbsr.world.sensors import degrade


@pytest.fixture
def aerial(tmp_path):
    """A smooth 8-bit scene at 1 m, 240 x 280 m."""
    y, x = np.mgrid[:240, :280] / 20.0
    planes = np.stack([120 + 60 * np.sin(x / (k + 1)) * np.cos(y / (k + 1)) for k in range(4)]).astype(np.uint8)
    path = tmp_path / "aerial.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=280, height=240, count=4, dtype="uint8", crs="EPSG:26917", transform=(1, 0, 1000, 0, -1, 2000)
    ) as dataset:
        dataset.write(planes)
    return path


@pytest.mark.parametrize(
    ("factor", "zoom", "offset"), [(4, 1.0, (0.0, 0.0)), (4, 2.5, (3.0, 5.0)), (2, 1.0, (0.0, 0.0)), (5, 1.0, (5.0, 0.0)), (8, 1.2, (0.0, 0.0))]
)
def test_input_is_the_target_seen_by_the_sensor(aerial, tmp_path, factor, zoom, offset):
    world = observe_aerial([aerial], tmp_path / "out", factor, zoom=zoom, offset=offset, noise=0.0)
    assert world["ground"] == {"crs": "EPSG:26917", "bounds": [1000.0, 1760.0, 1280.0, 2000.0]}, "of the image as it is, whatever the zoom"
    made = world["pair"]
    assert made["target"] == {4: "reference_2m5.tif", 2: "reference_5m.tif", 5: "reference_2m.tif", 8: "reference_1m25.tif"}[factor]
    coarse, fine = (Grid.read(tmp_path / "out" / made[name]) for name in ("input", "target"))
    assert coarse.factor_to(fine) == factor
    assert (coarse.width, coarse.height) == (int((280 * zoom - 2 * MARGIN - offset[0]) // 10), int((240 * zoom - 2 * MARGIN - offset[1]) // 10))
    assert coarse.corner(0, 0) == pytest.approx((MARGIN + offset[0], 240 * zoom - MARGIN - offset[1]))
    lr, target = (rasterio.open(tmp_path / "out" / made[name]).read() for name in ("input", "target"))
    again = degrade(target.transpose(1, 2, 0).astype(np.float32), factor).transpose(2, 0, 1)
    np.testing.assert_allclose(again[:, 4:-4, 4:-4], lr[:, 4:-4, 4:-4], atol=3)


def test_an_offset_of_one_input_pixel_moves_the_images_by_it(aerial, tmp_path):
    for name, offset in (("a", (0.0, 0.0)), ("b", (10.0, 20.0))):
        observe_aerial([aerial], tmp_path / name, offset=offset, noise=0.0)
    here, moved = (rasterio.open(tmp_path / name / "reference_2m5.tif").read() for name in "ab")
    np.testing.assert_allclose(moved, here[:, 8:, 4:], atol=1)


def test_the_command_takes_one_file_a_band_and_one_scale(aerial, tmp_path):
    with rasterio.open(aerial) as dataset:
        for index in range(1, 5):
            with rasterio.open(tmp_path / f"b{index}.tif", "w", **(dataset.profile | {"count": 1})) as one:
                one.write(dataset.read(index), 1)
    files = [str(tmp_path / f"b{index}.tif") for index in range(1, 5)]
    done = CliRunner().invoke(app, ["aerial", *files, "-o", str(tmp_path / "out"), "--scale", "0.001", "--factor", "2", "--noise", "0"])
    assert done.exit_code == 0, done.output
    observe_aerial([aerial], tmp_path / "same", 2, scale=[1e-3] * 4, noise=0.0)
    pixels = [rasterio.open(tmp_path / name / "reference_5m.tif").read() for name in ("out", "same")]
    np.testing.assert_array_equal(*pixels)
    with rasterio.open(aerial) as dataset:
        counts = dataset.read().mean((1, 2))
    np.testing.assert_allclose(pixels[0].mean((1, 2)), 10 * counts, rtol=0.05)


@pytest.mark.parametrize("text", ["red", "0.001,0.002", "0", "-1", "nan", ""])
def test_a_scale_that_is_none_is_told(text):
    with pytest.raises(UsageError, match="expected one number between 0 and 1 or four"):
        read_scale(text)


def test_what_is_too_small_or_incomplete_or_there_already(aerial, tmp_path):
    with pytest.raises(InputError, match="is too small; expected at least 120 m"):
        observe_aerial([aerial], tmp_path / "out", zoom=0.3)
    assert not (tmp_path / "out").exists()
    observe_aerial([aerial], tmp_path / "out")
    with pytest.raises(OutputError, match="exists already"):
        observe_aerial([aerial], tmp_path / "out")
    with rasterio.open(aerial) as dataset, rasterio.open(tmp_path / "one.tif", "w", **(dataset.profile | {"count": 1})) as one:
        one.write(dataset.read(1), 1)
    with pytest.raises(InputError, match="1 bands, expected red, green, blue and near infrared"):
        observe_aerial([tmp_path / "one.tif"], tmp_path / "more")
    with pytest.raises(InputError, match=r"pixels of 3 m cannot show the ground at 2.5 m; use a smaller --factor \(at most 3\)"):
        observe_aerial([aerial], tmp_path / "more", zoom=3.0)
    with pytest.raises(UsageError, match="factor 7, zoom 1, noise 1, offset 0 0: expected a factor of 2, 3, 4"):
        observe_aerial([aerial], tmp_path / "more", 7)
    with pytest.raises(OutputError, match="cannot be written"):
        observe_aerial([aerial], tmp_path / "one.tif" / "more")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aerial.tif", "one.tif", "out"]
