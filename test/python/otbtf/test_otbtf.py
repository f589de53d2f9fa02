"""OTBTF's Python API: patches images and TFRecords read right, random order, statistics, models that serve."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

pytest.importorskip("tensorflow")
import keras
import tensorflow as tf

import otbtf
from otbtf.dataset import IteratorBase

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.skipif(getattr(otbtf, "__provider__", "") != "otbsr", reason="another otbtf is installed"),
]

N, SIDE = 23, 6


def write(path, patches):
    """Stack [n, y, x, bands] patches as PatchesExtraction does."""
    n, height, width, bands = patches.shape
    with rasterio.open(path, "w", driver="GTiff", width=width, height=n * height, count=bands, dtype=patches.dtype) as image:
        image.write(patches.reshape(n * height, width, bands).transpose(2, 0, 1))
    return str(path)


def numbered(n=N, side=SIDE, bands=3, dtype=np.float32, first=0):
    """Patches whose every pixel tells the patch's number (first band) and place."""
    patches = np.arange(n * side * side * bands).reshape(n, side, side, bands) % 200
    patches[..., 0] = first + np.arange(n)[:, None, None]
    return patches.astype(dtype)


@pytest.fixture
def pair(tmp_path):
    """Two sources in two images each (14 + 9 patches), and the arrays."""
    lr, hr = numbered(dtype=np.int16), numbered(side=2 * SIDE, dtype=np.int16)
    names = {key: [write(tmp_path / f"{key}{k}.tif", part) for k, part in enumerate(np.split(patches, [14]))] for key, patches in (("lr", lr), ("hr", hr))}
    return names, lr, hr


class InOrder(IteratorBase):
    def __init__(self, patches_reader):
        self.n, self.k = patches_reader.get_size(), -1

    def __next__(self):
        self.k = (self.k + 1) % self.n
        return self.k


def numbers(dataset, key="lr"):
    return np.concatenate([np.asarray((batch[0] if isinstance(batch, tuple) else batch)[key])[..., 0, 0, 0].ravel() for batch in dataset]).astype(int).tolist()


@pytest.mark.parametrize("streaming", [False, True])
def test_reader_gives_each_patch(pair, streaming):
    names, lr, hr = pair
    reader = otbtf.PatchesImagesReader(names, use_streaming=streaming, scalar_dict={"day": [5, 9]})
    assert (reader.get_size(), reader.ds_sizes, reader.nb_of_channels) == (N, [14, 9], {"lr": 3, "hr": 3})
    for k in (0, 13, 14, 22):
        sample = reader.get_sample(k)
        np.testing.assert_array_equal(sample["lr"], lr[k])
        np.testing.assert_array_equal(sample["hr"], hr[k])
        assert sample["lr"].dtype == (np.int16 if streaming else np.float32)
        assert sample["day"] == (5 if k < 14 else 9)
    for k in (-1, N):
        with pytest.raises(IndexError, match=str(N)):
            reader.get_sample(k)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.float64])
def test_types_beyond_float32_are_kept(tmp_path, dtype):
    patches = (numbered(dtype=np.float64) + 2.0**24 + 1).astype(dtype)
    reader = otbtf.PatchesImagesReader({"x": [write(tmp_path / "x.tif", patches)]})
    assert reader.get_sample(2)["x"].dtype == dtype
    np.testing.assert_array_equal(reader.get_sample(2)["x"], patches[2])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_every_pixel_type_goes_through_streaming_and_records(tmp_path, dtype):
    kind = np.dtype(dtype)
    extremes = [np.iinfo(kind).min, np.iinfo(kind).max] if kind.kind in "iu" else [-1.5e30, 2.25e-20]
    patches = numbered(n=4, dtype=dtype)
    patches[1, 2, 3, 1:] = extremes
    dataset = otbtf.DatasetFromPatchesImages({"x": [write(tmp_path / "x.tif", patches)]}, use_streaming=True, iterator_cls=InOrder)
    (batch,) = dataset.get_tf_dataset(4)
    assert batch["x"].dtype == kind
    np.testing.assert_array_equal(batch["x"], patches)
    dataset.to_tfrecords(tmp_path / "records", 4)
    ((inputs, _),) = otbtf.TFRecords(tmp_path / "records").read(4, [])
    np.testing.assert_array_equal(inputs["x"], patches)


