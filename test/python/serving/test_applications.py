"""SuperResolution and TensorflowModelServe as a user runs them: geometry to the pixel, blocks that do not show, no-data, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from image_files import TRANSFORM, read, write
from outcome import refuse, succeed

from otbsr.grid import Grid

FACTOR = 4
NO_DATA = -10000
BANDS = ["B4", "B3", "B2", "B8"]
MARGIN = 3


def nearest(pixels: np.ndarray) -> np.ndarray:
    return pixels.repeat(FACTOR, axis=-2).repeat(FACTOR, axis=-1)


def scene(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 12000, (4, rows, columns)).astype(np.uint16)


@pytest.fixture(scope="session")
def local_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: a 7 x 7 convolution (radius 3 = the margin, zeros beyond the block) before nearest x4.

    Its zeros at the block's edge show every block that was cut wrongly."""
    tf = pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("models") / "local"
    weights = np.random.default_rng(1).uniform(-0.04, 0.08, (7, 7)).astype(np.float32)
    kernel = tf.constant(np.einsum("ij,bc->ijbc", weights, np.eye(4, dtype=np.float32)))

    @tf.function(input_signature=[tf.TensorSpec((1, None, None, 4), tf.float32, name="lr")])
    def serve(lr):  # type: ignore[no-untyped-def]
        filtered = tf.nn.conv2d(lr, kernel, 1, "SAME")
        return {"sr": tf.repeat(tf.repeat(filtered, FACTOR, axis=1), FACTOR, axis=2)}

    module = tf.Module()
    module.serve = serve
    tf.saved_model.save(module, str(folder), signatures={"serve": serve})
    sidecar = {
        "format": 1,
        "name": "local",
        "method": "baseline",
        "factor": FACTOR,
        "margin": MARGIN,
        "input": {"signature": "serve", "name": "lr", "bands": BANDS, "spacing": 10.0, "scale": 1e-4, "offset": 0.0},
        "output": {"name": "sr", "bands": BANDS, "scale": 1e-4, "offset": 0.0, "dtype": "int16", "nodata": NO_DATA},
    }
    (folder / "model.json").write_text(json.dumps(sidecar))
    np.save(folder / "weights.npy", weights)
    return folder


def expected_local(pixels: np.ndarray, folder: Path) -> np.ndarray:
    """What the local model gives for the whole image with mirrored borders, before rounding (float64)."""
    weights = np.load(folder / "weights.npy").astype(np.float64)
    padded = np.pad(pixels.astype(np.float64), ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)), mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), axis=(1, 2))
    return nearest(np.einsum("brcij,ij->brc", windows, weights))


def serve_arguments(image: Path, model: Path, out: Path, *more: object, kind: str = "int16", margin: int = 0) -> list[object]:
    """TensorflowModelServe's arguments for a factor 4 model; receptive field = one expression field (4) and the margins."""
    field = 1 + 2 * margin
    fields = ["-source1.rfieldx", field, "-source1.rfieldy", field, "-output.efieldx", FACTOR, "-output.efieldy", FACTOR]
    return ["-source1.il", image, *fields, "-model.dir", model, "-model.fullyconv", "on", "-output.spcscale", 0.25, *more, "-out", out, kind]


@pytest.mark.parametrize("application", ["SuperResolution", "TensorflowModelServe"])
def test_nearest_gives_exactly_the_refined_grid(run_application, models: Path, tmp_path: Path, application: str) -> None:
    """Corner, spacing, size, CRS = the input's grid / 4, every pixel in its place (point target, ramp, noise in the four bands)."""
    pixels = scene(61, 103)
    pixels[0], pixels[1] = 0, 100 * np.arange(103)
    pixels[0, 37, 58] = 9000
    image, out = write(tmp_path / "in.tif", pixels), tmp_path / "out.tif"
    if application == "SuperResolution":
        succeed(run_application(application, "-in", image, "-model", models / "nearest-x4", "-out", out))
    else:
        succeed(run_application(application, *serve_arguments(image, models / "nearest-x4", out)))
    assert Grid.read(out) == Grid.read(image).refined(FACTOR)
    made = read(out).astype(np.float64)
    assert np.array_equal(made, nearest(pixels))

    fine = Grid.read(out)
    rows, columns = np.nonzero(made[0])
    centre = fine.corner(columns.mean() + 0.5, rows.mean() + 0.5)
    assert centre == pytest.approx(Grid.read(image).centre(58, 37), abs=0.1 * fine.dx)
    ramp = np.polyfit([fine.centre(column, 0)[0] for column in range(fine.width)], made[1, 0], 1)
    assert np.polyval(ramp, Grid.read(image).centre(50, 0)[0]) == pytest.approx(5000, abs=100 * 0.1 / FACTOR)

    if application == "SuperResolution":
        with rasterio.open(out) as dataset:
            assert list(dataset.descriptions) == BANDS and dataset.nodata == NO_DATA
            assert dataset.dtypes[0] == "int16" and dataset.profile["tiled"] and dataset.profile["compress"] in ("zstd", "deflate")


