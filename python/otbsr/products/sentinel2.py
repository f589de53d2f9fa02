"""ESA's SAFE, Level-1C and Level-2A: reflectance = (DN + offset) / quantification, DN 0 holds nothing, 65535 is saturated.

From processing baseline 04.00 on (January 2022) the metadata give an offset per band (BOA_ADD_OFFSET, RADIO_ADD_OFFSET, usually
-1000); before, there is none. Whoever forgets it is 0.1 of reflectance off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import PurePosixPath
from xml.etree.ElementTree import Element

import numpy as np

from otbsr.errors import InputError
from otbsr.products.files import Files, nodes, number, text
from otbsr.products.layers import Layer
from otbsr.products.product import Angles, Band, Product, band_name

BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
"""In the order of the metadata's band_id 0 ... 12."""
FINEST = {"B1": 60, "B9": 60, "B10": 60, "B2": 10, "B3": 10, "B4": 10, "B8": 10}
FILE = re.compile(r"^(?:L2A_)?T\w{5}_\d{8}T\d{6}_(?P<band>B\d[\dA]|SCL)(?:_(?P<spacing>\d\d)m)?\.(?:jp2|tif|tiff)$", re.IGNORECASE)
MASK = re.compile(r"^MSK_(?P<mask>CLASSI|CLOUDS|QUALIT|SATURA|NODATA|DEFECT)_(?P<band>B\d[\dA])\.(?P<form>jp2|tif|gml)$", re.IGNORECASE)
WITH_OFFSETS = 4.0
"""Processing baselines from this one on have offsets; those below have none."""
NEWEST = 5.99
"""The newest whose metadata are known."""
SCENE_CLASSES = {"nodata": (0,), "saturation": (1,), "shadow": (3,), "cloud": (8, 9, 10), "snow": (11,)}
"""Sen2Cor's SCL: 1 is saturated or defective, 8 to 10 are clouds of medium and high probability and cirrus."""
CLASSIFICATION = {"cloud": (1, 2), "snow": (3,)}
"""Bands of MSK_CLASSI: opaque clouds, cirrus, snow and ice."""
QUALITY = {"invalid": (3, 4, 5), "nodata": (6,), "saturation": (8,)}
"""Bands of MSK_QUALIT: lost and degraded packets, defective pixels; no data; saturated."""


