"""TensorflowModelServe beyond one fully convolutional source: several sources, patches, scales, names, types, no-data, tiles, failures.

Sections (§) are those of the reference document on OTBTF's interface."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from image_files import TRANSFORM, read, write
from outcome import refuse, succeed
from scipy import ndimage

from otbsr.grid import Grid


def scene(bands: int, rows: int, columns: int, seed: int = 0, kind: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 12000, (bands, rows, columns)).astype(kind)


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
    save("plane", lambda x: {"y": x[..., 0] - 1}, real)
    save("five", lambda x: {"y": x[..., None]}, real)
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


# spacing scale, fixed shapes


def test_fractions_as_spacing_scale(run_application, zoo: Path, tmp_path: Path) -> None:
    """§5: 2/3 (three output pixels over two) and 2; the last partial pixel is left off; tiles and boxes do not show."""
    a, out = scene(1, 21, 30, 1), tmp_path / "out.tif"
    image = write(tmp_path / "a.tif", a)
    up = a.repeat(3, 1).repeat(3, 2)[:, ::2, ::2]  # 31.5 rows
    for scale, model, expected, field, expression in ((2 / 3, "up", up[:, :31], 2, 3), (2, "down", a[:, ::2, ::2][:, :10], 2, 1)):
        fields = ["-source1.rfieldx", field, "-source1.rfieldy", field, "-output.efieldx", expression, "-output.efieldy", expression]
        for tiles, box in (([], ""), (["-optim.tilesizex", 6, "-optim.tilesizey", 3], ""), ([], "?&box=3:2:7:6")):
            more = ["-output.spcscale", scale, *fields, *FULLY, *tiles]
            succeed(run_application("TensorflowModelServe", *arguments(image, zoo / model, f"{out}{box}", *more)))
            assert np.array_equal(read(out), expected[:, 2:8, 3:10] if box else expected)
            with rasterio.open(out) as dataset:
                corner = TRANSFORM @ Affine.scale(scale) @ (Affine.translation(3, 2) if box else Affine.identity())
                assert dataset.transform.almost_equals(corner, 1e-5)
    refuse(run_application("TensorflowModelServe", *arguments(image, zoo / "down", out, "-output.spcscale", 2**0.5, *FULLY)), "fraction")
    refuse(run_application("TensorflowModelServe", *arguments(image, zoo / "down", out, "-output.spcscale", 0, *FULLY)), "must be positive")
    refuse(run_application("TensorflowModelServe", *arguments(image, zoo / "down", out, "-output.spcscale", 50, *FULLY)), "no output pixel")


def test_models_of_a_fixed_input_size(run_application, zoo: Path, tmp_path: Path) -> None:
    """A model that takes 10 x 12 pixels only is run on blocks of that size, whatever the tiles."""
    a, out = scene(1, 25, 34, 1).astype(np.float32), tmp_path / "out.tif"
    image = write(tmp_path / "a.tif", a)
    expected = patches_of(a[0], 3, 3).sum((2, 3))
    fields = ["-source1.rfieldx", 3, "-source1.rfieldy", 3, *FULLY]
    succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "fixed", out, *fields)))
    assert np.abs(read(out)[0] - expected).max() < 0.05
    fields[1] = 13
    refuse(run_application("TensorflowModelServe", *arguments(image, zoo / "fixed", out, *fields)), "fixed width 12", "receptive field 13")


# names


def test_names_of_inputs_and_outputs(run_application, zoo: Path, tmp_path: Path) -> None:
    """§3: by key, graph tensor, or order; never one input twice and another not at all."""
    a, b, out = scene(1, 9, 8, 1), scene(1, 9, 8, 2), tmp_path / "out.tif"
    first, second = write(tmp_path / "a.tif", a), write(tmp_path / "b.tif", b)

    def served(*more: object) -> np.ndarray:
        succeed(run_application("TensorflowModelServe", *two_sources(first, second, zoo / "side", out, *more), environment=TWO))
        return read(out)

    forwards, backwards = np.concatenate([a, b]), np.concatenate([b, a])
    assert np.array_equal(served(), forwards)
    assert np.array_equal(served("-source1.placeholder", "b"), backwards)  # OTBTF would feed b twice
    assert np.array_equal(served("-source2.placeholder", "a"), backwards)
    assert np.array_equal(served("-source2.placeholder", "b:0", "-source1.placeholder", "a"), forwards)
    assert np.array_equal(served("-source1.placeholder", "serving_default_b:0", "-source2.placeholder", "serving_default_a", *FULLY), backwards)
    twice = run_application("TensorflowModelServe", *two_sources(first, second, zoo / "side", out, "-source1.placeholder", "b", "-source2.placeholder", "b:0"),
                            environment=TWO)  # fmt: skip
    refuse(twice, "source2.placeholder", "another source", "a, b")
    refuse(
        run_application("TensorflowModelServe", *two_sources(first, second, zoo / "same", out), environment=TWO), "2 sources", "1 image: x", "OTB_TF_NSOURCES"
    )
    refuse(run_application("TensorflowModelServe", *arguments(first, zoo / "side", out)), '"b" is fed by no source', "OTB_TF_NSOURCES")
    refuse(run_application("TensorflowModelServe", *arguments(first, zoo / "unknown", out, "-source1.placeholder", "z")), '"z"', "it has: x")
    refuse(run_application("TensorflowModelServe", *arguments(first, zoo / "unknown", out, "-output.names", "z")), '"z"', "it has: y")


def test_what_is_given_twice_or_has_no_pixels(run_application, zoo: Path, tmp_path: Path) -> None:
    """§3: one value for each input; an image without a name goes to the first input, which may be no image."""
    image, out = write(tmp_path / "in.tif", scene(1, 9, 8)), tmp_path / "out.tif"
    given = ["gain=2", "add=false"]
    for more, words in (
        (["gain=1", *given], ['"gain" is given twice']),
        (["add=true", "add:0=false", "gain=1"], ['"add" is given twice']),
        ([*given, "-source1.placeholder", "gain"], ['"gain" is source 1 and a user placeholder', "source1.placeholder"]),
        (["gain=2"], ['input "add" of the model is a scalar', "source1.placeholder", "model.userplaceholders"]),
    ):
        refuse(run_application("TensorflowModelServe", *arguments(image, zoo / "flag", out, "-model.userplaceholders", *more, *FULLY)), *words)
    assert not out.exists()


def test_user_placeholders_are_not_sources(run_application, zoo: Path, tmp_path: Path) -> None:
    """§3: the image goes to the input that is no user placeholder, although others come first in the alphabet."""
    a, out = scene(1, 9, 8, 1), tmp_path / "out.tif"
    image = write(tmp_path / "a.tif", a)
    for more in ([], FULLY):
        succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "flag", out, "-model.userplaceholders", "gain=5e-1", "add=TRUE", *more)))
        assert np.array_equal(read(out), a * 0.5 + 1)


# outputs, types


def test_several_outputs_are_stacked_in_the_order_of_their_names(run_application, zoo: Path, tmp_path: Path) -> None:
    """§4: bands in the order of output.names; each of its own type."""
    x, out = scene(3, 9, 8, 1), tmp_path / "out.tif"
    image = write(tmp_path / "x.tif", x)
    expected = {"t": 2 * x[:2].astype(int), "u": x[:1] + 1, "v": x}
    for more in ([], FULLY):
        for names in (["u", "t"], ["v", "u", "t"], ["t"], []):
            succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "several", out, *(["-output.names", *names] if names else []), *more)))
            assert np.array_equal(read(out), np.concatenate([expected[name] for name in names or ["t"]]))


def test_bands_that_the_signature_does_not_say(run_application, zoo: Path, tmp_path: Path) -> None:
    """§4: upstream refuses a last dimension that is not fixed; here the model is asked."""
    x, out = scene(5, 9, 8, 1), tmp_path / "out.tif"
    image = write(tmp_path / "x.tif", x)
    for more in ([], FULLY):
        succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "unknown", out, *more)))
        assert np.array_equal(read(out), 2 * x.astype(int))
    refuse(run_application("TensorflowModelServe", *arguments(image, zoo / "same", out, *FULLY)), "5 bands", "takes 4")


def test_outputs_of_other_ranks(run_application, zoo: Path, tmp_path: Path) -> None:
    """§4: [n, rows, columns] is one band; five dimensions are an error with the shape."""
    x, out = scene(2, 9, 8, 1), tmp_path / "out.tif"
    image = write(tmp_path / "x.tif", x)
    for more in ([], FULLY):
        succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "plane", out, *more)))
        assert np.array_equal(read(out), x[:1].astype(int) - 1)
    refuse(run_application("TensorflowModelServe", *arguments(image, zoo / "five", tmp_path / "five.tif", *FULLY)), "? x ? x ? x ? x 1", "an image needs")


@pytest.mark.parametrize(("model", "kind"), [("int32", "int32"), ("int32", "double"), ("float64", "double"), ("int64", "int32")])
def test_integers_of_32_bits_keep_their_digits(run_application, zoo: Path, tmp_path: Path, model: str, kind: str) -> None:
    """§1: upstream goes through float32; here a file that needs it is read as double, also when only one of the stacked images does."""
    values = np.array([[[16777217, -2147483648, 2147483647, 5, 123456789]]], np.int32)
    image, out = write(tmp_path / "x.tif", values), tmp_path / "out.tif"
    for more in ([], FULLY):
        succeed(run_application("TensorflowModelServe", *arguments(image, zoo / model, out, *more, kind=kind)))
        assert np.array_equal(read(out), values)
    small = write(tmp_path / "s.tif", np.full((1, 1, 5), 7, np.uint8))
    succeed(run_application("TensorflowModelServe", *arguments([small, image], zoo / "unknown", out, *FULLY, kind="double")))
    assert np.array_equal(read(out)[0], np.full((1, 5), 14))


def test_values_that_an_integer_input_does_not_have(run_application, zoo: Path, tmp_path: Path) -> None:
    """§4: rounded and clamped, where upstream's -5.7 becomes 251."""
    values = np.array([[[-5.7, 0.4, 0.6, 254.7, 300, np.nan]]], np.float32)
    image, out = write(tmp_path / "x.tif", values), tmp_path / "out.tif"
    succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "uint8", out, *FULLY)))
    assert read(out)[0, 0].tolist() == [0, 0, 1, 255, 255, 0]


