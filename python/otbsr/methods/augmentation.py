"""Random changes of the pairs of a batch, so that a network survives another radiometry, sensor or noise than its training set's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from otbsr.methods.sensor import observe_anew

Array = NDArray[np.float32]


class Augmentation(BaseModel):
    """Random changes of a pair, so that the network survives other radiometry than its training set's."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    flips: bool = Field(True, description="the eight flips and quarter turns")
    gain: float = Field(0.15, ge=0, description="standard deviation of the log gain, common to the bands")
    band_gain: float = Field(0.07, ge=0, description="standard deviation of each band's own log gain")
    offset: float = Field(60.0, ge=0, description="standard deviation of each band's offset, DN")
    noise: float = Field(8.0, ge=0, description="greatest standard deviation of noise added to the input, DN")
    anew: float = Field(0.5, ge=0, le=1, description="share of batches whose inputs are made anew from their targets by a sensor drawn at random")
    mtf: float = Field(0.1, ge=0, description="of that sensor: standard deviation of the log of each band's MTF at Nyquist")
    shift: float = Field(0.03, ge=0, description="of that sensor: greatest displacement between bands, input pixels")
    anew_noise: tuple[float, float] = Field((5.0, 20.0), description="of that sensor: least and greatest standard deviation of its noise, DN")

    @field_validator("anew_noise")
    @classmethod
    def noise_is_a_range(cls, noise: tuple[float, float]) -> tuple[float, float]:
        """The least is not negative and not above the greatest."""
        if not 0 <= noise[0] <= noise[1]:
            raise ValueError("expected the least and the greatest, neither negative")
        return noise


def augmented(
    lr: Array, target: Array, how: Augmentation, random: np.random.Generator, bands: Sequence[str] = (), outputs: Sequence[int] | None = None
) -> tuple[Array, Array]:
    """Turn, flip, brighten and offset input and target of one batch alike, and add noise to the input.

    With the names of `bands` (of input and target alike), a share of the batches gets inputs made anew from their targets.
    outputs: for each band of the target, its index among the input's; default the first ones.
    """
    if bands and random.random() < how.anew:
        factor = target.shape[1] // lr.shape[1]
        lr = observe_anew(target, bands, factor, how.mtf, how.shift, how.anew_noise, random)
    if how.flips:
        turns, flip = int(random.integers(4)), int(random.integers(2))
        lr, target = (np.rot90(x, turns, (1, 2))[:, :, :: -1 if flip else 1] for x in (lr, target))
    n, count = len(lr), lr.shape[-1]
    gain = np.exp(random.normal(0, how.gain, (n, 1, 1, 1)) + random.normal(0, how.band_gain, (n, 1, 1, count))).astype(np.float32)
    offset = random.normal(0, how.offset, (n, 1, 1, count)).astype(np.float32)
    outs = list(range(target.shape[-1])) if outputs is None else list(outputs)
    lr, target = lr * gain + offset, target * gain[..., outs] + offset[..., outs]
    sigma = random.uniform(0, how.noise, (n, 1, 1, 1)).astype(np.float32)
    return lr + sigma * random.standard_normal(lr.shape, np.float32), target
