"""Theia/MAJA Level-2A folders: surface reflectance x 10000 in int16, no-data -10000, one file a band.

FRE files (corrected for slopes) are read; SRE is not, because illumination left in would look like land cover.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from otbsr.errors import InputError
from otbsr.products.product import Band, Product, band_name

NAME = re.compile(
    r"(?P<product>SENTINEL2[A-Z]_(?P<date>\d{8})-\d{6}-\d+_L2A_T\w{5}_\w_V[\w-]+)_(?P<level>FRE|SRE)_(?P<band>B\d{1,2}A?)\.(?:tif|tiff)$", re.IGNORECASE
)
SPACING = {"B2": 10, "B3": 10, "B4": 10, "B8": 10, "B5": 20, "B6": 20, "B7": 20, "B8A": 20, "B11": 20, "B12": 20}


def read(folder: Path) -> Product | None:
    """The Theia product in `folder`, None when it holds no file named like one.

    Raises `InputError` when the folder holds bands of several products, or SRE files only.
    """
    found = [(file, match) for file in sorted(folder.iterdir()) if (match := NAME.match(file.name))]
    if not found:
        return None
    flat = [(file, match) for file, match in found if match["level"].upper() == "FRE"]
    if not flat:
        raise InputError(f"{folder}: SRE files only; expected *_FRE_B*.tif: fetch the whole product")
    products = sorted({match["product"] for _, match in flat})
    if len(products) > 1:
        raise InputError(f"{folder}: {len(products)} products in one folder ({products[0]}, {products[1]}); keep one in a folder")
    bands = {}
    for file, match in flat:
        name = band_name(match["band"])
        bands[name] = Band(name, file, 1, SPACING.get(name, 60), 1e-4, 0.0, -10000)
    order = sorted(bands, key=lambda name: (int(name[1:].rstrip("A")), name))
    return Product(products[0], "theia", folder, datetime.strptime(flat[0][1]["date"], "%Y%m%d").date(), {name: bands[name] for name in order})