def test_rounding_of_integer_outputs(run_application, zoo: Path, tmp_path: Path) -> None:
    """§4: to the nearest; OTBTF's truncation is an option; clamped to the type; no number becomes output.bv."""
    values = np.array([[[25.8, -1.2, -25.8, 7, 1e9, -1e9, np.nan]]], np.float32)
    image, out = write(tmp_path / "x.tif", values), tmp_path / "out.tif"
    for option, expected in (([], [13, -1, -13, 4]), (["-output.rounding", "truncate"], [12, 0, -12, 3])):
        for more in ([], FULLY):
            succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "half", out, "-output.bv", -7, *option, *more, kind="int16")))
            assert read(out)[0, 0].tolist() == [*expected, 32767, -32768, -7]


# parameters and names of files


@pytest.mark.parametrize("key", ["source1.rfieldx", "source1.rfieldy", "output.efieldx", "output.efieldy", "optim.tilesizex", "optim.tilesizey"])
def test_numbers_that_are_too_small(run_application, zoo: Path, tmp_path: Path, key: str) -> None:
    """OTB itself would take the least that is allowed, without a word."""
    image, out = write(tmp_path / "in.tif", scene(4, 9, 8)), tmp_path / "out.tif"
    for value in ("0", "-3"):
        refuse(
            run_application("TensorflowModelServe", *arguments(image, zoo / "same", out, f"-{key}", value, *FULLY)), f"{key} is {value}, expected an integer"
        )
    assert not out.exists()


