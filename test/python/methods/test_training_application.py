"""TensorflowModelTrain as a user runs it: SavedModels with an optimiser, written with TensorFlow 1's interface."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from outcome import refuse, succeed

from otbsr.serving import otb

PATCH = 8
BANDS = 2
CLASSES = (0, 1, 2)


def write(path: Path, patches: np.ndarray) -> Path:
    """An image of patches (number, rows, columns, bands), one below the other."""
    number, rows, columns, bands = patches.shape
    pixels = patches.reshape(number * rows, columns, bands).transpose(2, 0, 1)
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=number * rows, width=columns, dtype=patches.dtype, transform=Affine(10, 0, -5, 0, -10, 5)
    ) as dataset:
        dataset.write(pixels)
    return path


def separable(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Patches of three classes that differ in their means by several standard deviations of the mean, and their labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(CLASSES), number)
    centres = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    patches = centres[labels][:, None, None] + generator.normal(0, 1, (number, PATCH, PATCH, BANDS))
    return patches.astype(np.float32), labels.reshape(-1, 1, 1, 1).astype(np.uint8)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logistic regression as a convolution of the patch's size, so that it can be served; the rate is a scalar placeholder."""
    tf = pytest.importorskip("tensorflow").compat.v1
    folder = tmp_path_factory.mktemp("models") / "classifier"
    with tf.Graph().as_default(), tf.Session() as session:
        x = tf.placeholder(tf.float32, [None, None, None, BANDS], name="x")
        y = tf.placeholder(tf.int32, [None, 1, 1, 1], name="y")
        rate = tf.placeholder_with_default(tf.constant(0.0), [], name="rate")
        kernel = tf.get_variable("kernel", [PATCH, PATCH, BANDS, len(CLASSES)], initializer=tf.zeros_initializer())
        scores = tf.nn.conv2d(x, kernel, strides=1, padding="VALID")
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y[..., 0], logits=scores), name="loss")
        tf.train.GradientDescentOptimizer(rate).minimize(loss, name="optimizer")
        label = tf.expand_dims(tf.argmax(scores, -1, output_type=tf.int32), -1, name="label")
        mean = tf.reduce_mean(x, axis=(1, 2), keepdims=True, name="mean")
        session.run(tf.global_variables_initializer())
        inputs = {"x": x, "y": y, "rate": rate}
        tf.saved_model.simple_save(session, str(folder), inputs=inputs, outputs={"label": label, "scores": scores, "mean": mean})
    return folder


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Counts how often it sees each sample (x) and each size of batch; `code` depends on the order. The loss is the mean of y."""
    tf = pytest.importorskip("tensorflow").compat.v1
    folder = tmp_path_factory.mktemp("models") / "counter"
    with tf.Graph().as_default(), tf.Session() as session:
        x = tf.placeholder(tf.int64, [None, 1, 1, 1], name="x")
        y = tf.placeholder(tf.float32, [None], name="y")
        switch = tf.placeholder_with_default(False, [], name="switch")
        seen, sizes = (tf.get_variable(name, [40], tf.int64, tf.zeros_initializer(), use_resource=True) for name in ("seen", "sizes"))
        code = tf.get_variable("code", [], tf.int64, tf.zeros_initializer(), use_resource=True)
        number = tf.shape(x, out_type=tf.int64)[0]
        rank = tf.reduce_sum(tf.reshape(x, [-1]) * tf.range(1, number + 1))
        step = [
            tf.raw_ops.ResourceScatterAdd(resource=seen.handle, indices=tf.reshape(x, [-1]), updates=tf.constant(1, tf.int64)),
            tf.raw_ops.ResourceScatterAdd(resource=sizes.handle, indices=number, updates=tf.constant(1, tf.int64)),
            code.assign((code * 31 + rank) % 1000003),
        ]
        tf.group(*step, name="step")
        loss = tf.reduce_mean(y, name="loss")
        session.run(tf.global_variables_initializer())
        outputs = {"loss": loss, "twice": tf.cast(x, tf.float32) * 2, "text": tf.constant("summary")}
        tf.saved_model.simple_save(session, str(folder), inputs={"x": x, "y": y, "switch": switch}, outputs=outputs)
    return folder


def variables(prefix: Path) -> dict[str, np.ndarray]:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(prefix))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def sources(group: str, x: Path, y: Path, name_x: str = "x", name_y: str = "y", size: int = PATCH) -> list[object]:
    names = (name_x, name_y)
    given: list[object] = []
    for number, (path, name, side) in enumerate(zip((x, y), names, (size, 1), strict=True), 1):
        given += [f"-{group}.source{number}.il", path]
        if group == "training":
            given += [f"-training.source{number}.patchsizex", side, f"-training.source{number}.patchsizey", side]
            given += [f"-training.source{number}.placeholder", name]
        else:
            given += [f"-validation.source{number}.name", name]
    return given


def test_logistic_regression_is_learnt_saved_restored_and_served(run_application, classifier: Path, tmp_path: Path) -> None:
    """§12: more than 95 % right on other patches; figures as NumPy's; the checkpoint gives the trained answers when it is served."""
    x, y = separable(130, 1)
    vx, vy = separable(77, 2)
    images = write(tmp_path / "x.tif", x), write(tmp_path / "y.tif", y)
    validation = write(tmp_path / "vx.tif", vx), write(tmp_path / "vy.tif", vy)
    model = shutil.copytree(classifier, tmp_path / "model")
    prefix = model / "variables" / "variables"
    arguments = ["-model.dir", model, "-training.batchsize", 32, "-training.epochs", 6, "-rand", 3, "-training.targetnodes", "optimizer"]
    arguments += ["-training.userplaceholders", "rate=5e-2", "-training.outputtensors", "loss", *sources("training", *images)]
    check = ["-validation.mode", "class", "-validation.step", 3, *sources("validation", *validation, name_y="label")]
    text = succeed(run_application("TensorflowModelTrain", *arguments, *check, "-model.saveto", prefix))
    losses = [float(number) for number in re.findall(r"Epoch \d of 6: loss ([\d.e-]+)", text)]
    assert len(losses) == 6 and losses[0] > 0.02 and losses[-1] < 0.5 * losses[0]
    assert text.count("Training patches") == 2 and text.count("Validation patches") == 2

    trained = variables(prefix)["kernel"]
    predicted = np.argmax(np.einsum("nijb,ijbc->nc", vx, trained), -1)
    confusion = np.array([[np.sum((vy.ravel() == r) & (predicted == p)) for p in CLASSES] for r in CLASSES])
    last = text[text.rindex("Validation patches") :]
    rows = re.findall(r"^ +\d((?: +\d+){3})$", last, re.M)
    assert [[int(number) for number in row.split()] for row in rows] == confusion.tolist()
    overall = confusion.trace() / confusion.sum()
    chance = np.sum(confusion.sum(0) * confusion.sum(1)) / confusion.sum() ** 2
    assert overall > 0.95
    kept = re.search(r"overall accuracy ([\d.]+), kappa ([\d.]+)", last)
    assert kept and float(kept[1]) == pytest.approx(overall, abs=1e-5) and float(kept[2]) == pytest.approx((overall - chance) / (1 - chance), abs=1e-5)
    for label in CLASSES:
        figures = re.search(rf"class {label}: precision ([\d.]+), recall ([\d.]+), F-score ([\d.]+)", last)
        right = confusion[label, label]
        expected = right / confusion[:, label].sum(), right / confusion[label].sum(), 2 * right / (confusion[:, label].sum() + confusion[label].sum())
        assert figures and [float(number) for number in figures.groups()] == pytest.approx(expected, abs=1e-5)
    assert sorted(path.name for path in prefix.parent.iterdir()) == ["variables.data-00000-of-00001", "variables.index"]

    scene = np.random.default_rng(5).normal(0, 1, (BANDS, 30, 25)).astype(np.float32)
    image = tmp_path / "scene.tif"
    with rasterio.open(
        image, "w", driver="GTiff", count=BANDS, height=30, width=25, dtype="float32", crs="EPSG:32631", transform=Affine(10, 0, 300000, 0, -10, 4900020)
    ) as dataset:
        dataset.write(scene)
    fields = ["-source1.rfieldx", PATCH, "-source1.rfieldy", PATCH, "-source1.placeholder", "x", "-output.names", "label"]
    out = tmp_path / "map.tif"
    succeed(run_application("TensorflowModelServe", "-source1.il", image, *fields, "-model.dir", model, "-model.fullyconv", "on", "-out", out, "uint8"))
    windows = np.lib.stride_tricks.sliding_window_view(scene, (PATCH, PATCH), axis=(1, 2))
    exact = np.argmax(np.einsum("brcij,ijbk->rck", windows, trained), -1)
    with rasterio.open(out) as dataset:
        served = dataset.read(1)
    # away from the border, whose treatment is not the matter here
    half = PATCH // 2
    assert served.shape == (30, 25) and np.array_equal(served[half : half + 23, half : half + 18], exact)


