"""SavedModels of all kinds through TensorflowModelServe (§3, §4): who wrote them, what their tensors are called, of what type they are."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from image_files import write

BANDS = 2
ROWS, COLUMNS = 9, 11
TYPES = ("bfloat16", "bool", "float16", "float32", "float64", "int16", "int32", "int64", "int8", "uint16", "uint32", "uint64", "uint8")
QUANTISED = {"qint8": "int8", "quint8": "uint8", "qint16": "int16", "quint16": "uint16", "qint32": "int32"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    pixels = np.random.default_rng(0).integers(-500, 500, (BANDS, ROWS, COLUMNS)).astype(np.float32)
    return write(tmp_path_factory.mktemp("image") / "in.tif", pixels), pixels


@pytest.fixture
def serve(run_application, tmp_path: Path) -> Callable[..., tuple[np.ndarray | None, str]]:
    """`serve(model, image, arguments..., sources=1)`: the product's pixels (None when it failed) and the log."""

    def run(model: Path, image: Path, *arguments: object, sources: int = 1) -> tuple[np.ndarray | None, str]:
        out = tmp_path / "out.tif"
        out.unlink(missing_ok=True)
        given = [word for k in range(1, sources + 1) for word in (f"-source{k}.il", image)]
        words = [*given, "-model.dir", model, "-model.fullyconv", "on", *arguments, "-out", out, "double"]
        process: subprocess.CompletedProcess[str] = run_application("TensorflowModelServe", *words, environment={"OTB_TF_NSOURCES": str(sources)})
        log = process.stdout + process.stderr
        fatal = [line for line in log.splitlines() if "(FATAL)" in line]
        assert (process.returncode, len(fatal)) in ((0, 0), (1, 1)), log
        if fatal:
            assert not out.exists()
            return None, fatal[0]
        with rasterio.open(out) as dataset:
            return dataset.read(), log

    return run


@pytest.fixture(scope="module")
def tf():  # type: ignore[no-untyped-def]
    return pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def graph_model(tf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TensorFlow 1's simple_save: y = weight * x + offset with a variable weight (3) and user placeholders of several types and shapes.

    Keys: "x:0" with TensorFlow's suffix, and others without; "pair:0" and "pair:1" have one prefix. Tensor `hidden` is in the graph only."""
    v1 = tf.compat.v1
    folder = tmp_path_factory.mktemp("models") / "simple_save"
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, None, None, BANDS], name="image")
        real = v1.placeholder_with_default(tf.constant(0.0, tf.float64), [], name="real")
        whole = v1.placeholder_with_default(tf.constant(0, tf.int64), [], name="whole")
        switch = v1.placeholder_with_default(tf.constant(False), [], name="switch")
        one = v1.placeholder_with_default(tf.constant([0], tf.int32), [1], name="one")
        list_ = v1.placeholder_with_default(tf.constant([0.0] * BANDS), [BANDS], name="list")
        words = v1.placeholder_with_default(tf.constant("", tf.string), [], name="words")
        weight = v1.get_variable("weight", initializer=tf.constant(3.0))
        offset = tf.cast(real, tf.float32) + tf.cast(whole % 1000, tf.float32) + tf.cast(one, tf.float32)
        y = tf.where(switch, -1.0, 1.0) * weight * x + offset + list_
        hidden = tf.multiply(x, 10.0, name="hidden")
        tf.concat([x, hidden], -1, name="both")
        session.run(v1.global_variables_initializer())
        inputs = {"x:0": x, "real": real, "whole": whole, "switch": switch, "one": one, "list": list_, "words": words}
        outputs = {"y": y, "pair:0": x + 1, "pair:1": x + 2}
        v1.saved_model.simple_save(session, str(folder), inputs=inputs, outputs=outputs)
    return folder


def test_simple_save_names(serve, image, graph_model: Path) -> None:
    """§3: key, part before ":", key with ":0", the graph's names in the signature and outside; ambiguous and unknown names."""
    path, pixels = image
    for name, names, expected in (
        ("x", ["y:0"], [3 * pixels]),
        ("x:0", ["hidden"], [10 * pixels]),
        ("image", ["both:0", "pair:1"], [pixels, 10 * pixels, pixels + 2]),
        ("image:0", ["pair:1", "y", "pair:0"], [pixels + 2, 3 * pixels, pixels + 1]),
    ):
        made, log = serve(graph_model, path, "-source1.placeholder", name, "-output.names", *names)
        assert made is not None and np.array_equal(made, np.concatenate(expected)), log
    made, _ = serve(graph_model, path, "-source1.placeholder", "x")  # the first key in alphabetical order
    assert made is not None and np.array_equal(made, pixels + 1)
    assert '"pair" may be any of the model\'s outputs pair:0, pair:1' in serve(graph_model, path, "-source1.placeholder", "x", "-output.names", "pair")[1]
    assert 'no output "z"; it has: pair:0, pair:1, y' in serve(graph_model, path, "-source1.placeholder", "x", "-output.names", "z")[1]
    assert 'no input "image:1"; it has: list, one, real,' in serve(graph_model, path, "-source1.placeholder", "image:1")[1]