@pytest.mark.parametrize(
    ("application", "key", "text", "expected"),
    [
        ("TensorflowModelServe", "output.bv", "abc", "a number"),
        ("TensorflowModelServe", "output.bv", "1,5", "a number"),
        ("TensorflowModelServe", "source1.nodata", "0.5x", "a number"),
        ("TensorflowModelServe", "source1.rfieldx", "many", "an integer"),
        ("TensorflowModelServe", "optim.tilesizex", "16.5", "an integer from -2147483648 to 2147483647"),
        ("SuperResolution", "nodata", "none", "a number"),
        ("SuperResolution", "threads", "99999999999", "an integer from -2147483648 to 2147483647"),
        ("SuperResolution", "ram", "-1", "an integer from 0 to 4294967295"),
        ("SuperResolution", "ram", "2GB", "an integer"),
        ("PatchesSelection", "strategy.split.trainprop", "half", "a number"),
        ("PatchesSelection", "grid.step", "nan", "an integer from"),
        ("PatchesExtraction", "source1.patchsizex", "16px", "an integer"),
        ("LabelImageSampleSelection", "strategy.constant.nb", "all", "an integer"),
        ("DensePolygonClassStatistics", "ram", "much", "an integer"),
        ("TensorflowModelTrain", "training.batchsize", "1e", "an integer"),
    ],
)
def test_words_for_numbers(run_application, application: str, key: str, text: str, expected: str) -> None:
    """OTB itself would take 0, or the digits before what is none, without a word."""
    line = refuse(run_application(application, f"-{key}", text), f'{key} is "{text}", expected {expected}')
    assert ("from" in line) == ("from" in expected)