def test_bicubic_puts_a_ramp_in_its_place(run_application, models: Path, tmp_path: Path) -> None:
    """A linear ramp stays linear away from the border: a shift of 0.1 output pixel would be 10 DN."""
    columns = np.arange(64)
    pixels = np.broadcast_to(1000 + 100 * columns + 60 * np.arange(64)[:, None], (4, 64, 64)).astype(np.uint16)
    out = tmp_path / "out.tif"
    succeed(run_application("SuperResolution", "-in", write(tmp_path / "in.tif", pixels), "-model", models / "bicubic-x4", "-out", out))
    position = (np.arange(256) + 0.5) / FACTOR - 0.5
    exact = 1000 + 100 * position + 60 * position[:, None]
    assert np.abs(read(out)[:, 16:-16, 16:-16] - exact[16:-16, 16:-16]).max() <= 1


def test_blocks_memory_and_threads_do_not_show(run_application, local_model: Path, tmp_path: Path) -> None:
    """All ways to cut the image give the same pixels as the whole image in NumPy, with mirrored borders."""
    pixels = scene(270, 331)
    image = write(tmp_path / "in.tif", pixels)
    exact = expected_local(pixels, local_model)
    cuts: list[list[object]] = [["-block", 64], ["-block", 100, "-threads", 1], ["-block", 256], ["-block", 1024], ["-ram", 32], ["-ram", 2048, "-threads", 2]]
    results = []
    for number, cut in enumerate(cuts):
        out = tmp_path / f"{number}.tif"
        succeed(run_application("SuperResolution", "-in", image, "-model", local_model, "-out", out, *cut))
        results.append(read(out))
    strips = tmp_path / "strips.tif"
    options = "?&streaming:type=stripped&streaming:sizemode=height&streaming:sizevalue=37"
    succeed(run_application("SuperResolution", "-in", image, "-model", local_model, "-out", f"{strips}{options}"))
    results.append(read(strips))
    for result in results:
        assert np.abs(result - exact.clip(-32768, 32767)).max() <= 0.51
        assert np.abs(result.astype(int) - results[0]).max() <= 1

    # another phase of the blocks: a window of the input gives the same pixels, its border apart
    row, column = 21, 45
    window = write(tmp_path / "window.tif", pixels[:, row:, column:], transform=TRANSFORM @ Affine.translation(column, row))
    out = tmp_path / "window_out.tif"
    succeed(run_application("SuperResolution", "-in", window, "-model", local_model, "-out", out, "-block", 64))
    margin = MARGIN * FACTOR
    part = results[0][:, row * FACTOR + margin :, column * FACTOR + margin :].astype(int)
    assert np.abs(read(out)[:, margin:, margin:] - part).max() <= 1
    assert Grid.read(out).left == 300000 + column * 10

    served = tmp_path / "served.tif"
    arguments = serve_arguments(image, local_model, served, "-optim.tilesizex", 260, "-optim.tilesizey", 300, kind="float", margin=MARGIN)
    succeed(run_application("TensorflowModelServe", *arguments))
    assert np.abs(read(served) - exact).max() < 0.05