def test_restored_training_goes_on_where_it_stopped(run_application, classifier: Path, tmp_path: Path) -> None:
    """§12 restorefrom, saveto: twice two epochs of one batch are four epochs; the restored loss starts where the first one ended."""
    x, y = separable(40, 1)
    images = write(tmp_path / "x.tif", x), write(tmp_path / "y.tif", y)
    arguments = ["-model.dir", classifier, "-training.targetnodes", "optimizer", "-training.userplaceholders", "rate=0.05"]
    arguments += ["-training.batchsize", 40, "-training.outputtensors", "loss", *sources("training", *images)]

    def train(epochs: int, *more: object) -> list[float]:
        words = overridden([*arguments, "-training.epochs", epochs, *more])
        text = succeed(run_application("TensorflowModelTrain", *words))
        return [float(number) for number in re.findall(r"loss ([\d.e-]+)", text)]

    bands = [write(tmp_path / f"band{k}.tif", x[..., k : k + 1]) for k in range(BANDS)]
    first = train(2, "-model.saveto", tmp_path / "first")
    second = train(2, "-model.restorefrom", tmp_path / "first", "-model.saveto", tmp_path / "second")
    whole = train(4, "-model.saveto", tmp_path / "whole", "-training.usestreaming", "on", "-training.source1.il", *bands)  # a stack of bands
    assert [*first, *second] == pytest.approx(whole, rel=1e-4)
    assert variables(tmp_path / "second")["kernel"] == pytest.approx(variables(tmp_path / "whole")["kernel"], abs=1e-6)
    assert not list(tmp_path.glob("*unfinished*"))


