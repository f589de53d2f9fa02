"""Materials: surface reflectance in Sentinel-2's 13 bands, within-class variation, and how cover changes with the season.

Spectra are typical bottom-of-atmosphere values set by hand from the usual shapes (red edge, water and clay absorption,
iron slope of soils); they stand for no measured site. Other sensors' bands are had by interpolation over wavelength.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SENTINEL2_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
SENTINEL2_NANOMETRES: Floats = np.array([443, 492, 560, 665, 704, 740, 783, 833, 865, 945, 1374, 1614, 2202], dtype=np.float64)
SPOT_NANOMETRES = {"PAN": (450.0, 745.0), "B0": (450.0, 520.0), "B1": (530.0, 590.0), "B2": (625.0, 695.0), "B3": (760.0, 890.0)}
"""Spot-6/7 band limits in nanometres; B0, B1, B2, B3 are blue, green, red, near infrared."""


@dataclass(frozen=True)
class Material:
    """A surface: reflectance per Sentinel-2 band and how it varies.

    Attributes:
        reflectance: 13 values (0..1) in the order of `SENTINEL2_BANDS`.
        brightness: standard deviation, object to object, of a common factor (share of the reflectance).
        tilt: standard deviation, object to object, of a spectral slope (share at the ends of the visible-SWIR range).
        grain: standard deviation within an object at 0.5 m (share).
        mottle: the same for patches of about 2 m.
        drift: the same for patches of 10-60 m (soil, vigour).
        vigour: how far drift moves red and near infrared apart, as vegetation does (0..1).

    """

    reflectance: tuple[float, ...]
    brightness: float = 0.08
    tilt: float = 0.04
    grain: float = 0.04
    mottle: float = 0.03
    drift: float = 0.02
    vigour: float = 0.0


# fmt: off
MATERIALS: dict[str, Material] = {
    #                         B1    B2    B3    B4    B5    B6    B7    B8    B8A   B9    B10   B11   B12
    "crop_green":   Material((.024, .030, .062, .032, .098, .320, .420, .450, .470, .460, .250, .215, .095), .07, .03, .04, .03, .07, .8),
    "crop_leafy":   Material((.026, .034, .074, .040, .120, .350, .470, .510, .525, .510, .270, .240, .115), .07, .03, .04, .03, .06, .8),
    "crop_ripe":    Material((.060, .078, .125, .175, .205, .245, .275, .305, .325, .335, .340, .375, .275), .08, .03, .04, .03, .05, .3),
    "stubble":      Material((.068, .088, .130, .170, .195, .220, .242, .265, .280, .292, .330, .360, .290), .09, .03, .05, .03, .05, .2),
    "soil_light":   Material((.088, .112, .160, .212, .235, .250, .265, .280, .295, .310, .350, .385, .340), .10, .04, .04, .04, .06),
    "soil_dark":    Material((.040, .050, .074, .102, .116, .130, .142, .153, .163, .175, .205, .235, .205), .12, .04, .05, .04, .06),
    "grass_green":  Material((.028, .038, .080, .048, .125, .285, .345, .375, .395, .385, .250, .250, .130), .08, .03, .05, .06, .07, .7),
    "grass_dry":    Material((.048, .064, .104, .122, .162, .208, .235, .260, .278, .290, .300, .340, .250), .08, .03, .05, .06, .06, .5),
    "lawn":         Material((.030, .042, .092, .054, .138, .310, .380, .412, .430, .420, .260, .255, .135), .10, .03, .05, .07, .04, .5),
    "broadleaf":    Material((.018, .022, .047, .025, .075, .255, .335, .368, .388, .378, .200, .170, .075), .10, .03, .07, .06, .05, .4),
    "conifer":      Material((.015, .018, .032, .022, .048, .140, .178, .200, .214, .210, .110, .096, .045), .10, .03, .07, .06, .05, .3),
    "understory":   Material((.024, .030, .050, .046, .085, .170, .205, .230, .245, .245, .190, .200, .120), .10, .03, .06, .06, .05, .4),
    "litter":       Material((.034, .042, .062, .078, .100, .125, .145, .165, .180, .195, .220, .250, .185), .10, .03, .06, .06, .05),
    "vine":         Material((.022, .029, .060, .036, .095, .260, .330, .360, .380, .370, .220, .205, .100), .07, .03, .05, .05, .06, .6),
    "water_clear":  Material((.026, .026, .024, .013, .010, .008, .008, .006, .006, .005, .003, .003, .002), .15, .08, .06, .03, .02),
    "water_turbid": Material((.045, .055, .085, .074, .060, .036, .034, .026, .022, .015, .004, .005, .004), .15, .06, .05, .03, .03),
    "pool":         Material((.230, .290, .270, .120, .070, .045, .040, .035, .030, .020, .005, .005, .004), .10, .05, .03, .02, .00),
    "asphalt":      Material((.064, .072, .084, .094, .099, .104, .110, .116, .121, .126, .138, .144, .134), .10, .04, .05, .03, .02),
    "asphalt_old":  Material((.098, .114, .134, .150, .156, .162, .168, .174, .179, .185, .202, .212, .200), .09, .04, .05, .04, .03),
    "concrete":     Material((.168, .200, .234, .260, .268, .276, .286, .296, .302, .310, .330, .340, .320), .12, .04, .03, .02, .01),
    "gravel":       Material((.135, .165, .205, .245, .260, .272, .283, .294, .304, .312, .340, .360, .340), .10, .04, .06, .04, .02),
    "roof_tile":    Material((.052, .064, .102, .192, .216, .234, .250, .265, .276, .286, .320, .350, .320), .13, .06, .04, .02, .00),
    "roof_slate":   Material((.068, .074, .080, .085, .088, .090, .093, .096, .099, .102, .112, .122, .116), .12, .05, .03, .02, .00),
    "roof_metal":   Material((.390, .440, .475, .490, .495, .500, .500, .500, .495, .490, .450, .430, .380), .14, .04, .02, .02, .00),
    "roof_gravel":  Material((.120, .140, .165, .185, .192, .198, .204, .210, .215, .220, .240, .255, .245), .15, .05, .04, .03, .00),
    "paint_white":  Material((.480, .540, .560, .560, .560, .560, .560, .560, .550, .550, .500, .480, .420), .10, .03, .02, .02, .00),
    "paint_dark":   Material((.035, .037, .038, .040, .045, .055, .065, .075, .080, .085, .110, .120, .110), .20, .05, .02, .02, .00),
    "paint_red":    Material((.050, .050, .055, .240, .320, .360, .380, .390, .400, .400, .350, .330, .280), .15, .05, .02, .02, .00),
    "paint_blue":   Material((.160, .180, .110, .065, .065, .090, .150, .200, .230, .250, .280, .260, .230), .15, .05, .02, .02, .00),
}
# fmt: on
NAMES = tuple(MATERIALS)
INDEX = {name: position for position, name in enumerate(NAMES)}
CLOUD: Floats = np.array([0.62, 0.63, 0.63, 0.64, 0.65, 0.66, 0.67, 0.67, 0.67, 0.55, 0.05, 0.42, 0.32])
"""Reflectance of an opaque cloud in the order of `SENTINEL2_BANDS`."""


def response(band: str) -> Floats:
    """Weights (13,) that turn reflectance in Sentinel-2's bands into reflectance in `band`.

    `band` is one of `SENTINEL2_BANDS` (a single weight 1) or ``SPOT_PAN``, ``SPOT_B0`` ... ``SPOT_B3``: the mean over the
    band's limits of the spectrum interpolated linearly over wavelength.
    """
    if not band.startswith("SPOT_"):
        return np.eye(len(SENTINEL2_BANDS))[SENTINEL2_BANDS.index(band)]
    low, high = SPOT_NANOMETRES[band.removeprefix("SPOT_")]
    at = np.linspace(low, high, 201)
    return np.array([np.interp(at, SENTINEL2_NANOMETRES, unit).mean() for unit in np.eye(len(SENTINEL2_BANDS))])


SPECTRA: Floats = np.array([material.reflectance for material in MATERIALS.values()])
"""Reflectance (materials, 13)."""

TILT: Floats = np.interp(SENTINEL2_NANOMETRES, [443, 800, 2202], [-1.0, 0.0, 1.0])
"""Second mode of within-class variation: a slope over wavelength, -1 at the blue end, 1 at the short-wave infrared end."""

VIGOUR: Floats = np.array([-0.3, -0.4, -0.2, -1.0, -0.5, 0.5, 0.9, 1.0, 1.0, 1.0, 0.3, -0.5, -0.9])
"""Third mode: more leaf area means less red and short-wave infrared, more near infrared."""


def ramp(day: float, begin: float, end: float) -> float:
    """0 before day `begin`, 1 after day `end`, linear between (days of the year)."""
    return float(np.clip((day - begin) / (end - begin), 0.0, 1.0))


def cover_at(cover: str, day: int, phase: float, soil: str) -> dict[str, float]:
    """Materials and their shares (sum 1) that a `cover` shows on a day of the year.

    Args:
        cover: a material's name (unchanging), or one of ``winter_crop``, ``rapeseed``, ``summer_crop``, ``vineyard``, ``meadow``, ``deciduous``.
        day: day of the year, 1..366, northern mid latitudes.
        phase: days by which this parcel is late.
        soil: the material under the crop.

    """
    day_here = day - phase
    if cover in ("winter_crop", "rapeseed"):
        early = 12.0 if cover == "rapeseed" else 0.0
        growth = 0.35 + 0.65 * ramp(day_here, 60, 110) if day_here < 300 else 0.35 * ramp(day_here, 300, 350)
        ripening, cut, ploughed = ramp(day_here, 148 - early, 180 - early), ramp(day_here, 192 - early, 193 - early), ramp(day_here, 245, 246)
        if day_here >= 300:
            ripening = cut = ploughed = 0.0
        leaf = "crop_leafy" if cover == "rapeseed" else "crop_green"
        standing = {leaf: growth * (1 - ripening), "crop_ripe": growth * ripening, soil: 1 - growth}
        after = {"stubble": 0.85 * (1 - ploughed), soil: 0.15 + 0.85 * ploughed}
        return blend(standing, after, cut)
    if cover == "summer_crop":
        growth, ripening, cut = ramp(day_here, 128, 188), ramp(day_here, 235, 268), ramp(day_here, 285, 286)
        standing = {"crop_leafy": growth * (1 - ripening), "crop_ripe": growth * ripening, soil: 1 - growth}
        return blend(standing, {"stubble": 0.5, soil: 0.5}, cut)
    if cover == "vineyard":
        leaf_share = 0.75 * ramp(day_here, 105, 150) * (1 - ramp(day_here, 290, 315))
        return {"vine": leaf_share, soil: 1 - leaf_share}
    if cover == "meadow":
        dryness = 0.85 * ramp(day_here, 165, 215) * (1 - ramp(day_here, 262, 290))
        return {"grass_green": 1 - dryness, "grass_dry": dryness}
    if cover == "deciduous":
        leaf_share = ramp(day, 92, 122) * (1 - ramp(day, 300, 322))
        return {"broadleaf": leaf_share, "litter": 1 - leaf_share}
    return {cover: 1.0}


def blend(first: dict[str, float], second: dict[str, float], share: float) -> dict[str, float]:
    """The mixture with `share` of `second`."""
    names = {**first, **second}
    return {name: (1 - share) * first.get(name, 0.0) + share * second.get(name, 0.0) for name in names}
