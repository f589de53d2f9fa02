"""The page: numbers of study.json and nothing else, in plain words, in one file; and in a real browser."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import PROGRAM, Browser
from study_folder import content_of, write_study
from typer.testing import CliRunner

from otbsr.cli import app
from otbsr.errors import InputError
from otbsr.evaluation import report as module
from otbsr.evaluation.evaluate import evaluate
from otbsr.evaluation.report import bar, change, limits, marked, number, shown, words, write_report

BIG = 8e6
"""Bytes that the page may have."""
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed (Debian package chromium)")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("study"), learners=("rf", "libsvm"))
    evaluate(folder)
    write_report(folder)
    return folder


# --- the file ---


def test_page_is_one_offline_file_and_can_be_made_again(done: Path) -> None:
    page = (done / "report.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page) and "http" not in re.sub(r"base64,[^\"]*", "", page) and "@import" not in page
    assert (done / "report.html").stat().st_size < BIG
    assert page.count("data:image/png;base64,") >= 10 and page.count("data:image/webp;base64,") >= 10 and page.count("data:image/svg+xml;base64,") == 4
    (done / "report.html").unlink()
    assert write_report(done).read_text() == page


def test_numbers_are_those_of_study_json(copy: Path) -> None:
    """A number changed in study.json changes on the page, wherever it stands; the page computes none."""
    content = content_of(copy)
    row = content["results"]["rf"]["f"]
    row["values"]["accuracy"]["value"] = 0.12341
    row["difference"]["bicubic-context"]["macro_f1"].update(value=0.0777, low=-0.0222, high=0.1999)
    row["class_difference"]["bicubic-context"]["f1"][2].update(value=-0.3333, low=-0.4444, high=-0.2222)
    content["controls"]["rf"]["information"] = False
    (copy / "study.json").write_text(json.dumps(content))
    page = write_report(copy).read_text()
    assert "12.3" in page and page.count("+7.8</span>") >= 2 and "[−2.2, +20.0]" in page and "crop (−33.3, [−44.4, −22.2])" in page
    assert "no information was shown to be added" in page


def test_page_says_every_part(done: Path) -> None:
    content, page = content_of(done), (done / "report.html").read_text()
    for line in (*content["answer"]["sentences"], *content["warnings"], content["command"], "otb 8.1.1", "seed 100", "Synthetic labels of a test."):
        assert line in page, line
    for one in content["measures"].values():
        assert f"<summary>{one['name'].replace('<', '&lt;')}" in page
    assert page.count("helps <span") >= 4 and "Support vector machine" in page and "power of 80" in page and "McNemar" in page


def test_arms_without_confidence_roads_and_images(tmp_path: Path) -> None:
    """What a study lacks is left out: no buildings, roads, artificial surfaces, confidence, disagreement, images."""
    folder = write_study(tmp_path, side=120, wrong={"bicubic-context": 0.3, "f": 0.3}, learners=("libsvm",), repeats=1)
    maps = json.loads((folder / "maps.json").read_text())
    maps["areas"][0].update(disagreement="", image="", simulated=False)
    maps["images"] = {}
    for one in maps["classes"]:
        one.update(role="", artificial=False)
    (folder / "maps.json").write_text(json.dumps(maps))
    content = evaluate(folder)
    page = write_report(folder).read_text()
    assert "artificial_f1" not in content["measures"] and len(content["answer"]["sentences"]) == 1
    for word in ("How small a thing is found", "Which pixels to trust", "Buildings that are not there", "simulated"):
        assert word not in page
    assert "No control was mapped" in page and "Input, 10 m" in page and "Reference image" not in page


def test_a_learner_that_did_not_map_the_lead_and_areas_of_one_block(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "a", side=80, wrong={"bicubic-context": 0.3, "f": 0.25}, repeats=1, learners=("rf", "libsvm"))
    maps = json.loads((folder / "maps.json").read_text())
    maps["runs"] = [one for one in maps["runs"] if (one["arm"], one["learner"]) != ("f", "rf")]
    (folder / "maps.json").write_text(json.dumps(maps))
    assert evaluate(folder)["answer"]["sentences"] == ["Method F was not mapped by rf: there is no answer."]
    assert "there is no answer" in write_report(folder).read_text()
    folder = write_study(tmp_path / "b", areas=9, side=48, block=48, wrong={"bicubic-context": 0.3, "f": 0.25}, repeats=1)
    maps = json.loads((folder / "maps.json").read_text())
    maps["protocol"]["pool"] = True
    (folder / "maps.json").write_text(json.dumps(maps))
    content = evaluate(folder)
    assert content["clusters"]["unit"] == "area" and content["by_area"][0]["measures"]["macro_f1"]["low"] is None
    page = write_report(folder).read_text()
    assert "[–, –]" in page and "Areas share their learners" in page


def test_page_of_nothing(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(InputError, match="otbsr study"):
        write_report(tmp_path)
    (copy / "maps/area0/f/rf_0.tif").unlink()
    with pytest.raises(InputError, match=r"cannot be read .* run `otbsr study` again"):
        write_report(copy)
    (copy / "study.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="format 1, expected 2"):
        write_report(copy)


def test_command_judges_again_and_writes_the_page(copy: Path) -> None:
    for name in ("study.json", "report.html", "measures.csv"):
        (copy / name).unlink()
    said = CliRunner().invoke(app, ["report", str(copy), "--quiet"])
    assert said.exit_code == 0 and "answer: Method F helped the land-cover map" in said.output and str(copy / "report.html") in said.output
    assert (copy / "report.html").is_file() and (copy / "measures.csv").is_file()


# --- words ---


def test_numbers_and_signs() -> None:
    assert (number(0.1234, "%"), number(-0.5, "/ha"), number(0.5, ""), number(None, "%")) == ("12.3", "−0.50", "0.500", "–")
    assert (change(0.0123, "%"), change(-0.5, "/ha"), change(0.01, ""), change(None, "%")) == ("+1.2", "−0.50", "+0.010", "–")
    better = {"low": 0.1, "value": 0.2, "high": 0.3, "holm": 0.01}
    assert (shown(better), shown(better, -1), shown(better, 0)) == ("better", "worse", "moved")
    assert shown({"low": -0.1, "high": 0.1}) == shown({"low": None, "high": None}) == "none"
    assert (
        [marked(better | {"holm": holm}) for holm in (0.01, 0.2, None)] == ["▲", "△", "△"]
        and marked(better, -1) == "▼"
        and marked({"low": -1, "high": 1}) == ""
    )
    assert bar({"low": -0.5, "value": 0, "high": 0.5}, 0.5) == {"low": 2, "value": 50, "high": 98}
    assert (
        words({"seeds": [1, 2, 3, 4, 9], "bands": ["B4", "B3"], "gain": 1.0, "on": True, "none": []}) == "seeds 1–4 9, bands B4 B3, gain 1.0, on yes, none none"
    )


def test_limits_follow_the_numbers(done: Path) -> None:
    content = content_of(done)
    text = " ".join(limits(content))
    assert "The area is simulated" in text and "1 area, 25 test blocks. Fewer than 8 areas" in text and "100 m wide, 20 m apart" in text
    detectable = 100 * content["results"]["rf"]["f"]["difference"]["bicubic-context"]["macro_f1"]["detectable"]
    assert f"below {detectable:.1f} points" in text and "A warning of the first half." in text
    content["clusters"].update(unit="area", number=9, areas=9)
    content["areas"] *= 9
    content["areas"][0] = content["areas"][0] | {"simulated": False}
    content["classes"][0]["name"] = "shed"
    for one in content["areas"]:
        one["class_hectares"] = [0.05, 0.0, 9.0, 9.0]
    text = " ".join(limits(content))
    assert "8 of the areas are simulated" in text and "other areas of this kind" in text and "Only 9 areas were drawn" in text
    assert "shed (0.45 ha)" in text and "left out of macro-F1: road." in text


# --- pictures ---


def test_pictures_show_the_right_pixels(done: Path) -> None:
    """A map's layer, decoded, has the legend's colours of the map's labels; the coarse input covers the same ground."""
    import base64
    import io

    import rasterio
    from PIL import Image

    content = content_of(done)
    pictures = module.Pictures(done, content, json.loads((done / "maps.json").read_text())["runs"])

    def decoded(uri: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))

    scene = pictures.scene(content["scenes"][0] | {"window": [40, 60, 80, 80]})
    layer = next(one for one in scene["layers"] if one["key"] == "map-f")
    labels = rasterio.open(done / "maps/area0/f/rf_0.tif").read(1)[60:140, 40:120]
    assert np.array_equal(decoded(layer["image"]), module.palette(content["classes"])[labels])
    assert (scene["left"], scene["right"], scene["metres"]) == ("map-bicubic-context", "map-f", 200) and "E 500100, N 4799850" in scene["where"]
    coarse = decoded(pictures.colour("area0", done / "areas/area0/input_10m.tif", [40, 60, 80, 80])).astype(int)
    assert coarse.shape == (80, 80, 3) and np.abs(coarse.reshape(20, 4, 20, 4, 3) - coarse[::4, ::4].reshape(20, 1, 20, 1, 3)).mean() < 12
    fine = decoded(pictures.colour("area0", done / "areas/area0/image_2m5.tif", [40, 60, 80, 80])).astype(int)
    assert np.abs(fine[::4, ::4] - coarse[::4, ::4]).mean() < 12  # the test's input holds every fourth pixel of it


