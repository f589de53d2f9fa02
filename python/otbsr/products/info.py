"""What a product is, in words and for machines: bands, grids, radiometry, masks, date, angles, and what it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import rasterio

from otbsr.errors import OtbsrError
from otbsr.products.layers import Layer
from otbsr.products.product import Band, Product, readable_grid
from otbsr.raster import known_damage


def describe(product: Product) -> dict[str, Any]:
    """All that is known of a product; "problems" are damaged files and bands that do not share a CRS, "complete" says that nothing is wrong."""
    problems: list[str] = []
    bands = [about_band(product, band, problems) for band in product.bands.values()]
    crs = sorted({band["crs"] for band in bands if band.get("crs")})
    if len(crs) > 1:
        problems.append(f"bands have several coordinate reference systems: {', '.join(crs)}")
    for path in dict.fromkeys(layer.path for layer in product.layers):
        if path.suffix.lower() != ".gml" and (reason := known_damage(path)):
            problems.append(f"{path}: {reason}")
    angles = product.angles
    return {
        "name": product.name, "kind": product.kind, "path": str(product.path), "date": product.date, "time": product.time, "crs": crs[0] if crs else "",
        "geometry": "sensor" if product.sensor else "map", "provenance": dict(product.provenance),
        "sun": {"zenith": angles.sun_zenith, "azimuth": angles.sun_azimuth}, "view": {"zenith": angles.view_zenith, "azimuth": angles.view_azimuth},
        "bands": bands, "masks": masks(product.layers), "missing": list(product.missing), "remarks": list(product.remarks), "problems": problems,
        "complete": not problems and not product.missing and bool(bands),
    }  # fmt: skip


def about_band(product: Product, band: Band, problems: list[str]) -> dict[str, Any]:
    """A band's file, grid and radiometry; adds to `problems` what is wrong with it."""
    about: dict[str, Any] = {
        "name": band.name, "spacing": band.spacing, "scale": band.scale, "offset": band.offset, "nodata": band.nodata,
        "file": band.path.name, "index": band.index,
    }  # fmt: skip
    try:
        grid = readable_grid(band, product.sensor)
    except OtbsrError as error:
        problems.append(str(error))
        return about
    if not product.sensor:
        about |= {"spacing": grid.dx, "left": grid.left, "top": grid.top}
    about |= {"width": grid.width, "height": grid.height}
    if grid.crs:
        crs = rasterio.CRS.from_string(grid.crs)
        about["crs"] = f"EPSG:{crs.to_epsg()}" if crs.to_epsg() else crs.to_string()
    return about


def masks(layers: tuple[Layer, ...]) -> dict[str, list[str]]:
    """Names of the files that say where a kind is, by kind."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        names = found.setdefault(layer.kind, [])
        if layer.path.name not in names:
            names.append(layer.path.name)
    return found


def lines(about: dict[str, Any]) -> Iterator[str]:
    """`describe`'s answer for a person."""
    yield f"{about['name']} ({about['kind']})"
    yield f"  taken     {about['time'] or about['date'] or 'unknown'}"
    for key, value in about["provenance"].items():
        if key != "product":
            yield f"  {key:<9} {value}"
    yield f"  crs       {about['crs'] or 'none'}" + (" (sensor geometry: orthorectify first)" if about["geometry"] == "sensor" else "")
    for who in ("sun", "view"):
        if about[who]["zenith"] is not None:
            azimuth = "unknown" if about[who]["azimuth"] is None else f"{about[who]['azimuth']:.2f}"
            yield f"  {who:<9} zenith {about[who]['zenith']:.2f}, azimuth {azimuth} degrees"
    yield "  band   spacing       size            corner                reflectance                no-data"
    for band in about["bands"]:
        size = f"{band['width']} x {band['height']}" if "width" in band else "unreadable"
        corner = f"{band['left']:.2f}, {band['top']:.2f}" if "left" in band else "-"
        formula = f"{band['scale']:.6g} DN {band['offset']:+.6g}"
        yield f"  {band['name']:<6} {band['spacing']:>5g} m  {size:>15}  {corner:>22}  {formula:>24}  {band['nodata']!s:>9}"
    yield "  masks     " + ("; ".join(f"{kind}: {', '.join(names[:2])}{' ...' if names[2:] else ''}" for kind, names in about["masks"].items()) or "none")
    for title in ("missing", "problems", "remarks"):
        for text in about[title]:
            yield f"  {title.removesuffix('s')}: {text}"
    yield f"  complete: {'yes' if about['complete'] else 'no'}"
