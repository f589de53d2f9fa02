"""Correction of what lies between image and reference, images compared in pairs, and their page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from image_files import write_reflectance
from scipy import ndimage

from otbsr.errors import InputError, OutputError, UsageError
from otbsr.evaluation import streams
from otbsr.evaluation.comparison import compare, image_names, read_scenes, score_all
from otbsr.evaluation.corrected import rows_of
from otbsr.evaluation.streams import measure
from otbsr.grid import Grid
from otbsr.pairs.alignment import Alignment
from otbsr.world.sensors import degradation_kernel, degrade

NAMES = ("B4", "B3", "B2", "B8")


def ground(side: int, seed: int = 0) -> np.ndarray:
    """Reflectance [side, side, 4] that goes on around its edges: so that displacement by a Fourier transform is exact."""
    random = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(random.standard_normal((side, side, 4)), (1.5, 1.5, 0), mode="wrap")
    return 0.3 + 0.15 * image + 0.3 * ndimage.gaussian_filter(random.standard_normal((side, side, 1)), (6, 6, 0), mode="wrap")


def moved(image: np.ndarray, rows: float, columns: float, blur: float = 0.0) -> np.ndarray:
    planes = [np.fft.fft2(ndimage.gaussian_filter(plane, blur, mode="wrap") if blur else plane) for plane in np.moveaxis(image, -1, 0)]
    return np.stack([np.fft.ifft2(ndimage.fourier_shift(plane, (rows, columns))).real for plane in planes], -1)


# --- what lies between ----------------------------------------------------------------------------------------------------------


def test_what_lies_between_is_found_and_taken_away(tmp_path):
    """Down by 0.8 pixel, left by 1.4, gains and biases of each band, blur of 1.2 pixels: told; but for the blur, gone from the scores."""
    reference, gain, bias = ground(224), np.array([1.1, 0.9, 1.05, 1.0]), np.array([0.01, 0.0, -0.01, 0.02])
    image = moved(reference, 0.8, -1.4, 1.2) * gain + bias
    files = write_reflectance(tmp_path / "a.tif", image), write_reflectance(tmp_path / "b.tif", reference)
    found = measure(*files, groups=["pixels", "windows", "between"])
    told = found.scores
    assert (told["between_shift_rows"].all, told["between_shift_columns"].all) == pytest.approx((0.8, -1.4), abs=0.02)
    assert told["between_gain"].bands == pytest.approx(gain, rel=0.005) and told["between_bias"].bands == pytest.approx(bias, abs=0.002)
    assert told["between_blur"].bands == pytest.approx((1.2,) * 4, rel=0.03)
    assert told["between_windows"].all >= 4 and found.alignments["image"]["used"] == told["between_windows"].all
    blurred = measure(write_reflectance(tmp_path / "c.tif", moved(reference, 0, 0, 1.2)), files[1], groups=["pixels", "windows"]).scores
    for name in ("psnr", "ssim", "sam", "spatial_correlation"):  # what is left is the blur
        assert told[f"corrected_{name}"].all == pytest.approx(blurred[name].all, rel=0.02), name
    assert told["corrected_psnr"].all > told["psnr"].all + 3
    other = measure(*files, groups=["pixels", "windows", "between"], window=64)
    for name, one in other.scores.items():
        if one.all is not None:  # ERGAS needs the input's spacing
            assert one.all == pytest.approx(told[name].all, rel=1e-6, abs=1e-9), name


def test_a_hole_does_not_spread_into_corrected_scores(tmp_path):
    reference = ground(224, 1)
    image = moved(reference, 0.5, 0.25)
    holed, spoiled = image.copy(), image.copy()
    holed[100:110, 50:70] = -1
    spoiled[100:110, 50:70] = 0.9
    mask = tmp_path / "mask.tif"
    keep = np.ones((224, 224), "uint8")
    keep[85:125, 35:85] = 0
    with rasterio.open(write_reflectance(tmp_path / "a.tif", holed)) as dataset:
        profile = dataset.profile | {"count": 1, "dtype": "uint8", "nodata": None}
    with rasterio.open(mask, "w", **profile) as dataset:
        dataset.write(keep, 1)
    told = measure(tmp_path / "a.tif", write_reflectance(tmp_path / "b.tif", reference), groups=["pixels", "between"]).scores
    assert told["corrected_psnr"].all > 60  # nothing of 0.9 or of what is written for no-data is near
    masked = measure(write_reflectance(tmp_path / "s.tif", spoiled), tmp_path / "b.tif", mask=mask, groups=["pixels", "between"]).scores
    assert masked["corrected_psnr"].all > 60


def test_images_of_other_ground_get_a_remark(tmp_path):
    flat = np.full((96, 96, 4), 0.2)
    found = measure(write_reflectance(tmp_path / "a.tif", flat), write_reflectance(tmp_path / "b.tif", flat + 0.01), groups=["pixels", "between"])
    assert len(found.remarks) == 1 and found.remarks[0].startswith("what lies between reference and image cannot be told: ")
    assert found.scores["bias"].all == pytest.approx(-0.01) and not any(name.startswith(("between", "corrected")) for name in found.scores)


CORRECTED = {
    *("psnr", "rmse", "bias", "sam", "ergas", "uqi_global", "correlation", "ssim", "uqi", "spatial_correlation"),
    *("frequency_gain", "overshoot", "undershoot", "ring_correlation", "opensr_synthesis"),
    *(f"opensr_{what}{distance}" for what in ("improvement", "omission", "hallucination") for distance in ("", "_l1", "_gradient")),
}
"""Scores that are told of the corrected image, besides LPIPS and DISTS (`test_perceptual.py`)."""
LIES = [f"_{name}" for name in ("shift_rows", "shift_columns", "shift_error", "shift_range", "gain", "bias", "blur", "windows")]
BLANK = {
    *("cpsnr", "cpsnr_rows", "cpsnr_columns", "d_lambda", "noise", "noise_input", "opensr_reflectance", "opensr_spectral", "opensr_spatial"),
    *(f"consistency_{name}" for name in ("rmse", "bias", "sam", "shift", "shift_rows", "shift_columns")),
    *("edge_mtf", "edge_mtf_low", "edge_mtf_high", "edge_sigma", "edge_sigma_low", "edge_sigma_high", "edges"),
    *(what + name for what in ("between", "sensors") for name in LIES),
}
"""Scores that a correction does not change, or that know no reference."""


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """(gains, biases, what was found) of a scene whose image and input, from one sensor, lie 1.3 pixel down and 0.6 left of a reference with other gains."""
    folder, reference = tmp_path_factory.mktemp("apart"), ground(288, 6)
    gain, bias = np.array([1.1, 0.9, 1.05, 1.0]), np.array([0.01, 0.0, -0.01, 0.02])
    image = moved(reference, 1.3, -0.6) * gain + bias
    coarse = degrade(image.astype(np.float32)).astype(np.float64)
    files = write_reflectance(folder / "a.tif", image), write_reflectance(folder / "b.tif", reference), write_reflectance(folder / "c.tif", coarse, 10)
    write_reflectance(folder / "own.tif", degrade(reference.astype(np.float32)).astype(np.float64), 10)
    return folder, gain, bias, measure(*files, maps=folder / "maps", blocks=True, window=128)


def test_every_score_that_has_a_reference_is_told_before_and_after(apart):
    """And the others are not: a blank in the table."""
    _, _, _, found = apart
    assert set(found.corrected) == CORRECTED and set(found.plain) == CORRECTED | BLANK
    names = [name for name in found.scores if not name.startswith(("between", "sensors"))]
    assert all(names[names.index(f"corrected_{name}") - 1] == name for name in CORRECTED)
    lines = {line.split()[0]: line for line in found.table().splitlines()[1:]}
    assert set(lines) == CORRECTED | BLANK and found.table().split()[:2] == ["all", "corrected"]
    end = found.table().splitlines()[0].index("corrected") + len("corrected")
    for name, line in lines.items():
        assert (line[:end].split()[-1] == f"{found.scores[f'corrected_{name}'].all:.5g}") if name in CORRECTED else line[end - 1] == " ", name
    content = found.as_dict()
    assert {f"corrected_{name}" for name in CORRECTED} < set(content["scores"]) and set(content["alignments"]) == {"image", "input"}


def test_what_lies_between_the_sensors_is_gone_from_every_score(apart):
    """The image is the reference but for displacement, gain and bias: afterwards all scores are nearly those of the reference itself.

    A spline softens what is finer than two pixels or so; spectra are not resampled, and lose nothing but what the tiles' tapers leave of rings
    with next to no power.
    """
    folder, gain, bias, found = apart
    told = found.scores
    perfect = measure(folder / "b.tif", folder / "b.tif", folder / "own.tif", groups=["pixels", "windows", "spectra", "opensr"]).scores
    for name, near in (("rmse", 0.002), ("bias", 1e-4), ("sam", 0.3), ("ergas", 0.3)):
        assert told[f"corrected_{name}"].all == pytest.approx(0, abs=near) and abs(told[name].all) > 4 * abs(told[f"corrected_{name}"].all), name
    for name, near in (("uqi_global", 1e-3), ("correlation", 1e-3), ("ssim", 0.003), ("uqi", 0.01), ("spatial_correlation", 0.03)):
        assert told[f"corrected_{name}"].all == pytest.approx(1, abs=near) and told[name].all < 1 - 4 * near, name
    for name, near in (("frequency_gain", 0.005), ("overshoot", 0.05), ("undershoot", 0.05), ("ring_correlation", 0.03)):
        assert told[f"corrected_{name}"].all == pytest.approx(perfect[name].all, abs=near), name
    assert told["overshoot"].all > 0.3 and told["ring_correlation"].all < 0.6
    for name, near in (
        ("synthesis", 5e-4),
        *((f"{what}{by}", 0.03) for what in ("improvement", "omission", "hallucination") for by in ("", "_l1", "_gradient")),
    ):
        assert told[f"corrected_opensr_{name}"].all == pytest.approx(perfect[f"opensr_{name}"].all, abs=near), name
    assert abs(told["opensr_synthesis"].all - perfect["opensr_synthesis"].all) > 10 * 5e-4
    curves = found.spectrum["corrected"]
    before, after = (np.abs(np.array(one["over_reference_db"])[:, :24]).max() for one in (found.spectrum, curves))
    assert after < 0.1 and before > 0.8  # a gain of 1.1 or 0.9 is 0.8 or 0.9 dB
    for what, near in (("between", 0.02), ("sensors", 0.08)):  # pixels of the reference: 0.02 of the input's own
        assert (told[f"{what}_shift_rows"].all, told[f"{what}_shift_columns"].all) == pytest.approx((1.3, -0.6), abs=near)
        assert told[f"{what}_gain"].bands == pytest.approx(gain, rel=0.01) and told[f"{what}_bias"].bands == pytest.approx(bias, abs=0.004)
    assert told["between_blur"].all < 0.1
    taps = [degradation_kernel(name, 4) for name in NAMES]
    variance = [float(kernel @ (np.arange(kernel.size) - (kernel.size - 1) / 2) ** 2 / kernel.sum()) for kernel in taps]
    blur = np.sqrt(np.array(variance) - (16 - 1) / 12)  # what is left of it when 4 x 4 pixels are taken instead of one
    assert told["sensors_blur"].bands == pytest.approx(blur, rel=0.03)
    assert told["between_windows"].all >= 4 and told["sensors_windows"].all >= 1
    assert told["consistency_shift"].all < 0.02  # image and input lie together, wherever the reference is


@pytest.fixture
def known(apart, monkeypatch) -> dict[str, Alignment | str]:
    """What was found to lie between the files is taken as it is: it does not depend on windows, and takes its time."""
    found = {what: Alignment.from_json(one) for what, one in apart[3].alignments.items()}
    monkeypatch.setattr(streams, "between", lambda scene, what, report: found[what])
    return found


def test_corrected_scores_do_not_depend_on_the_window(apart, known):
    folder, _, _, found = apart
    other = measure(folder / "a.tif", folder / "b.tif", folder / "c.tif", window=64, groups=["pixels", "windows", "spectra", "opensr", "between"])
    assert set(other.corrected) == CORRECTED
    for name, one in other.corrected.items():
        assert one.all == pytest.approx(found.scores[f"corrected_{name}"].all, rel=1e-7, abs=1e-9), name


def test_blocks_and_maps_of_the_corrected_image(apart):
    folder, _, _, found = apart
    assert len(found.blocks) == 4 and all(block.scores["corrected_psnr"] > block.scores["psnr"] + 6 for block in found.blocks)
    own = ["error.tif", "angle.tif", "ssim.tif"]
    assert [path.name for path in found.maps] == [*own, "consistency.tif", *(f"corrected_{name}" for name in own)]
    for name, of in (("error", lambda x: np.sqrt(np.nanmean(x**2))), ("angle", np.nanmean), ("ssim", np.nanmean)):
        with rasterio.open(folder / "maps" / f"corrected_{name}.tif") as dataset:
            plane = dataset.read(1).astype(np.float64)
            assert "displacement, gain and bias" in dataset.descriptions[0]
        score = {"error": "rmse", "angle": "sam", "ssim": "ssim"}[name]
        assert of(plane) == pytest.approx(found.scores[f"corrected_{score}"].all, rel=1e-5)


def test_without_an_alignment_of_the_input_what_looks_at_it_is_not_corrected(apart, known, tmp_path):
    """Spectra and opensr-test's scores stay as they are, the others are corrected, and a remark says why."""
    known["input"] = "what lies between reference and input cannot be told: other ground"
    files = [apart[0] / f"{name}.tif" for name in "abc"]
    found = measure(*files, groups=["pixels", "spectra", "opensr", "between"], maps=tmp_path / "maps")
    assert set(found.corrected) == {"psnr", "rmse", "bias", "sam", "ergas", "uqi_global", "correlation"}
    assert found.remarks == (known["input"],) and "corrected" not in found.spectrum
    assert (tmp_path / "maps" / "corrected_error.tif").exists()
    known["image"] = "what lies between reference and image cannot be told: other ground"
    found = measure(*files, groups=["pixels", "spectra", "opensr", "between"], maps=tmp_path / "none")
    assert not found.corrected and found.remarks == (known["image"], known["input"])
    assert [path.name for path in found.maps] == ["error.tif", "angle.tif", "ssim.tif", "consistency.tif"]


