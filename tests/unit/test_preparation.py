from pathlib import Path

import numpy as np
import pytest

from medstill.config import DataConfig
from medstill.errors import GeometryError, IntensityError
from medstill.volumes.geometry import image_of
from medstill.volumes.labels import resolve_labels
from medstill.volumes.preparation import prepare_image, prepare_label, resolve_preparation
from medstill.volumes.records import Dataset, Geometry

SHAPE = (17, 23, 31)
GRID = Geometry((31, 23, 17), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
DATASET = Dataset(Path("data"), "pairs", ("ct",), {"background": 0, "organ": 4}, None, ())
SPACINGS = [(3.0, 2.0, 1.0), (5.0, 1.0, 1.5), (4.0, 1.2, 0.5)]


def preparation_of(spacings=SPACINGS, dataset=DATASET, **config):
    config = {"spatial_dims": 3, "patch_size": (16, 24, 32), **config}
    return resolve_preparation(dataset, DataConfig(**config), spacings)


def scan(fill=-1000.0):
    hu = np.full(SHAPE, fill, np.float32)
    hu[4:12, 8:16, 10:25] = 40.0
    return image_of(hu, GRID)


def label(value=4):
    array = np.zeros(SHAPE, np.uint8)
    array[4:12, 8:16, 10:25] = value
    return image_of(array, GRID)


def test_the_median_spacing_is_taken_axis_by_axis():
    assert preparation_of().spacing_zyx_mm == (4.0, 1.2, 1.0)
    assert preparation_of().patch_zyx == (16, 24, 32)


def test_slices_are_resampled_in_plane_only():
    preparation = preparation_of(spatial_dims=2, patch_size=(24, 32), spacing_mm=(1.0, 1.0))
    assert preparation.spacing_zyx_mm == (None, 1.0, 1.0)
    assert preparation.patch_zyx == (1, 24, 32)
    assert prepare_image(scan(), preparation).array_CZYX.shape == (1, 17, 46, 31)


def test_no_case_gives_no_median():
    with pytest.raises(GeometryError, match=r"found none. Set data.spacing_mm"):
        preparation_of(spacings=[])


def test_image_and_label_are_prepared_onto_one_grid():
    preparation = preparation_of(spacing_mm=(3.0, 1.0, 1.0))
    prepared = prepare_image(scan(), preparation)
    mapping = resolve_labels(DATASET, DataConfig())
    found = prepare_label(label(), preparation, prepared.frame, mapping)
    assert prepared.array_CZYX.dtype == np.float32
    assert prepared.array_CZYX.shape == (1, *found.shape) == (1, 17, 46, 31)
    # 40 HU is the middle of the default window; air is 0.
    np.testing.assert_allclose(prepared.array_CZYX[0][found == 0].min(), 0)
    assert prepared.array_CZYX[0][found == 1].max() == pytest.approx(0.5)
    assert (found == 1).sum() == 8 * 16 * 15


def test_a_crop_to_the_body_is_recorded_and_shared_with_the_label():
    preparation = preparation_of(spacing_mm=(3.0, 2.0, 1.0), crop_to_body=True)
    prepared = prepare_image(scan(), preparation)
    assert prepared.frame.crop_zyx == ((0, 16), (3, 21), (0, 31))
    mapping = resolve_labels(DATASET, DataConfig())
    found = prepare_label(label(), preparation, prepared.frame, mapping)
    np.testing.assert_array_equal(found == 1, prepared.array_CZYX[0] == 0.5)
    assert found.shape == (16, 18, 31)


def test_other_channels_than_in_training_are_refused():
    colour = Dataset(Path("data"), "pairs", ("colour",), {"vessel": 1}, None, ())
    with pytest.raises(IntensityError, match=r"image of 3 channel\(s\).*found 1"):
        prepare_image(scan(), preparation_of(dataset=colour))


def test_a_label_of_another_size_is_refused():
    preparation = preparation_of()
    small = image_of(
        np.zeros((17, 23, 30), np.uint8),
        Geometry((30, 23, 17), GRID.spacing_xyz_mm, GRID.origin_xyz_mm, GRID.direction),
    )
    mapping = resolve_labels(DATASET, DataConfig())
    with pytest.raises(GeometryError, match=r"'liver.nii'.*\(31, 23, 17\).*found \(30, 23, 17\)"):
        prepare_label(
            small,
            preparation,
            prepare_image(scan(), preparation).frame,
            mapping,
            source="liver.nii",
        )
