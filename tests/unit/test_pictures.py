"""Pictures of scans: the right slice, the right side, the right brightness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medstill.errors import GeometryError
from medstill.volumes.io import read_pair
from medstill.volumes.layouts import find_dataset
from medstill.volumes.pictures import fullest_slice, picture_of
from medstill.volumes.records import ChannelIntensity, Preparation

SPACING_ZYX = (3.0, 2.0, 1.0)
ABDOMEN = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "abdomen-ct"


def preparation(*kinds: ChannelIntensity) -> Preparation:
    return Preparation(
        spatial_dims=2,
        spacing_zyx_mm=(None, 2.0, 1.0),
        intensity=kinds,
        classes=("background", "a", "b"),
        patch_zyx=(1, 16, 16),
    )


CT = ChannelIntensity(kind="ct-window", low=-100.0, high=155.0)


@pytest.fixture
def scan() -> tuple[sitk.Image, sitk.Image]:
    """LPS scan (17, 23, 31): an object at the right front, brightest at one corner of it."""
    image_ZYX = np.full((17, 23, 31), -1000, np.int16)
    truth_ZYX = np.zeros((17, 23, 31), np.uint8)
    image_ZYX[4:6, 2:7, 3:12] = 50
    image_ZYX[4:6, 2, 3] = 155
    truth_ZYX[4, 2:7, 3:12] = 1
    truth_ZYX[5, 2:7, 3:11] = 2
    truth_ZYX[12] = 255
    images = [sitk.GetImageFromArray(array) for array in (image_ZYX, truth_ZYX)]
    for image in images:
        image.SetSpacing(SPACING_ZYX[::-1])
    return images[0], images[1]


def test_picture_takes_the_slice_with_most_foreground_and_not_the_ignored_one(scan) -> None:
    picture = picture_of(*scan, preparation(CT))
    assert int(picture["z"]) == 4
    assert picture["truth"].dtype == picture["image"].dtype == np.uint8
    assert picture["truth"].shape == picture["image"].shape == (23, 31)
    assert (picture["truth"] == 1).sum() == 5 * 9
    assert tuple(picture["spacing_yx_mm"]) == (2.0, 1.0)


def test_picture_shows_the_window_of_the_preparation(scan) -> None:
    image_YX = picture_of(*scan, preparation(CT))["image"]
    assert image_YX[0, 0] == 0
    assert image_YX[3, 5] == 150
    assert image_YX[2, 3] == 255


@pytest.mark.parametrize("orientation", ["RAS", "LAS", "SPL", "ARI"])
def test_picture_is_the_same_however_the_scan_is_stored(scan, orientation) -> None:
    expected = picture_of(*scan, preparation(CT))
    stored = [sitk.DICOMOrient(image, orientation) for image in scan]
    assert stored[0].GetDirection() != scan[0].GetDirection()
    found = picture_of(*stored, preparation(CT))
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_no_foreground_gives_the_middle_slice() -> None:
    truth_ZYX = np.zeros((7, 3, 4), np.uint8)
    assert fullest_slice(truth_ZYX) == 3
    truth_ZYX[1] = 255
    assert fullest_slice(truth_ZYX) == 3
    truth_ZYX[6, 0, 0] = 2
    assert fullest_slice(truth_ZYX) == 6


def test_colour_stays_colour_and_other_channels_show_the_first() -> None:
    array = np.zeros((1, 5, 7, 3), np.uint8)
    array[..., 0], array[..., 1] = 255, 100
    image = sitk.GetImageFromArray(array, isVector=True)
    truth = sitk.GetImageFromArray(np.ones((1, 5, 7), np.uint8))
    colour = picture_of(image, truth, preparation(*[ChannelIntensity(kind="colour")] * 3))
    assert colour["image"].shape == (5, 7, 3)
    assert colour["image"][0, 0].tolist() == [255, 100, 0]
    gray = picture_of(image, truth, preparation(*[ChannelIntensity(kind="gray")] * 3))
    assert gray["image"].shape == (5, 7)
    assert (gray["image"] == 255).all()


def test_unscaled_intensities_still_reach_black_and_white(scan) -> None:
    image = sitk.Cast(scan[0], sitk.sitkFloat32)
    image_YX = picture_of(image, scan[1], preparation(ChannelIntensity(kind="none")))["image"]
    assert image_YX.min() == 0
    assert image_YX.max() == 255


def test_truth_of_another_size_is_refused(scan) -> None:
    with pytest.raises(GeometryError, match=r"size of its image, \(31, 23, 17\).*found \(31, 23"):
        picture_of(scan[0], scan[1][:, :, :9], preparation(CT))


@pytest.mark.skipif(not ABDOMEN.is_dir(), reason="the abdominal CTs are not on this machine")
def test_liver_of_a_real_scan_is_on_the_left_of_the_picture() -> None:
    dataset = find_dataset(ABDOMEN)
    image, label = read_pair(dataset.labelled[0])
    assert image.GetDirection()[0] < 0 or image.GetDirection()[4] < 0
    truth = sitk.Cast(label, sitk.sitkUInt8)
    truth_YX = picture_of(image, truth, preparation(CT))["truth"]
    columns = {
        name: np.flatnonzero((truth_YX == dataset.labels[name]).any(axis=0)).mean()
        for name in ("liver", "spleen")
    }
    assert columns["liver"] < truth_YX.shape[1] / 2 < columns["spleen"]
