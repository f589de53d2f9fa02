"""Every measure of a map by hand on tiny arrays, against scikit-learn and scikit-image, and independent of windows."""

import numpy as np
import pytest
from scipy import ndimage

from otbsr.evaluation import accuracy as ac
from otbsr.evaluation.accuracy import Legend, Truth

HAND = np.array([[8.0, 2, 0], [1, 5, 4], [0, 0, 0]])
LEGEND = Legend(("building", "road", "field"), artificial=(0, 1), building=(0,), road=(1,))


def truth_of(labels: np.ndarray, legend: Legend = LEGEND, blocks: np.ndarray | None = None, spacing: float = 2.5, cell: int = 4) -> Truth:
    blocks = np.zeros(labels.shape, int) if blocks is None else blocks
    return Truth(labels, blocks, int(blocks.max()) + 1, legend, spacing, (slice(None), slice(None)), cell)


def field(*shape: int) -> np.ndarray:
    return np.full(shape, 3, np.uint8)


# --- from confusion matrices ---


def test_measures_by_hand() -> None:
    assert ac.accuracy(HAND) == pytest.approx(13 / 20)
    assert ac.f1(HAND).tolist() == pytest.approx([16 / 19, 10 / 17, 0])  # class 3 is mapped, but nowhere: 0 of 4
    assert ac.iou(HAND).tolist() == pytest.approx([8 / 11, 5 / 12, 0])
    assert ac.precision(HAND).tolist() == pytest.approx([8 / 9, 5 / 7, 0])
    assert ac.recall(HAND).tolist() == pytest.approx([8 / 10, 5 / 10, np.nan], nan_ok=True)
    assert ac.bias(HAND).tolist() == pytest.approx([-1 / 10, -3 / 10, np.nan], nan_ok=True)
    assert ac.macro_f1(HAND) == pytest.approx((16 / 19 + 10 / 17) / 2)  # over the classes of the reference
    chance = (10 * 9 + 10 * 7 + 0 * 4) / 400
    assert ac.kappa(HAND) == pytest.approx((13 / 20 - chance) / (1 - chance))
    assert np.isnan(ac.f1(np.zeros((2, 2)))).all()
    assert ac.merged(HAND, (0, 1)).tolist() == [[16, 4], [0, 0]]


def test_artificial_surfaces_are_a_class_of_their_own() -> None:
    """A building mapped as road is right as an artificial surface."""
    found = ac.measures(LEGEND, 1)
    sums = {"confusion": np.array([[8.0, 2, 1], [3, 4, 1], [2, 2, 20]])}
    assert found["artificial_f1"].of(sums) == pytest.approx(2 * 17 / (19 + 21))
    assert found["artificial_iou"].of(sums) == pytest.approx(17 / 23)
    assert found["artificial_bias"].of(sums) == pytest.approx(21 / 19 - 1)
    assert found["artificial_area_error"].of({"confusion": np.array([[8.0, 0, 4], [0, 0, 0], [0, 0, 9]])}) == pytest.approx(4 / 12)
    assert "artificial_f1" not in ac.measures(Legend(("a", "b")), 1) and "false_buildings" not in ac.measures(Legend(("a", "b")), 1)


def test_measures_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    truth, found = random.integers(1, 6, (60, 60)), random.integers(1, 6, (60, 60))
    found[:40] = truth[:40]
    found[40:42] = truth[40:42] % 5 + 1
    matrix = ac.confusion(truth, found, 5, np.zeros(truth.shape, int), 1)[0]
    legend = Legend(tuple("abcde"))
    sums = ac.count(truth_of(truth.astype(np.uint8), legend), found.astype(np.uint8))
    assert np.array_equal(matrix, sums["confusion"][0])
    flat = truth.ravel(), found.ravel()
    assert np.array_equal(matrix, metrics.confusion_matrix(*flat))
    assert ac.kappa(matrix) == pytest.approx(metrics.cohen_kappa_score(*flat))
    assert ac.macro_f1(matrix) == pytest.approx(metrics.f1_score(*flat, average="macro"))
    assert ac.iou(matrix).tolist() == pytest.approx(metrics.jaccard_score(*flat, average=None).tolist())
    assert ac.precision(matrix).tolist() == pytest.approx(metrics.precision_score(*flat, average=None).tolist())
    assert ac.recall(matrix).tolist() == pytest.approx(metrics.recall_score(*flat, average=None).tolist())