def read(files: Files) -> Product | None:
    """The SAFE product in a folder or archive, None when it has no MTD_MSIL1C.xml or MTD_MSIL2A.xml.

    Each band is taken at its finest spacing. Raises `InputError` for metadata that cannot be read, for several granules or products, and
    for a baseline that does not say whether numbers are shifted.
    """
    documents = [name for name, _ in files.matching(re.compile(r"^MTD_MSIL(2A|1C)\.xml$"))]
    if not documents:
        return None
    places = sorted({str(PurePosixPath(name).parent) for name in documents})
    if len(places) > 1:
        raise InputError(f"{files.root}: {len(places)} SAFE products ({places[0]}, {places[1]}), expected 1; give the folder of one")
    prefix = "" if places[0] == "." else places[0] + "/"
    document = max(documents)  # MTD_MSIL2A.xml when both are there
    root = files.xml(document)
    where = str(files.path(document))
    images = sorted({name.split("/IMG_DATA/")[0] for name in files.names if name.startswith(f"{prefix}GRANULE/") and "/IMG_DATA/" in name})
    if len(images) != 1:
        raise InputError(f"{files.root}: {len(images)} granules with images (GRANULE/*/IMG_DATA), expected 1; fetch the whole product of one tile")
    scale, saturated = quantification(root, where)
    folder = PurePosixPath(prefix).name if prefix else files.root.name
    uri = text(root, "PRODUCT_URI") or folder
    baseline, remarks = baseline_of(root, uri, folder)
    offsets = offsets_of(root, where, baseline)
    bands: dict[str, Band] = {}
    classes: dict[float, str] = {}
    for name, match in files.matching(FILE):
        if not name.startswith(f"{images[0]}/IMG_DATA/"):
            continue
        band = band_name(match["band"])
        spacing = float(match["spacing"] or FINEST.get(band, 20))
        if band == "SCL":
            classes[spacing] = name
        elif band not in bands or spacing < bands[band].spacing:
            bands[band] = Band(band, files.path(name), 1, spacing, scale, offsets.get(band, 0.0) * scale, 0, saturated)
    layers = [Layer(kind, files.path(classes[min(classes)]), values=values) for kind, values in SCENE_CLASSES.items()] if classes else []
    layers += list(quality_layers(files, f"{images[0]}/QI_DATA/", with_clouds=not classes))
    tile = f"{images[0]}/MTD_TL.xml"
    geometry = files.xml(tile) if tile in files.names else None
    time = time_of(root, where)
    missing = lost_images(files, prefix, root) + ([] if geometry is not None else [tile])
    level = "L2A" if document.endswith("L2A.xml") else "L1C"
    provenance = {
        "level": level, "satellite": text(root, "SPACECRAFT_NAME") or "", "baseline": baseline, "product": uri, "granule": PurePosixPath(images[0]).name,
        "orbit": text(root, "SENSING_ORBIT_NUMBER") or "", "declared_crs": text(geometry, "HORIZONTAL_CS_CODE") or "" if geometry is not None else "",
    }  # fmt: skip
    return Product(
        name=folder.removesuffix(".zip").removesuffix(".SAFE"),
        kind="safe",
        path=files.root,
        date=time.date() if time else None,
        bands={name: bands[name] for name in BANDS if name in bands},
        time=time,
        angles=Angles() if geometry is None else angles_of(geometry, "Mean_Sun_Angle", "Mean_Viewing_Incidence_Angle"),
        layers=tuple(layers),
        provenance={key: value for key, value in provenance.items() if value},
        missing=tuple(missing),
        remarks=tuple(remarks),
    )


def quantification(root: Element, where: str) -> tuple[float, float | None]:
    """(reflectance of one DN, DN of saturated pixels); raises `InputError`."""
    value = number(root, "BOA_QUANTIFICATION_VALUE") or number(root, "QUANTIFICATION_VALUE")
    if value is None or value <= 0:
        raise InputError(f"{where}: quantification is {value}, expected a positive number (10000) as in a SAFE; fetch the file again")
    special = {text(one, "SPECIAL_VALUE_TEXT"): number(one, "SPECIAL_VALUE_INDEX") for one in nodes(root, "Special_Values")}
    return 1.0 / value, special.get("SATURATED")


def baseline_of(root: Element, uri: str, folder: str) -> tuple[str, list[str]]:
    """(processing baseline as "05.09", '' when it is not to be found; remarks)."""
    found = text(root, "PROCESSING_BASELINE") or ""
    if not re.fullmatch(r"\d\d\.\d\d", found):
        named = next((match for match in (re.search(r"_N(\d\d)(\d\d)_", name) for name in (uri, folder)) if match), None)
        found = f"{named[1]}.{named[2]}" if named else ""
    if found and float(found) > NEWEST:
        return found, [f"processing baseline {found} is newer than those known (up to {NEWEST:05.2f}): offsets are used as its metadata give them"]
    return found, []


