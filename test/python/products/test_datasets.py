"""Importers of data sets on miniature copies of their layouts, and tensors read without PyTorch."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import geopandas
import image_files
import numpy as np
import pytest
import rasterio
from shapely.geometry import box
from torch_files import KINDS, Call, Global, Storage, tensor_file

from otbsr.errors import InputError, UsageError
from otbsr.grid import Grid
from otbsr.products.datasets import import_dataset, remotes
from otbsr.products.tensor import read_tensor

CRS = "EPSG:32631"


def write(path: Path, pixels: np.ndarray, spacing: float, left: float = 6e5, top: float = 4.9e6, crs: str | None = CRS, **options: Any) -> Path:
    place = {"crs": crs, "transform": image_files.at(spacing, left, top) if crs else None}
    return image_files.write(path, pixels, **place, **options)


def smooth(bands: int, side: int, seed: int) -> np.ndarray:
    """Reflectance between 0.02 and 0.5 that varies slowly, of (bands, side, side)."""
    x, y = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side))
    phases = np.random.default_rng(seed).uniform(0, 6, (bands, 2))
    return np.stack([0.26 + 0.12 * np.sin(5 * x + a) + 0.12 * np.cos(7 * y + b) for a, b in phases])


# --- WorldStrat ------------------------------------------------------------------------------------------------------------------

GAINS, BIASES = np.array([9000.0, 8000.0, 7000.0, 5000.0]), np.array([100.0, 50.0, 200.0, 30.0])


def worldstrat(
    root: Path, name: str = "Amnesty POI-1", clouds: tuple[float, ...] = (0.5, 0.0, 0.0), deltas: tuple[float, ...] = (0.1, 9.0, -2.0)
) -> np.ndarray:
    """One area of 480 m: Spot counts at 1.5 m are gain x reflectance + bias of the second and third image; returns that reflectance at 2.5 m."""
    truth = smooth(4, 960, 1)  # at 0.5 m, which both spacings divide
    target = truth.reshape(4, 320, 3, 320, 3).mean(axis=(2, 4)) * GAINS[:, None, None] + BIASES[:, None, None]
    write(root / "hr_dataset" / name / f"{name}_ps.tiff", np.rint(target).astype(np.uint16), 1.5)
    low = truth.reshape(4, 48, 20, 48, 20).mean(axis=(2, 4))
    for number, (cloud, delta) in enumerate(zip(clouds, deltas, strict=True), 1):
        planes = np.full((12, 48, 48), 0.1 * number, np.float32)
        planes[[3, 2, 1, 7]] = low
        stem = root / "lr_dataset" / name / "L2A" / f"{name}-{number}-L2A"
        write(Path(f"{stem}_data.tiff"), planes, 10)
        mask = np.zeros((48, 48), np.uint8)
        mask[: round(48 * cloud)] = 1
        write(Path(f"{stem}-CLM.tiff"), mask, 10)
        Path(f"{stem}.metadata").write_text(json.dumps({"cloud_cover": 0.0, "delta": delta, "datetime": f"2020-06-{10 + number}"}))
    table = root / "stratified_train_val_test_split.csv"
    table.write_text(f",tile,IPCC Class,split\n0,{name},Forest,val\n")
    return truth.reshape(4, 192, 5, 192, 5).mean(axis=(2, 4))


def test_worldstrat_takes_the_clear_image_nearest_in_date(tmp_path: Path) -> None:
    truth = worldstrat(tmp_path / "data")
    done = import_dataset("worldstrat", tmp_path / "data", tmp_path / "out")
    assert done == {"areas": 1, "kept": 0, "rejected": {}}
    area = tmp_path / "out" / "Amnesty_POI-1"
    about = json.loads((area / "area.json").read_text())
    assert (about["split"], about["factor"], about["bands"], about["calibrated"]) == ("val", 4, ["B4", "B3", "B2", "B8"], False)
    assert about["details"]["input"] == "Amnesty POI-1-3-L2A_data.tiff" and about["details"]["gap_days"] == 2.0 and "NC" in about["licence"]
    for line, gain, bias in zip(about["details"]["fit"], GAINS, BIASES, strict=True):
        assert line["gain"] == pytest.approx(1 / gain, rel=2e-3) and line["bias"] == pytest.approx(-bias / gain, abs=1e-3) and line["r2"] > 0.999
    coarse, fine = Grid.read(area / "input.tif"), Grid.read(area / "target.tif")
    assert coarse.factor_to(fine) == 4 and (coarse.left, coarse.top, coarse.dx, fine.dx) == (6e5, 4.9e6, 10, 2.5)
    assert np.abs(image_files.read(area / "target.tif") * 1e-4 - truth).max() < 6e-4
    assert np.abs(image_files.read(area / "input.tif") * 1e-4 - truth.reshape(4, 48, 4, 48, 4).mean(axis=(2, 4))).max() < 1e-4
    with rasterio.open(area / "target.tif") as file:
        assert file.descriptions == ("B4", "B3", "B2", "B8") and file.nodata == -10000 and file.scales == (1e-4,) * 4


def test_worldstrat_without_a_clear_image_is_left_out(tmp_path: Path) -> None:
    worldstrat(tmp_path, clouds=(0.5, 0.2, 0.1))
    with pytest.raises(InputError, match=r"no area that can be used; the first of 1 that were rejected: .* none of 3 Sentinel-2 images"):
        import_dataset("worldstrat", tmp_path, tmp_path / "out")


def test_worldstrat_of_another_place_is_rejected(tmp_path: Path) -> None:
    worldstrat(tmp_path)
    file = next(tmp_path.glob("hr_dataset/*/*_ps.tiff"))
    noise = np.random.default_rng(0).integers(100, 4000, (4, 320, 320)).astype(np.uint16)
    write(file, noise, 1.5)
    with pytest.raises(InputError, match="target follows the input with r2"):
        import_dataset("worldstrat", tmp_path, tmp_path / "out")
    write(file, noise, 1.5, left=7e5)  # elsewhere: nothing to fit
    with pytest.raises(InputError, match="0 pixels of both images"):
        import_dataset("worldstrat", tmp_path, tmp_path / "out")
    worldstrat(tmp_path, "Good one")  # one bad area does not spoil the others
    done = import_dataset("worldstrat", tmp_path, tmp_path / "out")
    assert done["areas"] == 1 and list(done["rejected"]) == ["Amnesty_POI-1"]


def test_import_goes_on_and_keeps_what_is_there(tmp_path: Path) -> None:
    for number in range(3):
        worldstrat(tmp_path / "data", f"AOI-{number}")
    assert import_dataset("worldstrat", tmp_path / "data", tmp_path / "out", limit=2)["areas"] == 2
    assert not (tmp_path / "out" / "AOI-2").exists()
    stamp = (tmp_path / "out" / "AOI-0" / "target.tif").stat().st_mtime_ns
    (tmp_path / "out" / "AOI-1" / "area.json").unlink()  # as after a kill between the images and the note
    assert import_dataset("worldstrat", tmp_path / "data", tmp_path / "out") == {"areas": 2, "kept": 1, "rejected": {}}
    assert (tmp_path / "out" / "AOI-0" / "target.tif").stat().st_mtime_ns == stamp
    assert import_dataset("worldstrat", tmp_path / "data", tmp_path / "out", overwrite=True)["areas"] == 3


# --- FLAIR-HUB -------------------------------------------------------------------------------------------------------------------


def flairhub(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """A region of 2 x 3 patches, three dates of which the second is clear; returns the joined Sentinel-2 (that date) and Spot."""
    spot = np.rint(smooth(4, 192, 5) * 1e4).astype(np.uint16)[:, :128]
    series = np.random.default_rng(2).integers(100, 4000, (30, 20, 30)).astype(np.uint16)
    for row in range(2):
        for column in range(3):
            left, top = 5e5 + 102.4 * column, 5e6 - 102.4 * row
            name = f"AF-S1-27_{row}-{column}.tif"
            write(
                root / "D012-2019_SPOT_RGBI" / "AF-S1-27" / f"D012-2019_SPOT_RGBI_{name}",
                spot[:, 64 * row : 64 * row + 64, 64 * column : 64 * column + 64],
                1.6,
                left,
                top,
                "EPSG:2154",
            )
            part = series[:, 10 * row : 10 * row + 10, 10 * column : 10 * column + 10]
            write(root / "D012-2019_SENTINEL2_TS" / "AF-S1-27" / f"D012-2019_SENTINEL2_TS_{name}", part, 10.24, left, top, "EPSG:2154")
            mask = np.zeros((6, 10, 10), np.uint8)
            mask[1], mask[4] = 80, 30  # cloud of the first date, snow of the third
            write(root / "D012-2019_SENTINEL2_MSK-SC" / "AF-S1-27" / f"D012-2019_SENTINEL2_MSK-SC_{name}", mask, 10.24, left, top, "EPSG:2154")
    return series[10:20], spot


def test_flairhub_joins_a_region_and_takes_the_clear_date(tmp_path: Path) -> None:
    series, spot = flairhub(tmp_path / "hub" / "data")
    assert import_dataset("flair-hub", tmp_path / "hub", tmp_path / "out")["areas"] == 1
    area = tmp_path / "out" / "D012-2019_AF-S1-27"
    about = json.loads((area / "area.json").read_text())
    assert (about["details"]["date_index"], about["details"]["patches"], about["factor"], about["calibrated"]) == (1, 6, 4, True)
    coarse, fine = Grid.read(area / "input.tif"), Grid.read(area / "target.tif")
    assert (coarse.left, coarse.top, coarse.dx, coarse.width, coarse.height) == pytest.approx((5e5, 5e6, 10.24, 30, 20))
    assert fine.dx == pytest.approx(2.56) and coarse.factor_to(fine) == 4
    assert np.array_equal(image_files.read(area / "input.tif"), series[[2, 1, 0, 6]].astype(int))
    # 8 target pixels span exactly 64 / 5 = 12.8 pixels of Spot; over 5 patches' worth both have the same mean.
    target = image_files.read(area / "target.tif").astype(float)
    assert np.abs(target.mean(axis=(1, 2)) - spot.mean(axis=(1, 2))).max() < 1.0
    by_blocks = spot[:, :128, :128].reshape(4, 16, 8, 16, 8).mean(axis=(2, 4))  # 12.8 m
    assert np.abs(target[:, :80, :80].reshape(4, 16, 5, 16, 5).mean(axis=(2, 4)) - by_blocks).max() < 2


def test_flairhub_without_the_series_or_off_the_lattice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder \*_SPOT_RGBI"):
        import_dataset("flair-hub", tmp_path, tmp_path / "out")
    flairhub(tmp_path)
    file = next(tmp_path.glob("*_SENTINEL2_TS/*/*_1-1.tif"))
    write(file, np.ones((30, 10, 10), np.uint16), 10.24, 5e5 + 104, 5e6 - 102.4, "EPSG:2154")
    with pytest.raises(InputError, match="is not on the lattice"):
        import_dataset("flair-hub", tmp_path, tmp_path / "out")
    write(file, np.ones((7, 10, 10), np.uint16), 10.24, 5e5 + 102.4, 5e6 - 102.4, "EPSG:2154")
    for other in tmp_path.glob("*_SENTINEL2_TS/*/*.tif"):
        if other != file:
            other.unlink()
    with pytest.raises(InputError, match="7 bands, expected 10 for each date"):
        import_dataset("flair-hub", tmp_path, tmp_path / "out")


# --- SEN2VENuS -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KINDS))
def test_tensor_of_every_shape(tmp_path: Path, kind: str) -> None:
    for shape in ((3, 4, 5, 6), (7,), (0, 4), ()):
        values = np.arange(int(np.prod(shape)), dtype=kind).reshape(shape)
        found = read_tensor(tensor_file(tmp_path / "t.pt", values))
        assert found.dtype == values.dtype and found.shape == shape and np.array_equal(found, values)


@pytest.mark.parametrize("kind", list(KINDS))
def test_tensor_of_pytorch_itself(tmp_path: Path, kind: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: its own files cannot be compared")
    torch.save(torch.arange(24, dtype=getattr(torch, kind)).reshape(2, 3, 4).transpose(0, 1), tmp_path / "own.pt")
    assert np.array_equal(read_tensor(tmp_path / "own.pt"), np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2))


def test_tensors_that_would_run_or_reach_outside_are_refused(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.int16).reshape(2, 3)
    storage = Storage(("storage", Global("torch", "ShortStorage"), "0", "cpu", 6))
    proof = tmp_path / "ran"
    for content, message in (
        (Call("posix", "system", f"touch {proof}"), "uses posix.system"),
        (Call("builtins", "eval", "1"), "uses builtins.eval"),
        (Call("torch._utils", "_rebuild_tensor_v2", storage, 0, (100, 100), (100, 1), False, {}), "on 6 numbers"),
        (Call("torch._utils", "_rebuild_tensor_v2", storage, -2, (2, 3), (3, 1), False, {}), "on 6 numbers"),
        (Call("torch._utils", "_rebuild_tensor_v2", storage, 0, (2, 3), (-3, 1), False, {}), "on 6 numbers"),
        (Call("torch._utils", "_rebuild_tensor_v2", Storage(("storage", Global("torch", "ShortStorage"), "../../x", "cpu", 6)), 0, (2, 3), (3, 1)), "storage"),
        ({"a": 1}, "holds dict, expected one tensor"),
    ):
        with pytest.raises(InputError, match=message):
            read_tensor(tensor_file(tmp_path / "t.pt", values, content))
    assert not proof.exists()
    with pytest.raises(InputError, match="12 bytes, expected 600000000"):
        read_tensor(tensor_file(tmp_path / "t.pt", values, count=600_000_000))
    with pytest.raises(InputError, match="is compressed"):
        read_tensor(tensor_file(tmp_path / "t.pt", values, method=zipfile.ZIP_DEFLATED))
    (tmp_path / "t.pt").write_bytes(pickle.dumps(os.system))
    with pytest.raises(InputError, match="cannot be read as one tensor"):
        read_tensor(tmp_path / "t.pt")
    with pytest.raises(InputError, match="cannot be read as one tensor"):
        read_tensor(tmp_path / "absent.pt")


def sen2venus(root: Path, patches: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """One site and day with two patches of 16 pixels; returns the tensors."""
    site = root / "ARM"
    low = np.random.default_rng(3).integers(-50, 6000, (2, 4, 16, 16)).astype(np.int16)
    high = low.repeat(2, 2).repeat(2, 3)
    low[1, :, 0, 0] = -10000
    tensor_file(site / "ARM_14SPJ_2018-06-01_10m_b2b3b4b8.pt", low)
    tensor_file(site / "ARM_14SPJ_2018-06-01_05m_b2b3b4b8.pt", high)
    columns = {
        "venus_product_id": "VENUS-1", "sentinel2_product_id": "S2-1", "tensor_05m_b2b3b4b8": "ARM_14SPJ_2018-06-01_05m_b2b3b4b8.pt",
        "tensor_10m_b2b3b4b8": "ARM_14SPJ_2018-06-01_10m_b2b3b4b8.pt", "s2_tile": "14SPJ", "vns_site": "ARM", "date": "2018-06-01",
        "patches_gpkg": "p.gpkg", "nb_patches": "2",
    }  # fmt: skip
    (site / "index.csv").write_text(",".join(columns) + "\n" + ",".join(columns.values()) + "\n")
    if patches:
        places = [box(6e5, 4e6 - 160, 6e5 + 160, 4e6), box(6e5 + 320, 4e6 - 160, 6e5 + 480, 4e6)]
        geopandas.GeoDataFrame({"id": [0, 1]}, geometry=places, crs="EPSG:32614").to_file(site / "p.gpkg")
    return low, high


def test_sen2venus_patches_are_placed_by_their_polygons(tmp_path: Path) -> None:
    low, high = sen2venus(tmp_path / "data")
    assert import_dataset("sen2venus", tmp_path / "data", tmp_path / "out")["areas"] == 2
    area = tmp_path / "out" / "ARM_14SPJ_2018-06-01_0001"
    coarse, fine = Grid.read(area / "input.tif"), Grid.read(area / "target.tif")
    assert (coarse.left, coarse.top, coarse.dx, coarse.width, fine.dx) == (6e5 + 320, 4e6, 10, 16, 5) and coarse.factor_to(fine) == 2
    assert rasterio.CRS.from_wkt(coarse.crs).to_epsg() == 32614
    assert np.array_equal(image_files.read(area / "input.tif"), low[1]) and np.array_equal(image_files.read(area / "target.tif"), high[1])
    about = json.loads((area / "area.json").read_text())
    assert about["bands"] == ["B2", "B3", "B4", "B8"] and about["details"]["target"] == "VENUS-1"


def test_sen2venus_without_places_and_with_other_tensors(tmp_path: Path) -> None:
    sen2venus(tmp_path, patches=False)
    assert import_dataset("sen2venus", tmp_path / "ARM", tmp_path / "out")["areas"] == 2
    assert Grid.read(tmp_path / "out" / "ARM_14SPJ_2018-06-01_0001" / "input.tif").left == 160
    tensor_file(tmp_path / "ARM" / "ARM_14SPJ_2018-06-01_05m_b2b3b4b8.pt", np.zeros((2, 4, 16, 16), np.int16))
    with pytest.raises(InputError, match=r"expected \(N, 4, H, W\) and twice that"):
        import_dataset("sen2venus", tmp_path, tmp_path / "again")
    (tmp_path / "ARM" / "index.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no column tensor_10m_b2b3b4b8"):
        import_dataset("sen2venus", tmp_path, tmp_path / "again")


# --- BreizhSR --------------------------------------------------------------------------------------------------------------------


def breizhsr(root: Path) -> np.ndarray:
    """One patch of 16 input pixels with two dates; Spot's 8 bits are 400 x reflectance of the nearer one; returns that."""
    truth = smooth(3, 64, 7)
    write(root / "spot" / "a.tif", np.rint(truth * 400).astype(np.uint8), 2.5)
    low = np.rint(truth.reshape(3, 16, 4, 16, 4).mean(axis=(2, 4)) * 1e4).astype(np.uint16)
    write(root / "s2" / "near.tif", low, 10)
    write(root / "s2" / "far.tif", low // 2, 10)
    (root / "dataset_train.csv").write_text("dates_spot6,spot6_image,sen2_acquisitions\n2018-06-01,spot/a.tif,\"{-20: 's2/far.tif', 3: 's2/near.tif'}\"\n")
    return truth


def test_breizhsr_takes_the_nearest_date_and_fits_the_bytes(tmp_path: Path) -> None:
    truth = breizhsr(tmp_path / "data")
    assert import_dataset("breizhsr", tmp_path / "data", tmp_path / "out")["areas"] == 1
    area = tmp_path / "out" / "train_00000"
    about = json.loads((area / "area.json").read_text())
    assert (about["split"], about["bands"], about["details"]["input"], about["details"]["gap_days"]) == ("train", ["B4", "B3", "B2"], "near.tif", 3.0)
    assert np.abs(image_files.read(area / "target.tif") * 1e-4 - truth).max() < 2 / 400
    assert Grid.read(area / "input.tif").factor_to(Grid.read(area / "target.tif")) == 4


def test_breizhsr_pickles_and_paths_are_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "dataset_train.pkl").write_bytes(b"x")
    with pytest.raises(InputError, match=r"dataset_train\.pkl, a pickle that may run anything; where you trust it"):
        import_dataset("breizhsr", tmp_path, tmp_path / "out")
    breizhsr(tmp_path)
    table = tmp_path / "dataset_train.csv"
    text = table.read_text()
    table.write_text(text.replace("spot/a.tif", "../../etc/a.tif"))
    with pytest.raises(InputError, match="is not below"):
        import_dataset("breizhsr", tmp_path, tmp_path / "out")
    table.write_text(text.replace("{-20: 's2/far.tif', 3: 's2/near.tif'}", "__import__('os').system('touch ran')"))
    with pytest.raises(InputError, match="sen2_acquisitions is '__import__"):
        import_dataset("breizhsr", tmp_path, tmp_path / "out")


# --- all -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["worldstrat", "flair-hub", "sen2venus", "breizhsr"])
def test_other_folders_give_one_message(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"expected|unpack") as caught:
        import_dataset(name, tmp_path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such folder"):
        import_dataset(name, tmp_path / "absent", tmp_path / "out")


def test_unknown_names_are_told() -> None:
    with pytest.raises(UsageError, match="expected worldstrat, flair-hub"):
        import_dataset("imagenet", ".", "out")
    with pytest.raises(UsageError, match="expected an address or one of"):
        remotes("imagenet")
    assert remotes("https://host/a.zip", checksum="md5:" + "0" * 32)[0].name == "a.zip"
    assert remotes("flair-hub")[0].name == "FLAIR-HUB_TOY_DATASET.zip"  # known without the network


def test_command_imports(tmp_path: Path) -> None:
    breizhsr(tmp_path / "data")
    words = [sys.executable, "-m", "otbsr", "products", "import", "breizhsr", str(tmp_path / "data"), "-o", str(tmp_path / "out"), "--quiet", "--json"]
    for areas, kept in ((1, 0), (0, 1)):
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        answer = json.loads(done.stdout)
        assert (done.returncode, answer["areas"], answer["kept"]) == (0, areas, kept)
