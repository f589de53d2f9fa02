"""Training of F and P: one loop, from the patches images that OTB's PatchesExtraction wrote to a model folder.

A run is a function of its settings, its patches and its seed: batches and augmentation are drawn from (seed, step), so that a run
resumed from a checkpoint does what the uninterrupted one would have done. (With a time budget, the schedule follows the clock.)
Steps are Keras' own, so that they run on TensorFlow, JAX or PyTorch; reading patches and exporting need TensorFlow.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from otbsr.errors import InputError, OutputError, ProcessingError, StoppedError, UsageError
from otbsr.methods import sr4rs
from otbsr.methods.import_model import one_line
from otbsr.methods.losses import LossWeights, critic_loss, deception_loss, feature_distance, fidelity_loss, pattern_distance, texture_distance
from otbsr.methods.model_folder import ModelFolder, ModelInput, ModelOutput, Sidecar, save_model
from otbsr.methods.networks import SIZES, NetworkSettings, base_kernel, fuse, margin, network, upsampler, widen
from otbsr.methods.sensor import observe_anew, sensor_kernels, spacing_ratio
from otbsr.progress import Report, silent

Array = NDArray[np.float32]


class Augmentation(BaseModel):
    """Random changes of a pair, so that the network survives other radiometry than its training set's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    flips: bool = Field(True, description="the eight flips and quarter turns")
    gain: float = Field(0.15, ge=0, description="standard deviation of the log gain, common to the bands")
    band_gain: float = Field(0.07, ge=0, description="standard deviation of each band's own log gain")
    offset: float = Field(60.0, ge=0, description="standard deviation of each band's offset, DN")
    noise: float = Field(8.0, ge=0, description="greatest standard deviation of noise added to the input, DN")
    anew: float = Field(0.5, ge=0, le=1, description="share of batches whose inputs are made anew from their targets by a sensor drawn at random")
    mtf: float = Field(0.1, ge=0, description="of that sensor: standard deviation of the log of each band's MTF at Nyquist")
    shift: float = Field(0.03, ge=0, description="of that sensor: greatest displacement between bands, input pixels")
    anew_noise: tuple[float, float] = Field((5.0, 20.0), description="of that sensor: least and greatest standard deviation of its noise, DN")


class AdversarialSettings(BaseModel):
    """The second half of P's training, once fidelity alone has made a start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(0.02, ge=0, description="weight of the adversarial term after its ramp")
    features: float = Field(0.1, ge=0, description="weight of the distance between the discriminator's features of result and target")
    texture: float = Field(0.1, ge=0, description="weight of the distance between the strengths of texture of result and target, wherever it lies")
    pattern: float = Field(
        2.0, ge=0, description="weight of what the result has more than the target at one place within every input pixel: a pattern of the grid"
    )
    start: float = Field(0.3, ge=0, le=1, description="share of the run after which the adversarial terms begin")
    ramp: float = Field(0.2, gt=0, le=1, description="share of the run over which they rise")
    relativistic: bool = Field(True, description="relativistic average least squares; false: plain least squares")
    channels: int = Field(32, ge=4, description="features of the discriminator's first layer")
    rate: float = Field(2e-4, gt=0, description="learning rate of the discriminator")
    perceptual: str = Field("", description="weights file of keras.applications' VGG19 without top, to add its features' distance on R, G, B")


class TrainingSettings(BaseModel):
    """Everything that a training run depends on besides its patches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: NetworkSettings = NetworkSettings()
    loss: LossWeights = LossWeights()
    augmentation: Augmentation = Augmentation()
    seed: int = 0
    steps: int = Field(10000, ge=1)
    minutes: float | None = Field(None, gt=0, description="time budget; the run ends at whichever of steps and minutes comes first")
    batch: int = Field(16, ge=1)
    rate: float = Field(1e-3, gt=0, description="highest learning rate (Adam), after the warm-up")
    final_rate: float = Field(1e-6, ge=0, description="learning rate at the end of the cosine")
    warmup: int = Field(200, ge=0, description="steps over which the learning rate rises")
    clip: float = Field(1.0, gt=0, description="greatest norm of the gradient")
    adversarial: AdversarialSettings | None = Field(None, description="given: a perceptual method (P); not: a fidelity method (F)")
    average: float = Field(0.999, ge=0, lt=1, description="decay of the moving average of weights, which is what is validated and exported")
    patience: int = Field(0, ge=0, description="validations without a better score after which an F stops; 0: never")
    mixed_precision: bool = Field(False, description="16-bit computation: faster on GPUs, slower on most processors")
    border: int = Field(6, ge=0, description="input pixels at each side of a patch left out of loss and scores: zero padding spoils them")
    validate_every: int = Field(1000, ge=1, description="steps between validations and checkpoints")


