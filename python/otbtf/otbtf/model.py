"""Base class of models that are trained on patches and served on images of any size."""

from __future__ import annotations

import abc
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from otbtf.layers import CentralCrop

logger = logging.getLogger(__name__)

DEFAULT_INFERENCE_CROPPING = (16, 32, 64, 96, 128)


def cropped_tensor_name(tensor_name: str, crop: int) -> str:
    """Name of an output from which `crop` pixels were removed on each side."""
    return f"{tensor_name}_crop{crop}"


@keras.saving.register_keras_serializable("otbtf")
class TrainedByName(keras.Model):
    """A Keras model whose losses and metrics see only the outputs that have a target: the others serve inference."""

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, **kwargs: Any) -> Any:
        """Loss of the outputs named in `y`."""
        return super().compute_loss(x, y, with_target(y_pred, y), sample_weight, **kwargs)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Metrics of the outputs named in `y`."""
        return dict(super().compute_metrics(x, y, with_target(y_pred, y), sample_weight))


def with_target(outputs: Any, targets: Any) -> Any:
    """The entries of `outputs` that `targets` has, if both are dictionaries."""
    if not (isinstance(outputs, Mapping) and isinstance(targets, Mapping)):
        return outputs
    return {key: output for key, output in outputs.items() if key in targets}


class ModelBase(abc.ABC):
    """A Keras model in three parts: normalisation inside the graph, the network, and cropped outputs for inference.

    Derive from it and write `get_outputs`, and `normalize_inputs` where values need scaling. `model` is the keras.Model; its methods
    and attributes (`compile`, `fit`, `predict`, ...) are reached through this object. Create it inside `strategy.scope()` when training
    is distributed.

    `normalize_inputs` and `get_outputs` may use Keras' layers and operations, and TensorFlow's functions (see `otbtf.symbolic`).
    """

    def __init__(
        self,
        dataset_element_spec: Any,
        input_keys: Sequence[str] | None = None,
        inference_cropping: Sequence[int] | None = None,
    ) -> None:
        """Build the network.

        Args:
            dataset_element_spec: `element_spec` of a batched dataset of inputs or (inputs, targets), dictionaries with shapes [n, y, x, c].
            input_keys: which of the dataset's inputs the model takes; all by default.
            inference_cropping: numbers of pixels; for each, and each image output, an output `<output>_crop<pixels>` without
                that many pixels on each side is added (see `postprocess_outputs`). Default 16, 32, 64, 96, 128; an empty list adds none.

        """
        inputs_spec = dataset_element_spec if isinstance(dataset_element_spec, Mapping) else dataset_element_spec[0]
        unknown = set(input_keys or ()) - set(inputs_spec)
        if unknown:
            raise ValueError(f"input_keys {sorted(unknown)} are not in the dataset; its inputs are {sorted(inputs_spec)}")
        self.dataset_input_keys = list(input_keys or inputs_spec)
        self.inputs_shapes = {key: list(inputs_spec[key].shape[1:]) for key in self.dataset_input_keys}
        self.inputs_types = {key: inputs_spec[key].dtype for key in self.dataset_input_keys}
        self.inference_cropping = list(DEFAULT_INFERENCE_CROPPING if inference_cropping is None else inference_cropping)
        if any(crop < 0 for crop in self.inference_cropping):
            raise ValueError(f"inference_cropping {self.inference_cropping} must not be negative")
        self.model = self.create_network()

    def __getattr__(self, name: str) -> Any:
        """Whatever this object does not have is the Keras model's."""
        if name == "model" or name.startswith("__"):  # not built yet (also while unpickling): the model has no answer
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}: the network is not built yet")
        return getattr(self.model, name)

    def get_inputs(self) -> dict[str, Any]:
        """One keras.Input per input key; images may have any number of rows and columns.

        Float32, but for types that it cannot hold: the served model is the same whether the dataset was streamed (in the file's type) or not.
        """
        types = {key: np.dtype(getattr(dtype, "as_numpy_dtype", dtype)) for key, dtype in self.inputs_types.items()}
        return {
            key: keras.Input(
                shape=[None, None, *shape[2:]] if len(shape) > 2 else shape,
                dtype="float32" if np.can_cast(types[key], np.float32) else self.inputs_types[key].name,
                name=key,
            )
            for key, shape in self.inputs_shapes.items()
        }

    def normalize_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Scale the inputs, in training and in serving alike; by default only whole numbers become float32."""
        return {key: x if keras.backend.is_float_dtype(x.dtype) else keras.ops.cast(x, "float32") for key, x in inputs.items()}

    @abc.abstractmethod
    def get_outputs(self, normalized_inputs: dict[str, Any]) -> dict[str, Any]:
        """The network: normalised inputs -> dictionary of outputs, whose keys the datasets' targets have."""

    def postprocess_outputs(
        self, outputs: dict[str, Any], inputs: dict[str, Any] | None = None, normalized_inputs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Outputs for inference only: every image output [n, y, x, c] without each `inference_cropping` number of pixels on its sides.

        Each is there under `<key>_crop<N>`, and under `<layer>_crop<N>` where the layer that makes the output was given another
        name: Keras 2 named the served tensors by layers, Keras 3 by keys, and OTBTF's command lines by the former.
        """
        extra: dict[str, Any] = {}
        for key, tensor in outputs.items():
            if len(tensor.shape) != 4:
                continue
            layer = tensor._keras_history.operation.name
            for crop in self.inference_cropping:
                name = cropped_tensor_name(layer, crop)
                cropped = CentralCrop(crop, name=name)(tensor)
                extra[cropped_tensor_name(key, crop)] = cropped
                if layer != key:
                    extra.setdefault(name, cropped)
        return {name: tensor for name, tensor in extra.items() if name not in outputs}

    def create_network(self) -> keras.Model:
        """Inputs, normalisation, network and extra outputs as one Keras model."""
        inputs = self.get_inputs()
        normalized = self.normalize_inputs(inputs)
        given = self.get_outputs(normalized)
        if not isinstance(given, Mapping):
            raise TypeError(f"get_outputs of {type(self).__name__} returns {type(given).__name__}, expected a dictionary {{name: tensor}}")
        outputs = dict(given)
        outputs.update(self.postprocess_outputs(outputs=outputs, inputs=inputs, normalized_inputs=normalized))
        return TrainedByName(inputs=inputs, outputs=outputs, name=type(self).__name__)

    def export(self, filepath: str, **kwargs: Any) -> None:
        """Write the SavedModel that TensorflowModelServe runs: signature `serving_default`, named inputs and outputs."""
        self.model.export(filepath, **kwargs)

    def save(self, filepath: str, **kwargs: Any) -> None:
        """Save as Keras does for `.keras`, `.h5` and `.weights.h5` names; any other name becomes a SavedModel folder, as with Keras 2."""
        if str(filepath).endswith((".keras", ".h5")):
            self.model.save(filepath, **kwargs)
        else:
            self.export(filepath, verbose=False)

    def summary(self, strategy: Any = None, **kwargs: Any) -> None:
        """Print the layers (only once when training is distributed)."""
        if strategy is None or _is_chief(strategy):
            self.model.summary(**{"line_length": 150, **kwargs})

    def plot(self, output_path: str, strategy: Any = None, show_shapes: bool = False) -> None:
        """Draw the layers to an image file; needs pydot and graphviz."""
        if strategy is None or _is_chief(strategy):
            keras.utils.plot_model(self.model, output_path, show_shapes=show_shapes)


def _is_chief(strategy: Any) -> bool:
    """Whether this process is the first worker of a tf.distribute strategy."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None or resolver.task_type is None:
        return True
    if resolver.task_type == "worker":
        return bool(resolver.task_id == 0 and "chief" not in resolver.cluster_spec().as_dict())
    return bool(resolver.task_type == "chief")
