"""LPIPS and DISTS: by hand, against their definitions in plain numpy, whatever the window, and with weights that are not what they should be.

The weights are random numbers of the right shapes in the files that users have; no trained network is at hand.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy import ndimage
from torch_files import Call, pickled, state_file

from otbsr.errors import InputError, UsageError
from otbsr.evaluation import perceptual
from otbsr.evaluation.comparison import score_all
from otbsr.evaluation.perceptual import ALEXNET, LARGEST, SQUARES, Cut, Dists, Lpips, Perception, Step, read_perception, vgg16
from otbsr.evaluation.streams import measure
from otbsr.pairs.alignment import Alignment, Field
from otbsr.products.tensor import read_tensors

pytest.importorskip("keras", reason="Keras is not installed")

NAMES = ("B4", "B3", "B2", "B8")
VGG_WIDTHS, ALEX_WIDTHS = (64, 128, 256, 512, 512), (64, 192, 384, 256, 256)


def write(path: Path, image: np.ndarray, names: tuple[str, ...] | None = NAMES, spacing: float = 2.5, **more) -> Path:
    """Reflectance [rows, columns, bands] as 64-bit DN."""
    planes = np.moveaxis(image, -1, 0)
    place = rasterio.transform.from_origin(500000, 4800000, spacing, spacing)
    profile = {"driver": "GTiff", "count": len(planes), "height": planes.shape[1], "width": planes.shape[2], "dtype": "float64", "crs": "EPSG:32631"}
    with rasterio.open(path, "w", **profile, transform=place, **more) as dataset:
        dataset.write(planes * 1e4)
        if names:
            dataset.descriptions = names
    return path


def texture(rows: int, columns: int, seed: int, bands: int = 4) -> np.ndarray:
    """Reflectance of 0.02 to 0.35 or so: some of it is beyond white."""
    random = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(random.standard_normal((rows, columns, bands)), (1.2, 1.2, 0)) + 0.2 * random.standard_normal((rows, columns, bands))
    return np.clip(0.15 + 0.15 * image, 0.001, None)


def state(steps: tuple[Step, ...], seed: int) -> dict[str, np.ndarray]:
    """A state dict as torchvision has it, random numbers of a strength that keeps features alive."""
    random, found, before = np.random.default_rng(seed), {}, 3
    for step in steps:
        if step.channels:
            shape = (step.channels, before, step.size, step.size)
            found[f"features.{step.key}.weight"] = (random.standard_normal(shape, np.float32) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
            found[f"features.{step.key}.bias"] = 0.05 * random.standard_normal(step.channels, np.float32)
            before = step.channels
    return found


def lines(widths: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {f"lin{i}.model.1.weight": random.random((1, width, 1, 1), np.float32) for i, width in enumerate(widths)}


def shares(seed: int, length: int = 1475) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.random((1, length, 1, 1), np.float32) for name in ("alpha", "beta")}


STATES = {
    "vgg16-397923af.pth": lambda: {**state(perceptual.NETWORKS["vgg16"], 1), "classifier.0.weight": np.ones((2, 3), np.float32)},
    "alexnet.pth": lambda: state(ALEXNET, 2),
    "vgg.pth": lambda: lines(VGG_WIDTHS, 3),
    "alex.pth": lambda: lines(ALEX_WIDTHS, 4),
    "weights.pt": lambda: shares(5),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """All weights as their authors publish them, the older ones in PyTorch's older format; and a file that is none of them."""
    found = tmp_path_factory.mktemp("weights")
    for name, made in STATES.items():
        state_file(found / name, made(), legacy=name in ("vgg16-397923af.pth", "vgg.pth"), parameter=name == "weights.pt")
    (found / "README.md").write_text("where these are from")
    return found


# --- definitions in numpy -------------------------------------------------------------------------------------------------------


