"""From maps to the answer: planted gains and nulls, resume, and products whose numbers and georeferencing can be computed by hand."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from study_folder import WRONG, content_of, write, write_study

from otbsr.errors import GridError, InputError, OutputError
from otbsr.evaluation import accuracy, study_maps
from otbsr.evaluation.answer import answer, points
from otbsr.evaluation.evaluate import evaluate
from otbsr.evaluation.places import CHANGE_NODATA, box_sums
from otbsr.evaluation.study_maps import Maps


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("study"))
    evaluate(folder)
    return folder


def test_a_planted_gain_is_found_and_its_size_is_right(done: Path) -> None:
    """Arms are wrong in a known share of squares: accuracy differs by that share, and the oracle by more."""
    content = content_of(done)
    rows = content["results"]["rf"]
    for arm, share in WRONG.items():
        assert rows[arm]["values"]["accuracy"]["value"] == pytest.approx(1 - share, abs=0.025)
    gain = rows["f"]["difference"]["bicubic-context"]["accuracy"]
    assert gain["shown"] and gain["value"] == pytest.approx(0.06, abs=0.03) and gain["low"] < gain["value"] < gain["high"]
    assert gain["p"] <= gain["holm"] < 0.05 and gain["wilcoxon"] < 0.05 and gain["median"] == pytest.approx(gain["value"], abs=0.03)
    assert not rows["unsharp"]["difference"]["bicubic-context"]["accuracy"]["shown"]
    assert rows["spot"]["difference"]["bicubic-context"]["accuracy"]["value"] > gain["value"]
    assert set(rows["f"]["difference"]) == {"bicubic-context", "bicubic"} and set(rows["bicubic-context"]["difference"]) == {"bicubic"}
    assert content["answer"]["verdict"] == "better" and "helped the land-cover map" in content["answer"]["sentences"][0]
    assert content["clusters"] == {"unit": "block", "number": 25, "blocks": 25, "areas": 1, "replicates": 500, "repeats": {"rf": 2}}


def test_sums_are_those_of_the_maps(done: Path) -> None:
    content = content_of(done)
    with rasterio.open(done / "areas/area0/reference_2m5.tif") as dataset:
        truth = dataset.read(1)
    matrix = np.zeros((4, 4))
    right = 0.0
    for repeat in range(2):
        with rasterio.open(done / f"maps/area0/f/rf_{repeat}.tif") as dataset:
            found = dataset.read(1)
        np.add.at(matrix, (truth[truth > 0] - 1, found[truth > 0] - 1), 1)
        right += float((found == truth)[truth > 0].mean()) / 2
    row = content["results"]["rf"]["f"]
    assert row["confusion"] == matrix.tolist()
    assert row["values"]["accuracy"]["value"] == pytest.approx(right)
    assert row["class"]["recall"][0]["value"] == pytest.approx(matrix[0, 0] / matrix[0].sum())
    assert sum(content["areas"][0]["class_hectares"]) == pytest.approx((truth > 0).sum() * 6.25 / 1e4)


def test_tables_hold_what_study_json_holds(done: Path) -> None:
    content = content_of(done)
    rows = list(csv.DictReader((done / "differences.csv").open()))
    chosen = [row for row in rows if (row["learner"], row["arm"], row["against"], row["measure"], row["class"]) == ("rf", "f", "bicubic", "macro_f1", "")]
    assert len(chosen) == 1 and float(chosen[0]["value"]) == content["results"]["rf"]["f"]["difference"]["bicubic"]["macro_f1"]["value"]
    values = list(csv.DictReader((done / "measures.csv").open()))
    road = next(row for row in values if (row["arm"], row["measure"], row["class"]) == ("spot", "iou", "road"))
    assert float(road["low"]) == content["results"]["rf"]["spot"]["class"]["iou"][1]["low"]
    assert len({(row["arm"], row["measure"], row["class"]) for row in values}) == len(values)
    assert json.dumps(content).count("NaN") == 0


def test_changes_are_on_the_areas_grid_and_say_who_is_right(done: Path) -> None:
    with rasterio.open(done / "areas/area0/reference_2m5.tif") as dataset:
        truth, transform, crs = dataset.read(1), dataset.transform, dataset.crs
    right = {arm: [rasterio.open(done / f"maps/area0/{arm}/rf_{repeat}.tif").read(1) == truth for repeat in range(2)] for arm in ("f", "bicubic-context")}
    with rasterio.open(done / "changes/area0.tif") as dataset:
        change = dataset.read(1)
        assert dataset.transform == transform and dataset.crs == crs and dataset.nodata == CHANGE_NODATA
    expected = 50 * (np.sum(right["f"], axis=0) - np.sum(right["bicubic-context"], axis=0))
    assert np.array_equal(change, np.where(truth > 0, expected, CHANGE_NODATA)) and set(np.unique(change)) >= {-50, 0, 50}


def test_examples_are_the_best_and_worst_squares_of_each_class(done: Path) -> None:
    content = content_of(done)
    truth, lead, base = (
        rasterio.open(done / path).read(1) for path in ("areas/area0/reference_2m5.tif", "maps/area0/f/rf_0.tif", "maps/area0/bicubic-context/rf_0.tif")
    )
    assert {(one["class"], one["kind"]) for one in content["examples"]} >= {(code, "helps") for code in range(1, 5)}
    for one in content["examples"]:
        left, top, width, height = one["window"]
        cut = (slice(top, top + height), slice(left, left + width))
        inside, judged = truth[cut] == one["class"], truth[cut] > 0
        gain = (((base[cut] == one["class"]) != inside) & judged).sum() - (((lead[cut] == one["class"]) != inside) & judged).sum()
        assert gain == (one["pixels"] if one["kind"] == "helps" else -one["pixels"])
    assert content["scenes"][0]["window"] == [0, 0, 200, 200]


def test_box_sums_by_hand() -> None:
    table = np.arange(36).reshape(6, 6)
    assert box_sums(table, 4)[0, 0] == table[:4, :4].sum() and box_sums(table, 4)[1, 1] == table[2:, 2:].sum() and box_sums(table, 4).shape == (2, 2)


def test_a_second_call_counts_nothing_and_gives_the_same(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (copy / "study.json").read_bytes()
    (copy / "study.json").unlink()
    calls: list[int] = []
    real = accuracy.count
    monkeypatch.setattr(accuracy, "count", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs))
    evaluate(copy)
    assert not calls and (copy / "study.json").read_bytes() == before
    # a broken file and a changed map are counted again, and nothing else: the baseline's map is part of every arm's count
    sums = copy / "maps/area0/spot/rf_0_statistics.npz"
    sums.write_bytes(sums.read_bytes()[:100])
    shutil.copy(copy / "maps/area0/native/rf_1.tif", copy / "maps/area0/f/rf_1.tif")
    evaluate(copy)
    assert len(calls) == 2 and (copy / "study.json").read_bytes() != before


def test_a_planted_null_is_not_found(tmp_path: Path) -> None:
    """Every arm is wrong equally often: no difference shown, and the page's first words say so."""
    content = evaluate(write_study(tmp_path, wrong=dict.fromkeys(("bicubic", "bicubic-context", "f", "unsharp"), 0.25)))
    assert content["answer"]["verdict"] == "none" and content["answer"]["sentences"][0].startswith("No difference shown")
    assert content["controls"]["rf"]["information"] is False