def test_confusion_by_blocks() -> None:
    truth = np.array([[1, 1, 2], [0, 2, 2]])
    found = np.array([[1, 2, 2], [1, 2, 1]])
    blocks = np.array([[0, 0, 1], [0, 1, 1]])
    assert ac.confusion(truth, found, 2, blocks, 2).tolist() == [[[1, 1], [0, 0]], [[0, 0], [1, 2]]]
    with pytest.raises(ValueError, match="expected 1 to 2"):
        ac.confusion(truth, found * 3, 2, blocks, 2)


def test_a_judged_pixel_without_a_label_is_refused() -> None:
    labels = field(8, 8)
    mapped = labels.copy()
    mapped[3, 3] = 0
    with pytest.raises(ValueError, match="labels 0 to 3 where the map is judged; expected 1 to 3"):
        ac.count(truth_of(labels), mapped)
    labels[3, 3] = 0  # not judged: the map may hold anything there
    mapped[3, 3] = 255
    sums = ac.count(truth_of(labels), mapped)
    assert sums["confusion"].sum() == 63 and sums["cells"].sum() == 3 and not sums["fractions"][0, :, 0].any()
    with pytest.raises(ValueError, match="label 4 in the reference"):
        truth_of(labels + 1)
    with pytest.raises(ValueError, match="expected 1 to 2 without gaps"):
        Legend.of([{"code": 1, "name": "a"}, {"code": 5, "name": "b"}])


# --- 10 m cells ---


def test_cells_by_hand() -> None:
    """Two cells: one half building in the reference and a quarter in the map, one right; a third with an unjudged pixel is left out."""
    labels, mapped = field(4, 12), field(4, 12)
    labels[:2, :4] = 1
    mapped[:1, :4] = 1
    labels[0, 9] = 0
    sums = ac.count(truth_of(labels), mapped)
    assert sums["fractions"][0].tolist() == pytest.approx(np.array([[0.25**2, -0.25, 2], [0, 0, 2], [0.25**2, 0.25, 2]]))
    assert ac.fraction_rmse(sums["fractions"])[0].tolist() == pytest.approx([np.sqrt(0.25**2 / 2), 0, np.sqrt(0.25**2 / 2)])
    # of equals the lowest class: the half-built cell is building; the map's is field
    assert sums["cells"][0].tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 1]]
    assert ac.measures(LEGEND, 1)["accuracy_10m"].of(sums)[0] == pytest.approx(1 / 2)


def test_a_cell_of_two_blocks_is_left_out() -> None:
    labels = field(4, 8)
    blocks = np.zeros((4, 8), int)
    blocks[:, 6:] = 1
    assert ac.count(truth_of(labels, blocks=blocks), labels)["cells"].sum((1, 2)).tolist() == [1, 0]


# --- boundaries ---


def test_boundary_f1_by_hand() -> None:
    """An edge moved by d pixels is found within a tolerance of d, and not within less."""
    labels = field(20, 20)
    labels[:, :10] = 1
    for moved, expected in ((0, (1, 1)), (1, (1, 1)), (2, (0, 1)), (3, (0, 0))):
        mapped = field(20, 20)
        mapped[:, : 10 + moved] = 1
        counts = ac.count(truth_of(labels), mapped)["boundary"][0]
        assert counts[:, 0, 0].tolist() == [20, 20] and counts[:, 0, 2].tolist() == [20, 20]
        assert ac.boundary_f1(counts)[:, 0].tolist() == pytest.approx(list(expected)), moved
        assert ac.boundary_f1(counts)[:, 3].tolist() == pytest.approx(list(expected))  # artificial: building is the only one here
    assert ac.boundary_f1(np.array([[10.0, 5, 8, 8], [4, 0, 0, 0], [0, 0, 0, 0]])).tolist() == pytest.approx([2 * 0.5 / 1.5, 0, np.nan], nan_ok=True)