def test_tiny_images_are_mirrored_as_often_as_needed(run_application, local_model: Path, tmp_path: Path) -> None:
    pixels = scene(1, 2)
    out = tmp_path / "out.tif"
    succeed(run_application("SuperResolution", "-in", write(tmp_path / "in.tif", pixels), "-model", local_model, "-out", out))
    assert np.abs(read(out) - expected_local(pixels, local_model).clip(-32768, 32767)).max() <= 0.51


def filled(pixels: np.ndarray, invalid: np.ndarray, radius: int = 4) -> np.ndarray:
    """Invalid pixels replaced by the mean of the valid ones in a window; 0 without any."""
    result = pixels.astype(np.float64)
    for row, column in np.argwhere(invalid):
        window = np.s_[max(row - radius, 0) : row + radius + 1, max(column - radius, 0) : column + radius + 1]
        valid = ~invalid[window]
        result[:, row, column] = pixels[(slice(None), *window)][:, valid].mean(axis=1) if valid.any() else 0
    return result


@pytest.mark.parametrize("kind", ["no-data", "nan"])
def test_invalid_pixels_stay_invalid_and_spoil_nothing(run_application, local_model: Path, tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 9000, (4, 150, 170)).astype(np.float32)
    value = np.nan if kind == "nan" else NO_DATA
    pixels[:, :80, :70] = value  # whole blocks, and parts of blocks
    pixels[2, 100, 120] = value  # one band of one pixel
    pixels[:, 149, 169] = value
    invalid = np.isnan(pixels).any(axis=0) if kind == "nan" else (pixels == NO_DATA).any(axis=0)
    image = write(tmp_path / "in.tif", pixels, nodata=None if kind == "nan" else NO_DATA)
    results = []
    for block in (64, 512):
        out = tmp_path / f"{block}.tif"
        succeed(run_application("SuperResolution", "-in", image, "-model", local_model, "-out", out, "-block", block))
        results.append(read(out))
        with rasterio.open(out) as dataset:
            assert dataset.nodata == NO_DATA
    assert np.abs(results[0].astype(int) - results[1]).max() <= 1
    fine = nearest(invalid)
    made = results[0]
    assert (made[:, fine] == NO_DATA).all() and (made[:, ~fine] != NO_DATA).all()
    exact = expected_local(filled(pixels, invalid), local_model).clip(-32768, 32767)
    assert np.abs(made - exact)[:, ~fine].max() <= 1.01  # 1: a result of exactly -10000 is moved


def test_no_data_value_can_be_given_and_valid_results_avoid_it(run_application, models: Path, tmp_path: Path) -> None:
    """Input no-data 7 is not in the metadata; a valid -10000 comes out as -9999."""
    pixels = scene(40, 40).astype(np.int16)
    pixels[:, 5, 5] = 7
    pixels[0, 6, 6] = NO_DATA
    out = tmp_path / "out.tif"
    succeed(run_application("SuperResolution", "-in", write(tmp_path / "in.tif", pixels), "-model", models / "nearest-x4", "-out", out, "-nodata", 7))
    made = read(out)[:, ::FACTOR, ::FACTOR]
    assert (made[:, 5, 5] == NO_DATA).all()
    assert made[0, 6, 6] == NO_DATA + 1
    rest = (pixels != NO_DATA).all(axis=0) & (pixels != 7).all(axis=0)
    assert np.array_equal(made[:, rest], pixels[:, rest])


def test_results_are_rounded_and_clamped(run_application, models: Path, tmp_path: Path) -> None:
    values = np.array([0.4, 0.5, 1.5, 2.49, -0.6, -1.5, 1234.51, 70000.0, -70000.0, 254.6], np.float32)
    pixels = np.broadcast_to(values, (4, 3, values.size)).copy()
    image = write(tmp_path / "in.tif", pixels)
    rounded = np.copysign(np.floor(np.abs(values.astype(np.float64)) + 0.5), values)
    for name, kind in (("int16", np.int16), ("uint16", np.uint16), ("uint8", np.uint8)):
        out = tmp_path / f"{name}.tif"
        succeed(run_application("TensorflowModelServe", *serve_arguments(image, models / "nearest-x4", out, kind=name)))
        made = read(out)
        assert made.dtype == kind
        limits = np.iinfo(kind)
        assert np.array_equal(made[0, 0, ::FACTOR], rounded.clip(limits.min, limits.max).astype(kind))


