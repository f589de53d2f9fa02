"""What each arm's image is, by analytic and metamorphic expectations; recipes and their errors."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from drawn_area import draw_area, town, write_bands
from scipy import fft

from otbsr.errors import GridError, InputError, UsageError
from otbsr.evaluation import feature_images
from otbsr.evaluation.area import Area
from otbsr.evaluation.arms import Arm, default_arms, make, resolve
from otbsr.evaluation.recipes import Making, parse
from otbsr.grid import Grid

MODELS = Path(__file__).parents[3] / "models"
F, P = MODELS / "bicubic-x4", MODELS / "nearest-x4"


@pytest.fixture(scope="module")
def area(tmp_path_factory: pytest.TempPathFactory) -> Area:
    return Area.open(draw_area(tmp_path_factory.mktemp("areas") / "town", town(192), world={"settings": {"date_gap": 30}}))


@pytest.fixture(scope="module")
def images(area: Area, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Images of the arms that need no model; `sharp`: Spot's."""
    folder, made = tmp_path_factory.mktemp("arms"), {}
    for arm in resolve(["native", "bicubic-context", "spot", "spot-10m"], {}, None, None):
        made[arm.name] = folder / f"{arm.name}.tif"
        make(arm, Making(area, made), made[arm.name])
    return made


def made(area: Area, images: dict[str, Path], recipe: dict[str, object], out: Path, seed: int = 0) -> np.ndarray:
    make(Arm("mine", "mine", parse("mine", recipe)), Making(area, images, seed), out)
    assert area.fine.same(Grid.read(out))
    with rasterio.open(out) as dataset:
        assert dataset.nodata == -10000 or recipe.get("image")
        return dataset.read().astype(float)


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read().astype(float)


def test_native_repeats_pixels_and_bicubic_keeps_ramps(area: Area, images: dict[str, Path], tmp_path: Path) -> None:
    seen = pixels(area.input)
    assert np.array_equal(pixels(images["native"]), seen.repeat(4, 1).repeat(4, 2))
    with rasterio.open(images["native"]) as dataset:
        assert dataset.descriptions == ("B4", "B3", "B2", "B8") and dataset.dtypes[0] == "int16" and area.fine.same(Grid.of(dataset))
    folder = draw_area(tmp_path / "ramp", town(192))
    ramp = np.broadcast_to(1000 + 40 * np.arange(48.0), (4, 48, 48)).copy()
    ramp[:, 10, 10] = -10000
    write_bands(folder / "sentinel2_10m.tif", ramp, Grid.read(folder / "sentinel2_10m.tif"))
    found = made(Area.open(folder), {}, {"resample": "cubic"}, tmp_path / "ramp.tif")
    centres = 1000 + 40 * ((np.arange(192) + 0.5) / 4 - 0.5)
    assert np.abs(found[:, 80:184, 8:184] - centres[8:184]).max() <= 0.5  # cubic convolution reproduces straight lines
    assert (found[:, 41:43, 41:43] == -10000).all() and found[:, 48:, 48:].min() > 1000  # no data stays, and does not enter the rest
    neighbours = np.delete(found[0, 36:48, 36:48].ravel(), 0)
    assert ((neighbours == -10000) | (neighbours > 900)).all()


