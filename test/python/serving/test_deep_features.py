"""TrainClassifierFromDeepFeatures and ImageClassifierFromDeepFeatures against the chain of two applications through files (§13)."""

from __future__ import annotations

import shutil
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from image_files import TRANSFORM, write
from outcome import refuse, succeed

from otbsr.grid import Grid
from otbsr.serving import otb

BANDS = 3
CLASSES = (1, 2, 300)
SERVED = ["-source1.rfieldx", 3, "-source1.rfieldy", 3, "-output.names", "mean"]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mean of 3 x 3 pixels of each band, without the border."""
    tf = pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("models") / "box"

    class Box(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, None, None, BANDS), tf.float32, name="x")])
        def __call__(self, x):  # type: ignore[no-untyped-def]
            return {"identity": x[:, 1:-1, 1:-1], "mean": tf.nn.avg_pool2d(x, 3, 1, "VALID")}

    module = Box()
    tf.saved_model.save(module, str(folder), signatures=module.__call__)
    return folder


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Three fields that differ less than their noise, and a polygon in each with an integer class."""
    folder = tmp_path_factory.mktemp("scene")
    fields = np.repeat(np.arange(3), 20)
    pixels = np.random.default_rng(0).normal(0, 60, (BANDS, 50, 60)) + 100 * (np.arange(BANDS)[:, None] == fields)[:, None]
    image = write(folder / "image.tif", np.round(pixels).astype(np.int16))
    polygons = [shapely.box(*(TRANSFORM @ (20 * k + 3, 40)), *(TRANSFORM @ (20 * k + 17, 10))) for k in range(3)]
    geopandas.GeoDataFrame({"class": CLASSES}, geometry=polygons, crs="EPSG:32631").to_file(folder / "samples.gpkg")
    return image, folder / "samples.gpkg"


def test_in_memory_is_the_same_as_through_files(run_application, box: Path, scene: tuple[Path, Path], tmp_path: Path) -> None:
    """§13: the same classifier, map and confidence, pixel by pixel; classes above 255 stay."""
    image, samples = scene
    learner = ["-classifier", "rf", "-classifier.rf.max", 6, "-sample.vfn", "class", "-sample.mt", 200, "-sample.vtr", 0.3, "-rand", 5]
    train = ["-source1.il", image, *SERVED, "-model.dir", box, "-model.fullyconv", "on"]
    apply = ["-source1.il", image, *SERVED, "-deepmodel.dir", box, "-deepmodel.fullyconv", "on"]
    features, file_map, file_confidence = (tmp_path / name for name in ("features.tif", "file_map.tif", "file_confidence.tif"))
    deep_map, deep_confidence = tmp_path / "deep_map.tif", tmp_path / "deep_confidence.tif"
    file_model, deep_model = tmp_path / "file.rf", tmp_path / "deep.rf"

    succeed(run_application("TensorflowModelServe", *train, "-out", features))
    succeed(run_application("TrainImagesClassifier", "-io.il", features, "-io.vd", samples, "-io.out", file_model, *learner))
    succeed(run_application("ImageClassifier", "-in", features, "-model", file_model, "-out", file_map, "uint16", "-confmap", file_confidence))
    log = succeed(
        run_application("TrainClassifierFromDeepFeatures", *train, "-vd", samples, "-out", deep_model, "-confmatout", tmp_path / "confusion.csv", *learner)
    )
    assert "Training of the classifier" in log and (tmp_path / "confusion.csv").stat().st_size > 0
    assert deep_model.read_text() == file_model.read_text()
    succeed(
        run_application(
            "ImageClassifierFromDeepFeatures", *apply, "-model", deep_model, "-out", deep_map.with_suffix(""), "uint16", "-confmap", deep_confidence, "float"
        )
    )

    assert Grid.read(deep_map) == Grid.read(file_map) == Grid.read(deep_confidence) == Grid.read(image)
    with rasterio.open(deep_map) as deep, rasterio.open(file_map) as file, rasterio.open(image) as source:
        found = deep.read(1)
        assert deep.crs == source.crs and deep.dtypes[0] == "uint16" and np.array_equal(found, file.read(1))
    with rasterio.open(deep_confidence) as deep, rasterio.open(file_confidence) as file:
        assert np.array_equal(deep.read(1), file.read(1).astype(np.float32))
    truth = np.repeat(CLASSES, 20)[None]
    assert np.mean(found == truth) > 0.8 and set(np.unique(found)) == set(CLASSES)