def test_a_field_of_displacement_by_hand(apart):
    """5 m east in the middle and 1 m more at the eastern edge: 2.5 m pixels, 2 left in the middle, 0.4 pixel more at most; errors 0.3 and 0.4 m."""
    found = Alignment.from_json(apart[3].alignments["image"])
    field = replace(found.field, bounds=(0.0, 0.0, 100.0, 100.0), east=(5.0, 1.0, 0.0), north=(0.0, 0.0, 0.0))
    rows = rows_of(replace(found, field=field, shift=(5.0, 0.0), precision=(0.3, 0.4)), "between", Grid(0.0, 100.0, 2.5, 2.5, 40, 40))
    told = {name.removeprefix("between_shift_"): one.all for name, one in rows.items() if "shift" in name}
    assert told == pytest.approx({"rows": 0.0, "columns": -2.0, "error": 0.2, "range": 0.4})


def test_a_whole_displacement_is_taken_away_to_the_image_edges(apart, known, tmp_path):
    """Two pixels down, three left: what came from beyond the image does not count, all else is the reference."""
    reference = ground(96, 9)
    image, field = np.roll(reference, (2, -3), (0, 1)), replace(known["image"].field, bounds=(500000, 4799760, 500240, 4800000), east=(7.5,), north=(5.0,))
    known["image"] = replace(known["image"], field=field, gain=(1.0,) * 4, bias=(0.0,) * 4)
    files = write_reflectance(tmp_path / "a.tif", image), write_reflectance(tmp_path / "b.tif", reference)
    found = measure(*files, groups=["pixels", "between"], border=0, maps=tmp_path / "maps")
    assert found.scores["corrected_psnr"].all > 190
    with rasterio.open(tmp_path / "maps" / "corrected_error.tif") as dataset:
        kept = np.isfinite(dataset.read(1))
    expected = np.zeros((96, 96), bool)
    expected[:-2, 3:] = True
    assert np.array_equal(kept, expected)