def test_sources_that_do_not_fit_are_refused(tmp_path, pair):
    names, _, _ = pair
    fewer = write(tmp_path / "fewer.tif", numbered(n=5, side=2 * SIDE, dtype=np.int16))
    other = write(tmp_path / "other.tif", numbered(n=9, bands=2))
    cut = tmp_path / "cut.tif"
    with rasterio.open(cut, "w", driver="GTiff", width=6, height=15, count=1, dtype="uint8"):
        pass
    with pytest.raises(ValueError, match="different numbers of patches"):
        otbtf.DatasetFromPatchesImages({"lr": names["lr"], "hr": [names["hr"][0], fewer]})
    with pytest.raises(ValueError, match="different numbers of patches images"):
        otbtf.DatasetFromPatchesImages({"lr": names["lr"], "hr": names["hr"][:1]})
    with pytest.raises(ValueError, match="differ in patch size, bands"):
        otbtf.DatasetFromPatchesImages({"lr": [names["lr"][0], other]})
    with pytest.raises(ValueError, match="multiple of the width"):
        otbtf.DatasetFromPatchesImages({"lr": [str(cut)]})
    with pytest.raises(OSError, match=r"absent\.tif"):
        otbtf.DatasetFromPatchesImages({"lr": [str(tmp_path / "absent.tif")]})
    with pytest.raises(ValueError, match="names no patches image"):
        otbtf.DatasetFromPatchesImages({})
    with pytest.raises(ValueError, match=r"'lr'. have one name each, expected lists"):
        otbtf.DatasetFromPatchesImages({"lr": names["lr"][0]})


@pytest.mark.parametrize("streaming", [False, True])
def test_statistics(tmp_path, streaming, monkeypatch):
    """Negative values, integers whose squares overflow, a large mean with a small spread; in blocks that do not divide the image."""
    monkeypatch.setattr("otbtf.dataset.ROWS_AT_ONCE", 50)
    random = np.random.default_rng(0)
    shape = (7, 5, 5, 2)
    sources = {
        "negative": random.integers(-30000, -100, shape).astype(np.int16),
        "squares": random.integers(30000, 65535, shape).astype(np.uint16),
        "large": (2_000_000_000 + random.integers(0, 3, shape)).astype(np.int32),
    }
    names = {key: [write(tmp_path / f"{key}{k}.tif", part) for k, part in enumerate(np.split(a, [3]))] for key, a in sources.items()}
    stats = otbtf.PatchesImagesReader(names, use_streaming=streaming).get_stats()
    for key, array in sources.items():
        exact = array.astype(np.float64).reshape(-1, 2)
        np.testing.assert_array_equal(stats[key]["min"], exact.min(0))
        np.testing.assert_array_equal(stats[key]["max"], exact.max(0))
        np.testing.assert_allclose(stats[key]["mean"], exact.mean(0), rtol=1e-15)
        np.testing.assert_allclose(stats[key]["std"], (exact - exact.mean(0)).std(0), rtol=1e-7)


@pytest.mark.parametrize("streaming", [False, True])
def test_each_epoch_has_every_sample_once_in_a_new_order(pair, streaming):
    names, lr, _ = pair
    dataset = otbtf.DatasetFromPatchesImages(names, use_streaming=streaming, buffer_length=4, seed=1)
    batches = dataset.get_tf_dataset(5, drop_remainder=False)
    epochs = [numbers(batches) for _ in range(6)]
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    # Shuffled over all samples, not within a buffer: what is first may come from anywhere.
    assert max(epoch[0] for epoch in epochs) - min(epoch[0] for epoch in epochs) > 5
    for batch in batches:
        np.testing.assert_array_equal(batch["lr"].numpy()[..., 1], lr[numbers([batch])][..., 1])
        assert numbers([batch], "lr") == numbers([batch], "hr")