def overridden(arguments: list[object]) -> list[object]:
    """Command line arguments where the last of several values of a key counts: OTB takes a key once."""
    options: dict[str, list[object]] = {}
    for argument in arguments:
        if re.match(r"-[a-z]", str(argument)):
            key = str(argument)
            options[key] = []
        else:
            options[key].append(argument)
    return [word for key, values in options.items() for word in (key, *values)]


def test_training_signature_of_tensorflow_2(run_application, tmp_path: Path) -> None:
    """Beyond OTBTF: a tf.Module whose training step is a signature, by the graph's names of its tensors."""
    tf = pytest.importorskip("tensorflow")

    class Line(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = tf.Variable(0.0)

        @tf.function(input_signature=[tf.TensorSpec((None, 1, 1, 1), name="x"), tf.TensorSpec((None, 1, 1, 1), name="y")])
        def step(self, x, y):  # type: ignore[no-untyped-def]
            error = x * self.slope - y
            self.slope.assign_sub(tf.reduce_mean(error * x))
            return {"loss": tf.reduce_mean(error**2)}

    module = Line()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures={"serving_default": module.step})
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signature = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "model")).signature_def["serving_default"]
    x = np.random.default_rng(0).normal(0, 1, (60, 1, 1, 1)).astype(np.float32)
    names = signature.inputs["x"].name, signature.inputs["y"].name
    words = ["-model.dir", tmp_path / "model", "-training.targetnodes", signature.outputs["loss"].name, "-training.outputtensors", "loss"]
    words += sources("training", write(tmp_path / "x.tif", x), write(tmp_path / "y.tif", 3 * x), *names, size=1)
    succeed(run_application("TensorflowModelTrain", *words, "-training.batchsize", 20, "-training.epochs", 12, "-model.saveto", tmp_path / "trained"))
    value = [array for name, array in variables(tmp_path / "trained").items() if name.startswith("slope")]
    assert len(value) == 1 and value[0] == pytest.approx(3, abs=1e-3)


