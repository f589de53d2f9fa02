"""Samples in TFRecord files, in OTBTF's layout: `0.records`, `1.records`, ..., `output_shapes.json`, `output_types.json`.

Each record is a tf.train.Example with one serialised tensor per key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    from otbtf.dataset import Dataset


class TFRecords:
    """A folder of TFRecord files, to be written from a `Dataset` or read as a tf.data.Dataset."""

    def __init__(self, path: str | Path) -> None:
        """Open the folder `path`, or make it.

        Args:
            path: where the files are, or will be.

        """
        self.dirpath = str(path)
        os.makedirs(self.dirpath, exist_ok=True)
        self.output_types_file = os.path.join(self.dirpath, "output_types.json")
        self.output_shapes_file = os.path.join(self.dirpath, "output_shapes.json")
        self.output_types = self.load(self.output_types_file) if os.path.exists(self.output_types_file) else None
        self.output_shapes = self.load(self.output_shapes_file) if os.path.exists(self.output_shapes_file) else None

    def ds2tfrecord(self, dataset: Dataset, n_samples_per_shard: int = 100, drop_remainder: bool = True) -> None:
        """Write each sample of `dataset` once, in the dataset's order.

        Args:
            dataset: the samples.
            n_samples_per_shard: samples per file.
            drop_remainder: whether a last, shorter file is left out, so that workers get equal shares.

        Raises:
            ValueError: nothing would be written.

        """
        if n_samples_per_shard < 1:
            raise ValueError(f"n_samples_per_shard {n_samples_per_shard} must be at least 1")
        shards, rest = divmod(dataset.size, n_samples_per_shard)
        if rest and not drop_remainder:
            shards += 1
        if shards == 0:
            raise ValueError(
                f"{dataset.size} samples do not fill one file of n_samples_per_shard = {n_samples_per_shard}: lower it, or pass drop_remainder=False"
            )
        # Files of an earlier, larger set would silently be read along.
        for stale in Path(self.dirpath).glob("*.records"):
            if stale.stem.isdigit() and int(stale.stem) >= shards:
                stale.unlink()
        samples = iter(dataset.tf_dataset)
        for shard in range(shards):
            target = os.path.join(self.dirpath, f"{shard}.records")
            partial = f"{target}.part"
            with tf.io.TFRecordWriter(partial) as writer:
                for _ in range(min(n_samples_per_shard, dataset.size - shard * n_samples_per_shard)):
                    writer.write(_serialized(next(samples)))
            os.replace(partial, target)
        self.output_shapes = {key: list(shape) for key, shape in dataset.output_shapes.items()}
        self.output_types = {key: dtype.name for key, dtype in dataset.output_types.items()}
        self.save(self.output_shapes, self.output_shapes_file)
        self.save(self.output_types, self.output_types_file)

    @staticmethod
    def save(data: dict[str, Any], filepath: str) -> None:
        """Write `data` as JSON."""
        with open(filepath, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=4)

    @staticmethod
    def load(filepath: str) -> dict[str, Any]:
        """Read JSON."""
        with open(filepath, encoding="utf-8") as file:
            return dict(json.load(file))

    def parse_tfrecord(
        self, example: Any, target_keys: Sequence[str], preprocessing_fn: Callable[..., Any] | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Turn one serialised record into (inputs, targets)."""
        assert self.output_types is not None and self.output_shapes is not None
        parsed = tf.io.parse_single_example(example, {key: tf.io.FixedLenFeature([], tf.string) for key in self.output_types})
        sample = {
            key: tf.ensure_shape(tf.io.parse_tensor(parsed[key], tf.as_dtype(dtype)), self.output_shapes[key]) for key, dtype in self.output_types.items()
        }
        if preprocessing_fn:
            sample = preprocessing_fn(sample, **kwargs)
        return split(sample, target_keys)

    def read(
        self,
        batch_size: int,
        target_keys: Sequence[str],
        n_workers: int = 1,
        drop_remainder: bool = True,
        shuffle_buffer_size: int | None = None,
        preprocessing_fn: Callable[..., Any] | None = None,
        shard_policy: Any = None,
        prefetch_buffer_size: int = tf.data.AUTOTUNE,
        num_parallel_calls: int = tf.data.AUTOTUNE,
        seed: int | None = None,
        **kwargs: Any,
    ) -> tf.data.Dataset:
        """Batches of (inputs, targets) from all files.

        Args:
            batch_size: samples per batch.
            target_keys: which keys, after `preprocessing_fn`, are targets.
            n_workers: the number of files used is cut to a multiple of it, so that workers get equal shares.
            drop_remainder: whether a last, smaller batch is left out.
            shuffle_buffer_size: samples among which the next one is drawn at random; the files' order is then random as well,
                in every epoch. None: the files' order.
            preprocessing_fn: function of one sample (dictionary of tensors) that returns a sample.
            shard_policy: tf.data.experimental.AutoShardPolicy; AUTO by default.
            prefetch_buffer_size: batches made ahead.
            num_parallel_calls: samples decoded at once.
            seed: makes the order repeatable.
            **kwargs: passed to `preprocessing_fn`.

        Raises:
            FileNotFoundError: the folder has no `output_types.json`, `output_shapes.json`, or too few `*.records`.

        """
        if self.output_types is None or self.output_shapes is None:
            raise FileNotFoundError(f"{self.dirpath}: output_types.json or output_shapes.json is missing; write the folder with ds2tfrecord")
        files = sorted(Path(self.dirpath).glob("*.records"), key=lambda path: (len(path.stem), path.stem))
        files = files[: n_workers * (len(files) // n_workers)]
        if not files:
            raise FileNotFoundError(f"{self.dirpath}: fewer *.records files than workers ({n_workers}); every worker needs one at least")
        options = tf.data.Options()
        options.deterministic = shuffle_buffer_size is None or seed is not None
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.AUTO if shard_policy is None else shard_policy
        names = tf.data.Dataset.from_tensor_slices([str(path) for path in files])
        if shuffle_buffer_size:
            names = names.shuffle(len(files), seed=seed)
        records = tf.data.TFRecordDataset(names).with_options(options)
        if shuffle_buffer_size:
            records = records.shuffle(shuffle_buffer_size, seed=seed)  # records are smaller than decoded samples
        samples = records.map(lambda example: self.parse_tfrecord(example, target_keys, preprocessing_fn, **kwargs), num_parallel_calls=num_parallel_calls)
        return samples.batch(batch_size, drop_remainder=drop_remainder).prefetch(prefetch_buffer_size)


def split(sample: dict[str, Any], target_keys: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(inputs, targets) of a sample.

    Raises:
        ValueError: a target key is not in the sample.

    """
    missing = [key for key in target_keys if key not in sample]
    if missing:
        raise ValueError(f"target keys {missing} are not in the samples, which have {sorted(sample)}")
    return (
        {key: value for key, value in sample.items() if key not in target_keys},
        {key: value for key, value in sample.items() if key in target_keys},
    )


def _serialized(sample: dict[str, Any]) -> bytes:
    features = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[tf.io.serialize_tensor(value).numpy()])) for key, value in sample.items()}
    return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
