"""opensr-test's scores: by hand, against its own package where that is installed, and against what it gave for five pairs of images.

For the package: a virtual environment of its own with torch (CPU), then `pip install --no-deps opensr_test==1.3.3 satalign==0.1.17` and
what they import: kornia, kornia_rs, mpltern, opencv-python-headless, xarray, requests.
"""

from __future__ import annotations

import importlib
import math
import sys
import types

import numpy as np
import pytest
from image_files import write_reflectance
from scipy import ndimage

from otbsr.evaluation import opensr
from otbsr.evaluation.streams import measure

KEYS = {
    "reflectance": "reflectance",
    "spectral": "spectral",
    "spatial": "spatial",
    "synthesis": "synthesis",
    "improvement": "im_metric",
    "omission": "om_metric",
    "hallucination": "ha_metric",
}
"""Our names and those of opensr-test."""

# What opensr_test 1.3.3 (with satalign 0.1.17, scikit-image 0.26.0, torch 2.13.0) gave for `pairs`: distance nd, then l1.
EXPECTED: dict[str, list[dict[str, float]]] = {
    name: [dict(zip(KEYS, values, strict=True)) for values in rows]
    for name, rows in {
        "sharp": (
            (0.001876, 0.431386, 0.0, 0.012575, 0.91304, 0.042315, 0.044645),
            (0.001876, 0.431386, 0.0, 0.012575, 0.918108, 0.039821, 0.042071),
        ),
        "moved": (
            (0.01195, 2.082266, 0.244131, 0.011526, 0.910076, 0.061422, 0.028502),
            (0.01195, 2.082266, 0.244131, 0.011526, 0.904397, 0.066098, 0.029504),
        ),
        "invented": (
            (0.005321, 1.239988, 0.0, 0.009967, 0.265248, 0.346553, 0.388199),
            (0.005321, 1.239988, 0.0, 0.009967, 0.306384, 0.31736, 0.376256),
        ),
        "blurred": (
            (0.01659, 4.468899, 0.028284, 0.008356, 0.170833, 0.596519, 0.232648),
            (0.01659, 4.468899, 0.028284, 0.008356, 0.201802, 0.58078, 0.217418),
        ),
        "double": (
            (0.002237, 0.588392, 0.02, 0.003941, 0.636132, 0.297913, 0.065955),
            (0.002237, 0.588392, 0.02, 0.003941, 0.640362, 0.283332, 0.076306),
        ),
    }.items()
}


def ground(rows: int, columns: int, seed: int) -> np.ndarray:
    """Reflectance [rows, columns, 4]: fields of several colours with straight edges, and texture."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns].astype(float)
    image = np.full((rows, columns, 4), 0.15)
    for _ in range(14):
        angle, place = random.uniform(0, np.pi), random.uniform(0.1, 0.9, 2) * (rows, columns)
        inside = (abs((y - place[0]) * np.sin(angle) + (x - place[1]) * np.cos(angle)) < random.uniform(4, 30)) & (
            abs((y - place[0]) * np.cos(angle) - (x - place[1]) * np.sin(angle)) < random.uniform(10, 60)
        )
        image[inside] = random.uniform(0.03, 0.45, 4)
    grain = ndimage.gaussian_filter(random.standard_normal((rows, columns, 1)), (1.2, 1.2, 0)) * random.uniform(0.02, 0.06, 4)
    return np.clip(ndimage.gaussian_filter(image + grain, (0.7, 0.7, 0)), 0.005, 1)


def seen(image: np.ndarray, factor: int) -> np.ndarray:
    """A coarser image: blur and mean of factor x factor pixels."""
    blurred = ndimage.gaussian_filter(image, (0.4 * factor, 0.4 * factor, 0))
    return blurred.reshape(image.shape[0] // factor, factor, image.shape[1] // factor, factor, -1).mean((1, 3))


def pairs() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
    """Name: (image, reference, input, factor), without borders; as a sharpened, a displaced, an inventing, a blurred and a x2 method would give."""
    found = {}
    for name, shape, factor in (
        ("sharp", (160, 160), 4),
        ("moved", (160, 160), 4),
        ("invented", (192, 192), 4),
        ("blurred", (128, 128), 4),
        ("double", (144, 144), 2),
    ):
        seed = sum(map(ord, name))
        reference = ground(*shape, seed)
        coarse = seen(reference, factor) + 0.002 * np.random.default_rng(seed + 1).standard_normal((shape[0] // factor, shape[1] // factor, 4))
        base = opensr.bilinear(coarse, factor)
        detail = reference - ndimage.gaussian_filter(reference, (2, 2, 0))
        other = ground(*shape, seed + 2)
        other -= ndimage.gaussian_filter(other, (2, 2, 0))
        image = {
            "sharp": base + 1.3 * detail,
            "moved": ndimage.shift(0.9 * reference + 0.02, (1.31, -0.77, 0), order=3, mode="nearest"),
            "invented": base + 0.4 * detail + 0.9 * other,
            "blurred": ndimage.gaussian_filter(base, (1.5, 1.5, 0)) * np.array([1.1, 1.0, 0.9, 1.05]),
            "double": 0.5 * base + 0.5 * reference,
        }[name]
        found[name] = np.maximum(image, 0.001), reference, np.maximum(coarse, 0.001), factor
    return found


def package():
    """opensr-test's own package, without LightGlue where torchvision is missing (its phase correlation is what is compared); else skips."""
    pytest.importorskip("torch")
    try:
        importlib.import_module("torchvision")
    except ImportError:
        sys.modules.setdefault("satalign.lgm", types.SimpleNamespace(LGM=None))
    return pytest.importorskip("opensr_test")


