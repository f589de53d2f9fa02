"""Products: bands, offsets, no-data and grids of what people download, and the stack made of them."""

import os
import shutil
from datetime import date
from pathlib import Path

import image_files
import numpy as np
import pytest
import rasterio
from affine import Affine

from otbsr.errors import GridError, InputError
from otbsr.products import band_name, open_product, stack

DATA = Path(os.environ.get("OTBSR_SHARED_DATA", Path(__file__).parents[3] / ".." / "shared" / "data")).resolve()
MODEL_BANDS = ["B4", "B3", "B2", "B8"]
THEIA = "SENTINEL2B_20181023-105107-455_L2A_T30TYP_D_V1-9"


def write(path: Path, pixels: np.ndarray, left: float = 600000, spacing: float = 10, crs: str | None = "EPSG:32631", **profile: object) -> Path:
    """A one-date GeoTIFF of (bands, rows, columns)."""
    return image_files.write(path, pixels, **{"crs": crs, "transform": image_files.at(spacing, left), **profile})


def safe(folder: Path, level: str, metadata: str, value: int = 1500) -> Path:
    """A SAFE folder: band k holds value + k, one no-data pixel in the corner."""
    folder.mkdir(parents=True)
    (folder / f"MTD_MSI{level}.xml").write_text(metadata)
    images = folder / "GRANULE" / f"{level}_T31TCJ_A000001_20240305T105512" / "IMG_DATA"
    for number, name in enumerate(("B02", "B03", "B04", "B08")):
        pixels = np.full((1, 12, 9), value + number, np.uint16)
        pixels[0, 0, 0] = 0
        fine = images / "R10m" / f"T31TCJ_20240305T104819_{name}_10m.tif" if level == "L2A" else images / f"T31TCJ_20240305T104819_{name}.tif"
        write(fine, pixels)
        if level == "L2A":
            write(images / "R20m" / f"T31TCJ_20240305T104819_{name}_20m.tif", pixels[:, ::2, ::2], spacing=20)
    return folder


def metadata(level: str, offset: bool) -> str:
    """Metadata with a different offset for each band id, so that a shifted table is noticed."""
    tag, quantification = ("BOA_ADD_OFFSET", "BOA_QUANTIFICATION_VALUE") if level == "L2A" else ("RADIO_ADD_OFFSET", "QUANTIFICATION_VALUE")
    offsets = "".join(f'<{tag} band_id="{i}">{-1000 - 10 * i}</{tag}>' for i in range(13)) if offset else ""
    start = "<PRODUCT_START_TIME>2024-03-05T10:48:19.024Z</PRODUCT_START_TIME>"
    start += f"<PROCESSING_BASELINE>{'05.10' if offset else '03.01'}</PROCESSING_BASELINE>"
    return f'<n1:P xmlns:n1="urn:x">{start}<{quantification} unit="none">10000</{quantification}>{offsets}</n1:P>'


@pytest.mark.parametrize("level", ["L2A", "L1C"])
@pytest.mark.parametrize("offset", [True, False])
def test_safe_offsets_by_band_and_nodata(tmp_path: Path, level: str, offset: bool) -> None:
    product = open_product(safe(tmp_path / "S2B_X.SAFE", level, metadata(level, offset)))
    assert (product.kind, product.name, product.date, list(product.bands)) == ("safe", "S2B_X", date(2024, 3, 5), ["B2", "B3", "B4", "B8"])
    grid = stack(product, MODEL_BANDS, tmp_path / "s.vrt")
    with rasterio.open(tmp_path / "s.vrt") as dataset:
        assert (dataset.descriptions, dataset.dtypes[0], dataset.nodata) == (tuple(MODEL_BANDS), "int16", -10000)
        pixels = dataset.read()
        assert dataset.transform == grid.transform and dataset.crs.to_epsg() == 32631
    assert (pixels[:, 0, 0] == -10000).all()
    shift = np.array([-1030, -1020, -1010, -1070]) if offset else np.zeros(4)  # band ids 3, 2, 1, 7
    assert np.array_equal(pixels[:, 5, 5], np.array([1502, 1501, 1500, 1503]) + shift)