def test_order_is_repeatable_with_a_seed_only(pair):
    names, _, _ = pair

    def order(seed):
        return numbers(otbtf.DatasetFromPatchesImages(names, seed=seed).get_tf_dataset(4, drop_remainder=False))

    assert order(3) == order(3) != order(4)
    assert len({tuple(order(None)) for _ in range(3)}) == 3


def test_batches_targets_and_preprocessing(pair):
    names, _, _ = pair
    dataset = otbtf.DatasetFromPatchesImages(names)
    batches = dataset.get_tf_dataset(5, preprocessing_fn=lambda s: {"lr": s["lr"], "out": s["hr"] * 2}, targets_keys=["out"])
    assert batches.cardinality() == 4
    inputs, targets = next(iter(batches))
    assert inputs["lr"].shape == (5, SIDE, SIDE, 3) and targets["out"].shape == (5, 12, 12, 3)
    np.testing.assert_array_equal(targets["out"][:, 0, 0, 0], 2 * inputs["lr"][:, 0, 0, 0])
    assert dataset.get_tf_dataset(5, drop_remainder=False).cardinality() == 5
    with pytest.raises(ValueError, match="larger than the dataset"):
        dataset.get_tf_dataset(N + 1)
    with pytest.raises(ValueError, match="absent"):
        dataset.get_tf_dataset(2, targets_keys=["absent"])


def test_own_order_single_samples_and_a_limit(pair):
    names, _, _ = pair
    dataset = otbtf.DatasetFromPatchesImages(names, iterator_cls=InOrder)
    assert [int(dataset.read_one_sample()["lr"][0, 0, 0]) for _ in range(N + 3)] == [*range(N), 0, 1, 2]
    assert numbers(otbtf.DatasetFromPatchesImages(names, iterator_cls=InOrder).get_tf_dataset(5)) == list(range(20))
    few = otbtf.DatasetFromPatchesImages(names, max_nb_of_samples=6, seed=2)
    batches = few.get_tf_dataset(3)
    assert few.size == 6 and len(set(numbers(batches))) == 6
    assert set(numbers(batches)) == set(numbers(batches))
    drawn = otbtf.RandomIterator(few.patches_reader, seed=1)
    assert sorted(next(drawn) for _ in range(N)) == sorted(next(drawn) for _ in range(N)) == list(range(N))


# --- TFRecords ---------------------------------------------------------------------------------------------------------------


def test_tfrecords_layout_and_round_trip(tmp_path, pair):
    names, lr, _ = pair
    folder = tmp_path / "records"
    otbtf.DatasetFromPatchesImages(names, use_streaming=True, iterator_cls=InOrder).to_tfrecords(folder, n_samples_per_shard=5, drop_remainder=False)
    assert sorted(os.listdir(folder)) == [*(f"{k}.records" for k in range(5)), "output_shapes.json", "output_types.json"]
    assert json.loads((folder / "output_shapes.json").read_text()) == {"lr": [6, 6, 3], "hr": [12, 12, 3]}
    assert json.loads((folder / "output_types.json").read_text()) == {"lr": "int16", "hr": "int16"}
    # As any reader of tf.train.Example sees it: one serialised tensor per key.
    record = tf.train.Example.FromString(next(iter(tf.data.TFRecordDataset(str(folder / "1.records")))).numpy())
    assert set(record.features.feature) == {"lr", "hr"}
    tensor = tf.io.parse_tensor(record.features.feature["lr"].bytes_list.value[0], tf.int16)
    np.testing.assert_array_equal(tensor, lr[5])

    read = otbtf.TFRecords(folder).read(4, ["hr"], drop_remainder=False)
    assert numbers(read) == list(range(N))
    inputs, targets = next(iter(read))
    assert inputs["lr"].shape == (4, 6, 6, 3) and targets["hr"].dtype == tf.int16
    shuffled = otbtf.TFRecords(folder).read(4, ["hr"], drop_remainder=False, shuffle_buffer_size=100, seed=1)
    assert sorted(numbers(shuffled)) == list(range(N)) and numbers(shuffled) != list(range(N))
    doubled = otbtf.TFRecords(folder).read(4, ["hr"], preprocessing_fn=lambda s, by: {"lr": s["lr"] * by, "hr": s["hr"]}, by=2)
    assert numbers(doubled) == list(range(0, 40, 2))
    assert len(numbers(otbtf.TFRecords(folder).read(1, ["hr"], n_workers=2))) == 20  # four of five files


