"""Theia/MAJA Level-2A: surface reflectance x 10000 in int16, no-data -10000, one file a band; 10 m (R1) and 20 m (R2) may have two corners.

FRE files are corrected for slopes; SRE are not, so that illumination looks like land cover, but have no artefacts of the terrain model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import PurePosixPath

from otbsr.errors import InputError
from otbsr.products.files import Files, finite, nodes, number, text
from otbsr.products.layers import Layer
from otbsr.products.product import Angles, Band, Product, band_name
from otbsr.products.sentinel2 import angles_of

SURFACES = ("FRE", "SRE")
PREFIX = r"(?P<product>SENTINEL2[A-Z]_(?P<date>\d{8})-(?P<time>\d{6})-\d+_L2A_T\w{5}_\w_V[\w-]+)"
NAME = re.compile(PREFIX + r"_(?P<surface>FRE|SRE)_(?P<band>B\d{1,2}A?)\.(?:tif|tiff)$", re.IGNORECASE)
MASK = re.compile(PREFIX + r"_(?P<mask>CLM|MG2|EDG|SAT|DFP)_(?P<group>R1|R2|B\d{1,2}A?)\.(?:tif|tiff)$", re.IGNORECASE)
GROUPS = {"R1": ("B2", "B3", "B4", "B8"), "R2": ("B5", "B6", "B7", "B8A", "B11", "B12")}
"""Bands of a spacing, in the order of the bits of SAT and DFP."""
SPACING = {band: spacing for group, spacing in (("R1", 10), ("R2", 20)) for band in GROUPS[group]}
CLOUD_BITS, SHADOW_BITS = 0b10011110, 0b01100000
"""Of CLM: 1 all clouds, 2 in the blue, 3 multi-temporal, 4 cirrus, 7 high; 5 shadow of a cloud seen, 6 of one outside the image. Bit 0 is any."""
SNOW_BIT, HIDDEN_BIT = 1 << 2, 1 << 5
"""Of MG2; hidden: behind terrain."""


def read(files: Files, surface: str = "FRE") -> Product | None:
    """The Theia product in a folder or archive, None when it holds no file named like one.

    Raises `InputError` when there are bands of several products, or none of the `surface` ("FRE", "SRE").
    """
    found = files.matching(NAME)
    if not found:
        return None
    chosen = [(name, match) for name, match in found if match["surface"].upper() == surface]
    if not chosen:
        other = found[0][1]["surface"].upper()
        raise InputError(f"{files.root}: {other} files only; expected *_{surface}_B*.tif: fetch the whole product, or choose {other} (--surface)")
    products = sorted({match["product"] for _, match in chosen})
    if len(products) > 1:
        raise InputError(f"{files.root}: {len(products)} products in one folder ({products[0]}, {products[1]}); keep one in a folder")
    match = chosen[0][1]
    time = datetime.strptime(match["date"] + match["time"], "%Y%m%d%H%M%S").replace(tzinfo=timezone.utc)
    document = next((name for name, _ in files.matching(re.compile(re.escape(products[0]) + r"_MTD_ALL\.xml$", re.IGNORECASE))), None)
    scale, nodata, angles, remarks, missing = 1e-4, -10000.0, Angles(), [], []
    provenance = {"level": "L2A", "satellite": products[0][:10], "product": products[0], "surface": surface}
    if document:
        root = files.xml(document)
        value = number(root, "REFLECTANCE_QUANTIFICATION_VALUE")
        empty = [finite(node.text) for node in nodes(root, "SPECIAL_VALUE") if node.attrib.get("name") == "nodata"]
        if value is None or value <= 0 or not empty or empty[0] is None:
            remarks.append(f"{PurePosixPath(document).name} gives no quantification or no-data value: 10000 and -10000 are taken")
        scale, nodata = 1 / value if value and value > 0 else scale, empty[0] if empty and empty[0] is not None else nodata
        angles = angles_of(next(iter(nodes(root, "Mean_Value_List")), root), "Sun_Angles", "Mean_Viewing_Incidence_Angle")
        provenance |= {key: words for key, tag in (("version", "PRODUCT_VERSION"), ("orbit", "ORBIT_NUMBER")) if (words := text(root, tag))}
    else:
        missing.append(f"{products[0]}_MTD_ALL.xml")
    bands = {}
    for name, one in chosen:
        band = band_name(one["band"])
        bands[band] = Band(band, files.path(name), 1, SPACING.get(band, 60), scale, 0.0, nodata)
    missing += [f"{products[0]}_{surface}_{band}.tif" for band in SPACING if band not in bands]
    layers = tuple(layers_of(files, products[0]))
    if not any(layer.kind == "cloud" for layer in layers):
        missing.append(f"MASKS/{products[0]}_CLM_R1.tif")
    order = sorted(bands, key=lambda name: (int(name[1:].rstrip("A")), name))
    return Product(
        products[0], "theia", files.root, time.date(), {name: bands[name] for name in order}, time, angles, layers, provenance, tuple(missing), tuple(remarks)
    )


def layers_of(files: Files, product: str) -> Iterable[Layer]:
    """The masks of a product, those of its finest spacing where it is the same thing."""
    found = {(match["mask"].upper(), match["group"].upper()): name for name, match in files.matching(MASK) if match["product"] == product}
    for mask, kinds in (("CLM", {"cloud": CLOUD_BITS, "shadow": SHADOW_BITS}), ("MG2", {"snow": SNOW_BIT, "invalid": HIDDEN_BIT}), ("EDG", {"invalid": 255})):
        name = found.get((mask, "R1")) or found.get((mask, "R2"))
        if name:
            yield from (Layer(kind, files.path(name), bits=bits) for kind, bits in kinds.items())
    for mask, kind in (("SAT", "saturation"), ("DFP", "invalid")):
        for group, bands in GROUPS.items():
            for bit, band in enumerate(bands):
                name = found.get((mask, group)) or found.get((mask, band))
                if name:
                    yield Layer(kind, files.path(name), bits=1 << bit, bands=(band,))
