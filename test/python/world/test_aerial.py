"""Pairs from an aerial image: the same sensor model as the landscapes', nested grids, right place."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from otbsr.errors import InputError, OutputError
from otbsr.grid import Grid
from otbsr.world.aerial import MARGIN, observe_aerial
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


@pytest.mark.parametrize("zoom", [1.0, 2.5])
def test_input_is_the_target_seen_by_the_sensor(aerial, tmp_path, zoom):
    observe_aerial([aerial], tmp_path / "out", zoom=zoom, noise=0.0)
    coarse, fine = (Grid.read(tmp_path / "out" / name) for name in ("sentinel2_10m.tif", "reference_2m5.tif"))
    assert coarse.factor_to(fine) == 4
    assert (coarse.width, coarse.height) == (int((280 * zoom - 2 * MARGIN) // 10), int((240 * zoom - 2 * MARGIN) // 10))
    lr, target = (rasterio.open(tmp_path / "out" / name).read() for name in ("sentinel2_10m.tif", "reference_2m5.tif"))
    again = degrade(target.transpose(1, 2, 0).astype(np.float32)).transpose(2, 0, 1)
    np.testing.assert_allclose(again[:, 4:-4, 4:-4], lr[:, 4:-4, 4:-4], atol=3)


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