def convolved(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, stride: int, margin: int) -> np.ndarray:
    """[rows, columns, in] and [out, in, size, size] -> ReLU of the convolution, in float64."""
    x = np.pad(x, ((margin, margin), (margin, margin), (0, 0)))
    size = kernel.shape[2]
    near = np.lib.stride_tricks.sliding_window_view(x, (size, size), (0, 1))[::stride, ::stride]
    return np.maximum(np.tensordot(near, kernel.astype(np.float64), ((2, 3, 4), (1, 2, 3))) + bias, 0)


def largest(x: np.ndarray, size: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), (0, 1))[::2, ::2].max((3, 4))


def squares(x: np.ndarray) -> np.ndarray:
    near = np.lib.stride_tricks.sliding_window_view(np.pad(x**2, ((1, 1), (1, 1), (0, 0))), (3, 3), (0, 1))[::2, ::2]
    hann = np.hanning(5)[1:-1]
    return np.sqrt(np.tensordot(near, np.outer(hann, hann) / np.outer(hann, hann).sum(), ((3, 4), (0, 1))) + 1e-12)


def vgg_layers(x: np.ndarray, weights: dict[str, np.ndarray], pool) -> list[np.ndarray]:
    found = []
    for stage, keys in enumerate(((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))):
        x = pool(x) if stage else x
        for key in keys:
            x = convolved(x, weights[f"features.{key}.weight"], weights[f"features.{key}.bias"], 1, 1)
        found.append(x)
    return found


def alex_layers(x: np.ndarray, weights: dict[str, np.ndarray]) -> list[np.ndarray]:
    found = []
    for key, stride, margin, pooled in ((0, 4, 2, False), (3, 1, 2, True), (6, 1, 1, True), (8, 1, 1, False), (10, 1, 1, False)):
        x = convolved(largest(x, 3) if pooled else x, weights[f"features.{key}.weight"], weights[f"features.{key}.bias"], stride, margin)
        found.append(x)
    return found


def lpips(image: np.ndarray, reference: np.ndarray, layers, weights: dict[str, np.ndarray], widths: dict[str, np.ndarray]) -> float:
    """Of colours [rows, columns, 3] of 0 to 1."""
    seen = [layers((2 * x - 1 - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450]), weights) for x in (image, reference)]
    total = 0.0
    for i, pair in enumerate(zip(*seen, strict=True)):
        a, b = (x / (np.sqrt((x**2).sum(-1, keepdims=True)) + 1e-10) for x in pair)
        total += (((a - b) ** 2) * widths[f"lin{i}.model.1.weight"].ravel()).sum(-1).mean()
    return total


def dists(image: np.ndarray, reference: np.ndarray, weights: dict[str, np.ndarray], alpha: np.ndarray, beta: np.ndarray) -> float:
    seen = [[x, *vgg_layers((x - [0.485, 0.456, 0.406]) / np.array([0.229, 0.224, 0.225]), weights, squares)] for x in (image, reference)]
    texture_, structure = [], []
    for x, y in zip(*seen, strict=True):
        mx, my, vx, vy = x.mean((0, 1)), y.mean((0, 1)), x.var((0, 1)), y.var((0, 1))
        cov = ((x - mx) * (y - my)).mean((0, 1))
        texture_.append((2 * mx * my + 1e-6) / (mx**2 + my**2 + 1e-6))
        structure.append((2 * cov + 1e-6) / (vx + vy + 1e-6))
    alpha, beta = alpha.ravel().astype(np.float64), beta.ravel().astype(np.float64)
    return 1 - (np.concatenate(texture_) @ alpha + np.concatenate(structure) @ beta) / (alpha.sum() + beta.sum())


