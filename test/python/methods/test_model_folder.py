"""The model folder: what is written can be read, by Python and by TensorFlow's C API; what is wrong is said in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from otbsr.errors import ModelError, OutputError
from otbsr.methods.baselines import write_baseline
from otbsr.methods.model_folder import ModelFolder, ModelInput, ModelOutput, Sidecar, save_model
from otbsr.methods.networks import NetworkSettings, fuse, margin, network

TINY = NetworkSettings(channels=8, blocks=2, back_projection=0)
BANDS = ("B4", "B3", "B2", "B8")


def sidecar(**changes) -> Sidecar:
    values = {
        "name": "tiny",
        "method": "fidelity",
        "factor": 4,
        "margin": margin(TINY),
        "input": ModelInput(bands=BANDS, spacing=10.0),
        "output": ModelOutput(bands=BANDS),
    }
    return Sidecar(**(values | changes))


@pytest.fixture(scope="module")
def bicubic(tmp_path_factory) -> ModelFolder:
    return write_baseline("bicubic", tmp_path_factory.mktemp("models") / "bicubic-x4")


def edited(folder: ModelFolder, tmp_path: Path, change) -> Path:
    """A copy of the folder whose model.json went through `change`."""
    import shutil

    copy = shutil.copytree(folder.path, tmp_path / "copy")
    content = json.loads((copy / "model.json").read_text())
    change(content)
    (copy / "model.json").write_text(json.dumps(content))
    return copy


def test_round_trip_keras_saved_model_and_python(tmp_path):
    model = fuse(network(TINY), TINY)
    folder = save_model(model, tmp_path / "tiny", sidecar(), card="# tiny\n")
    lr = np.random.default_rng(0).uniform(0, 4000, (1, 30, 26, 4)).astype(np.float32)
    sr = folder.signature(lr=lr)["sr"].numpy()
    assert sr.shape == (1, 120, 104, 4)
    np.testing.assert_allclose(sr / 1e4, model(lr).numpy() / 1e4, atol=1e-7)
    import tensorflow as tf

    phases = folder.__dict__["loaded"].signatures["serving_default_phases"](lr=lr)["sr"]
    border = margin(TINY)
    assert phases.shape == (1, 30 - 2 * border, 26 - 2 * border, 64)
    np.testing.assert_allclose(tf.nn.depth_to_space(phases, 4).numpy(), sr[:, 4 * border : -4 * border, 4 * border : -4 * border], atol=1e-2)
    again = ModelFolder.open(tmp_path / "tiny")
    assert again.sidecar == folder.sidecar
    assert set(again.sidecar.sha256) == {"saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"}
    assert (tmp_path / "tiny" / "README.md").read_text() == "# tiny\n"
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"], "temporary folders are gone"


def test_a_plain_function_is_a_model_too(tmp_path):
    import tensorflow as tf

    folder = save_model(lambda lr: tf.repeat(tf.repeat(lr, 4, 1), 4, 2), tmp_path / "repeat", sidecar(margin=0))
    image = np.random.default_rng(0).integers(0, 9999, (5, 6, 4))
    np.testing.assert_array_equal(folder(image), image.repeat(4, 0).repeat(4, 1))


def test_calling_mirrors_the_border(bicubic):
    image = np.full((9, 7, 4), 1234, np.int16)
    result = bicubic(image)
    assert result.shape == (36, 28, 4)
    np.testing.assert_allclose(result, 1234, atol=1e-2)  # zero padding would show at the border


def test_the_sidecar_is_the_design_s(bicubic):
    content = json.loads((bicubic.path / "model.json").read_text())
    assert list(content) == ["format", "name", "method", "factor", "margin", "input", "output", "training", "metrics", "licence", "sha256"]
    assert content["input"] == {"signature": "serving_default", "name": "lr", "bands": list(BANDS), "spacing": 10.0, "scale": 0.0001, "offset": 0.0}
    assert content["output"] == {"name": "sr", "bands": list(BANDS), "scale": 0.0001, "offset": 0.0, "dtype": "int16", "nodata": -10000}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(factor=0), "factor: 0: input should be greater than or equal to 1"),
        (lambda c: c.pop("margin"), "margin: field required"),
        (lambda c: c.update(margin=-3), "margin: -3: input should be greater than or equal to 0"),
        (lambda c: c.update(margn=3), "margn: 3: extra inputs are not permitted"),
        (lambda c: c["input"].update(bands=[]), "input.bands: []: tuple should have at least 1 item after validation, not 0"),
        (
            lambda c: c["output"].update(dtype="complex64"),
            "output.dtype: \"complex64\": input should be 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'float32' or 'float64'",
        ),
        (lambda c: c["output"].update(dtype="uint8"), "value error, output.nodata -10000 does not fit output.dtype uint8"),
        (lambda c: c.update(format=2), "format: 2: input should be 1"),
        (lambda c: c["input"].update(bands=["B4", "B4", "B2", "B8"]), "value error, input.bands ['B4', 'B4', 'B2', 'B8'] must be names that differ"),
        (lambda c: c["output"].update(typo=1), "output.typo: 1: extra inputs are not permitted"),
        (lambda c: c["input"].pop("spacing"), "input.spacing: field required"),
        (lambda c: c["input"].update(spacing=0), "input.spacing: 0: input should be greater than 0"),
        (lambda c: c["output"].update(scale=-1), "output.scale: -1: input should be greater than 0"),
        (lambda c: c.update(method="magic"), "method: \"magic\": input should be 'fidelity', 'perceptual' or 'baseline'"),
    ],
)
def test_invalid_sidecar_names_key_value_and_expectation(bicubic, tmp_path, change, message, run_application):
    """Python and the application refuse the same sidecars."""
    copy = edited(bicubic, tmp_path, change)
    with pytest.raises(ModelError) as raised:
        ModelFolder.open(copy)
    assert str(copy / "model.json") in str(raised.value)
    assert message in str(raised.value)
    assert str(raised.value).endswith("; correct the sidecar or export the model again")
    assert "\n" not in str(raised.value)
    process = run_application("SuperResolution", "-in", "none.tif", "-model", copy, "-out", tmp_path / "out.tif")
    fatal = [line for line in process.stdout.splitlines() if "(FATAL)" in line]
    key = message.removeprefix("value error, ").replace(" ", ":").split(":")[0]
    assert process.returncode == 1 and len(fatal) == 1 and f"{copy}/model.json: {key} " in fatal[0]


def test_missing_pieces(bicubic, tmp_path, run_application):
    with pytest.raises(ModelError, match=r"nowhere: no such model folder; expected a directory with saved_model.pb and model.json"):
        ModelFolder.open(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no saved_model.pb in it; expected a model folder"):
        ModelFolder.open(tmp_path / "empty")
    copy = edited(bicubic, tmp_path, lambda c: None)
    (copy / "model.json").write_text("{")
    with pytest.raises(ModelError, match=r"model.json: content: invalid JSON"):
        ModelFolder.open(copy)
    (copy / "model.json").unlink()
    advice = r"`otbsr import-model .*/copy --out MODELFOLDER` makes a model folder of"
    with pytest.raises(ModelError, match=rf"model.json: sidecar cannot be read \(No such file or directory\); {advice} a SavedModel"):
        ModelFolder.open(copy)
    process = run_application("SuperResolution", "-in", "none.tif", "-model", copy, "-out", tmp_path / "out.tif")
    assert process.returncode == 1 and re.search(rf"\(FATAL\).*/copy: is a SavedModel without model.json; {advice} it", process.stdout)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (b'"factor": 4', b'"factor": 4, "factor": 8', "the key 'factor' twice"),
        (b'"lr"', b'"\xff"', "is not UTF-8"),
        (b'"name": "lr"', b'"name": "l\\nr"', "input.name"),
        (b'"factor": 4', b'"factor": 1e999', "factor"),
        (b'"scale": 0.0001', b'"scale": NaN', "input.scale"),
        (b'"scale": 0.0001', b'"scale": 1e999', "input.scale"),
        (b'"saved_model.pb"', b'"../saved_model.pb"', "'../saved_model.pb' lies outside the model folder"),
        (b'"saved_model.pb"', b'"/etc/passwd"', "'/etc/passwd' lies outside the model folder"),
        (b'"licence":', b'"training": ' + b"[" * 100_000 + b', "licence":', "invalid JSON"),
    ],
)
def test_a_sidecar_of_unknown_origin_is_a_sidecar_or_an_error(bicubic, tmp_path, before, after, message):
    """The C++ reader refuses the same (test/fuzz/sidecar.cxx)."""
    file = edited(bicubic, tmp_path, lambda c: None) / "model.json"
    content = file.read_bytes().replace(b'"training": {}, ', b"")
    assert before in content
    file.write_bytes(content.replace(before, after, 1))
    with pytest.raises(ModelError) as raised:
        ModelFolder.open(file.parent)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_damaged_graph_is_noticed(bicubic, tmp_path):
    copy = edited(bicubic, tmp_path, lambda c: None)
    with (copy / "saved_model.pb").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match=r"saved_model.pb: sha256 is .*; the copy is damaged, fetch the model again"):
        ModelFolder.open(copy)


def test_existing_folder_is_kept(bicubic):
    with pytest.raises(OutputError, match=r"exists already; choose another name or give --overwrite"):
        write_baseline("nearest", bicubic.path)
    assert ModelFolder.open(bicubic.path).sidecar.name == "bicubic-x4"


def test_wrong_band_count(bicubic):
    with pytest.raises(ModelError, match=r"image of shape \(5, 5, 3\), expected \[rows, columns, 4 bands: B4 B3 B2 B8\]"):
        bicubic(np.zeros((5, 5, 3)))


def test_runs_in_a_session_as_through_the_c_api(tmp_path):
    """TF_LoadSessionFromSavedModel is this loader: it knows no Keras and restores only what the graph's restore operation names."""
    import tensorflow as tf

    model = fuse(network(TINY), TINY)
    folder = save_model(model, tmp_path / "tiny", sidecar())
    lr = np.random.default_rng(0).uniform(0, 4000, (1, 12, 16, 4)).astype(np.float32)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signature = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(folder.path)).signature_def["serving_default"]
        assert list(signature.inputs) == ["lr"]
        assert list(signature.outputs) == ["sr"]
        sr = session.run(signature.outputs["sr"].name, {signature.inputs["lr"].name: lr})
    np.testing.assert_allclose(sr, model(lr).numpy(), rtol=1e-5, atol=0.01)
    weights = (folder.path / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert weights < 1.2 * 4 * model.count_params() + 4096, "every weight once"
