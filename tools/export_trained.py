"""Make the model folder of what `tools/gpu_training.py train` brought back: SavedModel, sidecar, card, and its score on landscapes kept for validation.

    python tools/export_trained.py OUT/NAME.npz MODEL_FOLDER VALIDATION.npz --ground GROUND.npz [--history OUT/OTHER.npz] [--footprints JSON] [--overwrite]

GROUND.npz is the archive that was trained on (`tools/gpu_training.py ground`): the sidecar tells its landscapes' seeds.
VALIDATION.npz has `lr` [n, h, w, bands] and `target` [n, factor h, factor w, bands], DN, of landscapes whose seeds are not trained on
(`tools/gpu_training.py` trains on 1000 to 1999, they have 2000 and more).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from otbsr.errors import OtbsrError, UsageError
from otbsr.methods.patches import Patches
from otbsr.methods.settings import TrainingSettings
from otbsr.methods.training import finished, require_new, scores

LANDSCAPES = "{count} simulated landscapes (otbsr simulate, 1.8 km each, various towns, seasons, suns and noises)"
AERIAL = ", views of two NAIP aerial scenes at 1 to 2.6 times their size, and dead leaves with their spectra and textures"
ANEW = "; inputs made anew for each step (tools/gpu_training.py)"


def told(record: dict[str, Any], ground: Path, footprints: Path | None) -> dict[str, Any]:
    """What a sidecar tells of one training: its ground and its length.

    record: as `tools/gpu_training.py` wrote it; ground: the archive, of whose landscapes some have four bands only; footprints: JSON list of the real
    ground in it, without which the sidecar does not claim to know all ground of a training that had aerial views.
    """
    bands: dict[int, int] = {}
    with np.load(ground) as archive:
        for key in archive.files:
            kind, name, *_ = key.split("/")
            if kind == "landscape":
                bands[int(name)] = bands.get(int(name), 0) + 1
    aerial = "aerial" in record["mix"]
    seeds = sorted(seed for seed, count in bands.items() if seed < 2000 and count >= len(record["settings"]["network"]["bands"]))
    return {
        "data": LANDSCAPES.format(count=len(seeds)) + (AERIAL if aerial else "") + ANEW,
        "seeds": seeds,
        "footprints": json.loads(footprints.read_text()) if footprints and aerial else [],
        "areas_complete": footprints is not None or not aerial,  # a study must know of ground that it is not told of
        "pairs": record["steps"] * record["settings"]["batch"],
        "steps": record["steps"],
        "seconds": round(record["seconds"]),
    }


def main() -> None:
    """Read the weights, build the serving form, score it, write the folder."""
    import tensorflow as tf

    from otbsr.methods import sr4rs
    from otbsr.methods.networks import assemble, base_kernel, plain_convolution, upsampler

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("--history", type=Path, help="the weights that it started from")
    parser.add_argument("--ground", type=Path, required=True, help="the archive trained on")
    parser.add_argument("--footprints", type=Path, help="JSON list of the real ground trained on")
    parser.add_argument("--overwrite", action="store_true")
    asked = parser.parse_args()
    require_new(asked.out, asked.overwrite)
    with np.load(asked.weights) as file:
        record = json.loads(str(file["record"]))
        weights = [file[key].astype(np.float32) for key in file.files if key != "record"]
    if record["from"] and not asked.history:
        raise UsageError(f"{asked.weights}: started from {record['from']}; give the weights of that with --history, so that the sidecar tells its ground too")
    # The clock ended the run, not the plan of steps: what repeats it with `otbsr train` is the number that was run.
    settings = TrainingSettings.model_validate(record["settings"] | {"steps": record["steps"]})
    network = settings.network
    model = sr4rs.serving_form(sr4rs.generator(network, training=True), network) if network.body == "sr4rs" else assemble(network, plain_convolution, "fused")
    model.set_weights(weights)
    with np.load(asked.validation) as file:
        validation = Patches(file["lr"][..., : len(network.bands)], file["target"][..., : len(network.bands_out)])
    baseline = upsampler(base_kernel(network), network.factor, "bicubic")
    before = scores(lambda lr: baseline(tf.constant(lr)), validation, settings.border)
    after = scores(tf.function(model, reduce_retracing=True), validation, settings.border)
    print(f"{asked.weights.stem}: {record['steps']} steps, validation {after['psnr']:.2f} dB, bicubic {before['psnr']:.2f} dB")
    past = []
    if asked.history:
        with np.load(asked.history) as file:
            past = [told(json.loads(str(file["record"])), asked.ground, asked.footprints)]
    finished(
        model,
        asked.out,
        settings,
        {
            **told(record, asked.ground, asked.footprints),
            "validation_pairs": len(validation),
            "training_hash": "",
            "validation_hash": validation.hash(),
            "seed": settings.seed,
            "best_step": record["steps"],
            "device": record["device"],
            "history": past,
            "settings": settings.model_dump(mode="json"),
            "halvings": 0,
            "curve": record["losses"],
        },
        after,
        before,
        overwrite=asked.overwrite,
    )


if __name__ == "__main__":
    try:
        main()
    except OtbsrError as error:
        raise SystemExit(f"export_trained.py: error: {error}") from None