def test_scores_are_those_of_the_definitions(folder, tmp_path):
    """Through torchvision's state dicts of full width; the border is cut before the network sees the image."""
    reference = texture(66, 70, 1)
    image = ndimage.gaussian_filter(reference, (1, 1, 0)) * 1.1
    found = measure(write(tmp_path / "i.tif", image), write(tmp_path / "r.tif", reference), groups=(), border=3, perception=read_perception(folder))
    assert list(found.scores) == ["lpips_alex", "lpips_vgg", "dists"]
    colours = [np.clip(x[3:-3, 3:-3, :3] / 0.3, 0, 1) for x in (image, reference)]
    vgg, alex, alpha_beta = STATES["vgg16-397923af.pth"](), STATES["alexnet.pth"](), STATES["weights.pt"]()
    expected = {
        "lpips_alex": lpips(*colours, alex_layers, alex, STATES["alex.pth"]()),
        "lpips_vgg": lpips(*colours, lambda x, w: vgg_layers(x, w, lambda y: largest(y, 2)), vgg, STATES["vgg.pth"]()),
        "dists": dists(*colours, vgg, **alpha_beta),
    }
    for name, value in expected.items():
        assert found.scores[name].all == pytest.approx(value, rel=1e-4), name
        assert value > 1e-3 and found.scores[name].bands is None
    values = np.stack([x[3:-3, 3:-3, :3] for x in (image, reference)])
    assert f"{(values > 0.3).mean():.1%} of the values lie beyond" in found.remarks[-1] and "B4, B3, B2" in found.remarks[-1]


def pixel(*colour: float) -> np.ndarray:
    return np.full((1, 1, 3), colour, np.float32)


def test_lpips_by_hand():
    """One pixel, red and green taken as they are after the fixed shift and scale: (3, 4) and (4, 3) have length 5."""
    kernel = np.zeros((1, 1, 3, 2), np.float32)
    kernel[0, 0, 0, 0] = kernel[0, 0, 1, 1] = 1
    steps = (Step("conv", 1, 1, 0, 0, 2, True),)
    one = Lpips("x", steps, {0: (kernel, np.zeros(2, np.float32))}, [np.array([10, 100], np.float32)])

    def colour(red: float, green: float) -> np.ndarray:
        return pixel((red * 0.458 - 0.030 + 1) / 2, (green * 0.448 - 0.088 + 1) / 2, 0)

    sums, _ = one.look(Cut((colour(3, 4), colour(4, 3)), None, (0, 0), (1, 1), (True, True)), False)
    assert one.score(sums) == pytest.approx(110 * 0.2**2, rel=1e-5)
    assert one.score((2 * sums[0],)) == pytest.approx(110 * 0.2**2, rel=1e-5)  # a mean


def test_dists_by_hand():
    """Weight on the colours alone; red 0.2 against 0.4, flat; green 0 and 1 against 1 and 0; blue alike."""
    steps = vgg16(SQUARES, (1, 1, 1, 1, 1))
    weights = {step.key: (np.ones((3, 3, 3 if step.key == 0 else 1, 1), np.float32), np.zeros(1, np.float32)) for step in steps if step.channels}
    alpha, beta = np.zeros(8), np.zeros(8)
    alpha[:2], beta[1:3] = 1, (3, 5)
    one = Dists(steps, weights, alpha, beta)
    image = np.stack([np.full((2, 4), 0.2), np.tile([0, 1], (2, 2)), np.tile([0.1, 0.3], (2, 2))], -1).astype(np.float32)
    reference = np.stack([np.full((2, 4), 0.4), np.tile([1, 0], (2, 2)), np.tile([0.1, 0.3], (2, 2))], -1).astype(np.float32)
    sums, _ = one.look(Cut((image, reference), None, (0, 0), (2, 4), (True, True)), False)
    similar = (0.16 + 1e-6) / (0.2 + 1e-6) + 1 + 3 * (-0.5 + 1e-6) / (0.5 + 1e-6) + 5
    assert one.score(sums) == pytest.approx(1 - similar / 10, abs=1e-7)


