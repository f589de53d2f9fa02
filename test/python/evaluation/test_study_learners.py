"""OTB's chain for one image, how samples are shared out, and the confusion matrix counted twice."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from drawn_area import draw_area, parcels
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from otbsr.cli import app
from otbsr.errors import InputError, OutputError, ProcessingError, UsageError
from otbsr.evaluation import learners
from otbsr.evaluation.learners import classify_image, count_confusion, learner_of, read_confusion, share_out

FAR = {1: (3000, 2800, 2600, 3000), 2: (500, 800, 400, 4000)}
serves = pytest.mark.usefixtures("serving")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that no learner can confuse, at 2.5 m without blur."""
    return draw_area(tmp_path_factory.mktemp("areas") / "two", parcels(96, 24, 2), FAR, spread=40)


@given(st.lists(st.dictionaries(st.integers(1, 4), st.integers(0, 300), max_size=4), min_size=1, max_size=5), st.integers(1, 200), st.integers(1, 60))
def test_every_class_gets_as_many_samples_spread_over_the_places(there: list[dict[int, int]], most: int, least: int) -> None:
    taken = share_out(there, most, least)
    total = {code: sum(place.get(code, 0) for place in there) for code in range(1, 5)}
    there_are = [pixels for pixels in total.values() if pixels]
    number = min(most, max(least, min(there_are, default=0)))
    for code in range(1, 5):
        got = [place.get(code, 0) for place in taken]
        assert sum(got) == min(number, total[code])
        assert all(given_ <= place.get(code, 0) for given_, place in zip(got, there, strict=True))
        free = [given_ for given_, place in zip(got, there, strict=True) if given_ < place.get(code, 0)]
        assert not free or (max(free) - min(free) <= 1 and max(got) <= max(free) + 1)


