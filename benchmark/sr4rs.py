"""Trains SR4RS's generator on the pairs and for the time that a model of ours had: what `benchmark/quality.py` compares F-base and P with.

    python benchmark/sr4rs.py PAIRS... -o build/quality/sr4rs-x4 --minutes 60 [--recipe published]

`published`: its documentation's example, as far as it can be had here: L1 200 at three scales, least-squares adversarial term of weight 1, batches of
4, Adam at a constant 2e-4; no VGG term. `quick` (the default) is kinder to it where hours are few: L1 alone (its own --pretrain), one pair a
step, 3e-3 falling along a cosine. Validation is on a few pairs only, since its forward pass alone takes seconds for each. A step takes 19 s of one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from otbsr.errors import OtbsrError
from otbsr.methods.devices import limit_threads
from otbsr.methods.patches import Patches, read_pairs
from otbsr.methods.settings import TrainingSettings
from otbsr.methods.training import train
from otbsr.progress import bars

COMMON = {
    "network": {"body": "sr4rs", "channels": 64, "blocks": 16, "back_projection": 0, "spread": 10000.0},
    "loss": {"pixel": 200.0, "gradient": 0.0, "spectral": 0.0, "consistency": 0.0},
    "steps": 10_000_000,
    "clip": 1e9,
    "validate_every": 10_000_000,
}
RECIPES = {
    # deception_loss has a half before its square, SR4RS has none: weight 2.
    "published": {
        "batch": 4,
        "rate": 2e-4,
        "final_rate": 2e-4,
        "warmup": 0,
        "average": 0.0,
        "adversarial": {
            "weight": 2.0,
            "features": 0.0,
            "texture": 0.0,
            "pattern": 0.0,
            "start": 0.0,
            "ramp": 1e-6,
            "relativistic": False,
            "channels": 64,
            "rate": 2e-4,
        },
    },
    "quick": {"batch": 1, "rate": 3e-3, "warmup": 10, "average": 0.9},
}


def main() -> None:
    """Train and print the scores on the few validation pairs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="+", help="folders that `otbsr pairs` wrote")
    parser.add_argument("-o", "--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--minutes", type=float, required=True, help="wall time of the training")
    parser.add_argument("--recipe", choices=RECIPES, default="quick")
    parser.add_argument("--validation", type=int, default=16, help="validation pairs, evenly spread over all there are")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="limit of threads, as `otbsr train` has it")
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args()
    settings = TrainingSettings.model_validate(COMMON | RECIPES[options.recipe] | {"minutes": options.minutes, "seed": options.seed})
    try:
        limit_threads(options.threads)
        training, validation, common = read_pairs(options.pairs)
        few = slice(None, None, max(1, len(validation) // options.validation))
        validation = Patches(validation.lr[few], validation.target[few])
        with bars(False, False) as report:
            folder = train(training, validation, settings, options.out, "sr4rs-x4", overwrite=options.overwrite, report=report, **common)
    except OtbsrError as error:
        raise SystemExit(f"sr4rs: error: {error}") from None
    record, metrics = folder.sidecar.training, folder.sidecar.metrics
    print(f"{record['steps']} steps in {record['seconds'] / 60:.1f} min; PSNR {metrics['psnr']} dB, bicubic {metrics['psnr_bicubic']} dB: {options.out}")


if __name__ == "__main__":
    main()
