"""`otbsr import-model`: SR4RS's layout rebuilt from its paper's description, other SavedModels, and networks that blocks would show in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import image_files
import numpy as np
import pytest
import rasterio
from affine import Affine

from otbsr.errors import ModelError, OtbsrError, OutputError, UsageError
from otbsr.grid import Grid
from otbsr.methods.import_model import import_model

tf = pytest.importorskip("tensorflow")
v1 = tf.compat.v1

BANDS = ("B4", "B3", "B2", "B8")
KNOWN = {"bands": BANDS, "method": "fidelity"}
TRANSFORM = Affine(10, 0, 399960, 0, -10, 4900020)
RADIUS = 40  # 4 (9x9) + 32 (16 blocks of two 3x3) + 1 (3x3) at 10 m; 3x3 and blur at 5 m; 3x3, blur and 9x9 at 2.5 m: 39.5, and its phase


def sr4rs(folder: Path, key: str = "lr_input", pads: tuple[int, ...] = (32, 64, 128, 256, 512), blocks: int = 16, depth: int = 4) -> Path:
    """SR4RS's generator with few channels, exported as TensorFlow 1 does: `lr_input` in DN, `output_N` without N pixels on each side.

    9x9 convolution, 16 residual blocks with normalisation over the channels of a pixel, two times nearest-neighbour enlargement,
    convolution and blur; weights are normal and scaled at run time (equalised learning rate); DN are scaled by 0.0001 inside.
    """
    random = np.random.default_rng(3)

    def convolution(x, channels, side, gain=1.4):
        shape = (side, side, int(x.shape[-1]), channels)
        weights = v1.get_variable(f"w{len(v1.global_variables())}", initializer=random.normal(size=shape).astype(np.float32))
        bias = v1.get_variable(f"b{len(v1.global_variables())}", initializer=random.normal(size=channels).astype(np.float32) / 10)
        return tf.nn.conv2d(x, weights * (gain / np.sqrt(np.prod(shape[:3]))), 1, "SAME") + bias

    def normalised(x):
        return x * v1.rsqrt(v1.reduce_mean(v1.square(x), axis=3, keepdims=True) + 1e-8)

    def enlarged(x):
        height, width = tf.unstack(tf.shape(x)[1:3])
        return tf.image.resize(x, (2 * height, 2 * width), "nearest")

    def blurred(x):
        kernel = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32)[:, :, None, None] / 16
        return tf.nn.depthwise_conv2d(x, np.tile(kernel, (1, 1, x.shape[-1], 1)), [1, 1, 1, 1], "SAME")

    with tf.Graph().as_default(), v1.Session() as session:
        lr = v1.placeholder(tf.float32, (None, None, None, 4), name="lr_input")
        start = net = tf.nn.leaky_relu(convolution(lr * 1e-4, depth, 9))
        for _ in range(blocks):
            net = net + 0.3 * normalised(convolution(tf.nn.leaky_relu(normalised(convolution(net, depth, 3))), depth, 3))
        net = start + convolution(net, depth, 3)
        for _ in (2, 4):
            net = tf.nn.leaky_relu(normalised(blurred(convolution(enlarged(net), depth, 3))))
        hr = convolution(net, 4, 9, gain=0.3) / 1e-4
        outputs = {key.replace("lr_input", f"output_{pad}"): tf.identity(hr[:, pad:-pad, pad:-pad], f"output_{pad}") for pad in pads}
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(folder), {key: lr}, outputs)
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    return sr4rs(tmp_path_factory.mktemp("sr4rs") / "sr4rs_bands4328")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def session_run(folder: Path, image: np.ndarray, output: str) -> np.ndarray:
    """The SavedModel in TensorFlow, on a whole image [rows, columns, bands]."""
    with tf.Graph().as_default(), v1.Session() as session:
        signature = v1.saved_model.loader.load(session, ["serve"], str(folder)).signature_def["serving_default"]
        return session.run(signature.outputs[output].name, {next(iter(signature.inputs.values())).name: image[None]})[0]


def write(path: Path, pixels: np.ndarray) -> Path:
    """[rows, columns, bands] as a GeoTIFF."""
    return image_files.write(path, pixels.transpose(2, 0, 1), transform=TRANSFORM)


@pytest.fixture(scope="module")
def imported(published, tmp_path_factory):
    before = files(published)
    done = import_model(published, tmp_path_factory.mktemp("models") / "sr4rs")
    assert files(published) == before
    return done


def test_sr4rs_is_recognised_and_copied(published, imported):
    before, done = files(published), imported
    side = done.folder.sidecar
    assert (done.layout, done.radius, side.factor, side.margin, side.method) == ("SR4RS", RADIUS, 4, RADIUS, "perceptual")
    assert (side.input.name, side.input.bands, side.input.scale, side.input.spacing) == ("lr_input", BANDS, 1e-4, 10.0)
    assert (side.output.name, side.output.bands, side.output.dtype, side.output.nodata) == ("output_32", BANDS, "int16", -10000)
    assert done.difference < 0.1
    made = files(done.folder.path)
    assert {name: made[name] for name in before} == before and set(made) - set(before) == {"model.json"}
    assert set(side.sha256) == set(before) and [path.name for path in done.folder.path.parent.iterdir()] == ["sr4rs"]


def test_sr4rs_through_superresolution_is_the_model_on_the_whole_image(published, imported, tmp_path, run_application):
    """Pixels of TensorFlow on the whole mirrored image, corner and footprint of the input, whatever the block size; Python alike."""
    folder = imported.folder
    image = np.random.default_rng(0).integers(0, 4000, (83, 61, 4)).astype(np.uint16)
    pad = 64  # as much as output_256 leaves out: no model.json is needed to know this
    mirrored = np.pad(image.astype(np.float32), ((pad, pad), (pad, pad), (0, 0)), mode="symmetric")
    exact = session_run(published, mirrored, "output_256")
    assert exact.shape == (332, 244, 4) and exact.std() > 1000 and np.abs(exact).max() < 32767
    np.testing.assert_allclose(folder(image), exact, atol=0.05)
    source = write(tmp_path / "lr.tif", image)
    for block, kind in ((0, "float"), (17, "float"), (64, "int16")):
        out = tmp_path / f"{block}.tif"
        process = run_application("SuperResolution", "-in", source, "-model", folder.path, "-out", out, kind, "-block", block)
        assert process.returncode == 0, process.stdout + process.stderr
        assert Grid.read(out) == Grid.read(source).refined(4)
        with rasterio.open(out) as dataset:
            made = dataset.read().transpose(1, 2, 0)
        # Not more than float32's noise (0.2 of 8000 with some block widths): normalising four channels that are near 0 enlarges it.
        rounding = 0 if kind == "float" else 0.5
        assert np.abs(made - exact).max() < 0.4 + rounding and np.median(np.abs(made - exact)) < 0.01 + rounding


def test_sr4rs_with_tensor_names_as_keys_and_only_one_output(tmp_path):
    """OTBTF's `create_savedmodel` writes keys such as `lr_input:0`."""
    side = import_model(sr4rs(tmp_path / "tf1", "lr_input:0", (256,), blocks=2), tmp_path / "out").folder.sidecar
    assert (side.input.name, side.output.name, side.margin) == ("lr_input:0", "output_256:0", 64)


