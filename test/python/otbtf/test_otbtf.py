"""OTBTF's Python API: patches images and TFRecords read right, random order, statistics, models that serve."""

from __future__ import annotations

import json
import os
import shutil
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
    # Any size, other than the patches'; whole numbers go in as they are stored.
    image = np.random.default_rng(0).integers(0, 100, (1, 9, 11, 3)).astype(np.int16 if streaming else np.float32)
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


# --- installation ------------------------------------------------------------------------------------------------------------


def test_installation_leaves_upstreams_package_alone(tmp_path):
    """With the files of both in one site folder, upstream's package is the one that is imported, and no file is shared."""
    root = Path(__file__).parents[3] / "python" / "otbtf"
    site = tmp_path / "site"
    (site / "otbsr_otbtf").mkdir(parents=True)
    shutil.copytree(root / "otbtf", site / "otbsr_otbtf" / "otbtf")  # as pyproject.toml's wheel.packages says
    shutil.copy(root / "otbsr-otbtf.pth", site)
    assert '"otbsr_otbtf/otbtf" = "otbtf"' in (root / "pyproject.toml").read_text()
    code = f"import site, sys; sys.path = [p for p in sys.path if 'python' in p and 'otbtf' not in p]; site.addsitedir({str(site)!r}); "
    find = code + "import importlib.util as u; print(u.find_spec('otbtf').origin)"

    def found():
        return subprocess.run([sys.executable, "-S", "-c", find], capture_output=True, text=True, check=True, cwd=tmp_path).stdout.strip()

    assert found() == str(site / "otbsr_otbtf" / "otbtf" / "__init__.py")
    (site / "otbtf").mkdir()
    (site / "otbtf" / "__init__.py").write_text("")
    assert found() == str(site / "otbtf" / "__init__.py")
