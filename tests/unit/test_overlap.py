"""Overlap metrics against loops over voxels, and the voxels that do not count."""

import numpy as np
import pytest

from medstill.errors import LabelError, ShapeError
from medstill.evaluation.overlap import count_voxels, dice_by_class, mean_by_class

SHAPE = (17, 23, 31)


def random_labels(seed, n_classes=4, shape=SHAPE):
    rng = np.random.default_rng(seed)
    return rng.integers(0, n_classes, shape).astype(np.uint8)


def slow_counts(truth, prediction, value):
    hits = misses = inventions = 0
    for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if t == 255:
            continue
        hits += t == value and p == value
        misses += t == value and p != value
        inventions += t != value and p == value
    return hits, misses, inventions


def test_all_four_metrics_equal_loops_over_voxels():
    truth, prediction = random_labels(0), random_labels(1)
    truth[3:9, :, 5:] = 255
    counts = count_voxels(truth, prediction, 4)
    for value in range(4):
        hits, misses, inventions = slow_counts(truth, prediction, value)
        assert counts.both_C[value] == hits
        assert counts.dice()[value] == 2 * hits / (2 * hits + misses + inventions)
        assert counts.iou()[value] == hits / (hits + misses + inventions)
        assert counts.recall()[value] == hits / (hits + misses)
        assert counts.precision()[value] == hits / (hits + inventions)


def test_a_cube_shifted_by_half_overlaps_by_half():
    truth = np.zeros((12, 14, 16), np.uint8)
    truth[2:6, 3:9, 4:12] = 1
    prediction = np.roll(truth, 4, axis=2)
    counts = count_voxels(truth, prediction, 2)
    found = [m()[1] for m in (counts.dice, counts.iou, counts.recall, counts.precision)]
    assert found == [0.5, 1 / 3, 0.5, 0.5]


def test_ignored_voxels_leave_every_metric_whatever_is_predicted_there():
    truth, prediction = random_labels(2), random_labels(3)
    truth[:, 4:9] = 255
    other = prediction.copy()
    other[:, 4:9] = 3
    np.testing.assert_array_equal(
        dice_by_class(truth, prediction, 4), dice_by_class(truth, other, 4)
    )
    assert not np.array_equal(
        dice_by_class(np.where(truth == 255, 0, truth), prediction, 4),
        dice_by_class(truth, prediction, 4),
    )


def test_empty_masks_are_nan_for_both_and_zero_for_one():
    truth = np.zeros((2, 3, 4), np.uint8)
    prediction = truth.copy()
    truth[0, 0, 0] = 1
    prediction[0, 0, 1] = 2
    np.testing.assert_array_equal(dice_by_class(truth, prediction, 4)[1:], [0, 0, np.nan])


def test_different_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"truth is \(2, 3, 4\) and the prediction \(2, 4, 3\)"):
        dice_by_class(np.zeros((2, 3, 4), np.uint8), np.zeros((2, 4, 3), np.uint8), 2)


@pytest.mark.parametrize(("which", "value"), [("truth", 7), ("prediction", 4), ("prediction", -1)])
def test_values_outside_the_classes_are_refused(which, value):
    volumes = {"truth": random_labels(4).astype(int), "prediction": random_labels(5).astype(int)}
    volumes[which][1, 2, 3] = value
    with pytest.raises(LabelError, match=rf"The {which} holds the values \[{value}\].*0 to 3"):
        dice_by_class(volumes["truth"], volumes["prediction"], 4)


def test_cases_are_averaged_where_they_have_the_class():
    cases = [np.array([1, 0.5, np.nan, np.nan]), np.array([1, 0.7, 0.2, np.nan])]
    found = mean_by_class(cases, ("background", "a", "b", "c"))
    assert found == {"a": pytest.approx(0.6), "b": 0.2}


def test_cases_without_any_class_are_refused():
    with pytest.raises(LabelError, match=r"None of the classes \['a'\] is in any of the 2 cases"):
        mean_by_class([np.array([1, np.nan])] * 2, ("background", "a"))
