"""What a run goes on from: its checkpoint, another run's, or a model folder."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from otbsr.errors import InputError, one_line
from otbsr.files import new_file
from otbsr.methods.model_folder import ModelFolder
from otbsr.methods.networks import NetworkSettings, widen


def checkpoint_of(given: str | Path | None, out: Path) -> Path:
    """Where a run's checkpoint is."""
    return Path(given) if given else out.with_name(f"{out.name}.checkpoint.npz")


def write_checkpoint(path: Path, arrays: dict[str, list[Any]], state: dict[str, Any]) -> None:
    """Write lists of arrays and a JSON state to one .npz file; a killed run leaves the previous file whole."""
    with new_file(path, "check the path and the free space") as temporary, temporary.open("wb") as file:
        named: dict[str, Any] = {f"{name}_{i}": np.asarray(array) for name, many in arrays.items() for i, array in enumerate(many)}
        np.savez(file, state=np.array(json.dumps(state)), **named)


def read_checkpoint(path: Path, remedy: str = "remove it to train from the beginning") -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """What `write_checkpoint` wrote; raises `InputError`."""
    try:
        if path.is_file() and not zipfile.is_zipfile(path):  # numpy would advise to unpickle it
            raise ValueError("no whole .npz file")
        with np.load(path) as file:
            arrays: dict[str, list[Any]] = {}
            for key in (k for k in file.files if k != "state"):  # written in order
                arrays.setdefault(key.rsplit("_", 1)[0], []).append(file[key])
            return arrays, json.loads(str(file["state"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a checkpoint ({error}); {remedy}") from error


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
    source = {key: past[key] for key in ("data", "seeds", "footprints", "areas_complete", "pairs") if key in past}
    state = {"history": past.get("history", []), "source": source, "step": past.get("steps", 0)}
    return {"average": [ops.convert_to_numpy(v) for v in model.trainable_variables]}, {"state": state}