# --- in a browser ---


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory):
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@needs_chromium
@pytest.mark.parametrize("width", [360, 768, 1200])
def test_page_opens_without_network_complaint_or_sideways_scroll(done: Path, browser: Browser, width: int) -> None:
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(done / "report.html", width)
    browser.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.run("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert [one for one in browser.requests if not one.startswith("data:")] == [(done / "report.html").as_uri()]
    assert not browser.complaints
    assert browser.run("[...document.images].filter(one => one.loading != 'lazy' && !one.naturalWidth).length") == 0
    small = browser.run("[...document.querySelectorAll('td, th, p, li, figcaption')].filter(e => parseFloat(getComputedStyle(e).fontSize) < 10).length")
    assert small == 0
    outside = """[...document.querySelectorAll('main *')].filter(one => !one.closest('.scroll') && one.getBoundingClientRect().right > innerWidth + 1).length"""
    assert browser.run(outside) == 0


@needs_chromium
def test_swipe_toggle_and_choice_work_by_keyboard_and_pointer(done: Path, browser: Browser) -> None:
    browser.open(done / "report.html", 1200)
    place, clip = "document.querySelector('.swipe').value", "getComputedStyle(document.querySelector('.stage .right')).clipPath"
    assert browser.run(place) == "50" and "50%" in browser.run(clip)
    browser.run("document.querySelector('.swipe').focus()")
    for _ in range(3):
        browser.press("ArrowRight", 39)
    assert browser.run(place) == "53" and "53%" in browser.run(clip)
    browser.run("document.querySelector('[data-toggle]').focus()")
    browser.press(" ", 32)
    assert browser.run(place) == "0"  # only the right one is seen
    browser.press(" ", 32)
    assert browser.run(place) == "100"
    box = browser.run(
        "document.querySelector('.stage').scrollIntoView(), (r => [r.x, r.y, r.width, r.height])(document.querySelector('.stage').getBoundingClientRect())"
    )
    middle = box[1] + box[3] / 2
    browser.drag((box[0] + box[2] * 0.5, middle), (box[0] + box[2] * 0.3, middle), (box[0] + box[2] * 0.25, middle))
    assert float(browser.run(place)) == pytest.approx(25, abs=1)
    before = browser.run("document.querySelector('.stage .left').src")
    browser.run("document.querySelector('[data-side=left]').focus()")
    browser.press("ArrowUp", 38)
    name = browser.run("document.querySelector('.stage .left').alt")
    assert name == "Map: Bicubic" and browser.run("document.querySelector('.name-left').textContent") == name
    after = browser.run("document.querySelector('.stage .left').src")
    assert after != before and after == browser.run("layers[0]['map-bicubic']") and not browser.complaints


@needs_chromium
def test_swipe_works_by_touch_at_telephone_width(done: Path, browser: Browser) -> None:
    browser.open(done / "report.html", 360)
    box = browser.run(
        "document.querySelector('.stage').scrollIntoView(), (r => [r.x, r.y, r.width, r.height])(document.querySelector('.stage').getBoundingClientRect())"
    )
    points = [{"x": box[0] + box[2] * share, "y": box[1] + box[3] / 2} for share in (0.5, 0.6, 0.8)]
    browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=points[:1])
    for point in points[1:]:
        browser.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=[point])
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert float(browser.run("document.querySelector('.swipe').value")) == pytest.approx(80, abs=2)


