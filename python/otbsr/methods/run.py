"""Where a run is, what it has measured, and the curves that it leaves."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from otbsr.errors import InputError, OutputError, ProcessingError, UsageError, one_line
from otbsr.methods.checkpoints import read_checkpoint, read_model, write_checkpoint
from otbsr.methods.settings import TrainingSettings
from otbsr.methods.trainer import Trainer


class Diary:
    """Scalars of a run in TensorBoard's event files; of TensorBoard itself nothing is needed."""

    def __init__(self, folder: str | Path | None) -> None:
        self.folder, self.writer = folder, cast("Any", None)
        if folder is not None:
            import tensorflow as tf
            from tensorflow.core.framework.summary_pb2 import SummaryMetadata

            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
                self.writer = tf.summary.create_file_writer(str(folder))
            except (OSError, tf.errors.OpError) as error:
                raise OutputError(f"{folder}: curves cannot be written ({disk_error(error)}); choose another folder") from error
            self.kind = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))

    def write(self, step: int, **values: float | None) -> None:
        """Write the values that are not None, as measured at the end of a step (from 1); raises `OutputError`."""
        if self.writer is None:
            return
        import tensorflow as tf

        try:
            with self.writer.as_default(step):
                for name, value in values.items():
                    if value is not None:
                        tf.summary.write(name, tf.constant(value, tf.float32), metadata=self.kind)
            self.writer.flush()
        except tf.errors.OpError as error:  # a full disk is a ResourceExhaustedError, as a full memory is
            raise OutputError(
                f"{self.folder}: curves cannot be written ({disk_error(error)}); check the free space: the same command goes on from its checkpoint"
            ) from error


def disk_error(error: Exception) -> str:
    """What the system said of a file, without what TensorFlow says around it."""
    return "No space left on device" if "No space left" in str(error) else getattr(error, "strerror", None) or one_line(error)


CHECKPOINT_SECONDS = 300.0
"""A checkpoint is written at least so often: between validations of a large network lies an hour."""


class Run:
    """Where a run is: the steps done and what was measured, the best weights, and the checkpoint that keeps all that."""

    def __init__(self, trainer: Trainer, settings: TrainingSettings, checkpoint: Path, identity: dict[str, Any]) -> None:
        self.trainer, self.settings, self.checkpoint, self.identity = trainer, settings, checkpoint, identity
        self.state: dict[str, Any] = {"step": 0, "seconds": 0.0, "curve": [], "history": [], "best_step": 0, "halvings": [], "losses": []}
        self.best = trainer.averages  # of all validations, for F; the last, for P: what it is after lowers its score
        self.begin = self.saved = time.monotonic()

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
        if not path.exists():
            raise InputError(f"{path}: no such checkpoint or model folder to start from; check --start-from")
        arrays, saved = (
            read_model(path, self.settings.network)
            if path.is_dir()
            else read_checkpoint(path, "give --start-from a checkpoint or a model folder of `otbsr train`")
        )
        self.trainer.restore(arrays, weights_only=True)
        self.best = self.trainer.averages
        self.state["history"] = [*saved["state"].get("history", []), saved["state"].get("source", {}) | {"steps": saved["state"]["step"]}]

    def due(self) -> bool:
        """Whether the last checkpoint is old, and the weights are such that one can go on from them."""
        return time.monotonic() - self.saved >= CHECKPOINT_SECONDS and all(np.isfinite(average).all() for average in self.trainer.averages)

    def save(self) -> None:
        """Write the checkpoint."""
        self.state["seconds"], self.saved = self.seconds(), time.monotonic()
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