def test_identical_images_have_no_distance(folder, tmp_path):
    image = write(tmp_path / "i.tif", texture(48, 48, 2))
    found = measure(image, image, groups=(), border=0, perception=read_perception(folder)).scores
    assert found["lpips_vgg"].all == found["lpips_alex"].all == 0
    assert found["dists"].all == pytest.approx(0, abs=1e-12)


# --- windows --------------------------------------------------------------------------------------------------------------------


def narrow(seed: int = 0, white: float = 0.3) -> Perception:
    """The three networks with few channels, for tests that run them often."""
    random, found = np.random.default_rng(seed), []
    for name, steps in (
        ("lpips_vgg", vgg16(LARGEST, (3, 4, 4, 5, 6))),
        ("lpips_alex", tuple(Step(s.kind, s.size, s.stride, s.margin, s.key, s.channels // 48, s.seen) for s in ALEXNET)),
        ("dists", vgg16(SQUARES, (3, 4, 4, 5, 6))),
    ):
        weights, before = {}, 3
        for step in steps:
            if step.channels:
                shape = (step.size, step.size, before, step.channels)
                weights[step.key] = (
                    (random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:3]))).astype(np.float32),
                    np.full(step.channels, 0.1, np.float32),
                )
                before = step.channels
        widths = perceptual.channels(steps)
        if name == "dists":
            found.append(Dists(steps, weights, random.random(3 + sum(widths)), random.random(3 + sum(widths))))
        else:
            found.append(Lpips(name, steps, weights, [random.random(width).astype(np.float32) for width in widths]))
    return Perception(tuple(found), white)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Image, reference and input of a size that no window divides, with no-data in one corner; and a mask with a hole in another."""
    place, reference = tmp_path_factory.mktemp("files"), texture(332, 428, 3)
    image = ndimage.gaussian_filter(np.roll(reference, (1, 0), (0, 1)), (0.8, 0.8, 0))
    coarse = reference.reshape(83, 4, 107, 4, 4).mean((1, 3))
    image[10:14, 20:30] = np.nan
    mask = np.full((332, 428, 1), 1e-4)
    mask[310:316, 390:400] = 0
    return [
        write(place / "image.tif", image),
        write(place / "reference.tif", reference),
        write(place / "input.tif", coarse, spacing=10.0),
        write(place / "mask.tif", mask, ("mask",)),
    ]


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1).astype(np.float64)


def test_whole_is_windowed(files, tmp_path):
    """To float32's rounding, maps too; with an input, whose factor windows are multiples of, and without one."""
    for chosen in (files, [files[0], files[1], None, files[3]]):
        options = {"groups": (), "border": 5, "perception": narrow(), "overwrite": True}
        whole = measure(*chosen, **options, window=4096, maps=tmp_path / "whole")
        assert [path.name for path in whole.maps][3 + (chosen[2] is not None) :] == ["lpips_vgg.tif", "lpips_alex.tif"]
        for window in (130,) if chosen[2] else (112,):
            found = measure(*chosen, **options, window=window, maps=tmp_path / "parts")
            for name, one in whole.scores.items():
                assert found.scores[name].all == pytest.approx(one.all, rel=1e-6), name
                assert one.all > 1e-3
            for name in ("lpips_vgg.tif", "lpips_alex.tif"):
                np.testing.assert_allclose(read(tmp_path / "parts" / name), read(tmp_path / "whole" / name), rtol=1e-4, atol=1e-6)
        bare = measure(*chosen, groups=(), border=5, perception=narrow(), window=160)  # without maps: narrower margins
        assert {name: one.all for name, one in bare.scores.items()} == pytest.approx({name: one.all for name, one in whole.scores.items()}, rel=1e-6)


