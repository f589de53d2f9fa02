"""TensorFlow functions on Keras' symbolic tensors, as with Keras 2.

Models written for OTBTF use `tf.cast`, `tf.concat`, ... in `normalize_inputs` and `get_outputs`; Keras 3 refuses its own tensors there. Once
`enable` was called, such a call becomes a part of the model. Nothing else changes: TensorFlow asks only after it has failed by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from otbtf.layers import dense


@keras.saving.register_keras_serializable("otbtf")
class TensorflowFunction(keras.Operation):
    """A function of TensorFlow's public interface, such as "concat" or "nn.relu" for `tf.concat`, `tf.nn.relu`, as a part of a model."""

    def __init__(self, function: str, name: str | None = None) -> None:
        super().__init__(name=name)
        self.function = function

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        function: Any = tf
        for part in self.function.split("."):
            function = getattr(function, part)
        return function(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Shapes and types of what the function gives."""
        return super().compute_output_spec(*dense(args), **dense(kwargs))

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"function": self.function, "name": self.name}


class SymbolicTensors(tf.__internal__.dispatch.GlobalOpDispatcher):
    """What TensorFlow asks when a function has failed on its arguments."""

    def handle(self, op: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A symbolic tensor where an argument is symbolic, else `NOT_SUPPORTED`."""
        symbolic = any(isinstance(value, keras.KerasTensor) for value in tf.nest.flatten((args, kwargs)))
        public = public_name(op) if symbolic else ""
        if not public:
            return self.NOT_SUPPORTED
        kwargs = dict(kwargs)
        return TensorflowFunction(public, name=kwargs.pop("name", None))(*args, **kwargs)


def public_name(op: Callable[..., Any]) -> str:
    """A function's name in TensorFlow's public interface, such as "nn.relu"; "" when it has none."""
    inner: Any = op
    while inner is not None:
        for name in getattr(inner, "_tf_api_names", ()):
            if not name.startswith(("raw_ops.", "compat.", "__")):
                return str(name)
        inner = getattr(inner, "__wrapped__", None)
    return ""


def enable() -> None:
    """Let TensorFlow's functions take Keras' symbolic tensors, in this process."""
    if keras.backend.backend() == "tensorflow" and not _enabled:
        _enabled.append(SymbolicTensors())
        _enabled[0].register()


_enabled: list[SymbolicTensors] = []