def test_several_sources_validation_vectors_and_statistics(run_application, scene: tuple[Path, Path], tmp_path: Path) -> None:
    """§13: OTB_TF_NSOURCES sources, `valid` and `imstat` as through files."""
    tf = pytest.importorskip("tensorflow")
    image, samples = scene
    model = tmp_path / "sum"
    spec = [tf.TensorSpec((None, None, None, BANDS), tf.float32, name=name) for name in "ab"]
    tf.saved_model.save(tf.Module(), str(model), signatures=tf.function(lambda a, b: {"sum": a + 2.0 * b[..., ::-1]}, input_signature=spec))
    sources = [word for k in (1, 2) for word in (f"-source{k}.il", image)]
    two = {"OTB_TF_NSOURCES": "2"}
    learner = ["-classifier", "rf", "-classifier.rf.max", 5, "-sample.vfn", "class", "-sample.mt", 150, "-sample.mv", 80, "-rand", 3]
    features, statistics = tmp_path / "features.tif", tmp_path / "statistics.xml"
    file_map, deep_map, file_model, deep_model = (tmp_path / name for name in ("file.tif", "deep.tif", "file.rf", "deep.rf"))

    train, apply = ([*sources, f"-{group}.dir", model, f"-{group}.fullyconv", "on"] for group in ("model", "deepmodel"))
    succeed(run_application("TensorflowModelServe", *train, "-out", features, environment=two))
    succeed(run_application("ComputeImagesStatistics", "-il", features, "-out.xml", statistics))
    vectors, confusion = ["-vd", samples, "-valid", samples], [tmp_path / "file.csv", tmp_path / "deep.csv"]
    io = [word if isinstance(word, Path) else word.replace("-", "-io.", 1) for word in vectors]
    succeed(run_application("TrainImagesClassifier", "-io.il", features, *io, "-io.out", file_model, "-io.confmatout", confusion[0], *learner))
    deep = ["-out", deep_model, "-confmatout", confusion[1], *learner]
    succeed(run_application("TrainClassifierFromDeepFeatures", *train, *vectors, *deep, environment=two))
    assert deep_model.read_text() == file_model.read_text()
    assert confusion[0].read_text() == confusion[1].read_text() and "300" in confusion[1].read_text()
    more = ["-imstat", statistics]
    succeed(run_application("ImageClassifier", "-in", features, "-model", file_model, "-out", file_map, "uint16", *more))
    succeed(run_application("ImageClassifierFromDeepFeatures", *apply, "-model", deep_model, "-out", deep_map, "uint16", *more, environment=two))
    with rasterio.open(deep_map) as deep, rasterio.open(file_map) as file:
        assert np.array_equal(deep.read(1), file.read(1))
    succeed(run_application("ImageClassifierFromDeepFeatures", *apply, "-model", deep_model, "-out", deep_map, "uint16", environment=two))
    with rasterio.open(deep_map) as deep, rasterio.open(file_map) as file:
        assert not np.array_equal(deep.read(1), file.read(1)), "the statistics were used"


def test_missing_application_is_one_line(run_application, tmp_path: Path) -> None:
    """§14 (upstream crashes): the composite alone in a folder; OTB's own applications are found without being named."""
    for name in ("TrainClassifierFromDeepFeatures", "ImageClassifierFromDeepFeatures"):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(otb.application_folder() / f"otbapp_{name}.so", folder)
        alone = run_application(name, "-source1.il", "a.tif", environment={"OTB_APPLICATION_PATH": str(folder)})
        lines = [line for line in (alone.stdout + alone.stderr).splitlines() if "(FATAL)" in line]  # OTB itself says that it knows no -source1.il
        assert alone.returncode == 1 and len(lines) == 1, alone.stdout + alone.stderr
        assert f"{name}: needs the application TensorflowModelServe" in lines[0] and "otbapp_TensorflowModelServe.so" in lines[0]
        shutil.copy(otb.application_folder() / "otbapp_TensorflowModelServe.so", folder)
        both = run_application(name, "-help", environment={"OTB_APPLICATION_PATH": str(folder)})
        assert "-source1.il" in both.stdout + both.stderr and "(FATAL)" not in both.stdout + both.stderr


def test_bad_input_is_one_line(run_application, box: Path, scene: tuple[Path, Path], tmp_path: Path) -> None:
    """Errors of the applications inside are told once."""
    image, samples = scene
    apply = ["-source1.il", image, *SERVED, "-deepmodel.dir", box, "-deepmodel.fullyconv", "on"]
    (tmp_path / "no.rf").write_text("nothing")
    cases = {
        "unsupported model type": [*apply, "-model", tmp_path / "no.rf", "-out", tmp_path / "map.tif"],
        "cannot be created in folder": [*apply, "-model", tmp_path / "no.rf", "-out", tmp_path / "no" / "map.tif"],
        "out and confmap are one file": [*apply, "-model", tmp_path / "no.rf", "-out", tmp_path / "map", "-confmap", tmp_path / "map.tif"],
        "out and source1.il are one file": [*apply, "-model", tmp_path / "no.rf", "-out", image],
        'no output "mode"; it has: identity, mean': [*["mode" if word == "mean" else word for word in apply], "-model", samples, "-out", tmp_path / "map.tif"],
    }
    for expected, arguments in cases.items():
        refuse(run_application("ImageClassifierFromDeepFeatures", *arguments), expected)
        assert not (tmp_path / "map.tif").exists()
    train = ["-source1.il", image, *SERVED, "-model.dir", tmp_path, "-vd", samples, "-sample.vfn", "class", "-out", tmp_path / "a.rf"]
    refuse(run_application("TrainClassifierFromDeepFeatures", *train, "-model.fullyconv", "on"), "holds no saved_model.pb")
    assert not (tmp_path / "a.rf").exists()
