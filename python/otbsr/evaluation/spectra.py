"""Spectra of image, reference and input: how much of what the input lacks is restored, frequency by frequency."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import fft

from otbsr.evaluation.corrected import PREFIX, Correction
from otbsr.evaluation.measures import Score, Sums, finite, ratio, score, whole
from otbsr.evaluation.windows import TILE, Array, Block, Mask, Plane


class Spectrum:
    """Frequency-domain gain: how much of the spectrum that the input lacks is restored, and how much too strong or weak it is.

    Power of image, reference and cubic input, each band, by rings of frequency over tiles of 16 input pixels (Hann, mean taken away; Welch
    1967) that count wholly. In dB, above the input's Nyquist frequency: share restored = (image - input) / (reference - input), held
    within 0 and 1; overshoot and undershoot, what the image has above and below the reference. The power is blind to place; the
    correlation of the rings (Saxton and Baumeister 1982) tells how much of it lies where the reference has it: it falls with
    displacement as with invention.

    With the corrections of image and input all of them are told corrected too, without resampling, which would cost what is measured:
    the image's tiles are taken where their content lies by whole pixels, the rest turns their phases, and gains divide the powers.
    """

    def __init__(self, bands: int, factor: int, image: Correction | None = None, coarse: Correction | None = None) -> None:
        """Corrections: of what lies between the image, and the input, and the reference; both or none."""
        self.bands, self.factor, self.side = bands, factor, TILE * factor
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(self.side) + 0.5) / self.side)
        self.taper = np.outer(hann, hann)
        rows, columns = np.fft.fftfreq(self.side), np.fft.rfftfreq(self.side)
        self.ring = np.rint(np.hypot(rows[:, None], columns[None, :]) * self.side).astype(int).ravel()
        self.twice = np.where((columns == 0) | (columns == 0.5), 1.0, 2.0)  # columns that stand for their mirror image too
        self.count = self.side // 2 + 1
        self.frequency = np.arange(self.count) / self.side
        self.missing = self.frequency > 0.5 / factor
        self.correction = image if image and coarse else None
        self.gains = [np.array(one.alignment.gain) if one and self.correction else np.ones(bands) for one in (image, coarse)]
        self.margin = 2 * factor + (math.ceil(image.most) + 1 if image and self.correction else 0)
        self.rows, self.columns = rows[:, None], columns[None, :]

    def sums(self, block: Block) -> Sums:
        """Number of tiles; by ring [4, bands, rings]: powers of reference, image, cubic input; cross-power of the first two; both again, corrected."""
        assert block.seen is not None and block.coarse is not None and block.coarse_valid is not None
        side, count = self.side, (block.height // self.side, block.width // self.side)
        tiles = whole(block.coarse_core(block.coarse_valid, 2), TILE + 4)[::TILE, ::TILE][: count[0], : count[1]]
        tiles = tiles & self.tiled(block.core(block.common)[None], count)[0].all((2, 3))
        powers = np.zeros((2, 4, self.bands, side, side // 2 + 1))
        number = np.zeros(2)
        for row in map(int, np.flatnonzero(tiles.any(1))):
            rows, chosen = slice(row * side, (row + 1) * side), tiles[row]
            coarse = block.coarse_core(block.coarse, 2)[:, row * TILE : (row + 1) * TILE + 4]
            moved, turns, there = self.moved(block, row, np.flatnonzero(chosen))
            number += chosen.sum(), there.sum()
            for band in range(self.bands):
                planes = block.core(block.seen)[band, rows], block.core(block.image)[band, rows], cubic(coarse[band : band + 1], self.factor)[0]
                first, second, third = (self.spectra(self.tiled(plane[None], (1, count[1]))[0, 0][chosen]) for plane in planes)
                powers[0, :, band] += products(first, second, third)
                if there.any():
                    powers[1, :, band] += products(first[there], self.spectra(moved[:, band]) * turns, third[there])
        powers *= self.twice
        rings = [np.bincount(self.ring, power.ravel(), self.ring.max() + 1)[: self.count] for power in powers.reshape(-1, side, side // 2 + 1)]
        found = np.reshape(rings, (2, 4, self.bands, self.count))
        return (number[0], found[0], number[1], found[1])

    def moved(self, block: Block, row: int, tiles: Array) -> tuple[Plane, Array, Mask]:
        """(tiles of this row of them where the image holds their content [tiles, bands, side, side], what turns their spectra, which hold data)."""
        there = np.zeros(len(tiles), bool)
        if self.correction is None:
            return np.zeros((0, self.bands, self.side, self.side)), np.zeros(0), there
        top, lefts, found, rests = row * self.side, tiles * self.side, [], []
        middle = (self.side - 1) / 2
        by = self.correction.displacement(np.full(len(tiles), block.row + top + middle), block.column + lefts + middle)
        for index, (left, *displaced) in enumerate(zip(lefts, *by, strict=True)):
            steps = [round(float(part)) for part in displaced]
            place = tuple(slice(at, at + self.side) for at in (block.margin + top + steps[0], block.margin + int(left) + steps[1]))
            if block.image_valid[place].all():
                there[index] = True
                found.append(block.image[(slice(None), *place)])
                rests.append([part - step for part, step in zip(displaced, steps, strict=True)])
        if not found:
            return np.zeros((0, self.bands, self.side, self.side)), np.zeros(0), there
        down, right = np.array(rests).T[..., None, None]
        return np.stack(found), np.exp(2j * np.pi * (self.rows * down + self.columns * right)), there

    def tiled(self, planes: Array, count: tuple[int, int]) -> Array:
        """Planes [n, rows, columns] as tiles [n, tiles down, tiles across, side, side]; what is left over is left out."""
        rows, columns = count
        cut = planes[:, : rows * self.side, : columns * self.side]
        return cut.reshape(len(planes), rows, self.side, columns, self.side).swapaxes(2, 3)

    def spectra(self, tiles: Plane) -> Array:
        """Half spectra of tapered tiles [tiles, side, side / 2 + 1]."""
        level = np.einsum("tij,ij->t", tiles, self.taper) / self.taper.sum()
        return np.asarray(fft.rfft2((tiles - level[:, None, None]) * self.taper))

    def profiles(self, power: Plane) -> tuple[Plane, Plane, Plane]:
        """By band and ring: power in dB [3: reference, image, cubic input], share restored (NaN where nothing lacks), correlation."""
        level = 10 * np.log10(np.maximum(power[:3], 1e-30))
        lack = level[0] - level[2]
        share = np.where(lack > 1e-6, np.clip(ratio(level[1] - level[2], lack), 0, 1), np.nan)
        return level, share, ratio(power[3], np.sqrt(power[0] * power[1]))

    def corrected(self, total: Sums) -> Plane:
        """The powers of what was moved into place, their gains taken away."""
        power = total[3].copy()
        for index, gain in enumerate(self.gains):
            power[1 + index] /= gain[:, None] ** 2
        power[3] /= self.gains[0][:, None]
        return power

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        found = self.scores_of(total[0], total[1])
        if self.correction:
            found |= {PREFIX + name: one for name, one in self.scores_of(total[2], self.corrected(total)).items()}
        return found

    def scores_of(self, number: Array, power: Plane) -> dict[str, Score]:
        """The scores of these powers."""
        names = {"frequency_gain": "", "overshoot": "dB", "undershoot": "dB", "ring_correlation": ""}
        if not number:
            return {name: score(np.full(self.bands, np.nan), unit) for name, unit in names.items()}
        level, share, correlation = (part[..., self.missing] for part in self.profiles(power))
        lack = np.where(np.isnan(share), 0.0, level[0] - level[2])
        excess = level[1] - level[0]
        found = (
            ratio((np.nan_to_num(share) * lack).sum(1), lack.sum(1)),
            np.maximum(excess, 0).mean(1),
            np.maximum(-excess, 0).mean(1),
            correlation.mean(1),
        )
        return {name: score(values, unit) for (name, unit), values in zip(names.items(), found, strict=True)}

    def curves(self, total: Sums) -> dict[str, Any]:
        """By frequency (cycles per fine pixel): share restored, image over reference in dB, correlation: [bands, frequencies], None without a value.

        "corrected" holds the same three once more.
        """
        if not total[0]:
            return {}
        found = {"frequency": self.frequency[1:].tolist(), **self.curves_of(total[1])}
        return found | ({"corrected": self.curves_of(self.corrected(total))} if total[2] else {})

    def curves_of(self, power: Plane) -> dict[str, Any]:
        """The three curves of these powers."""
        level, share, correlation = self.profiles(power)

        def listed(values: Plane) -> list[list[float | None]]:
            return [[finite(float(value)) for value in band[1:]] for band in values]

        return {
            "restored": listed(np.where(self.missing, share, np.nan)),
            "over_reference_db": listed(level[1] - level[0]),
            "ring_correlation": listed(correlation),
        }


def products(first: Array, second: Array, third: Array) -> Plane:
    """Powers of spectra [tiles, rows, columns] summed over the tiles, and the cross-power of the first two: [4, rows, columns]."""
    pairs = (first, first), (second, second), (third, third), (second, first)
    # of a cross-power, the imaginary part and its mirror image add up to 0
    return np.stack([np.einsum("tij,tij->ij", a.real, b.real) + np.einsum("tij,tij->ij", a.imag, b.imag) for a, b in pairs])


def cubic(planes: Plane, factor: int) -> Plane:
    """Coarse planes with 2 more pixels on each side on the fine grid, by Keys' cubic convolution (1981; a = -1/2) about pixel centres."""
    for axis in (1, 2):
        size = planes.shape[axis] - 4
        shape = list(planes.shape)
        shape[axis] = size * factor
        result = np.empty(shape)
        for phase in range(factor):
            distance = np.abs((phase + 0.5) / factor - 0.5 - np.arange(-2, 3))
            near, far = (1.5 * distance - 2.5) * distance**2 + 1, ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
            weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
            total = sum(weight * np.take(planes, range(k, k + size), axis) for k, weight in enumerate(weights) if weight)
            result[(slice(None),) * axis + (slice(phase, None, factor),)] = total
        planes = result
    return planes