def test_dark_pixels_become_negative_not_nodata(tmp_path: Path) -> None:
    product = open_product(safe(tmp_path / "S2B_X.SAFE", "L2A", metadata("L2A", True), value=900))
    stack(product, MODEL_BANDS, tmp_path / "s.vrt")
    with rasterio.open(tmp_path / "s.vrt") as dataset:
        assert dataset.read()[:, 5, 5].tolist() == [902 - 1030, 901 - 1020, 900 - 1010, 903 - 1070]


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("S2A_MSIL2A_20190212T192651_N0212_R013_T07HFE_20201007T160857.SAFE", 0),
        ("S2A_MSIL2A_20230821T221941_N0509_R029_T01KAB_20230822T021825.SAFE", -0.1),
        ("S2B_MSIL1C_20240305T104819_N0510_R051_T31TCJ_20240305T125347.SAFE", -0.1),
        ("S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126.SAFE", -0.1),
        ("esa_S2B_MSIL2A_20210122T133229_N0214_R081_T22HBD_20210122T155500.SAFE", 0),
    ],
)
def test_real_metadata(tmp_path: Path, name: str, offset: float) -> None:
    source = DATA / "product_metadata" / name
    if not source.is_dir():
        pytest.skip(f"{source} is absent")
    folder = tmp_path / name
    shutil.copytree(source, folder, copy_function=shutil.copyfile)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    parts = name.removeprefix("esa_").split("_")
    level, tile, start = parts[1][3:], parts[5], parts[2]
    granule = next((folder / "GRANULE").iterdir())
    for band in ("B02", "B03", "B04", "B08"):
        place = granule / "IMG_DATA" / (f"R10m/{tile}_{start}_{band}_10m.jp2" if level == "L2A" else f"{tile}_{start}_{band}.jp2")
        place.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(
            place, "w", driver="JP2OpenJPEG", width=64, height=64, count=1, dtype="uint16", crs="EPSG:32631", transform=Affine(10, 0, 6e5, 0, -10, 4.9e6),
            QUALITY=100, REVERSIBLE="YES",
        ) as dataset:  # fmt: skip
            dataset.write(np.full((1, 64, 64), 3000, np.uint16))
    product = open_product(folder)
    assert product.date == date(int(start[:4]), int(start[4:6]), int(start[6:8]))
    for band in product.select(MODEL_BANDS):
        assert (band.scale, band.offset, band.nodata, band.spacing) == (1e-4, pytest.approx(offset), 0, 10)
    stack(product, MODEL_BANDS, tmp_path / "s.vrt")
    with rasterio.open(tmp_path / "s.vrt") as dataset:
        assert (dataset.read() == 3000 + offset * 1e4).all()


def test_theia_folder(tmp_path: Path) -> None:
    folder = tmp_path / THEIA
    for number, name in enumerate(("B2", "B3", "B4", "B8", "B8A")):
        pixels = np.full((1, 8, 8), 100 * number, np.int16)
        pixels[0, 7, 7] = -10000
        write(folder / f"{THEIA}_FRE_{name}.tif", pixels)
        write(folder / f"{THEIA}_SRE_{name}.tif", pixels + 1)
    product = open_product(folder)
    assert (product.kind, product.name, product.date) == ("theia", THEIA, date(2018, 10, 23))
    assert list(product.bands) == ["B2", "B3", "B4", "B8", "B8A"]
    stack(product, MODEL_BANDS, tmp_path / "s.vrt")
    with rasterio.open(tmp_path / "s.vrt") as dataset:
        pixels = dataset.read(masked=True)
    assert pixels[:, 0, 0].tolist() == [200, 100, 0, 300] and pixels.mask[:, 7, 7].all() and pixels.mask.sum() == 4


def test_coarser_bands_are_repeated_on_the_finest_grid(tmp_path: Path) -> None:
    """A Theia folder, 20 m band first: no-data is repeated too; a grid that is half a 20 m pixel off is refused."""
    folder, random = tmp_path / THEIA, np.random.default_rng(0)
    red, swir = (random.integers(0, 5000, (1, side, side)).astype(np.int16) for side in (12, 6))
    swir[0, 2, 1] = -10000
    write(folder / f"{THEIA}_FRE_B4.tif", red)
    write(folder / f"{THEIA}_FRE_B11.tif", swir, spacing=20)
    grid = stack(open_product(folder), ["B11", "B4"], tmp_path / "s.vrt")
    assert (grid.dx, grid.width) == (10, 12)
    with rasterio.open(tmp_path / "s.vrt") as dataset:
        assert dataset.descriptions == ("B11", "B4")
        assert np.array_equal(dataset.read(), np.concatenate([swir.repeat(2, 1).repeat(2, 2), red]))
        assert np.array_equal(dataset.read(1, window=((3, 8), (1, 4))), swir[0].repeat(2, 0).repeat(2, 1)[3:8, 1:4])
    write(folder / f"{THEIA}_FRE_B11.tif", swir, left=599990, spacing=20)
    with pytest.raises(GridError, match=r"B4 and B11 have different grids: .*; choose bands whose pixels nest, or crop all"):
        stack(open_product(folder), ["B11", "B4"], tmp_path / "s.vrt")


