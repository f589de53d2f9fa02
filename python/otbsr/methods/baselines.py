"""Baselines behind the same interface as the networks: SavedModels that only interpolate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otbsr.errors import UsageError, nearest
from otbsr.methods.model_folder import ModelFolder, ModelInput, ModelOutput, Sidecar, save_model

BANDS = ("B4", "B3", "B2", "B8")
CARDS = {
    "nearest": "Each input pixel repeated factor x factor times.",
    "bicubic": "Keys' cubic convolution (a = -1/2) at the centres of the nested fine grid; exact on quadratic surfaces.",
    "lanczos": "Lanczos interpolation with three lobes at the centres of the nested fine grid.",
    "unsharp": "Bicubic, then the sensor's blur undone as far as noise allows (Wiener, band by band): sharp without having learned anything.",
}


def unsharp_kernel(bands: tuple[str, ...], factor: int, noise: float = 0.03, radius: int = 4) -> NDArray[np.float32]:
    """Polyphase kernel of bicubic interpolation after a Wiener filter of each band's MTF: [k, k, bands, factor * factor * bands].

    noise: noise over signal in power, the same at all frequencies; it bounds the gain to 1 / (2 sqrt(noise)). The filter is separable,
    `radius` coarse pixels wide on each side, tapered, and keeps constants.
    """
    from otbsr.methods.networks import fine_positions, keys_cubic
    from otbsr.world.sensors import SENTINEL2, gaussian_sigma

    cubic = keys_cubic(np.arange(-2, 3)[None, :] - fine_positions(factor)[:, None])
    frequency = np.fft.fftfreq(64)
    size = 2 * (radius + 2) + 1
    kernel = np.zeros((size, size, len(bands), factor, factor, len(bands)))
    for index, band in enumerate(bands):
        sigma = gaussian_sigma(1.0, SENTINEL2[band if band in SENTINEL2 else "B4"].mtf)
        mtf = np.exp(-2 * (np.pi * sigma * frequency) ** 2) * np.sinc(frequency)
        taps = np.fft.fftshift(np.fft.ifft(mtf / (mtf**2 + noise)).real)[32 - radius : 33 + radius] * np.hanning(2 * radius + 3)[1:-1]
        phases = np.stack([np.convolve(taps / taps.sum(), row) for row in cubic])
        kernel[:, :, index, :, :, index] = np.einsum("py,qx->yxpq", phases, phases)
    return kernel.reshape(size, size, len(bands), -1).astype(np.float32)


def write_baseline(
    kind: str,
    folder: str | Path,
    factor: int = 4,
    bands: tuple[str, ...] = BANDS,
    spacing: float = 10.0,
    overwrite: bool = False,
) -> ModelFolder:
    """Write the model folder of an interpolation, one of `CARDS`: x`factor`, same bands in and out, input `spacing` in metres.

    Raises `UsageError` for another kind, factor or spacing, and `OutputError`.
    """
    if kind not in CARDS:
        raise UsageError(f"baseline is {kind!r}{nearest(kind, CARDS)}, expected one of {', '.join(CARDS)}")
    if not 2 <= factor <= 8:
        raise UsageError(f"factor is {factor}, expected 2 to 8")
    if not bands or len(set(bands)) < len(bands) or not spacing > 0:
        raise UsageError(f"bands {','.join(bands) or 'none'}, spacing {spacing:g}: expected names that differ and a positive number of metres")
    from otbsr.methods.networks import bicubic_kernel, lanczos_kernel, nearest_kernel, upsampler

    if kind == "unsharp":
        kernel = unsharp_kernel(bands, factor)
    else:
        kernel = {"nearest": nearest_kernel, "bicubic": bicubic_kernel, "lanczos": lanczos_kernel}[kind](len(bands), factor)
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
