"""Scans that are prepared slab by slab give what preparing them as a whole gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk

from medstill.errors import GeometryError
from medstill.volumes.arriving import arrived
from medstill.volumes.axismaps import image_maps, linear_maps
from medstill.volumes.geometry import geometry_of, resampled_grid
from medstill.volumes.orienting import turn_of
from medstill.volumes.preparation import prepare_image
from medstill.volumes.records import ChannelIntensity, Preparation
from medstill.volumes.resampling import MOST_COARSER, resample_image
from medstill.volumes.slabs import SlabScan

WINDOW = ChannelIntensity(kind="ct-window", low=-160.0, high=240.0)
CODES = [
    "".join(letters)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*axes)
]


def scan(direction=(1, 0, 0, 0, 1, 0, 0, 0, 1), channels=1, seed=0):
    shape = (17, 23, 31) if channels == 1 else (17, 23, 31, channels)
    values = np.random.default_rng(seed).normal(30, 150, shape).astype(np.int16)
    image = sitk.GetImageFromArray(values, isVector=channels > 1)
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((11.25, -7.5, 103.125))
    image.SetDirection(direction)
    return image


def preparation(spacing=(None, 3.1, 2.3), kinds=(WINDOW,), **changes):
    settings = {
        "spatial_dims": 2,
        "spacing_zyx_mm": spacing,
        "intensity": kinds,
        "classes": ("background", "organ"),
        "patch_zyx": (1, 16, 16),
    }
    return Preparation(**{**settings, **changes})


@pytest.mark.parametrize("code", CODES)
def test_a_turned_view_holds_the_voxels_that_itk_gives(code):
    direction = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(code)
    image = scan(direction)
    turned = turn_of(geometry_of(image))(sitk.GetArrayViewFromImage(image))
    np.testing.assert_array_equal(turned, sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS")))


@pytest.mark.parametrize("times", [62.0, 63.0])
def test_what_is_too_fine_for_itk_to_smooth_is_refused(times):
    image = scan()
    prepared = preparation((None, 3.1, times))
    if times <= MOST_COARSER:
        assert np.isfinite(prepare_image(image, prepared).array_CZYX).all()
        SlabScan(arrived(image), prepared)
        return
    refusal = r"A spacing of 1 mm is too fine to be brought to 63 mm: expected at least 1/62"
    with pytest.raises(GeometryError, match=refusal):
        prepare_image(image, prepared)
    with pytest.raises(GeometryError, match=refusal):
        SlabScan(arrived(image), prepared)


@pytest.mark.parametrize("code", ["LPS", "RAS", "SLA", "IPR"])
@pytest.mark.parametrize(
    "spacing", [(None, 3.1, 2.3), (None, 1.2, 0.7), (4.4, 3.1, 0.9), (1.3, None, 5.0)]
)
def test_slabs_are_what_the_whole_is(code, spacing):
    image = scan(sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(code))
    spacing = tuple(2.0 if step is None and axis else step for axis, step in enumerate(spacing))
    whole = prepare_image(image, preparation(spacing))
    found = SlabScan(arrived(image), preparation(spacing))
    assert found.frame == whole.frame
    assert found.shape == whole.array_CZYX.shape
    everything = (slice(None), slice(0, found.shape[1]), slice(None), slice(None))
    np.testing.assert_allclose(found[everything], whole.array_CZYX, atol=1e-5)


def test_channels_and_blocks_come_in_any_order():
    kinds = (WINDOW, ChannelIntensity(kind="percentiles", low=1.0, high=99.0))
    image = scan(channels=2)
    chosen = preparation((2.0, 3.1, 2.3), kinds)
    whole, found = prepare_image(image, chosen).array_CZYX, SlabScan(arrived(image), chosen)
    for z0, z1 in ((0, 2), (1, 9), (9, 12), (20, 26), (3, 5), (0, 26)):
        index = (slice(None), slice(z0, z1), slice(2, 9), slice(1, 14))
        np.testing.assert_allclose(found[index], whole[index], atol=1e-5)


def test_a_crop_to_the_body_is_the_same():
    body = np.full((9, 40, 50), -1000, dtype=np.int16)
    body[:, 12:30, 20:40] = 30
    image = sitk.GetImageFromArray(body)
    image.SetSpacing((1.0, 2.0, 3.0))
    chosen = preparation(crop_to_body=True)
    whole, found = prepare_image(image, chosen), SlabScan(arrived(image), chosen)
    assert found.shape == whole.array_CZYX.shape
    assert found.shape[2] < 40 * 2 / 3.1
    np.testing.assert_allclose(found[:, 0:9, :, :], whole.array_CZYX, atol=1e-5)


@pytest.mark.parametrize("target", [(3.0, 2.0, 2.7), (9.0, 5.5, 0.4), (1.1, 7.0, 1.0)])
def test_axis_maps_resample_as_itk_does(target):
    image = sitk.Cast(scan(), sitk.sitkFloat32)
    old = geometry_of(image)
    new = resampled_grid(old, target)
    array = sitk.GetArrayFromImage(image)
    result = array
    for axis, (line, count) in enumerate(
        zip(image_maps(old, new), new.size_xyz[::-1], strict=True)
    ):
        if line is not None:
            result = line(result, axis - 3, slice(0, count), 0)
    expected = resample_image(image, new)
    np.testing.assert_allclose(result, expected, atol=1e-5 * np.abs(array).max())


def test_parts_of_an_axis_map_are_parts_of_its_result():
    old = geometry_of(scan())
    line = linear_maps(resampled_grid(old, (3.0, 2.0, 2.7)), old)[2]
    assert line is not None
    array = np.random.default_rng(1).random((4, 5, len(line.weights[0]))).astype(np.float32)
    whole = line(array, -1, slice(0, 31), 0)
    part, old_places = slice(7, 20), line.needed(slice(7, 20))
    found = line(array[..., old_places], -1, part, old_places.start)
    np.testing.assert_allclose(found, whole[..., part], atol=1e-6)
    lit = np.zeros_like(array)
    lit[..., 3:5] = 1.0
    reached = line.reached(slice(3, 5))
    places = np.flatnonzero(line(lit, -1, slice(0, 31), 0).any(axis=(0, 1)))
    assert (reached.start, reached.stop) == (places[0], places[-1] + 1)
