"""The viewer: tiles that lie where their pixels lie, one stretch for all images, and a page that a real browser shows."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import image_files
import numpy as np
import pytest
import rasterio
from browser import PROGRAM, Browser
from PIL import Image

from otbsr.errors import GridError, InputError, UsageError
from otbsr.evaluation.area import LAND_COVER
from otbsr.evaluation.corrected import PREFIX

pytest.importorskip("rio_tiler", reason="the viewer's extra is not installed")

from otbsr.view.layers import open_result
from otbsr.view.server import Viewer
from otbsr.view.tiles import SIDE, Pyramid, numbers, render, value_at

BANDS = image_files.BANDS
CORNER = 431_230.0, 4_825_670.0


def write(path: Path, pixels: np.ndarray, spacing: float | None, corner=CORNER, nodata=None, crs="EPSG:32631", names=(), tags=None) -> Path:
    place = {"crs": None, "transform": None} if spacing is None else {"crs": crs, "transform": image_files.at(spacing, *corner)}
    image_files.write(path, pixels, names=names, nodata=nodata, **place)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(**(tags or {}))
    return path


def pair(folder: Path, width: int = 90, height: int = 70, dot=(37, 23), spacing=(10.0, 2.5), **options) -> tuple[Path, Path]:
    """An input and an output of one ground: dark, a bright edge so that the stretch is known, and a point target: input pixel `dot` (column, row)."""
    coarse = np.full((4, height, width), 500, np.int16)
    coarse[:, :, -6:] = 4500
    coarse[:, dot[1], dot[0]] = 4500
    fine = coarse.repeat(4, 1).repeat(4, 2)
    first = write(folder / "input.tif", coarse, spacing[0] if spacing else None, names=BANDS, **options)
    return first, write(folder / "output.tif", fine, spacing[1] if spacing else None, names=BANDS, **options)


def picture(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


# --- tiles ---


def test_finest_tiles_put_together_are_the_image_and_the_repeated_input(tmp_path):
    random = np.random.default_rng(1)
    coarse = random.integers(300, 4000, (4, 90, 131)).astype(np.int16)
    fine = random.integers(300, 4000, (4, 360, 524)).astype(np.int16)
    scene = open_result([write(tmp_path / "sr.tif", fine, 2.5, names=BANDS)], write(tmp_path / "s2.tif", coarse, 10.0, names=BANDS))[0]
    pyramid = Pyramid.over([layer.grid for layer in scene.layers])
    zoom = len(pyramid.resolutions) - 1
    assert pyramid.resolutions[zoom] == 2.5
    for layer, expected in zip(scene.layers, (coarse.repeat(4, 1).repeat(4, 2), fine), strict=True):
        for row in range(2):
            for column in range(3):
                tile = numbers(list(layer.bands.values()), layer.grid, pyramid.tile(zoom, column, row), averaged=True)
                part = expected[:, row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
                inside = tile[:, : part.shape[1], : part.shape[2]]
                np.testing.assert_allclose(inside.filled(np.nan), part * 1e-4, atol=1e-9)
                assert np.ma.count(tile) == part.size


def test_coarser_tiles_are_means_of_the_pixels_under_them(tmp_path):
    fine = np.random.default_rng(2).integers(300, 4000, (4, 512, 1024)).astype(np.int16)
    scene = open_result([write(tmp_path / "sr.tif", fine, 2.5, names=BANDS)])[0]
    layer, pyramid = scene.layers[0], Pyramid.over([scene.layers[0].grid])
    assert pyramid.resolutions == (10.0, 5.0, 2.5)
    tile = numbers(list(layer.bands.values()), layer.grid, pyramid.tile(0, 0, 0), averaged=True)
    means = fine.reshape(4, 128, 4, 256, 4).mean((2, 4)) * 1e-4
    np.testing.assert_allclose(tile[:, :128].filled(np.nan), means, atol=0.6e-4)  # GDAL rounds to the file's integers
    assert tile[:, 128:].mask.all()


def test_layer_beyond_the_anchor_moves_the_corner_by_whole_pixels(tmp_path):
    near = write(tmp_path / "sr.tif", np.full((4, 40, 40), 900, np.int16), 2.5, (CORNER[0] + 30, CORNER[1] - 20), names=BANDS)
    scene = open_result([near], write(tmp_path / "s2.tif", np.full((4, 30, 30), 900, np.int16), 10.0, names=BANDS))[0]
    pyramid = Pyramid.over([layer.grid for layer in scene.layers])
    assert pyramid.left <= CORNER[0] and pyramid.top >= CORNER[1]
    assert (CORNER[0] + 30 - pyramid.left) % 2.5 == 0 and (pyramid.top - CORNER[1] + 20) % 2.5 == 0


def test_one_reflectance_has_one_grey_whatever_the_file_keeps_it_in(tmp_path):
    coarse, fine = pair(tmp_path)
    with rasterio.open(fine) as dataset:
        pixels = dataset.read()
    other = write(tmp_path / "real.tif", (pixels.astype(np.float32) + 1000) * 1e-4, 2.5, names=BANDS)
    with rasterio.open(other, "r+") as dataset:
        dataset.scales, dataset.offsets = (1.0,) * 4, (-0.1,) * 4  # as new baselines keep it
    scene = open_result([fine, other], coarse)[0]
    tile = Pyramid.over([layer.grid for layer in scene.layers]).tile(1, 0, 0)
    shown = [picture(render(scene, layer, tile)) for layer in scene.layers]
    assert len({image.tobytes() for image in shown}) == 1
    assert set(np.unique(shown[0][..., :3])) == {0, 255}


def test_no_data_of_any_band_is_transparent_and_values_are_told(tmp_path):
    pixels = np.full((4, 50, 50), 1234, np.int16)
    pixels[2, 10, 20] = -10000
    scene = open_result([write(tmp_path / "sr.tif", pixels, 2.5, nodata=-10000, names=BANDS)])[0]
    image = picture(render(scene, scene.layers[0], Pyramid.over([scene.layers[0].grid]).tile(0, 0, 0)))
    seen = image[:50, :50, 3] > 0
    assert not seen[10, 20] and seen.sum() == 50 * 50 - 1
    assert image[50:].max() == 0
    told = value_at(scene.layers[0], CORNER[0] + 20.5 * 2.5, CORNER[1] - 10.5 * 2.5)
    assert told == {"B4": pytest.approx(0.1234), "B3": pytest.approx(0.1234), "B2": None, "B8": pytest.approx(0.1234)}
    assert value_at(scene.layers[0], CORNER[0] - 1, CORNER[1] - 10) == {}


# --- what there is to look at ---


def test_what_apply_writes_beside_an_image_comes_with_it_and_its_input_is_found(tmp_path):
    coarse, fine = pair(tmp_path)
    with rasterio.open(fine, "r+") as dataset:
        dataset.update_tags(OTBSR_SOURCE="input.tif")
    write(tmp_path / "output_disagreement.tif", np.arange(280 * 360, dtype=np.uint16).reshape(280, 360) % 800, 2.5, nodata=65535, names=("disagreement",))
    write(tmp_path / "output_validity.tif", np.full((280, 360), 2, np.uint8), 2.5, nodata=0)
    scene = open_result([fine])[0]
    assert [(one.title, one.kind) for one in scene.layers] == [
        ("input", "image"), ("output", "image"), ("output_disagreement", "score"), ("output_validity", "classes"),
    ]  # fmt: skip
    assert (scene.left, scene.right, scene.units, scene.remarks) == (0, 1, "m", ())
    assert scene.layers[2].span == pytest.approx((16, 784), abs=2)
    tile = Pyramid.over([layer.grid for layer in scene.layers]).tile(1, 0, 0)
    assert picture(render(scene, scene.layers[3], tile))[5, 5].tolist() == [0x2A, 0x8F, 0x5A, 255]
    assert coarse.exists()


def test_study_shows_images_maps_and_confidence_in_the_legends_colours(tmp_path):
    sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
    from study_folder import CLASSES, write_study

    folder = write_study(tmp_path / "study", areas=2, side=120)
    scenes = open_result([folder])
    assert [scene.name for scene in scenes] == ["area0", "area1"]
    scene = scenes[1]
    titles = [layer.title for layer in scene.layers]
    assert {"input", "Method F", "reference", "map: Method F, rf", "confidence: Method F, rf", "disagreement"} <= set(titles)
    assert (scene.layers[scene.left].title, scene.layers[scene.right].title) == ("input", "Method F")
    chosen = scene.layers[titles.index("map: Method F, rf")]
    with rasterio.open(folder / "maps/area1/f/rf_0.tif") as dataset:
        codes = dataset.read(1)
    image = picture(render(scene, chosen, Pyramid.over([layer.grid for layer in scene.layers]).tile(0, 0, 0)))[:120, :120]
    for one in CLASSES:
        assert (image[codes == one["code"]] == [*bytes.fromhex(one["colour"][1:]), 255]).all()
    assert (image[codes == 0, 3] == 0).all()
    with pytest.raises(InputError, match="leave out --input"):
        open_result([folder], folder / "areas/area0/input_10m.tif")


def test_folder_of_maps_and_a_legend_beside_them(tmp_path):
    for prefix in ("", PREFIX):
        write(tmp_path / f"maps/{prefix}ssim.tif", np.linspace(0.2, 0.9, 900, dtype=np.float32).reshape(30, 30), 2.5)
    cover = np.random.default_rng(0).integers(1, 3, (30, 30)).astype(np.uint8)
    write(tmp_path / "maps" / LAND_COVER, cover, 2.5)
    (tmp_path / "maps/legend.json").write_text(
        json.dumps({"classes": [{"code": 1, "name": "house", "colour": "#ff0000"}, {"code": 2, "name": "field", "colour": "#00ff00"}]})
    )
    layers = {layer.title: layer for layer in open_result([tmp_path / "maps"])[0].layers}
    cover = next(layer for layer in layers.values() if layer.kind == "classes")
    assert [name for _, name, _ in cover.classes] == ["house", "field"]
    assert {title: layer.span for title, layer in layers.items() if layer.kind == "score"} == {"ssim": (0.0, 1.0), f"{PREFIX}ssim": (0.0, 1.0)}


def test_without_georeferencing_layers_lie_over_each_other_by_their_sizes(tmp_path):
    coarse, fine = pair(tmp_path, spacing=None)
    scene = open_result([fine], coarse)[0]
    assert scene.units == "pixels"
    assert "No georeferencing" in scene.remarks[0]
    assert scene.layers[0].grid.bounds == scene.layers[1].grid.bounds
    tile = Pyramid.over([layer.grid for layer in scene.layers]).tile(1, 0, 0)
    assert render(scene, scene.layers[0], tile) == render(scene, scene.layers[1], tile)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda f: write(f / "b.tif", np.ones((4, 40, 40), np.int16), None), GridError, "no georeferencing"),
        (lambda f: write(f / "b.tif", np.ones((4, 40, 40), np.int16), 2.5, crs="EPSG:32632"), GridError, "coordinate reference systems"),
        (lambda f: f / "absent.tif", InputError, "no such file"),
        (lambda f: (f / "text.tif").write_text("no image") and f / "text.tif", InputError, "cannot be read"),
        (lambda f: (f / "empty").mkdir() or f / "empty", InputError, "neither a study"),
    ],
)
def test_what_cannot_be_shown_is_said_in_a_line(tmp_path, make, error, said):
    coarse, _ = pair(tmp_path)
    with pytest.raises(error, match=said):
        open_result([make(tmp_path)], coarse)


def test_sizes_without_a_whole_factor_are_refused(tmp_path):
    first = write(tmp_path / "a.tif", np.ones((4, 30, 30), np.int16), None)
    with pytest.raises(GridError, match="whole factor"):
        open_result([write(tmp_path / "b.tif", np.ones((4, 100, 120), np.int16), None)], first)


# --- the server ---


@pytest.fixture
def serve():
    """`serve(scenes)` starts a viewer in a thread."""
    running = []

    def start(scenes) -> Viewer:
        viewer = Viewer(scenes)
        running.append(viewer)
        threading.Thread(target=viewer.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return viewer

    yield start
    for viewer in running:
        viewer.shutdown()
        viewer.server_close()


def get(viewer: Viewer, path: str, host: str = "") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", viewer.server_address[1], timeout=20)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_server_answers_this_machine_and_known_addresses_only(tmp_path, serve):
    coarse, fine = pair(tmp_path)
    viewer = serve(open_result([fine], coarse))
    assert viewer.server_address[0] == "127.0.0.1"
    assert get(viewer, "/")[0] == 200
    assert get(viewer, "/tile/0/1/1/0/0.png?composite=false")[1].startswith(b"\x89PNG")
    assert get(viewer, "/", "evil.example")[0] == 403
    for path in (
        "/../server.py",
        "/%2e%2e/server.py",
        "/etc/passwd",
        "/tile/0/9/0/0/0.png",
        "/tile/7/0/0/0/0.png",
        "/value/0",
        "/value/0?x=nan&y=1",
        "/tile/0/0/0/0/0.png?composite=x",
    ):
        assert get(viewer, path)[0] == 404, path
    fine.unlink()
    status, said = get(viewer, "/tile/0/1/0/0/0.png")
    assert status == 500 and b"output.tif" in said
    with pytest.raises(UsageError, match="another --port"):
        Viewer(viewer.scenes, viewer.server_address[1])


def test_command_prints_the_address_and_ends_at_ctrl_c(tmp_path):
    coarse, fine = pair(tmp_path)
    words = [sys.executable, "-m", "otbsr", "view", str(fine), "--input", str(coarse), "--no-browser", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        told = json.loads(process.stdout.readline())
        assert told["url"].startswith("http://127.0.0.1:") and told["layers"] == 2
        with socket.create_connection(("127.0.0.1", int(told["url"].rstrip("/").rpartition(":")[2])), timeout=20):
            pass
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert (process.wait(20), process.stderr.read()) == (0, "")


def test_without_the_extra_the_command_says_how_to_get_it(tmp_path):
    coarse, fine = pair(tmp_path)
    code = "import sys; sys.modules['rio_tiler'] = None; from otbsr.cli import main; main()"
    words = [sys.executable, "-c", code, "view", str(fine), "--input", str(coarse), "--no-browser"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (69, 1)
    assert "pip install 'otbsr[view]'" in done.stderr


# --- in a browser ---


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if PROGRAM is None:
        pytest.skip("no Chromium")
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


READY = """new Promise(done => {
  const drawn = (map) => new Promise(ok => { map.once('rendercomplete', ok); map.render(); });
  const look = () => window.otbsrView ? Promise.all(otbsrView.maps.map(drawn)).then(() => done(true)) : setTimeout(look, 20);
  look();
})"""


def seen(browser: Browser, path: Path, swipe: int) -> np.ndarray:
    """The map as it is on the screen, divider and texts taken out: rows, columns, RGB."""
    browser.run(f"otbsrView.swipe({swipe})")
    browser.run("document.querySelectorAll('#divider, .tag, #legend, .ol-zoom').forEach(one => one.style.visibility = 'hidden')")
    browser.run(READY)
    browser.screenshot(path, whole=False)
    left, top, width, height = browser.run("(b => [b.left, b.top, b.width, b.height])(document.getElementById('stage').getBoundingClientRect())")
    return np.asarray(Image.open(path).convert("RGB"))[round(top) : round(top + height), round(left) : round(left + width)]


@pytest.mark.parametrize(("corner", "georeferenced"), [(CORNER, True), ((431_227.5, 4_825_672.5), True), (CORNER, False)])
def test_point_target_is_at_one_place_of_the_screen_on_both_sides(tmp_path, serve, browser, corner, georeferenced):
    dot = 37, 23
    coarse, fine = pair(tmp_path, dot=dot, spacing=(10.0, 2.5) if georeferenced else None, **({"corner": corner} if georeferenced else {}))
    viewer = serve(open_result([fine], coarse))
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(viewer.url, 1000, 700)
    browser.run(READY)
    left, top = corner if georeferenced else (0.0, 0.0)
    spacing = 10.0 if georeferenced else 4.0
    x, y = left + (dot[0] + 0.5) * spacing, top - (dot[1] + 0.5) * spacing
    for finer in (1, 2, 4):  # screen pixels to a side of an output pixel
        browser.run(f"otbsrView.view().setResolution({spacing / 4 / finer}); otbsrView.view().setCenter([{x} + 31.3, {y} - 17.7]); true")
        expected = browser.run(f"otbsrView.maps[0].getPixelFromCoordinate([{x}, {y}])") if browser.run(READY) else None
        places = []
        for swipe in (100, 0):  # input only, output only
            image = seen(browser, tmp_path / "seen.png", swipe).astype(int).sum(2)
            near = np.s_[max(0, round(expected[1]) - 60) : round(expected[1]) + 60, round(expected[0]) - 60 : round(expected[0]) + 60]
            rows, columns = np.nonzero(image[near] > 600)
            assert rows.size == pytest.approx((4 * finer) ** 2, rel=0.5)
            places.append((columns.mean() + 0.5 + near[1].start, rows.mean() + 0.5 + near[0].start))
        np.testing.assert_allclose(places[0], places[1], atol=0.5)
        np.testing.assert_allclose(places[0], expected, atol=1.0)
    assert all(address.startswith((viewer.url, "data:", "blob:")) for address in browser.requests)
    assert browser.complaints == []


def test_choices_swipe_and_remarks_work_in_the_page(tmp_path, serve, browser):
    coarse, fine = pair(tmp_path, spacing=None)
    write(tmp_path / "output_disagreement.tif", (np.arange(280 * 360) % 800).astype(np.uint16).reshape(280, 360), None)
    browser.complaints.clear()
    browser.open(serve(open_result([fine], coarse)).url, 1000, 700)
    browser.run(READY)
    assert "No georeferencing" in browser.run("document.getElementById('remarks').textContent")
    before = seen(browser, tmp_path / "a.png", 50)
    browser.run("document.getElementById('over').value = '2'; document.getElementById('over').dispatchEvent(new Event('change')); true")
    after = seen(browser, tmp_path / "b.png", 50)
    assert (before != after).any(axis=2).mean() > 0.2
    assert "DN" in browser.run("document.getElementById('legend').textContent")
    browser.run("document.getElementById('divider').style.visibility = ''; document.getElementById('divider').focus()")
    browser.press("ArrowRight", 39)
    assert browser.run("document.getElementById('divider').getAttribute('aria-valuenow')") == "52"
    box = browser.run("(b => [b.left, b.top, b.width, b.height])(document.getElementById('divider').getBoundingClientRect())")
    middle = box[0] + box[2] / 2, box[1] + box[3] / 2
    browser.drag(middle, (middle[0] + 50, middle[1]), (250.0, middle[1]))
    assert int(browser.run("document.getElementById('divider').getAttribute('aria-valuenow')")) == pytest.approx(25, abs=1)
    assert browser.complaints == []
