"""The study's protocol on small drawn areas: what it writes, that it is fair, that it goes on after a kill, and that it can say yes and no."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import yaml
from drawn_area import draw_area, parcels, town
from typer.testing import CliRunner

from otbsr.cli import app
from otbsr.errors import InputError, OutputError, ProcessingError, UsageError
from otbsr.evaluation import learners
from otbsr.evaluation.area import Area
from otbsr.evaluation.evaluate import evaluate
from otbsr.evaluation.study import StudySettings, make_maps, open_study, study
from otbsr.evaluation.work import seed_of
from otbsr.methods.model_folder import ModelFolder

MODELS = Path(__file__).parents[3] / "models"
ARMS = ("native", "f", "spot", "mine")
SETTINGS = StudySettings(
    seed=1,
    repeats=1,
    folds=2,
    block=100,
    buffer=10,
    samples=60,
    least=20,
    model=MODELS / "bicubic-x4",
    choice=ARMS,
    arms={"mine": {"stack": ["native", "spot"]}},
)
HARD = {1: (1500, 1450, 1200, 2400), 2: (1000, 1100, 800, 2700), 3: (1350, 1400, 1250, 2300)}
"""Spectra that a learner confuses at 10 m."""
pytestmark = pytest.mark.usefixtures("serving")


@dataclass(frozen=True)
class Done:
    """A finished study: its folder, maps.json's content."""

    folder: Path
    content: dict[str, Any]

    def read(self, path: str) -> np.ndarray:
        with rasterio.open(self.folder / path) as dataset:
            return dataset.read(1)

    def maps(self) -> dict[tuple[str, ...], np.ndarray]:
        return {(one["area"], one["arm"], one["learner"], one["repeat"]): self.read(one["map"]) for one in self.content["runs"]}