def test_numbers_in_any_writing(run_application, zoo: Path, tmp_path: Path) -> None:
    """Parameters keep their limits, defaults and whether they were given."""
    x = scene(1, 9, 8, kind=np.float32)
    image = write(tmp_path / "in.tif", np.where(x < 3000, -1, x), nodata=-1)
    more = ("-output.bv", "-2.5e1", "-source1.nodata", " -1.0", "-source1.rfieldx", "1.0", "-optim.tilesizex", "1e1", *FULLY)
    succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "unknown", tmp_path / "out.tif", *more)))
    np.testing.assert_array_equal(read(tmp_path / "out.tif"), np.where(x < 3000, -25, 2 * x))


def test_extended_names_of_inputs(run_application, zoo: Path, tmp_path: Path) -> None:
    """Bands by number, from the end and in ranges, also of 32-bit integers; a virtual raster; skipcarto; one strip over the whole image."""
    x, out = scene(4, 21, 34, 3), tmp_path / "out.tif"
    image = write(tmp_path / "x.tif", x, compress="deflate", blockysize=21)
    wide = write(tmp_path / "wide.tif", x.astype(np.int32) + 2**24 + 1)
    virtual = tmp_path / "x.vrt"
    bands = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{k}"><SimpleSource><SourceFilename relativeToVRT="1">x.tif</SourceFilename><SourceBand>{5 - k}</SourceBand>'
        "</SimpleSource></VRTRasterBand>"
        for k in (1, 2, 3, 4)
    )
    virtual.write_text(
        f'<VRTDataset rasterXSize="34" rasterYSize="21"><GeoTransform>{", ".join(map(str, TRANSFORM.to_gdal()))}</GeoTransform>{bands}</VRTDataset>'
    )
    for names, expected in (
        ([f"{image}?&bands=4,1", f"{image}?&bands=-2"], x[[3, 0, 2]]),
        ([f"{image}?&bands=2:"], x[1:]),
        ([virtual], x[::-1]),
        ([f"{image}?&skipcarto=true"], x),
    ):
        succeed(run_application("TensorflowModelServe", *arguments(names, zoo / "unknown", out, *FULLY, kind="int32")))
        assert np.array_equal(read(out), 2 * expected.astype(np.int32)), names
    succeed(run_application("TensorflowModelServe", *arguments(f"{wide}?&bands=3", zoo / "int32", out, *FULLY, kind="int32")))
    assert np.array_equal(read(out), read(wide)[2:3])
    line = refuse(run_application("TensorflowModelServe", *arguments(f"{image}?&bands=9", zoo / "unknown", out)), "image 1 of source1.il", "x.tif", "band")
    assert "0x" not in line and "itk" not in line


@pytest.mark.parametrize("options", ["", "?&gdal:co:COMPRESS=LZW&box=2:3:30:20"])
def test_a_name_without_an_ending(run_application, zoo: Path, tmp_path: Path, options: str) -> None:
    """OTB writes a GeoTIFF, and adds ".tif"."""
    x = scene(4, 40, 50, 2)
    image = write(tmp_path / "x.tif", x)
    folder = tmp_path / "products"
    folder.mkdir()
    log = succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "same", f"{folder / 'map'}{options}", *FULLY, kind="uint16")))
    assert "no extension detected, using TIF" in log
    assert [path.name for path in folder.iterdir()] == ["map.tif"]
    assert np.array_equal(read(folder / "map.tif"), x[:, 3:23, 2:32] if options else x)


def test_a_product_in_the_place_of_its_input(run_application, zoo: Path, tmp_path: Path) -> None:
    """A GeoTIFF takes its name when it is whole; other formats would be overwritten while they are read."""
    x = scene(4, 40, 50, 2)
    image = write(tmp_path / "x.tif", x)
    succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "unknown", image, *FULLY, kind="uint16")))
    assert np.array_equal(read(image), 2 * x)
    other = write(tmp_path / "x.img", x, driver="HFA")
    given = arguments(other, zoo / "unknown", tmp_path / "." / "x.img", *FULLY, kind="uint16")
    refuse(run_application("TensorflowModelServe", *given), "out and source1.il are one file", "x.img")
    assert np.array_equal(read(other), x)


