"""Segmenting images in memory, with networks that are plain functions."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from medstill.deploy.restoring import SLAB_PLANES, probabilities
from medstill.deploy.segmentation import SegmentOptions, segment, volumes_ml
from medstill.errors import (
    DataError,
    ShapeError,
)
from medstill.volumes.geometry import restore
from medstill.volumes.preparation import prepare_image
from medstill.volumes.records import ChannelIntensity, Preparation, Seen

SPACING_XYZ = (1.0, 2.0, 3.0)
SHAPE_ZYX = (17, 23, 31)
PLAIN = ChannelIntensity(kind="none")


def preparation(**changes):
    settings = {
        "spatial_dims": 2,
        "spacing_zyx_mm": (None, 2.0, 1.0),
        "intensity": (PLAIN,),
        "classes": ("background", "organ"),
        "patch_zyx": (1, 16, 16),
    }
    return Preparation(**{**settings, **changes})


def threshold(array):
    """One logit, positive where the first channel exceeds a half."""
    return (20.0 * (array[:, :1] - 0.5)).astype(np.float32)


def one_hot(array):
    """Logits of four classes, largest for the class nearest to the intensity."""
    steps = [-10.0 * np.abs(array[:, :1] - value) for value in range(4)]
    return np.concatenate(steps, axis=1).astype(np.float32)


def l_shape(shape_zyx=SHAPE_ZYX):
    """An object that no mirroring or exchange of axes maps to itself."""
    array = np.zeros(shape_zyx, dtype=np.float32)
    array[3:14, 4:7, 5:9] = 1
    array[3:6, 4:19, 5:9] = 1
    array[3:6, 4:7, 5:26] = 1
    return array


def oblique():
    rotation = sitk.Euler3DTransform()
    rotation.SetRotation(0.3, -0.2, 0.5)
    return rotation.GetMatrix()


DIRECTIONS = {
    "LPS": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "RAS": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    "LAS": (1, 0, 0, 0, -1, 0, 0, 0, 1),
    "sagittal": (0, 0, -1, 1, 0, 0, 0, -1, 0),
    "oblique": oblique(),
}


def volume(array_ZYX, direction=DIRECTIONS["LPS"], spacing=SPACING_XYZ):
    image = sitk.GetImageFromArray(array_ZYX)
    image.SetSpacing(spacing)
    image.SetOrigin((11.25, -7.5, 103.125))
    image.SetDirection(direction)
    return image


def same_geometry(first, second):
    return (
        first.GetSize() == second.GetSize()
        and first.GetSpacing() == second.GetSpacing()
        and first.GetOrigin() == second.GetOrigin()
        and first.GetDirection() == second.GetDirection()
    )


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("dims", [2, 3])
def test_without_resampling_every_voxel_and_the_geometry_come_back_exactly(direction, dims):
    image = volume(l_shape(), direction)
    steps = {1.0, 2.0, 3.0}
    canonical = sitk.DICOMOrient(image, "LPS").GetSpacing()[::-1]
    assert set(canonical) == steps
    target = (None if dims == 2 else canonical[0], canonical[1], canonical[2])
    patch = (1, 16, 16) if dims == 2 else (8, 16, 16)
    found = segment(
        image, threshold, preparation(spatial_dims=dims, spacing_zyx_mm=target, patch_zyx=patch)
    )
    assert found.label.GetPixelID() == sitk.sitkUInt8
    assert same_geometry(found.label, image)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found.label), l_shape())


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("dims", [2, 3])
def test_with_resampling_the_object_stays_in_its_place(direction, dims):
    # A large ball out of the middle: its half-intensity surface survives interpolation.
    z, y, x = np.meshgrid(*(np.arange(n) for n in (34, 29, 37)), indexing="ij")
    squares = ((z - 14) * 1.5) ** 2 + ((y - 11) * 1.5) ** 2 + ((x - 22) * 1.5) ** 2
    distance_mm = np.sqrt(squares) - 12.0
    array = np.clip(0.5 - distance_mm / 8.0, 0, 1).astype(np.float32)
    image = volume(array, direction, (1.5, 1.5, 1.5))
    spacing = (None if dims == 2 else 2.5, 2.2, 1.9)
    patch = (1, 16, 16) if dims == 2 else (8, 16, 16)
    found = segment(
        image, threshold, preparation(spatial_dims=dims, spacing_zyx_mm=spacing, patch_zyx=patch)
    )
    assert same_geometry(found.label, image)
    truth, got = array > 0.5, sitk.GetArrayFromImage(found.label) > 0
    dice = 2 * (truth & got).sum() / (truth.sum() + got.sum())
    assert dice > 0.97


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("classes", [2, 4])
def test_slabs_give_what_the_whole_volume_gives(dims, classes):
    """Oracle: interpolate all probability maps at once with SimpleITK, then take the largest."""
    rng = np.random.default_rng(3)
    coarse = rng.uniform(-0.5, classes - 0.5, (5, 4, 5)).astype(np.float32)
    grown = sitk.Expand(sitk.GetImageFromArray(coarse), (6, 6, 8), sitk.sitkLinear)
    depth, height, width = 2 * SLAB_PLANES + 5, 21, 26
    array = sitk.GetArrayFromImage(grown)[:depth, :height, :width]
    image = volume(array)
    function = threshold if classes == 2 else one_hot
    names = ("background", "a", "b", "c")[:classes]
    target = (None if dims == 2 else 4.1, 3.3, 1.7)
    chosen = preparation(
        spatial_dims=dims,
        spacing_zyx_mm=target,
        patch_zyx=(1, 12, 16) if dims == 2 else (6, 12, 16),
        classes=names,
    )
    found = segment(image, function, chosen)
    expected = _all_at_once(image, function, chosen)
    got = sitk.GetArrayFromImage(found.label)
    assert len(np.unique(expected)) == classes
    # Interpolation weights are rounded differently inside a slab: only ties may differ.
    assert (got != expected).mean() < 1e-3


def _all_at_once(image, function, chosen):
    prepared = prepare_image(image, chosen)
    # The networks here look at single voxels, so tiles play no part.
    logits = function(prepared.array_CZYX[np.newaxis])[0].astype(np.float64)
    if len(logits) == 1:
        logits = np.concatenate([np.zeros_like(logits), logits])
    maps = np.exp(logits) / np.exp(logits).sum(axis=0)
    restored = restore(maps.astype(np.float32), prepared.frame)
    return sitk.GetArrayFromImage(restored).argmax(axis=-1)


def test_volumes_are_voxels_times_voxel_volume():
    found = segment(volume(l_shape()), threshold, preparation())
    assert found.volumes_ml == {"organ": pytest.approx(l_shape().sum() * 6.0 / 1000.0)}


def test_volumes_name_classes_that_are_absent():
    label = np.array([[[0, 2, 2]]], dtype=np.uint8)
    assert volumes_ml(label, (10.0, 10.0, 10.0), ("background", "a", "b", "c")) == {
        "a": 0.0,
        "b": 2.0,
        "c": 0.0,
    }


@pytest.mark.parametrize("classes", [2, 4])
def test_probabilities_sum_to_one_and_agree_with_the_labels(classes):
    names = ("background", "a", "b", "c")[:classes]
    image = volume((classes - 1) * l_shape(), DIRECTIONS["RAS"])
    function = threshold if classes == 2 else one_hot
    chosen = preparation(classes=names, spacing_zyx_mm=(None, 2.5, 1.3))
    found = segment(image, function, chosen, SegmentOptions(keep_probabilities=True))
    assert same_geometry(found.probabilities, image)
    maps = sitk.GetArrayFromImage(found.probabilities)
    assert maps.shape == (*SHAPE_ZYX, classes)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps.sum(axis=-1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(maps.argmax(axis=-1), sitk.GetArrayFromImage(found.label))
    without = segment(image, function, chosen)
    assert without.probabilities is None
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(without.label), sitk.GetArrayFromImage(found.label)
    )


def test_what_is_cropped_away_is_background():
    body = np.full((9, 40, 50), -1000.0, dtype=np.float32)
    body[:, 12:30, 20:40] = 30.0
    body[2:6, 15:20, 25:30] = 200.0
    chosen = preparation(
        intensity=(ChannelIntensity(kind="ct-window", low=-1000.0, high=240.0),),
        crop_to_body=True,
    )
    found = segment(
        volume(body),
        lambda array: 50 * (array - 0.9),
        chosen,
        SegmentOptions(keep_probabilities=True),
    )
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found.label), body > 100)
    maps = sitk.GetArrayFromImage(found.probabilities)
    np.testing.assert_allclose(maps.sum(axis=-1), 1.0, atol=1e-6)
    assert maps[0, 0, 0, 0] == 1.0


def test_probabilities_of_logits_are_those_of_the_definition():
    logits = np.array([[-200.0, -1.5, 0.0, 3.0, 200.0]], dtype=np.float32)
    wide = logits.astype(np.float64)
    np.testing.assert_allclose(probabilities(logits), 1 / (1 + np.exp(-wide)), atol=1e-7)
    three = np.array([[1.0, 900.0], [2.0, 899.0], [4.0, -900.0]], dtype=np.float32)
    shifted = np.exp(three.astype(np.float64) - three.max(axis=0))
    np.testing.assert_allclose(probabilities(three), shifted / shifted.sum(axis=0), atol=1e-7)
    assert probabilities(logits).dtype == probabilities(three).dtype == np.float32


def test_batches_of_any_size_give_the_same():
    sizes = []

    def counting(array):
        sizes.append(len(array))
        return threshold(array)

    labels = []
    for batch_size in (1, 5, 64):
        found = segment(
            volume(l_shape()), counting, preparation(), SegmentOptions(batch_size=batch_size)
        )
        labels.append(sitk.GetArrayFromImage(found.label))
        assert max(sizes) <= batch_size
        sizes.clear()
    for label in labels[1:]:
        np.testing.assert_array_equal(label, labels[0])


def test_outside_of_what_training_saw_there_are_warnings_with_figures():
    seen = Seen(spacing_zyx_mm=((1.0, 1.5), (1.9, 2.1), (0.9, 1.1)), intensity=((-1.0, 0.2),))
    found = segment(volume(l_shape()), threshold, preparation(seen=seen))
    assert len(found.warnings) == 2
    assert "spacing along z is 3 mm, but training saw 1 to 1.5 mm" in found.warnings[0]
    assert "channel 0 reach from 0 to 1" in found.warnings[1]
    assert "training saw -1 to 0.2" in found.warnings[1]


def test_spacing_is_compared_in_canonical_axes():
    seen = Seen(spacing_zyx_mm=((2.0, 2.0), (1.0, 1.0), (3.0, 3.0)), intensity=((0.0, 1.0),))
    image = volume(l_shape(), DIRECTIONS["sagittal"])
    assert sitk.DICOMOrient(image, "LPS").GetSpacing() == (3.0, 1.0, 2.0)
    chosen = preparation(seen=seen, spacing_zyx_mm=(None, 1.0, 3.0))
    assert segment(image, threshold, chosen).warnings == ()


def test_within_what_training_saw_there_are_none():
    seen = Seen(spacing_zyx_mm=((3.0, 3.0), (2.0, 2.0), (1.0, 1.0)), intensity=((0.0, 1.0),))
    assert segment(volume(l_shape()), threshold, preparation(seen=seen)).warnings == ()


def test_another_number_of_channels_is_refused():
    two = preparation(intensity=(PLAIN, PLAIN))
    with pytest.raises(DataError, match=r"Expected an image of 2 channel.*found 1.*CASE_0000"):
        segment(volume(l_shape()), threshold, two)


def test_a_network_of_other_classes_is_refused():
    with pytest.raises(ShapeError, match=r"Expected logits of shape.*for 2 classes.*same run"):
        segment(volume(l_shape()), one_hot, preparation())


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(wrong):
    def spoiled(array):
        logits = threshold(array)
        logits[-1, 0, 3, 4] = wrong
        return logits

    with pytest.raises(DataError, match=r"1 of the 256 .* between 0 and 0\. Check the units"):
        segment(volume(l_shape()), spoiled, preparation())


def test_finite_logits_of_any_size_are_taken():
    def vast(array):
        return np.where(array[:, :1] > 0.5, np.float32(3e38), np.float32(-3e38))

    found = segment(volume(l_shape()), vast, preparation(spacing_zyx_mm=(None, 2.0, 1.0)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found.label), l_shape())
