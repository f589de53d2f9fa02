"""Our applications in one Python process: otbApplication and pyotb, pipelines in memory, NumPy, exceptions, TensorFlow's own Python.

Each test is a process of its own, which must end well: libraries that do not get on end a process without an exception, some at its exit.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from image_files import TRANSFORM, read, write
from outcome import succeed
from shapely.geometry import box

from otbsr.errors import MissingToolError
from otbsr.grid import Grid
from otbsr.serving import otb

BANDS = ["B4", "B3", "B2", "B8"]
ROWS, COLUMNS = 60, 88
NO_DATA = -10000
PRELUDE = """
import json, os, sys
from pathlib import Path
import numpy as np
from otbsr.serving.otb import load_bindings

def say(**values):
    print("RESULT " + json.dumps(values))
def raised(call):
    try:
        call()
    except RuntimeError as error:
        return str(error)
    return None
def application(name, **parameters):
    made = otb.Registry.CreateApplication(name)
    for key, value in parameters.items():
        made.SetParameterValue(key.replace("_", "."), value)
    return made
"""

Python = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def python(serving: None) -> Python:
    """`python(code, *arguments, modules=())` runs code in a new process; returns what it gave to `say`, its log under "log"."""
    if importlib.util.find_spec("otbApplication") is None:
        pytest.skip("OTB's Python bindings are not installed: run `make bindings` (700 MB of download)")

    def run(code: str, *arguments: object, start: str = "otb = load_bindings()", folder: Path | None = None) -> dict[str, Any]:
        text = "\n".join([PRELUDE, start, textwrap.dedent(code)])
        words = [sys.executable, "-X", "faulthandler", "-c", text, *map(str, arguments)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=folder, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"})
        log = done.stdout + done.stderr
        assert done.returncode == 0, f"exit status {done.returncode}\n{log}"
        said = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        assert len(said) == 1, log
        return {**json.loads(said[0].removeprefix("RESULT ")), "log": log}

    return run


@pytest.fixture(scope="session")
def pyotb(python: Python) -> Python:
    """The same with pyotb in place of otbApplication."""
    if importlib.util.find_spec("pyotb") is None:
        pytest.skip("pyotb is not installed: run `make bindings`")
    return lambda code, *arguments, **more: python(code, *arguments, start="otb = load_bindings()\nimport pyotb", **more)


def water(rows: int, columns: int) -> np.ndarray:
    """Where the scene is water: a disc in the middle, on a grid of any spacing (rows, columns)."""
    y, x = np.mgrid[:rows, :columns]
    return np.hypot((y + 0.5) / rows - 0.5, ((x + 0.5) / columns - 0.5) * COLUMNS / ROWS) < 0.3


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake in vegetation (reflectance x 10000, four bands, 60 x 88 pixels of 10 m), with noise."""
    noise = np.random.default_rng(3).normal(0, 60, (4, ROWS, COLUMNS))
    lake, grass = np.array([300, 450, 600, 200]), np.array([500, 800, 400, 3500])
    pixels = np.where(water(ROWS, COLUMNS), lake[:, None, None], grass[:, None, None]) + noise
    return write(tmp_path_factory.mktemp("scene") / "scene.tif", np.rint(pixels).astype(np.int16), nodata=NO_DATA)


