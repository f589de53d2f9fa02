"""Spot-6/7 in DIMAP V2: PAN, MS, PMS or a bundle, on a map (ORT) or not (SEN), in one or many TIFF or JPEG 2000 tiles, top-of-atmosphere.

radiance L = DN / GAIN + BIAS in W/m2/sr/um; reflectance = pi L d^2 / (E cos(sun zenith)), E at one astronomical unit, d the distance of
the sun (Airbus, SPOT 6 & 7 user guide, and OTB's OpticalCalibration). Gains, biases and E belong to a BAND_ID, wherever it stands in
the list. GDAL's DIMAP driver makes one image of the tiles. There is no correction for the atmosphere in it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import PurePosixPath
from xml.etree.ElementTree import Element

from otbsr.errors import InputError
from otbsr.products.files import Files, nodes, number, text
from otbsr.products.layers import Layer
from otbsr.products.product import Angles, Band, Product

DOCUMENT = re.compile(r"^DIM_SPOT[67]_\w+.*\.XML$", re.IGNORECASE)
NAMES = {"B0": "blue", "B1": "green", "B2": "red", "B3": "nir", "P": "pan", "PAN": "pan"}
"""Our name of a BAND_ID: Sentinel-2 calls other bands B1, B2 and B3."""
RASTER_ORDER = ("B2", "B1", "B0", "B3")
"""Of multispectral images: red, green, blue, near infrared."""
DISPLAY = ("RED_CHANNEL", "GREEN_CHANNEL", "BLUE_CHANNEL")


def read(files: Files) -> Product | None:
    """The Spot product in a folder or archive, with all its images (pan and multispectral) as one, None when it has no DIM_SPOT*.XML.

    Raises `InputError` for metadata that cannot be read, several scenes, or calibration that is not there.
    """
    parts = [(name, part) for name, _ in files.matching(DOCUMENT) if (part := read_document(files, name)) is not None]
    if not parts:
        return None
    first = parts[0][1]
    bands: dict[str, Band] = {}
    for name, part in parts:
        if both := sorted(set(bands) & set(part.bands)):
            raise InputError(f"{files.root}: {', '.join(both)} in several images ({parts[0][0]}, {name}); give the DIM_*.XML of one")
        if part.sensor != first.sensor:
            raise InputError(f"{files.root}: {parts[0][0]} and {name} are one in sensor geometry and one on a map; give the DIM_*.XML of one")
        if first.time and part.time and abs((part.time - first.time).total_seconds()) > 60:
            raise InputError(f"{files.root}: {parts[0][0]} and {name} were taken at {first.time} and {part.time}; give the DIM_*.XML of one")
        bands |= part.bands
    if len(parts) == 1:
        return first
    return replace(
        first,
        path=files.root,
        bands=bands,
        layers=tuple(layer for _, part in parts for layer in part.layers),
        provenance={**first.provenance, "spectral": "+".join(part.provenance.get("spectral", "?") for _, part in parts)},
        remarks=tuple(dict.fromkeys(remark for _, part in parts for remark in part.remarks)),
    )


def read_document(files: Files, name: str) -> Product | None:
    """One image by its DIM_*.XML, None when that is another document; raises `InputError`."""
    root = files.xml(name)
    if not nodes(root, "Raster_Data") or not nodes(root, "Band_Measurement_List"):
        return None
    where = str(files.path(name))
    folder = str(PurePosixPath(name).parent)
    prefix = "" if folder == "." else folder + "/"
    time = time_of(root, where)
    sun = located(root, "Solar_Incidences", "SUN_ELEVATION")
    if sun is None or not 0 < sun <= 90:
        raise InputError(f"{where}: sun elevation is {sun}, expected degrees above the horizon (SUN_ELEVATION); fetch the file again")
    calibration = calibrations(root, where)
    order = raster_order(root, where)
    tiles = [node.attrib.get("href", "") for node in nodes(root, "Data_Files", "DATA_FILE_PATH")]
    missing = [tile for tile in tiles if prefix + tile not in files.names]
    if not tiles or missing:
        raise InputError(f"{where}: names the image {', '.join(missing) or '(none)'}, which is not there; fetch the whole product")
    special = {text(one, "SPECIAL_VALUE_TEXT"): number(one, "SPECIAL_VALUE_COUNT") for one in nodes(root, "Special_Value")}
    nodata, saturated = special.get("NODATA", 0.0), special.get("SATURATED")
    sensor = "SENSOR" in (text(root, "PROCESSING_LEVEL") or "").upper() or "PRIMARY" in (text(root, "PROCESSING_LEVEL") or "").upper()
    spacing = number(root, "Geoposition_Insert", "XDIM") or (1.5 if len(order) == 1 or "PMS" in (text(root, "SPECTRAL_PROCESSING") or "") else 6.0)
    bands = {}
    to_reflectance = math.pi * sun_distance(time) ** 2 / math.sin(math.radians(sun))
    for index, band_id in enumerate(order, 1):
        if band_id not in calibration:
            raise InputError(f"{where}: no gain, bias and solar irradiance for band {band_id}, there are {', '.join(calibration)}; fetch the file again")
        gain, bias, irradiance = calibration[band_id]
        scale = to_reflectance / (irradiance * gain)
        bands[NAMES[band_id]] = Band(
            NAMES[band_id], files.path(name), index, spacing, scale, bias * to_reflectance / irradiance, nodata, saturated,
            tuple(files.path(prefix + tile) for tile in tiles),
        )  # fmt: skip
    masks = list(layers_of(files, prefix, tuple(bands)))
    azimuth, incidence, view = (located(root, *path) for path in (
        ("Solar_Incidences", "SUN_AZIMUTH"), ("Acquisition_Angles", "INCIDENCE_ANGLE"), ("Acquisition_Angles", "AZIMUTH_ANGLE")))  # fmt: skip
    provenance = {
        "level": text(root, "PROCESSING_LEVEL") or "", "satellite": f"Spot-{text(root, 'MISSION_INDEX') or '?'}",
        "product": text(root, "DATASET_NAME") or PurePosixPath(name).stem, "spectral": text(root, "SPECTRAL_PROCESSING") or "",
        "radiometry": text(root, "RADIOMETRIC_PROCESSING") or "", "declared_crs": text(root, "PROJECTED_CRS_CODE") or text(root, "GEODETIC_CRS_CODE") or "",
    }  # fmt: skip
    remarks = [] if any(layer.kind == "cloud" for layer in masks) else ["no cloud mask (MASKS/CLD_*_MSK.GML)"]
    if provenance["radiometry"].upper() in ("DISPLAY", "SEAMLESS"):
        remarks.append(
            f"radiometric processing is {provenance['radiometry']}: numbers were stretched for display and are no measurement; order BASIC or REFLECTANCE"
        )
    return Product(
        provenance["product"], "dimap", files.path(name), time.date(), bands, time, Angles(90.0 - sun, azimuth, incidence, view), tuple(masks),
        {key: value for key, value in provenance.items() if value}, (), tuple(remarks), sensor, extent_of(root),
    )  # fmt: skip


def time_of(root: Element, where: str) -> datetime:
    """When the image was taken, UTC; raises `InputError`, since the distance of the sun depends on it."""
    day, hour = text(root, "IMAGING_DATE") or "", (text(root, "IMAGING_TIME") or "00:00:00").removesuffix("Z")
    whole, _, rest = hour.partition(".")
    try:
        time = datetime.fromisoformat(f"{day}T{whole}").replace(tzinfo=timezone.utc)
        return time.replace(microsecond=int((rest + "000000")[:6]))
    except ValueError as error:
        raise InputError(f"{where}: date is '{day} {hour}', expected 2023-06-14 and 10:42:00.0Z (IMAGING_DATE, IMAGING_TIME); fetch the file again") from error


def sun_distance(time: datetime) -> float:
    """Sun-Earth distance in astronomical units (Astronomical Almanac, low precision: 1e-4)."""
    days = (time - datetime(2000, 1, 1, 12, tzinfo=timezone.utc)).total_seconds() / 86400
    anomaly = math.radians(357.529 + 0.98560028 * days)
    return 1.00014 - 0.01671 * math.cos(anomaly) - 0.00014 * math.cos(2 * anomaly)


def located(root: Element, *path: str) -> float | None:
    """A value of Located_Geometric_Values at the scene's centre, else the mean over the places where it is given."""
    places = nodes(root, "Located_Geometric_Values") or [root]
    centre = [place for place in places if (text(place, "LOCATION_TYPE") or "").lower() == "center"]
    found = [value for place in centre or places if (value := number(place, *path)) is not None]
    return sum(found) / len(found) if found else None