def test_tfrecords_written_by_upstream_are_read_and_ours_by_plain_tf_data(tmp_path, pair):
    """The layout: an Example per sample with a serialised tensor per key, and types and shapes in two JSON files."""
    names, lr, _ = pair
    scalars = np.arange(N, dtype=np.float32)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "output_types.json").write_text(json.dumps({"lr": "int16", "day": "float32"}, indent=4))
    (theirs / "output_shapes.json").write_text(json.dumps({"lr": [6, 6, 3], "day": []}, indent=4))
    for shard in range(2):
        with tf.io.TFRecordWriter(str(theirs / f"{shard}.records")) as writer:
            for k in range(10 * shard, 10 * shard + 10):
                values = {"lr": lr[k], "day": scalars[k]}
                feature = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[tf.io.serialize_tensor(v).numpy()])) for key, v in values.items()}
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    inputs, targets = next(iter(otbtf.TFRecords(str(theirs)).read(20, ["day"])))
    np.testing.assert_array_equal(inputs["lr"], lr[:20])
    np.testing.assert_array_equal(targets["day"], scalars[:20])

    ours = tmp_path / "ours"
    otbtf.DatasetFromPatchesImages(names, use_streaming=True, iterator_cls=InOrder, scalar_dict={"site": ["a", "bcd"]}).to_tfrecords(str(ours), 10)
    types, shapes = (json.loads((ours / f"output_{what}.json").read_text()) for what in ("types", "shapes"))
    assert (types, shapes) == ({"lr": "int16", "hr": "int16", "site": "string"}, {"lr": [6, 6, 3], "hr": [12, 12, 3], "site": []})

    def parse(record):
        parsed = tf.io.parse_single_example(record, {key: tf.io.FixedLenFeature([], tf.string) for key in types})
        return {key: tf.ensure_shape(tf.io.parse_tensor(parsed[key], types[key]), shapes[key]) for key in types}

    records = tf.data.TFRecordDataset([str(ours / "0.records"), str(ours / "1.records")]).map(parse)
    samples = list(records.as_numpy_iterator())
    np.testing.assert_array_equal([sample["lr"] for sample in samples], lr[:20])
    assert [sample["site"] for sample in samples] == [b"a"] * 14 + [b"bcd"] * 6


def test_tfrecords_leave_nothing_of_an_earlier_set(tmp_path, pair):
    names, _, _ = pair
    dataset = otbtf.DatasetFromPatchesImages(names)
    dataset.to_tfrecords(tmp_path / "r", 2)
    dataset.to_tfrecords(tmp_path / "r", 10)
    assert sorted(p.name for p in (tmp_path / "r").glob("*.records*")) == ["0.records", "1.records"]
    assert len(numbers(otbtf.TFRecords(tmp_path / "r").read(1, ["hr"]))) == 20
    with pytest.raises(ValueError, match="do not fill one file"):
        dataset.to_tfrecords(tmp_path / "none", N + 1)
    with pytest.raises(FileNotFoundError, match="missing"):
        otbtf.TFRecords(tmp_path / "empty").read(1, ["hr"])