def test_tolerance_is_a_euclidean_distance() -> None:
    random = np.random.default_rng(1)
    labels = np.where(random.random((40, 40)) < 0.02, 1, 3).astype(np.uint8)
    truth = truth_of(labels)
    edge, near = truth.edges[0]
    distance = ndimage.distance_transform_edt(~edge)
    assert np.array_equal(near[0], distance <= 1) and np.array_equal(near[1], distance <= 2)


def test_unjudged_pixels_and_the_images_edge_make_no_boundary() -> None:
    labels = field(8, 8)
    labels[:, :4] = 1
    labels[:, 4:6] = 0
    assert ac.count(truth_of(labels), labels)["boundary"].sum() == 0


def test_a_border_between_two_artificial_classes_is_none_of_the_artificial_surface() -> None:
    labels = field(8, 8)
    labels[:4, :4], labels[:4, 4:] = 1, 2
    edges = truth_of(labels).edges
    assert edges[0][0].sum() == 7 and edges[3][0].sum() == 8


# --- objects ---


def test_recall_by_building_area_by_hand() -> None:
    """Buildings of 4 (25 m2), 16 (100 m2), 64 (400 m2) and 256 pixels (1600 m2): the bins' ends belong to the upper bin."""
    labels = field(40, 60)
    for left, side in ((1, 2), (6, 4), (13, 8), (24, 16)):
        labels[2 : 2 + side, left : left + side] = 1
    mapped = labels.copy()
    mapped[2, 1:3] = 3  # half of the smallest: found
    mapped[2:5, 6:10] = 3  # three quarters of the second: missed
    mapped[2:18, 24:40] = 3  # all of the largest
    sizes = ac.count(truth_of(labels), mapped)["sizes"][0]
    assert sizes.tolist() == [[4, 2, 1, 1], [16, 4, 1, 0], [64, 64, 1, 1], [256, 0, 1, 0]]
    found = ac.measures(LEGEND, 1)
    assert [float(found[f"building_recall_{bin_}"].of({"sizes": sizes})) for bin_ in range(4)] == [0.5, 0.25, 1, 0]
    assert found["building_found_1"].name == "buildings 100–400 m²: found"


def test_objects_agree_with_scikit_image() -> None:
    measure = pytest.importorskip("skimage.measure")
    labels = np.where(ndimage.gaussian_filter(np.random.default_rng(2).random((120, 120)), 2) > 0.53, 1, 3).astype(np.uint8)
    sizes = ac.count(truth_of(labels), labels)["sizes"][0]
    areas = np.array([one.area for one in measure.regionprops(measure.label(labels == 1, connectivity=2))]) * 2.5**2
    edges = [0, 100, 400, 1600, np.inf]
    assert len(areas) > 20
    assert sizes[:, 2].tolist() == np.histogram(areas, edges)[0].tolist()
    assert sizes[:, 0].tolist() == pytest.approx((np.histogram(areas, edges, weights=areas)[0] / 2.5**2).tolist())