FLAGS = {
    "network.bands": "--bands",
    "network.outputs": "--outputs",
    "network.factor": "--factor",
    "batch": "--batch",
    "rate": "--rate",
    "patience": "--patience",
    "steps": "--steps",
    "minutes": "--minutes",
    "seed": "--seed",
}
"""Settings that `otbsr train` has a flag for."""


def read_settings(
    path: Path | None = None,
    *,
    method: str | None = None,
    size: str | None = None,
    factor: int | None = None,
    bands: Sequence[str] = (),
    outputs: Sequence[str] = (),
    pairs: Mapping[str, Any] | None = None,
    **options: Any,
) -> TrainingSettings:
    """Settings from a YAML or JSON file (or the defaults), replaced by what else is given and not None; raises `UsageError`.

    method: fidelity (no adversarial terms, whatever the file says) or perceptual (those of the file, else the defaults; body residual unless the
    file names one). size: tiny, light or base instead of the file's channels and blocks. pairs: manifest of the pairs, whose factor and bands
    count where nobody says otherwise. options: top-level settings.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML or JSON ({error}); see the settings in any model.json") from error
    if values is None:
        values = {}  # an empty file
    if not isinstance(values, dict):
        raise UsageError(f"{path}: holds {type(values).__name__}, expected keys and values, like the settings in any model.json")
    if method not in (None, "fidelity", "perceptual"):
        raise UsageError(f"--method {method}: expected fidelity or perceptual")
    if size is not None and size not in SIZES:
        raise UsageError(f"--size {size}: expected one of {', '.join(SIZES)}")
    net = values.get("network", {})
    if isinstance(net, dict):
        net = dict(net)
        if size is not None:
            net = {key: value for key, value in net.items() if key not in ("channels", "blocks")} | {"size": size}
        if method == "perceptual":
            net = {"body": "residual"} | net
        net = {key: pairs[key] for key in ("factor", "bands") if pairs} | net
        net |= {key: value for key, value in (("factor", factor), ("bands", tuple(bands)), ("outputs", tuple(outputs))) if value}
        if pairs and "outputs" not in net and tuple(pairs.get("outputs", pairs["bands"])) != tuple(pairs["bands"]):
            net["outputs"] = tuple(band for band in pairs["outputs"] if band in net["bands"])
        values = values | {"network": net}
    if method is not None:
        values = values | {"adversarial": None if method == "fidelity" else values.get("adversarial") or {}}
    options = {key: value for key, value in options.items() if value is not None}
    given = {*options, *(f"network.{key}" for key, value in (("factor", factor), ("bands", bands), ("outputs", outputs)) if value)}
    try:
        settings = TrainingSettings.model_validate(values | options)
    except ValidationError as error:
        raise refusal(error, path, given) from error
    if settings.adversarial and settings.patience and "patience" in given:
        raise UsageError(f"--patience {settings.patience}: stops a run whose score no longer grows, but a perceptual method's score falls; leave it out")
    return settings


def refusal(error: ValidationError, path: Path | None = None, flags: Collection[str] = ()) -> UsageError:
    """The error that says in one line which setting, or which flag, has which wrong value."""
    first = error.errors()[0]
    key, text = ".".join(str(p) for p in first["loc"]), first["msg"].removeprefix("Value error, ")
    text = f"{text[:1].lower()}{text[1:]}"
    if key in flags and key in FLAGS:
        return UsageError(f"{FLAGS[key]} {first['input']}: {text}")
    value = "" if isinstance(first["input"], dict) else f" {first['input']!r}:"
    return UsageError(f"{path or 'settings'}: {key}:{value} {text}; correct the setting")


# --- patches -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Patches:
    """Pairs of patches in memory: lr [n, p, p, bands] and target [n, factor p, factor p, bands], float32 DN."""

    lr: Array
    target: Array

    def __len__(self) -> int:
        return len(self.lr)

    @property
    def factor(self) -> int:
        """Target pixels per input pixel along a side."""
        return int(self.target.shape[1]) // int(self.lr.shape[1])

    def select(self, lr: Sequence[int], target: Sequence[int]) -> Patches:
        """The same pairs with the bands of these indices only."""
        whole = list(lr) == list(range(self.lr.shape[-1])) and list(target) == list(range(self.target.shape[-1]))
        return self if whole else Patches(np.ascontiguousarray(self.lr[..., list(lr)]), np.ascontiguousarray(self.target[..., list(target)]))

    def hash(self) -> str:
        """SHA-256 over the pixels: names the split that a model was trained on."""
        state = hashlib.sha256()
        for part in (self.lr, self.target):
            state.update(np.ascontiguousarray(part, np.float32).data)
        return state.hexdigest()


def read_patches(lr: Sequence[Path], target: Sequence[Path]) -> Patches:
    """Read patches images written by PatchesExtraction through OTBTF's Python API, in order; raises `InputError`."""
    from otbtf import DatasetFromPatchesImages

    if not lr or len(lr) != len(target):
        raise InputError(f"{len(lr)} input and {len(target)} target patches images; expected one target for each input: run `otbsr pairs` again")
    for path in (*lr, *target):
        if not Path(path).is_file():
            raise InputError(f"{path}: no such patches image; run `otbsr pairs` again")
    dataset = DatasetFromPatchesImages(filenames_dict={"lr": [str(p) for p in lr], "target": [str(p) for p in target]}, iterator_cls=in_order())
    try:
        batches = list(dataset.get_tf_dataset(batch_size=64, drop_remainder=False).as_numpy_iterator())
        patches = Patches(*(np.concatenate([np.asarray(batch[key], np.float32) for batch in batches]) for key in ("lr", "target")))
    except MemoryError as error:
        raise ProcessingError(f"the patches of {len(lr)} folders do not fit in memory; give fewer folders, or pairs with a larger --step") from error
    rows = patches.lr.shape[1]
    if patches.target.shape[1] % rows or patches.target.shape[1:3] != tuple(patches.factor * side for side in patches.lr.shape[1:3]):
        raise InputError(
            f"target patches of {patches.target.shape[1:3]} pixels are no whole multiple of input patches of {patches.lr.shape[1:3]}: run `otbsr pairs` again"
        )
    return patches


