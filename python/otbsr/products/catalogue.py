"""STAC: Sentinel-2 scenes that fit another product's place and time, from any catalogue, and the item that was fetched as a product.

Only `search` and `fetch_item` use the network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from otbsr.errors import InputError, ProcessingError, UsageError
from otbsr.products.download import Remote, fetch_all, safe_name
from otbsr.products.layers import Layer
from otbsr.products.product import Angles, Band, Product, band_name
from otbsr.products.sentinel2 import SCENE_CLASSES, WITH_OFFSETS
from otbsr.progress import Report, silent

ITEM = "stac-item.json"
COMMON = {
    "coastal": "B1", "blue": "B2", "green": "B3", "red": "B4", "nir": "B8", "nir08": "B8A", "nir09": "B9", "cirrus": "B10", "swir16": "B11", "swir22": "B12",
    "rededge1": "B5", "rededge2": "B6", "rededge3": "B7",
}  # fmt: skip
"""Sentinel-2's band of a key or common name that catalogues use."""
ARCHIVES = ("application/zip",)
WANTED = ("B2", "B3", "B4", "B8")


@dataclass(frozen=True)
class Found:
    """A scene of a catalogue. coverage: share of the footprint that it covers; gap: days from the wanted time; cloud: percent, None when not said."""

    id: str
    time: datetime
    gap: float
    coverage: float
    cloud: float | None
    item: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """What a person compares."""
        return {"id": self.id, "time": self.time.isoformat(), "gap_days": round(self.gap, 2), "coverage": round(self.coverage, 4), "cloud": self.cloud}


def search(
    endpoint: str, collection: str, footprint: BaseGeometry, when: datetime, days: float = 5, cloud: float = 20, coverage: float = 0.5, limit: int = 50
) -> list[Found]:
    """Scenes of a STAC catalogue that cover a footprint (longitude, latitude), the best first: nearest in days, widest, least cloud, newest baseline.

    Args:
        endpoint: the API's root (https://.../v1).
        collection: such as sentinel-2-l2a.
        footprint: polygon in degrees.
        when: time wanted, UTC.
        days: largest gap to it.
        cloud: most cloud over the scene, percent; scenes that do not say theirs are kept.
        coverage: least share of the footprint that a scene covers.
        limit: scenes at most.

    Raises `UsageError` for an impossible option, `InputError` when the catalogue cannot be reached or answers nonsense.

    """
    from pystac_client import Client
    from pystac_client.conformance import ConformanceClasses
    from pystac_client.exceptions import APIError

    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise UsageError(f"catalogue is '{endpoint}', expected an address with http:// or https://")
    if days < 0 or not 0 <= cloud <= 100 or not 0 <= coverage <= 1 or footprint.is_empty:
        raise UsageError(f"days is {days}, cloud {cloud}, coverage {coverage}; expected days >= 0, cloud 0 to 100 %, coverage 0 to 1, and a footprint")
    begin, end = when - timedelta(days=days), when + timedelta(days=days)
    try:
        client = Client.open(endpoint)
        # Cloud is judged here too: asking for it only saves pages, and not every catalogue can be asked.
        query = {"eo:cloud_cover": {"lte": cloud}} if client.conforms_to(ConformanceClasses.QUERY) else None
        methods = {str(link.extra_fields.get("method", "")).upper() for link in client.links if link.rel == "search"}
        method = "GET" if methods == {"GET"} else "POST"
        asked = client.search(
            method=method, collections=[collection], intersects=mapping(footprint), datetime=[begin, end], query=query, limit=min(100, limit * 2)
        )
        found = []
        for item in asked.items_as_dicts():
            scene = judged(item, footprint, when)
            if scene and scene.gap <= days and scene.coverage >= coverage and (scene.cloud is None or scene.cloud <= cloud):
                found.append(scene)
            if len(found) >= 20 * limit:
                break
    except (APIError, requests.RequestException) as error:
        raise InputError(f"{endpoint}: catalogue cannot be asked ({str(error).strip()[:300]}); check the address and the collection '{collection}'") from error
    except Exception as error:
        # pystac raises many types for an answer that is not STAC.
        raise InputError(f"{endpoint}: does not answer as a STAC catalogue ({type(error).__name__}: {str(error)[:200]}); check the address") from error
    return sorted(found, key=lambda one: (round(one.gap), -round(one.coverage, 1), one.cloud or 0.0, round(one.gap, 3), -newness(one.item), one.id))[:limit]


def newness(item: Mapping[str, Any]) -> float:
    """The processing baseline as a number, 0 without one: of two versions of one image the newer is better."""
    try:
        return float(baseline(item.get("properties") or {}))
    except ValueError:
        return 0.0


