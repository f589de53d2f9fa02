"""TensorflowModelServe beyond one fully convolutional source: several sources, patches, scales, names, types, no-data, tiles, failures.

Sections (§) are those of the reference document on OTBTF's interface."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from otbsr.grid import Grid

TRANSFORM = Affine(10, 0, 300000, 0, -10, 4900020)


def write(path: Path, pixels: np.ndarray, **profile: object) -> Path:
    """A GeoTIFF of `pixels` (bands, rows, columns)."""
    settings = {"driver": "GTiff", "crs": "EPSG:32631", "transform": TRANSFORM, "dtype": pixels.dtype, **profile}
    with rasterio.open(path, "w", count=pixels.shape[0], height=pixels.shape[1], width=pixels.shape[2], **settings) as dataset:
        dataset.write(pixels)
    return path


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


def scene(bands: int, rows: int, columns: int, seed: int = 0, kind: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 12000, (bands, rows, columns)).astype(kind)


def succeed(process: subprocess.CompletedProcess[str]) -> str:
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout + process.stderr


def refuse(process: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit status not zero and one FATAL or ERROR message with these words."""
    log = process.stdout + process.stderr
    assert process.returncode not in (0, -6, -11), log
    lines = [line for line in log.splitlines() if "(FATAL)" in line or line.startswith("ERROR")]
    assert len(lines) == 1, log
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small SavedModels, one a folder."""
    tf = pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("zoo")

    def save(name: str, call, signature: dict[str, object], key: str = "serving_default") -> None:  # type: ignore[no-untyped-def]
        module = tf.Module()
        module.call = tf.function(call, input_signature=[tf.TensorSpec(shape, kind, name=word) for word, (shape, kind) in signature.items()])
        tf.saved_model.save(module, str(folder / name), signatures={key: module.call})

    any4 = (None, None, None, None)
    real = {"x": (any4, tf.float32)}
    two = {"a": (any4, tf.float32), "b": (any4, tf.float32)}
    save("same", lambda x: {"y": tf.identity(x)}, {"x": ((None, None, None, 4), tf.float32)})
    save("unknown", lambda x: {"y": x * 2}, real)
    save("sum3", lambda x: {"y": tf.reduce_sum(tf.nn.avg_pool2d(x, 3, 1, "VALID") * 9, -1, keepdims=True)}, {"x": ((None, None, None, 2), tf.float32)})
    save("side", lambda a, b: {"y": tf.concat([a, b], -1)}, two)
    save("patches", lambda a, b: {"y": tf.concat([tf.reshape(a, (tf.shape(a)[0], 15)), tf.reshape(b, (tf.shape(b)[0], 16))], -1)},
         {"a": ((None, 3, 5, 1), tf.float32), "b": ((None, 4, 4, 1), tf.float32)})  # fmt: skip
    save("first", lambda x: {"y": x[:, 0, 0, 0]}, real)
    save("picture", lambda x: {"y": x[:, :1, :1, :]}, real)
    save("several", lambda x: {"u": x[..., :1] + 1, "t": tf.cast(x[..., :2], tf.int32) * 2, "v": x}, {"x": ((None, None, None, 3), tf.float32)})
    save("up", lambda x: {"y": tf.repeat(tf.repeat(x, 3, axis=1), 3, axis=2)[:, ::2, ::2]}, {"x": ((None, None, None, 1), tf.float32)})
    save("down", lambda x: {"y": x[:, ::2, ::2]}, {"x": ((None, None, None, 1), tf.float32)})
    save("pyramid", lambda a, b: {"y": tf.concat([a, b[:, 2::4, 1::4]], -1)}, two)
    save("fixed", lambda x: {"y": tf.nn.avg_pool2d(x, 3, 1, "VALID") * 9}, {"x": ((1, 10, 12, 1), tf.float32)})
    for name in ("int32", "float64", "uint8", "int64"):
        save(name, lambda x: {"y": tf.identity(x)}, {"x": ((None, None, None, 1), tf.as_dtype(name))})
    save("half", lambda x: {"y": x / 2}, {"x": ((None, None, None, 1), tf.float32)})
    save("nan", lambda x: {"y": tf.where(x > 100, np.float32(np.nan), x)}, {"x": ((None, None, None, 1), tf.float32)})
    save("flag", lambda x, gain, add: {"y": x * gain + tf.cast(add, tf.float32)},
         {"x": ((None, None, None, 1), tf.float32), "gain": ((), tf.float32), "add": ((), tf.bool)})  # fmt: skip
    save("lie", lambda x: {"y": tf.ensure_shape(x, (None, None, None, None))}, real)
    return folder


def arguments(image: object, model: Path, out: object, *more: object, kind: str = "float") -> list[object]:
    images = image if isinstance(image, list) else [image]
    return ["-source1.il", *images, "-model.dir", model, *more, "-out", out, kind]


def two_sources(first: Path, second: Path, model: Path, out: object, *more: object, kind: str = "float") -> list[object]:
    return ["-source1.il", first, "-source2.il", second, "-model.dir", model, *more, "-out", out, kind]


TWO = {"OTB_TF_NSOURCES": "2"}
FULLY = ("-model.fullyconv", "on")


def patches_of(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """[rows, columns, patch rows, patch columns] of one band: pixels [c - n // 2, c - n // 2 + n - 1], mirrored."""
    padded = np.pad(pixels, ((rows // 2, rows - 1 - rows // 2), (columns // 2, columns - 1 - columns // 2)), mode="symmetric")
    return np.lib.stride_tricks.sliding_window_view(padded, (rows, columns))


# several sources


def test_number_of_sources(run_application, zoo: Path, tmp_path: Path) -> None:
    """§1, §14: unset is one; nonsense is one clear error, and the application still starts."""
    image, out = write(tmp_path / "in.tif", scene(4, 9, 8)), tmp_path / "out.tif"
    for value in ("0", "-1", "2x", "two", ""):
        refuse(run_application("TensorflowModelServe", *arguments(image, zoo / "same", out), environment={"OTB_TF_NSOURCES": value}), "OTB_TF_NSOURCES", value)
    assert "source1.il" in (log := run_application("TensorflowModelServe", "-help", environment={"OTB_TF_NSOURCES": "two"})).stdout + log.stderr
    succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "same", out), environment={"OTB_TF_NSOURCES": None}))
    assert np.array_equal(read(out), read(image))


@pytest.mark.parametrize("mode", ["fully", "patches"])
def test_two_sources_cover_what_both_cover(run_application, zoo: Path, tmp_path: Path, mode: str) -> None:
    """§1, §5: the output is the intersection of the footprints, on the first source's grid; pixels of both are those of the same ground."""
    a, b = scene(1, 40, 50, 1), scene(2, 30, 45, 2)
    first, out = write(tmp_path / "a.tif", a), tmp_path / "out.tif"
    second = write(tmp_path / "b.tif", b, transform=TRANSFORM @ Affine.translation(12, 15))
    more = FULLY if mode == "fully" else ()
    succeed(run_application("TensorflowModelServe", *two_sources(first, second, zoo / "side", out, *more), environment=TWO))
    with rasterio.open(out) as dataset:
        assert dataset.transform == TRANSFORM @ Affine.translation(12, 15) and (dataset.width, dataset.height) == (38, 25)
    assert np.array_equal(read(out), np.concatenate([a[:, 15:, 12:], b[:, :25, :38]]))


def test_sources_of_different_spacing_nest(run_application, zoo: Path, tmp_path: Path) -> None:
    """§6: each source is read on its own grid: 10 m and 2.5 m, one output pixel takes 4 x 4 of the second; tiles do not show."""
    a, b = scene(1, 30, 41, 1), scene(1, 120, 164, 2)
    first, out = write(tmp_path / "a.tif", a), tmp_path / "out.tif"
    second = write(tmp_path / "b.tif", b, transform=TRANSFORM @ Affine.scale(0.25))
    fields = ["-source2.rfieldx", 4, "-source2.rfieldy", 4, *FULLY]
    for tiles in ([], ["-optim.tilesizex", 7, "-optim.tilesizey", 5], ["-optim.disabletiling", "on"]):
        succeed(run_application("TensorflowModelServe", *two_sources(first, second, zoo / "pyramid", out, *fields, *tiles), environment=TWO))
        assert np.array_equal(read(out), np.concatenate([a, b[:, 2::4, 1::4]]))


def test_grids_that_do_not_nest(run_application, zoo: Path, tmp_path: Path) -> None:
    """§5: upstream warns and computes in float32; here it is an error with both grids in fully convolutional mode, and right with patches."""
    a, b = scene(1, 20, 20, 1), scene(1, 20, 20, 2)
    first, out = write(tmp_path / "a.tif", a), tmp_path / "out.tif"
    second = write(tmp_path / "b.tif", b, transform=TRANSFORM @ Affine.translation(0.7, 0))
    refuse(run_application("TensorflowModelServe", *two_sources(first, second, zoo / "side", out, *FULLY), environment=TWO), "source 2 does not nest", "300007")
    succeed(run_application("TensorflowModelServe", *two_sources(first, second, zoo / "side", out), environment=TWO))
    assert np.array_equal(read(out), np.concatenate([a[:, :, 1:], b[:, :, :19]]))
    far = write(tmp_path / "far.tif", b, transform=TRANSFORM @ Affine.translation(500, 0))
    refuse(run_application("TensorflowModelServe", *two_sources(first, far, zoo / "side", out), environment=TWO), "source 2", "305000")
    refuse(run_application("TensorflowModelServe", *arguments([first, second], zoo / "side", out)), "image 2 of source1.il", "grids differ")


# patches


def test_patches(run_application, zoo: Path, tmp_path: Path) -> None:
    """§7: rows and columns [c - rf // 2, c - rf // 2 + rf - 1] around each pixel, for odd and even fields; mirrored beyond the border."""
    a, b = scene(1, 23, 31, 1), scene(1, 23, 31, 2)
    first, second, out = write(tmp_path / "a.tif", a), write(tmp_path / "b.tif", b), tmp_path / "out.tif"
    fields = ["-source1.rfieldx", 5, "-source1.rfieldy", 3, "-source2.rfieldx", 4, "-source2.rfieldy", 4]
    expected = np.concatenate([patches_of(a[0], 3, 5).reshape(23, 31, 15), patches_of(b[0], 4, 4).reshape(23, 31, 16)], -1).transpose(2, 0, 1)
    for tiles in ([], ["-optim.tilesizex", 6, "-optim.tilesizey", 7], ["-optim.disabletiling", "on"]):
        succeed(run_application("TensorflowModelServe", *two_sources(first, second, zoo / "patches", out, *fields, *tiles), environment=TWO))
        assert Grid.read(out) == Grid.read(first)
        assert np.array_equal(read(out), expected)


@pytest.mark.parametrize("scale", [0.4, 1.7, 3.0])
def test_patches_at_any_spacing(run_application, zoo: Path, tmp_path: Path, scale: float) -> None:
    """§7: c is the pixel that holds the output pixel's centre, a centre on an edge belongs to the pixel after it."""
    a, out = scene(1, 23, 31, 1), tmp_path / "out.tif"
    image = write(tmp_path / "a.tif", a)
    for model in ("first", "picture"):  # [n], [n, 1, 1, c]
        succeed(run_application("TensorflowModelServe", *arguments(image, zoo / model, out, "-output.spcscale", scale)))
        rows, columns = (np.floor((np.arange(int(n / scale + 1e-6)) + 0.5) * scale + 1e-4).astype(int) for n in (23, 31))
        assert np.array_equal(read(out)[0], a[0][np.ix_(rows, columns)])
        with rasterio.open(out) as dataset:
            assert dataset.transform.almost_equals(TRANSFORM @ Affine.scale(scale), 1e-4)


def test_expression_field_of_patches(run_application, zoo: Path, tmp_path: Path) -> None:
    """§6: upstream stops with ITK's "outside of buffered region"."""
    image, out = write(tmp_path / "in.tif", scene(4, 9, 8)), tmp_path / "out.tif"
    refuse(run_application("TensorflowModelServe", *arguments(image, zoo / "same", out, "-output.efieldx", 2)), "output.efieldx", "model.fullyconv on")
    # a field for fully convolutional use, without the option
    refuse(run_application("TensorflowModelServe", *arguments(image, zoo / "same", out, "-source1.rfieldx", 3)), "one pixel", "model.fullyconv on")