def test_images_without_crs_and_south_up_come_out_right_with_a_warning(run_application, models: Path, tmp_path: Path) -> None:
    pixels = scene(30, 20)
    cases = {
        "plain": ({"crs": None, "transform": Affine.identity()}, "no coordinate reference"),
        "south": ({"transform": Affine(10, 0, 300000, 0, 10, 4800000)}, "south-up"),
    }
    for name, (profile, warning) in cases.items():
        image, out = write(tmp_path / f"{name}.tif", pixels, **profile), tmp_path / f"{name}_out.tif"
        log = succeed(run_application("SuperResolution", "-in", image, "-model", models / "nearest-x4", "-out", out))
        assert "(WARNING)" in log and warning in log
        assert np.array_equal(read(out), nearest(pixels))
        with rasterio.open(image) as given, rasterio.open(out) as made:
            assert made.transform.almost_equals(given.transform @ Affine.scale(1 / FACTOR))
            assert made.crs == given.crs


def test_images_of_one_source_are_stacked_when_their_grids_agree(run_application, models: Path, tmp_path: Path) -> None:
    pixels = scene(30, 20)
    halves = [write(tmp_path / "a.tif", pixels[:2]), write(tmp_path / "b.tif", pixels[2:])]
    out = tmp_path / "out.tif"
    arguments = serve_arguments(halves[0], models / "nearest-x4", out)
    succeed(run_application("TensorflowModelServe", *arguments[:2], halves[1], *arguments[2:]))
    assert np.array_equal(read(out), nearest(pixels))
    moved = write(tmp_path / "moved.tif", pixels[2:], transform=TRANSFORM @ Affine.translation(0.5, 0))
    refuse(run_application("TensorflowModelServe", *arguments[:2], moved, *arguments[2:]), "grids differ", "300005")


