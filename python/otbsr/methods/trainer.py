"""One step of a training: networks, optimisers and the moving average of weights, on one device or several.

Steps are Keras' own, so that they run on TensorFlow, JAX or PyTorch.
"""

from __future__ import annotations

import hashlib
import math
from contextlib import nullcontext
from typing import Any, cast

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from otbsr.errors import InputError, ProcessingError
from otbsr.methods.devices import precision, replicas
from otbsr.methods.networks import fuse
from otbsr.methods.objectives import Critic, FidelityModel, PerceptualModel
from otbsr.methods.settings import TrainingSettings

Array = NDArray[np.float32]


class Adam(keras.optimizers.Adam):
    """Keras' Adam, which clips the gradient of the whole batch where several devices have a part of it each, instead of the parts'."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Update the variables."""
        count = replicas()
        if count > 1:
            import tensorflow as tf

            grads = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, list(grads))
            clipped, _ = tf.clip_by_global_norm(grads, self.global_clipnorm)
            grads = [gradient / count for gradient in clipped]  # Keras adds them up once more
        super().apply(grads, trainable_variables)


class Trainer:
    """Network, discriminator where there is one, optimisers and moving average of weights; one `step` at a time."""

    def __init__(self, settings: TrainingSettings, strategy: Any = None) -> None:
        """strategy: of `tf.distribute`, over whose devices each batch is divided; None: one device."""
        keras.utils.set_random_seed(settings.seed)
        self.settings = settings
        self.slower = 1.0
        """Factor on the learning rate."""
        self.rate, self.critic_loss = 0.0, cast("float | None", None)
        """Of the last step."""
        self.strategy = strategy
        self.graphs: dict[str, Any] = {}
        """What runs on several devices, made at its first use."""
        with strategy.scope() if strategy else nullcontext(), precision(settings.mixed_precision):
            self.build()
        self.averages = [np.array(ops.convert_to_numpy(v)) for v in self.model.net.trainable_variables]

    def build(self) -> None:
        """Make networks and optimisers, all their variables included."""
        settings = self.settings
        with precision(False):
            self.critic = Critic(settings) if settings.adversarial else None
        self.model = PerceptualModel(settings, self.critic) if self.critic else FidelityModel(settings)
        jit: Any = False if keras.backend.backend() == "tensorflow" else "auto"  # on processors XLA's convolutions are slower
        self.model.compile(Adam(settings.rate, global_clipnorm=settings.clip), jit_compile=jit)
        if self.critic and settings.adversarial:
            self.critic.compile(Adam(settings.adversarial.rate, beta_1=0.5, global_clipnorm=settings.clip), jit_compile=jit)
        s, count = settings.network, 2 * settings.border + 8
        lr = np.zeros((1, count, count, len(s.bands)), np.float32)
        fine = np.zeros((1, 8 * s.factor, 8 * s.factor, len(s.bands_out)), np.float32)
        self.model(lr)
        if self.critic:
            self.critic([fine[:, :8, :8], fine, fine])
        self.model.optimizer.build(self.model.trainable_variables)
        if self.critic:
            self.critic.optimizer.build(self.critic.trainable_variables)

    @property
    def writes(self) -> bool:
        """Whether this process writes files: of several hosts the first does."""
        resolver = self.strategy.cluster_resolver if self.strategy else None
        if resolver is None or not resolver.task_type:
            return True
        return resolver.task_type == "chief" or ("chief" not in resolver.cluster_spec().jobs and resolver.task_type == "worker" and resolver.task_id == 0)

    def divided(self, batch: Array) -> Any:
        """A batch's parts on the devices."""
        import tensorflow as tf

        size = len(batch) // self.strategy.num_replicas_in_sync
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(batch[context.replica_id_in_sync_group * size : (context.replica_id_in_sync_group + 1) * size])
        )

    def critics_view(self, lr: Any, target: Any) -> list[Any]:
        """What the discriminator looks at: input, target and result, cut and scaled."""
        if self.strategy:
            import tensorflow as tf

            def part(lr: Any, target: Any) -> list[Any]:
                return self.model.cut(lr, target, self.model(lr, training=False))

            if "view" not in self.graphs:
                self.graphs["view"] = tf.function(lambda *both: self.strategy.run(part, args=both))
            return list(self.graphs["view"](lr, target))
        return [np.asarray(image) for image in self.model.cut(lr, target, self.model.predict_on_batch(lr))]

    def update(self, model: Any, x: Any, y: Any) -> float:
        """One step of Keras' own for a model, on all devices; returns the loss before it."""
        if self.strategy is None:
            return float(np.asarray(model.train_on_batch(x, y)).ravel()[0])
        import tensorflow as tf

        def part(x: Any, y: Any) -> Any:
            return model.train_step((x, y))["loss"] / replicas()  # Keras takes losses to be divided by that already

        if model.name not in self.graphs:  # Keras' train_on_batch fails with several hosts: it reduces numbers along an axis
            mean = tf.distribute.ReduceOp.MEAN
            self.graphs[model.name] = tf.function(lambda x, y: self.strategy.reduce(mean, self.strategy.run(part, args=(x, y)), axis=None))
        return float(self.graphs[model.name](x, y))

    def require_agreement(self, text: str) -> None:
        """Raise `ProcessingError` unless all hosts say the same."""
        if self.strategy is None or not self.strategy.extended._in_multi_worker_mode():
            return
        import tensorflow as tf

        own = int(hashlib.sha256(text.encode()).hexdigest()[:5], 16)
        part = tf.function(lambda: self.strategy.run(lambda: tf.constant(own, tf.float64)))
        if float(self.strategy.reduce(tf.distribute.ReduceOp.MEAN, part(), axis=None)) != own:
            raise ProcessingError("the hosts differ in settings, pairs or checkpoint; give all of them the same files, in folders that all see")

    def step(self, lr: Array, target: Array, number: int, share: float) -> float:
        """One update; `share` 0..1 of the run drives cosine and ramp. Returns the loss before it."""
        s = self.settings
        rate = s.final_rate + (s.rate - s.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        self.rate = self.slower * rate * min(1.0, (number + 1) / max(1, s.warmup))
        self.model.optimizer.learning_rate.assign(self.rate)
        if self.strategy:
            lr, target = self.divided(lr), self.divided(target)
        if self.critic and s.adversarial:
            strength = min(1.0, max(0.0, share - s.adversarial.start) / s.adversarial.ramp)
            self.model.strength.assign(strength)
            if share >= 0.8 * s.adversarial.start:  # it should know something when it is first listened to
                self.critic.reset_metrics()
                self.critic_loss = self.update(self.critic, self.critics_view(lr, target), None)
        self.model.reset_metrics()
        loss = self.update(self.model, lr, target)
        decay = min(s.average, (number + 1) / (number + 10))
        for average, variable in zip(self.averages, self.model.net.trainable_variables, strict=True):
            average *= decay
            average += (1 - decay) * ops.convert_to_numpy(variable)
        return loss

    def arrays(self) -> dict[str, list[Any]]:
        """Everything that a checkpoint keeps."""
        kept: dict[str, list[Any]] = {"weight": self.model.net.trainable_variables, "optimizer": self.model.optimizer.variables}
        if self.critic:
            kept |= {"critic": self.critic.trainable_variables, "criticoptimizer": self.critic.optimizer.variables}
        return {name: [ops.convert_to_numpy(v) for v in values] for name, values in kept.items()} | {"average": self.averages}

    def restore(self, arrays: dict[str, list[Any]], weights_only: bool = False) -> None:
        """Take a checkpoint's arrays; `weights_only`: start anew from its averaged weights. Raises `InputError` for another network's."""
        shapes = [tuple(v.shape) for v in self.model.net.trainable_variables]
        given = [tuple(a.shape) for a in arrays["average"]]
        if shapes != given:
            raise InputError(f"the checkpoint has {len(given)} weights of other shapes than this network's {len(shapes)}; use the settings it was made with")
        places: dict[str, list[Any]] = {"weight": self.model.net.trainable_variables, "optimizer": self.model.optimizer.variables}
        if self.critic and "critic" in arrays:
            places |= {"critic": self.critic.trainable_variables, "criticoptimizer": self.critic.optimizer.variables}
        for name, variables in ({"weight": places["weight"]} if weights_only else places).items():
            for variable, value in zip(variables, arrays["average" if weights_only else name], strict=True):
                variable.assign(value)
        self.averages = [np.array(a) for a in arrays["average"]]

    def averaged(self) -> Any:
        """The serving form of the network with averaged weights."""
        variables = self.model.net.trainable_variables
        current = [np.array(ops.convert_to_numpy(v)) for v in variables]
        for variable, average in zip(variables, self.averages, strict=True):
            variable.assign(average)
        plain = fuse(self.model.net, self.settings.network)
        for variable, value in zip(variables, current, strict=True):
            variable.assign(value)
        return plain
