"""Scores of images against values worked out by hand, and how they answer to offsets, gains, shifts and blur."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from otbsr.errors import InputError, UsageError
from otbsr.evaluation.opensr import bilinear, matched, normalised_difference
from otbsr.evaluation.quality import (
    angles,
    consistency,
    correctness,
    gradient_spectrum_distance,
    paired,
    psnr,
    radial_spectrum,
    scores,
    shift,
    spectral_angle,
    spectral_consistency,
    within,
)
from otbsr.world.sensors import degrade


def texture(side: int = 128, seed: int = 0, bands: int = 4) -> np.ndarray:
    """Reflectance with the spectrum of a landscape (amplitude as 1 / frequency), 0.05 to 0.5."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side), indexing="ij"))
    planes = [np.fft.ifft2(np.fft.fft2(random.standard_normal((side, side))) / np.maximum(frequency, 1 / side)).real for _ in range(bands)]
    image = np.stack(planes, -1)
    return 0.05 + 0.45 * (image - image.min()) / (image.max() - image.min())


def moved(image: np.ndarray, rows: float, columns: float) -> np.ndarray:
    """The image displaced by a fraction of a pixel, exactly, around its edges."""
    v, u = np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape[:2]), indexing="ij")
    return np.fft.ifft2(np.fft.fft2(image, axes=(0, 1)) * np.exp(-2j * np.pi * (v * rows + u * columns))[..., None], axes=(0, 1)).real


def test_psnr_of_a_constant_offset():
    image = texture(48)
    np.testing.assert_allclose(psnr(image, image + np.array([0.1, 0.01, 0.001, -0.1])), [20, 40, 60, 20], rtol=1e-9)
    assert min(psnr(image, image)) == 200.0
    with pytest.raises(InputError, match="image of 32 x 32 pixels has nothing within a border of 16"):
        psnr(texture(32), texture(32))


def test_the_border_is_left_out():
    image = texture(40)
    spoiled = image.copy()
    spoiled[:16] += 1
    spoiled[:, -16:] += 1
    assert psnr(image, spoiled) == psnr(image, image)
    assert within(image, 16).shape == (8, 8, 4) and within(image, 0).shape == image.shape


