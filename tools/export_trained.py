"""Make the model folder of what `tools/gpu_training.py train` brought back: SavedModel, sidecar, card, and its score on landscapes kept for validation.

    python tools/export_trained.py OUT/NAME.npz MODEL_FOLDER VALIDATION.npz [--history OUT/OTHER.npz] [--overwrite]

VALIDATION.npz has `lr` [n, h, w, bands] and `target` [n, factor h, factor w, bands], DN, of landscapes whose seeds are not trained on
(`tools/gpu_training.py` trains on 1000 to 1999, they have 2000 and more).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from otbsr.errors import OtbsrError
from otbsr.methods.patches import Patches
from otbsr.methods.settings import TrainingSettings
from otbsr.methods.training import finished, require_new, scores

GROUND = (
    "{share} simulated landscapes (otbsr simulate, 1.8 km each, various towns, seasons, suns and noises), views of two NAIP aerial scenes at 1 to 2.6 "
    "times their size, and dead leaves with their spectra and textures; inputs made anew for each step (tools/gpu_training.py)"
)


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
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1000, 1040)), help="of the landscapes")
    parser.add_argument("--footprints", type=Path, help="JSON list of the real ground trained on")
    parser.add_argument("--overwrite", action="store_true")
    asked = parser.parse_args()
    require_new(asked.out, asked.overwrite)
    with np.load(asked.weights) as file:
        record = json.loads(str(file["record"]))
        weights = [file[key].astype(np.float32) for key in file.files if key != "record"]
    settings = TrainingSettings.model_validate(record["settings"])
    network = settings.network
    model = sr4rs.serving_form(sr4rs.generator(network, training=True), network) if network.body == "sr4rs" else assemble(network, plain_convolution, "fused")
    model.set_weights(weights)
    with np.load(asked.validation) as file:
        validation = Patches(file["lr"][..., : len(network.bands)], file["target"][..., : len(network.bands_out)])
    baseline = upsampler(base_kernel(network), network.factor, "bicubic")
    before = scores(lambda lr: baseline(tf.constant(lr)), validation, settings.border)
    after = scores(tf.function(model, reduce_retracing=True), validation, settings.border)
    print(f"{asked.weights.stem}: {record['steps']} steps, validation {after['psnr']:.2f} dB, bicubic {before['psnr']:.2f} dB")
    data = (
        GROUND.format(share=len(asked.seeds))
        if set(record["mix"]) != {"wide"}
        else GROUND.format(share=16).split(", views")[0] + "; inputs made anew for each step"
    )
    footprints: Any = json.loads(asked.footprints.read_text()) if asked.footprints and set(record["mix"]) != {"wide"} else []
    complete = asked.footprints is not None or "aerial" not in record["mix"]  # a study must know of ground that it is not told of
    past = []
    if asked.history:
        with np.load(asked.history) as file:
            old = json.loads(str(file["record"]))
        past = [
            {
                "data": data,
                "pairs": 0,
                "steps": old["steps"],
                "seconds": old["seconds"],
                "seeds": asked.seeds,
                "footprints": footprints,
                "areas_complete": complete,
            }
        ]
    finished(
        model,
        asked.out,
        settings,
        {
            "data": data,
            "seeds": asked.seeds,
            "footprints": footprints,
            "areas_complete": complete,
            "pairs": record["steps"] * settings.batch,
            "validation_pairs": len(validation),
            "training_hash": "",
            "validation_hash": validation.hash(),
            "seed": settings.seed,
            "steps": record["steps"],
            "best_step": record["steps"],
            "seconds": round(record["seconds"]),
            "device": record["device"],
            "history": past,
            "settings": record["settings"],
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