# --- other SavedModels -------------------------------------------------------------------------------------------------------


def saved(folder: Path, function, channels: int = 4, kind=tf.float32, shape=(None, None, None)) -> Path:
    """A function of an image [n, h, w, bands] as a SavedModel of TensorFlow 2: x -> y, or a dictionary of outputs."""

    def serve(x):
        result = function(x)
        return result if isinstance(result, dict) else {"y": result}

    concrete = tf.function(serve, input_signature=[tf.TensorSpec((*shape, channels), kind, name="x")]).get_concrete_function()
    tf.saved_model.save(tf.Module(), str(folder), signatures=concrete)
    return folder


def kernel(side: int, bands: int = 4, seed: int = 0) -> np.ndarray:
    """A separate filter for each band as a convolution's weights."""
    return np.einsum("ij,bc->ijbc", np.random.default_rng(seed).uniform(-0.02, 0.06, (side, side)), np.eye(bands)).astype(np.float32)


def repeat(x, factor):
    return tf.repeat(tf.repeat(x, factor, axis=1), factor, axis=2)


@pytest.mark.parametrize(
    ("function", "factor", "margin"),
    [
        (lambda x: x, 1, 0),
        (lambda x: repeat(x, 3), 3, 0),
        (lambda x: repeat(tf.nn.conv2d(x, kernel(7), 1, "SAME"), 2), 2, 3),
        (lambda x: repeat(tf.nn.conv2d(x, kernel(4), 1, "SAME"), 2), 2, 2),  # one more pixel on one side
        (lambda x: tf.nn.conv2d(x, kernel(9), 1, "VALID"), 1, 4),  # leaves out its border itself
        (lambda x: tf.nn.conv2d(repeat(x, 4), kernel(5), 1, "SAME"), 4, 1),
        (lambda x: tf.nn.conv2d(tf.nn.relu(tf.nn.conv2d(x, kernel(21), 1, "SAME") - 1500), 1e-9 * kernel(21, seed=1), 1, "SAME") + x, 1, 20),
        (lambda x: tf.cast(tf.argmax(tf.nn.conv2d(x, kernel(3), 1, "SAME"), axis=-1)[..., None], tf.int64) + tf.zeros((1, 4), tf.int64), 1, 1),
    ],
    ids=["identity", "x3", "7x7", "even kernel", "valid", "fine 5x5", "weights below float32", "classes"],
)
def test_factor_and_margin_are_found(tmp_path, function, factor, margin):
    done = import_model(saved(tmp_path / "m", function), tmp_path / "out", **KNOWN)
    assert (done.folder.sidecar.factor, done.folder.sidecar.margin, done.radius) == (factor, margin, margin)
    assert done.folder.sidecar.input.signature == "serving_default" and done.layout == ""
    image = np.random.default_rng(1).integers(0, 3000, (9, 12, 4))
    assert done.folder(image).shape == (9 * factor, 12 * factor, 4)