def test_failed_checkpoint_leaves_the_older_one(run_application, classifier: Path, tmp_path: Path) -> None:
    """§12 saveto: files that cannot grow beyond 1 kB, as on a full disk."""
    x, y = separable(40, 1)
    images = write(tmp_path / "x.tif", x), write(tmp_path / "y.tif", y)
    for suffix in (".index", ".data-00000-of-00001"):
        (tmp_path / f"checkpoint{suffix}").write_text("older")
    words = ["-model.dir", classifier, "-training.targetnodes", "optimizer", "-training.epochs", 1, *sources("training", *images)]
    words += ["-model.saveto", tmp_path / "checkpoint"]
    limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 1; exec "$@"', "bash", otb.LAUNCHER, "TensorflowModelTrain", *map(str, words)]
    environment = {**os.environ, **otb.otb_environment()}
    assert "failed to write checkpoint" in refuse(subprocess.run(limited, env=environment, capture_output=True, text=True, timeout=300))
    assert {path.name: path.read_text() for path in tmp_path.glob("checkpoint*")} == {
        "checkpoint.index": "older",
        "checkpoint.data-00000-of-00001": "older",
    }


def count(run_application, counter: Path, folder: Path, number: int, *more: object, ids: np.ndarray | None = None) -> tuple[str, dict[str, np.ndarray]]:
    x = np.arange(number, dtype=np.int32).reshape(-1, 1, 1, 1) if ids is None else ids
    images = write(folder / "ids.tif", x), write(folder / "values.tif", np.arange(number, dtype=np.float32).reshape(-1, 1, 1, 1))
    arguments = ["-model.dir", counter, "-training.targetnodes", "step", *sources("training", *images, size=1)]
    text = succeed(run_application("TensorflowModelTrain", *arguments, "-model.saveto", folder / "checkpoint", *more))
    return text, variables(folder / "checkpoint")


def test_every_sample_is_seen_once_in_each_epoch(run_application, counter: Path, tmp_path: Path) -> None:
    """§12 (upstream skips some): 10 samples in batches of 4, 4 and 2; the order is new in each epoch and repeatable."""
    outputs = ["-training.outputtensors", "loss", "twice", "text"]
    text, first = count(run_application, counter, tmp_path, 10, "-training.batchsize", 4, "-training.epochs", 3, "-rand", 7, *outputs)
    assert first["seen"].tolist() == [3] * 10 + [0] * 30
    assert first["sizes"][4] == 6 and first["sizes"][2] == 3 and first["sizes"].sum() == 9
    assert text.count("loss 4.5, twice 9, text nan") == 3  # the mean over samples, not over batches
    _, again = count(run_application, counter, tmp_path, 10, "-training.batchsize", 4, "-training.epochs", 3, "-rand", 7)
    _, other = count(run_application, counter, tmp_path, 10, "-training.batchsize", 4, "-training.epochs", 3)
    assert again["code"] == first["code"] != other["code"]
    assert other["seen"].tolist() == first["seen"].tolist()


def test_fewer_samples_than_a_batch_are_one_batch(run_application, counter: Path, tmp_path: Path) -> None:
    """§14: upstream trains nothing and says nothing."""
    text, state = count(run_application, counter, tmp_path, 10, "-training.epochs", 2)
    assert state["sizes"][10] == 2 and state["seen"][:10].tolist() == [2] * 10
    assert "(WARNING)" in text and "training.batchsize is 100, but there are only 10 patches" in text


def test_root_mean_square_error(run_application, counter: Path, tmp_path: Path) -> None:
    """§12: upstream refuses mode rmse. Output `twice` = 2 x against y = x: errors 0, 1 ... 9."""
    images = tmp_path / "ids.tif", tmp_path / "values.tif"
    more = ["-training.batchsize", 4, "-training.epochs", 1, "-validation.mode", "rmse", "-validation.step", 1, "-validation.usestreaming", "on"]
    more += ["-validation.userplaceholders", "switch=True", *sources("validation", *images, name_y="twice")]
    more = [word for pair in zip(more[::2], more[1::2], strict=True) if pair[0] != "-validation.source1.name" for word in pair]  # an input by default
    text, _ = count(run_application, counter, tmp_path, 10, *more)
    found = re.findall(r'(\w+) patches, output "twice": root mean square error ([\d.]+)', text)
    assert [name for name, _ in found] == ["Training", "Validation"]
    assert [float(value) for _, value in found] == pytest.approx([np.sqrt(np.mean(np.arange(10) ** 2))] * 2, abs=1e-4)


