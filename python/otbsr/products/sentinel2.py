"""ESA's SAFE folders, Level-1C and Level-2A: reflectance = (DN + offset) / quantification, DN 0 holds nothing.

From processing baseline 04.00 on (January 2022) the metadata give an offset per band (BOA_ADD_OFFSET, RADIO_ADD_OFFSET, usually
-1000); before, there is none. Whoever forgets it is 0.1 of reflectance off.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from pathlib import Path
from xml.etree import ElementTree

from otbsr.errors import InputError
from otbsr.products.product import Band, Product, band_name

BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
"""In the order of the metadata's band_id 0 ... 12."""
FINEST = {"B1": 60, "B9": 60, "B10": 60, "B2": 10, "B3": 10, "B4": 10, "B8": 10}
FILE = re.compile(r"^T\w{5}_\d{8}T\d{6}_(?P<band>B\d[\dA])(?:_(?P<spacing>\d\d)m)?\.(?:jp2|tif|tiff)$", re.IGNORECASE)


def read(folder: Path) -> Product | None:
    """The SAFE product in `folder`, None when it has no MTD_MSIL1C.xml or MTD_MSIL2A.xml.

    Each band is taken at its finest spacing. Raises `InputError` for metadata that cannot be read and for several granules.
    """
    metadata = [folder / name for name in ("MTD_MSIL2A.xml", "MTD_MSIL1C.xml") if (folder / name).is_file()]
    if not metadata:
        return None
    scale, offsets, day = radiometry(metadata[0])
    granules = sorted(path for path in (folder / "GRANULE").glob("*") if (path / "IMG_DATA").is_dir())
    if len(granules) != 1:
        raise InputError(f"{folder}: {len(granules)} granules with images (GRANULE/*/IMG_DATA), expected 1; fetch the whole product of one tile")
    bands: dict[str, Band] = {}
    for file in sorted((granules[0] / "IMG_DATA").rglob("*")):
        match = FILE.match(file.name)
        if not match:
            continue
        name = band_name(match["band"])
        spacing = float(match["spacing"] or FINEST.get(name, 20))
        if name not in bands or spacing < bands[name].spacing:
            bands[name] = Band(name, file, 1, spacing, scale, offsets.get(name, 0.0) * scale, 0)
    return Product(folder.name.removesuffix(".SAFE"), "safe", folder, day, {name: bands[name] for name in BANDS if name in bands})


def radiometry(metadata: Path) -> tuple[float, dict[str, float], date | None]:
    """(reflectance of one DN, offset in DN by band, date of acquisition) of an MTD_MSIL*.xml; raises `InputError`."""
    try:
        root = ElementTree.parse(metadata).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise InputError(f"{metadata}: metadata cannot be read ({error}); fetch the file again") from error
    nodes = {"quantification": [], "offset": [], "start": []}  # type: dict[str, list[ElementTree.Element]]
    for node in root.iter():
        tag = node.tag.rsplit("}", 1)[-1]
        if tag in ("BOA_QUANTIFICATION_VALUE", "QUANTIFICATION_VALUE"):
            nodes["quantification"].append(node)
        elif tag in ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET"):
            nodes["offset"].append(node)
        elif tag == "PRODUCT_START_TIME":
            nodes["start"].append(node)
    try:
        scale = 1.0 / float(nodes["quantification"][0].text or "")
        offsets = {BANDS[int(node.attrib["band_id"])]: float(node.text or "") for node in nodes["offset"]}
        day = datetime.fromisoformat((nodes["start"][0].text or "").strip()[:10]).date() if nodes["start"] else None
    except (IndexError, KeyError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{metadata}: quantification, offsets or date are not as in a SAFE ({error!r}); fetch the file again") from error
    return scale, offsets, day
