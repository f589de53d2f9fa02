"""STAC: what is found for a Spot scene, in which order, what is fetched, and how its numbers are read; against a catalogue of our own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest
from affine import Affine
from rasterio.io import MemoryFile
from servers import Site, serving
from shapely.geometry import box, mapping, shape
from test_spot import dimap, image

from otbsr.errors import InputError, UsageError
from otbsr.products import open_product
from otbsr.products.catalogue import ITEM, bands_of, fetch_item, files_of, footprint_of, search, time_wanted

PLACE = box(1.40, 43.50, 1.50, 43.60)
WHEN = datetime(2023, 6, 14, 10, 42, tzinfo=timezone.utc)


def tif(value: int) -> bytes:
    """A GeoTIFF of one value, no-data in its corner."""
    pixels = np.full((1, 8, 8), value, np.uint16)
    pixels[0, 0, 0] = 0
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", count=1, height=8, width=8, dtype="uint16", crs="EPSG:32631", transform=Affine(10, 0, 6e5, 0, -10, 4.9e6)) as file:
            file.write(pixels)
        return bytes(memory.read())


def scene(site: Site, name: str, when: str, cloud: float | None = 5.0, place: Any = None, **more: Any) -> dict[str, Any]:
    """An item as catalogues of Sentinel-2 give it."""
    properties = {"datetime": when, "s2:processing_baseline": "05.09", "platform": "sentinel-2a", "view:sun_elevation": 60.0, "view:sun_azimuth": 140.0}
    if cloud is not None:
        properties["eo:cloud_cover"] = cloud
    area = place or box(1.0, 43.0, 2.0, 44.0)
    assets = {
        key: {"href": f"{site.url}/{name}/{key}.tif", "type": "image/tiff", "roles": ["data"], "eo:bands": [{"name": key, "common_name": key}]}
        for key in ("blue", "green", "red", "nir")
    }
    assets["scl"] = {"href": f"{site.url}/{name}/SCL.tif", "type": "image/tiff"}
    assets["visual"] = {"href": f"{site.url}/{name}/TCI.tif", "eo:bands": [{"name": "red"}, {"name": "green"}, {"name": "blue"}], "roles": ["visual"]}
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "sentinel-2-l2a", "geometry": mapping(area), "bbox": list(area.bounds),
        "properties": properties, "assets": assets, "links": [],
    }  # fmt: skip
    for key, value in more.items():
        item[key] = value
    return item


def catalogue(site: Site, items: list[dict[str, Any]], page: int = 2) -> None:
    """A STAC API of these items: /search answers POST and GET by place, date and cloud, `page` items at a time."""
    root = {
        "type": "Catalog", "stac_version": "1.0.0", "id": "test", "description": "test",
        "conformsTo": [
            "https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search", "https://api.stacspec.org/v1.0.0/item-search#query",
        ],
        "links": [
            {"rel": "self", "href": site.url + "/v1"}, {"rel": "root", "href": site.url + "/v1"},
            {"rel": "search", "href": site.url + "/v1/search", "method": "POST", "type": "application/geo+json"},
            {"rel": "search", "href": site.url + "/v1/search", "method": "GET", "type": "application/geo+json"},
        ],
    }  # fmt: skip

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        if not body:  # the same by GET
            body = {key: values[0] for key, values in parse_qs(path.partition("?")[2]).items()}
            body |= {"collections": body["collections"].split(","), "intersects": json.loads(body["intersects"])}
            body["query"] = json.loads(body.get("query", "{}"))
        begin, end = (datetime.fromisoformat(text.replace("Z", "+00:00")) for text in body["datetime"].split("/"))
        most = body.get("query", {}).get("eo:cloud_cover", {}).get("lte", 100)
        found = [
            item
            for item in items
            if item["collection"] in body["collections"]
            and begin <= datetime.fromisoformat(item["properties"]["datetime"].replace("Z", "+00:00")) <= end
            and item["properties"].get("eo:cloud_cover", 0) <= most
            and shape(item["geometry"]).intersects(shape(body["intersects"]))
        ]
        start = int(body.get("token", 0))
        links = []
        if start + page < len(found):
            links = [{"rel": "next", "href": site.url + "/v1/search", "method": "POST", "body": {**body, "token": start + page}}]
        return {"type": "FeatureCollection", "features": found[start : start + page], "links": links}

    site.handlers["/v1"] = lambda *_: root
    site.handlers["/v1/search"] = answer


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site()) as found:
        yield found


def test_found_by_place_date_and_cloud_nearest_first(site: Site) -> None:
    items = [
        scene(site, "late", "2023-06-18T10:50:00Z"),
        scene(site, "far-away", "2023-06-14T10:50:00Z", place=box(5, 45, 6, 46)),
        scene(site, "cloudy", "2023-06-14T10:50:00Z", 60.0),
        scene(site, "too-late", "2023-06-20T10:50:00Z"),
        scene(site, "other", "2023-06-14T10:50:00Z", collection="landsat"),
        scene(site, "near-hazy", "2023-06-15T10:50:00Z", 15.0),
        scene(site, "near-clear", "2023-06-15T10:50:00Z", 1.0),
        scene(site, "corner", "2023-06-14T10:50:00Z", 0.0, place=box(1.0, 43.0, 1.42, 43.52)),
        scene(site, "early", "2023-06-11T10:50:00Z", None),
    ]
    catalogue(site, items)
    found = search(f"{site.url}/v1", "sentinel-2-l2a", PLACE, WHEN, days=5, cloud=20)
    assert [one.id for one in found] == ["near-clear", "near-hazy", "early", "late"]
    assert sum(path == "/v1/search" for _, path, _ in site.asked) > 1  # pages were turned
    assert found[0].gap == pytest.approx(1 + 8 / 1440) and found[0].coverage == pytest.approx(1.0) and found[2].cloud is None
    partial = search(f"{site.url}/v1", "sentinel-2-l2a", PLACE, WHEN, days=1, cloud=20, coverage=0.01)
    assert [one.id for one in partial] == ["corner"] and partial[0].coverage == pytest.approx(0.04, abs=1e-6)
    assert len(search(f"{site.url}/v1", "sentinel-2-l2a", PLACE, WHEN, days=5, limit=1)) == 1
    again = scene(site, "a-near-clear", "2023-06-15T10:50:00Z", 1.0)  # the same image, processed earlier
    again["properties"]["s2:processing_baseline"] = "03.01"
    items.append(again)
    assert [one.id for one in search(f"{site.url}/v1", "sentinel-2-l2a", PLACE, WHEN)][:2] == ["near-clear", "a-near-clear"]
    assert search(f"{site.url}/v1", "sentinel-2-l2a", box(9, 9, 10, 10), WHEN) == []


@pytest.mark.filterwarnings("error")
def test_catalogues_that_cannot_be_asked_for_cloud(site: Site) -> None:
    """Scenes without a cloud cover are kept by such a catalogue's answer, and those with too much are left out here."""
    catalogue(site, [scene(site, "cloudy", "2023-06-14T10:50:00Z", 60.0), scene(site, "clear", "2023-06-15T10:50:00Z", 3.0)])
    root = site.handlers["/v1"]("", {})
    root["conformsTo"].pop()
    bodies = []
    answer = site.handlers["/v1/search"]
    site.handlers["/v1/search"] = lambda path, body: (bodies.append(body), answer(path, body))[1]
    assert [one.id for one in search(f"{site.url}/v1", "sentinel-2-l2a", PLACE, WHEN)] == ["clear"]
    assert bodies and "query" not in bodies[0]


