"""Surface metrics against DeepMind's `surface-distance` and against shapes with known answers."""

import math

import numpy as np
import pytest
import SimpleITK as sitk
import surface_distance as oracle
from surface_distance import lookup_tables

from medstill.errors import ConfigError, LabelError, ShapeError
from medstill.evaluation.surface import diagonal_mm, surface_distances
from medstill.evaluation.surfels import neighbourhood_codes, surfel_sizes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SPACINGS = [(1.0, 1.0, 1.0), (3.0, 2.0, 1.0), (0.7, 5.0, 1.3), (2.5, 0.8, 0.9)]


def blob(seed, shape=(17, 23, 31)):
    rng = np.random.default_rng(seed)
    image = sitk.GetImageFromArray(rng.random(shape))
    smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(image, 1.5))
    return smooth > np.quantile(smooth, 0.8)


def ball(shape, spacing, centre_mm, radius_mm):
    axes = [np.arange(n) * s for n, s in zip(shape, spacing, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    squares = [(a - c) ** 2 for a, c in zip(grid, centre_mm, strict=True)]
    return sum(squares) <= radius_mm**2


@pytest.mark.parametrize("spacing", SPACINGS)
def test_surfel_areas_are_those_of_surface_distance_for_every_code(spacing):
    expected = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    np.testing.assert_allclose(surfel_sizes(spacing), expected, rtol=1e-12)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (3.0, 2.0), (0.7, 5.0)])
def test_contour_lengths_are_those_of_surface_distance_for_every_code(spacing):
    expected = lookup_tables.create_table_neighbour_code_to_contour_length(spacing)
    np.testing.assert_allclose(surfel_sizes(spacing), expected, rtol=1e-12)


def test_neighbourhood_codes_equal_a_loop_over_corners():
    mask = blob(0, (4, 5, 6))
    codes = neighbourhood_codes(mask)
    padded = np.pad(mask, 1)
    assert codes.shape == (5, 6, 7)
    for corner in np.ndindex(codes.shape):
        z, y, x = corner
        bits = padded[z : z + 2, y : y + 2, x : x + 2].ravel()
        assert codes[corner] == int("".join("1" if bit else "0" for bit in bits), 2)


