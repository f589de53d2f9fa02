"""Baselines behind the same interface as the networks: SavedModels that only interpolate."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from otbsr.methods.model_folder import ModelFolder, ModelInput, ModelOutput, Sidecar, save_model

BANDS = ("B4", "B3", "B2", "B8")
CARDS = {
    "nearest": "Each input pixel repeated factor x factor times.",
    "bicubic": "Keys' cubic convolution (a = -1/2) at the centres of the nested fine grid; exact on quadratic surfaces.",
}


def write_baseline(
    kind: Literal["nearest", "bicubic"],
    folder: str | Path,
    factor: int = 4,
    bands: tuple[str, ...] = BANDS,
    spacing: float = 10.0,
    overwrite: bool = False,
) -> ModelFolder:
    """Write the model folder of an interpolation: x`factor`, same bands in and out, input `spacing` in metres."""
    from otbsr.methods.networks import bicubic_kernel, nearest_kernel, upsampler

    kernel = {"nearest": nearest_kernel, "bicubic": bicubic_kernel}[kind](len(bands), factor)
    sidecar = Sidecar(
        name=f"{kind}-x{factor}",
        method="baseline",
        factor=factor,
        margin=kernel.shape[0] // 2,
        input=ModelInput(bands=bands, spacing=spacing),
        output=ModelOutput(bands=bands),
        training={"data": "none: not trained"},
        licence="Apache-2.0",
    )
    card = f"# {sidecar.name}\n\n{CARDS[kind]} A baseline: not trained.\n"
    return save_model(upsampler(kernel, factor, kind), folder, sidecar, card, overwrite)