def test_catalogues_that_take_get_only(site: Site) -> None:
    catalogue(site, [scene(site, "cloudy", "2023-06-14T10:50:00Z", 60.0), scene(site, "clear", "2023-06-15T10:50:00Z", 3.0)])
    root = site.handlers["/v1"]("", {})
    root["links"] = [link for link in root["links"] if link.get("method") != "POST"]
    assert [one.id for one in search(f"{site.url}/v1", "sentinel-2-l2a", PLACE, WHEN)] == ["clear"]
    assert {method for method, path, _ in site.asked if "search" in path} == {"GET"}


def test_catalogues_that_do_not_answer_are_one_message(site: Site) -> None:
    with pytest.raises(InputError, match="catalogue cannot be asked"):
        search("http://127.0.0.1:9/v1", "c", PLACE, WHEN)
    with pytest.raises(InputError, match="catalogue cannot be asked"):
        search(f"{site.url}/none", "c", PLACE, WHEN)
    site.handlers["/odd"] = lambda *_: {"hello": "world"}
    with pytest.raises(InputError, match=r"does not answer as a STAC catalogue|cannot be asked"):
        search(f"{site.url}/odd", "c", PLACE, WHEN)
    catalogue(site, [])
    site.handlers["/v1/search"] = lambda *_: {"features": 3}
    with pytest.raises(InputError, match=r"does not answer as a STAC catalogue|cannot be asked"):
        search(f"{site.url}/v1", "c", PLACE, WHEN)
    for options in ({"days": -1}, {"cloud": 101}, {"coverage": 2}):
        with pytest.raises(UsageError, match="expected days >= 0"):
            search(f"{site.url}/v1", "c", PLACE, WHEN, **options)
    with pytest.raises(UsageError, match="catalogue is 'file:///x'"):
        search("file:///x", "c", PLACE, WHEN)


