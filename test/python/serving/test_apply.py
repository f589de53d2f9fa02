"""`apply`: the product lies exactly on the input's refined grid, or there is one clear message and no file."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from otbsr.errors import GridError, InputError, ModelError, OutputError
from otbsr.serving.apply import apply

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("OTBSR_SHARED_DATA", ROOT / ".." / "shared" / "data")).resolve()
NEAREST = ROOT / "models" / "nearest-x4"
BANDS = ("B4", "B3", "B2", "B8")


serves = pytest.mark.usefixtures("serving")


def image(path: Path, height: int = 37, width: int = 53, transform: Affine = Affine(10, 0, 600000, 0, -10, 4900020), crs: str | None = "EPSG:32631") -> Path:
    """A random 4-band image, int16, no-data -10000 in one pixel of one band."""
    pixels = np.random.default_rng(5).integers(0, 5000, (4, height, width)).astype(np.int16)
    pixels[2, 7, 9] = -10000
    with rasterio.open(path, "w", driver="GTiff", height=height, width=width, count=4, dtype="int16", crs=crs, transform=transform, nodata=-10000) as dataset:
        dataset.write(pixels)
        dataset.descriptions = BANDS
    return path


@serves
def test_nearest_model_gives_repeated_pixels_on_the_refined_grid(tmp_path: Path) -> None:
    source = image(tmp_path / "lr.tif")
    done = apply(source, NEAREST, tmp_path / "sr.tif", threads=1, ram=128)
    with rasterio.open(source) as lr, rasterio.open(tmp_path / "sr.tif") as sr:
        assert sr.transform == Affine(2.5, 0, 600000, 0, -2.5, 4900020) and sr.crs == lr.crs
        assert (sr.width, sr.height, sr.dtypes[0], sr.nodata, sr.descriptions) == (212, 148, "int16", -10000, BANDS)
        expected = lr.read().repeat(4, 1).repeat(4, 2)
        expected[:, 28:32, 36:40] = -10000  # a pixel without data in one band has none in any
        assert np.array_equal(sr.read(), expected)
    assert (done.grid.width, done.grid.height, done.model) == (212, 148, "nearest-x4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lr.tif", "sr.tif"]


@serves
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(("transform", "crs"), [(Affine(10, 0, 600000, 0, 10, 4900020), "EPSG:32631"), (Affine(10, 0, 600000, 0, -10, 4900020), None)])
def test_south_up_and_without_crs(tmp_path: Path, transform: Affine, crs: str | None) -> None:
    source = image(tmp_path / "lr.tif", transform=transform, crs=crs)
    apply(source, NEAREST, tmp_path / "sr.tif")
    with rasterio.open(source) as lr, rasterio.open(tmp_path / "sr.tif") as sr:
        assert sr.transform.almost_equals(transform @ Affine.scale(0.25))
        assert np.array_equal(sr.read(1)[:16, :16], lr.read(1)[:4, :4].repeat(4, 0).repeat(4, 1))


@serves
def test_bands_in_another_order_are_put_right(tmp_path: Path) -> None:
    source = image(tmp_path / "lr.tif")
    with rasterio.open(source, "r+") as dataset:
        dataset.descriptions = ("B02", "B03", "B04", "B08")
    apply(source, NEAREST, tmp_path / "sr.tif")
    with rasterio.open(source) as lr, rasterio.open(tmp_path / "sr.tif") as sr:
        assert np.array_equal(sr.read()[:, 2::4, 2::4][:, 10:], lr.read([3, 2, 1, 4])[:, 10:])


@serves
def test_real_product(tmp_path: Path) -> None:
    if not (DATA / "sentinel2_theia_gers").is_dir():
        pytest.skip("the real Theia product is absent")
    apply(DATA / "sentinel2_theia_gers", NEAREST, tmp_path / "gers.tif")
    with rasterio.open(tmp_path / "gers.tif") as sr, rasterio.open(next((DATA / "sentinel2_theia_gers").glob("*_FRE_B8.tif"))) as lr:
        assert (sr.width, sr.height) == (4792, 4680) and sr.transform == Affine(2.5, 0, 742910, 0, -2.5, 4848610) and sr.crs == lr.crs
        assert np.array_equal(sr.read(4)[1::4, 2::4], lr.read(1))


def test_bad_input_gives_one_message_and_no_file(tmp_path: Path) -> None:
    source, out = image(tmp_path / "lr.tif"), tmp_path / "sr.tif"
    with pytest.raises(ModelError, match="no such model folder"):
        apply(source, tmp_path / "none", out)
    with pytest.raises(InputError, match="no such file"):
        apply(tmp_path / "none.tif", NEAREST, out)
    with pytest.raises(OutputError, match="no such folder"):
        apply(source, NEAREST, tmp_path / "none" / "sr.tif")
    with pytest.raises(OutputError, match=r"expected \.tif"):
        apply(source, NEAREST, tmp_path / "sr.jpg")
    with pytest.raises(GridError, match="made for 10 m"):
        apply(image(tmp_path / "20m.tif", transform=Affine(20, 0, 0, 0, -20, 0)), NEAREST, out)
    with pytest.raises(GridError, match="rotated"):
        apply(image(tmp_path / "rotated.tif", transform=Affine(10, 1, 0, 1, -10, 0)), NEAREST, out)
    content = source.read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cut\.tif"):
        apply(tmp_path / "cut.tif", NEAREST, out)
    with rasterio.open(
        tmp_path / "3.tif", "w", driver="GTiff", height=9, width=9, count=3, dtype="int16", crs="EPSG:32631", transform=Affine(10, 0, 0, 0, -10, 0)
    ) as dataset:
        dataset.write(np.zeros((3, 9, 9), np.int16))
    with pytest.raises(InputError, match="no band B4"):
        apply(tmp_path / "3.tif", NEAREST, out)
    assert not out.exists() and not list(tmp_path.glob(".sr*"))
    out.write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        apply(source, NEAREST, out)
    assert out.read_text() == "mine"


@serves
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_full_disk(tmp_path: Path) -> None:
    source, small = image(tmp_path / "lr.tif", 200, 200), tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(OutputError, match="space"):
            apply(source, NEAREST, small / "sr.tif")
        assert not list(small.iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_command_prints_one_line_and_its_exit_status(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "otbsr", "apply", str(tmp_path / "none"), "--model", str(NEAREST), "-o", str(tmp_path / "sr.tif"), "--quiet"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 65 and run.stderr.count("\n") == 1 and "no such file or folder" in run.stderr and not run.stdout
