"""What the class that users hold takes from their memory, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from medstill.deploy.quantise import quantise
from medstill.deploy.runtime import load_model
from medstill.deploy.segmenter import Segmenter
from medstill.errors import ConfigError, DataError, GeometryError, IntensityError, ShapeError
from tiny_onnx import write

SPACING = (2.5, 2.7, 1.4)


def values(dtype=np.float32):
    return np.random.default_rng(0).normal(0, 150, (4, 17, 19)).astype(np.int16).astype(dtype)


def image_of(array):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    return image


def label(found):
    return sitk.GetArrayFromImage(found.label)


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "model.onnx")


@pytest.fixture
def segmenter(path):
    return Segmenter(path, threads=1)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_values_that_are_not_finite_are_refused(path, precision, wrong):
    if precision == "int8":
        contract = load_model(path, threads=1).contract
        batches = [np.random.default_rng(n).random((2, 1, 16, 16), np.float32) for n in range(4)]
        quantise(path, contract, batches)
    segmenter, array = Segmenter(path, threads=1), values()
    array[2, 5, 7] = wrong
    with pytest.raises(IntensityError, match=r"^The array holds NaN or Inf: .*Replace them"):
        segmenter(array, spacing_zyx_mm=SPACING)
    with pytest.raises(IntensityError, match=r"^The image holds NaN or Inf: .*Replace them"):
        segmenter(image_of(array))


def test_one_channel_that_is_not_finite_is_enough(tmp_path):
    segmenter = Segmenter(write(tmp_path / "model.onnx", channels=2), threads=1)
    array = np.stack([values()] * 2)
    array[1, 3, 16, 18] = np.nan
    with pytest.raises(IntensityError, match="NaN or Inf"):
        segmenter(array, spacing_zyx_mm=SPACING)
    with pytest.raises(IntensityError, match="NaN or Inf"):
        segmenter(sitk.Compose([image_of(channel) for channel in array]))


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_constant_array_is_no_fault(segmenter, dtype):
    found = segmenter(np.full((4, 17, 19), 40, dtype), spacing_zyx_mm=SPACING)
    assert label(found).shape == (4, 17, 19)


@pytest.mark.parametrize(
    "dtype", [">i2", ">i4", ">f4", ">f8", np.float16, np.longdouble, np.int64, np.float64]
)
def test_numbers_of_any_dtype_are_the_same_numbers(segmenter, dtype):
    expected = label(segmenter(image_of(values(np.int16))))
    np.testing.assert_array_equal(label(segmenter(values(dtype), spacing_zyx_mm=SPACING)), expected)


def test_truth_values_are_zero_and_one(segmenter):
    asked, expected = values() > 0, (values() > 0).astype(np.uint8)
    np.testing.assert_array_equal(
        label(segmenter(asked, spacing_zyx_mm=SPACING)), label(segmenter(image_of(expected)))
    )


@pytest.mark.parametrize("dtype", [np.complex64, object, "M8[s]"])
def test_what_is_no_number_is_refused(segmenter, dtype):
    with pytest.raises(IntensityError, match=r"an array of integers or floating.*float32"):
        segmenter(values(np.int64).astype(dtype), spacing_zyx_mm=SPACING)


def test_a_complex_image_is_refused(segmenter):
    with pytest.raises(IntensityError, match=r"an image of integers or floating.*got one of compl"):
        segmenter(sitk.Cast(image_of(values()), sitk.sitkComplexFloat32))


def test_lists_are_refused_with_the_way_out(segmenter):
    with pytest.raises(ShapeError, match=r"a NumPy array, got list\. .*numpy\.asarray"):
        segmenter(values().tolist(), spacing_zyx_mm=SPACING)


@pytest.mark.parametrize("shape", [(0, 17, 19), (4, 17, 0)])
def test_an_axis_without_voxels_is_refused(segmenter, shape):
    with pytest.raises(ShapeError, match=rf"\(Z, Y, X\) with voxels, got .*\({shape[0]}, 17, "):
        segmenter(np.zeros(shape, np.int16), spacing_zyx_mm=SPACING)
    with pytest.raises(ShapeError, match="an image with voxels"):
        segmenter(sitk.Image(shape[::-1], sitk.sitkInt16))


@pytest.mark.parametrize("spacing", [(2.7, 1.4), (9.0, 2.5, 2.7, 1.4), 1.0, "abc", (1.0, None, 2)])
def test_a_spacing_is_three_numbers(segmenter, spacing):
    with pytest.raises(GeometryError, match="three numbers, a positive spacing in mm"):
        segmenter(values(), spacing_zyx_mm=spacing)


@pytest.mark.parametrize("spacing", [list(SPACING), np.array(SPACING)])
def test_three_numbers_may_come_in_any_sequence(segmenter, spacing):
    found = segmenter(values(), spacing_zyx_mm=spacing)
    assert found.label.GetSpacing() == SPACING[::-1]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"overlap": 1.0}, "overlap from 0 to below 1 .*got 1.0 and 2"),
        ({"overlap": float("nan")}, "overlap from 0 to below 1 .*got nan and 2"),
        ({"batch_size": 0}, "batch_size of 1 or more, got 0.5 and 0"),
        ({"threads": 0}, "threads must be 1 or more"),
    ],
)
def test_numbers_out_of_range_are_refused_before_any_image(path, wrong, told):
    with pytest.raises(ConfigError, match=told):
        Segmenter(path, **wrong)


def test_the_other_channels_are_found_beside_a_channel_file(tmp_path):
    segmenter = Segmenter(write(tmp_path / "model.onnx", channels=2), threads=1)
    array = np.stack([values(np.int16), values(np.int16)[::-1]])
    for channel, raw in enumerate(array):
        sitk.WriteImage(image_of(raw), tmp_path / f"a_000{channel}.nii.gz")
    expected = label(segmenter(array, spacing_zyx_mm=SPACING))
    for channel in range(2):
        found = segmenter(tmp_path / f"a_000{channel}.nii.gz")
        np.testing.assert_array_equal(label(found), expected)


def test_a_channel_file_alone_is_told_what_is_missing(tmp_path):
    segmenter = Segmenter(write(tmp_path / "model.onnx", channels=2), threads=1)
    sitk.WriteImage(image_of(values()), tmp_path / "a_0000.nii.gz")
    with pytest.raises(DataError, match=r"2 channel.*CASE_0000, CASE_0001, \.\.\. side by side"):
        segmenter(tmp_path / "a_0000.nii.gz")


@pytest.mark.parametrize("given", [[[1.0]], b"scan.nii.gz", None, 7])
def test_what_is_no_image_is_told_to_be_none_with_and_without_a_spacing(segmenter, given):
    for options in ({}, {"spacing_zyx_mm": SPACING}):
        with pytest.raises(ShapeError, match="Expected a path, a SimpleITK image or a NumPy array"):
            segmenter(given, **options)


@pytest.mark.parametrize("given", [42, None, b"model.onnx"])
def test_what_is_no_model_is_told_to_be_none(given):
    with pytest.raises(
        ConfigError, match=r"an exported file or a loaded model, got (int|None|byt)"
    ):
        Segmenter(given)
