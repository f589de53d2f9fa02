"""SAFE: reflectance per baseline from real metadata, masks of every kind, archives, and broken products."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.windows import Window

from otbsr.errors import GridError, InputError, UsageError
from otbsr.grid import Grid
from otbsr.products import open_product, stack
from otbsr.products.info import describe

DATA = Path(os.environ.get("OTBSR_SHARED_DATA", Path(__file__).parents[3] / ".." / "shared" / "data")).resolve()
NAMES = [
    ("S2A_MSIL2A_20190212T192651_N0212_R013_T07HFE_20201007T160857.SAFE", 0),
    ("S2A_MSIL2A_20230821T221941_N0509_R029_T01KAB_20230822T021825.SAFE", -1000),
    ("S2B_MSIL1C_20240305T104819_N0510_R051_T31TCJ_20240305T125347.SAFE", -1000),
    ("S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126.SAFE", -1000),
    ("esa_S2B_MSIL2A_20210122T133229_N0214_R081_T22HBD_20210122T155500.SAFE", 0),
]
ALL = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12"]
LEFT, TOP = 600000.0, 4900020.0


TEMPLATES = Path(tempfile.mkdtemp(prefix="otbsr-safe-"))
"""Whole products, written once."""
atexit.register(shutil.rmtree, TEMPLATES, ignore_errors=True)


def raster(path: Path, pixels: np.ndarray, spacing: float, crs: str = "EPSG:32631", **options: object) -> Path:
    """A raster of (bands, rows, columns) or (rows, columns), JPEG 2000 where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    how = {"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES"} if path.suffix == ".jp2" else {"driver": "GTiff"}
    with rasterio.open(
        path, "w", count=pixels.shape[0], height=pixels.shape[1], width=pixels.shape[2], dtype=pixels.dtype, crs=crs,
        transform=Affine(spacing, 0, LEFT, 0, -spacing, TOP), **{**how, **options},
    ) as file:  # fmt: skip
        file.write(pixels)
    return path


def counts(name: str, rows: int, columns: int) -> np.ndarray:
    """Numbers that differ from band to band."""
    return np.random.default_rng(sum(map(ord, name))).integers(1, 9000, (rows, columns)).astype(np.uint16)


def whole(folder: Path, name: str, jp2: bool = True) -> Path:
    """Copy real metadata and write every image that they list, 60 x 60 pixels at 10 m, beside them."""
    source = DATA / "product_metadata" / name
    if not source.is_dir():
        pytest.skip(f"{source} is absent")
    safe, made = folder / name, TEMPLATES / f"{name}-{jp2}"
    if made.is_dir():
        return Path(shutil.copytree(made, safe))
    shutil.copytree(source, safe, copy_function=shutil.copyfile)
    for path in [safe, *safe.rglob("*")]:
        path.chmod(0o755)
    document = next(safe.glob("MTD_MSIL*.xml"))
    for listed in re.findall(r"<IMAGE_FILE>(.+?)</IMAGE_FILE>", document.read_text()):
        band = re.search(r"_(B\d\w|SCL|AOT|WVP|TCI)(?:_(\d\d)m)?$", listed)
        assert band
        spacing = int(band[2] or {"B01": 60, "B09": 60, "B10": 60, "B02": 10, "B03": 10, "B04": 10, "B08": 10, "TCI": 10}.get(band[1], 20))
        side = 60 * 10 // spacing
        pixels = np.full((side, side), 4, np.uint8) if band[1] in ("SCL", "TCI", "AOT", "WVP") else counts(band[1], side, side)
        raster(safe / (listed + (".jp2" if jp2 else ".tif")), pixels, spacing)
    shutil.copytree(safe, made)
    return safe