def test_user_placeholders(serve, image, graph_model: Path) -> None:
    """§3: the declared type and shape win: float64 and int64 scalars, [1], [2], bool; 1e-1 is a number; keys with ":0" are no sources."""
    path, pixels = image
    given = ["real=25e-2", "whole = 12345678901007", "switch=TRUE", "one=1", "list=( 10 ,20.5)"]
    made, log = serve(graph_model, path, "-source1.placeholder", "x", "-output.names", "y", "-model.userplaceholders", *given)
    expected = -3 * pixels + 0.25 + 7 + 1 + np.array([10, 20.5], np.float32)[:, None, None]
    assert made is not None and np.array_equal(made, expected), log
    for wrong, message in {
        "list=(1, 2": "misses a parenthesis",
        "list=(1, 2, 3)": 'has 3 values, but the model\'s input "list" has the shape [2]',
        "nothing=1": 'no input "nothing"; it has: list, one,',
        "whole=1.5": '"1.5" is no value of int64',
        "words=3": "is string, but only numbers",
    }.items():
        failed, log = serve(graph_model, path, "-source1.placeholder", "x", "-output.names", "y", "-model.userplaceholders", wrong)
        assert failed is None and message in log, log


@pytest.fixture(scope="module")
def all_types(tf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An input and an output of each numeric type; quantised ones go out as the integers they are stored as. And what has no pixels."""
    v1 = tf.compat.v1
    folder = tmp_path_factory.mktemp("models") / "types"
    with tf.Graph().as_default(), v1.Session() as session:
        inputs = {f"x_{name}": v1.placeholder(name, [None, None, None, 1], name=f"x_{name}") for name in (*TYPES, *QUANTISED, "complex64", "string")}
        outputs = {f"y_{name}": tf.identity(inputs[f"x_{name}"]) for name in (*TYPES, "complex64", "string")}
        outputs |= {f"y_{name}": tf.bitcast(inputs[f"x_{name}"], plain) for name, plain in QUANTISED.items()}
        v1.saved_model.simple_save(session, str(folder), inputs=inputs, outputs=outputs)
    return folder


def as_type(values: np.ndarray, name: str) -> np.ndarray:
    """`values` in the type, integers rounded to the nearest (halves away from zero) and clamped, as float64."""
    name = QUANTISED.get(name, name)
    if name == "bool":
        return (values != 0).astype(np.float64)
    if name == "bfloat16":
        import ml_dtypes

        return values.astype(ml_dtypes.bfloat16).astype(np.float64)
    if name.startswith("float"):
        return values.astype(name).astype(np.float64)
    limits = np.iinfo(name)
    rounded = np.copysign(np.floor(np.abs(values.astype(np.float64)) + 0.5), values)
    return np.array([min(max(int(value), limits.min), limits.max) for value in rounded.ravel()], dtype=object).astype(np.float64).reshape(values.shape)


def test_every_numeric_type_in_and_out(serve, all_types: Path, tmp_path: Path) -> None:
    """§4: 18 types in one run, each from float32 pixels to its tensor and back to double pixels."""
    chosen = [0, 1, -1, 0.5, -0.5, 2.5, -2.5, 0.49999997, 12.9, -5.7, 127.4, 127.5, -128.6, 200, 255.6, 300, -40000, 65534.5, 7e4, 1e-3, 3.14159, 8388609]
    chosen += [2.0**24, 2.0**31, -(2.0**31), 2.0**33, 2.0**40 + 2**17, 2.0**63, 1e30, -1e30]
    values = np.array(chosen, np.float32)
    values = np.concatenate([values, np.random.default_rng(1).normal(0, 1e3, 70 - len(values)).astype(np.float32)]).reshape(1, 7, 10)
    names = (*TYPES, *QUANTISED)
    placeholders = [word for k, name in enumerate(names, 1) for word in (f"-source{k}.placeholder", f"x_{name}")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 1e30 is infinite as a half
        expected = np.stack([as_type(values[0], name) for name in names])
    made, log = serve(all_types, write(tmp_path / "in.tif", values), *placeholders, "-output.names", *(f"y_{name}" for name in names), sources=len(names))
    assert made is not None, log
    for name, band, exact in zip(names, made, expected, strict=True):
        assert np.array_equal(band, exact), (name, band[band != exact], exact[band != exact])


def test_types_without_pixels_are_named(serve, all_types: Path, image) -> None:
    """§4: upstream says a number of an enumeration."""
    path = image[0]
    for name in ("complex64", "string"):
        failed, log = serve(all_types, write(path.with_name("one.tif"), image[1][:1]), "-source1.placeholder", f"x_{name}", "-output.names", f"y_{name}")
        assert failed is None and name in log and "type 1" not in log, log


@pytest.fixture(scope="module")
def variants(tf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of SavedModels that give 2 x: tf.Module with any signature, several of them, tag sets, Keras."""
    folder = tmp_path_factory.mktemp("models")
    specification = tf.TensorSpec((None, None, None, BANDS), tf.float32, name="x")

    class Twice(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = tf.Variable(2.0)
            self.serve = tf.function(lambda x: {"y": x * self.weight}, input_signature=[specification])
            self.other = tf.function(lambda x: {"y": -x}, input_signature=[specification])

    module = Twice()
    tf.saved_model.save(module, str(folder / "default"), signatures=module.serve)
    tf.saved_model.save(module, str(folder / "custom"), signatures={"mine": module.serve})
    tf.saved_model.save(module, str(folder / "both"), signatures={"alpha": module.serve, "serving_default": module.serve, "zeta": module.other})
    tf.saved_model.save(module, str(folder / "several"), signatures={"alpha": module.serve, "zeta": module.other})
    v1 = tf.compat.v1
    builder = v1.saved_model.builder.SavedModelBuilder(str(folder / "tags"))
    for number, tags in enumerate((["serve"], ["serve", "gpu"], ["train"]), 2):
        with tf.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(tf.float32, [None, None, None, BANDS], name="x")
            weight = v1.get_variable("weight", initializer=tf.constant(2.0))  # shared by all: only the factor in the graph differs
            y = x * weight * (number / 2)
            session.run(v1.global_variables_initializer())
            signature = {"serving_default": v1.saved_model.predict_signature_def(inputs={"x": x}, outputs={"y": y})}
            if number == 2:
                builder.add_meta_graph_and_variables(session, tags, signature)
            else:
                builder.add_meta_graph(tags, signature)
    builder.save()
    return folder


def test_signature_choice(serve, image, variants: Path) -> None:
    """§3, §14: serving_default, else the only real one (upstream: at random, crashing half the time), else an error that names them."""
    path, pixels = image
    for name in ("default", "custom", "both"):
        made, log = serve(variants / name, path)
        assert made is not None and np.array_equal(made, 2 * pixels), log
    failed, log = serve(variants / "several", path)
    assert failed is None and "alpha, zeta" in log and "__saved_model_init_op" not in log, log


def test_tag_sets(serve, image, variants: Path) -> None:
    """§3: {serve} by default, or all of model.tagsets on one graph."""
    path, pixels = image
    for tags, factor in (([], 2), (["serve"], 2), (["gpu", "serve"], 3), (["train"], 4)):
        made, log = serve(variants / "tags", path, *(["-model.tagsets", *tags] if tags else []))
        assert made is not None and np.array_equal(made, factor * pixels), log
    failed, log = serve(variants / "tags", path, "-model.tagsets", "gpu")
    assert failed is None and "tags gpu" in log, log


def test_keras_3_export(tf, serve, image, tmp_path: Path) -> None:
    """model.export: the keys are Keras's names; an output by its key, by the graph's name, and by default."""
    keras = pytest.importorskip("keras")
    path, pixels = image
    entry = keras.Input((None, None, BANDS), name="x")
    scaled = keras.layers.Rescaling(2.0, name="twice")(entry)
    model = keras.Model({"x": entry}, {"first": scaled, "second": keras.layers.Rescaling(-1.0, name="minus")(entry)})
    model.export(str(tmp_path / "model"), verbose=False)
    for arguments in ([], ["-source1.placeholder", "serving_default_x", "-output.names", "first"]):
        made, log = serve(tmp_path / "model", path, *arguments)
        assert made is not None and np.array_equal(made, 2 * pixels), log
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph_name = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "model")).signature_def["serving_default"].outputs["second"].name
    made, log = serve(tmp_path / "model", path, "-output.names", "second", "first", graph_name)
    assert made is not None and np.array_equal(made, np.concatenate([-pixels, 2 * pixels, -pixels])), (graph_name, log)


def test_keras_2_save(tf, serve, image, tmp_path: Path) -> None:
    """model.save of Keras 2: the keys of the outputs are the layers' names, not the dictionary's."""
    keras = pytest.importorskip("tf_keras")
    path, pixels = image
    entry = keras.Input((None, None, BANDS), name="x")
    scaled = keras.layers.Rescaling(2.0, name="predictions_tensor")(entry)
    model = keras.Model({"x": entry}, {"predictions": scaled})
    model.save(str(tmp_path / "model"), save_format="tf")
    for arguments in ([], ["-output.names", "predictions_tensor"], ["-source1.placeholder", "x", "-output.names", "PartitionedCall"]):
        made, log = serve(tmp_path / "model", path, *arguments)
        assert made is not None and np.array_equal(made, 2 * pixels), log
    assert 'no output "predictions"; it has: predictions_tensor' in serve(tmp_path / "model", path, "-output.names", "predictions")[1]
