"""`apply`: the product lies exactly on the input's refined grid, or there is one clear message and no file."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from image_files import BANDS, at, read, write_random
from rasterio.windows import Window

from otbsr.errors import GridError, InputError, ModelError, OutputError
from otbsr.grid import Grid
from otbsr.methods.baselines import write_baseline
from otbsr.methods.model_folder import ModelFolder, save_model
from otbsr.progress import silent
from otbsr.serving.apply import apply, write_disagreement, write_validity

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("OTBSR_SHARED_DATA", ROOT / ".." / "shared" / "data")).resolve()
NEAREST = ROOT / "models" / "nearest-x4"
BICUBIC = ROOT / "models" / "bicubic-x4"


serves = pytest.mark.usefixtures("serving")


def image(path: Path, height: int = 37, width: int = 53, **profile: object) -> Path:
    """A random 4-band image, no-data -10000 in one pixel of one band."""
    return write_random(path, height, width, np.s_[2, 7, 9], **{"transform": at(10, 600000), **profile})


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


@serves
def test_bands_that_do_not_nest_are_resampled_on_request(tmp_path: Path) -> None:
    """The real product's 20 m grid lies a pixel of 10 m off its 10 m grid: refused, or warped as GDAL warps."""
    if not (DATA / "sentinel2_theia_gers").is_dir():
        pytest.skip("the real Theia product is absent")
    model = write_baseline("nearest", tmp_path / "nearest", factor=2, bands=("B4", "B5")).path
    with pytest.raises(GridError, match="different grids"):
        apply(DATA / "sentinel2_theia_gers", model, tmp_path / "sr.tif")
    apply(DATA / "sentinel2_theia_gers", model, tmp_path / "sr.tif", resampling="nearest")
    found = [next((DATA / "sentinel2_theia_gers").glob(f"*_FRE_{name}.tif")) for name in ("B4", "B5")]
    with rasterio.open(tmp_path / "sr.tif") as sr, rasterio.open(found[0]) as b4, rasterio.open(found[1]) as b5:
        assert sr.transform == Affine(5, 0, 742910, 0, -5, 4848610) and sr.shape == (2340, 2396)
        assert np.array_equal(sr.read(1)[:-2:2, 1:-2:2], b4.read(1)[:-1, :-1])  # B5 ends a pixel of 10 m earlier: there is no data then
        fine = b5.read(1).repeat(2, 0).repeat(2, 1)[1:1001, 1:1001]  # 20 m corner: 10 m west and north of the 10 m one
        assert np.array_equal(sr.read(2)[1:2001:2, :2000:2], fine)


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
def test_validity_is_what_the_model_looks_at(tmp_path: Path) -> None:
    """One pixel without data, margin 2: 0 there, 1 in the 5 x 5 around it and within 2 pixels of the edge, 2 elsewhere."""
    source = image(tmp_path / "lr.tif")
    done = apply(source, BICUBIC, tmp_path / "sr.tif", validity=True)
    expected = np.full((37, 53), 2)
    expected[:2], expected[-2:], expected[:, :2], expected[:, -2:] = 1, 1, 1, 1
    expected[5:10, 7:12] = 1
    expected[7, 9] = 0
    assert done.validity == tmp_path / "sr_validity.tif" and done.disagreement is None
    with rasterio.open(done.validity) as dataset, rasterio.open(tmp_path / "sr.tif") as sr:
        assert (dataset.transform, dataset.crs, dataset.shape, dataset.dtypes) == (sr.transform, sr.crs, sr.shape, ("uint8",))
        assert dataset.nodata == 0 and dataset.descriptions[0].startswith("validity")
        assert np.array_equal(dataset.read(1), expected.repeat(4, 0).repeat(4, 1))
        assert np.array_equal(dataset.read(1) == 0, sr.read(1) == -10000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lr.tif", "sr.tif", "sr_validity.tif"]
    # What it says is true: filling the hole changes nothing where all is supported, and something around it.
    with rasterio.open(source, "r+") as dataset:
        dataset.write(np.full((1, 1), 4000, np.int16), 3, window=Window(9, 7, 1, 1))
    apply(source, BICUBIC, tmp_path / "filled.tif")
    changed = (read(tmp_path / "filled.tif") != read(tmp_path / "sr.tif")).any(0)
    validity = read(done.validity)[0]
    assert not changed[validity == 2].any() and changed[validity == 1].any() and changed[validity == 0].all()


@serves
def test_disagreement_is_the_root_mean_square_over_the_bands(tmp_path: Path) -> None:
    source = image(tmp_path / "lr.tif")
    higher = plus(tmp_path / "higher", (3.0, -4.0, 0.0, 0.0))  # sqrt((9 + 16) / 4) = 2.5, to even: 2
    done = apply(source, NEAREST, tmp_path / "sr.tif", against=higher)
    expected = np.full((148, 212), 2)
    expected[28:32, 36:40] = 65535
    assert done.disagreement == tmp_path / "sr_disagreement.tif" and done.validity is None
    with rasterio.open(done.disagreement) as dataset:
        assert (dataset.transform, dataset.dtypes[0], dataset.nodata, dataset.scales[0]) == (Affine(2.5, 0, 600000, 0, -2.5, 4900020), "uint16", 65535, 1e-4)
        assert np.array_equal(dataset.read(1), expected)
    # Two models that differ everywhere, and the models' places exchanged.
    apply(source, NEAREST, tmp_path / "n.tif", against=BICUBIC)
    apply(source, BICUBIC, tmp_path / "b.tif", against=NEAREST, validity=True)
    n, b = read(tmp_path / "n.tif").astype(float), read(tmp_path / "b.tif").astype(float)
    apart = np.where(n[0] == -10000, 65535, np.rint(np.sqrt(((n - b) ** 2).mean(0))))
    assert np.array_equal(read(tmp_path / "n_disagreement.tif")[0], apart) and np.median(apart) > 100
    assert np.array_equal(read(tmp_path / "b_disagreement.tif")[0], apart)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@serves
def test_a_model_agrees_with_itself_and_with_one_of_other_band_order(tmp_path: Path) -> None:
    source = image(tmp_path / "lr.tif")
    turned = write_baseline("nearest", tmp_path / "turned", bands=("B8", "B2", "B4", "B3")).path
    for name, second in (("self", NEAREST), ("turned", turned)):
        done = apply(source, NEAREST, tmp_path / f"{name}.tif", against=second)
        assert set(np.unique(read(done.disagreement))) == {0, 65535}


def test_windows_do_not_show(tmp_path: Path) -> None:
    """Disagreement and validity are the same whatever the windows they are computed in, and whatever the margin against the image's size."""
    source, grid = image(tmp_path / "lr.tif"), Grid(600000, 4900020, 2.5, 2.5, 212, 148, "EPSG:32631")
    random = np.random.default_rng(2)
    for name in "ab":
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", driver="GTiff", height=148, width=212, count=4, dtype="int16", nodata=-10000, transform=grid.transform
        ) as dataset:
            dataset.write(random.integers(-20000, 30000, (4, 148, 212)).astype(np.int16))
    side = ModelFolder.open(BICUBIC).sidecar
    found: dict[str, list[np.ndarray]] = {"d": [], "2": [], "40": []}
    for size in (512, 16, 7):
        write_disagreement(tmp_path / "a.tif", tmp_path / "b.tif", tmp_path / "d.tif", side, side, grid, silent, size)
        found["d"].append(read(tmp_path / "d.tif"))
        for margin in (2, 40):
            write_validity(source, tmp_path / "v.tif", side.model_copy(update={"margin": margin}), grid, silent, size)
            found[str(margin)].append(read(tmp_path / "v.tif"))
    for whole, *others in found.values():
        assert all(np.array_equal(whole, other) for other in others)
    assert found["d"][0].max() > 30000 and set(np.unique(found["2"][0])) == {0, 1, 2}
    assert set(np.unique(found["40"][0])) == {0, 1}, "a margin larger than the image leaves nothing fully supported"