def theirs(image: np.ndarray, reference: np.ndarray, coarse: np.ndarray, distance: str) -> dict[str, float]:
    """The package's scores, under our names."""
    torch = importlib.import_module("torch")
    tensors = [torch.from_numpy(np.ascontiguousarray(np.moveaxis(one, -1, 0))).float() for one in (coarse, image, reference)]
    found = package().Metrics(border_mask=0, correctness_distance=distance).compute(lr=tensors[0], sr=tensors[1], hr=tensors[2])
    return {ours: found[their] for ours, their in KEYS.items()}


def ours(image: np.ndarray, reference: np.ndarray, coarse: np.ndarray, factor: int, distance: str) -> dict[str, float]:
    found, suffix = opensr.scores(image, reference, coarse, factor), "" if distance == "nd" else f"_{distance}"
    return {name: found[name + suffix if name in opensr.NAMES else name] for name in KEYS}


@pytest.mark.parametrize("name", EXPECTED)
def test_five_pairs_have_the_scores_that_the_package_gave(name):
    image, reference, coarse, factor = pairs()[name]
    for distance, expected in zip(("nd", "l1"), EXPECTED[name], strict=True):
        assert ours(image, reference, coarse, factor, distance) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_package_agrees(name):
    package()
    image, reference, coarse, factor = pairs()[name]
    for distance in ("nd", "l1"):
        assert ours(image, reference, coarse, factor, distance) == pytest.approx(theirs(image, reference, coarse, distance), abs=1e-3)


def test_distances_by_hand():
    x, y = np.array([[[1.0, 3.0]]]), np.array([[[3.0, 3.0]]])
    assert opensr.normalised_difference(x, y) == pytest.approx(0.25)
    assert opensr.absolute(x, y) == pytest.approx(1) and opensr.squared(x, y) == pytest.approx(2)
    # slopes of 0.02 down and 0.01 across in one of two bands, whatever offset lies between
    rows, columns = np.mgrid[:6, :7]
    ramp = np.stack([0.02 * rows + 0.01 * columns, 0 * rows], -1)
    np.testing.assert_allclose(opensr.gradient(ramp + 0.3, np.zeros_like(ramp))[1:-1, 1:-1], math.hypot(0.02, 0.01) / 2)
    assert opensr.spectral_angle(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(45)


def test_reduction_by_hand():
    """Weights 1 3 3 1 over 8 inside; 3 3 1 over 7 where the edge cuts them."""
    line = np.zeros((8, 2, 1))
    line[2] = 1.0
    np.testing.assert_allclose(opensr.reduced(line, 2)[:, 0, 0], [1 / 7, 3 / 8, 0, 0])
    assert opensr.reduced(np.full((12, 8, 2), 0.3), 4) == pytest.approx(np.full((3, 2, 2), 0.3))


def test_displacement_and_its_limit():
    """On an image that goes on around its edges; at others, phase correlation errs by tenths of a pixel."""
    image = ndimage.gaussian_filter(np.random.default_rng(5).standard_normal((64, 64)), 1, mode="wrap")[..., None]
    moved = np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(image[..., 0]), (1.6, -1.2))).real[..., None]
    assert opensr.displacement(moved, image) == pytest.approx((-1.6, 1.2), abs=0.03)  # three of its steps; `alignment` is finer
    assert opensr.displacement(np.roll(image, 5, 0), image) == (-5, 0)
    assert opensr.displacement(np.roll(image, 6, 0), image) is None