def test_context_by_definition_whatever_the_strips(area: Area, images: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, whole = pixels(images["bicubic"]), pixels(images["bicubic-context"])
    with rasterio.open(images["bicubic-context"]) as dataset:
        names = list(dataset.descriptions)
    assert len(names) == 4 + 3 * 9 and names[:4] == ["B4", "B3", "B2", "B8"] and np.array_equal(whole[:4], base)
    for row, column in ((100, 77), (60, 130)):
        square = base[3, row - 4 : row + 5, column - 4 : column + 5]
        assert whole[names.index("mean B8 4"), row, column] == pytest.approx(square.mean(), abs=0.51)
        assert whole[names.index("deviation B8 4"), row, column] == pytest.approx(square.std(), abs=0.51)
    corner = np.pad(base[0], 16, mode="symmetric")[:33, :33]
    assert whole[names.index("mean B4 16"), 0, 0] == pytest.approx(corner.mean(), abs=0.51)
    monkeypatch.setattr(feature_images, "STRIP", 50)
    assert np.array_equal(made(area, images, {"context": "bicubic"}, tmp_path / "strips.tif"), whole)
    ramp = np.broadcast_to(np.arange(64.0) * 7, (2, 64, 64))
    features = feature_images.context_features(ramp, [4])
    assert features[-1][32, 32] == pytest.approx(4 * 7, rel=1e-3) and features[4][32, 32] == pytest.approx(7 * np.sqrt(80 / 12))
    assert not feature_images.context_features(np.full((1, 40, 40), 3.0), [4])[2:].any()


def test_unsharp_has_the_spectrum_of_its_example(area: Area, images: dict[str, Path], tmp_path: Path) -> None:
    base, sharp = pixels(images["bicubic"]), pixels(images["spot"])
    found = made(area, images, {"sharpen": "bicubic", "like": "spot", "limit": 1000}, tmp_path / "u.tif")
    ring = np.minimum((feature_images.radial_frequency((192, 192)) / np.sqrt(0.5) * 64).astype(int), 63)
    power = [np.bincount(ring.ravel(), (fft.dctn(one[0], norm="ortho") ** 2).ravel()) for one in (found, sharp, base)]
    used = slice(1, 45)
    assert np.allclose(power[0][used], power[1][used], rtol=0.02) and not np.allclose(power[2][used], power[1][used], rtol=0.5)
    assert found.mean((1, 2)) == pytest.approx(base.mean((1, 2)), abs=0.1)
    again = made(area, images, {"sharpen": "spot", "like": "spot"}, tmp_path / "same.tif")
    assert np.abs(again - sharp).max() <= 1
    mild = made(area, images, {"sharpen": "bicubic", "like": "spot", "limit": 1.5}, tmp_path / "mild.tif")
    spectra = [np.abs(fft.dctn(one[1], norm="ortho")) for one in (mild, base)]
    strong = spectra[1] > 200
    assert (spectra[0][strong] / spectra[1][strong]).max() < 1.6


def test_shuffled_detail_keeps_its_spectrum_and_loses_its_place(area: Area, images: dict[str, Path], tmp_path: Path) -> None:
    base, sharp = pixels(images["bicubic"]), pixels(images["spot"])
    first, same, other = (made(area, images, {"shuffle": "spot"}, tmp_path / f"{i}.tif", seed) for i, seed in enumerate((1, 1, 2)))
    assert np.array_equal(first, same) and not np.array_equal(first, other)
    before, after = sharp - base, first - base
    spectra = [np.abs(fft.rfft2(one, axes=(1, 2))) for one in (before, after)]
    assert np.abs(spectra[1] - spectra[0]).max() < 400  # rounding to whole DN: about 0.3 x 192
    assert after.std() == pytest.approx(before.std(), rel=0.01)
    assert abs(np.corrcoef(before[0].ravel(), after[0].ravel())[0, 1]) < 0.1
    between = [np.corrcoef(one[0].ravel(), one[1].ravel())[0, 1] for one in (before, after)]
    assert between[1] == pytest.approx(between[0], abs=0.01) and between[0] > 0.5  # bands stay as alike as they were


def test_stack_and_blend(area: Area, images: dict[str, Path], tmp_path: Path) -> None:
    native, spot = pixels(images["native"]), pixels(images["spot"])
    stacked = made(area, images, {"stack": ["spot", "native"]}, tmp_path / "s.tif")
    assert np.array_equal(stacked, np.concatenate([spot, native]))
    blended = made(area, images, {"blend": ["native", "spot"], "share": 0.25}, tmp_path / "b.tif")
    assert np.abs(blended - (0.75 * native + 0.25 * spot)).max() <= 0.5
    with pytest.raises(GridError, match="4 and 31 bands"):
        made(area, images, {"blend": ["native", "bicubic-context"]}, tmp_path / "x.tif")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tif", "s.tif"]


def test_spot_seen_at_10_m_is_what_sentinel2_sees(area: Area, images: dict[str, Path]) -> None:
    """Here Spot is the ground: degraded, it is Sentinel-2's image but for noise and the two fine MTFs."""
    difference = pixels(images["spot-10m"]) - pixels(images["bicubic"])
    assert np.abs(difference.mean((1, 2))).max() < 2 and difference.std() < 25
    steps = [np.diff(pixels(images[name]), axis=2).std() for name in ("spot", "spot-10m")]
    assert steps[0] > 1.5 * steps[1]


def test_wrong_date_adds_the_detail_of_the_other_date(area: Area, images: dict[str, Path], tmp_path: Path) -> None:
    found = made(area, images, {"other_date": str(F)}, tmp_path / "w.tif")
    detail = pixels(images["spot"]) - pixels(images["spot-10m"])
    assert np.abs(found - pixels(images["bicubic"]) - detail).max() <= 1.1
    plain = draw_area(tmp_path / "plain", town(80), world={"settings": {"date_gap": 0}})
    with pytest.raises(InputError, match="arm mine needs sentinel2_other_10m"):
        made(Area.open(plain), images, {"other_date": str(F)}, tmp_path / "x.tif")


@pytest.mark.usefixtures("serving")
def test_wrong_date_of_the_same_date_is_the_model_itself(area: Area, tmp_path: Path) -> None:
    folder = draw_area(tmp_path / "two", town(80))
    (folder / "sentinel2_other_10m.tif").symlink_to(folder / "sentinel2_10m.tif")
    two, images = Area.open(folder), {"bicubic": tmp_path / "bicubic.tif"}
    made(two, {}, {"resample": "cubic"}, images["bicubic"])
    f = made(two, {}, {"model": str(P)}, tmp_path / "f.tif")
    assert np.array_equal(f, pixels(two.input).repeat(4, 1).repeat(4, 2))
    assert np.abs(made(two, images, {"other_date": str(P)}, tmp_path / "w.tif") - f).max() <= 1


@pytest.mark.usefixtures("serving")
def test_all_bands_and_a_model_that_wants_more_than_four(tmp_path: Path) -> None:
    folder = draw_area(tmp_path / "stack", town(96))
    with rasterio.open(folder / "sentinel2_10m.tif") as dataset:
        profile, four = dataset.profile, dataset.read()
    more = np.concatenate([four, four[:1] + 100, four[1:2] + 200, four[:1], four[:1], four[2:3], four[3:]])
    with rasterio.open(folder / "sentinel2_stack_10m.tif", "w", **{**profile, "count": 10}) as dataset:
        dataset.write(more)
        dataset.descriptions = ("B4", "B3", "B2", "B8", "B5", "B6", "B7", "B8A", "B11", "B12")
    stacked, images = Area.open(folder), {}
    for arm in resolve(["s2-13-f"], {}, MODELS / "f-light-x4-10bands", None):
        images[arm.name] = tmp_path / f"{arm.name}.tif"
        make(arm, Making(stacked, images), images[arm.name])
    found = pixels(images["s2-13-f"])
    assert found.shape == (20, 96, 96) and np.array_equal(found[:4], pixels(images["bicubic"])) and np.abs(found[4] - found[0] - 100).max() <= 1
    assert np.array_equal(found[10:], pixels(images["f"])) and np.abs(found[10:14] - found[:4]).mean() < 300
    with rasterio.open(images["s2-13-f"]) as dataset:
        assert dataset.descriptions[0] == "s2-13 B4" and dataset.descriptions[19] == "f B12"


def test_arms_come_after_what_they_are_made_of() -> None:
    found = resolve(["s2-13-f", "shuffled"], {"mine": {"stack": ["f-p", "native"]}}, F, P)
    order = {arm.name: place for place, arm in enumerate(found)}
    assert all(order[source] < order[arm.name] for arm in found for source in arm.recipe.sources)
    shown = [arm.name for arm in found if not arm.hidden]
    assert sorted(shown) == ["bicubic", "bicubic-context", "s2-13-f", "shuffled"]  # what differences are taken from is always there
    mine = {arm.name: arm for arm in resolve(["mine"], {"mine": {"stack": ["f-p", "native"]}}, F, P)}
    assert mine["mine"].made_of == ("f-p", "native", "f", "p") and mine["f"].hidden and mine["f"].model == "bicubic-x4"
    kinds = {arm.name: (arm.kind, arm.control, arm.oracle) for arm in resolve(["native", "unsharp", "f-p", "blend", "spot-10m", "wrong-date"], {}, F, P)}
    assert kinds["native"] == ("native", False, False) and kinds["unsharp"] == ("unsharp", False, False) and kinds["spot-10m"] == ("oracle", False, True)
    assert kinds["wrong-date"] == ("control", True, False) and kinds["f-p"][0] == "stack" and kinds["blend"][0] == "blend" and kinds["f"][0] == "model"


def test_the_default_arms_are_those_that_can_be(area: Area, tmp_path: Path) -> None:
    assert default_arms([area], F, None) == ["native", "bicubic", "bicubic-context", "f", "spot"]
    folder = draw_area(tmp_path / "plain", town(80))
    (folder / "spot_2m5.tif").unlink()
    assert default_arms([area, Area.open(folder)], F, P) == ["native", "bicubic", "bicubic-context", "f", "p", "f-p", "blend"]


@pytest.mark.parametrize(
    ("names", "own", "message"),
    [
        (["nativ"], {}, r"no arm is called 'nativ' \(did you mean 'native'\?\); known: native"),
        (["p"], {}, "no arm is called 'p'; p needs --against"),
        (["a"], {"a": {"stack": ["b", "native"]}, "b": {"context": "a"}}, "made of itself: a -> b -> a"),
        (["a"], {"a": {"staple": 1}}, "expected one of resample, model"),
        (["a"], {"a": {"stack": ["f"]}}, "arm a: stack"),
        (["a"], {"a": {"context": "f", "radius": 3}}, "arm a: radius"),
        (["a"], {"a": {"stack": ["f", "native"], "blend": ["f", "native"]}}, "its recipe has"),
        (["f"], {"f": {"stack": ["native", "bicubic"]}}, "has a meaning already"),
        (["../x"], {"../x": {"context": "f"}}, "expected letters"),
    ],
)
def test_recipes_that_cannot_be(names: list[str], own: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(names, own, F, None)


def test_an_image_of_the_user_must_be_on_the_grid(area: Area, tmp_path: Path) -> None:
    assert np.array_equal(made(area, {}, {"image": "spot_2m5.tif"}, tmp_path / "ok.tif"), pixels(area.others["spot"]))
    write_bands(tmp_path / "off.tif", np.ones((4, 192, 192)), Grid(area.fine.left + 1, area.fine.top, 2.5, 2.5, 192, 192, area.fine.crs))
    with pytest.raises(GridError, match="grids differ"):
        made(area, {}, {"image": str(tmp_path / "off.tif")}, tmp_path / "bad.tif")
    with pytest.raises(InputError, match=r"arm mine needs nowhere\.tif"):
        made(area, {}, {"image": "nowhere.tif"}, tmp_path / "bad.tif")
    with pytest.raises(InputError, match="sentinel2_stack_10m"):
        made(area, {}, {"resample": "cubic", "all_bands": True}, tmp_path / "bad.tif")
    with pytest.raises(UsageError, match="from 1 to 64"):
        made(area, {"bicubic": tmp_path / "ok.tif"}, {"context": "bicubic", "radii": [100]}, tmp_path / "bad.tif")
    assert not list(tmp_path.glob("bad*"))