def plus(folder: Path, values: tuple[float, ...]) -> Path:
    """A model: each pixel repeated, plus a number for each band."""
    import tensorflow as tf

    side = ModelFolder.open(NEAREST).sidecar.model_copy(update={"name": "plus"})
    return save_model(lambda lr: tf.repeat(tf.repeat(lr, 4, 1), 4, 2) + tf.constant(values), folder, side).path


def test_products_beside_the_image_are_refused_like_it(tmp_path: Path) -> None:
    source = image(tmp_path / "lr.tif")
    (tmp_path / "sr_validity.tif").write_text("mine")
    with pytest.raises(OutputError, match=r"sr_validity\.tif: exists already"):
        apply(source, NEAREST, tmp_path / "sr.tif", validity=True)
    x2 = write_baseline("nearest", tmp_path / "x2", factor=2).path
    with pytest.raises(ModelError, match=r"x2: cannot be compared with .*nearest-x4 gives B4 B3 B2 B8 at x4, nearest-x2 gives B4 B3 B2 B8 at x2"):
        apply(source, NEAREST, tmp_path / "sr.tif", against=x2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lr.tif", "sr_validity.tif", "x2"]
    assert (tmp_path / "sr_validity.tif").read_text() == "mine"


@serves
def test_full_disk(tmp_path: Path, mount_disk: Callable[[str], Path]) -> None:
    source, small = image(tmp_path / "lr.tif", 200, 200), mount_disk("100k")
    with pytest.raises(OutputError, match="space"):
        apply(source, NEAREST, small / "sr.tif")
    assert not list(small.iterdir())


def test_command_prints_one_line_and_its_exit_status(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "otbsr", "apply", str(tmp_path / "none"), "--model", str(NEAREST), "-o", str(tmp_path / "sr.tif"), "--quiet"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 65 and run.stderr.count("\n") == 1 and "no such file or folder" in run.stderr and not run.stdout


@serves
def test_command_names_the_files_beside_the_image(tmp_path: Path) -> None:
    source, out = image(tmp_path / "lr.tif"), tmp_path / "sr.tif"
    words = ["apply", source, "--model", NEAREST, "--against", BICUBIC, "--validity", "-o", out, "--json", "--quiet"]
    run = subprocess.run([sys.executable, "-m", "otbsr", *map(str, words)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert (result["disagreement"], result["validity"]) == (str(tmp_path / "sr_disagreement.tif"), str(tmp_path / "sr_validity.tif"))
    assert all(Path(result[key]).is_file() for key in ("out", "disagreement", "validity"))