def offsets_of(root: Element, where: str, baseline: str) -> dict[str, float]:
    """Offset in DN by band; raises `InputError` when the metadata do not say what it is."""
    listed = nodes(root, "BOA_ADD_OFFSET") or nodes(root, "RADIO_ADD_OFFSET")
    try:
        offsets = {BANDS[int(node.attrib["band_id"])]: float(node.text or "") for node in listed if int(node.attrib["band_id"]) >= 0}
    except (IndexError, KeyError, ValueError) as error:
        raise InputError(f"{where}: offsets are not as in a SAFE ({error!r}), expected one for each band_id 0 to 12; fetch the file again") from error
    if not listed and not baseline:
        raise InputError(f"{where}: processing baseline is unknown and there are no offsets, so that numbers may be 1000 too high; fetch the product again")
    if not listed and float(baseline) >= WITH_OFFSETS:
        raise InputError(
            f"{where}: processing baseline {baseline} without offsets (BOA_ADD_OFFSET, RADIO_ADD_OFFSET), expected one per band from 04.00 on; "
            "fetch the product again"
        )
    if listed and (absent := [band for band in BANDS if band not in offsets and band != "B10"]):
        raise InputError(f"{where}: no offset for {', '.join(absent)}, expected one for each band_id 0 to 12; fetch the product again")
    return offsets


def time_of(root: Element, where: str) -> datetime | None:
    """Start of the acquisition, UTC, None when the metadata do not say it; raises `InputError`."""
    start = text(root, "PRODUCT_START_TIME") or text(root, "DATATAKE_SENSING_START")
    try:
        return datetime.fromisoformat(start.replace("Z", "+00:00")).astimezone(timezone.utc) if start else None
    except ValueError as error:
        raise InputError(f"{where}: date is '{start}', expected 2024-03-05T10:48:19.024Z; fetch the file again") from error


def angles_of(root: Element, sun: str, view: str) -> Angles:
    """Mean angles of elements with ZENITH_ANGLE and AZIMUTH_ANGLE: one of the sun, one a band of the view, which are averaged as directions."""
    views = [(number(one, "ZENITH_ANGLE"), number(one, "AZIMUTH_ANGLE")) for one in nodes(root, view)]
    known = np.radians([(zenith, azimuth) for zenith, azimuth in views if zenith is not None and azimuth is not None]).reshape(-1, 2)
    zenith = azimuth = None
    if len(known):
        east, north = (np.mean(np.sin(known[:, 0]) * turn(known[:, 1])) for turn in (np.sin, np.cos))
        zenith, azimuth = float(np.degrees(np.mean(known[:, 0]))), float(np.degrees(np.arctan2(east, north)) % 360)
    return Angles(number(root, sun, "ZENITH_ANGLE"), number(root, sun, "AZIMUTH_ANGLE"), zenith, azimuth)


def quality_layers(files: Files, folder: str, with_clouds: bool) -> Iterable[Layer]:
    """The masks in QI_DATA: images from baseline 04.00 on, polygons before. with_clouds: also those of clouds and snow."""
    for name, match in files.matching(MASK):
        if not name.startswith(folder):
            continue
        path, mask, form, band = files.path(name), match["mask"].upper(), match["form"].lower(), band_name(match["band"])
        if mask == "CLASSI" and with_clouds and form != "gml":
            yield from (Layer(kind, path, index, bits=255) for kind, indices in CLASSIFICATION.items() for index in indices)
        elif mask == "QUALIT" and form != "gml":
            yield from (Layer(kind, path, index, bits=255, bands=(band,)) for kind, indices in QUALITY.items() for index in indices)
        elif form == "gml" and (mask != "CLOUDS" or with_clouds) and mask not in ("QUALIT", "CLASSI"):
            kind = {"CLOUDS": "cloud", "SATURA": "saturation", "NODATA": "nodata", "DEFECT": "invalid"}[mask]
            yield Layer(kind, path, bands=() if mask == "CLOUDS" else (band,))


def lost_images(files: Files, prefix: str, root: Element) -> list[str]:
    """Images that the metadata list and the product lacks, without their extension; whatever is in the folder, as long as some are listed."""
    there = {str(PurePosixPath(name).with_suffix("")) for name in files.names}
    return [
        listed for node in (*nodes(root, "IMAGE_FILE"), *nodes(root, "IMAGE_FILE_2A")) if (listed := (node.text or "").strip()) and prefix + listed not in there
    ]