# --- pairs ----------------------------------------------------------------------------------------------------------------------


def test_blocks_are_compared_in_pairs(tmp_path):
    """Errors of 0.010 and 0.005, times what differs from block to block by far more: 6.02 dB in every block."""
    reference, random = ground(256, 2), np.random.default_rng(3)
    level = np.kron(10 ** random.uniform(-1, 1, (4, 4)), np.ones((64, 64)))[..., None]
    sign = np.indices((256, 256)).sum(0)[..., None] % 2 * 2 - 1
    for name, error in (("a", 0.010), ("b", 0.005)):
        write_reflectance(tmp_path / f"{name}.tif", reference + error * level * sign)
    write_reflectance(tmp_path / "ref.tif", reference)
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    found = score_all(paths, None, tmp_path / "ref.tif", None, None, block=64, groups=["pixels", "noise"], border=0).comparison
    assert found.unit == "block" and found.images == ("a", "b")
    psnr = next(one for one in found.differences if one.score == "psnr")
    assert psnr.units == 16 and psnr.value == pytest.approx(20 * np.log10(2), rel=1e-6)
    assert psnr.interval.shown and (psnr.interval.low, psnr.interval.high) == pytest.approx((psnr.value,) * 2, rel=1e-6)
    bias = next(one for one in found.differences if one.score == "bias")
    assert not bias.interval.shown
    rmse = next(one for one in found.differences if one.score == "rmse")
    ones = [[block.scores["rmse"] for block in found.measured["scene"][name].blocks] for name in "ab"]
    assert rmse.value == pytest.approx(np.mean(ones[1]) - np.mean(ones[0])) and rmse.interval.low < rmse.value < rmse.interval.high
    row = next(line for line in found.table().splitlines() if line.startswith("psnr"))
    assert row.endswith("+6.021 [6.021, 6.021] *")