def in_order() -> type:
    """An OTBTF iterator that visits the patches in the file's order, over and over (its own default draws at random)."""
    from otbtf.dataset import IteratorBase

    class InOrder(IteratorBase):  # type: ignore[misc]
        def __init__(self, patches_reader: Any) -> None:
            super().__init__(patches_reader)
            self.indices = itertools.cycle(range(patches_reader.get_size()))  # the dataset's thread reads ahead of the last patch

        def __next__(self) -> int:
            return next(self.indices)

        def shuffle(self) -> None:
            """Nothing to shuffle."""

    return InOrder


def augmented(
    lr: Array, target: Array, how: Augmentation, random: np.random.Generator, bands: Sequence[str] = (), outputs: Sequence[int] | None = None
) -> tuple[Array, Array]:
    """Turn, flip, brighten and offset input and target of one batch alike, and add noise to the input.

    With the names of `bands` (of input and target alike), a share of the batches gets inputs made anew from their targets.
    outputs: for each band of the target, its index among the input's; default the first ones.
    """
    if bands and random.random() < how.anew:
        factor = target.shape[1] // lr.shape[1]
        lr = observe_anew(target, bands, factor, how.mtf, how.shift, how.anew_noise, random)
    if how.flips:
        turns, flip = int(random.integers(4)), int(random.integers(2))
        lr, target = (np.rot90(x, turns, (1, 2))[:, :, :: -1 if flip else 1] for x in (lr, target))
    n, count = len(lr), lr.shape[-1]
    gain = np.exp(random.normal(0, how.gain, (n, 1, 1, 1)) + random.normal(0, how.band_gain, (n, 1, 1, count))).astype(np.float32)
    offset = random.normal(0, how.offset, (n, 1, 1, count)).astype(np.float32)
    outs = list(range(target.shape[-1])) if outputs is None else list(outputs)
    lr, target = lr * gain + offset, target * gain[..., outs] + offset[..., outs]
    sigma = random.uniform(0, how.noise, (n, 1, 1, 1)).astype(np.float32)
    return lr + sigma * random.standard_normal(lr.shape, np.float32), target


