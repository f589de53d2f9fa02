"""Scene: the landscape on a 0.5 m grid as the sun lights it; reflectance band by band.

reflectance = spectrum of the object x (1 + texture) x light; light is 1 on sunlit flat ground, the sky's share in cast shadow.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from rasterio.features import rasterize
from scipy import ndimage
from shapely import affinity

from otbsr.grid import Grid
from otbsr.world import materials
from otbsr.world.landscape import LandCover, Landscape

Plane = NDArray[np.float32]

FINE = 0.5
"""Spacing of the scene, metres."""
TREE_KINDS = 48
"""Crowns share this many individual spectra per kind of tree."""


def sun_position(day: int, latitude: float = 43.6, hour: float = 10.6) -> tuple[float, float]:
    """Elevation and azimuth (degrees, clockwise from north) of the sun on a day at an hour of solar time.

    Declination by Cooper's formula; Sentinel-2 crosses the equator at 10:30 local solar time.
    """
    declination = math.radians(23.45 * math.sin(2 * math.pi * (284 + day) / 365))
    turn, phi = math.radians(15 * (hour - 12)), math.radians(latitude)
    sine = math.sin(phi) * math.sin(declination) + math.cos(phi) * math.cos(declination) * math.cos(turn)
    elevation = math.asin(sine)
    azimuth = math.atan2(math.sin(turn), math.cos(turn) * math.sin(phi) - math.tan(declination) * math.cos(phi)) + math.pi
    return math.degrees(elevation), math.degrees(azimuth) % 360


class Scene:
    """A landscape seen on one day; planes are (height, width) float32 on `grid`."""

    def __init__(self, landscape: Landscape, grid: Grid, seed: int, day: int, sun: tuple[float, float]) -> None:
        """Rasterise `landscape`, whose lower-left corner is that of `grid`; `sun` is elevation and azimuth in degrees."""
        self.grid, self.seed, self.landscape = grid, seed, landscape
        self._objects = self._paint()
        self._heights = self._heights_of_objects()
        self._plant()
        self.see(day, sun)
        self._texture()

    def see(self, day: int, sun: tuple[float, float]) -> None:
        """Look on another day or under another sun: objects keep their places, covers change with the season."""
        self.day, self.sun = day, sun
        self._spectra_of_objects()
        self._light()

    def change(self, share: float) -> NDArray[np.bool_]:
        """Plough or sow a share of the parcels, by number, as happens between two dates; where that is to be seen, on the scene's grid.

        A parcel with little on it gets a closed green crop, any other bare soil; its surface changes, its class is kept.
        """
        parcels = [i for i, f in enumerate(self.landscape.features) if f.land_cover in (LandCover.CROP, LandCover.GRASSLAND) and f.geometry.area > 1500]
        chosen = self._rng(8).permutation(parcels)[: round(share * len(parcels))]
        red, infrared = (materials.SENTINEL2_BANDS.index(name) for name in ("B4", "B8"))
        for index in chosen:
            sparse = self._spectra[index, infrared] < 2.5 * self._spectra[index, red]
            self._spectra[index] = materials.SPECTRA[materials.INDEX["crop_leafy" if sparse else "soil_light"]]
        return np.asarray(np.isin(self._objects, chosen))

    def _rng(self, purpose: int) -> np.random.Generator:
        """A generator of its own for each purpose, so that no draw moves another."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, 2, purpose]))

    def _paint(self) -> NDArray[np.int32]:
        """Index of the topmost feature at each pixel's centre."""
        move = [1.0, 0.0, 0.0, 1.0, self.grid.left, self.grid.bottom]
        shapes = [(affinity.affine_transform(feature.geometry, move), index) for index, feature in enumerate(self.landscape.features)]
        shape = (self.grid.height, self.grid.width)
        return np.asarray(rasterize(shapes, out_shape=shape, transform=self.grid.transform, fill=0, dtype="int32"))

    def _heights_of_objects(self) -> Plane:
        """Height above ground, metres."""
        table = np.array([feature.height for feature in self.landscape.features], np.float32)
        return table[self._objects]

    def _plant(self) -> None:
        """Crowns as half ellipsoids: a crown owns the pixels where it is the highest; roofs and water keep theirs below it."""
        trees = self.landscape.trees
        rng = self._rng(1)
        variant = rng.integers(0, TREE_KINDS, len(trees))
        first = len(self.landscape.features)
        stamps: dict[int, tuple[Plane, int]] = {}
        height, width = self._objects.shape
        for (x, y, radius, tall, conifer), kind in zip(trees.tolist(), variant.tolist(), strict=True):
            key = round(radius * 5)
            if key not in stamps:
                reach = math.ceil(key / 5 / FINE)
                v, u = np.mgrid[-reach : reach + 1, -reach : reach + 1] * (FINE / (key / 5))
                inside = 1.0 - u**2 - v**2
                stamps[key] = (np.sqrt(np.maximum(inside, 0.0)).astype(np.float32), reach)
            dome, reach = stamps[key]
            column, row = (int(v) for v in self.grid.position(self.grid.left + x, self.grid.bottom + y))
            r0, r1, c0, c1 = max(row - reach, 0), min(row + reach + 1, height), max(column - reach, 0), min(column + reach + 1, width)
            if r0 >= r1 or c0 >= c1:
                continue
            part = dome[r0 - row + reach : r1 - row + reach, c0 - column + reach : c1 - column + reach]
            crown = np.where(part > 0, tall * (0.45 + 0.55 * part), 0.0).astype(np.float32)
            here = self._heights[r0:r1, c0:c1]
            higher = crown > here
            here[higher] = crown[higher]
            self._objects[r0:r1, c0:c1][higher] = first + kind + (TREE_KINDS if conifer else 0)

    def _spectra_of_objects(self) -> None:
        """Spectrum, class and dominant material of every object on this day; individual variation is the object's, whatever the day."""
        features = self.landscape.features
        count = len(features) + 2 * TREE_KINDS
        draws = self._rng(2).standard_normal((count, 2))
        spectra = np.empty((count, len(materials.SENTINEL2_BANDS)))
        classes = np.empty(count, np.uint8)
        main = np.empty(count, np.uint8)
        elevation, azimuth = (math.radians(angle) for angle in self.sun)
        trees = [("deciduous", LandCover.BROADLEAF)] * TREE_KINDS + [("conifer", LandCover.CONIFER)] * TREE_KINDS
        for index in range(count):
            feature = features[index] if index < len(features) else None
            cover, land_cover = (feature.cover, feature.land_cover) if feature else trees[index - len(features)]
            shares = materials.cover_at(cover, self.day, feature.phase if feature else 0.0, feature.soil if feature else "litter")
            top = max(shares, key=lambda name: shares[name])
            material = materials.MATERIALS[top]
            spread = feature.spread if feature else 1.0
            spectrum = sum(share * materials.SPECTRA[materials.INDEX[name]] for name, share in shares.items())
            spectrum = spectrum * (1 + spread * material.brightness * draws[index, 0] + spread * material.tilt * draws[index, 1] * materials.TILT)
            if feature and feature.slope is not None:
                pitch = math.radians(30)
                facing = math.cos(math.radians(feature.slope) - azimuth)
                spectrum = spectrum * (0.8 * max(0.05, math.cos(pitch) + math.sin(pitch) * facing / math.tan(elevation)) + 0.2)
            bare = land_cover is LandCover.CROP and sum(shares.get(soil, 0.0) for soil in ("soil_light", "soil_dark")) > 0.8
            spectra[index] = spectrum
            classes[index] = LandCover.BARE_SOIL if bare else land_cover
            main[index] = materials.INDEX[top]
        self._spectra = np.clip(spectra, 0.001, 0.95)
        self.classes_of_objects, self.materials_of_objects = classes, main

    def land_cover(self) -> NDArray[np.uint8]:
        """Class code at each pixel of the 0.5 m grid, as seen from above."""
        return np.asarray(self.classes_of_objects[self._objects])

    def _light(self) -> None:
        """Sun reaching each pixel: 0 in the cast shadow of buildings, trees and cars; crowns are brighter towards the sun."""
        elevation, azimuth = (math.radians(angle) for angle in self.sun)
        heights = self._heights
        tallest = float(heights.max())
        east, north, fall = math.sin(azimuth), math.cos(azimuth), math.tan(elevation)
        centimetres = np.rint(heights * 100).astype(np.int16)
        roof = centimetres.copy()
        step = FINE * 1.5
        for k in range(1, math.ceil(tallest / fall / step) + 1):
            # What stands k steps towards the sun shades all that is lower than its top less the ray's descent.
            dx, dy = round(k * step * east / FINE), round(-k * step * north / FINE)
            drop = np.int16(round(100 * k * step * fall))
            rows, columns = heights.shape
            to = (slice(max(0, -dy), min(rows, rows - dy)), slice(max(0, -dx), min(columns, columns - dx)))
            source = (slice(max(0, dy), min(rows, rows + dy)), slice(max(0, dx), min(columns, columns + dx)))
            np.maximum(roof[to], centimetres[source] - drop, out=roof[to])
        light = (roof <= centimetres + 20).astype(np.float32)
        del roof, centimetres
        crowns = self._objects >= len(self.landscape.features)
        down, right = np.gradient(ndimage.gaussian_filter(heights, 1.5), FINE)
        # Foliage scatters: the sides of a crown, however steep, shade like a slope of 45 degrees at most.
        steep = np.maximum(np.hypot(down, right), 1.0)
        facing = (-right * east + down * north) / steep / fall
        shade = np.clip(1.0 + 0.8 * facing - 0.1 * (steep > 1), 0.35, 1.5)
        light[crowns] *= shade[crowns]
        self._sunlight = ndimage.gaussian_filter(light, 0.6)

    def _texture(self) -> None:
        """Brightness and vigour inside objects: grain, patches, drift over a field, rows and tramlines."""
        shape = (self.grid.height, self.grid.width)
        kinds = self.materials_of_objects[self._objects]
        table = {name: np.array([getattr(m, name) for m in materials.MATERIALS.values()], np.float32) for name in ("grain", "mottle", "drift", "vigour")}
        drift = self._noise(3, 22.0) * 0.7 + self._noise(4, 70.0) * 0.7
        texture = table["drift"][kinds] * drift
        self._vigour = texture * table["vigour"][kinds]
        texture *= (1 - 0.6 * table["vigour"])[kinds]
        texture += table["mottle"][kinds] * self._noise(5, 2.0)
        texture += table["grain"][kinds] * self._rng(6).standard_normal(shape, dtype=np.float32)
        self._rows(texture)
        self._relief = texture

    def _noise(self, purpose: int, scale: float) -> Plane:
        """Unit-variance smooth noise with patches of about `scale` metres, made coarse and interpolated."""
        cell = max(1, int(scale / FINE / 3))
        shape = (self.grid.height // cell + 3, self.grid.width // cell + 3)
        coarse = ndimage.gaussian_filter(self._rng(purpose).standard_normal(shape, dtype=np.float32), scale / FINE / cell / 2.5)
        coarse /= coarse.std()
        if cell == 1:
            return coarse[: self.grid.height, : self.grid.width]
        rows, columns = (np.arange(n) / cell for n in (self.grid.height, self.grid.width))
        return interpolate(coarse, rows, columns)

    def _rows(self, texture: Plane) -> None:
        """Crop rows (2-3 m beds), vine rows (2.5 m) and tramlines every 24 m, along each parcel's direction."""
        features = self.landscape.features
        rng = self._rng(7)
        count = len(features) + 2 * TREE_KINDS
        values = np.zeros((count, 5), np.float32)
        for index, feature in enumerate(features):
            amplitude, period, tram = rng.uniform(0.03, 0.08), rng.uniform(2.0, 3.2), rng.uniform(0.06, 0.16)
            if feature.rows is not None:
                vine = feature.cover == "vineyard"
                bare = feature.land_cover is LandCover.BARE_SOIL
                values[index] = (
                    -math.sin(feature.rows),
                    math.cos(feature.rows),
                    0.30 if vine else amplitude,
                    2 * math.pi / (2.5 if vine else period),
                    0.0 if vine or bare else tram,
                )
        sown = values[:, 2] > 0
        for top in range(0, self.grid.height, 512):
            lines = slice(top, min(top + 512, self.grid.height))
            objects = self._objects[lines]
            row, column = np.nonzero(sown[objects])
            if row.size == 0:
                continue
            chosen = values[objects[row, column]]
            across = (column * FINE) * chosen[:, 0] + (self.grid.height - top - row) * FINE * chosen[:, 1]
            pattern = chosen[:, 2] * np.sin(chosen[:, 3] * across)
            pattern -= chosen[:, 4] * (np.mod(across, 24.0) < 0.9)
            texture[lines][row, column] += pattern.astype(np.float32)

    def reflectance(self, response: NDArray[np.float64]) -> Plane:
        """Surface reflectance at 0.5 m in the band with these weights (13,) of Sentinel-2's bands (`materials.response`)."""
        table = (self._spectra @ response).astype(np.float32)
        vigour = np.float32(materials.VIGOUR @ response)
        sky = np.float32(skylight(response))
        result = table[self._objects]
        relief = self._relief + vigour * self._vigour
        relief += 1
        result *= relief
        np.multiply(self._sunlight, 1 - sky, out=relief)
        relief += sky
        result *= relief
        return np.asarray(np.clip(result, 0.0005, 0.95, out=result))

    def line(self, source: NDArray[np.float64], target: NDArray[np.float64]) -> tuple[float, float]:
        """Slope and intercept that best bring one band's reflectance to another's, over the scene's area."""
        area = np.bincount(self._objects.ravel(), minlength=len(self._spectra))
        slope, intercept = np.polyfit(self._spectra @ source, self._spectra @ target, 1, w=np.sqrt(area))
        return float(slope), float(intercept)


def skylight(response: NDArray[np.float64]) -> float:
    """Share of the light that comes from the sky and reaches shadows: a third in the blue, a twelfth in the short-wave infrared."""
    nanometres = float(materials.SENTINEL2_NANOMETRES @ response)
    return float(np.interp(nanometres, [443, 560, 665, 833, 1600], [0.36, 0.26, 0.21, 0.15, 0.08]))


def interpolate(coarse: Plane, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Plane:
    """Bilinear interpolation of `coarse` at the separable fractional positions `rows` and `columns`."""
    r, c = rows.astype(np.int64), columns.astype(np.int64)
    down, across = (rows - r).astype(np.float32)[:, None], (columns - c).astype(np.float32)[None, :]
    lines = (coarse[r] * (1 - down) + coarse[r + 1] * down).astype(np.float32)
    return np.asarray(lines[:, c] * (1 - across) + lines[:, c + 1] * across, dtype=np.float32)
