"""A study's folder as its first half leaves it, with maps whose errors are planted; for tests of its second half."""

from __future__ import annotations

import json
from pathlib import Path

import image_files
import numpy as np

CLASSES = [
    {"code": 1, "name": "building", "colour": "#d7301f", "artificial": True, "role": "building"},
    {"code": 2, "name": "road", "colour": "#737373", "artificial": True, "role": "road"},
    {"code": 3, "name": "crop", "colour": "#f2e26b", "artificial": False, "role": ""},
    {"code": 4, "name": "trees", "colour": "#33a02c", "artificial": False, "role": ""},
]
ARMS = {
    "native": ("Native 10 m", "native"),
    "bicubic": ("Bicubic", "interpolation"),
    "bicubic-context": ("Bicubic and context", "context"),
    "unsharp": ("Unsharp", "unsharp"),
    "f": ("Method F", "model"),
    "spot": ("Spot oracle", "oracle"),
    "shuffled": ("Shuffled detail", "control"),
}
WRONG = {"native": 0.34, "bicubic": 0.3, "bicubic-context": 0.26, "unsharp": 0.26, "f": 0.2, "spot": 0.1, "shuffled": 0.27}
"""Share of pixels that each arm has wrong."""


def write(path: Path, pixels: np.ndarray, corner: tuple[float, float], spacing: float = 2.5, nodata: float | None = None) -> None:
    image_files.write(path, pixels, transform=image_files.at(spacing, *corner), compress="deflate", nodata=nodata)


def landscape(random: np.random.Generator, side: int) -> np.ndarray:
    """Parcels of 20 pixels, roads of 2, 4 and 8 pixels, buildings of 3 to 20 pixels."""
    cover = random.choice([3, 4], (side // 20 + 1, side // 20 + 1)).repeat(20, 0).repeat(20, 1)[:side, :side].astype(np.uint8)
    for start, width in ((30, 2), (90, 4), (150, 8)):
        cover[:, start : start + width] = 2
    for _ in range(side * side // 900):
        height, width = random.integers(3, 12, 2) if random.random() < 0.9 else (20, 20)
        top, left = random.integers(0, side - 20, 2)
        cover[top : top + height, left : left + width] = 1
    return cover


def spoil(random: np.random.Generator, cover: np.ndarray, share: float, size: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A map with `share` of its pixels wrong, in squares of `size`; its confidence, which is low where it is wrong more often than not."""
    rows, columns = (-(-length // size) for length in cover.shape)
    draw = random.random((rows, columns)).repeat(size, 0).repeat(size, 1)[: cover.shape[0], : cover.shape[1]]
    other = random.integers(1, 4, (rows, columns)).repeat(size, 0).repeat(size, 1)[: cover.shape[0], : cover.shape[1]]
    wrong = draw < share
    mapped = np.where(wrong, (cover - 1 + other) % 4 + 1, cover).astype(np.uint8)
    confidence = np.clip(np.where(wrong, 0.45, 0.8) + random.normal(0, 0.12, cover.shape), 0.25, 1).astype(np.float32)
    return mapped, confidence


def write_study(
    folder: Path, areas: int = 1, side: int = 200, block: int = 40, wrong: dict[str, float] | None = None, learners: tuple[str, ...] = ("rf",), repeats: int = 2
) -> Path:
    """Write a study's folder of `areas` areas of `side` pixels, blocks of `block` pixels, and return it. Arms by `wrong`: share of wrong pixels."""
    wrong = WRONG if wrong is None else wrong
    content: dict = {
        "format": 2, "baseline": "bicubic-context", "classes": CLASSES, "areas": [], "learners": list(learners), "runs": [], "images": {}, "counts": {},
        "arms": [
            {"name": name, "title": ARMS[name][0], "kind": ARMS[name][1], "control": name in ("shuffled", "unsharp"), "oracle": name == "spot", "model": ""}
            for name in wrong
        ],
        "protocol": {"seed": 1, "folds": 2, "repeats": repeats, "replicates": 500, "block": block * 2.5, "buffer": 20.0, "samples": 300},
        "models": [{"name": "f-light-x4", "sha256": "0" * 64, "training_areas": []}],
        "versions": {"otbsr": "0.1.0", "otb": "8.1.1"}, "command": "otbsr study world --out study", "warnings": ["A warning of the first half."],
    }  # fmt: skip
    for number in range(areas):
        random = np.random.default_rng(100 + number)
        name, corner = f"area{number}", (500000.0 + 10000 * number, 4800000.0)
        cover = landscape(random, side)
        reference = cover.copy()
        reference[:4] = 0  # not judged
        index = np.arange(side) // block
        blocks = (index[:, None] * (index[-1] + 1) + index[None]).astype(np.int32)
        write(folder / f"areas/{name}/reference_2m5.tif", reference, corner)
        write(folder / f"areas/{name}/blocks_2m5.tif", blocks, corner)
        spectra = np.array([[0, 0, 0, 0], [2200, 1900, 1700, 2500], [1500, 1500, 1500, 1800], [900, 1000, 700, 2600], [400, 600, 400, 3200]], np.int16)
        image = np.moveaxis(spectra[cover], -1, 0) + random.normal(0, 60, (4, side, side)).astype(np.int16)
        write(folder / f"areas/{name}/input_10m.tif", image[:, ::4, ::4], corner, 10.0)
        write(folder / f"areas/{name}/image_2m5.tif", image, corner)
        wrong_in_f = np.zeros((side, side), bool)
        for arm, share in wrong.items():
            write(folder / f"arms/{name}/{arm}/image_2m5.tif", image + random.normal(0, 20, image.shape).astype(np.int16), corner)
            content["images"].setdefault(name, {})[arm] = f"arms/{name}/{arm}/image_2m5.tif"
            for learner in learners:
                for repeat in range(repeats):
                    mapped, confidence = spoil(random, cover, share)
                    if arm == "f":
                        wrong_in_f |= mapped != cover
                    mapped[reference == 0] = 0
                    path = f"maps/{name}/{arm}/{learner}_{repeat}"
                    write(folder / f"{path}.tif", mapped, corner)
                    entry = {"area": name, "arm": arm, "learner": learner, "repeat": repeat, "map": f"{path}.tif", "confidence": ""}
                    if learner == "rf":
                        write(folder / f"{path}_confidence.tif", confidence, corner)
                        entry["confidence"] = f"{path}_confidence.tif"
                    content["runs"].append(entry)
        disagreement = np.where(wrong_in_f, random.integers(100, 900, cover.shape), random.integers(5, 300, cover.shape)).astype(np.uint16)
        write(folder / f"areas/{name}/disagreement_2m5.tif", disagreement, corner, nodata=65535)
        content["counts"][name] = {"samples": {"0": {"1": 300, "2": 300, "3": 300, "4": 300}}}
        content["areas"].append({
            "name": name, "reference": f"areas/{name}/reference_2m5.tif", "blocks": f"areas/{name}/blocks_2m5.tif", "block_size": block * 2.5,
            "folds": [int(one) for one in np.arange((index[-1] + 1) ** 2) % 2], "simulated": True, "source": "Synthetic labels of a test.",
            "image": f"areas/{name}/image_2m5.tif", "input": f"areas/{name}/input_10m.tif", "disagreement": f"areas/{name}/disagreement_2m5.tif",
            "settings": {"seed": 100 + number},
        })  # fmt: skip
    (folder / "maps.json").write_text(json.dumps(content))
    return folder


def content_of(folder: Path) -> dict:
    """study.json."""
    return json.loads((folder / "study.json").read_text())
