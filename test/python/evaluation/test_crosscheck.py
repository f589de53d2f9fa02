"""Our scores beside those of torchmetrics: where the definition is the same, and where it is not, what theirs is of, from our own parts.

torchmetrics needs PyTorch, so its values are recorded (`tools/record_torchmetrics.py`); where the extra `crosscheck` is installed, the
package itself is asked too. What differs:

* SAM is told in degrees, theirs in radians.
* SSIM: theirs reflects the image at its edges, ours counts whole neighbourhoods only; inside, both are the same.
* UQI: ours has sliding 8 x 8 windows of equal weights, as Wang and Bovik define it; theirs 11 x 11 Gaussian ones of 1.5 pixels, as SSIM.
* D-lambda: is made of UQI, so of the same windows.
* Spatial correlation: ours is the correlation of Laplacians over the image (Zhou et al.); theirs, after sewar, the mean of local ones over
  8 x 8 windows of an image continued at its edges, 0 where it is flat.
* RMSE over sliding windows (rmse_sw) is a score of theirs that otbsr has not: its mean of roots is below RMSE.
"""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
from image_files import write_reflectance
from scipy import signal

from otbsr.evaluation.measures import correlate, moments, universal_index
from otbsr.evaluation.streams import measure
from otbsr.evaluation.window_scores import laplacian

ROOT = Path(__file__).parents[3]
SPEC = importlib.util.spec_from_file_location("record_torchmetrics", ROOT / "tools" / "record_torchmetrics.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)
PAIRS = tool.pairs()
RECORDED = json.loads(tool.TARGET.read_text())


@pytest.fixture(params=PAIRS)
def pair(request) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return PAIRS[request.param]


@pytest.fixture(params=["recorded", "installed"])
def theirs(request, pair):
    """torchmetrics' values of the pair: as recorded, and of the package that is installed."""
    if request.param == "recorded":
        return RECORDED["pairs"][next(name for name, one in PAIRS.items() if one is pair)]
    pytest.importorskip("torchmetrics", reason="the extra crosscheck is not installed")
    return tool.theirs(*pair)


@pytest.fixture
def ours(pair, tmp_path):
    files = [write_reflectance(tmp_path / f"{name}.tif", one, by) for name, one, by in zip("abc", pair, (2.5, 2.5, 10.0), strict=True)]
    return measure(*files, border=0, groups=["pixels", "windows"]).scores


def test_scores_of_one_definition_are_the_same(ours, theirs):
    assert ours["psnr"].bands == pytest.approx(theirs["psnr"], rel=1e-6)  # some of theirs is float32 inside
    assert ours["rmse"].bands == pytest.approx(theirs["rmse"], rel=1e-9)
    assert ours["correlation"].bands == pytest.approx(theirs["correlation"], rel=1e-9)
    assert ours["ergas"].all == pytest.approx(theirs["ergas"], rel=1e-9)
    assert ours["sam"].all == pytest.approx(math.degrees(theirs["sam_radians"]), rel=1e-7)  # theirs is the arc cosine of what is nearly 1
    assert ours["ssim"].bands == pytest.approx(theirs["ssim_inside"], rel=1e-9)


def gaussian(sigma: float, side: int) -> np.ndarray:
    taps = np.exp(-0.5 * ((np.arange(side) - side // 2) / sigma) ** 2)
    return taps / taps.sum()


def mean_index(x: np.ndarray, y: np.ndarray, taps: np.ndarray) -> float:
    """Mean of Q over windows with these weights, from our parts."""
    of = [correlate(one, taps) for one in (x, x * x, y, y * y, x * y)]
    return float(universal_index(*moments(of[:2], of[2:], 1.0)).mean())


def test_uqi_is_theirs_with_their_windows(pair, theirs, ours):
    image, reference, _ = (np.moveaxis(one, -1, 0) for one in pair)
    for name, taps in (("uqi", gaussian(1.5, 11)), ("uqi_box", np.full(7, 1 / 7))):
        assert [mean_index(x, y, taps) for x, y in zip(reference, image, strict=True)] == pytest.approx(theirs[name], rel=1e-8)
    # 7 x 7 and 8 x 8 equal weights are near, a Gaussian of 1.5 pixels sees less
    assert ours["uqi"].bands == pytest.approx(theirs["uqi_box"], abs=0.012)
    assert ours["uqi"].bands == pytest.approx(theirs["uqi"], abs=0.035)


def test_d_lambda_is_theirs_with_their_windows(pair, theirs, ours):
    fine, _, coarse = (np.moveaxis(one, -1, 0) for one in pair)
    taps = gaussian(1.5, 11)
    apart = [abs(mean_index(fine[i], fine[j], taps) - mean_index(coarse[i], coarse[j], taps)) for i in range(3) for j in range(i + 1, 3)]
    assert np.mean(apart) == pytest.approx(theirs["d_lambda"], rel=1e-6)
    assert ours["d_lambda"].all == pytest.approx(theirs["d_lambda"], abs=0.25)  # the input has 12 x 14 pixels: few windows of either kind


def local_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Mean correlation of our Laplacians in 8 x 8 windows: image mirrored at its edges, Laplacians 0 beyond them; 0 where one is flat."""
    a, b = (np.pad(laplacian(np.pad(plane, 1, mode="symmetric")[None])[0], (4, 3)) for plane in (x, y))
    ma, mb, aa, bb, ab = (signal.fftconvolve(one, np.full((8, 8), 1 / 64), "valid") for one in (a, b, a * a, b * b, a * b))
    below = np.sqrt(np.maximum(aa - ma * ma, 0) * np.maximum(bb - mb * mb, 0))
    return float(np.divide(ab - ma * mb, below, out=np.zeros_like(below), where=below > 0).mean())


def test_spatial_correlation_is_theirs_with_their_windows(pair, theirs, ours):
    image, reference, _ = (np.moveaxis(one, -1, 0) for one in pair)
    assert [local_correlation(x, y) for x, y in zip(image, reference, strict=True)] == pytest.approx(theirs["scc"], rel=1e-6)
    assert ours["spatial_correlation"].bands == pytest.approx(theirs["scc"], abs=0.06)


def test_what_differs_by_definition_is_near(theirs, ours):
    assert ours["ssim"].bands == pytest.approx(theirs["ssim"], abs=0.004)
    assert 0.8 * ours["rmse"].all < theirs["rmse_sw"] < ours["rmse"].all


def test_the_installed_package_says_what_is_recorded(pair):
    pytest.importorskip("torchmetrics", reason="the extra crosscheck is not installed")
    recorded = RECORDED["pairs"][next(name for name, one in PAIRS.items() if one is pair)]
    found = tool.theirs(*pair)
    assert set(found) == set(recorded)
    for name, value in found.items():
        assert value == pytest.approx(recorded[name], rel=1e-9), name