def test_sharpening_that_gains_as_much_is_said(tmp_path: Path) -> None:
    content = evaluate(write_study(tmp_path, wrong={"bicubic-context": 0.3, "f": 0.2, "unsharp": 0.195, "shuffled": 0.3}))
    assert content["answer"]["verdict"] == "better"
    assert content["answer"]["cautions"] == ["Unsharp gained as much as Method F: no information was shown to be added."]
    arms = content["controls"]["rf"]["arms"]
    assert not arms["unsharp"]["beaten"] and arms["shuffled"]["beaten"]


def test_several_areas_and_learners(tmp_path: Path) -> None:
    """Eight areas are drawn whole; an arm that lacks an area is compared in the others, and that is said; two learners, one without confidence."""
    folder = write_study(tmp_path, areas=8, side=100, wrong={"bicubic-context": 0.3, "f": 0.2, "spot": 0.1}, learners=("rf", "libsvm"), repeats=1)
    maps = json.loads((folder / "maps.json").read_text())
    maps["runs"] = [one for one in maps["runs"] if (one["area"], one["arm"]) != ("area3", "spot")]
    (folder / "maps.json").write_text(json.dumps(maps))
    content = evaluate(folder)
    assert (content["clusters"]["unit"], content["clusters"]["number"]) == ("area", 8)
    assert content["results"]["rf"]["spot"]["difference"]["bicubic-context"]["macro_f1"]["clusters"] == 7 * 9  # seven areas: blocks are drawn
    assert [line for line in content["warnings"] if "spot has no map by rf of 1 of 8 areas" in line]
    assert len(content["by_area"]) == 8 and all(one["measures"]["macro_f1"]["low"] is not None for one in content["by_area"])
    assert "calibration_error" in content["results"]["rf"]["f"]["values"] and "calibration_error" not in content["results"]["libsvm"]["f"]["values"]
    assert set(content["risk"]["libsvm"]["curves"]) == {"disagreement"} and len(content["scenes"]) == 3
    assert len({one["area"] for one in content["scenes"]}) == 3


def test_disagreement_that_knows_the_errors_is_found_to(done: Path) -> None:
    """Planted: high where one of the repeats is wrong. The confidence knows each map's errors."""
    curves = content_of(done)["risk"]["rf"]["curves"]
    assert curves["disagreement"]["gain"]["low"] > 0.01 and curves["confidence"]["gain"]["low"] > 0.05
    assert curves["confidence"]["coverage"][-1] == pytest.approx(1)