def test_keras_and_integers(tmp_path):
    """Keras 3's `export`, uint16 in, int16 out: types and rounding are the model's."""
    import keras

    x = keras.Input((None, None, 3), dtype="uint16", name="image")
    wide = keras.layers.Conv2D(2, 5, padding="same")(keras.ops.cast(x, "float32"))
    model = keras.Model({"image": x}, {"height": keras.ops.cast(keras.layers.UpSampling2D(2)(wide), "int16")})
    model.export(str(tmp_path / "keras"), verbose=False)
    done = import_model(tmp_path / "keras", tmp_path / "out", bands=("R", "G", "B"), output_bands=("low", "high"), method="fidelity", name="heights", scale=1.0)
    side = done.folder.sidecar
    assert (side.factor, side.margin, side.name, side.output.dtype, side.output.name) == (2, 2, "heights", "int16", "height")
    image = np.random.default_rng(0).integers(0, 900, (6, 7, 3)).astype(np.uint16)
    expected = np.asarray(model({"image": np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="symmetric")[None]})["height"])[0, 4:-4, 4:-4]
    np.testing.assert_array_equal(done.folder(image), expected)


def test_types_follow_from_output_and_scale(tmp_path):
    float_model = saved(tmp_path / "f", lambda x: x)
    assert import_model(float_model, tmp_path / "1", **KNOWN, scale=1.0).folder.sidecar.output.dtype == "float32"
    assert import_model(float_model, tmp_path / "2", **KNOWN).folder.sidecar.output.dtype == "int16"
    side = import_model(float_model, tmp_path / "3", **KNOWN, dtype="uint16", scale=1.0, output_scale=0.5, spacing=20, licence="MIT").folder.sidecar
    assert (side.output.dtype, side.output.nodata, side.output.scale, side.input.spacing, side.licence) == ("uint16", 0, 0.5, 20, "MIT")
    bytes_model = saved(tmp_path / "u", lambda x: tf.cast(tf.clip_by_value(x, 0, 255), tf.uint8))
    assert import_model(bytes_model, tmp_path / "4", **KNOWN).folder.sidecar.output.dtype == "uint8"
    with pytest.raises(UsageError, match=r"dtype: Input should be 'uint8', "):
        import_model(float_model, tmp_path / "5", **KNOWN, dtype="complex64")


def test_in_place_writes_the_sidecar_only(tmp_path):
    source = saved(tmp_path / "m", lambda x: repeat(x, 2))
    before = files(source)
    done = import_model(source, in_place=True, **KNOWN)
    assert done.folder.path == source and set(files(source)) - set(before) == {"model.json"} and done.folder.sidecar.name == "m"
    with pytest.raises(OutputError, match=r"m/model.json: exists already; choose another name or give --overwrite"):
        import_model(source, in_place=True, **KNOWN)
    import_model(source, in_place=True, **KNOWN, name="again", overwrite=True)
    assert json.loads((source / "model.json").read_text())["name"] == "again"