def test_the_variable_that_sr4rs_names(run_application, zoo: Path, tmp_path: Path) -> None:
    """§1: OTB_TF_NBSOURCES, as SR4RS's instructions have it, plays no role; upstream does not say so."""
    image, out = write(tmp_path / "in.tif", scene(4, 9, 8)), tmp_path / "out.tif"
    for number, told in ((None, True), ("1", False)):
        environment = {"OTB_TF_NBSOURCES": "2", "OTB_TF_NSOURCES": number}
        log = succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "same", out), environment=environment))
        assert ("OTB_TF_NBSOURCES is set, but plays no role" in log) == told


# no-data


@pytest.mark.parametrize("mode", ["fully", "patches"])
@pytest.mark.parametrize("model", ["unknown", "int32"])
def test_no_data(run_application, zoo: Path, tmp_path: Path, mode: str, model: str) -> None:
    """§7, §14: pixels whose bands all are no-data become output.bv, whatever the tiles, also with integer models; others are as they are."""
    bands = 1 if model == "int32" else 2
    x, out = scene(bands, 40, 50, 1, np.float32), tmp_path / "out.tif"
    x[:, 3, 4] = x[:, :20, 30:] = x[:, 39, 0] = -9
    x[0, 7, 7] = -9
    image = write(tmp_path / "x.tif", x)
    more = FULLY if mode == "fully" else ()
    factor = 1 if model == "int32" else 2
    masked = (x == -9).all(axis=0)
    for tiles in ([], ["-optim.tilesizex", 10, "-optim.tilesizey", 10], ["-optim.disabletiling", "on"]):
        nodata = ["-source1.nodata", -9, "-output.bv", 3.5]
        log = succeed(run_application("TensorflowModelServe", *arguments(image, zoo / model, out, *nodata, *more, *tiles)))
        assert np.array_equal(read(out), np.where(masked, 3.5, factor * x)) and "no valid pixel" not in log
    succeed(run_application("TensorflowModelServe", *arguments(image, zoo / model, out, *more)))
    assert np.array_equal(read(out), factor * x)  # without the option nothing is masked


def test_no_data_of_nan_and_nan_without_no_data(run_application, zoo: Path, tmp_path: Path) -> None:
    x, out = scene(1, 12, 15, 1, np.float32), tmp_path / "out.tif"
    x[0, 2, 3] = np.nan
    image = write(tmp_path / "x.tif", x)
    succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "unknown", out, "-source1.nodata", "nan", "-output.bv", -1, *FULLY)))
    assert read(out)[0, 2, 3] == -1 and np.isfinite(read(out)).all()
    succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "unknown", out, "-output.bv", -1, *FULLY)))
    assert np.array_equal(read(out), 2 * x, equal_nan=True)
    x[0, 2, 3] = 5
    image = write(tmp_path / "x.tif", x)
    succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "unknown", out, "-source1.nodata", 5, "-output.bv", "nan", *FULLY)))
    assert np.array_equal(read(out), np.where(x == 5, np.nan, 2 * x), equal_nan=True)


def test_no_data_over_finer_and_coarser_pixels(run_application, zoo: Path, tmp_path: Path) -> None:
    """An output pixel is masked when all the source's pixels under it are no-data."""
    x, out = scene(1, 12, 16, 1), tmp_path / "out.tif"
    x[0, 4:6, 6:8] = x[0, 0, 0] = 0
    image = write(tmp_path / "x.tif", x)
    fields = ["-source1.rfieldx", 2, "-source1.rfieldy", 2, "-output.spcscale", 2, "-source1.nodata", 0, "-output.bv", -1]
    succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "down", out, *fields, *FULLY)))
    expected = x[:, ::2, ::2].astype(float)
    expected[0, 2, 3] = -1
    assert np.array_equal(read(out), expected)
    succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "unknown", out, "-output.spcscale", 0.5, "-source1.nodata", 0, "-output.bv", -1)))
    fine = (2.0 * x).repeat(2, 1).repeat(2, 2)
    assert np.array_equal(read(out), np.where(fine == 0, -1, fine))