@needs_chromium
def test_page_prints_whole(done: Path, browser: Browser, tmp_path: Path) -> None:
    browser.open(done / "report.html", 1200)
    content = browser.pdf()
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    assert content.startswith(b"%PDF") and content.rstrip().endswith(b"%%EOF") and 4 <= pages <= 40
    assert browser.run("[...document.querySelectorAll('details')].every(one => one.open)")  # nothing stays hidden on paper


@needs_chromium
def test_classes_have_patterns_on_grey_paper(done: Path, browser: Browser) -> None:
    """With patterns every map is redrawn 3 x 3 as large; the same colour in two classes would still differ; without them the images are back."""
    browser.open(done / "report.html", 1200)
    hidden, drawn = "[...document.images].filter(one => one.hidden).length", "document.querySelectorAll('.stage canvas, .chips canvas').length"
    assert browser.run(hidden) == browser.run(drawn) == 0
    browser.run("document.getElementById('patterns').click()")
    maps = browser.run("[...document.querySelectorAll('.stage img, .chips img')].filter(one => one.alt.startsWith('Map')).length")
    assert browser.run(hidden) == browser.run(drawn) == maps > 8
    tones = """(canvas => {
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data, seen = new Set();
        for (let at = 0; at < data.length; at += 4) seen.add(data.slice(at, at + 3).join());
        return [canvas.width, seen.size];
    })(document.querySelector('.stage canvas'))"""
    assert browser.run(tones) == [600, 1 + 2 * 3 + 1]  # not judged; three classes with a pattern, one without
    browser.run("document.querySelector('[data-side=right]').value = 'image-f'; document.querySelector('[data-side=right]').dispatchEvent(new Event('change'))")
    image = "document.querySelector('.stage img.right')"
    assert browser.run(f"{image}.decode().then(() => new Promise(setTimeout)).then(() => {image}.hidden)") is False
    browser.run("document.getElementById('patterns').click()")
    assert browser.run(hidden) == browser.run(drawn) == 0 and not browser.complaints


@needs_chromium
def test_signs_do_not_rest_on_colour(done: Path, browser: Browser) -> None:
    """Whatever is coloured as better or worse says so by a sign or, in the forest, by place; controls have names."""
    browser.open(done / "report.html", 1200)
    unsaid = """[...document.querySelectorAll('td .better, td .worse')].filter(one => one.tagName == 'SPAN' && !/[▲▼△▽+−]/.test(one.textContent)).length"""
    assert browser.run(unsaid) == 0
    nameless = (
        """[...document.querySelectorAll('button, select, input')].filter(one => !(one.textContent.trim() || one.ariaLabel || one.labels.length)).length"""
    )
    assert browser.run(nameless) == 0 and browser.run("[...document.images].filter(one => !one.alt).length") == 0