def test_an_object_counts_once_in_the_block_of_its_first_pixel() -> None:
    labels = field(8, 8)
    labels[2:6, 2:6] = 1
    blocks = np.zeros((8, 8), int)
    blocks[:, 4:] = 1
    sizes = ac.count(truth_of(labels, blocks=blocks), labels)["sizes"]
    assert sizes[:, 1].tolist() == [[8, 8, 1, 1], [8, 8, 0, 0]]


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8, 9])
def test_thickness_of_a_strip_is_its_width(width: int) -> None:
    for strip in (np.zeros((60, 40), bool), np.zeros((40, 60), bool).T):
        strip[:, 10 : 10 + width] = True
        bins = ac.thickness(strip, [2, 4, 8])
        assert set(bins[strip].tolist()) == {(width >= 2) + (width >= 4) + (width >= 8)} and not bins[~strip].any()
        assert np.array_equal(ac.thickness(strip.T, [2, 4, 8]), bins.T)


def test_thickness_of_a_slanting_strip_and_of_a_crossing() -> None:
    rows, columns = np.mgrid[:80, :80]
    slanting = np.abs(rows - columns) / np.sqrt(2) <= 3  # 6 pixels wide
    inner = (slice(15, -15), slice(15, -15))
    assert (ac.thickness(slanting, [2, 4, 8])[inner][slanting[inner]] == 2).mean() > 0.9
    crossing = np.zeros((80, 80), bool)
    crossing[38:41], crossing[:, 38:41] = True, True
    assert ac.thickness(crossing, [2, 4, 8]).max() == 2 and ac.thickness(crossing, [2, 4, 8])[39, 5] == 1  # wider where they cross


def test_recall_by_road_width_by_hand() -> None:
    labels = field(40, 60)
    labels[:, 10:11], labels[:, 20:22], labels[:, 30:34], labels[:, 42:50] = 2, 2, 2, 2
    mapped = labels.copy()
    mapped[:10, 30:34] = 3
    mapped[:, 10:11] = 1
    widths = ac.count(truth_of(labels), mapped)["widths"][0]
    assert widths.tolist() == [[40, 0], [80, 80], [160, 120], [320, 320]]


def test_hallucinated_buildings_by_hand() -> None:
    """Of five mapped buildings one is real, one touches a real one within 2 pixels, one is too small to count, two are none; the baseline has one of these."""
    labels = field(40, 40)
    labels[2:6, 2:6] = 1
    labels[20:24, 20:24] = 1
    mapped = field(40, 40)
    mapped[2:6, 2:6] = 1
    mapped[20:24, 26:30] = 1  # 3 pixels from the reference's last column: 2 between them, none near
    mapped[26:30, 20:24] = 1
    mapped[25:26, 20:24] = 1  # 2 pixels from it
    mapped[34, 2] = 1
    mapped[34:38, 34:38] = 1
    baseline = field(40, 40)
    baseline[37, 37] = 1
    invented = ac.count(truth_of(labels), mapped, baseline=baseline)["invented"][0]
    assert invented.tolist() == [4, 2, 1, 16]
    sums = {"invented": invented, "confusion": np.eye(3) * 400}
    found = ac.measures(LEGEND, 1e-3)
    assert found["false_buildings"].of(sums) == pytest.approx(2 / 1.2) and found["invented_buildings"].of(sums) == pytest.approx(1 / 1.2)
    assert found["invented_share"].of(sums) == pytest.approx(1 / 4) and not found["invented_share"].compared
    alone = ac.count(truth_of(labels), mapped)["invented"][0]
    assert alone[:2].tolist() == [4, 2] and np.isnan(alone[2:]).all()


# --- confidence and disagreement ---


