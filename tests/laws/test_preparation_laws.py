import numpy as np
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from medstill.volumes.geometry import geometry_of, image_of, restore, shape_zyx
from medstill.volumes.labels import LabelMapping
from medstill.volumes.preparation import prepare_image, prepare_label
from medstill.volumes.records import ChannelIntensity, Geometry, Preparation

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
MAPPING = LabelMapping(("background", "a", "b"), {0: 0, 1: 1, 2: 2})
AXES = ("RL", "AP", "IS")

sizes = st.tuples(*(st.integers(3, 12),) * 3)
steps = st.tuples(*(st.sampled_from((0.7, 1.0, 1.6, 3.0)),) * 3)
targets = st.tuples(
    st.none() | st.sampled_from((1.0, 2.5)), *(st.sampled_from((0.8, 1.0, 2.1)),) * 2
)
codes = st.permutations(range(3)).flatmap(
    lambda order: st.tuples(*(st.sampled_from(AXES[axis]) for axis in order)).map("".join)
)
grids = st.builds(
    lambda size, step: Geometry(size, step, (5.0, -7.0, 11.0), IDENTITY), sizes, steps
)
law = settings(max_examples=30, deadline=None)


def preparation(spacing_zyx):
    return Preparation(
        spatial_dims=3,
        spacing_zyx_mm=spacing_zyx,
        intensity=(ChannelIntensity(kind="ct-window", low=-160.0, high=240.0),),
        classes=MAPPING.classes,
        patch_zyx=(16, 16, 16),
    )


def scan(grid, seed=0):
    hu = np.random.default_rng(seed).normal(40.0, 80.0, size=shape_zyx(grid))
    return image_of(hu.astype(np.float32), grid)


def label(grid, seed=0):
    values = np.random.default_rng(seed).integers(0, 3, size=shape_zyx(grid))
    return image_of(values.astype(np.uint8), grid)


def block(grid):
    """A label of two blocks, so that interpolation has something smooth to keep."""
    values = np.zeros(shape_zyx(grid), np.uint8)
    z, y, x = (length // 3 for length in values.shape)
    values[z:, y:, x:] = 1
    values[z:, y:, 2 * x :] = 2
    return image_of(values, grid)


@law
@given(grids, codes)
def test_a_label_comes_back_voxel_by_voxel_where_nothing_is_resampled(grid, code):
    image, truth = (sitk.DICOMOrient(volume, code) for volume in (scan(grid), label(grid)))
    how = preparation(grid.spacing_xyz_mm[::-1])
    frame = prepare_image(image, how).frame
    back = restore(prepare_label(truth, how, frame, MAPPING), frame)
    assert geometry_of(back) == geometry_of(image)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(truth))


@law
@given(grids, codes)
def test_a_label_comes_back_from_finer_voxels(grid, code):
    image, truth = (sitk.DICOMOrient(volume, code) for volume in (scan(grid), block(grid)))
    x, y, z = grid.spacing_xyz_mm
    how = preparation((z / 3, y / 3, x / 3))
    frame = prepare_image(image, how).frame
    back = restore(prepare_label(truth, how, frame, MAPPING), frame)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(truth))


@law
@given(grids, targets, codes)
def test_the_orientation_of_the_file_changes_nothing(grid, target, code):
    how = preparation(target)
    plain = prepare_image(scan(grid), how)
    turned = prepare_image(sitk.DICOMOrient(scan(grid), code), how)
    np.testing.assert_allclose(turned.array_CZYX, plain.array_CZYX, atol=1e-5)
    labels = [
        prepare_label(truth, how, prepared.frame, MAPPING)
        for truth, prepared in (
            (block(grid), plain),
            (sitk.DICOMOrient(block(grid), code), turned),
        )
    ]
    np.testing.assert_array_equal(*labels)


@law
@given(grids, targets, st.integers(0, 2))
def test_mirroring_commutes_with_preparation(grid, target, axis):
    how = preparation(target)
    mirrored = image_of(np.flip(sitk.GetArrayFromImage(scan(grid)), axis), grid)
    np.testing.assert_allclose(
        prepare_image(mirrored, how).array_CZYX,
        np.flip(prepare_image(scan(grid), how).array_CZYX, axis + 1),
        atol=1e-5,
    )


@law
@given(grids, targets, st.sampled_from((0.5, 2.0, 10.0)))
def test_only_the_ratio_of_spacings_counts(grid, target, factor):
    larger = Geometry(
        grid.size_xyz,
        tuple(step * factor for step in grid.spacing_xyz_mm),
        grid.origin_xyz_mm,
        grid.direction,
    )
    scaled = tuple(None if step is None else step * factor for step in target)
    np.testing.assert_allclose(
        prepare_image(scan(larger), preparation(scaled)).array_CZYX,
        prepare_image(scan(grid), preparation(target)).array_CZYX,
        atol=1e-5,
    )