def test_windows_do_not_change_the_sums(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of the test are shorter than the halo, but for the roads, whose width is local."""
    before = content_of(copy)["results"]
    for path in copy.glob("maps/*/*/*_statistics.npz"):
        path.unlink()
    monkeypatch.setattr(study_maps, "WINDOW", 72)
    study = Maps.open(copy)
    study.thinning = content_of(copy)["thinning"]  # it is estimated from windows of another size
    study.count_area(study.areas[0])
    for arm in ("f", "bicubic-context"):
        sums = study.table(arm, "rf")
        assert sums is not None
        row = before["rf"][arm]["values"]
        for key, measure in accuracy.measures(study.legend, 6.25e-4).items():
            if all(name in sums[0] for name in measure.reads):
                value = float(measure.of({name: table.sum((0, 1)) for name, table in sums[0].items()}))
                loose = 0.02 if key.startswith(("false", "invented")) else 1e-9  # mapped "buildings" of spoiled squares may touch over long ways
                assert np.isnan(value) if row[key]["value"] is None else value == pytest.approx(row[key]["value"], rel=loose), key


def test_answer_says_what_the_numbers_say() -> None:
    def content(low: float, high: float, holm: float = 0.01, beaten: bool = True) -> dict:
        one = {"value": (low + high) / 2, "low": low, "high": high, "holm": holm}
        value = {"values": {"macro_f1": {"value": 0.6}}}
        return {
            "learners": ["rf"], "lead": "f", "baseline": "b",
            "arms": [{"name": "f", "title": "F"}, {"name": "b", "title": "Bicubic"}, {"name": "unsharp", "title": "Unsharp"}],
            "results": {"rf": {"f": value | {"difference": {"b": {"macro_f1": one}}}, "b": value}},
            "controls": {"rf": {"arms": {"unsharp": {"beaten": beaten}}}},
        }  # fmt: skip

    assert answer(content(0.01, 0.03))["sentences"] == [
        "F helped the land-cover map: +2.0 points of macro-F1 over Bicubic (60.0 against 60.0 %; 95 % interval [+1.0, +3.0])."
    ]
    assert answer(content(0.01, 0.03))["cautions"] == []
    assert answer(content(-0.01, 0.03))["sentences"][0].startswith("No difference shown for the land-cover map: F changes it by +1.0 points")
    assert answer(content(-0.03, -0.01))["sentences"][0].startswith("F harmed") and answer(content(-0.03, -0.01))["verdict"] == "worse"
    assert "Holm" in answer(content(0.01, 0.03, holm=0.2))["cautions"][0]
    assert "no information was shown to be added" in answer(content(0.01, 0.03, beaten=False))["cautions"][0]
    assert answer(content(-0.03, -0.01, beaten=False))["cautions"] == []
    assert points(None) == "–" and points(-0.0123) == "−1.2"


# --- what is refused ---


def test_a_folder_without_maps(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run `otbsr study` first"):
        evaluate(tmp_path)
    (tmp_path / "maps.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="format 1, expected 2"):
        evaluate(tmp_path)
    (tmp_path / "maps.json").write_text("[]")
    with pytest.raises(InputError, match="format list, expected 2"):
        evaluate(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps: maps.update(runs=[one for one in maps["runs"] if one["arm"] != "bicubic-context"]), "no map of the baseline bicubic-context"),
        (lambda maps: maps.update(runs=[one for one in maps["runs"] if one["arm"] == "bicubic-context"]), "only the baseline"),
        (lambda maps: maps.update(runs=[]), "without runs"),
        (lambda maps: maps["classes"][0].update(code=7), "codes .2, 3, 4, 7.; expected 1 to 4"),
        (lambda maps: maps["areas"][0].pop("blocks"), "'blocks'"),
        (lambda maps: maps["areas"][0].update(blocks="no.tif"), "no.tif"),
    ],
)
def test_broken_maps_json(copy: Path, change, message: str) -> None:
    maps = json.loads((copy / "maps.json").read_text())
    change(maps)
    (copy / "maps.json").write_text(json.dumps(maps))
    with pytest.raises(InputError, match=message):
        evaluate(copy)


def test_a_map_that_is_not_what_it_should_be(copy: Path) -> None:
    path = copy / "maps/area0/f/rf_0.tif"
    pixels = rasterio.open(path).read(1)
    write(path, np.where(pixels == 2, 0, pixels).astype(np.uint8), (500000.0, 4800000.0))
    with pytest.raises(InputError, match=r"rf_0.tif \(f, rf, repeat 0\): labels 0 to 4 .* delete it"):
        evaluate(copy)
    write(path, pixels, (500002.5, 4800000.0))
    with pytest.raises(GridError, match="grids differ"):
        evaluate(copy)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"rf_0\.tif"):
        evaluate(copy)
    path.unlink()
    with pytest.raises(InputError, match=r"rf_0\.tif: cannot be read"):
        evaluate(copy)


def test_a_folder_that_cannot_be_written(copy: Path) -> None:
    (copy / "study.json").unlink()
    (copy / "study.json").mkdir()
    with pytest.raises(OutputError, match=r"study\.json: cannot be written"):
        evaluate(copy)
    assert not list(copy.glob(".*.part"))