def test_the_corrected_image_is_looked_at_too(tmp_path, monkeypatch):
    """Two pixels down, three left, another gain: afterwards all three distances are 0, in the map and in the blocks too; not asked for, nothing is."""
    reference = texture(160, 160, 11)
    files = write(tmp_path / "i.tif", 1.2 * np.roll(reference, (2, -3), (0, 1)) + 0.01), write(tmp_path / "r.tif", reference)
    field = Field((500000.0, 4799600.0, 500400.0, 4800000.0), (7.5,), (5.0,))
    four = (1.2,) * 4, (0.01,) * 4, (0.0,) * 4, (0.0,) * 4, (1.0,) * 4
    known = Alignment((7.5, 5.0), (0.0, 0.0), field, NAMES, *four, 1.0, 9, {}, (2.5, 2.5))
    monkeypatch.setattr("otbsr.evaluation.streams.between", lambda *_: known)
    options = {"border": 16, "perception": narrow(), "window": 64}
    found = measure(*files, groups=("between",), maps=tmp_path / "maps", blocks=True, **options)
    for name in ("lpips_vgg", "lpips_alex", "dists"):
        assert found.scores[name].all > 0.01 and found.scores[f"corrected_{name}"].all == pytest.approx(0, abs=1e-5), name
    assert list(found.plain)[:3] == ["lpips_vgg", "lpips_alex", "dists"] and len(found.remarks) == 1
    assert max(block.scores["corrected_lpips_vgg"] for block in found.blocks) < 1e-5
    assert [path.name for path in found.maps][-2:] == ["corrected_lpips_vgg.tif", "corrected_lpips_alex.tif"]
    assert np.nanmax(read(found.maps[-2])) < 1e-4 < 0.01 < np.nanmax(read(tmp_path / "maps" / "lpips_vgg.tif"))
    assert not measure(*files, groups=(), **options).corrected


def test_what_a_file_says_where_it_holds_nothing_is_never_used(files, tmp_path):
    """Other numbers under the mask: the same scores; a pixel beside it: others."""
    before = measure(*files, groups=(), border=5, perception=narrow())
    with rasterio.open(files[0]) as dataset:
        image = np.moveaxis(dataset.read(), 0, -1) / 1e4
    for rows, same in ((slice(310, 316), True), (slice(300, 301), False)):
        other = image.copy()
        other[rows, 390:400] = 0.9
        after = measure(write(tmp_path / "other.tif", other), *files[1:], groups=(), border=5, perception=narrow())
        for name, one in before.scores.items():
            assert (after.scores[name].all == pytest.approx(one.all, rel=1e-12)) == same, name


def test_around_a_hole_features_are_left_out_and_others_do_not_change(tmp_path):
    """The mean over those features of the image without a hole that look at none of the hole's pixels."""
    reference = texture(224, 256, 4, 3)
    image = ndimage.gaussian_filter(reference, (1, 1, 0))
    one = narrow().distances[0]
    cut = Cut(tuple(np.clip(x / 0.3, 0, 1).astype(np.float32) for x in (image, reference)), None, (0, 0), (224, 256), (True, True))
    total = 0.0
    for stride, difference, _ in one.layers(cut):
        # half of the pixels that a feature of VGG16 looks at, beyond its own square: 2, 6, 18, 42, 90
        around = {1: 2, 2: 6, 4: 18, 8: 42, 16: 90}[stride]
        row, column = (np.arange(size) * stride for size in difference.shape)
        beside = [(low - around > 5) | (low + stride - 1 + around < 0) for low in (row, column)]
        total += difference[beside[0][:, None] | beside[1][None, :]].mean()
    image[:6, :6] = np.nan
    files = write(tmp_path / "i.tif", image, NAMES[:3]), write(tmp_path / "r.tif", reference, NAMES[:3])
    found = measure(*files, groups=(), border=0, perception=Perception((one,)), maps=tmp_path / "maps", window=64)
    assert found.scores["lpips_vgg"].all == pytest.approx(total, rel=1e-6)
    plane = read(found.maps[-1])
    assert np.isnan(plane[:90, :90]).all() and np.isfinite(plane[:, 160:]).all() and np.isfinite(plane[160:]).all()