def test_spectral_angles_by_hand():
    assert angles(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(45)
    assert angles(np.array([3.0, 4.0]), np.array([-4.0, 3.0])) == pytest.approx(90)
    assert angles(np.array([1.0, 2.0]), np.array([0.0, 0.0])) == pytest.approx(90)
    # 1e-9 rad, where the arc cosine of a product of float64 gives 0 or 1.2e-6 degrees
    assert angles(np.array([1.0, 0.0]), np.array([1.0, 1e-9])) == pytest.approx(math.degrees(1e-9), rel=1e-6)


def test_sam_ignores_gain_and_sees_colour():
    image = texture(48)
    assert spectral_angle(image, 3.0 * image) == pytest.approx(0, abs=1e-6)
    assert spectral_angle(image, image + 0.05) > 0.5
    assert spectral_angle(image, image[..., ::-1]) == pytest.approx(spectral_angle(2 * image[..., ::-1], image))


@pytest.mark.parametrize("by", [(0.0, 0.0), (0.3, -0.2), (-0.04, 0.05), (1.5, 2.25), (-3.0, 0.5)])
@pytest.mark.parametrize("side", [64, 101, 160])
def test_a_known_shift_is_recovered(by, side):
    image = texture(side)
    np.testing.assert_allclose(shift(image, moved(image, *by), border=8), by, atol=0.02)


def test_shift_is_that_of_a_blurred_noisy_gained_image_too():
    image, random = texture(160), np.random.default_rng(1)
    other = 0.7 * ndimage.gaussian_filter(moved(image, 0.4, -0.3), (2, 2, 0)) + 0.1 + 0.002 * random.standard_normal(image.shape)
    np.testing.assert_allclose(shift(image, other), (0.4, -0.3), atol=0.02)
    np.testing.assert_allclose(shift(other, image), (-0.4, 0.3), atol=0.02)


def test_shift_of_flat_images_is_none():
    assert shift(np.full((64, 64, 4), 0.2), np.full((64, 64, 4), 0.3)) == (0.0, 0.0)


def test_radial_spectrum_of_a_wave_lies_at_its_frequency():
    x = np.arange(64)
    frequency, amplitude = radial_spectrum(0.3 + np.cos(2 * np.pi * 10 / 64 * x)[None, :] * np.ones((64, 1)))
    assert frequency[np.argmax(amplitude)] == 10 / 64 and frequency[-1] == 0.5
    assert amplitude[25:].max() < 1e-3 * amplitude[10]


def test_gradient_spectrum_distance_is_the_log_of_a_gain():
    """Gradients of a gained image are gained at every frequency: |ln gain|, whatever the offset."""
    image = texture()
    assert gradient_spectrum_distance(image, image) == 0
    for gain in (2.0, 0.5):
        assert gradient_spectrum_distance(image, gain * image + 0.1) == pytest.approx(math.log(2), rel=1e-3)
    assert gradient_spectrum_distance(image, image[::-1, ::-1].transpose(1, 0, 2)) < 0.1  # sharpness is not place


def test_gradient_spectrum_distance_grows_with_blur():
    image = texture()
    distances = [gradient_spectrum_distance(image, ndimage.gaussian_filter(image, (s, s, 0))) for s in (0.0, 0.5, 1.0, 2.0)]
    assert distances == sorted(distances) and distances[-1] > 5 * distances[1] > 0.5


def test_matching_histograms():
    reference, random = texture(32), np.random.default_rng(2)
    np.testing.assert_allclose(matched(5 * reference**3 - 1, reference), reference, atol=1e-12)
    other = random.standard_normal((32, 32, 4))
    np.testing.assert_allclose(np.sort(matched(other, reference), axis=None), np.sort(reference, axis=None), atol=1e-12)
    by_hand = matched(np.array([1.0, 1.0, 7.0, 9.0]).reshape(2, 2, 1), np.array([10.0, 20.0, 30.0, 40.0]).reshape(2, 2, 1))
    np.testing.assert_allclose(by_hand.ravel(), [20, 20, 30, 40])


def test_bilinear_by_hand():
    coarse = np.array([[0.0, 4.0]])[..., None]
    np.testing.assert_allclose(bilinear(coarse, 2)[..., 0], [[0, 1, 3, 4]] * 2)
    ramp = np.arange(9.0)[:, None, None] * np.ones((1, 7, 2)) + np.arange(7.0)[None, :, None]
    fine = (np.arange(36) + 0.5) / 4 - 0.5
    np.testing.assert_allclose(bilinear(ramp, 4)[4:-4, 4:-4, 1], (fine[:, None] + fine[None, :28])[4:-4, 4:-4])


def test_normalised_difference_by_hand():
    x, y = np.array([[[1.0, 3.0]]]), np.array([[[3.0, 3.0]]])
    assert normalised_difference(x, y) == pytest.approx(0.25)


def softmin(*values: float) -> list[float]:
    weights = [math.exp(-4 * value) for value in values]
    return [weight / sum(weights) for weight in weights]


def test_correctness_of_the_two_extremes():
    """The truth itself: d_im 0, d_om d_ref, so distances 0, 1 and 1 (H = 0). The input itself: 1, 0 and 1."""
    reference = texture(96)
    coarse = degrade(reference.astype(np.float32))
    perfect = correctness(reference, reference, coarse)
    np.testing.assert_allclose(list(perfect.values()), softmin(0, 1, 1), atol=1e-9)
    nothing = correctness(reference, bilinear(coarse, 4), coarse)  # but for its histogram, the input
    assert nothing["omission"] > 0.6 > 0.15 > nothing["improvement"]
    assert sum(perfect.values()) == pytest.approx(1) and sum(nothing.values()) == pytest.approx(1)


def test_invented_detail_is_hallucination():
    reference, coarse = texture(96), degrade(texture(96).astype(np.float32))
    invented = bilinear(coarse, 4) + 3 * (texture(96, seed=7) - bilinear(degrade(texture(96, seed=7).astype(np.float32)), 4))
    told = [correctness(reference, image, coarse) for image in (reference, bilinear(coarse, 4), invented)]
    assert told[2]["hallucination"] > told[1]["hallucination"] + 0.1 > told[0]["hallucination"]
    assert told[0]["improvement"] == max(row["improvement"] for row in told)


def test_consistency_sees_offset_gain_and_colour_of_the_degraded_image():
    fine = texture(64).astype(np.float32)
    coarse = degrade(fine)
    np.testing.assert_allclose(consistency(fine, coarse), 0, atol=1e-7)
    np.testing.assert_allclose(consistency(fine + np.float32(0.01), coarse), 0.01, rtol=1e-4)
    assert spectral_consistency(2 * fine, coarse) == pytest.approx(0, abs=1e-3)
    detail = np.tile([[1.0, -1.0], [-1.0, 1.0]], (32, 32))[..., None].astype(np.float32)  # beyond what the sensor sees
    np.testing.assert_allclose(consistency(fine + detail, coarse), 0, atol=1e-3)


def test_identical_images_are_perfect():
    fine = texture(96).astype(np.float32)
    row = scores(fine, degrade(fine), fine)
    perfect = {"psnr": 200, "psnr_worst": 200, "sam": 0, "shift": 0, "gradient_spectrum": 0, "consistency": 0, "spectral_consistency": 0}
    assert {key: row[key] for key in perfect} == pytest.approx(perfect, abs=1e-5)
    assert set(scores(fine, degrade(fine))) == {"consistency", "spectral_consistency"}


def test_paired_differences():
    random = np.random.default_rng(3)
    scenes = random.normal(30, 5, 25)  # scenes differ far more than methods
    interval = paired(list(scenes + 1 + random.normal(0, 0.1, 25)), list(scenes))
    assert interval.value == pytest.approx(1, abs=0.1) and interval.low > 0.9 and interval.high < 1.1 and interval.shown
    assert interval.low < interval.value < interval.high
    one = paired([3.0, 3.0], [1.0, 2.0])
    assert one.value == 1.5
    with pytest.raises(InputError, match="2 and 1 scores"):
        paired([1.0, 2.0], [1.0])


def test_scenes_of_one_ground_are_drawn_together():
    """Two dates that agree are no second ground: the interval is that of the grounds, not narrower by sqrt(2)."""
    random = np.random.default_rng(4)
    values = list(random.normal(0, 1, 12))
    alone, zeros = paired(values, [0.0] * 12), [0.0] * 24
    twice = paired([v for v in values for _ in range(2)], zeros, [i for i in range(12) for _ in range(2)])
    assert (twice.value, twice.low, twice.high) == pytest.approx((alone.value, alone.low, alone.high))
    ignored = paired([v for v in values for _ in range(2)], zeros)
    assert ignored.high - ignored.low < 0.85 * (alone.high - alone.low)


# --- the benchmark --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[3] / "benchmark" / "quality.py"
    spec = importlib.util.spec_from_file_location("benchmark_quality", path)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_refuses_seeds_of_training_and_leaves_out_other_factors(benchmark, tmp_path):
    from otbsr.methods.baselines import write_baseline
    from otbsr.methods.model_folder import write_sidecar

    folder = write_baseline("nearest", tmp_path / "seen")
    write_sidecar(folder.path, folder.sidecar.model_copy(update={"training": {"seeds": [5], "history": [{"seeds": [9]}]}}))
    for seeds in ([5, 6], [6, 9]):
        with pytest.raises(UsageError, match=rf"was trained on seeds \[{5 if 5 in seeds else 9}\]"):
            benchmark.open_models([str(folder.path)], seeds, tmp_path / str(seeds[1]))
    write_baseline("nearest", tmp_path / "double", factor=2)
    entries, remarks = benchmark.open_models([str(folder.path), str(tmp_path / "double"), str(tmp_path / "none")], [6], tmp_path / "x")
    assert [entry.name for entry in entries] == ["bicubic", "lanczos", "nearest-x4"]
    assert "double: left out (x2, bands B4 B3 B2 B8" in remarks[0] and "no such model folder" in remarks[1]
    # 5 x 5 and 7 x 7 taps for 4 x 4 phases of 4 bands from 4 bands on each input pixel, which is 16 output pixels
    assert [entry.operations for entry in entries] == [25 * 16, 49 * 16, 16]


def test_limits_are_told_as_met_not_met_or_not_measured(benchmark, tmp_path, capsys):
    from otbsr.methods.baselines import write_baseline
    from otbsr.methods.model_folder import write_sidecar

    entries = []
    for name, kind in (("bicubic", "bicubic"), ("lanczos", "lanczos"), ("f-base-x4", "nearest")):
        folder = write_baseline(kind, tmp_path / name)
        sidecar = folder.sidecar.model_copy(update={"name": name, "method": "fidelity"})
        write_sidecar(folder.path, sidecar)
        entries.append(benchmark.Entry(name, benchmark.ModelFolder.open(folder.path), 1.0))
    fine = texture(128)
    scenes = [benchmark.Scene("simulated", f"s{i}", f"s{i}", degrade((fine * (1 + i)).astype(np.float32) / 3), fine * (1 + i) / 3) for i in range(2)]
    benchmark.run(entries, scenes)
    bench = benchmark.Bench(entries, scenes)
    benchmark.print_tables(entries, scenes)
    benchmark.print_comparisons(bench)
    benchmark.print_limits(bench)
    out = capsys.readouterr().out
    assert "NOT met       F-base over bicubic on unseen landscapes: -" in out  # nearest is below bicubic
    assert "not measured  F-base over Lanczos on unseen real scenes: f-base or lanczos absent, or no real scene" in out
    assert "not measured  P's spectral angle to the input under 1 degree: p absent" in out
    assert "met           f-base-x4: mean shift under 0.05 px, simulated" in out
    rows = [record for record in bench.records if record.get("comparison") == "f-base-x4 - bicubic"]
    gaps = [entries[2].rows[s.name]["psnr"] - entries[0].rows[s.name]["psnr"] for s in scenes]
    assert rows[0]["mean"] == pytest.approx(np.mean(gaps)) and rows[0]["worst"] == pytest.approx(min(gaps))