def test_a_copy_replaces_only_with_overwrite(tmp_path):
    source = saved(tmp_path / "m", lambda x: x)
    (source / "LICENSE.txt").write_text("theirs")
    import_model(source, tmp_path / "out", **KNOWN)
    assert (tmp_path / "out" / "LICENSE.txt").read_text() == "theirs"
    with pytest.raises(OutputError, match=r"out: exists already"):
        import_model(source, tmp_path / "out", **KNOWN)
    import_model(source, tmp_path / "out", **KNOWN, overwrite=True)
    with pytest.raises(UsageError, match=r"is the SavedModel itself; give another folder, or --in-place"):
        import_model(source, source, **KNOWN, overwrite=True)
    with pytest.raises(UsageError, match=r"give either --out FOLDER"):
        import_model(source, **KNOWN)


def test_a_smaller_margin_is_taken_and_its_price_is_told(tmp_path):
    source = saved(tmp_path / "m", lambda x: tf.nn.conv2d(x, kernel(21), 1, "SAME"))
    done = import_model(source, tmp_path / "out", **KNOWN, margin=3)
    assert (done.folder.sidecar.margin, done.radius) == (3, 10) and done.difference > 1
    assert done.folder.sidecar.metrics["block_difference"] > 1
    with pytest.raises(UsageError, match=r"--margin 3 is smaller than the 4 input pixels that output y itself leaves out; give 4 or more"):
        import_model(saved(tmp_path / "v", lambda x: tf.nn.conv2d(x, kernel(9), 1, "VALID")), tmp_path / "2", **KNOWN, margin=3)


def squeezed(x):
    return x * tf.sigmoid(1e-4 * tf.reduce_mean(x, axis=(1, 2), keepdims=True))


def standardised(x):
    mean, variance = tf.nn.moments(x, (1, 2), keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + 1e-5)


def strided(x):
    """Down by 2 and back up: goes with any size, but depends on where a block begins."""
    small = tf.nn.max_pool2d(x, 2, 2, "SAME")
    return repeat(small, 2)[:, : tf.shape(x)[1], : tf.shape(x)[2]] + x


def even_only(x):
    return tf.nn.depth_to_space(tf.nn.space_to_depth(x, 2), 2)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (squeezed, "depends on pixels more than 512 away"),
        (standardised, "depends on pixels more than 512 away"),
        (lambda x: x - tf.reduce_max(x), "depends on pixels more than 512 away"),
        (strided, "the network depends on where a block begins"),
        (even_only, "takes images of 64 x 64 pixels but not of 69 x 64"),
        (lambda x: tf.reduce_mean(x, axis=(1, 2)), r"output y has shape \[1, 4\], expected \[1, rows, columns, bands\]"),
        (lambda x: x[:, ::2, ::2], "expected 1 to 16 output pixels per input pixel"),
        (lambda x: x[:, 1:, :], "or the same number fewer on each side"),
        (lambda x: tf.ones_like(x), "output y does not depend on input x"),
        (lambda x: x * np.nan, "is not finite for a grey image"),
        (lambda x: {"a": x, "b": x + 1}, r"several outputs would do \(a, b\); choose one with --output"),
        (lambda x: {"a": x, "b": repeat(x, 2)}, r"outputs have different factors \(a 1, b 2\); choose one with --output"),
    ],
    ids=["squeeze", "instance norm", "maximum", "strides", "even sizes", "no image", "coarser", "one side", "constant", "nan", "two", "factors"],
)
def test_networks_that_cannot_be_served_in_blocks_are_refused(tmp_path, function, reason):
    with pytest.raises(ModelError, match=reason) as raised:
        import_model(saved(tmp_path / "m", function), tmp_path / "out", **KNOWN)
    assert "\n" not in str(raised.value) and str(tmp_path / "m") in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_choices_are_taken(tmp_path):
    both = saved(tmp_path / "m", lambda x: {"a": x, "b": repeat(x, 2), "b_crop8": repeat(x, 2)[:, 8:-8, 8:-8]})
    assert import_model(both, tmp_path / "1", **KNOWN, factor=2).folder.sidecar.output.name == "b"
    side = import_model(both, tmp_path / "2", **KNOWN, output_name="b_crop8").folder.sidecar
    assert (side.output.name, side.factor, side.margin) == ("b_crop8", 2, 4)
    with pytest.raises(UsageError, match=r"--factor 3 is not the model's \(found: a 1, b 2, b_crop8 2\); leave it out"):
        import_model(both, tmp_path / "3", **KNOWN, factor=3)