def test_the_mean_of_the_map_is_the_score(tmp_path):
    """Of one layer that has a feature a pixel."""
    reference = texture(40, 44, 5)
    steps = vgg16(LARGEST, (3, 4, 4, 5, 6))[:2]
    whole = narrow().distances[0]
    one = Perception((Lpips("lpips_vgg", steps, whole.weights, whole.lines[:1]),))
    files = write(tmp_path / "i.tif", reference[::-1]), write(tmp_path / "r.tif", reference)
    found = measure(*files, groups=(), border=0, perception=one, maps=tmp_path / "maps", window=16)
    assert read(found.maps[-1]).mean() == pytest.approx(found.scores["lpips_vgg"].all, rel=1e-6)


def test_an_image_that_is_too_small_for_a_layer_has_no_score(tmp_path):
    files = write(tmp_path / "i.tif", texture(15, 40, 6)), write(tmp_path / "r.tif", texture(15, 40, 7))
    found = measure(*files, groups=(), border=0, perception=narrow(), maps=tmp_path / "maps")
    assert found.scores["lpips_vgg"].all is None and found.scores["lpips_alex"].all is None and found.scores["dists"].all > 0
    assert np.isnan(read(tmp_path / "maps" / "lpips_vgg.tif")).all()


def test_colours_are_found_by_name_and_stretched(tmp_path):
    """Order of bands, names of colours, and infrared do not matter; white and reflectance together neither."""
    reference, image = texture(64, 64, 8), texture(64, 64, 9)
    first = write(tmp_path / "i.tif", image), write(tmp_path / "r.tif", reference)
    expected = {name: one.all for name, one in measure(*first, groups=(), border=0, perception=narrow()).scores.items()}
    turned = [image[..., [3, 2, 0, 1]] / 2, reference[..., [3, 2, 0, 1]] / 2]
    turned[0][..., 0] += 0.1
    second = [write(tmp_path / name, x, ("nir", "blue", "red", "green")) for name, x in zip(("i2.tif", "r2.tif"), turned, strict=True)]
    found = measure(*second, groups=(), border=0, perception=narrow(white=0.15))
    assert {name: one.all for name, one in found.scores.items()} == pytest.approx(expected, rel=1e-6)
    unnamed = write(tmp_path / "u.tif", image[..., :3], None)
    with pytest.raises(InputError, match=r"u.tif: bands band1, band2, band3, expected B4, B3, B2 \(or red, green, blue\) among them"):
        measure(unnamed, unnamed, groups=(), perception=narrow())
    with pytest.raises(UsageError, match="compare with a reference; give --reference"):
        measure(first[0], None, write(tmp_path / "c.tif", image[::4, ::4], spacing=10.0), groups=(), perception=narrow())
    with pytest.raises(UsageError, match="need weights that you have; give their folder with --perceptual"):
        measure(*first, groups=("perceptual",))
    assert "lpips_vgg" not in measure(*first, groups=("all",), border=0).scores  # nothing without weights, and no error


def test_blocks_have_scores_of_their_own(files, monkeypatch):
    """So that several images are compared in pairs, as by the other scores."""
    perception = Perception(narrow().distances[:1])
    found = measure(*files, groups=("pixels",), border=5, perception=perception, window=128, blocks=True)
    assert all({"psnr", "lpips_vgg"} <= set(one.scores) for one in found.blocks) and len(found.blocks) == 12
    monkeypatch.setattr("otbsr.evaluation.comparison.read_perception", lambda *_: perception)
    told = score_all([files[0], files[1]], None, files[1], None, None, block=128, perceptual=Path("any"), groups=("pixels",), border=5)
    difference = next(one for one in told.comparison.differences if one.score == "lpips_vgg")
    assert difference.value < 0 and difference.interval is not None and difference.interval.shown


# --- weights --------------------------------------------------------------------------------------------------------------------