def assert_equal_to_oracle(found, expected, tolerance_mm):
    assert found.hausdorff_mm() == pytest.approx(
        oracle.compute_robust_hausdorff(expected, 95), rel=1e-6
    )
    assert found.hausdorff_mm(100) == pytest.approx(
        oracle.compute_robust_hausdorff(expected, 100), rel=1e-6
    )
    assert found.surface_dice(tolerance_mm) == pytest.approx(
        oracle.compute_surface_dice_at_tolerance(expected, tolerance_mm), rel=1e-9
    )
    means = oracle.compute_average_surface_distance(expected)
    areas = [expected["surfel_areas_gt"].sum(), expected["surfel_areas_pred"].sum()]
    assert found.average_mm() == pytest.approx(np.average(means, weights=areas), rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spacing", SPACINGS)
def test_volumes_score_as_surface_distance_scores_them(spacing, seed):
    truth, prediction = blob(seed), blob(seed + 10)
    found = surface_distances(truth, prediction, spacing)
    expected = oracle.compute_surface_distances(truth, prediction, spacing)
    assert_equal_to_oracle(found, expected, 1.95)


@pytest.mark.parametrize("seed", range(3))
def test_one_slice_scores_as_surface_distance_scores_a_flat_image(seed):
    truth, prediction = blob(seed, (23, 31)), blob(seed + 10, (23, 31))
    found = surface_distances(truth[None], prediction[None], (7.0, 2.0, 1.0))
    expected = oracle.compute_surface_distances(truth, prediction, (2.0, 1.0))
    assert_equal_to_oracle(found, expected, 1.95)


@pytest.mark.parametrize("axis", [1, 2])
def test_one_slice_across_another_axis_scores_as_one_across_z(axis):
    rng = np.random.default_rng(axis)
    truth, prediction = rng.random((9, 7)) < 0.4, rng.random((9, 7)) < 0.4
    expected = surface_distances(truth[None], prediction[None], (5.0, 2.0, 1.5))
    spacing = list(np.insert([2.0, 1.5], axis, 5.0))
    shape = list(np.insert([9, 7], axis, 1))
    found = surface_distances(
        np.expand_dims(truth, axis), np.expand_dims(prediction, axis), spacing
    )
    assert found.hausdorff_mm() == expected.hausdorff_mm()
    assert found.average_mm() == expected.average_mm()
    assert found.surface_dice(2.0) == expected.surface_dice(2.0)
    assert diagonal_mm(shape, spacing) == diagonal_mm((1, 9, 7), (5.0, 2.0, 1.5))


@pytest.mark.parametrize(("axis", "step_mm"), [(0, 3.0), (1, 2.0), (2, 1.0)])
def test_a_voxel_that_moves_by_two_is_off_by_two_spacings(axis, step_mm):
    truth = np.zeros((9, 11, 13), bool)
    truth[3, 4, 5] = True
    found = surface_distances(truth, np.roll(truth, 2, axis), (3.0, 2.0, 1.0))
    # Of the 8 corners of the voxel, 4 are one voxel from the other surface and 4 are two.
    assert found.hausdorff_mm() == pytest.approx(2 * step_mm)
    assert found.average_mm() == pytest.approx(1.5 * step_mm)
    assert found.surface_dice(step_mm) == pytest.approx(0.5)
    assert found.surface_dice(0.99 * step_mm) == 0


def test_a_larger_ball_is_off_by_the_difference_of_the_radii():
    # Surfels sit on voxel corners: distances are right to half of the coarsest spacing.
    shape, spacing, centre = (49, 73, 145), (1.5, 1.0, 0.5), (36.0, 36.0, 36.0)
    small, large = (ball(shape, spacing, centre, r) for r in (20.0, 26.0))
    found = surface_distances(small, large, spacing)
    assert found.average_mm() == pytest.approx(6.0, abs=0.75)
    assert found.hausdorff_mm() == pytest.approx(6.0, abs=0.75)
    assert found.surface_dice(4.0) == 0
    assert found.surface_dice(8.0) == 1
    for surface, radius in ((found.truth, 20), (found.predicted, 26)):
        # The steps of a voxel surface make it larger than the smooth one.
        assert 1 < surface.sizes.sum() / (4 * math.pi * radius**2) < 1.2


def test_a_shifted_ball_is_off_by_the_shift_at_its_poles():
    shape, spacing = (49, 73, 165), (1.5, 1.0, 0.5)
    first, second = (ball(shape, spacing, (36.0, 36.0, x), 24.0) for x in (36.0, 44.0))
    found = surface_distances(first, second, spacing)
    assert found.hausdorff_mm(100) == pytest.approx(8.0, abs=0.75)
    # The distance at an angle from the shift is about 8 |cos|, with a mean of 4 over a ball.
    assert found.average_mm() == pytest.approx(4.0, abs=0.75)


def test_a_mask_has_a_surface_at_the_edge_of_the_image():
    whole = np.ones((3, 4, 5), bool)
    part = whole.copy()
    part[:, :, 4] = False
    assert surface_distances(whole, part, (3.0, 2.0, 1.0)).hausdorff_mm() == 1.0


def test_a_distance_equal_to_the_tolerance_is_within_it():
    truth = np.zeros((5, 6, 7), bool)
    truth[2, 2, 2] = True
    for step in (0.1, 0.7, 1.3):
        found = surface_distances(truth, np.roll(truth, 1, 2), (1.0, 1.0, step))
        assert found.surface_dice(step) == 1


def test_the_diagonal_counts_whole_voxels_and_no_axis_of_one_slice():
    assert diagonal_mm((1, 3, 4), (9.0, 1.0, 1.0)) == 5
    assert diagonal_mm((2, 3, 6), (1.0, 1.0, 1.0)) == 7


def test_no_distance_is_longer_than_the_diagonal():
    truth, prediction = np.zeros((2, 5, 6, 7), bool)
    truth[0, 0, 0] = prediction[-1, -1, -1] = True
    found = surface_distances(truth, prediction, (3.0, 2.0, 1.0))
    assert found.hausdorff_mm(100) == pytest.approx(math.hypot(4 * 3, 5 * 2, 6 * 1))
    assert found.hausdorff_mm(100) < diagonal_mm((5, 6, 7), (3.0, 2.0, 1.0))


def test_empty_masks_different_shapes_and_negative_tolerances_are_refused():
    mask, nothing = np.ones((2, 3, 4), bool), np.zeros((2, 3, 4), bool)
    with pytest.raises(LabelError, match="The prediction is empty"):
        surface_distances(mask, nothing, (1.0, 1.0, 1.0))
    with pytest.raises(LabelError, match="The truth is empty"):
        surface_distances(nothing, mask, (1.0, 1.0, 1.0))
    with pytest.raises(ShapeError, match="must have one shape"):
        surface_distances(mask, mask[:1], (1.0, 1.0, 1.0))
    with pytest.raises(ConfigError, match=r"0 mm or more, but it is -1 mm"):
        surface_distances(mask, mask, (1.0, 1.0, 1.0)).surface_dice(-1)
