"""Keras layers that OTBTF's models use; written with keras.ops, so they work with every Keras 3 backend."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class ImageLayer(keras.layers.Layer):
    """Base of the layers: takes every input for dense, see `compute_output_spec`."""

    def compute_output_spec(self, inputs: Any, **kwargs: Any) -> Any:
        """Shapes and types of the outputs. Keras takes what was multiplied by a number for sparse, and could not slice it."""
        return super().compute_output_spec(dense(inputs), **kwargs)


def dense(values: Any) -> Any:
    """`values` (any structure) with all symbolic tensors dense."""
    return keras.tree.map_structure(lambda value: keras.KerasTensor(value.shape, value.dtype) if isinstance(value, keras.KerasTensor) else value, values)


@keras.saving.register_keras_serializable("otbtf")
class DilatedMask(ImageLayer):
    """1 within `radius` pixels (a square window) of a no-data value, else 0: [n, y, x, c] -> uint8 [n, y, x, c]."""

    def __init__(self, nodata_value: float, radius: int, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.nodata_value = nodata_value
        self.radius = radius

    def call(self, inp: Any) -> Any:
        """Mark the pixels of `inp` near a no-data value."""
        mask = ops.cast(ops.equal(inp, self.nodata_value), "float32")
        return ops.cast(ops.max_pool(mask, 2 * self.radius + 1, strides=1, padding="same"), "uint8")

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "nodata_value": self.nodata_value, "radius": self.radius}


@keras.saving.register_keras_serializable("otbtf")
class ApplyMask(ImageLayer):
    """Put `out_nodata` where the mask is 1: (mask, image) -> image."""

    def __init__(self, out_nodata: float, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.out_nodata = out_nodata

    def call(self, inputs: Any) -> Any:
        """Mask the second tensor of `inputs` with the first."""
        mask, image = inputs
        return ops.where(ops.equal(mask, 1), ops.cast(self.out_nodata, image.dtype), image)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "out_nodata": self.out_nodata}


@keras.saving.register_keras_serializable("otbtf")
class ScalarsTile(ImageLayer):
    """Repeat scalars over the pixels of a reference: (reference [n, y, x, c], k scalars of shape [n]) -> [n, y, x, k]."""

    def call(self, inputs: Any) -> Any:
        """Spread the scalars of `inputs` over its reference."""
        reference, scalars = inputs
        values = ops.stack(scalars, axis=-1)[:, None, None, :]
        rows, columns = ops.shape(reference)[1:3]
        return ops.tile(values, (1, rows, columns, 1))


@keras.saving.register_keras_serializable("otbtf")
class Argmax(ImageLayer):
    """Index of the largest value along the last axis, kept with size 1: [..., c] -> int32 [..., 1]."""

    def call(self, inputs: Any) -> Any:
        """Index of the maximum of `inputs`."""
        return ops.cast(ops.argmax(inputs, axis=-1, keepdims=True), "int32")


@keras.saving.register_keras_serializable("otbtf")
class Max(ImageLayer):
    """Largest value along the last axis, kept with size 1: [..., c] -> [..., 1]."""

    def call(self, inputs: Any) -> Any:
        """Maximum of `inputs`."""
        return ops.max(inputs, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("otbtf")
class CentralCrop(ImageLayer):
    """Remove `crop` pixels from each side of an image: [n, y, x, c] -> [n, y - 2 crop, x - 2 crop, c].

    An image not larger than 2 * crop becomes an empty one, which keras.layers.Cropping2D refuses.
    """

    def __init__(self, crop: int, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.crop = crop

    def call(self, inputs: Any) -> Any:
        """The central part of `inputs`."""
        return inputs[:, self.crop : -self.crop, self.crop : -self.crop, :] if self.crop else inputs

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "crop": self.crop}
