"""Laws that every metric obeys, whatever the masks."""

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medstill.evaluation.scores import score_case
from medstill.evaluation.statistics import holm, paired_comparison
from medstill.evaluation.surface import diagonal_mm, surface_distances
from medstill.volumes.components import largest_components

SHAPE = (4, 5, 7)
SPACING = (3.0, 2.0, 1.0)

masks = npst.arrays(bool, SHAPE).filter(np.any)
labels = npst.arrays(np.uint8, SHAPE, elements=st.integers(0, 2))
quick = settings(max_examples=40, deadline=None)


def numbers(truth, prediction, spacing=SPACING, tolerance_mm=1.5):
    found = surface_distances(truth, prediction, spacing)
    return found.hausdorff_mm(), found.average_mm(), found.surface_dice(tolerance_mm)


def score(truth, prediction, spacing=SPACING):
    return score_case(truth, prediction, spacing, ("a", "b"), case="c", patient="p").classes


@quick
@given(masks)
def test_a_mask_equals_itself(mask):
    assert numbers(mask, mask) == (0, 0, 1)


@quick
@given(masks, masks)
def test_truth_and_prediction_may_swap(truth, prediction):
    assert numbers(truth, prediction) == pytest.approx(numbers(prediction, truth))
    there = score(truth.astype(np.uint8), prediction.astype(np.uint8))[0]
    back = score(prediction.astype(np.uint8), truth.astype(np.uint8))[0]
    assert (there.dice, there.iou) == (back.dice, back.iou)
    assert (there.recall, there.precision) == (back.precision, back.recall)


@quick
@given(masks, masks, st.sampled_from([0.125, 0.25, 0.5, 2.0, 4.0, 8.0]))
def test_distances_scale_with_the_spacing(truth, prediction, factor):
    # Powers of two scale without rounding: HD95 may jump where surfaces of equal area tie at 95 %.
    hd95, assd, nsd = numbers(truth, prediction)
    scaled = numbers(truth, prediction, [factor * s for s in SPACING], factor * 1.5)
    assert scaled == pytest.approx((factor * hd95, factor * assd, nsd), rel=1e-5)


@quick
@given(masks, masks, st.permutations(range(3)))
def test_axes_may_be_exchanged_with_their_spacings(truth, prediction, order):
    turned = [mask.transpose(order) for mask in (truth, prediction)]
    found = numbers(*turned, [SPACING[axis] for axis in order])
    assert found == pytest.approx(numbers(truth, prediction), rel=1e-6)


@quick
@given(masks, masks, st.tuples(*[st.booleans()] * 3))
def test_axes_may_be_mirrored(truth, prediction, mirrored):
    axes = [axis for axis in range(3) if mirrored[axis]]
    found = numbers(np.flip(truth, axes), np.flip(prediction, axes))
    assert found == pytest.approx(numbers(truth, prediction), rel=1e-6)


@quick
@given(masks, masks)
def test_empty_space_around_changes_nothing(truth, prediction):
    wide = [np.pad(mask, ((1, 2), (3, 0), (2, 1))) for mask in (truth, prediction)]
    assert numbers(*wide) == pytest.approx(numbers(truth, prediction))


@quick
@given(masks, masks)
def test_distances_stay_below_the_diagonal_and_shares_within_0_and_1(truth, prediction):
    hd95, assd, nsd = numbers(truth, prediction)
    assert 0 <= hd95 <= diagonal_mm(SHAPE, SPACING) * (1 + 1e-6)
    assert 0 <= assd <= diagonal_mm(SHAPE, SPACING) * (1 + 1e-6)
    assert 0 <= nsd <= 1


@quick
@given(labels, labels)
def test_a_missing_structure_never_scores_better_than_a_found_one(truth, prediction):
    assume((truth == 1).any() and (prediction == 1).any())
    found = score(truth, prediction)[0]
    missed = score(truth, np.where(prediction == 1, 0, prediction))[0]
    assert missed.state == "missed"
    assert missed.dice <= found.dice
    assert missed.nsd <= found.nsd
    assert missed.hd95_mm >= found.hd95_mm * (1 - 1e-6)
    assert missed.assd_mm >= found.assd_mm * (1 - 1e-6)


@quick
@given(labels, labels, labels, npst.arrays(bool, SHAPE))
def test_what_is_predicted_in_ignored_voxels_does_not_matter(truth, prediction, other, ignored):
    truth = np.where(ignored, 255, truth).astype(np.uint8)
    assert score(truth, prediction) == score(truth, np.where(ignored, other, prediction))


@quick
@given(labels)
def test_keeping_the_largest_components_twice_is_keeping_them_once(label):
    once = largest_components(label)
    np.testing.assert_array_equal(largest_components(once), once)
    assert set(np.unique(once)) >= set(np.unique(label)) - {0}
    assert ((once == label) | (once == 0)).all()


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_raw_and_the_bonferroni_values(p_values):
    adjusted = holm(p_values)
    for raw, found in zip(p_values, adjusted, strict=True):
        assert raw <= found <= min(1, len(p_values) * raw) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=7))
def test_swapping_the_models_turns_the_difference_and_keeps_the_p_value(differences):
    treated = {str(i): value for i, value in enumerate(differences)}
    control = dict.fromkeys(treated, 0.0)
    there = paired_comparison(treated, control, resamples=199)
    back = paired_comparison(control, treated, resamples=199)
    assert there.difference.mean == pytest.approx(-back.difference.mean)
    assert there.p_value == pytest.approx(back.p_value)
    assert (there.higher, there.lower) == (back.lower, back.higher)