def test_calibration_by_hand() -> None:
    """Ten pixels of confidence 0.85, six right, and ten of 0.35, four right: ECE = (0.25 + 0.05) / 2."""
    labels, mapped = np.ones((4, 5), np.uint8), np.ones((4, 5), np.uint8)
    confidence = np.full((4, 5), 0.85, np.float32)
    confidence[2:] = 0.35
    mapped.ravel()[[0, 1, 2, 3, 10, 11, 12, 13, 14, 15]] = 2
    sums = ac.count(truth_of(labels, Legend(("a", "b"))), mapped, confidence)
    assert ac.expected_calibration_error(sums["confidence"])[0] == pytest.approx((0.25 + 0.05) / 2, abs=1e-6)
    expected = (6 * 0.15**2 + 4 * 0.85**2 + 4 * 0.65**2 + 6 * 0.35**2) / 20
    assert ac.measures(Legend(("a", "b")), 1)["brier"].of(sums)[0] == pytest.approx(expected, abs=1e-6)
    number, sure, right = ac.calibration(sums["confidence"][0])
    assert number[8] == 10 and sure[8] == pytest.approx(0.85) and right[8] == pytest.approx(0.6) and number.sum() == 20
    confidence[:] = np.nan
    assert ac.count(truth_of(labels, Legend(("a", "b"))), mapped, confidence)["confidence"].sum() == 0


def test_brier_agrees_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(3)
    confidence, labels = random.random((30, 30)).astype(np.float32), random.integers(1, 3, (30, 30)).astype(np.uint8)
    mapped = random.integers(1, 3, (30, 30)).astype(np.uint8)
    sums = ac.count(truth_of(labels, Legend(("a", "b"))), mapped, confidence)
    assert (sums["brier"][0, 1] / sums["brier"][0, 0]) == pytest.approx(metrics.brier_score_loss((mapped == labels).ravel(), confidence.ravel()), abs=1e-6)


def test_disagreement_that_knows_the_errors_lowers_the_risk_and_one_that_does_not_leaves_it() -> None:
    random = np.random.default_rng(4)
    labels = np.ones((100, 100), np.uint8)
    mapped = np.where(random.random((100, 100)) < 0.2, 2, 1).astype(np.uint8)
    truth = truth_of(labels, Legend(("a", "b")))
    wrong = (mapped == 2).mean()
    for knows, area in ((True, wrong + (1 - wrong) * np.log(1 - wrong)), (False, wrong)):
        disagreement = np.where((mapped == 2) & knows, 500, 5).astype(np.uint16)
        counts = ac.count(truth, mapped, disagreement=disagreement)["disagreement"][0]
        assert counts.sum(0).tolist() == [10000, (mapped == 2).sum()]
        assert ac.area_under_risk(counts[:, 0], counts[:, 1]) == pytest.approx(area)
        coverage, risk = ac.risk_coverage(counts[:, 0], counts[:, 1])
        assert coverage[-1] == 1 and risk[-1] == pytest.approx(wrong) and (risk[0] == 0) == knows
    disagreement[:50] = ac.NO_DISAGREEMENT
    assert ac.count(truth, mapped, disagreement=disagreement)["disagreement"][0, :, 0].sum() == 5000


def test_area_under_risk_is_the_mean_over_every_coverage() -> None:
    pixels, wrong = np.array([3.0, 0, 2, 5]), np.array([1.0, 0, 1, 4])
    steps = np.linspace(0, 10, 200001)[1:]
    errors = np.interp(steps, [0, 3, 5, 10], [0, 1, 2, 6])
    assert ac.area_under_risk(pixels, wrong) == pytest.approx((errors / steps).mean(), abs=1e-4)


# --- McNemar's pixels ---


def test_discordant_pixels_are_thinned_on_a_lattice_of_the_area() -> None:
    labels = field(20, 20)
    mapped, baseline = labels.copy(), labels.copy()
    baseline[:, :10] = 1
    mapped[:5, 10:] = 1
    whole = ac.count(truth_of(labels), mapped, baseline=baseline, thinning=1)["discordant"][0]
    assert whole.tolist() == [200, 50]
    thin = ac.count(truth_of(labels), mapped, baseline=baseline, thinning=5)["discordant"][0]
    assert thin.tolist() == [4 * 2, 1 * 2]
    assert "discordant" not in ac.count(truth_of(labels), mapped, baseline=baseline)