def judged(item: Mapping[str, Any], footprint: BaseGeometry, when: datetime) -> Found | None:
    """A scene with what it is judged by, None when the item has no time or no place."""
    properties = item.get("properties") or {}
    stamp = properties.get("datetime") or properties.get("start_datetime")
    if not stamp or not item.get("geometry"):
        return None
    time = datetime.fromisoformat(str(stamp).replace("Z", "+00:00"))
    time = time if time.tzinfo else time.replace(tzinfo=timezone.utc)
    covered = shape(item["geometry"]).intersection(footprint).area / footprint.area if footprint.area else 1.0
    cloud = properties.get("eo:cloud_cover")
    return Found(str(item.get("id")), time, abs((time - when).total_seconds()) / 86400, covered, None if cloud is None else float(cloud), item)


def files_of(item: Mapping[str, Any], bands: Sequence[str] = WANTED, base: str = "") -> list[Remote]:
    """What to fetch of an item: its zip archive where it has one, else the images of these bands and of the scene classification.

    Raises `InputError` naming the assets when a band has none, or when its address is not http(s).
    """
    assets: Mapping[str, Any] = item.get("assets") or {}
    archives = [(key, asset) for key, asset in assets.items() if asset.get("type") in ARCHIVES or str(asset.get("href", "")).lower().endswith(".zip")]
    chosen: list[tuple[str, Mapping[str, Any]]] = archives[:1]
    if not chosen:
        named = bands_of(assets)
        if absent := [band for band in bands if band not in named]:
            raise InputError(f"{item.get('id')}: no asset for {', '.join(absent)}; there are {', '.join(assets)}")
        chosen = [(named[band], assets[named[band]]) for band in bands]
        chosen += [(key, asset) for key, asset in assets.items() if key.lower() == "scl"]
    found = []
    for key, asset in chosen:
        url = str(asset.get("href", ""))
        if not urlsplit(url).scheme and base:
            url = base.rsplit("/", 1)[0] + "/" + url.removeprefix("./")
        if urlsplit(url).scheme not in ("http", "https"):
            other = next((str(one["href"]) for one in (asset.get("alternate") or {}).values() if str(one.get("href", "")).startswith("http")), None)
            if other is None:
                raise InputError(f"{item.get('id')}: asset {key} is at {url}, expected an http(s) address; choose another catalogue")
            url = other
        name = unquote(PurePosixPath(urlsplit(url).path).name)
        size = asset.get("file:size")
        found.append(Remote(url, safe_name(name or f"{key}.tif"), int(size) if size is not None else None, asset.get("file:checksum")))
    return found


def bands_of(assets: Mapping[str, Any]) -> dict[str, str]:
    """Key of the asset of each Sentinel-2 band: by key, else by the band that it says it holds; one band in an asset; JPEG 2000 only where nothing else is."""
    found: dict[str, str] = {}
    for key in sorted(assets, key=lambda key: key.endswith("-jp2")):
        asset = assets[key]
        if any(role in ("overview", "thumbnail", "visual") for role in asset.get("roles") or []) or key.startswith("visual"):
            continue
        told = [str(one.get("name", "")) for one in [*(asset.get("eo:bands") or []), *(asset.get("bands") or [])]]
        common = [str(one.get("common_name") or one.get("eo:common_name") or "") for one in [*(asset.get("eo:bands") or []), *(asset.get("bands") or [])]]
        if len(told) > 1:
            continue
        for word in (key.removesuffix("-jp2"), *told, *common):
            stem = re.sub(r"_\d0m$", "", word)
            band = COMMON.get(stem.lower()) or (band_name(stem) if re.fullmatch(r"[Bb]0?\d{1,2}[Aa]?", stem) else None)
            if band:
                found.setdefault(band, key)
                break
    return found


def fetch_item(
    found: Found, folder: str | Path, bands: Sequence[str] = WANTED, headers: Mapping[str, str] | None = None, overwrite: bool = False, report: Report = silent
) -> Path:
    """Download what `files_of` names into `folder`/<id>, with the item beside it; returns the archive, or that folder, for `open_product`."""
    link = next((str(one.get("href")) for one in found.item.get("links") or [] if one.get("rel") == "self"), "")
    place = Path(folder) / safe_name(found.id)
    remotes = files_of(found.item, bands, link)
    paths = fetch_all(remotes, place, headers, overwrite, report)
    (place / ITEM).write_text(json.dumps(found.item, indent=1))
    if len(paths) == 1 and paths[0].suffix.lower() == ".zip":
        return paths[0]
    absent = [path.name for path in paths if not path.exists()]
    if absent:
        raise ProcessingError(f"{place}: {', '.join(absent)} vanished while others were fetched; give the same command again")
    return place