@serves
@pytest.mark.parametrize("name", ["rf", "libsvm", "boost", "knn"])
def test_each_learner_maps_what_cannot_be_confused(two: Path, tmp_path: Path, name: str) -> None:
    sure = name != "boost"
    counts = classify_image(two / "spot_2m5.tif", two / "polygons.gpkg", tmp_path / "map.tif", learner=name, samples=60, confidence=sure)
    assert counts == {1: 60, 2: 60}
    with rasterio.open(tmp_path / "map.tif") as mapped, rasterio.open(two / "landcover_2m5.tif") as truth:
        assert mapped.dtypes[0] == "uint8" and mapped.transform == truth.transform and mapped.crs == truth.crs
        assert np.array_equal(mapped.read(1), truth.read(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.tif", *(["map_confidence.tif"] if sure else [])]
    if sure:
        with rasterio.open(tmp_path / "map_confidence.tif") as dataset:
            confidence = dataset.read(1)
        assert dataset.dtypes[0] == "float32" and np.isfinite(confidence).all() and confidence.min() >= 0 and np.median(confidence) > 0.9


@serves
def test_the_command_is_the_same_chain(two: Path, tmp_path: Path) -> None:
    field = tmp_path / "field.gpkg"
    gpd.read_file(two / "polygons.gpkg").rename(columns={"class": "cover"}).to_file(field)
    words = ["classify", str(two / "spot_2m5.tif"), "--polygons", str(field), "--field", "cover", "--samples", "60", "--quiet", "--out"]
    ran = CliRunner().invoke(app, [*words, str(tmp_path / "map.tif"), "--smooth", "2"], catch_exceptions=False)
    assert ran.exit_code == 0 and "samples: 1:60 2:60" in ran.output
    with rasterio.open(tmp_path / "map.tif") as mapped, rasterio.open(two / "landcover_2m5.tif") as truth:
        different = mapped.read(1) != truth.read(1)
    assert different.mean() < 0.03  # a majority vote rounds corners
    with pytest.raises(OutputError, match="exists already"):
        CliRunner().invoke(app, [*words, str(tmp_path / "map.tif")], catch_exceptions=False)


def test_errors_say_what_to_do(two: Path, tmp_path: Path) -> None:
    image, polygons, out = two / "spot_2m5.tif", two / "polygons.gpkg", tmp_path / "map.tif"
    with pytest.raises(UsageError, match="learner is 'forest', expected one of rf, libsvm, boost, knn"):
        classify_image(image, polygons, out, learner="forest")
    with pytest.raises(InputError, match="no field code; it has class"):
        classify_image(image, polygons, out, field="code")
    with pytest.raises(InputError, match="does not exist"):
        classify_image(tmp_path / "none.tif", polygons, out)
    with pytest.raises(InputError, match="cannot be read as vectors"):
        classify_image(image, image, out)
    with pytest.raises(UsageError, match="no confidence for boost"):
        classify_image(image, polygons, out, learner="boost", confidence=True)
    with pytest.raises(UsageError, match="tells two classes, not 3"):
        learner_of("boost", 3)
    table = gpd.read_file(polygons)
    table["class"] = 0
    table.to_file(tmp_path / "zero.gpkg")
    with pytest.raises(InputError, match="whole numbers from 1 to 255"):
        classify_image(image, tmp_path / "zero.gpkg", out)
    assert not out.exists() and not list(tmp_path.glob(".map*"))


@serves
def test_polygons_beside_the_image_are_an_error(two: Path, tmp_path: Path) -> None:
    table = gpd.read_file(two / "polygons.gpkg")
    table.geometry = table.geometry.translate(xoff=5000)
    table.to_file(tmp_path / "away.gpkg")
    with pytest.raises(InputError, match="no polygon holds the centre of a pixel"):
        classify_image(two / "spot_2m5.tif", tmp_path / "away.gpkg", tmp_path / "map.tif")


def test_polygons_that_no_learner_can_use(two: Path, tmp_path: Path) -> None:
    table = gpd.read_file(two / "polygons.gpkg")
    tables = {
        "text": (table.assign(**{"class": table["class"].astype(str) + "x"}), "field class holds '1x', '2x'"),
        "empty": (table.iloc[:0], "holds no polygon"),
        "nowhere": (table.set_geometry([None] * len(table), crs=table.crs), "holds no polygon"),
    }
    for name, (one, words) in tables.items():
        one.to_file(tmp_path / f"{name}.gpkg")
        with pytest.raises(InputError, match=words):
            classify_image(two / "spot_2m5.tif", tmp_path / f"{name}.gpkg", tmp_path / "map.tif")
    table.drop(columns="geometry").to_csv(tmp_path / "plain.csv", index=False)
    with pytest.raises(InputError, match="holds no polygon"):
        classify_image(two / "spot_2m5.tif", tmp_path / "plain.csv", tmp_path / "map.tif")


@serves
@pytest.mark.parametrize(("learner", "dtype", "nodata"), [("rf", "int16", -10000), ("knn", "int16", -10000), ("knn", "float32", None)])
def test_what_has_no_data_trains_nothing_and_is_not_mapped(two: Path, tmp_path: Path, learner: str, dtype: str, nodata: int | None) -> None:
    """A band that lacks 12 columns and all that lack 12 more: 0 there, and elsewhere the map of whole data."""
    with rasterio.open(two / "spot_2m5.tif") as dataset, rasterio.open(two / "landcover_2m5.tif") as truth:
        pixels, profile, expected = dataset.read().astype(dtype), dataset.profile, truth.read(1)
    pixels[:, :, :12] = pixels[1, :, 12:24] = np.nan if nodata is None else nodata
    profile.update(dtype=dtype, nodata=nodata)
    with rasterio.open(tmp_path / "part.tif", "w", **profile) as file:
        file.write(pixels)
    classify_image(tmp_path / "part.tif", two / "polygons.gpkg", tmp_path / "map.tif", learner=learner, samples=60)
    expected[:, :24] = 0
    with rasterio.open(tmp_path / "map.tif") as mapped:
        assert np.array_equal(mapped.read(1), expected)
    pixels[:] = np.nan if nodata is None else nodata
    with rasterio.open(tmp_path / "none.tif", "w", **profile) as file:
        file.write(pixels)
    with pytest.raises(InputError, match="centre of a pixel with data"):
        classify_image(tmp_path / "none.tif", two / "polygons.gpkg", tmp_path / "map.tif", overwrite=True)


@serves
def test_one_class_is_too_few(two: Path, tmp_path: Path) -> None:
    table = gpd.read_file(two / "polygons.gpkg")
    table[table["class"] == 1].to_file(tmp_path / "one.gpkg")
    with pytest.raises(InputError, match=r"only class 1 lies where .* a learner needs two"):
        classify_image(two / "spot_2m5.tif", tmp_path / "one.gpkg", tmp_path / "map.tif")


@serves
def test_otb_counts_the_confusion_matrix_that_we_count(two: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    with rasterio.open(two / "landcover_2m5.tif") as dataset:
        profile, truth = dataset.profile, dataset.read(1)
    truth[:10] = 0
    mapped = random.integers(0, 4, truth.shape).astype(np.uint8)
    for name, labels in (("truth", truth), ("map", mapped)):
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile) as dataset:
            dataset.write(labels, 1)
    counted = learners.confusion_of(tmp_path / "map.tif", tmp_path / "truth.tif", tmp_path / "c.csv", 4)
    assert np.array_equal(counted, count_confusion(mapped, truth, 4))
    assert counted.sum() == ((truth > 0) & (mapped > 0)).sum() and counted[0, 2] == ((truth == 1) & (mapped == 3)).sum()


def test_a_spoiled_confusion_matrix_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("#Reference labels (rows):1,9\n#Produced labels (columns):1\n5\n6\n")
    with pytest.raises(ProcessingError, match="not a confusion matrix of OTB with labels 1 to 3"):
        read_confusion(tmp_path / "c.csv", 3)