def extent_of(root: Element) -> tuple[tuple[float, float], ...]:
    """The corners of the image, (longitude, latitude), () when they are not all given."""
    corners = [(number(one, "LON"), number(one, "LAT")) for one in nodes(root, "Dataset_Extent", "Vertex")]
    known = tuple((lon, lat) for lon, lat in corners if lon is not None and lat is not None)
    return known if len(known) == len(corners) else ()


def calibrations(root: Element, where: str) -> dict[str, tuple[float, float, float]]:
    """(gain, bias, solar irradiance) by BAND_ID; raises `InputError` for numbers that are missing or impossible."""
    gains = {text(one, "BAND_ID"): (number(one, "GAIN"), number(one, "BIAS")) for one in nodes(root, "Band_Radiance")}
    suns = {text(one, "BAND_ID"): number(one, "VALUE") for one in nodes(root, "Band_Solar_Irradiance")}
    found = {}
    for band, (gain, bias) in gains.items():
        irradiance = suns.get(band)
        if band is None or gain is None or bias is None or irradiance is None or gain <= 0 or irradiance <= 0:
            raise InputError(
                f"{where}: calibration of band {band} is gain {gain}, bias {bias}, solar irradiance {irradiance}; expected all three, "
                "gain and irradiance above 0; fetch the file again"
            )
        found[one_name(band)] = gain, bias, irradiance
    return found