def batch_indices(size: int, batch: int, seed: int, step: int) -> NDArray[np.int64]:
    """Indices of the pairs in step's batch: every pair once per epoch in a random order, a short last batch left out."""
    batch = min(batch, size)
    per_epoch = size // batch
    order = np.random.default_rng([seed, 1, step // per_epoch]).permutation(size)
    first = (step % per_epoch) * batch
    return order[first : first + batch]


# --- scores ------------------------------------------------------------------------------------------------------------------


def scores(predict: Callable[[Array], Any], patches: Patches, border: int, batch: int = 32) -> dict[str, Any]:
    """PSNR in dB for reflectance with MAX = 1 (per band over all patches, and their mean), border left out; target in DN x 1e-4."""
    squares = np.zeros(patches.target.shape[-1])
    count, cut = 0, border * patches.factor
    for i in range(0, len(patches), batch):
        result = np.asarray(predict(patches.lr[i : i + batch]))
        error = (result - patches.target[i : i + batch])[:, cut : result.shape[1] - cut, cut : result.shape[2] - cut].astype(np.float64)
        squares += (error**2).sum((0, 1, 2))
        count += error.shape[0] * error.shape[1] * error.shape[2]
    per_band = 10 * np.log10(1e8 / (squares / count + 1e-12))
    return {"psnr": round(float(per_band.mean()), 3), "psnr_bands": [round(float(value), 3) for value in per_band]}


# --- checkpoints -------------------------------------------------------------------------------------------------------------


def write_checkpoint(path: Path, arrays: dict[str, list[Any]], state: dict[str, Any]) -> None:
    """Write lists of arrays and a JSON state to one .npz file; a killed run leaves the previous file whole."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            named: dict[str, Any] = {f"{name}_{i}": np.asarray(array) for name, many in arrays.items() for i, array in enumerate(many)}
            np.savez(file, state=np.array(json.dumps(state)), **named)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path}: checkpoint cannot be written ({error.strerror}); check the path and the free space") from error


def read_checkpoint(path: Path) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """What `write_checkpoint` wrote; raises `InputError`."""
    try:
        with np.load(path) as file:
            arrays: dict[str, list[Any]] = {}
            for key in (k for k in file.files if k != "state"):  # written in order
                arrays.setdefault(key.rsplit("_", 1)[0], []).append(file[key])
            return arrays, json.loads(str(file["state"]))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a checkpoint ({error}); remove it to train from the beginning") from error


def read_model(folder: Path, settings: NetworkSettings) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """As `read_checkpoint`, of a model folder that `train` wrote: the weights in their training form and how they came about."""
    import tensorflow as tf

    past = ModelFolder.open(folder).sidecar.training
    weights = [variable.numpy() for variable in getattr(tf.saved_model.load(str(folder)), "weights", [])]
    try:
        model = widen(weights, settings)
    except ValueError as error:
        raise InputError(
            f"{folder}: its weights are not those of the network that is to be trained ({one_line(error)}); choose the size, factor and bands of its model.json"
        ) from error
    source = {key: past[key] for key in ("data", "seeds", "pairs") if key in past}
    state = {"history": past.get("history", []), "source": source, "step": past.get("steps", 0)}
    return {"average": [ops.convert_to_numpy(v) for v in model.trainable_variables]}, {"state": state}


# --- the loop ----------------------------------------------------------------------------------------------------------------


def replicas() -> int:
    """Devices among which a step's batch is divided here."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


@contextmanager
def precision(mixed: bool) -> Iterator[None]:
    """Layers made within compute with 16 bits (`mixed`; weights have 32) or 32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16" if mixed and keras.backend.backend() != "jax" else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


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
            extra = extra + adversarial.features * feature_distance(self.eyes(target[..., :3]), self.eyes(result[..., :3]))
        return loss + self.strength * extra


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
    vgg = keras.applications.VGG19(include_top=False, weights=weights, input_shape=(None, None, 3))
    vgg.trainable = False
    return keras.Model(vgg.input, [vgg.get_layer(name).output for name in ("block3_conv4", "block4_conv4")])


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


def limit_threads(threads: int | None) -> None:
    """Let TensorFlow use so many threads in an operation and run one operation at a time; only before its first."""
    import tensorflow as tf

    if threads is not None:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError as error:
            raise UsageError(f"--threads {threads}: TensorFlow runs already in this process; choose its threads before its first operation") from error


def require_divisible(batch: int, minutes: float | None, strategy: Any) -> None:
    """Raise `UsageError` for what several devices or hosts cannot do alike."""
    count = strategy.num_replicas_in_sync if strategy else 1
    if batch % count:
        raise UsageError(f"a batch of {batch} pairs cannot be divided among {count} devices; give a --batch that is a multiple of {count}")
    if minutes and strategy and strategy.extended._in_multi_worker_mode():
        raise UsageError(f"--minutes {minutes:g}: clocks of several hosts differ; limit the run with --steps")


def checkpoint_of(given: str | Path | None, out: Path) -> Path:
    """Where a run's checkpoint is."""
    return Path(given) if given else out.with_name(f"{out.name}.checkpoint.npz")


@contextmanager
def advice(settings: TrainingSettings, patch: int, checkpoint: Path) -> Iterator[None]:
    """Turn lack of memory, on the processor or a GPU, into a `ProcessingError` that says what to lower."""
    import tensorflow as tf

    try:
        yield
    except (MemoryError, tf.errors.OpError) as error:
        lacking = isinstance(error, MemoryError | tf.errors.ResourceExhaustedError) or "out of memory" in str(error).lower()
        if not lacking:
            raise ProcessingError(f"TensorFlow: {one_line(error)}; the checkpoint {checkpoint}, if there is one, is kept") from error
        kept = (
            f"the checkpoint {checkpoint} is kept: --start-from {checkpoint} --checkpoint NEW.npz goes on from its weights with other settings"
            if checkpoint.is_file()
            else "there is no checkpoint yet"
        )
        size = f"{settings.network.channels} channels and {settings.network.blocks} blocks"
        raise ProcessingError(
            f"memory ran out with --batch {settings.batch}, patches of {patch} input pixels (x{settings.network.factor}) and a network of {size}; lower "
            f"--batch (half of it needs half the memory), take smaller patches (otbsr pairs --patch) or a smaller network (--size); {kept}"
        ) from error


class Signals:
    """The signal that asks a run to end, 0 while there is none."""

    number = 0


@contextmanager
def interrupts() -> Iterator[Signals]:
    """Note SIGINT and SIGTERM instead of ending at once, so that the step in hand ends and a checkpoint is written; the second ends at once."""
    signals = Signals()
    before: dict[int, Any] = {}

    def note(number: int, _frame: Any) -> None:
        signals.number = number
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():  # Python lets no other set handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup, or a shell's background job
                before[number] = signal.signal(number, note)
    try:
        yield signals
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


class Diary:
    """Scalars of a run in TensorBoard's event files; of TensorBoard itself nothing is needed."""

    def __init__(self, folder: str | Path | None) -> None:
        self.writer: Any = None
        if folder is not None:
            import tensorflow as tf
            from tensorflow.core.framework.summary_pb2 import SummaryMetadata

            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
                self.writer = tf.summary.create_file_writer(str(folder))
            except (OSError, tf.errors.OpError) as error:
                raise OutputError(f"{folder}: curves cannot be written ({getattr(error, 'strerror', None) or error}); choose another folder") from error
            self.kind = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))

    def write(self, step: int, **values: float | None) -> None:
        """Write the values that are not None, as measured at the end of a step (from 1)."""
        if self.writer is None:
            return
        import tensorflow as tf

        with self.writer.as_default(step):
            for name, value in values.items():
                if value is not None:
                    tf.summary.write(name, tf.constant(value, tf.float32), metadata=self.kind)
        self.writer.flush()