def safetensors(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), len(data) + values.nbytes]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_every_format_holds_the_same(tmp_path):
    tensors = {**lines(VGG_WIDTHS, 1), "none.weight": np.ones(3, np.float32)}
    files = [state_file(tmp_path / f"{legacy}{parameter}.pth", tensors, legacy, parameter) for legacy in (False, True) for parameter in (False, True)]
    np.savez(tmp_path / "x.npz", **tensors)
    for path in [*files, safetensors(tmp_path / "x.safetensors", tensors), tmp_path / "x.npz"]:
        found = read_tensors(path, "lin")
        assert list(found) == [name for name in tensors if name.startswith("lin")]
        for name, values in found.items():
            assert np.array_equal(values, tensors[name]) and values.dtype == np.float32


def test_files_of_pytorch_itself(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: its own files cannot be compared")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 2, 1, bias=False))
    for legacy in (False, True):
        torch.save(model.state_dict(), tmp_path / "own.pth", _use_new_zipfile_serialization=not legacy)
        found = read_tensors(tmp_path / "own.pth")
        assert list(found) == list(model.state_dict())
        for name, values in model.state_dict().items():
            assert np.array_equal(found[name], values.numpy())
        torch.save({"alpha": torch.nn.Parameter(torch.ones(1, 5, 1, 1))}, tmp_path / "own.pt", _use_new_zipfile_serialization=not legacy)
        assert read_tensors(tmp_path / "own.pt")["alpha"].shape == (1, 5, 1, 1)


@pytest.mark.parametrize("legacy", [False, True])
def test_files_that_would_run_are_refused(tmp_path, legacy):
    proof = tmp_path / "ran"
    for attack in (Call("posix", "system", f"touch {proof}"), Call("builtins", "eval", f"open({str(proof)!r}, 'w')"), Call("numpy", "load", "x")):
        path, evil = tmp_path / "vgg.pth", pickled({"alpha": attack})
        if legacy:
            path.write_bytes(pickled(0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}) + evil + pickled([]))
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", evil)
        with pytest.raises(InputError, match=r"vgg.pth: cannot be read as tensors by name \(UnpicklingError: uses (posix|builtins|numpy)\.\w+\); fetch"):
            read_perception(tmp_path)
        path.write_bytes(evil)
        with pytest.raises(InputError, match="cannot be read as tensors by name"):
            read_perception(tmp_path)
    assert not proof.exists()


def test_damaged_files_are_refused(tmp_path):
    whole = {}
    for name, made in (("old.pth", True), ("new.pth", False)):
        whole[name] = state_file(tmp_path / name, lines(VGG_WIDTHS, 1), made).read_bytes()
        (tmp_path / name).unlink()
    whole["x.safetensors"] = safetensors(tmp_path / "x.safetensors", lines(VGG_WIDTHS, 1)).read_bytes()
    (tmp_path / "x.safetensors").unlink()
    for name, content in whole.items():
        for length in (0, 3, 100, len(content) // 2, len(content) - 1):
            (tmp_path / name).write_bytes(content[:length])
            with pytest.raises(InputError, match=rf"{name}: .*(cannot be read|is not a file of torch.save).*fetch"):
                read_perception(tmp_path)
        (tmp_path / name).unlink()
    # 2^40 numbers that are not there
    (tmp_path / "old.pth").write_bytes(whole["old.pth"][: -(8 + 4 * 512)] + (1 << 40).to_bytes(8, "little") + bytes(2048))
    with pytest.raises(InputError, match=r"storage of 1099511627776 numbers, expected 512"):
        read_perception(tmp_path)
    (tmp_path / "old.pth").unlink()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 1 << 50))
    with pytest.raises(InputError, match="header of 1125899906842624 bytes"):
        read_perception(tmp_path)
    (tmp_path / "x.safetensors").unlink()
    np.savez(tmp_path / "x.npz", alpha=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="cannot be read as tensors by name"):
        read_perception(tmp_path)