# --- models ------------------------------------------------------------------------------------------------------------------


class FourTimes(keras.initializers.Initializer):
    """4 x the identity, for a 1 x 1 convolution."""

    def __call__(self, shape, dtype=None):
        return keras.ops.reshape(keras.ops.eye(shape[-2], shape[-1], dtype=dtype) * 4.0, shape)


class Double(otbtf.ModelBase):
    """Output: 2 x the input, repeated 2 x 2; the layer that makes it has another name than the output."""

    def normalize_inputs(self, inputs):
        return {"lr": keras.ops.cast(inputs["lr"], "float32") * 0.5}

    def get_outputs(self, normalized_inputs):
        big = keras.layers.UpSampling2D(2)(normalized_inputs["lr"])
        return {"hr": keras.layers.Conv2D(3, 1, kernel_initializer=FourTimes(), name="hr_layer")(big)}


@pytest.mark.parametrize("streaming", [False, True])
def test_model_trains_exports_and_crops(tmp_path, pair, streaming):
    names, _, _ = pair
    batches = otbtf.DatasetFromPatchesImages(names, use_streaming=streaming).get_tf_dataset(5, targets_keys=["hr"])
    model = Double(batches.element_spec, inference_cropping=[1, 4])
    assert sorted(model.model.output) == ["hr", "hr_crop1", "hr_crop4", "hr_layer_crop1", "hr_layer_crop4"]
    model.export(str(tmp_path / "model"))
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    # Any size, other than the patches'; the same signature whether the patches came as int16 from files or as float32 from memory.
    image = np.random.default_rng(0).integers(0, 100, (1, 9, 11, 3)).astype(np.float32)
    outputs = serve(lr=tf.constant(image))
    expected = np.repeat(np.repeat(image * 2.0, 2, 1), 2, 2)
    np.testing.assert_allclose(outputs["hr"], expected)
    np.testing.assert_allclose(outputs["hr_crop4"], expected[:, 4:-4, 4:-4])
    np.testing.assert_allclose(outputs["hr_layer_crop1"], expected[:, 1:-1, 1:-1])

    model.compile(optimizer="sgd", loss={"hr": "mse"})
    history = model.fit(batches, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    model.save(str(tmp_path / "m.keras"))
    model.save(str(tmp_path / "saved"))
    assert (tmp_path / "m.keras").is_file() and (tmp_path / "saved" / "saved_model.pb").is_file()


def test_outputs_have_names() -> None:
    class Unnamed(otbtf.ModelBase):
        def get_outputs(self, normalized_inputs):
            return [normalized_inputs["lr"]]

    with pytest.raises(TypeError, match="get_outputs of Unnamed returns list, expected a dictionary"):
        Unnamed({"lr": tf.TensorSpec((2, 4, 4, 1))})


def test_targets_choose_the_outputs_that_are_trained(pair):
    """Cropped outputs have no target: Keras would refuse metrics, however they are given; OTBTF's scripts give them by name or as a list."""
    names, _, _ = pair
    batches = otbtf.DatasetFromPatchesImages(names).get_tf_dataset(5, targets_keys=["hr"])
    for loss, metrics in (({"hr": "mse"}, {"hr": ["mae"]}), ("mse", ["mae"])):
        model = Double(batches.element_spec)
        model.compile(optimizer="sgd", loss=loss, metrics=metrics)
        history = model.fit(batches, epochs=1, validation_data=batches, verbose=0).history
        assert sorted(history) == ["loss", "mae", "val_loss", "val_mae"] and np.isfinite(history["val_mae"]).all()
        assert set(model.predict(batches, verbose=0)) == set(model.model.output)


class WithFunctions(otbtf.ModelBase):
    """TensorFlow's functions where Keras 3 wants its own, as models written for Keras 2 have them."""

    def normalize_inputs(self, inputs):
        return {"lr": tf.cast(inputs["lr"], tf.float32) * 0.01}

    def get_outputs(self, normalized_inputs):
        x = normalized_inputs["lr"]
        both = tf.concat([x, tf.nn.relu(x - 0.2)], axis=-1)
        mean = tf.reduce_mean(both, axis=-1, keepdims=True) * 2.0
        return {"mean": tf.identity(mean, name="average"), "largest": otbtf.layers.Argmax(name="largest")(both * 3.0)}


def test_tensorflow_functions_in_a_model(tmp_path, pair):
    names, lr, _ = pair
    spec = otbtf.DatasetFromPatchesImages(names, use_streaming=True).get_tf_dataset(5).element_spec
    model = WithFunctions(spec, input_keys=["lr"], inference_cropping=[1])
    image = lr[:2].astype(np.float32)
    x = image * 0.01
    both = np.concatenate([x, np.maximum(x - 0.2, 0)], axis=-1)
    expected = 2 * both.mean(axis=-1, keepdims=True)
    assert {"mean", "largest", "average_crop1", "mean_crop1", "largest_crop1"} == set(model.model.output)
    model.save(str(tmp_path / "saved"))
    model.save(str(tmp_path / "m.keras"))
    served = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"](lr=tf.constant(image))
    again = keras.models.load_model(tmp_path / "m.keras")({"lr": image})
    for given in (served, again):
        np.testing.assert_allclose(given["mean"], expected, rtol=1e-5)
        np.testing.assert_allclose(given["average_crop1"], expected[:, 1:-1, 1:-1], rtol=1e-5)
        np.testing.assert_array_equal(given["largest"], both.argmax(-1)[..., None])
    with pytest.raises((ValueError, TypeError)):  # what is wrong stays wrong
        tf.concat([np.zeros((1, 2)), "x"], axis=0)


def test_model_with_chosen_inputs_and_no_crops(pair):
    names, _, _ = pair
    spec = otbtf.DatasetFromPatchesImages(names).get_tf_dataset(5).element_spec
    model = Double(spec, input_keys=["lr"], inference_cropping=[])
    assert list(model.model.output) == ["hr"] and model.count_params() == 12
    assert sorted(Double(spec, input_keys=["lr"]).model.output)[:2] == ["hr", "hr_crop128"]
    with pytest.raises(ValueError, match="absent"):
        Double(spec, input_keys=["absent"])
    # Upstream recurses without end when an attribute is asked for before the network is there.
    with pytest.raises(AttributeError, match="not built"):
        _ = Double.__new__(Double).anything


def test_layers_and_ops():
    x = np.array([[[[0.1, 0.7, 0.2]], [[0.5, 0.2, 0.3]]]], np.float32)
    assert np.asarray(otbtf.layers.Argmax()(x)).tolist() == [[[[1]], [[0]]]]
    np.testing.assert_allclose(otbtf.layers.Max()(x), [[[[0.7]], [[0.5]]]])
    image = np.ones((1, 7, 7, 1), np.float32)
    image[0, 3, 3] = -1
    mask = np.asarray(otbtf.layers.DilatedMask(-1, 1)(image))
    assert mask.dtype == np.uint8 and mask.sum() == 9 and mask[0, 2:5, 2:5].all()
    masked = np.asarray(otbtf.layers.ApplyMask(-5)([mask, image]))
    assert (masked == -5).sum() == 9 and masked[0, 0, 0, 0] == 1
    tiled = np.asarray(otbtf.layers.ScalarsTile()([image, [np.array([2.0], np.float32), np.array([3.0], np.float32)]]))
    assert tiled.shape == (1, 7, 7, 2) and tiled[0, 5, 6].tolist() == [2, 3]
    assert np.asarray(otbtf.ops.one_hot(np.array([[[1], [0]]], np.uint8), 3)).tolist() == [[[0, 1, 0], [1, 0, 0]]]
    for layer in (otbtf.layers.DilatedMask(-1, 1), otbtf.layers.ApplyMask(0), otbtf.layers.CentralCrop(2)):
        assert keras.layers.deserialize(keras.layers.serialize(layer)).get_config() == layer.get_config()


# --- a user's training script ------------------------------------------------------------------------------------------------

N_CLASSES = 2


class Segmentation(otbtf.ModelBase):
    """A small fully convolutional network (radius 3) as users of OTBTF write them: TensorFlow's functions, named last layer."""

    def normalize_inputs(self, inputs):
        return {"input_xs": tf.cast(inputs["input_xs"], tf.float32) * 0.001}

    def get_outputs(self, normalized_inputs):
        x = normalized_inputs["input_xs"]
        net = tf.keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv1")(x)
        net = tf.concat([net, x], axis=-1)
        net = tf.keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv2")(net) + net[..., :8]
        net = tf.keras.layers.Conv2D(N_CLASSES, 3, padding="same", name="classifier")(net)
        predictions = tf.keras.layers.Softmax(name="predictions_softmax_tensor")(net)
        return {"predictions": predictions, "labels": otbtf.layers.Argmax(name="labels")(predictions)}


def preprocessing(examples):
    return {"input_xs": examples["input_xs_patches"], "predictions": otbtf.ops.one_hot(labels=examples["labels_patches"], nb_classes=N_CLASSES)}


def test_a_training_script_runs_unchanged_from_patches_to_map(tmp_path, run_application):
    """PatchesExtraction -> DatasetFromPatchesImages -> ModelBase.fit in a strategy's scope -> save -> TensorflowModelServe on *_crop16."""
    keras.utils.set_random_seed(1)
    random = np.random.default_rng(0)
    rows, columns = np.indices((150, 170))
    classes = ((rows // 13 + columns // 17) % 2).astype(np.uint8)
    pixels = np.stack([random.normal(np.where(classes, level, 900), 150) for level in (1500, 500, 1100)]).clip(0).astype(np.uint16)
    grid = {"driver": "GTiff", "crs": "EPSG:32631", "transform": rasterio.Affine(10, 0, 500000, 0, -10, 4800000), "width": 170, "height": 150}
    with rasterio.open(tmp_path / "xs.tif", "w", count=3, dtype="uint16", **grid) as image:
        image.write(pixels)
    with rasterio.open(tmp_path / "labels.tif", "w", count=1, dtype="uint8", **grid) as image:
        image.write(classes, 1)

    def run(name, *arguments, **environment):
        process = run_application(name, *arguments, environment=environment)
        assert process.returncode == 0, process.stdout + process.stderr

    run("PatchesSelection", "-in", tmp_path / "xs.tif", "-grid.step", 16, "-grid.psize", 16, "-outtrain", tmp_path / "a.gpkg", "-outvalid", tmp_path / "b.gpkg")
    for part in "ab":
        sources = []
        for k, (image, kind) in enumerate((("xs", "uint16"), ("labels", "uint8")), 1):
            sources += [f"-source{k}.il", tmp_path / f"{image}.tif", f"-source{k}.patchsizex", 16, f"-source{k}.patchsizey", 16]
            sources += [f"-source{k}.out", tmp_path / f"{image}_{part}.tif", kind]
        run("PatchesExtraction", *sources, "-vec", tmp_path / f"{part}.gpkg", "-field", "id", OTB_TF_NSOURCES="2")

    def dataset(part):
        files = {"input_xs_patches": [str(tmp_path / f"xs_{part}.tif")], "labels_patches": [str(tmp_path / f"labels_{part}.tif")]}
        made = otbtf.DatasetFromPatchesImages(filenames_dict=files, use_streaming=part == "a")
        assert made.size > 20
        return made.get_tf_dataset(batch_size=8, preprocessing_fn=preprocessing, targets_keys=["predictions"])

    ds_train, ds_valid = dataset("a"), dataset("b")
    strategy = tf.distribute.MirroredStrategy()
    with strategy.scope():
        model = Segmentation(dataset_element_spec=ds_train.element_spec)
        model.compile(
            loss={"predictions": tf.keras.losses.CategoricalCrossentropy()},
            optimizer=tf.keras.optimizers.Adam(learning_rate=0.02),
            metrics=[tf.keras.metrics.Precision(class_id=1), tf.keras.metrics.Recall(class_id=1)],
        )
        model.summary()
        model.fit(ds_train, epochs=6, validation_data=ds_valid, verbose=0)
        _, precision, recall = model.evaluate(ds_valid, batch_size=8, verbose=0)
    assert min(precision, recall) > 0.9
    model.save(str(tmp_path / "model"))

    mirrored = np.pad(pixels.transpose(1, 2, 0), ((16, 16), (16, 16), (0, 0)), mode="symmetric").astype(np.float32)
    expected = np.asarray(model.model({"input_xs": mirrored[None]})["predictions"])[0, 16:-16, 16:-16]
    names = ["predictions_softmax_tensor_crop16", "labels_crop16"]
    fields = ["-source1.rfieldx", 64, "-source1.rfieldy", 64, "-output.efieldx", 32, "-output.efieldy", 32]
    for name in names:
        arguments = ["-source1.il", tmp_path / "xs.tif", "-source1.placeholder", "input_xs", *fields, "-model.dir", tmp_path / "model"]
        run("TensorflowModelServe", *arguments, "-model.fullyconv", "on", "-output.names", name, "-out", tmp_path / f"{name}.tif", "float")
        with rasterio.open(tmp_path / f"{name}.tif") as image:
            made = image.read().transpose(1, 2, 0)
            assert (image.transform, image.crs) == (grid["transform"], grid["crs"])
        if name == names[0]:
            np.testing.assert_allclose(made, expected, atol=1e-5)
        else:
            assert (made[..., 0] == expected.argmax(-1)).all() and (made[..., 0] == classes).mean() > 0.9


# --- installation ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["upstream", "ours"])
def test_installation_leaves_upstreams_package_alone(tmp_path, first):
    """pip installs ours beside upstream's package, in either order: upstream's is imported, no file is shared; alone, ours is."""
    pytest.importorskip("scikit_build_core")
    source = Path(__file__).parents[3] / "python" / "otbtf"
    site = tmp_path / "site"

    def pip(*arguments):
        subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)], check=True, cwd=tmp_path)

    def install_ours():
        pip("install", "--no-deps", "--no-index", "--no-build-isolation", "--no-warn-script-location", "--target", site, source)

    def install_upstream():
        (site / "otbtf").mkdir(parents=True)
        (site / "otbtf" / "__init__.py").write_text("__version__ = '4.3.0'\n")
        (site / "otbtf-4.3.0.dist-info").mkdir()
        (site / "otbtf-4.3.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: otbtf\nVersion: 4.3.0\n")

    def found():
        code = f"import site, sys; sys.path = [p for p in sys.path if 'python' in p and 'otbtf' not in p]; site.addsitedir({str(site)!r}); "
        code += "import importlib.util as u; print(u.find_spec('otbtf').origin)"
        return Path(subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path).stdout.strip())

    ours, upstream = site / "otbsr_otbtf" / "otbtf" / "__init__.py", site / "otbtf" / "__init__.py"
    if first == "ours":
        install_ours()
        assert found() == ours
        install_upstream()
    else:
        install_upstream()
        install_ours()
    assert found() == upstream and upstream.read_text() == "__version__ = '4.3.0'\n"
    assert ours.is_file() and [path.name for path in (site / "otbtf").iterdir() if path.suffix] == ["__init__.py"]
    assert {path.name for path in site.glob("*.dist-info")} == {"otbtf-4.3.0.dist-info", "otbsr_otbtf-0.1.0.dist-info"}