def test_a_second_source_without_data(run_application, zoo: Path, tmp_path: Path) -> None:
    a, b, out = scene(1, 12, 15, 1), scene(1, 12, 15, 2), tmp_path / "out.tif"
    b[0, 2, 3] = 0
    first, second = write(tmp_path / "a.tif", a), write(tmp_path / "b.tif", b)
    succeed(run_application("TensorflowModelServe", *two_sources(first, second, zoo / "side", out, "-source2.nodata", 0, "-output.bv", -1), environment=TWO))
    assert np.array_equal(read(out), np.where(b == 0, -1, np.concatenate([a, b]).astype(float)))


def test_an_image_without_any_data(run_application, zoo: Path, tmp_path: Path) -> None:
    """The product is output.bv everywhere, with a warning."""
    image, out = write(tmp_path / "x.tif", np.zeros((4, 20, 30), np.uint8)), tmp_path / "out.tif"
    log = succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "same", out, "-source1.nodata", 0, "-output.bv", 5, kind="uint8")))
    assert "(WARNING)" in log and "no valid pixel" in log and (read(out) == 5).all() and read(out).shape == (4, 20, 30)


# tiles, writers


def test_tiles_strips_memory_and_boxes_do_not_show(run_application, zoo: Path, tmp_path: Path) -> None:
    """§6: a model with a 3 x 3 field on two stacked images, however it is cut and written; corner and size, too."""
    x, out = scene(2, 700, 640, 1, np.float32), tmp_path / "out.tif"
    images = [write(tmp_path / "a.tif", x[:1]), write(tmp_path / "b.tif", x[1:])]
    expected = (patches_of(x[0], 3, 3) + patches_of(x[1], 3, 3)).sum((2, 3))
    fields = ["-source1.rfieldx", 3, "-source1.rfieldy", 3, *FULLY]
    strips, tiled = "streaming:type=stripped&streaming:sizemode=height&streaming:sizevalue=37", "gdal:co:TILED=YES&gdal:co:BLOCKXSIZE=128"
    cuts: list[tuple[list[object], str, dict[str, str | None]]] = [
        ([], "", {}),
        ([], "", {"OTB_MAX_RAM_HINT": "8"}),
        (["-optim.tilesizex", 200, "-optim.tilesizey", 130], "", {}),
        (["-optim.tilesizex", 512], f"?&{strips}", {}),
        (["-optim.disabletiling", "on"], f"?&{strips}", {}),
        ([], "?&gdal:co:COMPRESS=DEFLATE", {"OTB_MAX_RAM_HINT": "16"}),
        ([], f"?&{tiled}&gdal:co:BLOCKYSIZE=128", {"OTB_MAX_RAM_HINT": "16"}),
        ([], f"?&{tiled}&gdal:co:BLOCKYSIZE=64&streaming:type=tiled&streaming:sizemode=nbsplits&streaming:sizevalue=11", {}),
        ([], "?&streaming:type=none", {}),
    ]
    for tiles, options, environment in cuts:
        succeed(run_application("TensorflowModelServe", *arguments(images, zoo / "sum3", f"{out}{options}", *fields, *tiles), environment=environment))
        assert np.abs(read(out)[0] - expected).max() < 0.1, (tiles, options)
        assert Grid.read(out) == Grid.read(images[0])
    for options in ("?&box=100:333:301:277", f"?&box=100:333:301:277&{strips}"):
        succeed(run_application("TensorflowModelServe", *arguments(images, zoo / "sum3", f"{out}{options}", *fields, "-optim.tilesizex", 64)))
        assert np.abs(read(out)[0] - expected[333:610, 100:401]).max() < 0.1
        with rasterio.open(out) as dataset:
            assert dataset.transform == TRANSFORM @ Affine.translation(100, 333)


def test_a_row_of_blocks_larger_than_its_share_of_memory(run_application, zoo: Path, tmp_path: Path) -> None:
    """Two blocks of 18 MB in strips: the second waits in a scratch file, of which nothing is left."""
    x, out = scene(1, 3000, 3000, 1, np.float32), tmp_path / "out.tif"
    image = write(tmp_path / "a.tif", x)
    fields = ["-source1.rfieldx", 3, "-source1.rfieldy", 3, *FULLY, "-optim.tilesizex", 1500, "-optim.tilesizey", 3000]
    name = f"{out}?&streaming:type=stripped&streaming:sizemode=height&streaming:sizevalue=700"
    succeed(run_application("TensorflowModelServe", *arguments([image, image], zoo / "sum3", name, *fields)))
    assert np.abs(read(out)[0] - 18 * ndimage.uniform_filter(x[0], 3, mode="reflect")).max() < 0.1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "out.tif"]


