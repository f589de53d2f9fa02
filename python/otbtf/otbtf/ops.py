"""Operations on tensors, for preprocessing functions."""

from __future__ import annotations

from typing import Any

import keras


def one_hot(labels: Any, nb_classes: int) -> Any:
    """Class numbers [..., 1] of any number type -> float32 [..., nb_classes], 1 where the class is."""
    return keras.ops.one_hot(keras.ops.squeeze(keras.ops.cast(labels, "int32"), axis=-1), nb_classes)