def test_correctness_of_one_pixel_by_hand():
    """Of 4 pixels the last has d_ref 2 over the third quartile 1, d_im 1, d_om 3: over d_ref 0.5 and 1.5, H = 1."""
    zero = np.zeros((1, 4, 1))
    base, reference, image = zero.copy(), zero + np.array([1.0, 1, 1, 2])[None, :, None], zero + np.array([1.0, 1, 1, 3])[None, :, None]
    rest = 1 - math.exp(-0.05)
    weights = [math.exp(-4 * value) for value in (0.5 + 1.5 * rest, 1.5 + 0.5 * rest, math.exp(-0.05 * 0.75))]
    found = opensr.correctness(base, image, reference, "l1")
    assert list(found.values()) == pytest.approx([weight / sum(weights) for weight in weights])
    assert math.isnan(opensr.correctness(base, base, base, "l1")["improvement"])


def test_files_have_the_scores_of_their_tiles(tmp_path, monkeypatch):
    """One tile: those of the arrays. Four: their mean by pixels, whatever the window. With a hole: pixels of it do not count."""
    image, reference, coarse, factor = pairs()["sharp"]
    paths = [write_reflectance(tmp_path / f"{name}.tif", one, by) for name, one, by in (("a", image, 2.5), ("b", reference, 2.5), ("c", coarse, 10))]
    found = measure(*paths, groups=["opensr"], border=8)
    expected = opensr.scores(image[8:-8, 8:-8], reference[8:-8, 8:-8], coarse[2:-2, 2:-2], factor)
    assert {name.removeprefix("opensr_"): one.all for name, one in found.scores.items()} == pytest.approx(expected, rel=1e-9)
    assert found.pixels == 144 * 144
    monkeypatch.setattr(opensr, "SIDE", 80)
    tiles = [(slice(8 + 72 * i, 80 + 72 * i), slice(8 + 72 * j, 80 + 72 * j)) for i in (0, 1) for j in (0, 1)]
    each = [opensr.scores(image[t], reference[t], coarse[t[0].start // 4 : t[0].stop // 4, t[1].start // 4 : t[1].stop // 4], factor) for t in tiles]
    for window in (64, 4096):
        found = measure(*paths, groups=["opensr"], border=8, window=window)
        for name in expected:
            assert found.scores[f"opensr_{name}"].all == pytest.approx(np.mean([one[name] for one in each]), rel=1e-9), name
    holed = reference.copy()
    holed[20:36, 24:40] = -1
    alone = measure(paths[0], write_reflectance(tmp_path / "hole.tif", holed, 2.5), paths[2], groups=["opensr"], border=8)
    assert alone.scores["opensr_reflectance"].all == pytest.approx(found.scores["opensr_reflectance"].all, rel=0.2)
    spoiled = image.copy()
    spoiled[20:36, 24:40] = 0.9
    other = measure(write_reflectance(tmp_path / "spoiled.tif", spoiled, 2.5), tmp_path / "hole.tif", paths[2], groups=["opensr"], border=8)
    for name in ("opensr_synthesis", "opensr_improvement", "opensr_hallucination_l1"):
        assert other.scores[name].all == pytest.approx(alone.scores[name].all, rel=1e-9), name


def test_scores_of_flat_images_by_hand():
    """Image 0.2 0.4, reference 0.3 0.3, input 0.1 0.1; with the reference's histogram the image is the reference."""
    image, reference, coarse = (np.ones((size, size, 2)) * values for size, values in ((16, (0.2, 0.4)), (16, (0.3, 0.3)), (4, (0.1, 0.1))))
    found = opensr.scores(image, reference, coarse, 4)
    assert found["reflectance"] == pytest.approx((0.1 + 0.3) / 2) and found["synthesis"] == pytest.approx(0.2)
    assert found["spectral"] == pytest.approx(math.degrees(math.atan2(0.4, 0.2)) - 45)


def test_a_displacement_by_an_input_pixel_is_one_pixel():
    image = ndimage.gaussian_filter(np.random.default_rng(6).standard_normal((128, 128, 3)), (3, 3, 0), mode="wrap") + 1
    found = opensr.scores(np.roll(image, (4, -8), (0, 1)), None, opensr.reduced(image, 4), 4)
    assert found["spatial"] == pytest.approx(math.hypot(1, 2), abs=0.03)


def test_without_a_reference_only_consistency_is_told(tmp_path):
    image, _, coarse, _ = pairs()["sharp"]
    found = measure(write_reflectance(tmp_path / "a.tif", image, 2.5), None, write_reflectance(tmp_path / "c.tif", coarse, 10), groups=["opensr"], border=0)
    assert set(found.scores) == {"opensr_reflectance", "opensr_spectral", "opensr_spatial"}
