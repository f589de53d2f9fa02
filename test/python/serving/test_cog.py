"""A COG put together from windows: GDAL reads the same pixels and finds the layout that readers over a network need."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.windows import Window

from otbsr.errors import OutputError
from otbsr.grid import Grid
from otbsr.serving import cog
from otbsr.serving.vrt import write_mosaic

CRS = rasterio.CRS.from_epsg(32631).to_wkt()


def pieces_of(folder: Path, pixels: np.ndarray, layer: cog.Layer, side: int, empty: tuple[int, int] | None = None) -> tuple[list[cog.Piece], int]:
    """The layer's pixels as window files of `side` pixels; the window at `empty` (row, column) has none."""
    grid, pieces = layer.grid, []
    levels = cog.levels_inside(side, max(grid.width, grid.height) <= side, grid)
    for row in range(0, grid.height, side):
        for column in range(0, grid.width, side):
            window = Window(column, row, min(side, grid.width - column), min(side, grid.height - row))
            path = folder / f"{row}_{column}.tif"
            if (row, column) == empty:
                pieces.append(cog.Piece(column, row, window.width, window.height, None))
                continue
            with rasterio.open(path, "w", **layer.profile(grid.cropped(window))) as dataset:
                dataset.write(pixels[:, row : row + window.height, column : column + window.width])
            cog.add_overviews(path, layer, levels)
            pieces.append(cog.Piece(column, row, window.width, window.height, path))
    return pieces, levels


def layer_of(width: int, height: int, dtype: str = "int16", bands: int = 2, nodata: float | None = -10000, categories: bool = False) -> cog.Layer:
    return cog.Layer(Grid(600000, 4900000, 2.5, 2.5, width, height, CRS), dtype, ("B4", "B8")[:bands], nodata, 1e-4, 0.5, categories)


