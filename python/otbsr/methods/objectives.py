"""What training minimises: F's loss, P's, and that of the discriminator which P's listens to; as Keras models, for Keras' own training step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
from keras import ops

from otbsr.errors import InputError, UsageError, first_line
from otbsr.methods import sr4rs
from otbsr.methods.losses import critic_loss, deception_loss, feature_distance, fidelity_loss, pattern_distance, texture_distance
from otbsr.methods.networks import network
from otbsr.methods.sensor import sensor_kernels, spacing_ratio
from otbsr.methods.settings import TrainingSettings

COLOURS = ("B2", "B3", "B4")
"""What VGG19 sees, in its order."""
VGG_MEANS = (103.939, 116.779, 123.68)
"""Subtracted from its blue, green and red (keras.applications' preprocessing of VGG19)."""
WHITE = 0.3
"""Reflectance that is white to it, as in `otbsr quality --perceptual`."""


class FidelityModel(keras.Model):
    """A network with F's loss, for Keras' own training step on any backend."""

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__()
        self.settings = settings
        self.net = network(settings.network)
        bands = settings.network.bands_out
        self.consistent = [index for index, band in enumerate(bands) if spacing_ratio(band) == 1]  # a coarser band's pixels fall anywhere in a patch
        self.kernels = sensor_kernels(tuple(bands[index] for index in self.consistent) or bands, settings.network.factor)
        self.inputs_of_outputs = [settings.network.bands.index(band) for band in settings.network.bands_out]

    def build(self, shape: Any) -> None:
        """All that is in it is built by its first call."""
        self.built = True

    def call(self, lr: Any, training: bool = False) -> Any:
        """DN [n, h, w, bands] -> DN [n, factor h, factor w, bands out]."""
        return self.net(lr, training=training)

    def cut(self, lr: Any, *fine: Any) -> list[Any]:
        """Input (its bands that come out) and images of the fine grid, all without the border that padding spoils, over the spread."""
        s = self.settings
        size, factor = ops.shape(lr)[1], s.network.factor
        own = ops.take(lr, self.inputs_of_outputs, axis=-1) if len(self.inputs_of_outputs) < len(s.network.bands) else lr
        inner = [own[:, s.border : size - s.border, s.border : size - s.border]]
        low, high = s.border * factor, (size - s.border) * factor
        inner += [image[:, low:high, low:high] for image in fine]
        return [ops.cast(image, "float32") / s.network.spread for image in inner]

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True) -> Any:
        """F's loss of a batch."""
        return self.fidelity(*self.cut(x, y, y_pred))

    def fidelity(self, lr: Any, target: Any, result: Any) -> Any:
        """What is not adversarial in the loss of images as `cut` gives them; SR4RS's, when its generator is trained."""
        if self.settings.network.body == "sr4rs":
            return self.settings.loss.pixel * sr4rs.multiscale_l1(target, result, self.settings.network.factor)
        return fidelity_loss(lr, target, result, self.kernels, self.settings.network.factor, self.settings.loss, self.consistent)


