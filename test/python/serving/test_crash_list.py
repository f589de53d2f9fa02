"""§14: what crashes upstream's applications, or corrupts in silence, is right here or one clear message.

The rest of the list is tested with its applications: negative labels (pairs/test_label_image_sample_selection.py), composite applications
without the system's (test_deep_features.py), fewer samples than a batch (methods/test_training_application.py).
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from image_files import read, write
from outcome import refuse, succeed

Run = Callable[..., subprocess.CompletedProcess[str]]


def scene(bands: int, rows: int = 50, columns: int = 37) -> np.ndarray:
    return np.random.default_rng(bands).integers(10, 120, (bands, rows, columns)).astype(np.float32)


def export(
    folder: Path, function: Callable[..., Any], shapes: Sequence[Sequence[int | None] | None], kind: str = "float32", key: str = "serving_default"
) -> Path:
    """A SavedModel of `function` whose inputs are called a, b, ... and whose output is called y."""
    tf = pytest.importorskip("tensorflow")
    specs = [tf.TensorSpec(shape, kind, name=name) for shape, name in zip(shapes, "abc", strict=False)]
    module = tf.Module()
    module.serve = tf.function(lambda *inputs: {"y": function(tf, *inputs)}, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures={key: module.serve})
    return folder


def arguments(images: Path | Sequence[Path], model: Path, out: Path, *more: object, kind: str = "float", fully: str = "on") -> list[object]:
    """TensorflowModelServe's, for a model that keeps rows and columns."""
    listed = [images] if isinstance(images, Path) else images
    return ["-source1.il", *listed, "-model.dir", model, "-model.fullyconv", fully, *more, "-out", out, kind]


PLAIN = (None, None, None, 4)


def test_a_signature_with_a_name_of_its_own(run_application: Run, tmp_path: Path) -> None:
    """Upstream takes it or __saved_model_init_op at random: a segmentation fault half the time. Four runs, four times right."""
    image, pixels = write(tmp_path / "in.tif", scene(4)), scene(4)
    model = export(tmp_path / "model", lambda tf, a: 2 * a, [PLAIN], key="double")
    for number in range(4):
        out = tmp_path / f"{number}.tif"
        succeed(run_application("TensorflowModelServe", *arguments(image, model, out)))
        assert np.array_equal(read(out), 2 * pixels)


def test_inputs_and_outputs_of_unknown_rank(run_application: Run, tmp_path: Path) -> None:
    model = export(tmp_path / "model", lambda tf, a: a + 1, [None])
    pixels, out = scene(4), tmp_path / "out.tif"
    succeed(run_application("TensorflowModelServe", *arguments(write(tmp_path / "in.tif", pixels), model, out)))
    assert np.array_equal(read(out), pixels + 1)


def test_more_sources_than_inputs(run_application: Run, tmp_path: Path) -> None:
    image, out = write(tmp_path / "in.tif", scene(4)), tmp_path / "out.tif"
    model = export(tmp_path / "model", lambda tf, a: 2 * a, [PLAIN])
    process = run_application("TensorflowModelServe", *arguments(image, model, out), "-source2.il", image, environment={"OTB_TF_NSOURCES": "2"})
    refuse(process, "2 sources", "takes 1 image: a", "OTB_TF_NSOURCES")
    assert not out.exists()


def test_more_channels_than_the_signature_says(run_application: Run, tmp_path: Path) -> None:
    """Upstream writes the surplus beyond its buffer: an eight-band stack into a model of four, and a graph that gives more than it says."""
    image, out = write(tmp_path / "in.tif", scene(8)), tmp_path / "out.tif"
    elementwise = export(tmp_path / "elementwise", lambda tf, a: 2 * a, [PLAIN])
    refuse(run_application("TensorflowModelServe", *arguments(image, elementwise, out)), "8 bands", "4")

    def four(tf: Any, a: Any) -> Any:
        tripled = tf.concat([a, a, a], axis=-1) if a.shape[-1] is None else a
        tripled.set_shape(PLAIN)  # said, not done
        return tripled

    liar = export(tmp_path / "liar", four, [(None, None, None, None)])
    for bands in (8, 1):  # 24 and 3 instead of 4
        image = write(tmp_path / f"{bands}.tif", scene(bands))
        refuse(run_application("TensorflowModelServe", *arguments(image, liar, out)), '"y"', "4 bands")