@pytest.mark.parametrize(("width", "height", "side"), [(1700, 1300, 1024), (700, 500, 1024), (40, 30, 512), (1537, 513, 512)])
def test_pixels_labels_and_layout(tmp_path: Path, width: int, height: int, side: int) -> None:
    layer = layer_of(width, height)
    pixels = np.random.default_rng(2).integers(0, 4000, (2, height, width)).astype(np.int16)
    pixels[:, :8, :8] = -10000
    pieces, levels = pieces_of(tmp_path, pixels, layer, side)
    cog.assemble(pieces, layer, levels, tmp_path / "out.tif", {"OTBSR_MODEL": "f"})
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert np.array_equal(dataset.read(), pixels)
        assert Grid.of(dataset).same(layer.grid) and dataset.nodata == -10000 and dataset.block_shapes == [(512, 512)] * 2
        assert (dataset.descriptions, dataset.scales, dataset.offsets) == (("B4", "B8"), (1e-4, 1e-4), (0.5, 0.5))
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and dataset.tags()["OTBSR_MODEL"] == "f"
        overviews = dataset.overviews(1)
        statistics = dataset.tags(1)
    assert len(overviews) == cog.levels_of(layer.grid) and -(-max(width, height) // 2 ** len(overviews)) <= cog.TILE
    if max(width, height) * 2 < 4000:  # few enough pixels: exact
        valid = pixels[0][pixels[0] != -10000]
        assert float(statistics["STATISTICS_MEAN"]) == pytest.approx(valid.mean(), rel=1e-5)
        assert float(statistics["STATISTICS_VALID_PERCENT"]) == pytest.approx(100 * valid.size / pixels[0].size, rel=1e-5)
    heads = cog.directories(tmp_path / "out.tif")
    first = [head[cog.TILE_OFFSETS].numbers() for head in heads]
    assert all(list(offsets) == sorted(offsets) for offsets in first)
    assert all(coarse[-1] < fine[0] for fine, coarse in itertools.pairwise(first)), "data of smaller levels come first"
    assert first[-1][0] > 16 + 200, "all directories lie before the data"


def test_overviews_do_not_depend_on_the_windows(tmp_path: Path) -> None:
    layer = layer_of(2048, 1536)
    pixels = np.random.default_rng(3).integers(0, 4000, (2, 1536, 2048)).astype(np.int16)
    read = []
    for side in (512, 1024, 4096):
        folder = tmp_path / str(side)
        folder.mkdir()
        pieces, levels = pieces_of(folder, pixels, layer, side)
        cog.assemble(pieces, layer, levels, folder / "out.tif", {})
        found = []
        for level in range(cog.levels_of(layer.grid)):
            with rasterio.open(folder / "out.tif", overview_level=level) as dataset:
                found.append(dataset.read())
        read.append(found)
    assert len(read[0]) == 2
    for others in read[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(read[0], others, strict=True))
    mean = pixels[:, :, :].reshape(2, 768, 2, 1024, 2).mean((2, 4))
    assert np.abs(read[0][0] - mean).max() <= 0.5


def test_windows_without_data_and_categories(tmp_path: Path) -> None:
    layer = layer_of(1500, 1100, "uint8", 1, 0, categories=True)
    pixels = np.random.default_rng(4).choice(np.array([1, 7], np.uint8), (1, 1100, 1500))
    pixels[:, 512:1024, 512:1024] = 0
    pieces, levels = pieces_of(tmp_path, pixels, layer, 512, empty=(512, 512))
    cog.assemble(pieces, layer, levels, tmp_path / "out.tif", {})
    write_mosaic(tmp_path / "out.vrt", [cog.Piece(p.column, p.row, p.width, p.height, p.path) for p in pieces], layer, {"OTBSR_MODEL": "f"})
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert np.array_equal(dataset.read(), pixels)
    with rasterio.open(tmp_path / "out.tif", overview_level=1) as dataset:
        assert set(np.unique(dataset.read())) <= {0, 1, 7}, "classes are not averaged"
    text = (tmp_path / "out.vrt").read_text().replace(f"{tmp_path.name}/", "")
    (tmp_path / "out.vrt").write_text(text)
    with rasterio.open(tmp_path / "out.vrt") as dataset:
        assert np.array_equal(dataset.read(), pixels) and Grid.of(dataset).same(layer.grid)
        assert dataset.tags()["OTBSR_MODEL"] == "f" and dataset.nodata == 0 and dataset.scales == (1e-4,)


def test_floats_and_no_nodata(tmp_path: Path) -> None:
    layer = layer_of(600, 600, "float32", 2, None)
    pixels = np.random.default_rng(5).normal(size=(2, 600, 600)).astype(np.float32)
    pieces, levels = pieces_of(tmp_path, pixels, layer, 512)
    cog.assemble(pieces, layer, levels, tmp_path / "out.tif", {})
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert np.array_equal(dataset.read(), pixels) and dataset.nodata is None


def test_a_window_of_another_layout_is_refused(tmp_path: Path) -> None:
    layer = layer_of(600, 600)
    pieces, levels = pieces_of(tmp_path, np.zeros((2, 600, 600), np.int16), layer, 512)
    with rasterio.open(pieces[1].path, "w", **{**layer.profile(layer.grid.cropped(Window(512, 0, 88, 512))), "compress": "deflate"}) as dataset:
        dataset.write(np.zeros((2, 512, 88), np.int16))
    with pytest.raises(OutputError, match="layout"):
        cog.assemble(pieces, layer, levels, tmp_path / "out.tif", {})


@given(width=st.integers(1, 50000), height=st.integers(1, 50000), tiles=st.integers(1, 40))
def test_levels(width: int, height: int, tiles: int) -> None:
    grid = Grid(0, 0, 1, 1, width, height)
    levels = cog.levels_of(grid)
    assert cog.halved(max(width, height), levels) <= cog.TILE
    assert levels == 0 or cog.halved(max(width, height), levels - 1) > cog.TILE, "no level too many"
    inside = cog.levels_inside(tiles * cog.TILE, False, grid)
    assert inside <= levels and tiles * cog.TILE % (cog.TILE * 2**inside) == 0


@given(
    st.integers(1, 7),
    st.integers(1, 7),
    st.sampled_from(["int16", "uint16", "uint8", "float32", "uint32"]),
    st.sampled_from([None, 7.0]),
    st.integers(0, 2**32 - 1),
)
def test_an_overview_is_the_mean_of_the_pixels_with_data(width: int, height: int, dtype: str, nodata: float | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(-30 if dtype == "int16" else 0, 30, (2, height, width)).astype(dtype)
    pixels[rng.random(pixels.shape) < 0.4] = 7
    if dtype == "float32":
        pixels[rng.random(pixels.shape) < 0.2] = np.nan
    found = cog.halve(pixels, layer_of(width, height, dtype, nodata=nodata))
    assert found.shape == (2, -(-height // 2), -(-width // 2)) and found.dtype == pixels.dtype
    for band, row, column in np.ndindex(*found.shape):
        four = pixels[band, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].astype(float).ravel()
        valid = four[np.isfinite(four) & (True if nodata is None else four != nodata)]
        expected = valid.mean() if valid.size else (np.nan if nodata is None else nodata)
        if dtype != "float32" and valid.size:
            expected = np.floor(expected + 0.5 + 1e-9)
        assert np.array_equal(found[band, row, column], np.float32(expected), equal_nan=True) or found[band, row, column] == pytest.approx(expected, rel=1e-6)


def test_overviews_of_categories_are_categories(tmp_path: Path) -> None:
    layer = layer_of(1300, 900, "uint8", bands=1, nodata=0, categories=True)
    pixels = np.random.default_rng(0).choice(np.array([3, 200], np.uint8), (1, 900, 1300))
    with rasterio.open(tmp_path / "classes.tif", "w", **layer.profile()) as dataset:
        dataset.write(pixels)
    cog.add_overviews(tmp_path / "classes.tif", layer, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["classes.tif"]
    with rasterio.open(tmp_path / "classes.tif") as dataset:
        assert dataset.overviews(1) == [2, 4] and np.array_equal(dataset.read(), pixels)
        assert np.array_equal(dataset.read(1, out_shape=(225, 325)), pixels[0, ::4, ::4])