@pytest.fixture(scope="session")
def by_files(scene: Path, models: Path, run_application, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The chain as it is run with files: super-resolved image, polygons, trained classifier, map."""
    folder = tmp_path_factory.mktemp("files")
    paths = {"sr": folder / "sr.tif", "polygons": folder / "polygons.gpkg", "classifier": folder / "rf.txt", "map": folder / "map.tif"}

    def run(name: str, *arguments: object) -> None:
        done = run_application(name, *arguments)
        assert done.returncode == 0 and "(FATAL)" not in done.stdout, done.stdout + done.stderr

    run("SuperResolution", "-in", scene, "-model", models / "f-light-x4", "-out", paths["sr"], "int16")
    left, top = TRANSFORM.c, TRANSFORM.f
    areas = [box(left + 340, top - 400, left + 540, top - 200), box(left + 10, top - 590, left + 150, top - 20)]
    geopandas.GeoDataFrame({"class": [1, 2]}, geometry=areas, crs="EPSG:32631").to_file(paths["polygons"])
    training = ["-sample.vfn", "class", "-classifier", "rf", "-classifier.rf.nbtrees", 5, "-rand", 1, "-io.out", paths["classifier"]]
    run("TrainImagesClassifier", "-io.il", paths["sr"], "-io.vd", paths["polygons"], *training)
    run("ImageClassifier", "-in", paths["sr"], "-model", paths["classifier"], "-out", paths["map"], "uint8")
    mapped = read(paths["map"])[0]
    truth = np.where(water(*mapped.shape), 1, 2)
    assert (mapped == truth).mean() > 0.97  # what is compared below is a map of the lake, not a constant
    return paths


def assert_same_image(made: Path, expected: Path) -> None:
    """Same pixels, same grid, same CRS."""
    assert np.array_equal(read(made), read(expected))
    assert Grid.read(made) == Grid.read(expected)


# --- pipelines in memory --------------------------------------------------------------------------------------------------------


def test_super_resolution_feeds_the_classifier_without_a_file(python: Python, scene: Path, models: Path, by_files: dict[str, Path], tmp_path: Path) -> None:
    """The map is that of the file-based chain to the pixel, and it is the only file."""
    out = tmp_path / "map.tif"
    python(
        """
        scene, model, classifier, out = sys.argv[1:]
        sr = application("SuperResolution", **{"in": scene, "model": model})
        sr.Execute()
        mapped = application("ImageClassifier", model=classifier, out=out)
        mapped.SetParameterInputImage("in", sr.GetParameterOutputImage("out"))
        mapped.SetParameterOutputImagePixelType("out", otb.ImagePixelType_uint8)
        mapped.ExecuteAndWriteOutput()
        say()
        """,
        scene,
        models / "f-light-x4",
        by_files["classifier"],
        out,
        folder=tmp_path,
    )
    assert_same_image(out, by_files["map"])
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif"]


def test_pyotb_chain_without_a_file(pyotb: Python, scene: Path, models: Path, by_files: dict[str, Path], tmp_path: Path) -> None:
    """The same by pyotb; its view of the super-resolved image in memory (shape, transform, NumPy) is the file's."""
    out = tmp_path / "map.tif"
    said = pyotb(
        """
        scene, model, classifier, out = sys.argv[1:]
        sr = pyotb.SuperResolution({"in": scene, "model": model})
        mapped = pyotb.ImageClassifier({"in": sr, "model": classifier})
        mapped.write(out, pixel_type="uint8")
        pixels = np.asarray(sr)
        np.save("sr.npy", pixels)
        red = sr[:, :, 0].to_numpy()
        say(shape=sr.shape, transform=list(sr.transform), red=bool((red[:, :, 0] == pixels[:, :, 0]).all()), dtype=str(sr.to_numpy().dtype))
        """,
        scene,
        models / "f-light-x4",
        by_files["classifier"],
        out,
        folder=tmp_path,
    )
    assert_same_image(out, by_files["map"])
    expected = read(by_files["sr"])
    assert np.array_equal(np.load(tmp_path / "sr.npy"), expected.transpose(1, 2, 0))
    assert said["shape"] == [4 * ROWS, 4 * COLUMNS, 4] and said["red"] and said["dtype"] == "int16"
    with rasterio.open(by_files["sr"]) as dataset:
        assert said["transform"][:6] == pytest.approx(list(dataset.transform)[:6])


def test_in_the_middle_of_a_pipeline(python: Python, scene: Path, models: Path, tmp_path: Path) -> None:
    """ExtractROI -> SuperResolution -> BandMathX in memory: nearest's output is the cut's pixels, 4 x 4 times, and twice as bright."""
    out = tmp_path / "out.tif"
    python(
        """
        scene, model, out = sys.argv[1:]
        cut = application("ExtractROI", **{"in": scene, "startx": 7, "starty": 5, "sizex": 40, "sizey": 30})
        cut.Execute()
        sr = application("SuperResolution", model=model)
        sr.SetParameterInputImage("in", cut.GetParameterOutputImage("out"))
        sr.Execute()
        twice = application("BandMathX", exp="im1 mlt 2", out=out)
        twice.AddImageToParameterInputImageList("il", sr.GetParameterOutputImage("out"))
        twice.ExecuteAndWriteOutput()
        say()
        """,
        scene,
        models / "nearest-x4",
        out,
    )
    cut = read(scene)[:, 5:35, 7:47]
    assert np.array_equal(read(out), 2.0 * cut.repeat(4, 1).repeat(4, 2))
    whole = Grid.read(scene).refined(4)
    assert Grid.read(out) == Grid(whole.left + 70, whole.top - 50, whole.dx, whole.dy, 160, 120, whole.crs)


def test_training_from_an_image_in_memory(python: Python, scene: Path, models: Path, by_files: dict[str, Path], tmp_path: Path) -> None:
    """TrainImagesClassifier reads the super-resolved image from memory: the very trees that it grows from the file."""
    out = tmp_path / "rf.txt"
    python(
        """
        scene, model, polygons, out = sys.argv[1:]
        sr = application("SuperResolution", **{"in": scene, "model": model})
        sr.Execute()
        training = application("TrainImagesClassifier", io_vd=[polygons], classifier="rf", rand=1, io_out=out)
        training.SetParameterStringList("sample.vfn", ["class"])
        training.SetParameterInt("classifier.rf.nbtrees", 5)
        training.AddImageToParameterInputImageList("io.il", sr.GetParameterOutputImage("out"))
        training.ExecuteAndWriteOutput()
        say()
        """,
        scene,
        models / "f-light-x4",
        by_files["polygons"],
        out,
        folder=tmp_path,
    )
    assert out.read_text() == by_files["classifier"].read_text()


def test_one_application_object_follows_its_parameters(python: Python, scene: Path, models: Path, tmp_path: Path) -> None:
    """Model, input and file changed between executions: nothing of the former run is left, and a written product is whole when the call returns."""
    other = write(tmp_path / "other.tif", read(scene)[:, :20, :30] + np.int16(7), nodata=NO_DATA)
    python(
        """
        scene, other, bicubic, nearest = sys.argv[1:]
        sr = application("SuperResolution", **{"in": scene, "model": bicubic})
        sr.Execute()
        np.save("1.npy", sr.GetVectorImageAsNumpyArray("out", "int16"))
        sr.SetParameterString("model", nearest)
        sr.Execute()
        np.save("2.npy", sr.GetVectorImageAsNumpyArray("out", "int16"))
        sr.SetParameterString("in", other)
        sr.SetParameterString("out", "3.tif")
        sr.ExecuteAndWriteOutput()
        import shutil
        shutil.copy("3.tif", "3_at_once.tif")
        sr.SetParameterString("in", scene)
        sr.SetParameterString("out", "4.tif")
        sr.ExecuteAndWriteOutput()
        say()
        """,
        scene,
        other,
        models / "bicubic-x4",
        models / "nearest-x4",
        folder=tmp_path,
    )
    first, second = (np.load(tmp_path / f"{k}.npy").transpose(2, 0, 1) for k in (1, 2))
    nearest = read(scene).repeat(4, 1).repeat(4, 2)
    assert np.array_equal(second, nearest) and np.abs(first.astype(int) - nearest).max() > 50
    assert np.array_equal(read(tmp_path / "3_at_once.tif"), read(other).repeat(4, 1).repeat(4, 2))
    assert np.array_equal(read(tmp_path / "4.tif"), nearest)


def test_python_goes_on_while_an_application_runs(python: Python, scene: Path, models: Path, by_files: dict[str, Path], tmp_path: Path) -> None:
    """In a thread of its own (one at a time: OTB itself is not made for two), while the interpreter does other work in the meantime."""
    said = python(
        """
        from threading import Thread
        scene, model = sys.argv[1:]
        def serve():
            for number in range(2):
                application("SuperResolution", **{"in": scene, "model": model, "out": f"{number}.tif"}).ExecuteAndWriteOutput()
        thread, turns = Thread(target=serve), 0
        thread.start()
        while thread.is_alive():
            turns += 1
            thread.join(0.01)
        say(turns=turns)
        """,
        scene,
        models / "f-light-x4",
        folder=tmp_path,
    )
    assert said["turns"] > 5
    for number in range(2):
        assert_same_image(tmp_path / f"{number}.tif", by_files["sr"])


# --- NumPy ----------------------------------------------------------------------------------------------------------------------


def test_numpy_in_and_out_with_georeferencing(python: Python, scene: Path, models: Path, by_files: dict[str, Path], tmp_path: Path) -> None:
    """ExportImage -> NumPy -> ImportVectorImage -> SuperResolution -> ExportImage: pixels, origin, spacing, projection are the file's."""
    said = python(
        """
        scene, model = sys.argv[1:]
        reader = application("ExtractROI", **{"in": scene})
        reader.Execute()
        image = reader.ExportImage("out")
        image["array"] = np.ascontiguousarray(image["array"][::-1][::-1])
        sr = application("SuperResolution", model=model)
        sr.ImportVectorImage("in", image)
        sr.Execute()
        made = sr.ExportImage("out")
        np.save("sr.npy", made["array"])
        sr.SetParameterString("out", "sr.tif")
        sr.WriteOutput()
        say(origin=list(made["origin"]), spacing=list(made["spacing"]), size=list(made["size"]), dtype=str(made["array"].dtype),
            projection=sr.GetImageProjection("out"), spacing_of_input=list(sr.GetImageSpacing("in")))
        """,
        scene,
        models / "f-light-x4",
        folder=tmp_path,
    )
    pixels = np.load(tmp_path / "sr.npy").transpose(2, 0, 1)
    assert np.array_equal(pixels, read(by_files["sr"]))
    grid = Grid.read(by_files["sr"])
    assert said["origin"] == pytest.approx(grid.centre(0, 0), abs=1e-6)  # OTB's origin is a centre, ours a corner
    assert said["spacing"] == [2.5, -2.5] and said["spacing_of_input"] == [10, -10]
    assert said["size"][:2] == [4 * COLUMNS, 4 * ROWS]
    assert rasterio.CRS.from_wkt(said["projection"]) == rasterio.CRS.from_epsg(32631)
    assert_same_image(tmp_path / "sr.tif", by_files["sr"])


def test_plain_arrays(python: Python, models: Path, tmp_path: Path) -> None:
    """An array without georeferencing: its corner (-0.5, -0.5) stays, its spacing of 1 becomes 0.25; NaN is no data, and so are its 16 pixels."""
    pixels = np.random.default_rng(0).integers(1, 9000, (9, 14, 4)).astype(np.float32)
    pixels[4, 6, 2] = np.nan
    np.save(tmp_path / "in.npy", pixels)
    said = python(
        """
        pixels = np.load("in.npy")
        sr = application("SuperResolution", model=sys.argv[1])
        sr.SetVectorImageFromNumpyArray("in", pixels)
        sr.Execute()
        np.save("out.npy", sr.GetVectorImageAsNumpyArray("out", "float"))
        same = np.array_equal(pixels, np.load("in.npy"), equal_nan=True)
        say(spacing=list(sr.GetImageSpacing("out")), origin=list(sr.GetImageOrigin("out")), untouched=same)
        """,
        models / "nearest-x4",
        folder=tmp_path,
    )
    expected = pixels.repeat(4, 0).repeat(4, 1)
    expected[16:20, 24:28] = NO_DATA
    assert np.array_equal(np.load(tmp_path / "out.npy"), expected)
    assert said["spacing"] == [0.25, 0.25] and said["origin"] == [-0.375, -0.375] and said["untouched"]


def test_tensorflow_model_serve_from_arrays(python: Python, models: Path, scene: Path, by_files: dict[str, Path], tmp_path: Path) -> None:
    """OTBTF's parameters, the image list filled from memory: what SuperResolution gives."""
    margin = json.loads((models / "f-light-x4" / "model.json").read_text())["margin"]
    python(
        """
        scene, model, margin = sys.argv[1:]
        reader = application("ExtractROI", **{"in": scene})
        reader.Execute()
        serve = otb.Registry.CreateApplication("TensorflowModelServe")
        serve.AddImageToParameterInputImageList("source1.il", reader.GetParameterOutputImage("out"))
        for key, value in {"source1.rfieldx": 16 + 2 * int(margin), "source1.rfieldy": 16 + 2 * int(margin), "model.dir": model, "model.fullyconv": True,
                           "output.efieldx": 64, "output.efieldy": 64, "output.spcscale": 0.25}.items():
            serve.SetParameterValue(key, value)
        serve.SetParameterOutputImagePixelType("out", otb.ImagePixelType_int16)
        serve.Execute()
        np.save("out.npy", serve.GetVectorImageAsNumpyArray("out", "int16"))
        say()
        """,
        scene,
        models / "f-light-x4",
        margin,
        folder=tmp_path,
    )
    difference = np.load(tmp_path / "out.npy").transpose(2, 0, 1).astype(int) - read(by_files["sr"])
    assert np.abs(difference).max() <= 1  # other blocks than SuperResolution's: sums in another order, then rounding


def test_patches_in_memory(python: Python, scene: Path, tmp_path: Path, run_application) -> None:
    """PatchesExtraction on an image in memory: pixels and labels equal those of the files, in the type that is asked for."""
    where = tmp_path / "points.geojson"
    with rasterio.open(scene) as image:
        places = [image.transform @ (column, row) for column, row in ((20.3, 30.6), (40, 25), (2, 2), (60.9, 40.1))]
    features = [{"type": "Feature", "properties": {"label": k}, "geometry": {"type": "Point", "coordinates": place}} for k, place in enumerate(places, 300)]
    where.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    size = ["-source1.patchsizex", 8, "-source1.patchsizey", 8]
    files = ["-source1.out", tmp_path / "patches.tif", "int16", "-outlabels", tmp_path / "labels.tif", "int32"]
    succeed(run_application("PatchesExtraction", "-source1.il", scene, *size, *files, "-vec", where, "-field", "label"))
    said = python(
        """
        scene, where = sys.argv[1:]
        reader = application("ExtractROI", **{"in": scene})
        reader.Execute()
        cut = application("PatchesExtraction", source1_patchsizex=8, source1_patchsizey=8, vec=where, field="label")
        cut.AddImageToParameterInputImageList("source1.il", reader.GetParameterOutputImage("out"))
        cut.SetParameterOutputImagePixelType("source1.out", otb.ImagePixelType_int16)
        cut.EnableParameter("outlabels")
        cut.Execute()
        np.save("patches.npy", cut.ExportImage("source1.out")["array"])
        np.save("labels.npy", cut.ExportImage("outlabels")["array"])
        say(type=str(cut.ExportImage("source1.out")["array"].dtype))
        """,
        scene,
        where,
        folder=tmp_path,
    )
    patches, labels = (np.load(tmp_path / f"{name}.npy").transpose(2, 0, 1) for name in ("patches", "labels"))
    assert said["type"] == "int16" and labels.ravel().tolist() == [300, 301, 303]
    assert np.array_equal(patches, read(tmp_path / "patches.tif")) and np.array_equal(labels, read(tmp_path / "labels.tif"))


# --- exceptions -----------------------------------------------------------------------------------------------------------------


def test_errors_are_exceptions_with_our_text(python: Python, scene: Path, models: Path, by_files: dict[str, Path], tmp_path: Path) -> None:
    """Wrong parameter, missing or wrong model, bands, missing file, folder, no-data only: RuntimeError with value and expectation; then all is well."""
    three = write(tmp_path / "three.tif", read(scene)[:3])
    empty = write(tmp_path / "empty.tif", np.full((4, 20, 20), NO_DATA, np.int16), nodata=NO_DATA)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.json").write_text('{"format": 1}')
    said = python(
        """
        scene, model, three, empty, broken = sys.argv[1:]
        def serve(**parameters):
            parameters = {"in": scene, "model": model, **parameters}
            def call():
                application("SuperResolution", **parameters).Execute()
            return raised(call)
        def write():
            application("SuperResolution", **{"in": scene, "model": model, "out": "no/such/folder/out.tif"}).ExecuteAndWriteOutput()
        one = application("SuperResolution", **{"in": scene, "model": model})
        errors = dict(
            parameter=raised(lambda: one.SetParameterString("modle", model)),
            application=None if otb.Registry.CreateApplication("SuperResolutoin") is None else "made",
            value=raised(lambda: (one.SetParameterInt("block", -5), one.Execute())),
            word=raised(lambda: one.SetParameterString("nodata", "none")),
            model=serve(model="no/such/model"),
            sidecar=serve(model=broken),
            bands=serve(**{"in": three}),
            file=serve(**{"in": "no_such.tif"}),
            nodata=serve(**{"in": empty}),
            folder=raised(write),
        )
        sr = application("SuperResolution", **{"in": scene, "model": model, "out": "sr.tif"})
        sr.ExecuteAndWriteOutput()
        say(**errors)
        """,
        scene,
        models / "f-light-x4",
        three,
        empty,
        broken,
        folder=tmp_path,
    )
    assert_same_image(tmp_path / "sr.tif", by_files["sr"])
    assert said["application"] is None
    assert "modle" in said["parameter"]
    assert 'nodata is "none", expected a number' in said["word"]
    assert "no/such/model" in said["model"] and "model.json" in said["model"]
    assert "broken" in said["sidecar"] and "model.json" in said["sidecar"]
    assert "3 bands" in said["bands"] and "takes 4: B4, B3, B2, B8" in said["bands"]
    assert "no_such.tif" in said["file"]
    assert "no valid pixel" in said["nodata"]
    assert "no/such/folder" in said["folder"]


def test_an_error_of_the_model_while_pixels_are_asked_for(python: Python, models: Path, scene: Path, tmp_path: Path) -> None:
    """A model whose graph fails at run time: an exception from Execute, from NumPy and from writing; no product, no partial file, no crash."""
    tf = pytest.importorskip("tensorflow")
    folder = tmp_path / "fails"

    @tf.function(input_signature=[tf.TensorSpec((1, None, None, 4), tf.float32, name="lr")])
    def serve(lr):  # type: ignore[no-untyped-def]
        with tf.control_dependencies([tf.debugging.assert_less(tf.reduce_max(lr), -1e9, "too bright for this model")]):
            return {"sr": tf.repeat(tf.repeat(lr, 4, axis=1), 4, axis=2)}

    module = tf.Module()
    module.serve = serve
    tf.saved_model.save(module, str(folder), signatures={"serve": serve})
    sidecar = json.loads((models / "nearest-x4" / "model.json").read_text())
    sidecar["input"] |= {"signature": "serve", "name": "lr"}
    sidecar["output"] |= {"name": "sr"}
    sidecar["sha256"] = {}
    (folder / "model.json").write_text(json.dumps(sidecar))
    work = tmp_path / "work"
    work.mkdir()
    said = python(
        """
        scene, model = sys.argv[1:]
        def numpy():
            sr = application("SuperResolution", **{"in": scene, "model": model})
            sr.Execute()
            sr.GetVectorImageAsNumpyArray("out", "int16")
        def write():
            application("SuperResolution", **{"in": scene, "model": model, "out": "out.tif"}).ExecuteAndWriteOutput()
        say(numpy=raised(numpy), write=raised(write))
        """,
        scene,
        folder,
        folder=work,
    )
    assert "too bright for this model" in said["numpy"]
    assert "too bright for this model" in said["write"]
    assert list(work.iterdir()) == []


def test_pyotb_errors(pyotb: Python, scene: Path, models: Path) -> None:
    """pyotb lets the applications' exceptions through."""
    said = pyotb(
        """
        scene, model = sys.argv[1:]
        say(model=raised(lambda: pyotb.SuperResolution({"in": scene, "model": "no/such/model"})))
        """,
        scene,
        models / "f-light-x4",
    )
    assert "no/such/model" in said["model"]


def test_missing_bindings_name_the_remedy(monkeypatch: pytest.MonkeyPatch, serving: None) -> None:
    monkeypatch.setitem(sys.modules, "otbApplication", None)
    for name in ("OTB_APPLICATION_PATH", "OTB_TF_LIBRARY", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # so that they are put back
    with pytest.raises(MissingToolError, match="make bindings"):
        otb.load_bindings()


# --- TensorFlow and others in the same process ----------------------------------------------------------------------------------

LOAD = {
    "otb": "otb = load_bindings()",
    "served": 'otb = load_bindings()\nfirst = application("SuperResolution", **{"in": sys.argv[1], "model": sys.argv[2]})\nfirst.Execute()\n'
    'first.GetVectorImageAsNumpyArray("out", "int16")',
    "tensorflow": "import tensorflow as tf\ntf.zeros(3)",
    "keras": "import tensorflow as tf\nimport keras",
    "rasterio": "import rasterio, pyproj, geopandas\nrasterio.open(sys.argv[1]).read()",
}


SLOW = ("otb tensorflow", "served tensorflow", "rasterio tensorflow otb")


@pytest.mark.parametrize("order", ["tensorflow otb", "served rasterio keras", *(pytest.param(order, marks=pytest.mark.slow) for order in SLOW)])
def test_tensorflow_in_the_same_process(python: Python, scene: Path, models: Path, by_files: dict[str, Path], tmp_path: Path, order: str) -> None:
    """TensorFlow's Python and our applications share one process, whichever comes first: ours give the file's pixels before and after, TensorFlow
    what NumPy gives (convolution, gradient step, the same model by its own loader), and GDAL, PROJ and GeoPackage work."""
    said = python(
        """
        scene, model, polygons, classifier = sys.argv[1:]
        def serve():
            sr = application("SuperResolution", **{"in": scene, "model": model})
            sr.Execute()
            return sr.GetVectorImageAsNumpyArray("out", "int16").copy()  # the array is the application's memory
        before = serve()

        generator = np.random.default_rng(0)
        image, kernel = generator.normal(size=(1, 12, 15, 3)), generator.normal(size=(3, 3, 3, 2))
        made = tf.nn.conv2d(tf.constant(image, tf.float32), tf.constant(kernel, tf.float32), 1, "VALID").numpy()
        windows = np.lib.stride_tricks.sliding_window_view(image[0], (3, 3), axis=(0, 1))
        convolution = float(np.abs(made[0] - np.einsum("rcbij,ijbo->rco", windows, kernel)).max())

        weight = tf.Variable(3.0)
        with tf.GradientTape() as tape:
            loss = (weight * 2.0 - 1.0) ** 2
        gradient = float(tape.gradient(loss, weight))  # 2 * (6 - 1) * 2

        side = json.loads((Path(model) / "model.json").read_text())
        signature = tf.saved_model.load(model).signatures[side["input"]["signature"]]
        reader = application("ExtractROI", **{"in": scene})
        reader.Execute()
        pixels = reader.GetVectorImageAsNumpyArray("out", "float")[None]
        margin = side["margin"]
        mirrored = np.pad(pixels, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="symmetric")
        served = signature(**{side["input"]["name"]: tf.constant(mirrored)})[side["output"]["name"]].numpy()
        served = served[0, 4 * margin : -4 * margin, 4 * margin : -4 * margin]
        own = int(np.abs(np.rint(served) - before).max())

        training = application("TrainImagesClassifier", io_il=[scene], io_vd=[polygons], classifier="rf", io_out="rf.txt")
        training.SetParameterStringList("sample.vfn", ["class"])
        training.ExecuteAndWriteOutput()  # reads and writes vectors by GDAL and SQLite
        after = serve()
        np.save("before.npy", before)
        np.save("after.npy", after)
        say(convolution=convolution, gradient=gradient, own=own, shape=list(served.shape))
        """,
        scene,
        models / "f-light-x4",
        by_files["polygons"],
        by_files["classifier"],
        start="\n".join(LOAD[name] for name in order.split()),
        folder=tmp_path,
    )
    expected = read(by_files["sr"]).transpose(1, 2, 0)
    for name in ("before", "after"):
        made = np.load(tmp_path / f"{name}.npy")
        # TensorFlow started by Python may take other kernels than it takes from the applications (oneDNN): the last digit before rounding
        assert made.shape == expected.shape and np.abs(made - expected).max() <= 1, name
    assert np.array_equal(np.load(tmp_path / "before.npy"), np.load(tmp_path / "after.npy"))
    assert "ERROR" not in said["log"]  # such as "no such module: rtree", when the system's GDAL gets TensorFlow's SQLite
    assert said["convolution"] < 1e-4
    assert said["gradient"] == 20.0
    assert said["shape"] == list(expected.shape) and said["own"] <= 1