def test_sources_are_one_more_than_the_variable_says(run_application) -> None:
    """§1: OTB_TF_NSOURCES + 1 sources, for training and for validation."""
    for number, environment in ((2, {"OTB_TF_NSOURCES": None}), (4, {"OTB_TF_NSOURCES": "3"})):
        text = run_application("TensorflowModelTrain", "-help", environment=environment)
        keys = set(re.findall(r"-((?:training|validation)\.source\d+\.\w+)", text.stdout + text.stderr))
        expected = {f"training.source{n}.{k}" for n in range(1, number + 1) for k in ("il", "patchsizex", "patchsizey", "placeholder")}
        assert keys == expected | {f"validation.source{n}.{k}" for n in range(1, number + 1) for k in ("il", "name")}


def test_bad_input_is_one_clear_line(run_application, classifier: Path, counter: Path, tmp_path: Path) -> None:
    """§12, §14: value, expectation, remedy; and no checkpoint."""
    ids = write(tmp_path / "ids.tif", np.arange(10, dtype=np.int32).reshape(-1, 1, 1, 1))
    values = np.arange(10, dtype=np.float32).reshape(-1, 1, 1, 1)
    good = write(tmp_path / "values.tif", values)
    nan = write(tmp_path / "nan.tif", np.where(values == 3, np.nan, values).astype(np.float32))
    nine = write(tmp_path / "nine.tif", values[:9])

    def error(*more: object, x: Path = ids, y: Path = good, step: str = "step", environment: dict[str, str] | None = None) -> str:
        arguments = ["-model.dir", counter, "-training.targetnodes", step, "-training.epochs", 1, *sources("training", x, y, size=1)]
        arguments = overridden([*arguments, "-model.saveto", tmp_path / "checkpoint", *more])
        return refuse(run_application("TensorflowModelTrain", *arguments, environment=environment))

    assert 'output "loss" is nan in batch' in error("-training.outputtensors", "loss", y=nan)
    assert "values.tif" not in error(step="nothing") and 'no operation "nothing"' in error(step="nothing")
    assert "training.source2: 9 patches, but training.source1 has 10" in error(y=nine)
    assert "are no patches of 3 x 1" in error("-training.source1.patchsizex", 3)
    assert "training.source1.patchsizex is 0, expected an integer of 1 or more" in error("-training.source1.patchsizex", 0)
    assert "training.batchsize is -1, expected an integer of 1 or more" in error("-training.batchsize", -1)
    assert "training.epochs is 0, expected an integer of 1 or more" in error("-training.epochs", 0)
    assert 'has no input "z"; it has: switch, x, y' in error("-training.source2.placeholder", "z")
    assert '"x" is given twice' in error("-training.userplaceholders", "x=3")
    assert "is not name=value" in error("-training.userplaceholders", "switch")
    assert f"no checkpoint of this prefix (file {tmp_path}/none.index)" in error("-model.restorefrom", tmp_path / "none")
    assert "cannot be created in folder" in error("-model.saveto", tmp_path / "no" / "folder")
    assert "validation.source1.il is missing" in error("-validation.mode", "class")
    assert "OTB_TF_NSOURCES is 'many', expected an integer" in error(environment={"OTB_TF_NSOURCES": "many"})
    check = ["-validation.mode", "class", "-validation.step", 1]
    assert "no source is the reference of an output" in error(*check, *sources("validation", ids, good))
    assert "holds 0.5, but classes are integers" in error(
        *check, *sources("validation", ids, good, name_y="twice"), y=write(tmp_path / "half.tif", values + np.float32(0.5))
    )
    assert not list(tmp_path.glob("checkpoint*"))

    x, y = separable(12, 1)
    labels = write(tmp_path / "labels.tif", np.where(np.arange(12).reshape(y.shape) == 5, 9, y).astype(np.uint8))
    arguments = ["-model.dir", classifier, "-training.targetnodes", "optimizer", "-training.epochs", 1]
    arguments += sources("training", write(tmp_path / "x.tif", x), labels)
    assert "epoch 1" in refuse(run_application("TensorflowModelTrain", *arguments, "-training.outputtensors", "loss"))
    three = write(tmp_path / "three.tif", np.zeros((12, PATCH, PATCH, 3), np.float32))
    assert 'patches of 8 x 8 pixels and 3 bands do not fit the model\'s "x" of shape [?, ?, ?, 2]' in refuse(
        run_application("TensorflowModelTrain", *overridden([*arguments, "-training.source1.il", three]))
    )
