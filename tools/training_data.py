"""Make a training set: landscapes of many seeds, real aerial texture, and the pairs of patches of both; started again, it goes on.

Usage: python tools/training_data.py OUT [--landscapes 48] [--valid-landscapes 4] [--bands ten] [--factor 4] [--aerial FILE[,FILE...]]...

OUT/worlds and OUT/pairs hold one folder each; OUT/pairs.list names the finished folders of pairs, one a line, and is rewritten after each:
`otbsr train $(cat OUT/pairs.list) -o MODEL`. What there is finished is kept, so that a larger --landscapes adds to a set.

Seeds: training 1000-1999, validation 2000-2999; what tests a model (7, 3, 21, 55, 3000 and more) is never drawn here.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from otbsr.errors import InputError, OtbsrError
from otbsr.pairs.patches import PatchSettings, extract_pairs
from otbsr.world.aerial import observe_aerial
from otbsr.world.simulate import WorldSettings, simulate

TRAIN_SEED, VALID_SEED, SEEDS = 1000, 2000, 1000
URBAN = (0.7, 0.2, 0.9, 0.05, 0.5, 0.35)
DAYS = (75, 300)
PATCH, STEP = 32, 20
"""Input pixels of a patch, and from one to the next: with the training's border of 6 left out, all ground is used once."""
AERIAL = (
    *((1.0, east, south, 4) for east in (0, 5) for south in (0, 5)),
    (1.2, 0, 0, 4),
    (1.2, 5, 5, 4),
    (1.5, 0, 0, 6),
    (1.5, 5, 5, 6),
    (2.0, 0, 0, 8),
)
"""Of an aerial image: zoom, offset east and south (metres), step between patches. Real ground is scarce, so it is used in several sizes and places."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--landscapes", type=int, default=48, help="landscapes to train on, at most 1000 [%(default)s]")
    parser.add_argument("--valid-landscapes", type=int, default=4, help="landscapes to validate on, whole [%(default)s]")
    parser.add_argument("--extent", type=int, default=1800, help="side of a landscape, metres; a multiple of 60 [%(default)s]")
    parser.add_argument("--aerial", action="append", default=[], help="aerial image to train on, R,G,B,NIR in one file or in four with commas; repeat")
    parser.add_argument("--bands", default="B4,B3,B2,B8", help="as `otbsr simulate` has it: ten, all, or names; aerial images have the default's only")
    parser.add_argument("--factor", type=int, default=4, help="10 m over the target's spacing [%(default)s]")
    return parser.parse_args()


def landscape(seed: int, asked: argparse.Namespace) -> WorldSettings:
    """Town or country by turns; date, sun and noise at random."""
    random = np.random.default_rng([seed, 17])
    day = int(random.integers(*DAYS))
    gradient, noise, azimuth = (round(random.uniform(*span), digits) for *span, digits in ((0.2, 1.0, 2), (0.6, 1.4, 2), (140.0, 175.0, 1)))
    urban = URBAN[seed % len(URBAN)]
    return WorldSettings.parse(
        seed=seed,
        extent=asked.extent,
        urban=urban,
        gradient=gradient,
        day=day,
        noise=noise,
        sun_azimuth=azimuth,
        bands=tuple(asked.bands.split(",")),
        factor=asked.factor,
    )


def cut(world: Path, pair: dict[str, Any], out: Path, settings: PatchSettings, data: str) -> None:
    """Cut a world's pair of images, then drop the world: the same seed makes it again."""
    try:
        extract_pairs(world / pair["input"], world / pair["target"], out, settings, data=data)
    finally:
        shutil.rmtree(world)


def landscape_pairs(out: Path, seed: int, asked: argparse.Namespace, valid: bool) -> Path:
    """Pairs of one landscape, made unless they are there (whole folders only get the name)."""
    world, pairs = out / "worlds" / f"{seed}", out / "pairs" / f"{seed}"
    if not pairs.exists():
        pair = simulate(world, landscape(seed, asked))["pair"]
        about = f"simulated landscapes (otbsr simulate, {asked.extent / 1000:g} km each, various towns, seasons, suns and noises)"
        cut(world, pair, pairs, PatchSettings(patch=PATCH, step=STEP, valid=int(valid), seed=seed), about)
    return pairs


def aerial_pairs(out: Path, files: list[Path], factor: int, zoom: float, east: float, south: float, step: int) -> Path | None:
    """Pairs of one aerial image at one zoom and offset; None when it is too small for a patch."""
    name = f"aerial-{files[0].stem}-{zoom:g}-{east:g}-{south:g}"
    world, pairs = out / "worlds" / name, out / "pairs" / name
    if not pairs.exists():
        try:
            pair = observe_aerial(files, world, factor, zoom=zoom, offset=(east, south), seed=round(100 * zoom + 10 * east + south))["pair"]
            about = "real aerial texture seen by the simulated sensor"
            cut(world, pair, pairs, PatchSettings(patch=PATCH, step=step, valid=0), about)
        except InputError as error:
            print(f"{name}: left out: {error}", flush=True)
            return None
    return pairs


def same(out: Path, asked: argparse.Namespace) -> None:
    """Stop where the folder holds a set of other bands, factor or extent."""
    asks, path = {key: getattr(asked, key) for key in ("bands", "factor", "extent")}, out / "set.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else asks
    if found != asks:
        raise SystemExit(f"{out}: holds a set with {found}, asked for {asks}; choose another folder")
    path.write_text(json.dumps(asks) + "\n", encoding="utf-8")


def main() -> None:
    """Make what is missing, aerial images and validation first, and write the list after each folder."""
    asked = arguments()
    out: Path = asked.out.absolute()
    if max(asked.landscapes, asked.valid_landscapes) > SEEDS:
        raise SystemExit(f"{asked.landscapes} landscapes: at most {SEEDS} seeds are set aside for training and as many for validation")
    if asked.aerial and asked.bands != "B4,B3,B2,B8":
        raise SystemExit(f"--aerial with --bands {asked.bands}: aerial images have B4,B3,B2,B8 only")
    images = [[Path(name) for name in words.split(",")] for words in asked.aerial]
    if missing := [str(file) for files in images for file in files if not file.is_file()]:
        raise SystemExit(f"--aerial {missing[0]}: no such file")
    (out / "pairs").mkdir(parents=True, exist_ok=True)
    same(out, asked)
    for left in (out / "worlds", *(out / "pairs").glob(".*")):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    (out / "worlds").mkdir()
    jobs = [lambda files=files, draw=draw: aerial_pairs(out, files, asked.factor, *draw) for files in images for draw in AERIAL]
    jobs += [lambda seed=VALID_SEED + i: landscape_pairs(out, seed, asked, True) for i in range(asked.valid_landscapes)]
    jobs += [lambda seed=TRAIN_SEED + i: landscape_pairs(out, seed, asked, False) for i in range(asked.landscapes)]
    folders, begin = [], time.monotonic()
    for number, job in enumerate(jobs, 1):
        folder = job()
        if folder is not None:
            folders.append(folder)
        partial = out / f".pairs.list.{os.getpid()}"
        partial.write_text("".join(f"{path}\n" for path in folders), encoding="utf-8")
        os.replace(partial, out / "pairs.list")
        print(f"{number} of {len(jobs)}: {folder}, {(time.monotonic() - begin) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command goes on") from None
    except OtbsrError as error:
        raise SystemExit(f"training_data.py: error: {error}") from None
