"""What a training computes on: threads, one or several GPUs, several hosts; and with how many bits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from otbsr.errors import UsageError


def limit_threads(threads: int | None) -> None:
    """Let TensorFlow use so many threads in an operation and run one operation at a time; only before its first."""
    import tensorflow as tf

    if threads is not None:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError as error:
            raise UsageError(f"--threads {threads}: TensorFlow runs already in this process; choose its threads before its first operation") from error


@contextmanager
def precision(mixed: bool) -> Iterator[None]:
    """Layers made within compute with 16 bits (`mixed`; weights have 32) or 32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16" if mixed and keras.backend.backend() != "jax" else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def replicas() -> int:
    """Devices among which a step's batch is divided here."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def open_strategy(devices: str = "") -> Any:
    """The `tf.distribute` strategy for "all" GPUs of this host (its processors where there is none) or named ones ("GPU:0,GPU:2"); None for one.

    Where TF_CONFIG names several workers, that over all their GPUs, which has to be made before TensorFlow's first operation. Raises `UsageError`.
    """
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
        hosts = sum(len(cluster.get(job, [])) for job in ("chief", "worker"))
    except (ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"TF_CONFIG: is no JSON object with cluster and task ({error}); correct it, or unset it to train on this host") from error
    import tensorflow as tf

    if hosts > 1:
        if devices not in ("", "all"):
            raise UsageError(f"--devices {devices}: with several hosts (TF_CONFIG) all their GPUs are used; hide some with CUDA_VISIBLE_DEVICES")
        return tf.distribute.MultiWorkerMirroredStrategy()
    if not devices:
        return None
    found = [device.name.removeprefix("/device:") for kind in ("GPU", "CPU") for device in tf.config.list_logical_devices(kind)]
    chosen = [name for name in found if name.startswith(found[0][:3])] if devices == "all" else [name.strip() for name in devices.split(",")]
    strange = [name for name in chosen if name not in found]
    if strange or len(set(chosen)) < len(chosen):
        raise UsageError(f"--devices {devices}: expected all, or some of {', '.join(found)}")
    if len(chosen) == 1 and (devices == "all" or chosen == found[:1]):
        return None
    return tf.distribute.MirroredStrategy(chosen)


def require_divisible(batch: int, minutes: float | None, strategy: Any) -> None:
    """Raise `UsageError` for what several devices or hosts cannot do alike."""
    count = strategy.num_replicas_in_sync if strategy else 1
    if batch % count:
        raise UsageError(f"a batch of {batch} pairs cannot be divided among {count} devices; give a --batch that is a multiple of {count}")
    if minutes and strategy and strategy.extended._in_multi_worker_mode():
        raise UsageError(f"--minutes {minutes:g}: clocks of several hosts differ; limit the run with --steps")
