"""Training of F and P: the loop, from pairs of patches to a model folder.

A run is a function of its settings, its patches and its seed: batches and augmentation are drawn from (seed, step), so that a run
resumed from a checkpoint does what the uninterrupted one would have done. (With a time budget, the schedule follows the clock.)
Reading patches and exporting need TensorFlow; the steps (trainer.py) do not.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from otbsr.errors import StoppedError, UsageError
from otbsr.methods.augmentation import augmented
from otbsr.methods.checkpoints import checkpoint_of
from otbsr.methods.devices import require_divisible
from otbsr.methods.faults import Signals, advice, interrupts
from otbsr.methods.model_card import card
from otbsr.methods.model_folder import ModelFolder, ModelInput, ModelOutput, Sidecar, require_new, save_model, trained_areas
from otbsr.methods.networks import NetworkSettings, base_kernel, margin, upsampler
from otbsr.methods.patches import NO_PAIR, Patches, batch_indices
from otbsr.methods.run import Diary, Run
from otbsr.methods.settings import TrainingSettings, refusal
from otbsr.methods.trainer import Trainer
from otbsr.progress import Report, silent

Array = NDArray[np.float32]


def scores(predict: Callable[[Array], Any], patches: Patches, border: int, batch: int = 32) -> dict[str, Any]:
    """PSNR in dB for reflectance with MAX = 1 (per band over all patches, and their mean), border left out; target in DN x 1e-4."""
    squares = np.zeros(patches.target.shape[-1])
    count, cut = 0, border * patches.factor
    for i in range(0, len(patches), batch):
        result = np.asarray(predict(patches.lr[i : i + batch]))
        error = (result - patches.target[i : i + batch])[:, cut : result.shape[1] - cut, cut : result.shape[2] - cut].astype(np.float64)
        squares += (error**2).sum((0, 1, 2))
        count += error.shape[0] * error.shape[1] * error.shape[2]
    with np.errstate(divide="ignore"):  # infinite errors are told elsewhere
        per_band = 10 * np.log10(1e8 / (squares / count + 1e-12))
    return {"psnr": round(float(per_band.mean()), 3), "psnr_bands": [round(float(value), 3) for value in per_band]}


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
            training.require_numbers(chosen)
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
        elif run.due():
            run.save()
        if signals.number:
            run.save()
            name = signal.Signals(signals.number).name
            raise StoppedError(f"{name} after step {step + 1} of {settings.steps}; the same command goes on from {run.checkpoint}", signals.number)


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
            raise UsageError(f"no {split} pair; {NO_PAIR}")
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
    footprints: Sequence[dict[str, Any]] | None = None,
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
    checkpoint: file written at every validation, and at least every five minutes; where it exists and has the same settings and data, the run goes on from it.
    start_from: checkpoint or model folder whose weights are the starting point. data: one sentence for the model card. seeds: of the simulated
    landscapes among the training data. footprints: the real ground among it, each {"crs", "bounds": [xmin, ymin, xmax, ymax]} in that CRS; None: not
    known. tensorboard: folder for the curves, as TensorBoard reads them.
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
        own, past = {"seeds": seeds, "footprints": footprints}, run.state["history"]
        areas = trained_areas([own, *past]) | {"areas_complete": trained_areas([own, *past[-1:]])["areas_complete"]}  # the last one speaks for its past
        run.state["source"] = {"data": data, "pairs": len(training)} | areas
        trainer.require_agreement(json.dumps([identity, run.state["step"]]))
        diary = Diary(tensorboard if trainer.writes else None)
        baseline = upsampler(base_kernel(settings.network), settings.network.factor, "bicubic")
        bicubic = scores(lambda lr: baseline(tf.constant(lr)), validation, settings.border)
        if not math.isfinite(bicubic["psnr"]):
            validation.require_numbers(range(len(validation)))
        optimise(run, training, validation, bicubic["psnr"], diary, signals, report)
        trainer.averages = run.best
        fused = trainer.averaged()
        score = scores(tf.function(fused, reduce_retracing=True), validation, settings.border)
    state = run.state
    record = {
        "data": data,
        **areas,
        "pairs": len(training),
        "validation_pairs": len(validation),
        "training_hash": identity["training"],
        "validation_hash": identity["validation"],
        "seed": settings.seed,
        "steps": state["step"],
        "best_step": state["best_step"],
        "seconds": round(run.seconds()),
        "history": state["history"],
        "settings": identity["settings"],
        "halvings": state["halvings"],
        "curve": state["curve"],
    }
    return finished(fused, out, settings, record, score, bicubic, name=name, spacing=spacing, overwrite=overwrite, write=trainer.writes)


def finished(
    fused: Any,
    out: Path,
    settings: TrainingSettings,
    record: dict[str, Any],
    score: dict[str, Any],
    bicubic: dict[str, Any],
    name: str = "",
    spacing: float = 10.0,
    overwrite: bool = False,
    write: bool = True,
) -> ModelFolder:
    """The model folder of a trained network in its serving form.

    record: what the sidecar says of the training; score, bicubic: of the network and of bicubic on the validation pairs (`scores`). Not `write`: only
    what the folder will be (of several hosts one writes). Raises `OutputError`.
    """
    metrics = {
        "data": f"{record['validation_pairs']} validation patches from blocks kept apart from training",
        "psnr": score["psnr"],
        "psnr_bicubic": bicubic["psnr"],
        "gain_over_bicubic_db": round(score["psnr"] - bicubic["psnr"], 3),
        "psnr_bands": score["psnr_bands"],
        "psnr_bands_bicubic": bicubic["psnr_bands"],
    }
    sidecar = Sidecar(
        name=name or out.name,
        method="perceptual" if settings.adversarial else "fidelity",
        factor=settings.network.factor,
        margin=margin(settings.network),
        input=ModelInput(bands=settings.network.bands, spacing=spacing),
        output=ModelOutput(bands=settings.network.bands_out),
        training=record | {"commit": commit()},
        metrics=metrics,
        licence="Apache-2.0",
    )
    if not write:
        return ModelFolder(out, sidecar)
    return save_model(fused, out, sidecar, card(sidecar, fused.count_params()), overwrite)


def commit() -> str:
    """The source's commit, or '' outside a repository."""
    done = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()