def scene_list(folder: Path, count: int, suffix: str = ".yaml") -> Path:
    entries = []
    for number in range(count):
        reference = ground(64, number)
        write_reflectance(folder / f"ref{number}.tif", reference)
        for name, error in (("a", 0.02), ("b", 0.01)):
            write_reflectance(folder / f"{name}{number}.tif", reference + error)
        entries.append(
            {"name": f"s{number}", "images": {"a": f"a{number}.tif", "b": f"b{number}.tif"}, "reference": f"ref{number}.tif", "ground": f"g{number // 2}"}
        )
    path = folder / f"scenes{suffix}"
    path.write_text(yaml.safe_dump(entries) if suffix == ".yaml" else json.dumps(entries))
    return path


def test_scenes_of_a_list_are_compared_and_grounds_drawn_together(tmp_path):
    found = compare(read_scenes(scene_list(tmp_path, 10, ".json")), groups=["pixels"], border=0)
    bias = next(one for one in found.differences if one.score == "bias")
    assert found.unit == "scene" and bias.units == 5 and bias.value == pytest.approx(-0.01) and bias.interval.shown
    content = found.as_dict()
    assert set(content["scenes"]) == {f"s{k}" for k in range(10)} and content["differences"][0]["minus"] == "a"
    few = compare(read_scenes(scene_list(tmp_path, 4)), groups=["pixels"], border=0)
    assert all(one.interval is None for one in few.differences) and "(2 only)" in few.table()