def one_name(band: str) -> str:
    """A BAND_ID as in `NAMES`, one word for the panchromatic band."""
    return "P" if band.upper() in ("P", "PAN") else band.upper()


def raster_order(root: Element, where: str) -> list[str]:
    """BAND_ID of the image's bands in the order of the raster: as an index list says, else as Spot's are; raises `InputError` when that cannot be so."""
    count = number(root, "Raster_Dimensions", "NBANDS")
    indexed = {number(one, "BAND_INDEX"): one_name(text(one, "BAND_ID") or "?") for one in nodes(root, "Raster_Index")}
    if indexed and None not in indexed:
        order = [band for _, band in sorted(indexed.items(), key=lambda item: item[0] or 0)]
    elif count == 1:
        order = ["P"]
    else:
        shown = [one_name(text(root, "Band_Display_Order", tag) or "?") for tag in DISPLAY]
        order = list(RASTER_ORDER)
        if shown != order[:3] and shown != ["?"] * 3:
            raise InputError(
                f"{where}: bands are in the order {', '.join(shown)} (Band_Display_Order), expected red, green, blue ({', '.join(order[:3])}); "
                "reorder the image's bands, or fetch the product as delivered"
            )
    if len(order) != count or any(band not in NAMES for band in order) or len(set(order)) != len(order):
        raise InputError(f"{where}: bands {', '.join(order)} for NBANDS {count}, expected one panchromatic, or four of Spot-6/7; fetch the file again")
    return order


def layers_of(files: Files, prefix: str, bands: tuple[str, ...]) -> Iterable[Layer]:
    """Masks beside the image: clouds and snow, the region of interest (outside it there is nothing), and what the processor flagged."""
    for name, match in files.matching(re.compile(r"^(?P<mask>CLD|SNW|ROI|DTI|SLT)_.*\.GML$", re.IGNORECASE)):
        if name.startswith(f"{prefix}MASKS/"):
            mask = match["mask"].upper()
            kind = {"CLD": "cloud", "SNW": "snow", "ROI": "nodata", "DTI": "invalid", "SLT": "saturation"}[mask]
            yield Layer(kind, files.path(name), bands=bands if mask in ("ROI", "SLT") else (), outside=mask == "ROI")