class PerceptualModel(FidelityModel):
    """A network with P's loss: F's, and what the discriminator and its features say, by the factor `strength` that follows the ramp.

    The discriminator is here for its opinion only: it is no part of what this model trains.
    """

    def __init__(self, settings: TrainingSettings, critic: Critic) -> None:
        super().__init__(settings)
        self.critic = critic
        self.strength = self.add_weight(shape=(), initializer="zeros", trainable=False, name="strength")
        adversarial = settings.adversarial
        self.eyes = vgg_features(adversarial.perceptual) if adversarial and adversarial.perceptual else None
        if self.eyes is not None:
            bands = settings.network.bands_out
            if lacking := [band for band in COLOURS if band not in bands]:
                raise UsageError(f"adversarial.perceptual: VGG19 sees red, green and blue, {' '.join(lacking)} is not among the bands out {' '.join(bands)}")
            self.colours = [bands.index(band) for band in COLOURS]

    @property
    def trainable_variables(self) -> list[Any]:
        """The generator's alone."""
        return list(self.net.trainable_variables)

    @property
    def trainable_weights(self) -> list[Any]:
        """The generator's alone."""
        return list(self.net.trainable_weights)

    @property
    def non_trainable_variables(self) -> list[Any]:
        """The rest, the discriminator's included."""
        own = {id(v) for v in self.trainable_variables}
        return [v for v in self.variables if id(v) not in own]

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True) -> Any:
        """P's loss of a batch."""
        adversarial = self.settings.adversarial
        assert adversarial is not None
        lr, target, result = self.cut(x, y, y_pred)
        loss = self.fidelity(lr, target, result)
        real, fake = self.critic.look(lr, target), self.critic.look(lr, result)
        extra = adversarial.weight * deception_loss(ops.stop_gradient(real[-1]), fake[-1], adversarial.relativistic)
        extra = extra + adversarial.features * feature_distance(real[:-1], fake[:-1])
        if adversarial.texture:
            extra = extra + adversarial.texture * texture_distance(target, result)
        if adversarial.pattern:
            extra = extra + adversarial.pattern * pattern_distance(target, result, self.settings.network.factor)
        if self.eyes is not None:
            extra = extra + adversarial.features * feature_distance(self.eyes(self.photograph(target)), self.eyes(self.photograph(result)))
        return loss + self.strength * extra

    def photograph(self, image: Any) -> Any:
        """An image over the spread as VGG19 was trained to see photographs: blue, green, red, 0 to 255 for reflectance 0 to `WHITE`, less their means."""
        colours = ops.take(image, self.colours, axis=-1) * (255.0 * self.settings.network.spread * 1e-4 / WHITE)
        return colours - ops.convert_to_tensor(VGG_MEANS, "float32")


class Critic(keras.Model):
    """The discriminator: scores patches of a fine image beside its input; only ever used in training, so it may stride."""

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__()
        assert settings.adversarial is not None
        self.factor, self.relativistic = settings.network.factor, settings.adversarial.relativistic
        base = settings.adversarial.channels
        self.rival = sr4rs.Discriminator(self.factor, base) if settings.network.body == "sr4rs" else None
        plan = [] if self.rival else [(base, 3, 1), (base, 4, 2), (2 * base, 3, 1), (2 * base, 4, 2), (4 * base, 3, 1)]
        self.layers_in_order = [
            keras.layers.Conv2D(n, k, strides=s, padding="same", activation="leaky_relu", name=f"layer{i}") for i, (n, k, s) in enumerate(plan)
        ]
        self.score = None if self.rival else keras.layers.Conv2D(1, 3, padding="same", name="score")

    def look(self, lr: Any, fine: Any) -> list[Any]:
        """Features of every layer, and the scores [n, h', w', 1] last. lr [n, h, w, b] and fine [n, factor h, factor w, b].

        SR4RS's own discriminator has no say on features, and scores [n, 1].
        """
        if self.rival is not None:
            bands = lr.shape[-1]
            return [self.rival(sr4rs.pyramid(fine, self.factor) if fine.shape[-1] == bands else fine)]
        x = ops.concatenate([fine, ops.repeat(ops.repeat(lr, self.factor, 1), self.factor, 2)], -1)
        seen = []
        for layer in self.layers_in_order:
            x = layer(x)
            seen.append(x)
        assert self.score is not None
        return [*seen, self.score(x)]

    def call(self, inputs: list[Any], training: bool = False) -> Any:
        """(lr, target, result) -> scores of target and result, one after the other along the last axis."""
        lr, target, result = inputs
        return ops.concatenate([self.look(lr, target)[-1], self.look(lr, result)[-1]], -1)

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True) -> Any:
        """What the discriminator minimises."""
        return critic_loss(y_pred[..., :1], y_pred[..., 1:], self.relativistic)


def vgg_features(weights: str) -> keras.Model:
    """VGG19's features before its third and fourth pooling, from a weights file that the user has; raises `InputError`."""
    if not Path(weights).is_file():
        raise InputError(f"{weights}: no such file; adversarial.perceptual wants the weights of keras.applications' VGG19 without top, or nothing")
    try:
        vgg = keras.applications.VGG19(include_top=False, weights=weights, input_shape=(None, None, 3))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{weights}: holds no weights of keras.applications' VGG19 without top ({first_line(error)}); give that file (.weights.h5 or .h5), or nothing"
        ) from error
    vgg.trainable = False
    return keras.Model(vgg.input, [vgg.get_layer(name).output for name in ("block3_conv4", "block4_conv4")])