@pytest.mark.parametrize("kind", ["uint8", "int16", "int32", "float64"])
def test_no_data_and_an_input_that_is_not_float(run_application: Run, tmp_path: Path, kind: str) -> None:
    """Upstream reads the tensor as float32 and aborts."""
    pixels = scene(4)
    pixels[:, 5, 6] = 7
    pixels[:, :20, :16] = 7
    out = tmp_path / "out.tif"
    model = export(tmp_path / "model", lambda tf, a: a + 1, [PLAIN], kind=kind)
    more = ["-source1.nodata", 7, "-output.bv", 3]
    succeed(run_application("TensorflowModelServe", *arguments(write(tmp_path / "in.tif", pixels), model, out, *more, kind="int16")))
    assert np.array_equal(read(out), np.where((pixels == 7).any(axis=0), 3, pixels + 1))


@pytest.mark.parametrize("tile", [(), ("-optim.tilesizex", 16, "-optim.tilesizey", 16)])
def test_a_fully_convolutional_model_on_an_image_without_georeference(run_application: Run, tmp_path: Path, tile: tuple[object, ...]) -> None:
    """Upstream puts the tiles in the wrong order, and ends with 0."""
    pixels = np.arange(50 * 37, dtype=np.float32).reshape(1, 50, 37)
    image, out = write(tmp_path / "in.tif", pixels, crs=None, transform=Affine.identity()), tmp_path / "out.tif"
    model = export(tmp_path / "model", lambda tf, a: 2 * a, [(None, None, None, 1)])
    succeed(run_application("TensorflowModelServe", *arguments(image, model, out, *tile)))
    assert np.array_equal(read(out), 2 * pixels)
    with rasterio.open(out) as made:
        assert made.crs is None and made.transform.almost_equals(Affine.identity())


@pytest.mark.parametrize("application", ["TensorflowModelServe", "PatchesExtraction"])
@pytest.mark.parametrize("value", ["two", "2x", "", "0", "-1", "99999999999"])
def test_a_number_of_sources_that_is_none(run_application: Run, tmp_path: Path, models: Path, application: str, value: str) -> None:
    image, out = write(tmp_path / "in.tif", scene(4)), tmp_path / "out.tif"
    given = {
        "TensorflowModelServe": arguments(image, models / "nearest-x4", out),
        "PatchesExtraction": ["-source1.il", image, "-source1.patchsizex", 3, "-source1.patchsizey", 3, "-source1.out", out, "-vec", image, "-field", "id"],
    }
    refuse(run_application(application, *given[application], environment={"OTB_TF_NSOURCES": value}), "OTB_TF_NSOURCES", value)
    assert not out.exists()


@pytest.mark.parametrize(
    "more",
    [
        ["-block", 2**28],  # times the factor: 2^30
        ["-block", 2**30],  # 2^32
        ["-block", 2**31 - 1],
        ["-block", 1],
        ["-ram", 1],
        ["-ram", 2**31 - 1],
        ["-threads", 1],
    ],
)
def test_absurd_sizes_give_the_same_pixels(run_application: Run, tmp_path: Path, models: Path, more: list[object]) -> None:
    """Numbers near the limits of 32 bits: no overflow, no division by zero, no endless search for block sizes."""
    pixels, out = scene(4, 40, 33), tmp_path / "out.tif"
    succeed(run_application("SuperResolution", "-in", write(tmp_path / "in.tif", pixels), "-model", models / "nearest-x4", "-out", out, *more))
    assert np.array_equal(read(out), pixels.repeat(4, axis=1).repeat(4, axis=2))