class Run:
    """Where a run is: the steps done and what was measured, the best weights, and the checkpoint that keeps all that."""

    def __init__(self, trainer: Trainer, settings: TrainingSettings, checkpoint: Path, identity: dict[str, Any]) -> None:
        self.trainer, self.settings, self.checkpoint, self.identity = trainer, settings, checkpoint, identity
        self.state: dict[str, Any] = {"step": 0, "seconds": 0.0, "curve": [], "history": [], "best_step": 0, "halvings": [], "losses": []}
        self.best = trainer.averages  # of all validations, for F; the last, for P: what it is after lowers its score
        self.begin = time.monotonic()

    def seconds(self) -> float:
        """Time spent, that before interruptions included."""
        return time.monotonic() - self.begin

    def share(self) -> float:
        """How much of the run is done, 0..1, by steps or time."""
        budget = self.settings.minutes * 60 if self.settings.minutes else math.inf
        return min(1.0, max(self.state["step"] / self.settings.steps, self.seconds() / budget))

    def finished(self) -> bool:
        """Whether steps, time or patience are at their end."""
        s, last = self.settings, self.state["curve"][-1]["step"] if self.state["curve"] else 0
        waited = s.patience and not s.adversarial and (last - self.state["best_step"]) / s.validate_every >= s.patience
        return bool(waited) or self.share() >= 1.0

    def resume(self) -> bool:
        """Take up the checkpoint, if there is one; raises `UsageError` when it belongs to another run."""
        if not self.checkpoint.is_file():
            return False
        arrays, saved = read_checkpoint(self.checkpoint)
        if saved["run"] != self.identity:
            raise UsageError(f"{self.checkpoint}: belongs to a run with other settings or patches; remove it or give another --checkpoint")
        self.trainer.restore(arrays)
        self.state, self.best = self.state | saved["state"], arrays["best"]
        self.trainer.slower = 0.5 ** len(self.state["halvings"])
        self.begin = time.monotonic() - self.state["seconds"]
        return True

    def start(self, path: Path) -> None:
        """Take another run's averaged weights as a start: of its checkpoint, or of the model folder that it wrote."""
        arrays, saved = read_model(path, self.settings.network) if path.is_dir() else read_checkpoint(path)
        self.trainer.restore(arrays, weights_only=True)
        self.best = self.trainer.averages
        self.state["history"] = [*saved["state"].get("history", []), saved["state"].get("source", {}) | {"steps": saved["state"]["step"]}]

    def save(self) -> None:
        """Write the checkpoint."""
        self.state["seconds"] = self.seconds()
        if not self.trainer.writes:
            return
        write_checkpoint(self.checkpoint, self.trainer.arrays() | {"best": self.best}, {"run": self.identity, "state": self.state})

    def measured(self, psnr: float) -> None:
        """Note a validation's score and the losses since the last."""
        earlier = [point["psnr"] for point in self.state["curve"]]
        self.state["curve"].append({"step": self.state["step"], "loss": round(float(np.mean(self.state["losses"])), 6), "psnr": psnr})
        self.state["losses"] = []
        if self.settings.adversarial or psnr > max(earlier, default=-math.inf):
            self.best, self.state["best_step"] = [a.copy() for a in self.trainer.averages], self.state["step"]

    def step_back(self, what: str) -> None:
        """Go back to the checkpoint and on at half the rate; raises `ProcessingError` when there is none, or that was done twice."""
        halvings, rate = [*self.state["halvings"], self.state["step"]], self.settings.rate * self.trainer.slower
        problem, cause = f"step {self.state['step']}: {what}", "look for NaN and no-data in the patches"
        if len(halvings) > 2:
            raise ProcessingError(
                f"{problem} although the rate was halved twice; lower the learning rate (now {rate:g}) with --rate, --start-from {self.checkpoint} and "
                f"--checkpoint NEW.npz, or {cause}"
            )
        if not self.resume():
            raise ProcessingError(f"{problem}; lower the learning rate (now {rate:g}) with --rate, or {cause}; there is no checkpoint yet")
        self.state["halvings"], self.trainer.slower = halvings, 0.5 ** len(halvings)