@pytest.mark.parametrize(("name", "offset"), NAMES)
def test_real_metadata_give_the_reflectance_of_every_band(tmp_path: Path, name: str, offset: int) -> None:
    safe = whole(tmp_path, name)
    product = open_product(safe)
    level = re.search(r"MSI(L\d\w)", name)[1]
    expected = [band for band in ALL if level == "L1C" or band != "B10"]
    assert list(product.bands) == expected
    assert product.provenance["level"] == level and product.provenance["baseline"] == re.search(r"_N(\d\d)(\d\d)_", name).expand(r"\1.\2")
    assert product.provenance["satellite"] == f"Sentinel-2{re.search('S2(.)_', name)[1]}"
    for band in expected:
        grid = product.grid([band])
        code = band if band == "B8A" else f"B{int(band[1:]):02d}"
        assert grid.dx == {"B1": 60, "B9": 60, "B10": 60, "B2": 10, "B3": 10, "B4": 10, "B8": 10}.get(band, 20) or (band == "B1" and grid.dx == 20)
        side = int(600 // grid.dx)
        assert np.allclose(product.read([band])[0], (counts(code, side, side).astype(int) + offset) / 10000, atol=2e-7)
    # Reference angles were read from the metadata by eye.
    sun = {"S2B_MSIL1C": (51.816937, 158.397257)}.get(name[:10])
    if sun:
        assert (product.angles.sun_zenith, product.angles.sun_azimuth) == pytest.approx(sun, abs=1e-5)
    assert 0 < product.angles.sun_zenith < 90 and 0 <= product.angles.view_zenith < 13 and 0 <= product.angles.view_azimuth < 360
    about = describe(product)
    assert about["complete"] and not about["missing"] and len(about["bands"]) == len(expected)


def test_windows_are_parts_of_the_whole_and_empty_outside(tmp_path: Path) -> None:
    product = open_product(whole(tmp_path, NAMES[1][0]))
    names = ["B4", "B11", "B1"]
    full = product.read(names)
    assert full.shape == (3, 60, 60) and full.dtype == np.float32
    part = product.read(names, Window(50, -4, 20, 30))
    assert np.isnan(part[:, :4]).all() and np.isnan(part[:, :, 10:]).all()
    assert np.array_equal(part[:, 4:, :10], full[:, :26, 50:])
    assert np.array_equal(full[1], product.read(["B11"])[0].repeat(2, 0).repeat(2, 1))
    assert np.isnan(product.read(names, Window(200, 200, 5, 5))).all()
    # bilinear of a plane is that plane: pixel centres are where they should be
    safe = Path(product.path)
    ramp = (1000 + 10 * np.arange(30)[None, :] + 20 * np.arange(30)[:, None]).astype(np.uint16)
    raster(next(safe.rglob("*B11_20m.jp2")), ramp, 20)
    fine = open_product(safe).read(["B4", "B11"], resampling="bilinear")[1] * 1e4 + 1000
    column, row = np.meshgrid((np.arange(60) - 0.5) / 2, (np.arange(60) - 0.5) / 2)
    assert np.allclose(fine[1:-1, 1:-1], (1000 + 10 * column + 20 * row)[1:-1, 1:-1], atol=0.02)


def test_an_average_on_a_coarser_grid_is_the_mean(tmp_path: Path) -> None:
    product = open_product(whole(tmp_path, NAMES[1][0]))
    coarse = product.grid(["B4"]).coarsened(6)
    mean = product.read(["B4"])[0].reshape(10, 6, 10, 6).mean(axis=(1, 3))
    assert np.allclose(product.read(["B4"], grid=coarse, resampling="average")[0], mean, atol=1e-6)
    with pytest.raises(GridError, match="name a resampling"):
        product.read(["B4"], grid=coarse)
    with pytest.raises(UsageError, match="resampling is 'sinc'"):
        product.read(["B4"], resampling="sinc")


def test_scene_classes_on_finer_and_coarser_grids(tmp_path: Path) -> None:
    safe = whole(tmp_path, NAMES[1][0])
    classes = np.full((30, 30), 4, np.uint8)
    classes[2, 3], classes[5, 6], classes[7, 7], classes[9, 9], classes[11, 0] = 9, 3, 11, 1, 10
    raster(next(safe.rglob("*SCL_20m.jp2")), classes, 20)
    product = open_product(safe)
    cloud = np.isin(classes, (8, 9, 10))
    assert np.array_equal(product.mask(["cloud"]), cloud.repeat(2, 0).repeat(2, 1))
    assert np.array_equal(product.mask(["shadow"]), (classes == 3).repeat(2, 0).repeat(2, 1))
    assert np.array_equal(product.mask(["cloud"], grid=product.grid(["B5"])), cloud)
    assert np.array_equal(product.mask(["cloud"], grid=product.grid(["B9"])), cloud.reshape(10, 3, 10, 3).any(axis=(1, 3)))
    assert np.array_equal(product.mask(["cloud"], grid=product.grid(["B4"]).refined(4)), cloud.repeat(8, 0).repeat(8, 1))
    assert product.mask().sum() == 4 * 5
    outside = product.mask(window=Window(-2, 0, 10, 10))
    assert outside[:, :2].all() and np.array_equal(outside[:, 2:], product.mask()[:10, :8])
    off = Grid(LEFT + 20, TOP - 20, 10, 10, 20, 20, product.crs)
    assert np.array_equal(product.mask(["cloud"], grid=off), cloud.repeat(2, 0).repeat(2, 1)[2:22, 2:22])
    with pytest.raises(UsageError, match="mask of fog: expected some of"):
        product.mask(["fog"])


def test_no_data_and_saturation_of_the_bands_asked(tmp_path: Path) -> None:
    safe = whole(tmp_path, NAMES[1][0])
    pixels = counts("B04", 60, 60)
    pixels[0, :3], pixels[5, 5] = 0, 65535
    raster(next(safe.rglob("*B04_10m.jp2")), pixels, 10)
    product = open_product(safe)
    assert np.argwhere(product.mask(["nodata"])).tolist() == [[0, 0], [0, 1], [0, 2]]
    assert np.argwhere(product.mask(["saturation"])).tolist() == [[5, 5]]
    assert not product.mask(["nodata", "saturation"], ["B8"]).any()
    coarse = product.grid(["B4"]).coarsened(6)
    assert np.argwhere(product.mask(["nodata"], grid=coarse)).tolist() == [[0, 0]]  # 3 of 36 pixels
    assert np.argwhere(product.mask(["saturation"], grid=coarse)).tolist() == [[0, 0]]
    assert product.mask(["nodata"], grid=product.grid(["B4"]).refined(2)).sum() == 12
    assert np.isnan(product.read(["B4"])[0, 0, :3]).all()


def test_level_1c_masks_of_both_generations(tmp_path: Path) -> None:
    safe = whole(tmp_path, NAMES[2][0])
    quality = next((safe / "GRANULE").iterdir()) / "QI_DATA"
    classes = np.zeros((3, 10, 10), np.uint8)
    classes[0, 1, 1], classes[1, 2, 2], classes[2, 3, 3] = 1, 1, 1
    raster(quality / "MSK_CLASSI_B00.jp2", classes, 60)
    flags = np.zeros((8, 60, 60), np.uint8)
    flags[7, 4, 4], flags[5, 8, 8], flags[4, 9, 9] = 1, 1, 1
    raster(quality / "MSK_QUALIT_B04.jp2", flags, 10)
    product = open_product(safe)
    cloud = np.zeros((10, 10), bool)
    cloud[1, 1] = cloud[2, 2] = True
    assert np.array_equal(product.mask(["cloud"]), cloud.repeat(6, 0).repeat(6, 1))
    assert product.mask(["snow"], grid=product.grid(["B1"])).sum() == 1
    found = {kind: np.argwhere(product.mask([kind], ["B4"])).tolist() for kind in ("saturation", "nodata", "invalid")}
    assert found == {"saturation": [[4, 4]], "nodata": [[8, 8]], "invalid": [[9, 9]]}
    assert not product.mask(["saturation"], ["B8"]).any()
    (quality / "MSK_CLASSI_B00.jp2").unlink()
    x, y = LEFT + 100, TOP - 100
    (quality / "MSK_CLOUDS_B00.gml").write_text(
        '<eop:Mask xmlns:eop="http://www.opengis.net/eop/2.0" xmlns:gml="http://www.opengis.net/gml/3.2"><gml:boundedBy><gml:Envelope '
        'srsName="urn:ogc:def:crs:EPSG::32631"/></gml:boundedBy><eop:maskMembers><eop:MaskFeature><eop:maskType>OPAQUE</eop:maskType><eop:extentOf>'
        "<gml:Polygon><gml:exterior><gml:LinearRing><gml:posList srsDimension='2'>"
        f"{x} {y} {x + 200} {y} {x + 200} {y - 200} {x} {y - 200} {x} {y}</gml:posList></gml:LinearRing></gml:exterior></gml:Polygon>"
        "</eop:extentOf></eop:MaskFeature></eop:maskMembers></eop:Mask>"
    )
    mask = open_product(safe).mask(["cloud"])
    assert mask[10:30, 10:30].all() and not mask[:9].any() and not mask[32:].any()
    (quality / "MSK_CLOUDS_B00.gml").write_text('<!DOCTYPE x [<!ENTITY a "b">]><Mask>&a;</Mask>')
    with pytest.raises(InputError, match="document type or entities"):
        open_product(safe).mask(["cloud"])


def zipped(safe: Path, out: Path, extra: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED) -> Path:
    """The folder as an archive, with other members added."""
    with zipfile.ZipFile(out, "w", method) as archive:
        for path in sorted(safe.rglob("*")):
            if path.is_file():
                archive.write(path, f"{safe.name}/{path.relative_to(safe)}")
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return out


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_are_read_in_place(tmp_path: Path, method: int, monkeypatch: pytest.MonkeyPatch) -> None:
    safe = whole(tmp_path, NAMES[1][0])
    archive = zipped(safe, tmp_path / "p q.zip", method=method)
    plain = open_product(safe)
    monkeypatch.chdir(tmp_path)
    product = open_product("p q.zip")
    assert bool(product.remarks) == (method == zipfile.ZIP_DEFLATED)
    assert product.name == plain.name and product.angles == plain.angles and list(product.bands) == list(plain.bands)
    assert np.array_equal(product.read(["B4", "B11"]), plain.read(["B4", "B11"]))
    assert np.array_equal(product.mask(), plain.mask())
    monkeypatch.chdir("/")
    stack(product, ["B4", "B11"], tmp_path / "s.vrt")
    with rasterio.open(tmp_path / "s.vrt") as file:
        assert np.allclose(file.read() * 1e-4, plain.read(["B4", "B11"]), atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([safe.name, archive.name, "s.vrt"])  # nothing was extracted


@pytest.mark.parametrize("name", ["../out.xml", "a/../../out.xml", "/etc/out.xml", "C:\\out.xml", "a}b.jp2"])
def test_archives_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    safe = tmp_path / "S2A_X.SAFE"
    safe.mkdir()
    with pytest.raises(InputError, match="leads out of the archive"):
        open_product(zipped(safe, tmp_path / "a.zip", {name: b"x"}))


def test_archives_that_are_damaged_or_bombs(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(InputError, match="is no whole zip archive"):
        open_product(tmp_path / "a.zip")
    safe = tmp_path / "S2A_X.SAFE"
    safe.mkdir()
    big = b"<a>" + b" " * (65 << 20) + b"</a>"
    bomb = zipped(safe, tmp_path / "b.zip", {"S2A_X.SAFE/MTD_MSIL2A.xml": big}, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(InputError, match="longer than 64 MiB"):
        open_product(bomb)
    product = whole(tmp_path / "x", NAMES[1][0])
    file = next(product.rglob("*B04_10m.jp2"))
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(InputError, match=r"B04_10m\.jp2: is incomplete"):
        open_product(zipped(product, tmp_path / "c.zip")).read(["B4"])
    content = zipped(product, tmp_path / "d.zip").read_bytes()
    (tmp_path / "d.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="is no whole zip archive"):
        open_product(tmp_path / "d.zip")


@pytest.mark.parametrize("share", [0.15, 0.5, 0.9, 0.999])
def test_cut_jpeg_2000_is_found_wherever_it_was_cut(tmp_path: Path, share: float) -> None:
    file = raster(tmp_path / "T31TCJ_20240305T104819_B04.jp2", counts("x", 300, 300), 10, BLOCKXSIZE=64, BLOCKYSIZE=64)
    assert open_product(file, ["B4"]).read(["B4"]).shape == (1, 300, 300)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"is incomplete|cannot be read"):
        open_product(file, ["B4"]).read(["B4"])


def edited(tmp_path: Path, name: str, *edits: tuple[str, str]) -> Path:
    """A whole product with its metadata changed by regular expressions."""
    safe = whole(tmp_path, name)
    document = next(safe.glob("MTD_MSIL*.xml"))
    text = document.read_text()
    for pattern, new in edits:
        text, count = re.subn(pattern, new, text, flags=re.DOTALL)
        assert count
    document.write_text(text)
    return safe


OFFSETS = r"<BOA_ADD_OFFSET_VALUES_LIST>.*</BOA_ADD_OFFSET_VALUES_LIST>"


@pytest.mark.parametrize(
    ("name", "edits", "message"),
    [
        (NAMES[1][0], [(OFFSETS, "")], "baseline 05.09 without offsets"),
        (NAMES[1][0], [(r'<BOA_ADD_OFFSET band_id="7">-1000</BOA_ADD_OFFSET>', "")], "no offset for B8"),
        (NAMES[1][0], [(r'band_id="7">-1000', 'band_id="77">-1000')], "offsets are not as in a SAFE"),
        (NAMES[1][0], [(r'band_id="7">-1000', 'band_id="7">many')], "offsets are not as in a SAFE"),
        (NAMES[1][0], [(OFFSETS, ""), (r"<PROCESSING_BASELINE>05.09", "<PROCESSING_BASELINE>99.99")], "baseline 99.99 without offsets"),
        (NAMES[0][0], [(r"<PROCESSING_BASELINE>02.12", "<PROCESSING_BASELINE>?"), (r"<PRODUCT_URI>.*</PRODUCT_URI>", "")], ""),
        (NAMES[1][0], [(r"<BOA_QUANTIFICATION_VALUE.*</BOA_QUANTIFICATION_VALUE>", "")], "quantification is None"),
        (NAMES[1][0], [(r"<PRODUCT_START_TIME>.*</PRODUCT_START_TIME>", "<PRODUCT_START_TIME>soon</PRODUCT_START_TIME>")], "date is 'soon'"),
        (NAMES[1][0], [(r"^(<\?xml[^>]*>)", r'\1<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>')], "document type or entities"),
    ],
)  # fmt: skip
def test_broken_metadata_give_one_message(tmp_path: Path, name: str, edits: list[tuple[str, str]], message: str) -> None:
    safe = edited(tmp_path, name, *edits)
    if not message:  # without a baseline in the metadata the folder's name gives it, and a folder without one is refused
        assert open_product(safe).provenance["baseline"] == "02.12"
        safe = safe.rename(tmp_path / "mine.SAFE")
        message = "baseline is unknown and there are no offsets"
    with pytest.raises(InputError, match=message) as caught:
        open_product(safe)
    assert "\n" not in str(caught.value) and "MTD_MSIL2A.xml" in str(caught.value)


def test_newer_baseline_is_read_and_remarked(tmp_path: Path) -> None:
    safe = edited(tmp_path, NAMES[1][0], ("<PROCESSING_BASELINE>05.09", "<PROCESSING_BASELINE>07.01"), ('band_id="3">-1000', 'band_id="3">-500'))
    product = open_product(safe)
    assert product.bands["B4"].offset == pytest.approx(-0.05) and product.bands["B8"].offset == pytest.approx(-0.1)
    assert "07.01 is newer than those known" in product.remarks[0]


def test_missing_files_and_other_crs(tmp_path: Path) -> None:
    safe = whole(tmp_path, NAMES[1][0])
    next(safe.rglob("*B08_10m.jp2")).unlink()
    product = open_product(safe)
    assert [name.rsplit("_", 2)[1] for name in product.missing] == ["B08"] and not describe(product)["complete"]
    with pytest.raises(InputError, match="no band B8; it has B1, B2"):
        product.read(["B4", "B8"])
    raster(next(safe.rglob("*B03_10m.jp2")), counts("B03", 60, 60), 10, "EPSG:32632")
    with pytest.raises(GridError, match="B4 and B3 have different coordinate reference systems"):
        open_product(safe).read(["B4", "B3"])
    assert "several coordinate reference systems" in describe(open_product(safe))["problems"][0]
    next(safe.rglob("MTD_TL.xml")).unlink()
    assert open_product(safe).missing[-1].endswith("MTD_TL.xml") and open_product(safe).angles.sun_zenith is None
    shutil.copytree(next((safe / "GRANULE").iterdir()), safe / "GRANULE" / "second")
    with pytest.raises(InputError, match="2 granules with images"):
        open_product(safe)
    shutil.rmtree(safe / "GRANULE")
    with pytest.raises(InputError, match="0 granules with images"):
        open_product(safe)