def test_correlation_length_of_blocks_of_errors() -> None:
    """Errors in independent squares of n pixels: the autocorrelation falls linearly and is below 0.1 from 0.9 n on."""
    random = np.random.default_rng(5)
    for size in (4, 10, 20):
        wrong = (random.random((800 // size, 800 // size)) < 0.3).repeat(size, 0).repeat(size, 1)
        length = ac.correlation_length(wrong, np.ones(wrong.shape, bool), 200)
        assert 0.85 * size <= length <= 1.3 * size
    assert ac.correlation_length(random.random((400, 400)) < 0.3, np.ones((400, 400), bool), 50) == 1
    assert ac.correlation_length(np.zeros((9, 9), bool), np.ones((9, 9), bool), 4) == 1
    assert ac.correlation_length(np.indices((400, 400))[0] < 200, np.ones((400, 400), bool), 50) == 50


# --- windows ---


def test_windows_give_what_the_whole_area_gives() -> None:
    """Sums of windows with a halo against those of the whole; objects of the test are smaller than the halo."""
    random = np.random.default_rng(6)
    cover = (1 + random.integers(0, 3, (52, 52))).repeat(5, 0).repeat(5, 1)[:256, :256].astype(np.uint8)
    cover[:, ::16] = 3
    cover[::16] = 3  # cuts objects to less than 16 pixels
    mapped, baseline = (np.where(random.random((256, 256)) < 0.3, 1 + (cover + 1) % 3, cover).astype(np.uint8) for _ in range(2))
    mapped[:, ::16] = mapped[::16] = 3
    confidence, disagreement = random.random((256, 256)).astype(np.float32), random.integers(0, 900, (256, 256)).astype(np.uint16)
    blocks = np.add.outer(4 * (np.arange(256) // 64), np.arange(256) // 64)
    layers = (mapped, confidence, disagreement, baseline)
    whole = ac.count(truth_of(cover, blocks=blocks), *layers, thinning=7)
    parts: dict[str, np.ndarray] = {}
    for top in range(0, 256, 96):
        for left in range(0, 256, 96):
            outer = (slice(max(0, top - 64), top + 160), slice(max(0, left - 64), left + 160))
            starts = (top - outer[0].start, left - outer[1].start)
            core = (slice(starts[0], starts[0] + 96), slice(starts[1], starts[1] + 96))
            truth = Truth(cover[outer], blocks[outer], 16, LEGEND, 2.5, core, 4, (outer[0].start, outer[1].start))
            for key, table in ac.count(truth, *(layer[outer] for layer in layers), thinning=7).items():
                parts[key] = parts.get(key, 0) + table
    assert set(parts) == set(whole)
    for key, table in whole.items():
        assert parts[key] == pytest.approx(table), key


def test_measures_are_functions_of_sums() -> None:
    """Each measure of two blocks' sums together is that of the area; every measure has a value."""
    random = np.random.default_rng(7)
    labels = (1 + random.integers(0, 3, (16, 32))).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    labels[8:28, 10:40], labels[:, 100:110] = 1, 2
    mapped = np.where(random.random(labels.shape) < 0.3, 1 + labels % 3, labels).astype(np.uint8)
    confidence = random.random(labels.shape).astype(np.float32)
    blocks = np.zeros(labels.shape, int)
    blocks[:, 64:] = 1
    two, one = (ac.count(truth_of(labels, blocks=which), mapped, confidence, baseline=labels) for which in (blocks, np.zeros_like(blocks)))
    for key, measure in (ac.measures(LEGEND, 1) | ac.CLASS_MEASURES).items():
        value = measure.of({name: table.sum(0) for name, table in one.items()})
        assert measure.of({name: table.sum(0) for name, table in two.items()}) == pytest.approx(value, nan_ok=True), key
        assert measure.of(two).shape[0] == 2
    assert ac.measures(LEGEND, 1)["macro_f1"].of({"confusion": np.eye(3)}) == 1