def optimise(run: Run, training: Patches, validation: Patches, bicubic: float, diary: Diary, signals: Signals, report: Report) -> None:
    """The loop: steps until the run is finished, with validations and checkpoints between; see `train`."""
    import tensorflow as tf

    settings, trainer = run.settings, run.trainer
    inputs, places = settings.network.bands, [settings.network.bands.index(band) for band in settings.network.bands_out]
    alike = inputs == settings.network.bands_out  # inputs can be made anew from targets
    often = max(1, settings.validate_every // 50)
    while not run.finished():
        step = run.state["step"]
        random = np.random.default_rng([settings.seed, 2, step])
        chosen = batch_indices(len(training), settings.batch, settings.seed, step)
        lr, target = augmented(training.lr[chosen], training.target[chosen], settings.augmentation, random, inputs if alike else (), places)
        loss = trainer.step(lr, target, step, run.share())
        if not math.isfinite(loss):
            run.step_back(f"the loss is {loss}")
            continue
        run.state["losses"].append(loss)
        run.state["step"] = step + 1
        if (step + 1) % often == 0:
            diary.write(step + 1, loss=loss, rate=trainer.rate, critic_loss=trainer.critic_loss)
        report("training", run.share())
        if run.state["step"] % settings.validate_every == 0 or run.share() >= 1.0:
            psnr = scores(tf.function(trainer.averaged(), reduce_retracing=True), validation, settings.border)["psnr"]
            if not math.isfinite(psnr):
                run.step_back(f"the validation score is {psnr}")
                continue
            run.measured(psnr)
            run.save()
            diary.write(step + 1, validation_psnr=psnr, gain_over_bicubic=psnr - bicubic)
            report(f"validation: {psnr - bicubic:+.2f} dB over bicubic", 1.0)
        if signals.number:
            run.save()
            name = signal.Signals(signals.number).name
            raise StoppedError(f"{name} after step {step + 1} of {settings.steps}; the same command goes on from {run.checkpoint}", signals.number)


def require_new(out: Path, overwrite: bool) -> None:
    """Raise `OutputError` before any work when the model folder is there already."""
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: exists already; choose another name or give --overwrite")


def agreed(
    settings: TrainingSettings, training: Patches, validation: Patches, bands: tuple[str, ...], targets: tuple[str, ...] = ()
) -> tuple[TrainingSettings, Patches, Patches]:
    """Settings and patches that fit each other, from patches with `bands` and `targets` (see `train`); raises `UsageError` where they contradict."""
    net, chosen = settings.network, settings.network.model_fields_set
    values = net.model_dump()
    if "factor" not in chosen:
        values["factor"] = training.factor
    if "bands" not in chosen and not net.outputs:
        values |= {"bands": bands, "outputs": targets if targets != bands else ()}
    try:
        net = NetworkSettings(**values)
    except ValidationError as error:
        raise refusal(error) from error
    if net.factor != training.factor:
        raise UsageError(f"the pairs are x{training.factor}, the network is x{net.factor}; leave the factor out, or make pairs with such a target")
    for split, patches in (("training", training), ("validation", validation)):
        if not len(patches):
            raise UsageError(f"no {split} pair; expected at least one: run `otbsr pairs` with another --valid or a smaller --block")
    count = training.target.shape[-1]
    targets = targets or (bands if count == len(bands) else net.bands_out)
    if set(net.bands) - set(bands) or training.lr.shape[-1] != len(bands):
        raise UsageError(f"the pairs have the bands {' '.join(bands)}, the network takes {' '.join(net.bands)}; name bands that they have")
    if set(net.bands_out) - set(targets) or count != len(targets):
        raise UsageError(
            f"the pairs' targets have {count} bands ({' '.join(targets)}), the network gives {' '.join(net.bands_out)}; name outputs that they have"
        )
    chosen_bands = [bands.index(band) for band in net.bands], [targets.index(band) for band in net.bands_out]
    return settings.model_copy(update={"network": net}), training.select(*chosen_bands), validation.select(*chosen_bands)


def train(
    training: Patches,
    validation: Patches,
    settings: TrainingSettings,
    out: str | Path,
    name: str = "",
    bands: Sequence[str] = ("B4", "B3", "B2", "B8"),
    spacing: float = 10.0,
    data: str = "",
    seeds: Sequence[int] = (),
    checkpoint: str | Path | None = None,
    start_from: str | Path | None = None,
    tensorboard: str | Path | None = None,
    strategy: Any = None,
    targets: Sequence[str] = (),
    overwrite: bool = False,
    report: Report = silent,
) -> ModelFolder:
    """Train a network, F or (with `settings.adversarial`) P, and write its model folder `out`.

    training, validation: pairs of patches (DN, reflectance = DN * 1e-4) of input `spacing` metres with `bands` in the input and `targets` in the
    target (default: the same, or the network's outputs where these are as many). Factor and bands that the settings leave open are the patches';
    bands that they name are taken from them.
    checkpoint: file written at every validation; where it exists and has the same settings and data, the run goes on from it.
    start_from: checkpoint or model folder whose weights are the starting point. data: one sentence for the model card. seeds: of the simulated
    landscapes among the training data. tensorboard: folder for the curves, as TensorBoard reads them.
    strategy: of `tf.distribute` (see `open_strategy`): each batch is divided among its devices. F's result is that of one device but for rounding;
    what P's losses take over a batch (the mean score, the size of features) is taken over each device's part. Of several hosts the first writes.

    When the loss is no longer a number, the run goes back to its checkpoint and on at half the rate, twice at most. SIGINT and SIGTERM end it
    after the step in hand, with a checkpoint. Raises `UsageError`, `InputError`, `OutputError`, `StoppedError` on a signal, and `ProcessingError`
    when the loss stays no number or memory runs out.
    """
    import tensorflow as tf

    out = Path(out)
    require_new(out, overwrite)
    settings, training, validation = agreed(settings, training, validation, tuple(bands), tuple(targets))
    require_divisible(min(settings.batch, len(training)), settings.minutes, strategy)
    if 2 * settings.border + 5 >= training.lr.shape[1]:
        raise UsageError(f"patches of {training.lr.shape[1]} input pixels leave nothing within a border of {settings.border}; extract larger patches")
    identity = {"settings": settings.model_dump(mode="json"), "training": training.hash(), "validation": validation.hash()}
    with advice(settings, int(training.lr.shape[1]), checkpoint_of(checkpoint, out)), interrupts() as signals:
        trainer = Trainer(settings, strategy)
        run = Run(trainer, settings, checkpoint_of(checkpoint, out), identity)
        if not run.resume() and start_from:
            run.start(Path(start_from))
        run.state["source"] = {"data": data, "seeds": sorted(seeds), "pairs": len(training)}
        trainer.require_agreement(json.dumps([identity, run.state["step"]]))
        diary = Diary(tensorboard if trainer.writes else None)
        baseline = upsampler(base_kernel(settings.network), settings.network.factor, "bicubic")
        bicubic = scores(lambda lr: baseline(tf.constant(lr)), validation, settings.border)
        optimise(run, training, validation, bicubic["psnr"], diary, signals, report)
        trainer.averages = run.best
        fused = trainer.averaged()
        score = scores(tf.function(fused, reduce_retracing=True), validation, settings.border)
    state = run.state
    metrics = {
        "data": f"{len(validation)} validation patches from blocks kept apart from training",
        "psnr": score["psnr"],
        "psnr_bicubic": bicubic["psnr"],
        "gain_over_bicubic_db": round(score["psnr"] - bicubic["psnr"], 3),
        "psnr_bands": score["psnr_bands"],
        "psnr_bands_bicubic": bicubic["psnr_bands"],
    }
    record = {
        "data": data,
        "seeds": sorted({*seeds, *(seed for past in state["history"] for seed in past.get("seeds", []))}),
        "pairs": len(training),
        "validation_pairs": len(validation),
        "training_hash": identity["training"],
        "validation_hash": identity["validation"],
        "seed": settings.seed,
        "steps": state["step"],
        "best_step": state["best_step"],
        "seconds": round(run.seconds()),
        "history": state["history"],
        "commit": commit(),
        "settings": identity["settings"],
        "halvings": state["halvings"],
        "curve": state["curve"],
    }
    sidecar = Sidecar(
        name=name or out.name,
        method="perceptual" if settings.adversarial else "fidelity",
        factor=settings.network.factor,
        margin=margin(settings.network),
        input=ModelInput(bands=settings.network.bands, spacing=spacing),
        output=ModelOutput(bands=settings.network.bands_out),
        training=record,
        metrics=metrics,
        licence="Apache-2.0",
    )
    if not trainer.writes:
        return ModelFolder(out, sidecar)
    return save_model(fused, out, sidecar, card(sidecar, fused.count_params()), overwrite)


def commit() -> str:
    """The source's commit, or '' outside a repository."""
    done = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


KINDS = {
    "fidelity": ("Fidelity method", "It sharpens what the input hints at, and texture within a parcel is smoothed."),
    "perceptual": ("Perceptual method (GAN)", "It draws texture that is likely, not texture that is there: do not measure or count in it; compare it with F."),
}


def card(sidecar: Sidecar, parameters: int) -> str:
    """The model card, from the sidecar."""
    t, m, bands = sidecar.training, sidecar.metrics, sidecar.output.bands
    rows = "\n".join(f"| {b} | {x:.2f} | {y:.2f} | {y - x:+.2f} |" for b, x, y in zip(bands, m["psnr_bands_bicubic"], m["psnr_bands"], strict=True))
    past = ", then ".join(f"{run['steps']} steps on {run.get('data') or 'data not recorded'}" for run in t["history"])
    before = f"\nIt started from weights trained for {past}." if past else ""
    kind, limits = KINDS[sidecar.method]
    return f"""# {sidecar.name}

{kind}: a purely local residual network over bicubic, {parameters:,} parameters, x{sidecar.factor}, bands {" ".join(bands)},
{sidecar.input.spacing:g} m to {sidecar.input.spacing / sidecar.factor:g} m. In and out: reflectance x 10000. Margin {sidecar.margin} input pixels.

**Trained on** {t["data"] or "patches described in model.json"}:
{t["pairs"]} pairs, {t["steps"]} steps, {t["seconds"] / 60:.0f} minutes, seed {t["seed"]}.{before}

**Quality** on {m["data"]}, PSNR in dB (reflectance, MAX = 1):

| band | bicubic | this model | difference |
|---|---|---|---|
{rows}
| mean | {m["psnr_bicubic"]:.2f} | {m["psnr"]:.2f} | {m["gain_over_bicubic_db"]:+.2f} |

**Limits.** {limits} An object that left no trace at {sidecar.input.spacing:g} m does not come back. What was measured above holds for data like its
training data, and for no other.
"""


def read_manifests(folders: Sequence[str | Path]) -> list[tuple[Path, dict[str, Any]]]:
    """Folders that `otbsr pairs` wrote with their manifests, all of one kind; raises `InputError`, `UsageError`."""
    manifests = []
    for folder in map(Path, folders):
        try:
            manifests.append((folder, json.loads((folder / "manifest.json").read_text(encoding="utf-8"))))
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: no readable manifest.json ({error}); expected a folder that `otbsr pairs` wrote") from error
    if not manifests:
        raise UsageError("no folder of pairs given; expected at least one that `otbsr pairs` wrote")
    first = manifests[0][1]
    for folder, manifest in manifests:
        manifest.setdefault("outputs", manifest.get("bands"))
        for key in ("bands", "outputs", "spacing", "factor", "patch"):
            if key not in manifest:
                raise InputError(f"{folder}: manifest.json has no {key}; expected a folder that `otbsr pairs` wrote")
            if manifest[key] != first[key]:
                raise InputError(f"{folder}: {key} is {manifest[key]}, {manifests[0][0]} has {first[key]}; train on pairs of one kind")
    return manifests


def read_pairs(folders: Sequence[str | Path]) -> tuple[Patches, Patches, dict[str, Any]]:
    """Training and validation patches of the folders that `otbsr pairs` wrote, and `train`'s arguments bands, targets, spacing, data, seeds."""
    manifests = read_manifests(folders)
    first = manifests[0][1]

    def images(split: str, key: str) -> Iterator[Path]:
        for folder, manifest in manifests:
            if manifest["splits"][split]["accepted"]:
                yield folder / manifest["splits"][split][key]

    data = "; ".join(sorted({manifest["data"] for _, manifest in manifests} - {""}))
    seeds = [manifest["seed"] for _, manifest in manifests if manifest["seed"] is not None]
    return (
        read_patches(list(images("train", "lr")), list(images("train", "target"))),
        read_patches(list(images("valid", "lr")), list(images("valid", "target"))),
        {"bands": first["bands"], "targets": first["outputs"], "spacing": first["spacing"], "data": data, "seeds": seeds},
    )