def test_the_users_choice_of_onednn_counts(run_application, models: Path, tmp_path: Path) -> None:
    """With TensorFlow's other convolutions the image is the same but for float32's rounding, which goes with the values that are added, not with
    their sum; TensorFlow's notes on oneDNN are not shown, its errors are."""
    image = write(tmp_path / "x.tif", scene(4, 70, 60, 1))
    fields = [*FULLY, "-source1.rfieldx", 88, "-source1.rfieldy", 88, "-output.efieldx", 152, "-output.efieldy", 152, "-output.spcscale", 0.25]
    results = []
    for choice in (None, "0", "1"):
        out = tmp_path / f"{choice}.tif"
        log = succeed(
            run_application("TensorflowModelServe", *arguments(image, models / "f-light-x4", out, *fields), environment={"TF_ENABLE_ONEDNN_OPTS": choice})
        )
        assert "oneDNN" not in log and "absl" not in log
        results.append(read(out))
    difference, span = np.abs(results[1] - results[0]), np.ptp(results[0])
    assert difference.max() < 1e-5 * span and difference.mean() < 1e-6 * span
    assert np.abs(results[2] - results[0]).max() < 1e-5 * span
    broken = tmp_path / "libbroken.so"
    broken.write_bytes(b"no library")
    refused = run_application(
        "TensorflowModelServe", *arguments(image, models / "f-light-x4", tmp_path / "no.tif", *fields), environment={"OTB_TF_LIBRARY": str(broken)}
    )
    refuse(refused, "TensorFlow library not found")


def test_other_formats(run_application, zoo: Path, tmp_path: Path) -> None:
    x = scene(4, 50, 40, 1)
    image = write(tmp_path / "x.tif", x)
    for name in ("out.img", "out.png", "out.jp2"):
        succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "same", tmp_path / name, *FULLY, kind="uint16")))
        assert np.array_equal(read(tmp_path / name), x) or name == "out.jp2"


# failures


@pytest.mark.parametrize("name", ["out.tif", "out.img"])
def test_nothing_unfinished_keeps_the_name(run_application, zoo: Path, models: Path, tmp_path: Path, name: str) -> None:
    """A truncated input, and a model that fails: one message in our words, no file, and an older product stays as it is."""
    x = scene(4, 900, 900)
    whole = write(tmp_path / "whole.tif", x)
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    folder = tmp_path / "products"
    folder.mkdir()
    out = folder / name
    tiles = ["-optim.tilesizex", 128, "-optim.tilesizey", 128]
    for old in (False, True):
        if old and name == "out.tif":
            out.write_text("mine")
        refuse(run_application("TensorflowModelServe", *arguments(cut, zoo / "same", out, *FULLY, *tiles)), name, "not written", "cut.tif")
        refuse(run_application("TensorflowModelServe", *arguments(cut, zoo / "same", out, *tiles)), name, "not written", "cut.tif")
        if name == "out.tif":
            refuse(run_application("SuperResolution", "-in", cut, "-model", models / "nearest-x4", "-out", out, "-block", 128), "cut.tif")
        assert [path.name for path in folder.iterdir()] == ([name] if out.exists() else [])
        assert out.exists() == (old and name == "out.tif") and (not out.exists() or out.read_text() == "mine")
    succeed(run_application("TensorflowModelServe", *arguments(whole, zoo / "same", out, *FULLY, kind="uint16")))
    assert np.array_equal(read(out), x) and not list(folder.glob(".*"))


def test_threads_are_those_of_the_job(run_application, zoo: Path, tmp_path: Path) -> None:
    """ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS, which a cluster's job script sets, bounds TensorFlow's threads, too."""
    image, out = write(tmp_path / "x.tif", scene(4, 20, 20)), tmp_path / "o.tif"
    for environment, words in (
        ({"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}, ", 1 threads"),
        ({"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": None}, ", all threads"),
    ):
        log = succeed(run_application("TensorflowModelServe", *arguments(image, zoo / "same", out), environment=environment))
        assert words in log or os.cpu_count() == 1