def test_weights_that_are_missing_or_others(folder, tmp_path):
    def held(*names: str, **more: dict[str, np.ndarray]) -> Path:
        place = tmp_path / "held"
        place.mkdir(exist_ok=True)
        for path in place.iterdir():
            path.unlink()
        for name in names:
            (place / name).symlink_to(folder / name)
        for name, tensors in more.items():
            state_file(place / f"{name}.pth", tensors)
        return place

    with pytest.raises(InputError, match=r"absent \(--perceptual\): no such folder; expected torchvision's VGG16"):
        read_perception(tmp_path / "absent")
    with pytest.raises(InputError, match=r"holds no weights of LPIPS or DISTS; expected torchvision's VGG16"):
        read_perception(held())
    with pytest.raises(InputError, match=r"its VGG16 alone gives no distance"):
        read_perception(held("vgg16-397923af.pth"))
    for name, network in (("vgg.pth", "VGG16"), ("alex.pth", "AlexNet"), ("weights.pt", "VGG16")):
        with pytest.raises(InputError, match=rf"{name}: needs torchvision's {network} beside it, which is missing"):
            read_perception(held(name))
    (held() / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5").write_text("")
    with pytest.raises(InputError, match=r"notop.h5 is no use: Keras' networks were trained apart, and their channels are not those of LPIPS and DISTS"):
        read_perception(tmp_path / "held")
    with pytest.raises(InputError, match=r"vgg.pth: is the same as alpha.pth; leave one of the two in"):
        read_perception(held("vgg.pth", alpha=lines(VGG_WIDTHS, 9)))
    with pytest.raises(InputError, match=r"low.pth: holds weights below 0"):
        read_perception(held("vgg16-397923af.pth", low={name: values - 0.5 for name, values in lines(VGG_WIDTHS, 9).items()}))
    with pytest.raises(InputError, match=r"wide.pth: beta is float32 \[1, 1476, 1, 1\], expected floating point \[1, 1475, 1, 1\]"):
        read_perception(held("vgg16-397923af.pth", wide={**shares(1), "beta": np.ones((1, 1476, 1, 1), np.float32)}))
    broken = STATES["alexnet.pth"]()
    broken["features.3.bias"][5] = np.nan
    with pytest.raises(InputError, match=r"broken.pth: features.3.bias holds values that are no numbers"):
        read_perception(held("alex.pth", broken=broken))
    broken["features.3.bias"] = np.ones(191, np.float32)
    with pytest.raises(InputError, match=r"broken.pth: features.3.bias is float32 \[191\], expected floating point \[192\]"):
        read_perception(held("alex.pth", broken=broken))
    with pytest.raises(UsageError, match="--white nan: expected a reflectance above 0"):
        read_perception(folder, float("nan"))
    assert [one.name for one in read_perception(held("vgg16-397923af.pth", "weights.pt")).distances] == ["dists"]
    squeeze = {f"lin{i}.model.1.weight": np.ones((1, 64, 1, 1), np.float32) for i in range(7)}  # another network's: passed over
    assert [one.name for one in read_perception(held("alexnet.pth", "alex.pth", squeeze=squeeze)).distances] == ["lpips_alex"]


def test_the_command(folder, tmp_path):
    images = write(tmp_path / "sr.tif", texture(64, 64, 1)), write(tmp_path / "hr.tif", texture(64, 64, 2))
    words = ["quality", images[0], "--reference", images[1], "--scores", "perceptual", "--perceptual", folder, "--white", "0.4", "--threads", "1", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))))}
    done = subprocess.run([sys.executable, "-m", "otbsr", *map(str, words)], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = measure(*images, groups=(), perception=read_perception(folder, 0.4))
    assert {name: one["all"] for name, one in found["scores"].items()} == pytest.approx({name: one.all for name, one in expected.scores.items()}, rel=1e-5)
    assert "reflectance 0 to 0.4 as black to white" in found["remarks"][-1]
