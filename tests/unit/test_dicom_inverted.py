"""MONOCHROME1 is a matter of display: its voxels are those of the same series as MONOCHROME2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from dicom_factory import Plan, write_frames, write_series
from medstill.errors import UnreadableFileError
from medstill.volumes.io import read_image

pydicom = pytest.importorskip("pydicom", reason="the series are written with pydicom")

PLANS = {
    "unsigned of 12 bits": Plan(),
    "unsigned of 16 bits": Plan(bits_stored=16),
    "signed of 16 bits": Plan(bits_stored=16, signed=True, intercept=0.0),
    "signed of 13 bits": Plan(bits_stored=13, signed=True),
    "fractions": Plan(slopes=(0.37,), intercept=-12.5),
    "falling": Plan(slopes=(-2.0,)),
    "rescaled by slice": Plan(slopes=(2.0, 0.37, 3.0), shuffled=True),
    "one slice": Plan(size=(1, 17, 23), slopes=(2.0,)),
}


def inverted(plan: Plan) -> Plan:
    return replace(plan, photometric="MONOCHROME1")


def values_of(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(read_image(path))


def _write_file(folder: Path, plan: Plan) -> Path:
    return write_frames(folder / "all.dcm", plan)


@pytest.mark.parametrize("write", [write_series, _write_file], ids=["slices", "frames"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_voxels_are_those_of_the_twin(
    tmp_path: Path, plan: Plan, write: Callable[[Path, Plan], Path]
) -> None:
    twin, found = (
        read_image(write(tmp_path / name, one))
        for name, one in (("twin", plan), ("inverted", inverted(plan)))
    )
    assert sitk.GetArrayFromImage(found).dtype == sitk.GetArrayFromImage(twin).dtype
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(twin))
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(found, get)() == getattr(twin, get)()


@pytest.mark.parametrize("slopes", [(1.0,), (2.0, 0.37, 3.0)], ids=["one rescale", "several"])
def test_slices_of_both_kinds_in_one_series(tmp_path: Path, slopes: tuple[float, ...]) -> None:
    twin = values_of(write_series(tmp_path / "twin", Plan(slopes=slopes)))
    mixed = write_series(tmp_path / "mixed", Plan(slopes=slopes))
    for name in ("001.dcm", "004.dcm"):
        data = pydicom.dcmread(mixed / name)
        data.PhotometricInterpretation = "MONOCHROME1"
        data.save_as(mixed / name)
    np.testing.assert_array_equal(values_of(mixed), twin)


@pytest.mark.parametrize("slope", ["", "0"])
def test_a_slope_that_is_none_is_1(tmp_path: Path, slope: str) -> None:
    """GDCM takes it so, inverted or not."""
    found = []
    for plan in (Plan(), inverted(Plan())):
        folder = write_series(tmp_path / plan.photometric, plan)
        for path in folder.iterdir():
            data = pydicom.dcmread(path)
            data.RescaleSlope = slope
            data.save_as(path)
        found.append(values_of(folder))
    np.testing.assert_array_equal(*found)


def _at_the_top(data: Any) -> None:
    data.RescaleSlope, data.RescaleIntercept = "7", "-70"
    for frame in data.PerFrameFunctionalGroupsSequence:
        del frame.PixelValueTransformationSequence


def _shared(data: Any) -> None:
    data.RescaleSlope, data.RescaleIntercept = "7", "-70"
    (shared,) = data.SharedFunctionalGroupsSequence
    for frame in data.PerFrameFunctionalGroupsSequence:
        shared.PixelValueTransformationSequence = frame.PixelValueTransformationSequence
        del frame.PixelValueTransformationSequence


@pytest.mark.parametrize("move", [_at_the_top, _shared])
def test_the_rescale_of_frames_may_stand_elsewhere(
    tmp_path: Path, move: Callable[[Any], None]
) -> None:
    found = []
    for plan in (Plan(slopes=(2.0,)), inverted(Plan(slopes=(2.0,)))):
        path = write_frames(tmp_path / plan.photometric / "all.dcm", plan)
        data = pydicom.dcmread(path)
        move(data)
        data.save_as(path)
        found.append(values_of(path))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEGLSLossless"])
def test_compressed_ones_too(tmp_path: Path, syntax: str) -> None:
    path = write_frames(tmp_path / "a.dcm", inverted(Plan()))
    data = pydicom.dcmread(path)
    data.compress(getattr(pydicom.uid, syntax))
    data.save_as(path)
    np.testing.assert_array_equal(values_of(path), Plan().pixels() - 1024.0)


@pytest.mark.parametrize("write", [write_series, _write_file], ids=["slices", "frames"])
def test_what_cannot_be_undone_is_refused(
    tmp_path: Path, write: Callable[[Path, Plan], Path]
) -> None:
    """GDCM ends with an assertion of its own."""
    path = write(tmp_path, inverted(Plan(signed=True)))
    with pytest.raises(
        UnreadableFileError, match=r"MONOCHROME1.*found 12 bits, signed, in 16\. Write MONOCHROME2"
    ):
        read_image(path)


def test_a_rescale_that_loses_the_stored_values_is_refused(tmp_path: Path) -> None:
    """Slices of several rescales are read as float32, which cannot tell these apart."""
    plan = inverted(Plan(slopes=(1e-4, 1.0), intercept=-1024.0))
    with pytest.raises(UnreadableFileError, match=r"found a rescale of 0\.0001 and -1024"):
        read_image(write_series(tmp_path, plan))
