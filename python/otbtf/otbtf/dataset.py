"""Datasets of patches: a reader gives the sample of a given number, tf.data shuffles, reads ahead and batches."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import tensorflow as tf
from rasterio.windows import Window

from otbtf.tfrecords import TFRecords, split
from otbtf.utils import gdal_open, number_of_patches, read_as_np_arr, read_window

Sample = dict[str, np.ndarray]
Statistics = dict[str, dict[str, np.ndarray]]

ROWS_AT_ONCE = 1 << 22
"""Pixels read at once for statistics: bounds the memory of float64 copies."""
SAMPLES_AT_ONCE = 16
"""Samples that one call from TensorFlow to Python reads: the call costs more than a small patch."""


class PatchesReaderBase(ABC):
    """Gives access to samples by number."""

    @abstractmethod
    def get_sample(self, index: int) -> Any:
        """Sample number `index`: a dictionary of arrays."""

    @abstractmethod
    def get_stats(self) -> Statistics:
        """{source: {"min", "max", "mean", "std": array of one number per band}}."""

    @abstractmethod
    def get_size(self) -> int:
        """Number of samples."""


class PatchesImagesReader(PatchesReaderBase):
    """Samples from the patches images that OTB's PatchesExtraction writes (see `otbtf.utils`).

    Attributes:
        size: number of samples.
        ds_sizes: number of samples in each image of a source.
        nb_of_channels: bands of each source.

    """

    def __init__(
        self,
        filenames_dict: dict[str, list[str]],
        use_streaming: bool = False,
        scalar_dict: dict[str, list[Any]] | None = None,
    ) -> None:
        """Open the images and check that they fit together.

        Args:
            filenames_dict: {source: [patches image, ...]}; the k-th images of all sources hold the same places in the same order.
            use_streaming: read each patch from its file when it is asked for, in the file's pixel type. Otherwise everything is
                read into memory, and given as float32, but for types that float32 cannot hold (32-bit and larger integers, float64).
            scalar_dict: {name: [value, ...]}, one value for each image: each sample of the k-th images gets the k-th.

        Raises:
            OSError: an image cannot be read.
            ValueError: no source, or images that do not fit together.

        """
        bare = [key for key, names in filenames_dict.items() if isinstance(names, (str, Path))]
        if bare:
            raise ValueError(f"filenames_dict: {bare} have one name each, expected lists: {{source: [file, ...]}}")
        self.filenames = {key: [str(name) for name in names] for key, names in filenames_dict.items()}
        if not self.filenames or not all(self.filenames.values()):
            raise ValueError("filenames_dict names no patches image; expected {source: [file, ...]}")
        self.use_streaming = use_streaming
        self.scalar_dict = {key: [np.asarray(value) for value in values] for key, values in (scalar_dict or {}).items()}
        counts = {key: len(values) for key, values in {**self.filenames, **self.scalar_dict}.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"sources have different numbers of patches images: {counts}; each needs one for each place")
        patches: dict[str, list[int]] = {}
        self.nb_of_channels: dict[str, int] = {}
        for key, names in self.filenames.items():
            kinds = {}
            patches[key] = []
            for name in names:
                with gdal_open(name) as dataset:
                    patches[key].append(number_of_patches(dataset))
                    kinds[name] = (dataset.width, dataset.count, dataset.dtypes[0])
            if len(set(kinds.values())) != 1:
                raise ValueError(f"source {key}: patches images differ in patch size, bands or pixel type: {kinds}")
            self.nb_of_channels[key] = next(iter(kinds.values()))[1]
        self.ds_sizes = next(iter(patches.values()))
        if any(sizes != self.ds_sizes for sizes in patches.values()):
            raise ValueError(f"sources have different numbers of patches: {patches}; extract them in one run of PatchesExtraction")
        self.size = sum(self.ds_sizes)
        self._ends = list(accumulate(self.ds_sizes))
        self._open = threading.local()  # a GDAL dataset belongs to one thread
        self.patches_buffer: dict[str, np.ndarray] = {}
        if not use_streaming:
            for key, names in self.filenames.items():
                images = [read_as_np_arr(name) for name in names]
                self.patches_buffer[key] = images[0] if len(images) == 1 else np.concatenate(images)

    def get_size(self) -> int:
        """Number of samples."""
        return self.size

    def get_sample(self, index: int) -> Sample:
        """Sample number `index` (0 <= index < size): {source: [y, x, bands]}, and the scalars."""
        if not 0 <= index < self.size:
            raise IndexError(f"sample {index} is not one of {self.size}")
        image = bisect_right(self._ends, index)
        sample: Sample = {key: values[image] for key, values in self.scalar_dict.items()}
        for key in self.filenames:
            if self.use_streaming:
                sample[key] = self._read(key, image, index - self._ends[image] + self.ds_sizes[image])
            else:
                patch = self.patches_buffer[key][index]
                sample[key] = patch.astype(_served_type(patch.dtype), copy=False)
        return sample

    def get_stats(self) -> Statistics:
        """Minimum, maximum, mean and standard deviation of each band of each source, over all pixels, in float64.

        Blocks are merged with Chan's formula (Chan, Golub, LeVeque 1983), so that neither large integers nor a large mean with a small
        spread spoil the result.
        """
        return {key: _statistics(self._blocks(key)) for key in self.filenames}

    def _read(self, key: str, image: int, patch: int) -> np.ndarray:
        name = self.filenames[key][image]
        files = self._open.__dict__.setdefault("files", {})
        if name not in files:
            files[name] = gdal_open(name)
        dataset: rasterio.DatasetReader = files[name]
        return read_window(dataset, Window(0, patch * dataset.width, dataset.width, dataset.width))

    def _blocks(self, key: str) -> Iterator[np.ndarray]:
        """Pixels as [pixels, bands], some at a time."""
        if not self.use_streaming:
            pixels = self.patches_buffer[key].reshape(-1, self.nb_of_channels[key])
            for start in range(0, len(pixels), ROWS_AT_ONCE):
                yield pixels[start : start + ROWS_AT_ONCE]
            return
        for name in self.filenames[key]:
            with gdal_open(name) as dataset:
                rows = max(1, ROWS_AT_ONCE // dataset.width)
                for start in range(0, dataset.height, rows):
                    block = dataset.read(window=Window(0, start, dataset.width, min(rows, dataset.height - start)))
                    yield block.reshape(dataset.count, -1).T


class IteratorBase(ABC):
    """Gives the numbers of the samples in the order in which they are visited; it must not end before the samples do."""

    @abstractmethod
    def __init__(self, patches_reader: PatchesReaderBase) -> None:
        """Prepare to visit the samples of `patches_reader`."""

    def __iter__(self) -> IteratorBase:
        return self

    @abstractmethod
    def __next__(self) -> int:
        """Number of the next sample."""


class RandomIterator(IteratorBase):
    """Visits every sample once in a random order, then again in another one, without end."""

    def __init__(self, patches_reader: PatchesReaderBase, seed: int | None = None) -> None:
        self.indices = np.arange(patches_reader.get_size())
        self.count = 0
        self._random = np.random.default_rng(seed)

    def __next__(self) -> int:
        if self.count % len(self.indices) == 0:
            self._random.shuffle(self.indices)
            self.count = 0
        self.count += 1
        return int(self.indices[self.count - 1])


class Dataset:
    """Samples of a reader as a tf.data pipeline.

    Attributes:
        size: number of samples in an epoch.
        output_types, output_shapes: {key: tf.DType}, {key: shape} of one sample.
        tf_dataset: tf.data.Dataset of single samples; each iteration is an epoch.

    """

    def __init__(
        self,
        patches_reader: PatchesReaderBase,
        buffer_length: int = 128,
        iterator_cls: type[IteratorBase] = RandomIterator,
        max_nb_of_samples: int | None = None,
        seed: int | None = None,
    ) -> None:
        """Prepare the pipeline; nothing runs until it is iterated.

        Args:
            patches_reader: the samples.
            buffer_length: samples read ahead at most. It has no part in the shuffling, which is over all samples.
            iterator_cls: the order of the samples. With `RandomIterator` every epoch is a new random order of all samples.
            max_nb_of_samples: use that many samples, drawn once at random, and no others.
            seed: makes the order and the draw repeatable.

        """
        self.patches_reader = patches_reader
        self.buffer_length = buffer_length
        total = patches_reader.get_size()
        if total < 1:
            raise ValueError("the reader has no sample")
        self.size = min(total, max_nb_of_samples) if max_nb_of_samples else total
        first = {key: np.asarray(value) for key, value in patches_reader.get_sample(0).items()}
        self.output_types = {key: tf.as_dtype(value.dtype) for key, value in first.items()}
        self.output_shapes = {key: value.shape for key, value in first.items()}
        if iterator_cls is RandomIterator:
            chosen = np.arange(total)
            if self.size < total:
                chosen = np.sort(np.random.default_rng(seed).choice(total, self.size, replace=False))
            numbers = tf.data.Dataset.from_tensor_slices(chosen.astype(np.int64))
            numbers = numbers.shuffle(self.size, seed=seed, reshuffle_each_iteration=True)
        else:
            iterator = iterator_cls(patches_reader)
            numbers = tf.data.Dataset.from_generator(lambda: (next(iterator) for _ in range(self.size)), output_signature=tf.TensorSpec([], tf.int64)).apply(
                tf.data.experimental.assert_cardinality(self.size)
            )
        ahead = max(1, min(buffer_length, self.size))
        several = numbers.batch(min(SAMPLES_AT_ONCE, ahead)).map(self._samples, num_parallel_calls=tf.data.AUTOTUNE)
        self.tf_dataset = several.unbatch().apply(tf.data.experimental.assert_cardinality(self.size)).prefetch(ahead)
        self._one_by_one: Iterator[dict[str, np.ndarray]] | None = None
        self._lock = threading.Lock()

    def get_tf_dataset(
        self,
        batch_size: int,
        drop_remainder: bool = True,
        preprocessing_fn: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        targets_keys: Sequence[str] | None = None,
    ) -> tf.data.Dataset:
        """Batches, ready for `fit`; each iteration is an epoch.

        Args:
            batch_size: samples per batch.
            drop_remainder: whether a last, smaller batch is left out.
            preprocessing_fn: function of one sample (dictionary of tensors) that returns a sample; not for normalisation, which
                belongs into the model.
            targets_keys: which keys, after `preprocessing_fn`, are targets: batches are then (inputs, targets), else dictionaries.

        Raises:
            ValueError: a batch larger than the dataset, of which all would be dropped; or an unknown target key.

        """
        if drop_remainder and batch_size > self.size:
            raise ValueError(f"batch_size {batch_size} is larger than the dataset ({self.size} samples), and drop_remainder leaves nothing of it")
        samples = self.tf_dataset
        if preprocessing_fn:
            samples = samples.map(preprocessing_fn, num_parallel_calls=tf.data.AUTOTUNE)
        if targets_keys:
            samples = samples.map(lambda sample: split(sample, targets_keys), num_parallel_calls=tf.data.AUTOTUNE)
        return samples.batch(batch_size, drop_remainder=drop_remainder).prefetch(tf.data.AUTOTUNE)

    def to_tfrecords(self, output_dir: str | Path, n_samples_per_shard: int = 100, drop_remainder: bool = True) -> None:
        """Write the samples as TFRecord files (see `TFRecords.ds2tfrecord`)."""
        TFRecords(output_dir).ds2tfrecord(self, n_samples_per_shard=n_samples_per_shard, drop_remainder=drop_remainder)

    def get_stats(self) -> Statistics:
        """Statistics of all samples of the reader."""
        return self.patches_reader.get_stats()

    def read_one_sample(self) -> Sample:
        """The next sample in the dataset's order, epoch after epoch."""
        with self._lock:
            if self._one_by_one is None:
                self._one_by_one = self.tf_dataset.repeat().as_numpy_iterator()
            return next(self._one_by_one)

    def get_total_wait_in_seconds(self) -> float:
        """Always 0: tf.data reads ahead and does not tell how long it waited; kept for scripts that print it."""
        return 0.0

    def _samples(self, numbers: Any) -> dict[str, Any]:
        """Samples of the given numbers, stacked."""
        keys = list(self.output_types)

        def read(indices: Any) -> list[np.ndarray]:
            samples = [self.patches_reader.get_sample(int(index)) for index in indices]
            return [np.stack([np.asarray(sample[key]) for sample in samples]) for key in keys]

        values = tf.numpy_function(read, [numbers], [self.output_types[key] for key in keys])
        for key, value in zip(keys, values, strict=True):
            value.set_shape((None, *self.output_shapes[key]))
        return dict(zip(keys, values, strict=True))


