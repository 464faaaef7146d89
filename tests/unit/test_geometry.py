import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from medstill.errors import GeometryError, ShapeError
from medstill.volumes.body import body_box
from medstill.volumes.geometry import (
    array_CZYX,
    canonical,
    canonical_spacing_zyx_mm,
    frame_of,
    geometry_of,
    image_of,
    resampled_grid,
    restore,
    shape_zyx,
)
from medstill.volumes.records import Geometry
from medstill.volumes.resampling import resample_image, resample_label

SHAPE = (17, 23, 31)
GRID = Geometry((31, 23, 17), (1.0, 2.0, 3.0), (-5.0, 7.0, 11.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
# A head tilted by 20 degrees about the left-right axis.
COS, SIN = np.cos(np.radians(20)), np.sin(np.radians(20))
OBLIQUE = (1.0, 0.0, 0.0, 0.0, COS, -SIN, 0.0, SIN, COS)


def noise_image(grid=GRID):
    return image_of(np.random.default_rng(0).normal(size=shape_zyx(grid)).astype(np.float32), grid)


def corners_mm(grid):
    """Outer faces of the outermost voxels, along each axis of the grid."""
    origin = np.reshape(grid.direction, (3, 3)).T @ np.array(grid.origin_xyz_mm)
    step, size = np.array(grid.spacing_xyz_mm), np.array(grid.size_xyz)
    return origin - step / 2, origin + (size - 0.5) * step


def test_array_and_image_share_their_axes():
    image = sitk.Image([31, 23, 17], sitk.sitkInt16)
    image[4, 5, 6] = 9
    assert array_CZYX(image).shape == (1, *SHAPE)
    assert array_CZYX(image)[0, 6, 5, 4] == 9


def test_an_array_that_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match=r"shape \(17, 23, 31\).*found \(31, 23, 17\)"):
        image_of(np.zeros((31, 23, 17), np.float32), GRID)


def test_a_flat_image_is_refused():
    with pytest.raises(GeometryError, match="3-D image, found 2 dimensions"):
        geometry_of(sitk.Image([4, 5], sitk.sitkUInt8))


@pytest.mark.parametrize("code", ["RAS", "LAS", "SPL", "ILA"])
def test_the_canonical_spacing_needs_no_voxels(code):
    turned = sitk.DICOMOrient(noise_image(), code)
    assert canonical_spacing_zyx_mm(geometry_of(turned)) == pytest.approx((3.0, 2.0, 1.0))
    assert canonical(turned).GetSpacing() == pytest.approx((1.0, 2.0, 3.0))


def test_resampling_keeps_the_field_of_view_and_the_centre():
    grid = resampled_grid(GRID, (4.5, 1.3, 1.0))
    assert grid.spacing_xyz_mm == (1.0, 1.3, 4.5)
    assert grid.size_xyz == (31, 36, 12)
    (low, high), (new_low, new_high) = corners_mm(GRID), corners_mm(grid)
    np.testing.assert_allclose(new_low + new_high, low + high, atol=1e-9)
    assert np.all(new_low <= low + 1e-9)
    assert np.all(low - new_low < np.array(grid.spacing_xyz_mm) / 2)


def test_equal_spacing_and_none_change_nothing():
    assert resampled_grid(GRID, (None, 2.0009, 0.9995)) == GRID


@pytest.mark.parametrize(
    ("step_mm", "target_zyx_mm", "message"),
    [
        (1000.0, (2.5, 2.7, 1.4), r"have 17143 x 7408 x 3600 voxels \(x, y, z\).* 1\.7e\+10"),
        (
            1.0,
            (1e-4,) * 3,
            r"has 24 x 20 x 9 voxels of 1 x 1 x 1 mm.* to 0\.0001 x 0\.0001 x 0\.0001",
        ),
        (
            1e307,
            (2.5, 2.7, 1.4),
            r"have 1e\+99 x 1e\+99 x 1e\+99 voxels.*Write the true voxel size into",
        ),
    ],
)
def test_a_grid_of_more_voxels_than_any_scan_is_refused(step_mm, target_zyx_mm, message):
    grid = replace(GRID, size_xyz=(24, 20, 9), spacing_xyz_mm=(step_mm,) * 3)
    with pytest.raises(GeometryError, match=message):
        frame_of(grid, target_zyx_mm)


def test_a_whole_body_and_an_image_of_any_size_as_it_is_are_no_such_grid():
    body = replace(GRID, size_xyz=(512, 512, 1000), spacing_xyz_mm=(1.37, 1.37, 2.0))
    assert resampled_grid(body, (0.5, 0.5, 0.5)).size_xyz == (1403, 1403, 4000)
    huge = replace(GRID, size_xyz=(100_000, 100_000, 2))
    assert resampled_grid(huge, (3.0, None, 1.0)) == huge


def test_a_ramp_is_resampled_to_its_exact_values():
    y, x = np.mgrid[:23, :31]
    ramp = np.broadcast_to(2.0 * y + 3.0 * x, SHAPE).astype(np.float32)
    grid = resampled_grid(GRID, (None, 1.0, 0.5))
    found = resample_image(image_of(ramp, GRID), grid)
    # Finer voxels lie at quarters of the old ones; linear interpolation is exact inside.
    fine_y, fine_x = np.arange(46) / 2 - 0.25, np.arange(62) / 2 - 0.25
    expected = 2.0 * fine_y[:, None] + 3.0 * fine_x
    np.testing.assert_allclose(found[5, 1:-1, 1:-1], expected[1:-1, 1:-1], atol=1e-4)


def test_coarser_voxels_are_smoothed_against_aliasing():
    stripes = np.zeros(SHAPE, np.float32)
    stripes[..., ::2] = 1.0
    found = resample_image(image_of(stripes, GRID), resampled_grid(GRID, (None, None, 4.0)))
    # Sampling alone would give stripes of 0 and 1 again, or one of the two.
    assert np.abs(found[..., 1:-1] - 0.5).max() < 0.1


def test_smoothing_keeps_the_mean_of_noise():
    image = noise_image()
    found = resample_image(image, resampled_grid(GRID, (None, 4.0, 3.0)))
    assert found.std() < 0.6 * sitk.GetArrayFromImage(image).std()
    assert found.mean() == pytest.approx(sitk.GetArrayFromImage(image).mean(), abs=0.02)


def test_labels_are_resampled_by_the_largest_share():
    label = np.zeros((1, 4, 6), np.uint8)
    label[0, :, 2:5] = 7
    label[0, :, 5] = 255
    grid = Geometry((6, 4, 1), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), GRID.direction)
    found = resample_label(image_of(label, grid), resampled_grid(grid, (None, None, 0.5)))
    np.testing.assert_array_equal(found[0, 0], [0] * 4 + [7] * 6 + [255] * 2)


