"""The study on a small simulated area: same samples, disjoint areas, OTB's and our counts agree, an honest sentence, a whole page."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio

from otbsr.errors import InputError, ModelError, UsageError
from otbsr.evaluation import study as study_module
from otbsr.evaluation.quality import consistency, psnr
from otbsr.evaluation.report import faults, split_limit, write_report
from otbsr.evaluation.statistics import macro_f1
from otbsr.evaluation.study import Protocol, World, answer, refuse_leak, split, study
from otbsr.grid import Grid
from otbsr.methods.model_folder import ModelFolder
from otbsr.world.simulate import WorldSettings, simulate

MODELS = Path(__file__).parents[3] / "models"
PROTOCOL = Protocol(repeats=2, block=200, buffer=0, samples=200, replicates=200)


serves = pytest.mark.usefixtures("serving")


@pytest.fixture(scope="module")
def area(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "world"
    simulate(folder, WorldSettings(seed=11, extent=960))
    return folder


@pytest.fixture(scope="module")
def done(area: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    study(area, MODELS / "bicubic-x4", folder, PROTOCOL)
    write_report(folder)
    return folder


@serves
def test_areas_are_disjoint_and_every_arm_is_judged_on_the_same_pixels(area: Path, done: Path) -> None:
    blocks = gpd.read_file(done / "areas.gpkg")
    for fold in range(2):
        train, test_area = gpd.read_file(done / f"train_{fold}.gpkg"), blocks[blocks.fold == fold].union_all()
        assert train.intersection(test_area).area.sum() == 0 and len(train) > 0 and test_area.area > 0
    assert blocks.union_all().area == pytest.approx(960 * 960) and blocks.area.sum() == pytest.approx(960 * 960)
    with rasterio.open(done / "test_2m5.tif") as dataset, rasterio.open(area / "landcover_2m5.tif") as exact:
        truth = dataset.read(1)
        used = truth > 0
        assert used.all() and np.array_equal(truth, exact.read(1)) and dataset.transform == exact.transform
    halves = [rasterio.open(done / f"test_{fold}_2m5.tif").read(1) for fold in range(2)]
    assert np.array_equal(halves[0] + halves[1], truth) and not (halves[0] * halves[1]).any()
    content = json.loads((done / "study.json").read_text())
    for arm in content["arms"].values():
        matrix = np.array(arm["confusion"])
        assert matrix.sum(axis=(1, 2)).tolist() == [used.sum()] * 2
        assert matrix.sum(axis=2).tolist() == [content["counts"]["test_pixels"]] * 2


@serves
def test_each_block_is_mapped_by_the_fold_that_did_not_train_on_it(area: Path, done: Path, tmp_path: Path) -> None:
    """One fold alone gives the training polygons, the map and the counts that it gives in the study of both."""
    study(area, MODELS / "bicubic-x4", tmp_path, replace(PROTOCOL, folds=1, repeats=1))
    page = write_report(tmp_path).read_text()
    assert "Grey: training blocks" in page and "Grey: training blocks" not in (done / "report.html").read_text()
    folds, blocks = split(World.open(area).fine, PROTOCOL)
    first = folds.ravel() == 0
    with rasterio.open(tmp_path / "arms/spot/map_0.tif") as one, rasterio.open(done / "arms/spot/map_0.tif") as two:
        alone, together = one.read(1), two.read(1)
    assert np.array_equal(alone, np.where(first[blocks], together, 0)) and together.all()
    single, double = (json.loads((folder / "study.json").read_text()) for folder in (tmp_path, done))
    assert single["counts"]["polygons"] == double["counts"]["polygons"][:1] and len(double["counts"]["polygons"]) == 2
    assert single["counts"]["blocks"] == {"all": 25, "test": 13, "test_by_fold": [13]}
    assert double["counts"]["blocks"] == {"all": 25, "test": 25, "test_by_fold": [13, 12]}
    by_block = np.array(json.loads((done / "arms/spot/arm.json").read_text())["by_block"])
    assert by_block[0, first].sum(0).tolist() == single["arms"]["spot"]["confusion"][0]
    assert double["arms"]["spot"]["macro_f1_by_fold"][0] == pytest.approx(macro_f1(by_block[:, first].sum((0, 1), dtype=float)))


@serves
def test_bicubic_model_agrees_with_the_bicubic_arm(done: Path) -> None:
    """Two independent bicubic interpolations (TensorFlow in our application, GDAL's warper) inside the image, half pixels included."""
    with rasterio.open(done / "arms/f/image_2m5.tif") as ours, rasterio.open(done / "arms/bicubic/image_2m5.tif") as gdal:
        assert ours.transform == gdal.transform
        inner = (slice(None), slice(16, -16), slice(16, -16))
        assert np.abs(ours.read()[inner].astype(int) - gdal.read()[inner]).max() <= 1
    content = json.loads((done / "study.json").read_text())
    assert abs(content["arms"]["f"]["quality"]["psnr_mean"] - content["arms"]["bicubic"]["quality"]["psnr_mean"]) < 0.01
    assert not content["answer"].startswith("Super-resolution helped")  # the same image cannot help


@serves
def test_oracle_beats_native_and_all_is_said(done: Path) -> None:
    content = json.loads((done / "study.json").read_text())
    arms = content["arms"]
    assert arms["spot"]["macro_f1"] > arms["native"]["macro_f1"] and arms["spot"]["quality"]["psnr_mean"] > arms["native"]["quality"]["psnr_mean"] + 3
    assert arms["bicubic"]["difference"]["macro_f1"] == {"value": 0, "low": 0, "high": 0}
    assert re.fullmatch(r"\d+\.\d+\.\d+", content["versions"]["otb"])
    assert {"otbsr", "python"} <= set(content["versions"]) and content["model"]["sha256"]


@serves
def test_finished_arms_are_kept_and_a_changed_protocol_redoes_them(area: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = done.with_name("copy")  # beside it: links to the area are relative
    shutil.copytree(done, copy, symlinks=True)
    shutil.rmtree(copy / "arms" / "native")
    redone: list[str] = []
    real = study_module.run_arm

    def counted(*args: object, **kwargs: object) -> object:
        redone.append(str(args[2]))
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(study_module, "run_arm", counted)
    again = study(area, MODELS / "bicubic-x4", copy, PROTOCOL)
    assert redone == ["native"]
    before = json.loads((done / "study.json").read_text())
    assert again.content["arms"] == before["arms"]  # same seeds, same numbers
    study(area, MODELS / "bicubic-x4", copy, replace(PROTOCOL, repeats=1))
    assert redone[1:] and set(redone[1:]) == {"native", "bicubic", "f", "spot"}


@serves
def test_report_is_one_offline_file_and_can_be_made_again(done: Path) -> None:
    page = (done / "report.html").read_text()
    assert json.loads((done / "study.json").read_text())["answer"] in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page) and "http" not in page and "<script" not in page
    assert page.count("data:image/png;base64,") >= 16 and "Limits and failure modes" in page
    (done / "report.html").unlink()
    assert write_report(done).read_text() == page


def test_answer_says_no_difference_when_the_interval_holds_zero() -> None:
    assert answer({"value": 0.01, "low": -0.01, "high": 0.03}, 0.6, 0.59).startswith("No difference shown")
    assert "+2.0 points" in answer({"value": 0.02, "low": 0.01, "high": 0.03}, 0.6, 0.58)
    assert answer({"value": -0.02, "low": -0.03, "high": -0.01}, 0.6, 0.62).startswith("Super-resolution harmed")


def test_limits_say_what_each_fold_found_and_what_the_oracle_lacks() -> None:
    content = {"baseline": "bicubic", "protocol": {"folds": 2}, "arms": {"f": {"macro_f1_by_fold": [0.6, 0.52]}, "bicubic": {"macro_f1_by_fold": [0.55, 0.53]}}}
    assert "+5.0 and −1.0 points" in split_limit(content)
    assert "One half of the area" in split_limit({**content, "protocol": {"folds": 1}})
    assert faults({"shift": [2.5, 0], "gain": 1.1, "bias": 0, "date_gap": 5}) == (
        " and a shift of 2.5 m east and 0 m north, a gain of 1.1, 5 days between the dates"
    )
    assert "unlike real pairs" in faults({"shift": [0.0, 0.0], "gain": 1.0})


def test_split_is_a_chequerboard_of_whole_blocks() -> None:
    roles, blocks = split(Grid(0, 0, 2.5, 2.5, 400, 600), Protocol())
    assert roles.tolist() == [[0, 1], [1, 0], [0, 1]] and set(np.unique(blocks)) == set(range(6))
    assert split(Grid(0, 0, 2.5, 2.5, 400, 600), Protocol(folds=1))[0].tolist() == [[0, -1], [-1, 0], [0, -1]]
    assert split(Grid(0, 0, 2.5, 2.5, 400, 600), Protocol(seed=2))[0].tolist() == [[1, 0], [0, 1], [1, 0]]
    assert blocks[0, 0] == 0 and blocks[0, -1] == 1 and blocks[-1, -1] == 5 and blocks[200, 0] == 2
    with pytest.raises(UsageError, match="smaller --block"):
        split(Grid(0, 0, 2.5, 2.5, 200, 200), Protocol())
    with pytest.raises(UsageError, match="choose 1 or 2"):
        Protocol(folds=3)


def trained(training: dict[str, object]) -> ModelFolder:
    folder = ModelFolder.open(MODELS / "bicubic-x4")
    return ModelFolder(folder.path, folder.sidecar.model_copy(update={"method": "fidelity", "name": "mine", "training": training}))


def test_an_area_that_the_network_saw_is_refused(area: Path) -> None:
    world = World.open(area)
    assert refuse_leak(world, ModelFolder.open(MODELS / "bicubic-x4")) == "untrained"
    for key in ("world_seeds", "seeds"):
        with pytest.raises(UsageError, match=r"seed 11 .* mine was trained on; simulate an area with another seed"):
            refuse_leak(world, trained({key: [10, 11]}))
        assert refuse_leak(world, trained({key: [10, 12]})) == "unseen"
        assert refuse_leak(world, trained({key: []})) == "unknown"
        with pytest.raises(ModelError, match="expected integers"):
            refuse_leak(world, trained({key: ["eleven"]}))
    assert refuse_leak(world, trained({"seed": 11})) == "unknown"  # the seed of the weights, not of a landscape


def test_the_shipped_network_is_refused_on_its_own_landscapes(area: Path) -> None:
    """Reads the committed sidecar: what training writes is what the study looks for."""
    world, folder = World.open(area), ModelFolder.open(MODELS / "f-light-x4")
    assert refuse_leak(world, folder) == "unseen"
    training = folder.sidecar.training
    seed = min(training.get("world_seeds") or training["seeds"])
    with pytest.raises(UsageError, match=f"seed {seed} "):
        refuse_leak(replace(world, settings={**world.settings, "seed": seed}), folder)


@serves
def test_a_study_on_a_landscape_of_the_network_is_refused_before_anything_is_written(area: Path, tmp_path: Path) -> None:
    shutil.copytree(MODELS / "bicubic-x4", tmp_path / "model")
    sidecar = json.loads((tmp_path / "model/model.json").read_text())
    (tmp_path / "model/model.json").write_text(json.dumps({**sidecar, "method": "fidelity", "training": {"seeds": [11]}}))
    with pytest.raises(UsageError, match="seed 11"):
        study(area, tmp_path / "model", tmp_path / "study", PROTOCOL)
    assert not (tmp_path / "study").exists()


@serves
def test_page_claims_no_more_of_the_network_than_its_sidecar_says(done: Path) -> None:
    copy = done.with_name("claims")
    shutil.copytree(done, copy, symlinks=True)
    content = json.loads((copy / "study.json").read_text())
    said = {"untrained": "not trained at all", "unseen": "trained on other landscapes", "unknown": "is not known"}
    for case, words in said.items():
        content["model"]["area"] = case
        (copy / "study.json").write_text(json.dumps(content))
        page = write_report(copy).read_text()
        assert [other in page for other in said.values()] == [other == words for other in said.values()]


def test_a_folder_that_is_no_world(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="otbsr simulate"):
        World.open(tmp_path)
    with pytest.raises(InputError, match="otbsr study"):
        write_report(tmp_path)


def test_quality_by_hand() -> None:
    flat = np.full((64, 64, 4), 0.3, np.float32)
    assert psnr(flat, flat + np.float32(0.01)) == pytest.approx([40.0] * 4, abs=1e-3)
    spoiled = flat.copy()
    spoiled[:16] = 9  # the border is left out
    assert psnr(flat, spoiled) == [200.0] * 4
    assert consistency(flat, np.full((16, 16, 4), 0.3)) == pytest.approx([0] * 4, abs=1e-6)
    assert consistency(flat, np.full((16, 16, 4), 0.28)) == pytest.approx([0.02] * 4, abs=1e-6)