def test_the_command(tmp_path, published):
    """One line for an error, with its exit status; results as lines or as JSON."""
    from typer.testing import CliRunner

    from otbsr.cli import app, main

    source = saved(tmp_path / "m", lambda x: repeat(x, 2))
    words = ["import-model", str(source), "--out", str(tmp_path / "out"), "--bands", "a, b,c,d", "--method", "fidelity", "--quiet", "--json"]
    done = CliRunner().invoke(app, words)
    told = json.loads(done.stdout)
    assert done.exit_code == 0 and (told["factor"], told["margin"], told["output"], told["layout"]) == (2, 0, "y", "unknown")
    assert told["response"] == "0.2000 for a grey image of reflectance 0.2"
    with pytest.raises(SystemExit) as ended:
        main(lambda: app(words, standalone_mode=False))
    assert ended.value.code == OutputError.exit_code


def test_what_is_no_model_or_not_known_enough(tmp_path, published):
    model = saved(tmp_path / "parent" / "m", lambda x: x)
    cases: list[tuple[Path, dict, str]] = [
        (tmp_path / "nowhere", KNOWN, r"nowhere: no such folder; expected a TensorFlow SavedModel"),
        (tmp_path / "parent", KNOWN, r"no saved_model.pb in it; .*; did you mean .*/m\?"),
        (model, {}, r"give --bands with the names of its 4 input bands and --method fidelity, perceptual or baseline"),
        (model, {**KNOWN, "bands": BANDS[:3]}, r"input x has 4 bands, but 3 are named \(B4, B3, B2\); name them with --bands"),
        (model, {**KNOWN, "bands": ("B4", "B3", "B2", "B4")}, r"names a band twice"),
        (model, {**KNOWN, "output_bands": ("a",)}, r"output y has 4 bands, but 1 are named; give --output-bands"),
        (model, {**KNOWN, "signature": "other"}, r"no signature other; it has serving_default"),
        (model, {**KNOWN, "output_name": "z"}, r"no output z; signature serving_default has y"),
        (model, {**KNOWN, "input_name": "z"}, r"no input z; signature serving_default has x"),
        (model, {**KNOWN, "method": "magic"}, r"method: "),
        (saved(tmp_path / "fixed", lambda x: x, shape=(None, 32, 32)), KNOWN, r"input x takes only images of 32 x 32 pixels; export the network with free"),
        (saved(tmp_path / "batch", lambda x: x, shape=(8, None, None)), KNOWN, r"takes only batches of 8 images"),
        (saved(tmp_path / "text", lambda x: tf.strings.length(x), kind=tf.string), KNOWN, r"input x is object, expected numbers"),
    ]
    damaged = shutil.copytree(model, tmp_path / "damaged")
    (damaged / "saved_model.pb").write_bytes(b"\xff" * 99)
    cases.append((damaged, KNOWN, r"damaged/saved_model.pb: is no SavedModel"))
    without = shutil.copytree(published, tmp_path / "without")
    shutil.rmtree(without / "variables")
    cases.append((without, {}, r"without: TensorFlow .* cannot load this SavedModel: .*variables.*; export it again"))
    two = tmp_path / "two"
    module = tf.Module()
    module.f = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec((None, None, None, 4), tf.float32, name="x")])
    tf.saved_model.save(module, str(two), signatures={"one": module.f, "other": module.f})
    cases.append((two, KNOWN, r"has 2 signatures \(one, other\) and none is serving_default; choose one with --signature"))
    pair = tmp_path / "pair"
    function = tf.function(lambda x, z: {"y": x + z}, input_signature=[tf.TensorSpec((None, None, None, 4), tf.float32, name=name) for name in "xz"])
    tf.saved_model.save(tf.Module(), str(pair), signatures=function.get_concrete_function())
    cases.append((pair, KNOWN, r"has 2 inputs \(x, z\), SuperResolution feeds one image; choose it with --input"))
    for folder, options, message in cases:
        with pytest.raises(OtbsrError, match=message) as raised:
            import_model(folder, tmp_path / "out", **options)
        assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()
    import_model(two, tmp_path / "out", **KNOWN, signature="other")