def test_many_label_values_take_the_nearest_voxel():
    label = np.arange(40, dtype=np.uint8).reshape(1, 5, 8).repeat(2, axis=0)
    grid = Geometry((8, 5, 2), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), GRID.direction)
    found = resample_label(image_of(label, grid), resampled_grid(grid, (None, 0.5, 0.5)))
    np.testing.assert_array_equal(found, label.repeat(2, axis=1).repeat(2, axis=2))


def test_a_frame_can_be_sent_to_another_process():
    frame = frame_of(GRID, (None, 1.3, 1.3))
    assert pickle.loads(pickle.dumps(frame)) == frame


def test_what_was_cropped_comes_back_as_outside():
    box = ((3, 9), (2, 20), (5, 30))
    frame = frame_of(GRID, (None, None, None), crop_zyx=box)
    assert not frame.resampled
    assert frame.shape_zyx == (6, 18, 25)
    inside = restore(np.ones((2, 6, 18, 25), np.float32), frame, outside=(0.0, 5.0))
    assert geometry_of(inside) == GRID
    expected = np.zeros((2, *SHAPE))
    expected[1] = 5.0
    expected[:, 3:9, 2:20, 5:30] = 1.0
    np.testing.assert_array_equal(array_CZYX(inside), expected)


def test_an_oblique_volume_comes_back_voxel_by_voxel():
    grid = Geometry(GRID.size_xyz, GRID.spacing_xyz_mm, GRID.origin_xyz_mm, OBLIQUE)
    turned = sitk.DICOMOrient(noise_image(grid), "SAR")
    frame = frame_of(geometry_of(turned), (None, None, None))
    oriented = canonical(turned)
    back = restore(sitk.GetArrayFromImage(oriented), frame)
    assert geometry_of(back) == geometry_of(turned)
    np.testing.assert_allclose(array_CZYX(back), array_CZYX(turned), atol=1e-5)


def test_a_map_without_a_place_in_the_frame_is_refused():
    frame = frame_of(GRID, (None, None, None))
    with pytest.raises(ShapeError, match=r"found shape \(23, 31\)"):
        restore(np.zeros((23, 31), np.float32), frame)


@pytest.mark.parametrize("threshold", [-500.0, None])
def test_the_body_is_the_largest_bright_component(threshold):
    scan = np.full(SHAPE, -1000.0, np.float32)
    scan[4:12, 8:16, 10:25] = 40.0
    scan[4:12, 20:22, 2:30] = 40.0
    box = body_box(image_of(scan, GRID), threshold=threshold, margin_mm=4.0)
    assert box == ((2, 14), (6, 18), (6, 29))


def test_a_scan_without_body_is_kept_whole():
    scan = image_of(np.full(SHAPE, -1000.0, np.float32), GRID)
    assert body_box(scan, threshold=-500.0) == ((0, 17), (0, 23), (0, 31))


AXES = [
    "".join(letters)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*axes)
]


@pytest.mark.parametrize("code", AXES)
@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SLP"])
def test_the_canonical_grid_needs_no_voxels(code, orientation):
    turned = sitk.DICOMOrient(noise_image(replace(GRID, direction=OBLIQUE)), code)
    frame = frame_of(geometry_of(turned), (None, None, None), orientation=orientation)
    assert frame.canonical == geometry_of(canonical(turned, orientation))