def test_lists_that_cannot_be_read(tmp_path):
    path = tmp_path / "scenes.yaml"
    for text, message in (
        ("a: [", "cannot be read as a list of scenes"),
        ("{}", "holds no list of scenes"),
        ("- {name: a}", "images: Field required"),
        ("- {name: a, images: {x: a.tif}, target: b}", "target: Extra inputs"),
        ("- {name: a, images: {x: a.tif}}\n- {name: a, images: {x: a.tif}}", "two scenes are called a"),
        ("- {name: a, images: {x: a.tif}}\n- {name: b, images: {y: a.tif}}", "scene b has images y, expected x as in a"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_scenes(path)
    assert list(image_names([Path("f/sr.tif"), Path("p/sr.tif")])) == ["f/sr", "p/sr"]
    for images, listed, more, message in (
        ([], None, {}, "either images"),
        ([path, path], None, {}, "the same image is given twice"),
        ([path], path, {}, "either images"),
        ([Path("a"), Path("b")], None, {"maps": tmp_path}, "--maps .*: maps are those of one image"),
    ):
        with pytest.raises(UsageError, match=message):
            score_all(images, listed, None, None, None, block=64, **more)


# --- the page -------------------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Counts tags, checks that they close, and collects links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen[tag] = self.seen.get(tag, 0) + 1
        self.links += [value for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_file_with_all_that_was_asked(tmp_path):
    reference = ground(192, 5)
    coarse = degrade(reference.astype(np.float32)).astype(np.float64)
    files = [write_reflectance(tmp_path / "soft.tif", moved(reference, 0, 0, 1.5)), write_reflectance(tmp_path / "sharp.tif", moved(reference, 0.3, 0, 0.5))]
    write_reflectance(tmp_path / "ref.tif", reference), write_reflectance(tmp_path / "in.tif", coarse, 10)
    page = tmp_path / "page.html"
    groups = ["pixels", "windows", "consistency", "spectra", "between"]
    for paths, pictures in ((files[:1], 4), (files, 6)):
        page.unlink(missing_ok=True)
        score_all(paths, None, tmp_path / "ref.tif", tmp_path / "in.tif", None, block=64, html=page, groups=groups, border=0)
        text, reader = page.read_text(), Reader()
        reader.feed(text)
        assert not reader.open and reader.seen["table"] == len(paths)
        assert all(link.startswith("data:image/png;base64,") for link in reader.links)
        assert not re.search(r"https?://|//[a-z]", re.sub(r"base64,[^\"]*", "", text))
        assert reader.seen["img"] == pictures + 4 * (2 + 3 * len(paths))  # plots and error maps before and after; zooms: input, reference, images, both errors
        assert "corrected" in text and "Error map of soft" in text and ("Paired differences" in text) == (len(paths) == 2)
    with pytest.raises(OutputError, match=r"page.html: exists already; choose another name or give --overwrite"):
        score_all(files, None, tmp_path / "ref.tif", None, None, block=64, html=page, groups=groups)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium:
        done = subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom", page.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0 and 'id="differences"' in done.stdout