@pytest.fixture(scope="module")
def area(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_area(tmp_path_factory.mktemp("areas") / "town", town(160))


@pytest.fixture(scope="module")
def done(area: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("study") / "out"
    study([area], folder, SETTINGS)
    return Done(folder, json.loads((folder / "maps.json").read_text()))


def test_the_number_of_bands_is_known_before(area: Path, done: Done) -> None:
    planned: dict[str, int] = {}
    work = open_study([area], done.folder, SETTINGS)
    for arm in work.arms:
        planned[arm.name] = arm.recipe.bands(work.areas[0], planned)
    written = {}
    for name, path in done.content["images"]["town"].items():
        with rasterio.open(done.folder / path) as dataset:
            written[name] = dataset.count
    assert {name: planned[name] for name in written} == written == {"native": 4, "f": 4, "spot": 4, "mine": 8, "bicubic": 4, "bicubic-context": 31}


def test_every_judged_pixel_is_mapped_and_every_path_is_there(area: Path, done: Done) -> None:
    content, (site,) = done.content, done.content["areas"]
    assert content["format"] == 2 and content["baseline"] == "bicubic-context" and content["learners"] == ["rf"]
    assert [one["name"] for one in content["arms"]] == ["native", "f", "spot", "mine", "bicubic", "bicubic-context"]
    assert {one["name"]: (one["kind"], one["oracle"], one["model"]) for one in content["arms"]}["f"] == ("model", False, "bicubic-x4")
    assert [(one["code"], one["name"], one["role"]) for one in content["classes"]] == [(1, "building", "building"), (2, "crop", ""), (3, "road", "road")]
    reference, blocks = done.read(site["reference"]), done.read(site["blocks"])
    assert np.array_equal(reference, town(160)) and blocks.min() == 0 and blocks.max() == 15 == len(site["folds"]) - 1
    assert sorted(site["folds"]) == [0] * 8 + [1] * 8 and site["block_size"] == 100 and not site["simulated"]
    for run in content["runs"]:
        mapped, sure = done.read(run["map"]), done.read(run["confidence"])
        assert mapped.dtype == np.uint8 and ((mapped >= 1) & (mapped <= 3)).all() and sure.dtype == np.float32
        assert sure.min() > 0 and sure.max() <= 1
        with rasterio.open(done.folder / run["map"]) as one, rasterio.open(area / "landcover_2m5.tif") as two:
            assert one.transform == two.transform and one.crs == two.crs
    for arm, image in content["images"]["town"].items():
        with rasterio.open(done.folder / image) as dataset:
            assert dataset.shape == (160, 160) and dataset.count == {"bicubic-context": 31, "mine": 8}.get(arm, 4)
    assert all((done.folder / site[key]).is_file() for key in ("image", "input")) and site["disagreement"] == ""
    assert content["models"][0]["name"] == "bicubic-x4" and content["models"][0]["sha256"] and content["models"][0]["areas"] == {"town": "untrained"}
    assert content["warnings"][0].startswith("blocks of 100 m") and set(content["versions"]) >= {"otbsr", "otb", "python"}
    assert not list(done.folder.glob(".scratch*")) and (done.folder / "report.html").is_file()
    assert yaml.safe_load((done.folder / "study.yaml").read_text())["choice"] == list(ARMS)


def test_samples_are_equal_in_number_and_away_from_what_they_test(done: Done, area: Path) -> None:
    """Found by pixels, not by the geometry that the program uses."""
    grid, folds = Area.open(area).fine, np.array(done.content["areas"][0]["folds"])
    blocks, reference = done.read(done.content["areas"][0]["blocks"]), town(160)
    points = gpd.read_file(done.folder / "samples/town/points_0.gpkg")
    counts = points.groupby(["fold", "label"]).size().unstack()
    assert counts.shape == (2, 3) and (counts.nunique(axis=1) == 1).all() and counts.min().min() >= 20 and counts.max().max() <= 60
    assert done.content["counts"]["town"]["samples"] == {str(f): {str(c): int(n) for c, n in row.items()} for f, row in counts.iterrows()}
    for fold, rows in points.groupby("fold"):
        tested = np.pad(folds[blocks] == fold, 4)
        for point, label in zip(rows.geometry, rows.label, strict=True):
            column, row = (int(v) for v in grid.position(point.x, point.y))
            assert reference[row, column] == label and blocks[row, column] >= 0 and folds[blocks[row, column]] != fold
            near = tested[row + 1 : row + 8, column + 1 : column + 8]  # 3 pixels: 7.5 m to the centre of the outermost, within the buffer of 10 m
            assert not near.any()


def test_a_block_is_mapped_by_the_learner_that_did_not_see_its_fold(done: Done, area: Path, tmp_path: Path) -> None:
    """By OTB alone: the samples of one fold, its learner, its test blocks."""
    site = done.content["areas"][0]
    points = gpd.read_file(done.folder / "samples/town/points_0.gpkg")
    image, tested = done.folder / done.content["images"]["town"]["bicubic"], np.array(site["folds"])[done.read(site["blocks"])]
    for fold in (0, 1):
        learners.write_points(points[points.fold == fold], tmp_path / "points.gpkg")
        learners.write_points(learners.extract_samples(image, tmp_path / "points.gpkg", tmp_path / f"{fold}.sqlite"), tmp_path / "samples.gpkg")
        model = tmp_path / f"{fold}.model"
        learners.train([tmp_path / "samples.gpkg"], 4, model, learners.LEARNERS["rf"], seed_of(1, "learner", 0, fold))
        learners.classify(image, model, tmp_path / f"{fold}.tif")
        with rasterio.open(tmp_path / f"{fold}.tif") as dataset:
            alone = dataset.read(1)
        whole = done.maps()["town", "bicubic", "rf", 0]
        assert np.array_equal(alone[tested == fold], whole[tested == fold]) and not np.array_equal(alone, whole)


def test_the_same_seed_gives_the_same_numbers(done: Done, area: Path, tmp_path: Path) -> None:
    again = Done(tmp_path / "same", make_maps([area], tmp_path / "same", SETTINGS))
    assert all(np.array_equal(one, done.maps()[key]) for key, one in again.maps().items())
    assert {key: value for key, value in again.content.items() if key not in ("command", "areas")} == {
        key: value for key, value in done.content.items() if key not in ("command", "areas")
    }


@pytest.mark.slow
def test_intervals_of_another_seed_overlap(tmp_path: Path) -> None:
    """Other folds, other samples, other learners; repeats, so that the interval knows of samples and learners too."""
    area = draw_area(tmp_path / "town", town(192), HARD)
    found = []
    for seed in (1, 2):
        study([area], tmp_path / f"{seed}", SETTINGS.model_copy(update={"seed": seed, "choice": ("spot",), "arms": {}, "repeats": 4, "block": 120.0}))
        found.append(json.loads((tmp_path / f"{seed}" / "study.json").read_text())["results"]["rf"]["spot"]["difference"])
    for base in ("bicubic", "bicubic-context"):
        one, two = (difference[base]["macro_f1"] for difference in found)
        assert one["value"] != two["value"] and one["low"] <= two["high"] and two["low"] <= one["high"], (one, two)


def units(folder: Path) -> dict[str, int]:
    """When each finished image and map was written."""
    keys = [*folder.glob("arms/*/*/arm.json"), *folder.glob("maps/*/*/rf_*.json")]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in keys}


def test_a_killed_study_goes_on_where_it_was(done: Done, area: Path, tmp_path: Path) -> None:
    out, settings = tmp_path / "out", tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(json.loads(SETTINGS.model_dump_json())))
    command = [sys.executable, "-m", "otbsr", "study", str(area), "--settings", str(settings), "--out", str(out), "--jobs", "1", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(list(out.glob("maps/*/*/rf_0.json"))) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    kept = units(out)
    assert not (out / "maps.json").exists() and 2 <= sum(key.startswith("maps") for key in kept) < 6
    again = Done(out, make_maps([area], out, SETTINGS))
    after = units(out)
    assert {key: after[key] for key in kept} == kept and len(after) > len(kept)
    assert all(np.array_equal(one, done.maps()[key]) for key, one in again.maps().items()) and not list(out.glob(".scratch*"))


def test_only_what_changed_is_made_again(done: Done, area: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    shutil.copytree(done.folder, out, symlinks=True)
    (out / "arms/town/spot/image_2m5.tif").unlink()
    (out / "arms/town/spot/image_2m5.tif").symlink_to(area / "spot_2m5.tif")
    trained: list[str] = []
    real = learners.train

    def counted(samples: list[Path], *more: Any, **options: Any) -> str:
        trained.append(samples[0].parent.name)
        return real(samples, *more, **options)

    monkeypatch.setattr(learners, "train", counted)
    make_maps([area], out, SETTINGS)
    assert trained == []
    # A finished map whose file is gone, and one more arm: these two, both folds.
    (out / "maps/town/native/rf_0.tif").unlink()
    more = SETTINGS.model_copy(update={"choice": ("native", "f", "spot", "near"), "arms": {"near": {"context": "f", "radii": [2]}}})
    content = make_maps([area], out, more)
    assert sorted(trained) == ["0-native-rf-0"] * 2 + ["0-near-rf-0"] * 2
    assert [one["name"] for one in content["arms"]] == ["native", "f", "spot", "near", "bicubic", "bicubic-context"]
    trained.clear()
    make_maps([area], out, more.model_copy(update={"choice": ("bicubic",), "arms": {}, "repeats": 2}))
    assert sorted(set(trained)) == ["0-bicubic-context-rf-1", "0-bicubic-rf-1"]


def test_a_map_that_otb_counts_otherwise_is_an_error(done: Done, area: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learners, "count_confusion", lambda mapped, reference, classes: np.zeros((classes, classes), np.int64))
    with pytest.raises(ProcessingError, match="another confusion matrix than otbsr"):
        make_maps([area], tmp_path / "out", SETTINGS.model_copy(update={"choice": ("bicubic",), "arms": {}}))
    assert not (tmp_path / "out/maps.json").exists() and not list((tmp_path / "out").glob("maps/*/*/*.tif"))


def test_pooled_areas_share_learners_and_folds(tmp_path: Path) -> None:
    """Two areas of one block each: each is judged by what was learnt in the other."""
    areas = [draw_area(tmp_path / name, town(96, seed), left=left) for name, seed, left in (("one", 1, 600000.0), ("two", 2, 700000.0))]
    settings = SETTINGS.model_copy(update={"pool": True, "block": 240.0, "choice": ("bicubic",), "arms": {}, "artificial": True, "learners": ("boost",)})
    content = make_maps(areas, tmp_path / "out", settings)
    done = Done(tmp_path / "out", content)
    assert sorted(one["folds"] for one in content["areas"]) == [[0], [1]] and [one["name"] for one in content["classes"]] == ["artificial", "other"]
    for one in content["areas"]:
        points = gpd.read_file(done.folder / "samples" / one["name"] / "points_0.gpkg")
        assert set(points.fold) == {0, 1} - set(one["folds"]) and points.label.value_counts().nunique() == 1
    assert {run["confidence"] for run in content["runs"]} == {""}  # OTB's boost gives none
    accuracy = [
        (one == np.where(town(96, seed) == 2, 2, 1)).mean() for seed, name in ((1, "one"), (2, "two")) for one in [done.maps()[name, "bicubic", "boost", 0]]
    ]
    assert min(accuracy) > 0.7
    with pytest.raises(UsageError, match="1 blocks and 1 folds"):
        make_maps(areas, tmp_path / "alone", settings.model_copy(update={"pool": False}))


def test_a_study_where_the_network_was_trained_is_refused_before_anything_is_written(area: Path, tmp_path: Path) -> None:
    shutil.copytree(MODELS / "bicubic-x4", tmp_path / "model")
    sidecar = json.loads((tmp_path / "model/model.json").read_text())
    left, bottom, _, _ = Area.open(area).fine.bounds
    planted = {"crs": "EPSG:32631", "bounds": [left + 310, bottom + 10, left + 320, bottom + 20]}
    (tmp_path / "model/model.json").write_text(json.dumps({**sidecar, "method": "fidelity", "training": {"footprints": [planted]}}))
    other = draw_area(tmp_path / "other", town(160), world={"settings": {"date_gap": 9}})
    for place, choice in ((area, ("f",)), (area, ("unsharp",)), (area, ("shuffled",)), (other, ("wrong-date",))):  # also where F only lends something
        with pytest.raises(UsageError, match=r"block 15 .* lies in the training area of bicubic-x4"):
            make_maps([place], tmp_path / "out", SETTINGS.model_copy(update={"model": tmp_path / "model", "choice": choice}))
    with pytest.raises(UsageError, match="take a larger area"):
        make_maps([area], tmp_path / "out", SETTINGS.model_copy(update={"block": 5000.0}))
    assert not (tmp_path / "out").exists()


def test_settings_come_from_yaml_and_flags_win(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("folds: 3\nlearners: [rf, knn]\narms:\n  mine: {context: f, radii: [2, 4, 8]}\n")
    settings = StudySettings.read(path, folds=4, seed=None)
    assert (settings.folds, settings.seed, settings.learners) == (4, 1, ("rf", "knn")) and settings.arms["mine"]["radii"] == [2, 4, 8]
    for text, message in (("fold: 3", "fold is 3"), ("folds: 1", "folds is 1"), ("learners: [tree]", "tree is none of rf, libsvm")):
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            StudySettings.read(path)
    path.write_text("- 3")
    with pytest.raises(InputError, match="holds no mapping"):
        StudySettings.read(path)
    with pytest.raises(InputError, match="cannot be read as YAML"):
        StudySettings.read(tmp_path / "none.yaml")


def test_a_folder_of_something_else_is_left_alone(area: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty and not a study's folder"):
        CliRunner().invoke(app, ["study", str(area), "--out", str(tmp_path / "out"), "--quiet"], catch_exceptions=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


# --- yes and no -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def judged(tmp_path: Path) -> Iterator[Any]:
    def judge(area: Path, **changes: Any) -> dict[str, Any]:
        settings = StudySettings(model=MODELS / "f-light-x4", repeats=1, folds=2, buffer=20, samples=150, **changes)
        make_maps([area], tmp_path / "out", settings)
        content = evaluate(tmp_path / "out")
        return {arm: row["difference"] for arm, row in content["results"]["rf"].items()}

    return judge


def test_no_gain_is_reported_where_there_is_none(tmp_path: Path, judged: Any) -> None:
    """Parcels of 240 m without roads, judged away from their boundaries: what a sharper image shows is not asked."""
    assert ModelFolder.open(MODELS / "f-light-x4").sidecar.method == "fidelity"
    spectra = {1: (1000, 1100, 800, 2500), 2: (1080, 1040, 860, 2600), 3: (1040, 1160, 740, 2640)}
    area = draw_area(tmp_path / "open", parcels(384), spectra, spread=80, parcel=8, noise=20, headland=4)
    difference = judged(area, block=240, choice=("f",))["f"]
    for base in ("bicubic", "bicubic-context"):
        change = difference[base]["macro_f1"]
        assert change["low"] <= 0 and change["value"] < 0.02, change


def test_the_oracle_shows_its_gain_where_there_must_be_one(tmp_path: Path, judged: Any) -> None:
    """Roads of 10 m, buildings of 10 m, an oracle without noise: better than bicubic with all its context, Holm included."""
    area = draw_area(tmp_path / "town", town(256), HARD)
    difference = judged(area, block=160, choice=("spot",))["spot"]
    for base in ("bicubic", "bicubic-context"):
        for measure in ("macro_f1", "artificial_f1"):
            change = difference[base][measure]
            assert change["low"] > 0 and change["holm"] < 0.05, (base, measure, change)
