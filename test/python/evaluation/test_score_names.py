"""Every score of `otbsr quality` by name, and the tests that hold it: one that works its value out, one of how it answers to a known change.

A score that is added without a line here, or whose test is renamed or removed, fails.
"""

from __future__ import annotations

import ast
from pathlib import Path

from test_comparison import BLANK, CORRECTED

S, R, C, P, E = "streamed_quality", "opensr", "comparison", "perceptual", "edges"
HAND, OFFSET, FLAT, OWN = "pixel_scores_by_hand", "a_constant_offset_and_a_gain", "ssim_of_flat_images_by_hand", "what_lies_between_is_found_and_taken_away"
GONE, MOVED = "what_lies_between_the_sensors_is_gone_from_every_score", "cpsnr_is_the_best_of_all_displacements"
RINGS, FLAT_SR = "gain_of_detail_is_told_in_decibels", "scores_of_flat_images_by_hand"
ONE, FIVE = "correctness_of_one_pixel_by_hand", "five_pairs_have_the_scores_that_the_package_gave"
SPREAD, MTF = "known_point_spreads_are_recovered_within_3_percent", "mtf_by_hand"

TESTS: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "psnr": ((S, HAND), (S, "identical_images_are_perfect")),
    "rmse": ((S, HAND), (S, OFFSET)),
    "bias": ((S, HAND), (S, OFFSET)),
    "sam": ((S, HAND), (S, OFFSET)),
    "ergas": ((S, HAND), (S, "identical_images_are_perfect")),
    "uqi_global": ((S, HAND), (S, OFFSET)),
    "correlation": ((S, HAND), (S, OFFSET)),
    "spatial_correlation": ((S, "spatial_correlation_by_hand"), (S, OFFSET)),
    "uqi": ((S, FLAT), (S, "blur_lowers_what_measures_detail")),
    "ssim": ((S, FLAT), (S, "blur_lowers_what_measures_detail")),
    **dict.fromkeys(("cpsnr", "cpsnr_rows", "cpsnr_columns"), ((S, MOVED), (S, "cpsnr_keeps_its_digits"))),
    "frequency_gain": ((S, "the_spectrum_of_one_tile_by_definition"), (S, "the_cubic_input_restores_nothing_and_the_truth_everything")),
    "overshoot": ((S, RINGS), (S, "the_cubic_input_restores_nothing_and_the_truth_everything")),
    "undershoot": ((S, RINGS), (S, "the_cubic_input_restores_nothing_and_the_truth_everything")),
    "ring_correlation": ((S, "the_spectrum_of_one_tile_by_definition"), (S, "detail_in_the_wrong_place_has_power_and_no_correlation")),
    **dict.fromkeys((f"consistency_{name}" for name in ("rmse", "bias", "sam")), ((S, "consistency_by_hand"), (S, OFFSET))),
    **dict.fromkeys(
        (f"consistency_shift{axis}" for axis in ("", "_rows", "_columns")),
        ((S, "displacement_of_quadratic_ground_by_hand"), (S, "a_known_displacement_to_the_input_is_recovered")),
    ),
    "d_lambda": ((S, "d_lambda_by_hand"), (S, OFFSET)),
    "noise": ((S, "noise_of_a_chequerboard_by_hand"), (S, "known_noise_is_recovered_over_slopes_and_edges")),
    "noise_input": ((S, "noise_of_a_chequerboard_by_hand"), (S, "known_noise_is_recovered_over_slopes_and_edges")),
    **dict.fromkeys(("edge_mtf", "edge_sigma", *(f"edge_{what}_{end}" for what in ("mtf", "sigma") for end in ("low", "high"))), ((E, MTF), (E, SPREAD))),
    "edges": ((E, SPREAD), (E, SPREAD)),
    "opensr_reflectance": ((R, FLAT_SR), (R, FIVE)),
    "opensr_spectral": ((R, FLAT_SR), (R, FIVE)),
    "opensr_spatial": ((R, "a_displacement_by_an_input_pixel_is_one_pixel"), (R, FIVE)),
    "opensr_synthesis": ((R, FLAT_SR), (R, FIVE)),
    **dict.fromkeys((f"opensr_{name}{by}" for name in ("improvement", "omission", "hallucination") for by in ("", "_l1")), ((R, ONE), (R, FIVE))),
    **dict.fromkeys((f"opensr_{name}_gradient" for name in ("improvement", "omission", "hallucination")), ((R, "distances_by_hand"), (C, GONE))),
    **dict.fromkeys((f"between_{name}" for name in ("shift_rows", "shift_columns", "gain", "bias", "blur", "windows")), ((C, OWN), (C, GONE))),
    **dict.fromkeys((f"sensors_{name}" for name in ("shift_rows", "shift_columns", "gain", "bias", "blur", "windows")), ((C, GONE), (C, GONE))),
    **dict.fromkeys((f"{what}_shift_{name}" for what in ("between", "sensors") for name in ("error", "range")), ((C, "a_field_of_displacement_by_hand"),) * 2),
    "lpips_vgg": ((P, "lpips_by_hand"), (P, "identical_images_have_no_distance")),
    "lpips_alex": ((P, "lpips_by_hand"), (P, "identical_images_have_no_distance")),
    "dists": ((P, "dists_by_hand"), (P, "identical_images_have_no_distance")),
}
AFTER = {name: (C, GONE) for name in CORRECTED} | dict.fromkeys(("lpips_vgg", "lpips_alex", "dists"), (P, "the_corrected_image_is_looked_at_too"))
"""Tests of the scores of the corrected image."""


def test_every_score_is_held_by_a_test_by_hand_and_one_by_a_known_change():
    written = {}
    for name in (S, R, C, P, E):
        tree = ast.parse((Path(__file__).parent / f"test_{name}.py").read_text())
        written[name] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    missing = [
        (score, where, test) for score, pair in TESTS.items() for where, test in (*pair, AFTER.get(score, pair[0])) if f"test_{test}" not in written[where]
    ]
    assert not missing
    assert set(TESTS) == CORRECTED | BLANK | {"lpips_vgg", "lpips_alex", "dists"}  # that these are all there are, `test_comparison.py` says