def test_real_theia_product(tmp_path: Path) -> None:
    folder = DATA / "sentinel2_theia_gers"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    product = open_product(folder)
    grid = stack(product, MODEL_BANDS, tmp_path / "s.vrt")
    assert (grid.left, grid.top, grid.dx, grid.width, grid.height) == (742910, 4848610, 10, 1198, 1170)
    with rasterio.open(tmp_path / "s.vrt") as dataset, rasterio.open(next(folder.glob("*_FRE_B4.tif"))) as red:
        assert np.array_equal(dataset.read(1), red.read(1))
    with pytest.raises(GridError, match="B4 and B5 have different grids"):
        product.grid(["B4", "B5"])


def test_images_by_description_by_names_and_by_scale(tmp_path: Path) -> None:
    path = write(tmp_path / "r.tif", np.stack([np.full((6, 5), value, np.float32) for value in (0.1, 0.2, 0.3, 0.4)]))
    with rasterio.open(path, "r+") as dataset:
        dataset.write(np.full((1, 1), np.nan, np.float32), 1, window=((0, 1), (0, 1)))
        dataset.descriptions = ("B02", "b3 green", "B04", "B8")
    product = open_product(path, scale=1.0)
    assert list(product.bands) == ["B2", "B3", "B4", "B8"]
    stack(product, MODEL_BANDS, tmp_path / "s.vrt")
    with rasterio.open(tmp_path / "s.vrt") as dataset:
        pixels = dataset.read()
    assert pixels[:, 3, 3].tolist() == [3000, 2000, 1000, 4000] and pixels[:, 0, 0].tolist() == [3000, 2000, -10000, 4000]
    assert list(open_product(path, ["B8", "B4", "B3", "B2"]).bands) == ["B8", "B4", "B3", "B2"]
    with pytest.raises(InputError, match="4 bands, but 2 names"):
        open_product(path, ["B8", "B4"])


@pytest.mark.parametrize(("text", "name"), [("B04", "B4"), ("b8", "B8"), ("B8A", "B8A"), ("B12, SWIR", "B12"), ("FRE_B4", "B4"), ("red", "red"), ("", "")])
def test_band_names(text: str, name: str) -> None:
    assert band_name(text) == name


def test_bad_input_gives_one_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_product(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="neither a SAFE folder"):
        open_product(tmp_path / "empty")
    (tmp_path / "p.tif").write_text("not an image")
    with pytest.raises(InputError, match="cannot be read as an image"):
        open_product(tmp_path / "p.tif")
    with pytest.raises(InputError, match="complex"):
        open_product(write(tmp_path / "c.tif", np.zeros((1, 4, 4), np.complex64)))

    folder = tmp_path / THEIA
    for name in ("B2", "B3", "B4", "B8"):
        write(folder / f"{THEIA}_FRE_{name}.tif", np.arange(10000, dtype=np.int16).reshape(1, 100, 100))
    file = folder / f"{THEIA}_FRE_B8.tif"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"B8\.tif: is incomplete"):
        stack(open_product(folder), MODEL_BANDS, tmp_path / "s.vrt")
    write(file, np.zeros((1, 100, 100), np.int16), crs="EPSG:32630")
    with pytest.raises(GridError, match="coordinate reference"):
        stack(open_product(folder), MODEL_BANDS, tmp_path / "s.vrt")
    write(file, np.zeros((1, 100, 100), np.int16), transform=Affine(10, 1, 600000, 1, -10, 4900020))
    with pytest.raises(GridError, match="rotated"):
        stack(open_product(folder), MODEL_BANDS, tmp_path / "s.vrt")
    file.unlink()
    with pytest.raises(InputError, match="no band B8; it has B2, B3, B4"):
        stack(open_product(folder), MODEL_BANDS, tmp_path / "s.vrt")
    (tmp_path / "broken.SAFE").mkdir()
    (tmp_path / "broken.SAFE" / "MTD_MSIL2A.xml").write_text("<a><b></a>")
    with pytest.raises(InputError, match="metadata cannot be read"):
        open_product(tmp_path / "broken.SAFE")