def test_bad_input_gives_one_clear_message(run_application, models: Path, tmp_path: Path) -> None:
    good = scene(64, 64).astype(np.int16)
    image, out, model = write(tmp_path / "good.tif", good), tmp_path / "out.tif", models / "nearest-x4"

    def refused(*words: str, image: Path = image, model: Path = model, out: Path = out, environment: dict[str, str | None] | None = None) -> None:
        refuse(run_application("SuperResolution", "-in", image, "-model", model, "-out", out, environment=environment), *words)
        assert not out.exists() or out.stat().st_size == 0

    refused("missing.tif", image=tmp_path / "missing.tif")
    refused("3 bands", "takes 4", image=write(tmp_path / "three.tif", good[:3]))
    refused("complex", image=write(tmp_path / "complex.tif", good.astype(np.complex64)))
    refused("rotated", image=write(tmp_path / "rotated.tif", good, transform=TRANSFORM @ Affine.rotation(5)))
    refused("no valid pixel", image=write(tmp_path / "empty.tif", np.full_like(good, NO_DATA), nodata=NO_DATA))

    refused("model.json", model=tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    sidecar = json.loads((model / "model.json").read_text())
    (broken / "model.json").write_text(json.dumps(sidecar))
    refused("saved_model.pb", model=broken)
    (broken / "model.json").write_text(json.dumps({**sidecar, "factor": 40}))
    refused("factor", "40", "1 to 16", model=broken)
    (broken / "model.json").write_text("{")
    refused("JSON", model=broken)

    refused("cannot be created", out=tmp_path / "nowhere" / "out.tif")
    for key in ("block", "threads"):
        given = ["-in", image, "-model", model, "-out", out, f"-{key}", -1]
        refuse(run_application("SuperResolution", *given), f"{key} is -1, expected an integer of 0 or more")
    nowhere = {"OTB_TF_LIBRARY": str(tmp_path / "libtensorflow_cc.so.2")}
    refused("TensorFlow library not found", "pip install tensorflow", environment=nowhere)
    refuse(run_application("TensorflowModelServe", "-source1.il", image, "-model.dir", model, "-out", out), "fullyconv")
    refuse(run_application("TensorflowModelServe", *serve_arguments(image, model, out), environment={"OTB_TF_NSOURCES": "2"}), "source2.il")


def test_a_truncated_tiff_is_refused(run_application, models: Path, tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.tif", scene(600, 600)).read_bytes()
    truncated = tmp_path / "truncated.tif"
    truncated.write_bytes(whole[: len(whole) // 2])
    process = run_application("SuperResolution", "-in", truncated, "-model", models / "nearest-x4", "-out", tmp_path / "out.tif")
    assert process.returncode == 1
    assert "truncated.tif" in process.stdout and "(FATAL)" in process.stdout


def test_a_full_disk_is_an_error(run_application, models: Path, tmp_path: Path, mount_disk: Callable[[str], Path]) -> None:
    disk = mount_disk("1m")
    image = write(tmp_path / "in.tif", scene(400, 400))
    refuse(run_application("SuperResolution", "-in", image, "-model", models / "nearest-x4", "-out", disk / "out.tif"), "out.tif", "disk full")
    arguments = serve_arguments(image, models / "nearest-x4", f"{disk / 'out.tif'}?&gdal:co:TILED=NO")
    refuse(run_application("TensorflowModelServe", *arguments), "out.tif", "disk full")
    assert not (disk / "out.tif").exists()
    refuse(run_application("TensorflowModelServe", *serve_arguments(image, models / "nearest-x4", f"{disk / 'out.tif'}?&gdal:co:TILED=NO")), "has room for 1")
    large = write(tmp_path / "large.tif", scene(900, 900))  # more than GDAL's cache: OTB's writer fails, not the file's end
    for options in ("", "?&gdal:co:COMPRESS=DEFLATE", "?&gdal:co:COMPRESS=DEFLATE&gdal:co:TILED=YES&gdal:co:NUM_THREADS=1"):
        refuse(run_application("SuperResolution", "-in", large, "-model", models / "nearest-x4", "-out", f"{disk / 'out.tif'}{options}"), "is the disk full?")
    assert not list(disk.iterdir())
    (disk / "out.tif").write_bytes(b"what the user had")
    refuse(run_application("SuperResolution", "-in", image, "-model", models / "nearest-x4", "-out", disk / "out.tif"), "out.tif", "disk full")
    assert (disk / "out.tif").read_bytes() == b"what the user had" and len(list(disk.iterdir())) == 1


@pytest.fixture(scope="module", params=["SAME", "VALID"])
def phases_model(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """x3, two bands in, one or two out, by depth to space; the signatures without that step give 20000 more, which shows who uses them, and
    leave out the border or not."""
    tf = pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("models") / "phases"
    kernel = tf.constant(np.random.default_rng(5).uniform(-0.3, 0.3, (3, 3, 2, 18)).astype(np.float32))
    spec = tf.TensorSpec((1, None, None, 2), tf.float32, name="lr")
    coarse = tf.function(lambda lr: {"sr": tf.nn.conv2d(lr, kernel, 1, request.param) + 20000.0}, input_signature=[spec])
    fine = tf.function(lambda lr: {"sr": tf.nn.depth_to_space(tf.nn.conv2d(lr, kernel, 1, "SAME"), 3)}, input_signature=[spec])
    both = tf.function(lambda lr: fine(lr) | {"other": 0.5 * fine(lr)["sr"]}, input_signature=[spec])
    tf.saved_model.save(tf.Module(), str(folder), signatures={"serving_default": both, "serving_default_phases": coarse})
    sidecar = {
        "format": 1,
        "name": "phases",
        "method": "baseline",
        "factor": 3,
        "margin": 1,
        "input": {"signature": "serving_default", "name": "lr", "bands": BANDS[:2], "spacing": 10.0},
        "output": {"name": "sr", "bands": BANDS[:2], "dtype": "float32", "nodata": None},
    }
    (folder / "model.json").write_text(json.dumps(sidecar))
    return folder


def test_fine_pixels_are_put_in_place_by_the_application(run_application, phases_model: Path, tmp_path: Path) -> None:
    """A model without its depth to space: the same pixels, whatever the blocks, strips, boxes and types."""
    from otbsr.methods.model_folder import ModelFolder

    pixels = scene(23, 37)[:2]
    image, out = write(tmp_path / "in.tif", pixels), tmp_path / "out.tif"
    expected = ModelFolder.open(phases_model, trust=True)(pixels.transpose(1, 2, 0).astype(np.float32)).transpose(2, 0, 1) + 20000
    for options, more in (
        ("", ()),
        ("", ("-block", 5)),
        ("?&streaming:type=stripped&streaming:sizemode=height&streaming:sizevalue=7", ("-block", 8)),
        ("?&box=10:8:50:40", ("-block", 7)),
    ):
        succeed(run_application("SuperResolution", "-in", image, "-model", phases_model, "-out", f"{out}{options}", *more))
        wanted = expected[:, 8:48, 10:60] if "box" in options else expected
        np.testing.assert_allclose(read(out), wanted, atol=0.02)
    for kind, low, high in (("int16", -32768, 32767), ("uint8", 0, 255)):
        succeed(run_application("SuperResolution", "-in", image, "-model", phases_model, "-block", 5, "-out", f"{out}?&", kind))
        np.testing.assert_allclose(read(out), np.rint(expected).clip(low, high), atol=1)


def test_phases_are_for_one_rounded_output_only(run_application, phases_model: Path, tmp_path: Path) -> None:
    """Several outputs, truncation and patches take the signature that was asked for."""
    from otbsr.methods.model_folder import ModelFolder

    pixels = scene(12, 15)[:2]
    image, out = write(tmp_path / "in.tif", pixels), tmp_path / "out.tif"
    expected = ModelFolder.open(phases_model, trust=True)(pixels.transpose(1, 2, 0).astype(np.float32)).transpose(2, 0, 1)
    fields = ["-source1.rfieldx", 3, "-source1.rfieldy", 3, "-output.efieldx", 3, "-output.efieldy", 3, "-output.spcscale", 1 / 3]
    words = ["-source1.il", image, *fields, "-model.dir", phases_model, "-model.fullyconv", "on", "-out", out]
    succeed(run_application("TensorflowModelServe", *words, "float", "-output.names", "sr"))
    np.testing.assert_allclose(read(out), expected + 20000, atol=0.02)
    succeed(run_application("TensorflowModelServe", *words, "float", "-output.names", "other", "sr"))
    np.testing.assert_allclose(read(out), np.concatenate([0.5 * expected, expected]), atol=0.02)
    succeed(run_application("TensorflowModelServe", *words, "int32", "-output.names", "sr", "-output.rounding", "truncate"))
    np.testing.assert_allclose(read(out), np.trunc(expected), atol=1)


@pytest.mark.parametrize("tile", [6, 30])
def test_phases_without_a_border_need_one(run_application, phases_model: Path, tmp_path: Path, tile: int) -> None:
    """Fields without a margin: a signature that leaves the border out cannot serve them, the one that was asked for does."""
    import tensorflow as tf

    pixels = scene(12, 15)[:2]
    image, out = write(tmp_path / "in.tif", pixels), tmp_path / "out.tif"
    loaded = tf.saved_model.load(str(phases_model))
    keeps_border = loaded.signatures["serving_default_phases"](lr=tf.zeros((1, 9, 9, 2)))["sr"].shape[1] == 9
    extra = 20000 if keeps_border else 0
    side = tile // 3
    lr = tf.constant(pixels.transpose(1, 2, 0)[None].astype(np.float32))
    fields = ["-source1.rfieldx", side, "-source1.rfieldy", side, "-output.efieldx", tile, "-output.efieldy", tile, "-output.spcscale", 1 / 3]
    words = ["-source1.il", image, *fields, "-model.dir", phases_model, "-model.fullyconv", "on", "-out", out, "float", "-output.names", "sr"]
    succeed(run_application("TensorflowModelServe", *words, "-optim.tilesizex", tile, "-optim.tilesizey", tile))
    first = loaded.signatures["serving_default"](lr=lr[:, :side, :side])["sr"][0].numpy().transpose(2, 0, 1) + extra
    np.testing.assert_allclose(read(out)[:, :tile, :tile][:, : first.shape[1], : first.shape[2]], first, atol=0.02)