@pytest.mark.parametrize(
    ("properties", "raster", "offset"),
    [
        ({}, {}, -0.1),
        ({"s2:processing_baseline": "02.14"}, {}, 0.0),
        ({"s2:processing_baseline": "02.14"}, {"scale": 0.0001, "offset": -0.1}, -0.1),
        ({"earthsearch:boa_offset_applied": True}, {"scale": 0.0001, "offset": -0.1}, 0.0),
        ({"earthsearch:boa_offset_applied": True}, {}, 0.0),
    ],
)
def test_fetched_scene_is_a_product_with_the_right_offset(
    site: Site, tmp_path: Path, properties: dict[str, Any], raster: dict[str, float], offset: float
) -> None:
    """Catalogues differ in whether ESA's -1000 is still to be applied."""
    item = scene(site, "s", "2023-06-14T10:50:00Z")
    item["properties"] |= properties
    for number, key in enumerate(("blue", "green", "red", "nir")):
        site.files[f"/s/{key}.tif"] = tif(2000 + number)
        if raster:
            item["assets"][key]["raster:bands"] = [{"nodata": 0, **raster}]
    site.files["/s/SCL.tif"] = tif(9)
    catalogue(site, [item])
    best = search(f"{site.url}/v1", "sentinel-2-l2a", PLACE, WHEN)[0]
    product = open_product(fetch_item(best, tmp_path))
    assert (product.kind, product.name, list(product.bands)) == ("stac", "s", ["B2", "B3", "B4", "B8"])
    planes = product.read(["B4", "B8"])
    assert np.isnan(planes[:, 0, 0]).all() and planes[:, 1, 1] == pytest.approx([0.2002 + offset, 0.2003 + offset])
    assert product.mask(["cloud"]).sum() == 63 and product.angles.sun_zenith == 30
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["SCL.tif", "blue.tif", "green.tif", "nir.tif", "red.tif", ITEM]
    before = len(site.asked)
    fetch_item(best, tmp_path)
    assert len(site.asked) == before  # what is there is not fetched again


def test_scene_without_radiometry_is_refused(site: Site, tmp_path: Path) -> None:
    item = scene(site, "s", "2023-06-14T10:50:00Z")
    del item["properties"]["s2:processing_baseline"]
    (tmp_path / ITEM).write_text(json.dumps(item))
    (tmp_path / "red.tif").write_bytes(tif(5))
    with pytest.raises(InputError, match="neither an offset"):
        open_product(tmp_path)
    (tmp_path / ITEM).write_text("{}")
    with pytest.raises(InputError, match="is no STAC item"):
        open_product(tmp_path)


