"""Write what torchmetrics says of three small pairs of images to test/python/evaluation/torchmetrics.json, which the tests compare with.

    python tools/record_torchmetrics.py

In an environment with the extra `crosscheck` (torch needs no GPU); otbsr itself is not used. The images come from formulas alone, so that
any machine and version of NumPy has the same ones.
"""

from __future__ import annotations

import importlib
import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

TARGET = Path(__file__).parent.parent / "test" / "python" / "evaluation" / "torchmetrics.json"
FACTOR = 4


def noise(rows: int, columns: int, bands: int, seed: int) -> np.ndarray:
    """Numbers of 0 to 1 from whole-number arithmetic, [rows, columns, bands]."""
    r, c, b = np.meshgrid(np.arange(rows), np.arange(columns), np.arange(bands), indexing="ij")
    mixed = r * 7919 + c * 104729 + b * 1299709 + seed * 15485863
    for factor in (2654435761, 2246822519, 3266489917):
        mixed = (mixed * factor) % (1 << 32)
        mixed ^= mixed >> 15
    return mixed / (1 << 32)


def pairs() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Name: (image, reference, input), reflectance [rows, columns, bands]; the input has every FACTOR-th pixel's worth of the reference."""
    rows, columns, bands = 48, 56, 3
    r, c, b = np.meshgrid(np.arange(rows), np.arange(columns), np.arange(bands), indexing="ij")
    waves = np.sin(0.31 * r + 0.17 * c + b) * np.cos(0.23 * c - 0.11 * r * (b + 1) / 3) + 0.5 * np.sin(0.9 * r + 1.3 * c + 2 * b)
    reference = 0.25 + 0.06 * waves + 0.02 * noise(rows, columns, bands, 1)
    shifted = np.roll(reference, (1, 0), (0, 1))
    images = {
        "noisy": reference + 0.03 * (noise(rows, columns, bands, 2) - 0.5),
        "gained": 0.85 * reference + np.array([0.02, 0.0, -0.01]),
        "moved": 0.5 * (reference + shifted) + 0.01 * np.sin(0.05 * r * c / (b + 1)),
    }
    coarse = reference.reshape(rows // FACTOR, FACTOR, columns // FACTOR, FACTOR, bands).mean((1, 3)) + 0.01 * noise(
        rows // FACTOR, columns // FACTOR, bands, 3
    )
    return {name: (image, reference, coarse) for name, image in images.items()}


def theirs(image: np.ndarray, reference: np.ndarray, coarse: np.ndarray) -> dict[str, Any]:
    """What torchmetrics says in float64; lists are of the bands. `_inside`: without what hangs on reflected edges; uqi_box: 7 x 7 equal weights."""
    from_numpy, functional = importlib.import_module("torch").from_numpy, importlib.import_module("torchmetrics.functional")
    f = functional.image

    def tensor(array: np.ndarray) -> Any:
        return from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 0)[None]))

    x, y, low = tensor(image), tensor(reference), tensor(coarse)
    bands = [(x[:, k : k + 1], y[:, k : k + 1]) for k in range(image.shape[2])]
    full = [f.structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)[1] for a, b in bands]
    found: dict[str, Any] = {
        "psnr": [f.peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in bands],
        "rmse": [functional.mean_squared_error(a, b, squared=False) for a, b in bands],
        "correlation": [functional.pearson_corrcoef(a.flatten(), b.flatten()) for a, b in bands],
        "sam_radians": f.spectral_angle_mapper(x, y),
        "ergas": f.error_relative_global_dimensionless_synthesis(x, y, ratio=FACTOR),
        "ssim": [f.structural_similarity_index_measure(a, b, data_range=1.0) for a, b in bands],
        "ssim_inside": [plane[..., 5:-5, 5:-5].mean() for plane in full],
        "uqi": [f.universal_image_quality_index(a, b) for a, b in bands],
        "uqi_box": [f.universal_image_quality_index(a, b, kernel_size=(7, 7), sigma=(1e6, 1e6)) for a, b in bands],
        "scc": [f.spatial_correlation_coefficient(a, b) for a, b in bands],
        "d_lambda": f.spectral_distortion_index(low, x),
        "rmse_sw": f.root_mean_squared_error_using_sliding_window(x, y),
    }
    return {name: [float(one) for one in value] if isinstance(value, list) else float(value) for name, value in found.items()}


def main() -> None:
    """Record, and print."""
    content = {"versions": {name: version(name) for name in ("torchmetrics", "torch")}, "pairs": {name: theirs(*pair) for name, pair in pairs().items()}}
    assert all(math.isfinite(value) for one in content["pairs"].values() for of in one.values() for value in (of if isinstance(of, list) else [of]))
    text = json.dumps(content, indent=1) + "\n"
    TARGET.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