class DatasetFromPatchesImages(Dataset):
    """A `Dataset` of the patches images that OTB's PatchesExtraction writes.

    Example:
        dataset = DatasetFromPatchesImages({"lr": ["lr.tif"], "hr": ["hr.tif"]}, seed=0)
        model.fit(dataset.get_tf_dataset(batch_size=16, targets_keys=["hr"]))

    """

    def __init__(
        self,
        filenames_dict: dict[str, list[str]],
        use_streaming: bool = False,
        buffer_length: int = 128,
        iterator_cls: type[IteratorBase] = RandomIterator,
        max_nb_of_samples: int | None = None,
        seed: int | None = None,
        scalar_dict: dict[str, list[Any]] | None = None,
    ) -> None:
        """See `PatchesImagesReader` for the files, `Dataset` for the rest."""
        reader = PatchesImagesReader(filenames_dict, use_streaming=use_streaming, scalar_dict=scalar_dict)
        super().__init__(reader, buffer_length, iterator_cls, max_nb_of_samples, seed)


def _served_type(dtype: np.dtype) -> np.dtype:
    """float32, unless it cannot hold every value of `dtype`."""
    return np.dtype(np.float32) if np.can_cast(dtype, np.float32) else dtype


def _statistics(blocks: Iterator[np.ndarray]) -> dict[str, np.ndarray]:
    count, mean, squares = 0, np.zeros(()), np.zeros(())  # squares: sum of squared differences from the mean
    low, high = np.asarray(np.inf), np.asarray(-np.inf)
    for pixels in blocks:
        values = pixels.astype(np.float64)
        low, high = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
        n, block_mean = len(values), values.mean(0)
        difference = block_mean - mean
        total = count + n
        squares = squares + np.square(values - block_mean).sum(0) + difference**2 * (count * n / total)
        mean = mean + difference * (n / total)
        count = total
    return {"min": low, "max": high, "mean": mean, "std": np.sqrt(squares / count)}