def read_item(folder: Path) -> Product | None:
    """The product that `fetch_item` left in a folder, None when there is none; raises `InputError` when it does not tell its radiometry."""
    file = folder / ITEM
    if not file.is_file():
        return None
    try:
        item = json.loads(file.read_text())
        properties, assets = item["properties"], item["assets"]
        time = datetime.fromisoformat(str(properties["datetime"]).replace("Z", "+00:00"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: is no STAC item ({error!r}); fetch the scene again") from error
    bands, missing = {}, []
    for band, key in sorted(bands_of(assets).items(), key=lambda pair: (int(pair[0][1:].rstrip("A")), pair[0])):
        path = folder / safe_name(unquote(PurePosixPath(urlsplit(str(assets[key]["href"])).path).name))
        if path.exists():
            scale, offset, nodata = radiometry(file, properties, assets[key])
            bands[band] = Band(band, path, 1, spacing_of(assets[key], band), scale, offset, nodata)
        elif band in WANTED:
            missing.append(path.name)
    classes = next((asset for key, asset in assets.items() if key.lower() == "scl"), None)
    layers: tuple[Layer, ...] = ()
    if classes and (path := folder / PurePosixPath(urlsplit(str(classes["href"])).path).name).exists():
        layers = tuple(Layer(kind, path, values=values) for kind, values in SCENE_CLASSES.items())
    sun = properties.get("view:sun_elevation")
    angles = Angles(
        None if sun is None else 90 - float(sun), properties.get("view:sun_azimuth"), properties.get("view:incidence_angle"), properties.get("view:azimuth")
    )
    provenance = {
        "product": str(item.get("id")),
        "satellite": str(properties.get("platform", "")),
        "baseline": baseline(properties),
        "collection": item.get("collection", ""),
    }
    return Product(
        str(item.get("id")),
        "stac",
        folder,
        time.date(),
        bands,
        time,
        angles,
        layers,
        {key: value for key, value in provenance.items() if value},
        tuple(missing),
    )


def baseline(properties: Mapping[str, Any]) -> str:
    """Processing baseline that an item gives, ''."""
    return str(properties.get("s2:processing_baseline") or properties.get("processing:version") or "")


def spacing_of(asset: Mapping[str, Any], band: str) -> float:
    """Metres that an asset says, else those of the band."""
    for one in (asset, *(asset.get("raster:bands") or [])):
        for key in ("gsd", "spatial_resolution"):
            if one.get(key):
                return float(one[key])
    return 10.0 if band in WANTED else 20.0


def radiometry(file: Path, properties: Mapping[str, Any], asset: Mapping[str, Any]) -> tuple[float, float, float | None]:
    """(scale, offset, no-data) of an asset. Catalogues differ in who has already applied ESA's offset of -1000, so that all hints are asked."""
    told: Mapping[str, Any] = next(iter(asset.get("raster:bands") or asset.get("bands") or []), {})
    scale = float(told.get("scale", told.get("raster:scale", 1e-4)))
    nodata = float(told.get("nodata", 0) or 0)
    applied = properties.get("earthsearch:boa_offset_applied")
    if applied:
        return scale, 0.0, nodata
    offset = told.get("offset", told.get("raster:offset"))
    if offset is not None:
        return scale, float(offset), nodata
    text = baseline(properties)
    match = re.fullmatch(r"0?(\d+)\.(\d\d)", text)
    if match is None:
        raise InputError(
            f"{file}: neither an offset (raster:bands) nor a processing baseline ('{text}'), so that numbers may be 1000 too high; use another catalogue"
        )
    return scale, -1000 * scale if float(text) >= WITH_OFFSETS else 0.0, nodata


def time_wanted(product: Product, text: str = "") -> datetime:
    """The time that a text says (UTC, noon for a date alone), else the product's; raises `UsageError`, `InputError` when it has none."""
    if text:
        try:
            time = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            raise UsageError(f"--date is '{text}', expected 2023-06-14 or 2023-06-14T10:42:00Z") from None
        time = time + timedelta(hours=12) if len(text) == 10 else time
    elif product.time or product.date:
        time = product.time or datetime.fromisoformat(f"{product.date}T12:00:00")
    else:
        raise InputError(f"{product.path}: does not say when it was taken; give --date")
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


def footprint_of(product: Product) -> BaseGeometry:
    """The product's footprint, degrees of longitude and latitude: its corners as the metadata give them, else its grid's."""
    from rasterio.warp import transform_geom
    from shapely.geometry import Polygon, box

    if len(product.extent) >= 3:
        return Polygon(product.extent)
    if not product.bands:
        raise InputError(f"{product.path}: has no band, so that its place is unknown")
    grid = product.grid([next(iter(product.bands))])
    if not grid.crs:
        raise InputError(f"{product.path}: has no coordinate reference system, so that its place is unknown; give --bbox")
    return shape(transform_geom(grid.crs, "EPSG:4326", mapping(box(*grid.bounds).segmentize(max(grid.dx, (grid.right - grid.left) / 8)))))


def table(scenes: Sequence[Found]) -> Iterator[str]:
    """One line a scene."""
    for scene in scenes:
        cloud = "  ? %" if scene.cloud is None else f"{scene.cloud:5.1f} %"
        yield f"{scene.id}  {scene.time:%Y-%m-%d %H:%M}  gap {scene.gap:5.2f} d  covers {scene.coverage:5.1%}  cloud {cloud}"
