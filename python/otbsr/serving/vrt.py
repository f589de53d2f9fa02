"""A virtual mosaic over finished window files, for those who keep the windows as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from otbsr.errors import OutputError
from otbsr.serving.cog import TILE, Layer, Piece


def write_mosaic(path: Path, pieces: Sequence[Piece], layer: Layer, tags: Mapping[str, str]) -> None:
    """Write a VRT of `pieces` for a place beside their folder: paths are relative to that. Raises `OutputError`.

    Pieces without a file hold the layer's no-data value.
    """
    grid = layer.grid
    kind = {"uint8": "Byte"}.get(layer.dtype, np.dtype(layer.dtype).name.replace("uint", "UInt").replace("int", "Int").replace("float", "Float"))
    root = ElementTree.Element("VRTDataset", rasterXSize=str(grid.width), rasterYSize=str(grid.height))
    if grid.crs:
        ElementTree.SubElement(root, "SRS").text = grid.crs
    ElementTree.SubElement(root, "GeoTransform").text = ", ".join(f"{value:.17g}" for value in grid.transform.to_gdal())
    metadata = ElementTree.SubElement(root, "Metadata")
    for key, value in tags.items():
        ElementTree.SubElement(metadata, "MDI", key=key).text = value
    for number, name in enumerate(layer.bands, 1):
        band = ElementTree.SubElement(root, "VRTRasterBand", dataType=kind, band=str(number), blockXSize=str(TILE), blockYSize=str(TILE))
        ElementTree.SubElement(band, "Description").text = name
        if layer.nodata is not None:
            ElementTree.SubElement(band, "NoDataValue").text = f"{layer.nodata:.17g}"
        ElementTree.SubElement(band, "Offset").text = f"{layer.offset:.17g}"
        ElementTree.SubElement(band, "Scale").text = f"{layer.scale:.17g}"
        for piece in pieces:
            if piece.path is not None:
                source = ElementTree.SubElement(band, "SimpleSource")
                ElementTree.SubElement(source, "SourceFilename", relativeToVRT="1").text = f"{piece.path.parent.name}/{piece.path.name}"
                ElementTree.SubElement(source, "SourceBand").text = str(number)
                size = {"xSize": str(piece.width), "ySize": str(piece.height)}
                ElementTree.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0", **size})
                ElementTree.SubElement(source, "DstRect", {"xOff": str(piece.column), "yOff": str(piece.row), **size})
    try:
        ElementTree.ElementTree(root).write(path, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); free some space and run the same command again") from error
