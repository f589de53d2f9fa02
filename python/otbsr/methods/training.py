"""Training of the fidelity network: one loop, from the patches images that OTB's PatchesExtraction wrote to a model folder.

A run is a function of its settings, its patches and its seed: batches and augmentation are drawn from (seed, step), so that a run
resumed from a checkpoint does what the uninterrupted one would have done. (With a time budget, the schedule follows the clock.)
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from otbsr.errors import InputError, OutputError, ProcessingError, UsageError
from otbsr.methods.losses import LossWeights, fidelity_loss
from otbsr.methods.model_folder import ModelFolder, ModelInput, ModelOutput, Sidecar, save_model
from otbsr.methods.networks import NetworkSettings, bicubic_kernel, fidelity_network, fuse, margin, upsampler
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
    average: float = Field(0.999, ge=0, lt=1, description="decay of the moving average of weights, which is what is validated and exported")
    border: int = Field(4, ge=0, description="input pixels at each side of a patch left out of loss and scores: zero padding spoils them")
    validate_every: int = Field(1000, ge=1, description="steps between validations and checkpoints")


def read_settings(path: Path | None = None, **options: Any) -> TrainingSettings:
    """Settings from a YAML or JSON file (or the defaults), replaced by the options that are not None; raises `UsageError`."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML or JSON ({error}); see the settings in any model.json") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: holds {type(values).__name__}, expected keys and values, like the settings in any model.json")
    try:
        return TrainingSettings.model_validate(values | {key: value for key, value in options.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(p) for p in first["loc"])
        raise UsageError(f"{path or 'settings'}: {key}: {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}; correct the setting") from error


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
    batches = list(dataset.get_tf_dataset(batch_size=64, drop_remainder=False).as_numpy_iterator())
    patches = Patches(*(np.concatenate([np.asarray(batch[key], np.float32) for batch in batches]) for key in ("lr", "target")))
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


def augmented(lr: Array, target: Array, how: Augmentation, random: np.random.Generator) -> tuple[Array, Array]:
    """Turn, flip, brighten and offset input and target of one batch alike, and add noise to the input."""
    if how.flips:
        turns, flip = int(random.integers(4)), int(random.integers(2))
        lr, target = (np.rot90(x, turns, (1, 2))[:, :, :: -1 if flip else 1] for x in (lr, target))
    n, bands = len(lr), lr.shape[-1]
    gain = np.exp(random.normal(0, how.gain, (n, 1, 1, 1)) + random.normal(0, how.band_gain, (n, 1, 1, bands))).astype(np.float32)
    offset = random.normal(0, how.offset, (n, 1, 1, bands)).astype(np.float32)
    lr, target = lr * gain + offset, target * gain + offset
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


def sensor_kernels(bands: Sequence[str], factor: int) -> Array:
    """Sentinel-2's point spread from the fine to the coarse grid, one sum-1 kernel a band: [k, k, bands], k an odd multiple of factor."""
    from otbsr.world.sensors import degradation_kernel

    taps = [degradation_kernel(band, factor) for band in bands]
    radius = max(math.ceil((t.size - factor) / 2 / factor) for t in taps)
    size = factor * (2 * radius + 1)
    taps = [np.pad(t, (size - t.size) // 2) for t in taps]
    return np.stack([np.outer(t, t) for t in taps], -1).astype(np.float32)


def scores(predict: Callable[[Array], Any], patches: Patches, border: int, batch: int = 32) -> dict[str, Any]:
    """PSNR in dB for reflectance with MAX = 1 (per band over all patches, and their mean), border left out; target in DN x 1e-4."""
    squares = np.zeros(patches.lr.shape[-1])
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


# --- the loop ----------------------------------------------------------------------------------------------------------------


class Trainer:
    """Network, optimiser and moving average of weights; one `step` at a time."""

    def __init__(self, settings: TrainingSettings, kernels: Array) -> None:
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(settings.seed)
        self.settings = settings
        self.model = fidelity_network(settings.network)
        self.optimizer = keras.optimizers.Adam(settings.rate, global_clipnorm=settings.clip)
        self.optimizer.build(self.model.trainable_variables)
        self.averages = [tf.Variable(v.value, trainable=False) for v in self.model.trainable_variables]
        factor, spread, cut = settings.network.factor, settings.network.spread, settings.border

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
        def update(lr: Any, target: Any, decay: Any) -> Any:
            with tf.GradientTape() as tape:
                result = self.model(lr, training=True)
                size, fine = tf.shape(lr)[1], cut * factor
                lr_in = lr[:, cut : size - cut, cut : size - cut] / spread
                target_in = target[:, fine : factor * size - fine, fine : factor * size - fine] / spread
                result_in = result[:, fine : factor * size - fine, fine : factor * size - fine] / spread
                loss = fidelity_loss(lr_in, target_in, result_in, kernels, factor, settings.loss)
            self.optimizer.apply(tape.gradient(loss, self.model.trainable_variables), self.model.trainable_variables)
            for average, variable in zip(self.averages, self.model.trainable_variables, strict=True):
                average.assign(decay * average + (1.0 - decay) * variable)
            return loss

        self.update = update

    def step(self, lr: Array, target: Array, number: int, share: float) -> float:
        """One update; `share` 0..1 of the run drives the cosine. Returns the loss before it."""
        import tensorflow as tf

        s = self.settings
        rate = s.final_rate + (s.rate - s.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        self.optimizer.learning_rate.assign(rate * min(1.0, (number + 1) / max(1, s.warmup)))
        decay = min(s.average, (number + 1) / (number + 10))
        return float(self.update(tf.constant(lr), tf.constant(target), tf.constant(decay, tf.float32)))

    def arrays(self) -> dict[str, list[Any]]:
        """Everything that a checkpoint keeps."""
        return {
            "weight": [v.numpy() for v in self.model.trainable_variables],
            "average": [v.numpy() for v in self.averages],
            "optimizer": [np.asarray(v) for v in self.optimizer.variables],
        }

    def restore(self, arrays: dict[str, list[Any]], weights_only: bool = False) -> None:
        """Take a checkpoint's arrays; `weights_only`: start anew from its averaged weights."""
        places = {"weight": self.model.trainable_variables, "average": self.averages, "optimizer": self.optimizer.variables}
        sources = {"weight": "average", "average": "average"} if weights_only else {name: name for name in places}
        for name, source in sources.items():
            for variable, value in zip(places[name], arrays[source], strict=True):
                variable.assign(value)

    def averaged(self) -> Any:
        """The serving form of the network with averaged weights."""
        current = [v.numpy() for v in self.model.trainable_variables]
        for variable, average in zip(self.model.trainable_variables, self.averages, strict=True):
            variable.assign(average)
        plain = fuse(self.model, self.settings.network)
        for variable, value in zip(self.model.trainable_variables, current, strict=True):
            variable.assign(value)
        return plain


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
    overwrite: bool = False,
    report: Report = silent,
) -> ModelFolder:
    """Train the fidelity network and write its model folder `out`.

    training, validation: pairs of patches (DN, reflectance = DN * 1e-4) of input `spacing` metres with `bands`.
    checkpoint: file written at every validation; where it exists and has the same settings and data, the run goes on from it.
    start_from: checkpoint whose averaged weights are the starting point. data: one sentence for the model card. seeds: of the simulated
    landscapes among the training data.
    Raises `UsageError`, `InputError`, `OutputError`, and `ProcessingError` when the loss is no longer a number.
    """
    import tensorflow as tf

    out = Path(out)
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: exists already; choose another name or give --overwrite")
    if training.factor != settings.network.factor or training.lr.shape[-1] != settings.network.bands:
        raise UsageError(
            f"patches are x{training.factor} with {training.lr.shape[-1]} bands, the network is x{settings.network.factor} with {settings.network.bands}: "
            "make the settings and the patches agree"
        )
    if 2 * settings.border + 5 >= training.lr.shape[1]:
        raise UsageError(f"patches of {training.lr.shape[1]} input pixels leave nothing within a border of {settings.border}; extract larger patches")
    run = {"settings": settings.model_dump(mode="json"), "training": training.hash(), "validation": validation.hash()}
    trainer = Trainer(settings, sensor_kernels(bands, settings.network.factor))
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "curve": [], "history": []}
    checkpoint = Path(checkpoint) if checkpoint else out.with_name(f"{out.name}.checkpoint.npz")
    if checkpoint.is_file():
        arrays, saved = read_checkpoint(checkpoint)
        if saved["run"] != run:
            raise UsageError(f"{checkpoint}: belongs to a run with other settings or patches; remove it or give another --checkpoint")
        trainer.restore(arrays)
        state = saved["state"]
    elif start_from:
        arrays, saved = read_checkpoint(Path(start_from))
        trainer.restore(arrays, weights_only=True)
        state["history"] = [*saved["state"].get("history", []), saved["state"].get("source", {}) | {"steps": saved["state"]["step"]}]
    state["source"] = {"data": data, "seeds": sorted(seeds), "pairs": len(training)}

    baseline = upsampler(bicubic_kernel(settings.network.bands, settings.network.factor), settings.network.factor, "bicubic")
    bicubic = scores(lambda lr: baseline(tf.constant(lr)), validation, settings.border)
    begin, losses = time.monotonic() - state["seconds"], []
    budget = settings.minutes * 60 if settings.minutes else math.inf

    def share() -> float:
        return min(1.0, max(state["step"] / settings.steps, (time.monotonic() - begin) / budget))

    while share() < 1.0:
        step = state["step"]
        random = np.random.default_rng([settings.seed, 2, step])
        chosen = batch_indices(len(training), settings.batch, settings.seed, step)
        lr, target = augmented(training.lr[chosen], training.target[chosen], settings.augmentation, random)
        loss = trainer.step(lr, target, step, share())
        if not math.isfinite(loss):
            raise ProcessingError(f"step {step}: the loss is {loss}; lower the learning rate (now {settings.rate:g}) and resume from {checkpoint}")
        losses.append(loss)
        state["step"] = step + 1
        report("training", share())
        if state["step"] % settings.validate_every == 0 or share() >= 1.0:
            score = scores(tf.function(trainer.averaged(), reduce_retracing=True), validation, settings.border)
            state["curve"].append({"step": step + 1, "loss": round(float(np.mean(losses)), 6), "psnr": score["psnr"]})
            state["seconds"] = time.monotonic() - begin
            losses = []
            write_checkpoint(checkpoint, trainer.arrays(), {"run": run, "state": state})
            report(f"validation: {score['psnr'] - bicubic['psnr']:+.2f} dB over bicubic", 1.0)

    fused = trainer.averaged()
    score = scores(tf.function(fused, reduce_retracing=True), validation, settings.border)
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
        "training_hash": run["training"],
        "validation_hash": run["validation"],
        "seed": settings.seed,
        "steps": state["step"],
        "seconds": round(time.monotonic() - begin),
        "history": state["history"],
        "commit": commit(),
        "settings": run["settings"],
        "curve": state["curve"],
    }
    sidecar = Sidecar(
        name=name or out.name,
        method="fidelity",
        factor=settings.network.factor,
        margin=margin(settings.network),
        input=ModelInput(bands=tuple(bands), spacing=spacing),
        output=ModelOutput(bands=tuple(bands)),
        training=record,
        metrics=metrics,
        licence="Apache-2.0",
    )
    return save_model(fused, out, sidecar, card(sidecar, fused.count_params()), overwrite)


def commit() -> str:
    """The source's commit, or '' outside a repository."""
    done = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def card(sidecar: Sidecar, parameters: int) -> str:
    """The model card, from the sidecar."""
    t, m, bands = sidecar.training, sidecar.metrics, sidecar.input.bands
    rows = "\n".join(f"| {b} | {x:.2f} | {y:.2f} | {y - x:+.2f} |" for b, x, y in zip(bands, m["psnr_bands_bicubic"], m["psnr_bands"], strict=True))
    past = ", then ".join(f"{run['steps']} steps on {run.get('data') or 'data not recorded'}" for run in t["history"])
    before = f"\nIt started from weights trained for {past}." if past else ""
    return f"""# {sidecar.name}

Fidelity method: a purely local residual network over bicubic, {parameters:,} parameters, x{sidecar.factor}, bands {" ".join(bands)},
{sidecar.input.spacing:g} m to {sidecar.input.spacing / sidecar.factor:g} m. In and out: reflectance x 10000. Margin {sidecar.margin} input pixels.

**Trained on** {t["data"] or "patches described in model.json"}:
{t["pairs"]} pairs, {t["steps"]} steps, {t["seconds"] / 60:.0f} minutes, seed {t["seed"]}.{before}

**Quality** on {m["data"]}, PSNR in dB (reflectance, MAX = 1):

| band | bicubic | this model | difference |
|---|---|---|---|
{rows}
| mean | {m["psnr_bicubic"]:.2f} | {m["psnr"]:.2f} | {m["gain_over_bicubic_db"]:+.2f} |

**Limits.** It sharpens what the input hints at; an object that left no trace at {sidecar.input.spacing:g} m does not come back, and texture within a
parcel is smoothed. What was measured above holds for data like its training data, and for no other.
"""


def read_pairs(folders: Sequence[str | Path]) -> tuple[Patches, Patches, dict[str, Any]]:
    """Training and validation patches of the folders that `otbsr pairs` wrote, and `train`'s arguments bands, spacing, data, seeds."""
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
        for key in ("bands", "spacing", "factor", "patch"):
            if manifest[key] != first[key]:
                raise InputError(f"{folder}: {key} is {manifest[key]}, {manifests[0][0]} has {first[key]}; train on pairs of one kind")

    def images(split: str, key: str) -> Iterator[Path]:
        for folder, manifest in manifests:
            if manifest["splits"][split]["accepted"]:
                yield folder / manifest["splits"][split][key]

    data = "; ".join(sorted({manifest["data"] for _, manifest in manifests} - {""}))
    seeds = [manifest["seed"] for _, manifest in manifests if manifest["seed"] is not None]
    return (
        read_patches(list(images("train", "lr")), list(images("train", "target"))),
        read_patches(list(images("valid", "lr")), list(images("valid", "target"))),
        {"bands": first["bands"], "spacing": first["spacing"], "data": data, "seeds": seeds},
    )