def test_archives_are_preferred_and_bad_assets_refused(site: Site) -> None:
    item = scene(site, "s", "2023-06-14T10:50:00Z")
    item["assets"]["product"] = {"href": f"{site.url}/s.SAFE.zip", "type": "application/zip", "file:size": 12, "file:checksum": "1220" + "a" * 64}
    assert [(one.name, one.size, one.checksum) for one in files_of(item)] == [("s.SAFE.zip", 12, "1220" + "a" * 64)]
    del item["assets"]["product"], item["assets"]["nir"]
    with pytest.raises(InputError, match=r"no asset for B8; there are blue, green"):
        files_of(item)
    item["assets"]["nir"] = {"href": "s3://bucket/nir.tif", "eo:bands": [{"name": "nir"}]}
    with pytest.raises(InputError, match=r"asset nir is at s3://bucket/nir\.tif, expected an http"):
        files_of(item)
    item["assets"]["nir"]["alternate"] = {"https": {"href": "https://host/nir.tif"}}
    assert files_of(item)[3].url == "https://host/nir.tif"
    item["assets"]["nir"] = {"href": "./nir.tif", "eo:bands": [{"name": "nir"}]}
    assert files_of(item, base="https://host/a/s.json")[3].url == "https://host/a/nir.tif"


def test_bands_by_the_names_of_several_catalogues() -> None:
    told = {
        "red": {}, "red-jp2": {}, "B02_10m": {}, "B8A": {"eo:bands": [{"name": "B8A"}]}, "x": {"bands": [{"eo:common_name": "green"}]},
        "thumbnail": {"eo:bands": [{"name": "B4"}], "roles": ["thumbnail"]}, "SCL": {}, "visual_10m": {"eo:bands": [{"name": "B04"}]},
    }  # fmt: skip
    assert bands_of(told) == {"B4": "red", "B2": "B02_10m", "B8A": "B8A", "B3": "x"}


def test_footprint_and_time_of_a_spot_scene(tmp_path: Path) -> None:
    product = open_product(dimap(tmp_path, image(4, 20, 20)))
    assert footprint_of(product).bounds == (1.44, 43.58, 1.46, 43.62)
    assert time_wanted(product) == datetime(2023, 6, 14, 10, 42, 0, 500000, timezone.utc)
    assert time_wanted(product, "2024-01-02") == datetime(2024, 1, 2, 12, tzinfo=timezone.utc)
    with pytest.raises(UsageError, match="--date is 'soon'"):
        time_wanted(product, "soon")


def test_commands_search_and_download(site: Site, tmp_path: Path) -> None:
    item = scene(site, "s", "2023-06-14T10:50:00Z")
    for key in ("blue", "green", "red", "nir"):
        site.files[f"/s/{key}.tif"] = tif(2000)
    site.files["/s/SCL.tif"] = tif(4)
    catalogue(site, [item])
    spot = dimap(tmp_path / "spot", image(4, 20, 20))

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "otbsr", "products", *map(str, words)], capture_output=True, text=True, timeout=120)

    listed = run("search", spot, "--catalogue", f"{site.url}/v1")
    assert listed.returncode == 0 and "s  2023-06-14 10:50  gap  0.01 d  covers 100.0%  cloud   5.0 %" in listed.stdout
    assert not any(path.endswith(".tif") for _, path, _ in site.asked)  # nothing is fetched unless asked for
    done = run("search", spot, "--catalogue", f"{site.url}/v1", "--download", tmp_path / "got", "--quiet", "--json")
    answer = json.load(io.StringIO(done.stdout.splitlines()[-1]))
    assert answer["found"][0]["id"] == "s" and answer["product"] == str(tmp_path / "got" / "s")
    about = json.loads(run("info", answer["product"], "--json").stdout)
    assert about["kind"] == "stac" and [band["offset"] for band in about["bands"]] == [-0.1] * 4
    got = run("download", f"{site.url}/s/red.tif", "-o", tmp_path / "one", "--quiet")
    assert got.returncode == 0 and (tmp_path / "one" / "red.tif").read_bytes() == tif(2000)
    wrong = run("download", f"{site.url}/s/red.tif", "-o", tmp_path / "two", "--quiet", "--checksum", "md5:" + "0" * 32)
    assert wrong.returncode == 65 and wrong.stderr.startswith("otbsr: error: ") and wrong.stderr.count("\n") == 1
