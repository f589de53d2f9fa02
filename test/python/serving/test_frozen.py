"""Variables become constants when a model is served (FrozenGraph): the same results, and models that cannot be frozen are served as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import read, write
from outcome import succeed

STAYS = "variables stay variables"
SIDE = 24


@pytest.fixture(scope="module")
def tf() -> Any:
    return pytest.importorskip("tensorflow")


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(5).integers(1, 900, (2, SIDE, SIDE)).astype(np.uint16)


@pytest.fixture
def serve(run_application: Any, pixels: np.ndarray, tmp_path: Path) -> Callable[..., tuple[np.ndarray, str]]:
    """The served image [bands, rows, columns], and what the application said."""

    def run(model: Path, *more: object) -> tuple[np.ndarray, str]:
        image, out = write(tmp_path / "in.tif", pixels), tmp_path / "out.tif"
        given = ["-source1.il", image, "-model.dir", model, "-model.fullyconv", "on", *more, "-out", out, "float"]
        log = succeed(run_application("TensorflowModelServe", *given))
        return read(out), log

    return run


def save(tf: Any, folder: Path, module: Any, signature: str = "serving_default") -> Path:
    spec = tf.TensorSpec((None, None, None, 2), tf.float32, name="x")
    tf.saved_model.save(module, str(folder), signatures={signature: module.call.get_concrete_function(spec)})
    return folder


def module_of(tf: Any, call: Callable[[Any, Any], Any], **variables: Any) -> Any:
    """A tf.Module with the variables, whose `call` is call(module, x)."""
    module = tf.Module()
    for name, value in variables.items():
        setattr(module, name, tf.Variable(value, name=name))
    module.call = tf.function(lambda x: {"y": call(module, x)})
    return module


def test_convolutions_in_nested_functions(tf: Any, serve: Any, pixels: np.ndarray, tmp_path: Path) -> None:
    """Weights read in a function that a function calls twice, and a variable that the signature returns as it is."""
    kernel = np.random.default_rng(1).normal(0, 1, (3, 3, 2, 2)).astype(np.float32)

    def call(module: Any, x: Any) -> Any:
        @tf.function
        def inner(z: Any) -> Any:
            return tf.nn.conv2d(z, module.kernel, 1, "SAME") + module.bias

        return inner(inner(x)) + tf.zeros_like(x) * module.alone

    module = module_of(tf, call, kernel=kernel, bias=np.array([3.0, -5.0], np.float32), alone=np.float32(2))
    served, log = serve(
        save(tf, tmp_path / "model", module), "-source1.rfieldx", SIDE, "-source1.rfieldy", SIDE, "-output.efieldx", SIDE, "-output.efieldy", SIDE
    )
    expected = module.call(tf.constant(pixels.transpose(1, 2, 0)[None], tf.float32))["y"][0].numpy().transpose(2, 0, 1)
    assert STAYS not in log
    np.testing.assert_allclose(served, expected, rtol=1e-4, atol=1e-2 * np.abs(expected).max() / 100)


@pytest.mark.parametrize("resource", [True, False], ids=["resource", "reference"])
def test_tensorflow_1(tf: Any, serve: Any, pixels: np.ndarray, tmp_path: Path, resource: bool) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, None, None, 2], name="x")
        gain = v1.get_variable("gain", initializer=tf.constant([2.0, 0.5]), use_resource=resource)
        result = tf.multiply(x, gain, name="result")
        with tf.control_dependencies([v1.assign(gain, gain + 1)]):
            tf.identity(result, name="train")  # in the graph, and not asked for
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(tmp_path / "model"), inputs={"x": x}, outputs={"y": result})
    served, log = serve(tmp_path / "model")
    assert STAYS not in log
    assert np.array_equal(served, pixels * np.array([2.0, 0.5])[:, None, None])


def test_what_keeps_a_model_from_being_frozen(tf: Any, serve: Any, pixels: np.ndarray, tmp_path: Path) -> None:
    """Rows of a table, a loop, two variables for one function, a table of keys: the results are right, and the log says why."""
    table = np.arange(1000, dtype=np.float32)

    def gathered(module: Any, x: Any) -> Any:
        return tf.nn.embedding_lookup(module.table, tf.cast(x, tf.int32)) * 2

    def looped(module: Any, x: Any) -> Any:
        return tf.while_loop(lambda k, _: k < 3, lambda k, z: (k + 1, z + module.step), (tf.constant(0), x))[1]

    times = tf.function(lambda z, variable: z * variable.read_value())

    def twice(module: Any, x: Any) -> Any:
        return times(x, module.a) + times(x, module.b)

    found = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(np.arange(1000), np.arange(1000) * 3), -1)

    def looked_up(module: Any, x: Any) -> Any:
        return tf.cast(module.found.lookup(tf.cast(x, tf.int64)), tf.float32) + module.add

    keyed = module_of(tf, looked_up, add=np.float32(1))
    keyed.found = found
    cases = {
        "gathered": (module_of(tf, gathered, table=table), pixels * 2, True),
        "looped": (module_of(tf, looped, step=np.float32(4)), pixels + 12, True),
        "twice": (module_of(tf, twice, a=np.float32(2), b=np.float32(5)), pixels * 7, None),
        "keyed": (keyed, pixels * 3 + 1, True),
    }
    for name, (module, expected, stays) in cases.items():
        served, log = serve(save(tf, tmp_path / name, module))
        assert np.array_equal(served, expected), name
        assert stays is None or (STAYS in log) == stays, (name, log)


def test_state_that_a_run_changes(tf: Any, serve: Any, pixels: np.ndarray, tmp_path: Path) -> None:
    """A counter that each run raises is raised: 16 runs give 1 to 16, in whatever order they ran."""

    def call(module: Any, x: Any) -> Any:
        return x * 0 + module.count.assign_add(1.0)

    model = save(tf, tmp_path / "model", module_of(tf, call, count=np.float32(0)))
    served, log = serve(model, "-optim.tilesizex", 6, "-optim.tilesizey", 6)
    assert STAYS in log
    assert sorted(np.unique(served)) == list(range(1, 17))


def test_inputs_and_outputs_by_the_graphs_names(tf: Any, serve: Any, pixels: np.ndarray, tmp_path: Path) -> None:
    """An inner tensor may be asked for, and an input that the output does not need may be fed."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, None, None, 2], name="x")
        unused = v1.placeholder(tf.float32, [], name="unused")
        gain = v1.get_variable("gain", initializer=tf.constant([2.0, 0.5]))
        inner = tf.multiply(x, gain, name="inner")
        outer = tf.add(inner, unused, name="outer")
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(tmp_path / "model"), inputs={"x": x}, outputs={"y": outer})
    expected = pixels * np.array([2.0, 0.5])[:, None, None]
    given = ("-source1.placeholder", "x", "-model.userplaceholders", "unused=7", "-output.names")
    for names, results in ((["inner"], expected), (["y", "inner", "outer"], np.concatenate([expected + 7, expected, expected + 7]))):
        served, log = serve(tmp_path / "model", *given, *names)
        assert STAYS not in log
        assert np.array_equal(served, results)


def test_several_outputs_of_one_function(tf: Any, serve: Any, pixels: np.ndarray, tmp_path: Path) -> None:
    module = tf.Module()
    module.gain = tf.Variable(3.0)
    module.call = tf.function(lambda x: {"a": x * module.gain, "b": x + module.gain})
    served, log = serve(save(tf, tmp_path / "model", module), "-output.names", "b", "a")
    assert STAYS not in log
    assert np.array_equal(served, np.concatenate([pixels + 3, pixels * 3]))