def test_a_negative_memory_is_refused(run_application: Run, tmp_path: Path, models: Path) -> None:
    image, out = write(tmp_path / "in.tif", scene(4)), tmp_path / "out.tif"
    run = run_application("SuperResolution", "-in", image, "-model", models / "nearest-x4", "-out", out, "-ram", -(2**31))
    refuse(run, "ram", "-2147483648", "expected an integer from 0")
    assert not out.exists()


@pytest.mark.parametrize("fully", ["on", "off"])
def test_absurd_tiles_give_the_same_pixels(run_application: Run, tmp_path: Path, fully: str) -> None:
    pixels, out = scene(4), tmp_path / "out.tif"
    model = export(tmp_path / "model", lambda tf, a: 2 * a if fully == "on" else 2 * a[:, 0, 0, :], [PLAIN])
    tiles = ["-optim.tilesizex", 2**31 - 1, "-optim.tilesizey", 2**31 - 1]
    succeed(run_application("TensorflowModelServe", *arguments(write(tmp_path / "in.tif", pixels), model, out, *tiles, fully=fully)))
    assert np.array_equal(read(out), 2 * pixels)


@pytest.mark.parametrize(
    ("fully", "more", "word"),
    [
        ("on", ["-output.spcscale", 1e-7], "spacing scale"),
        ("on", ["-output.spcscale", 1e-30], "spacing scale"),
        ("on", ["-output.spcscale", 1e30], "spacing scale"),
        ("on", ["-output.spcscale", "nan"], "spacing scale"),
        ("on", ["-output.spcscale", -1], "spacing scale"),
        ("off", ["-output.spcscale", 1e-30], "spacing scale"),
        ("off", ["-output.spcscale", 1e30], "spacing scale"),
        ("on", ["-source1.rfieldx", 2**31 - 1], "from 1 to 65536"),
        ("off", ["-source1.rfieldx", 2**30, "-source1.rfieldy", 2**30], "from 1 to 65536"),
        ("on", ["-source1.rfieldx", 2**16, "-source1.rfieldy", 2**16], "larger than the memory"),
        ("on", ["-output.efieldx", 2**31 - 1, "-output.efieldy", 2**31 - 1], "no small block"),
    ],
)
def test_absurd_fields_are_one_clear_error(run_application: Run, tmp_path: Path, models: Path, fully: str, more: list[object], word: str) -> None:
    image, out = write(tmp_path / "in.tif", scene(4)), tmp_path / "out.tif"
    refuse(run_application("TensorflowModelServe", *arguments(image, models / "nearest-x4", out, *more, fully=fully)), word)
    assert not out.exists()


def test_sources_in_different_reference_systems(run_application: Run, tmp_path: Path) -> None:
    """The same coordinates in two UTM zones are two places; two spellings of one system, or none, are not refused."""
    pixels = scene(2)
    model = export(tmp_path / "model", lambda tf, a, b: a - b, [(None, None, None, 2)] * 2)
    one, out = write(tmp_path / "one.tif", pixels), tmp_path / "out.tif"
    spelt = 'PROJCS["mine",GEOGCS["its own",DATUM["unnamed",SPHEROID["WGS84",6378137,298.257223563]],PRIMEM["Greenwich",0],UNIT["degree",' + (
        '0.0174532925199433]],PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],PARAMETER["central_meridian",3],'
        'PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],PARAMETER["false_northing",0],UNIT["metre",1]]'
    )
    for system in ("EPSG:32630", spelt, None):
        other = write(tmp_path / "other.tif", pixels, crs=system)
        words = arguments(one, model, out, "-source2.il", other)
        process = run_application("TensorflowModelServe", *words, environment={"OTB_TF_NSOURCES": "2"})
        if system == "EPSG:32630":
            refuse(process, "source 1 and source 2: the coordinate reference systems differ", "zone 31N", "zone 30N")
            refuse(run_application("TensorflowModelServe", *arguments([one, other], model, out)), "image 2 of source1.il", "systems differ")
        else:
            succeed(process)
            assert not read(out).any()
