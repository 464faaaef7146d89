"""Images that lie nowhere, or on axes that are none, are refused from files and from memory."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk

from medstill.deploy.given import scan_of_image
from medstill.errors import GeometryError, IntensityError
from medstill.volumes.arriving import opened
from medstill.volumes.io import read_image

NAN, INF = float("nan"), float("inf")


def image(shape=(5, 6, 7)):
    return sitk.GetImageFromArray(np.arange(np.prod(shape), dtype=np.int16).reshape(shape))


def nifti(path, place, value):
    """A file with a number at a place of its header, which has a qform and a sform."""
    sitk.WriteImage(image(), path)
    content = bytearray(path.read_bytes())
    if path.suffix == ".gz":
        content = bytearray(gzip.decompress(content))
    assert struct.unpack_from("<2h", content, 252) == (1, 1)
    struct.pack_into("<f", content, place, value)
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else bytes(content))
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("place", [256, 268, 276, 280, 292, 324])
def test_a_nifti_that_lies_nowhere_is_refused(tmp_path, name, place, value, capfd):
    path = nifti(tmp_path / name, place, value)
    with pytest.raises(GeometryError, match=r"a place that is no number: .*found NaN or Inf"):
        read_image(path)
    with pytest.raises(GeometryError, match="a place that is no number"), opened([path]) as scan:
        scan.whole()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("place", [256, 324])
def test_what_no_reader_looks_at_may_be_anything(tmp_path, place):
    path = nifti(tmp_path / "a.nii", place, NAN)
    content = bytearray(path.read_bytes())
    struct.pack_into("<2h", content, 252, *((0, 1) if place < 280 else (1, 0)))
    path.write_bytes(content)
    assert read_image(path).GetSize() == (7, 6, 5)


@pytest.mark.parametrize(
    "matrix", ["2 0 0 0 1 0 0 0 1", "1 0 0 0.1 1 0 0 0 1", "0.98 0 0 0 1 0 0 0 1"]
)
def test_axes_that_stretch_or_shear_are_refused(tmp_path, matrix):
    sitk.WriteImage(image(), tmp_path / "a.mha")
    content = (tmp_path / "a.mha").read_bytes()
    given = b"TransformMatrix = 1 0 0 0 1 0 0 0 1"
    assert given in content
    changed = content.replace(given, f"TransformMatrix = {matrix}".encode())
    (tmp_path / "a.mha").write_bytes(changed)
    with pytest.raises(GeometryError, match="at right angles, or not of length 1"):
        read_image(tmp_path / "a.mha")


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd", "a.nii.gz"])
def test_axes_of_rounded_numbers_are_taken(tmp_path, name):
    turned = image()
    turned.SetDirection((0.866, -0.5, 0.0, 0.5, 0.866, 0.0, 0.0, 0.0, 1.0))
    sitk.WriteImage(turned, tmp_path / name)
    assert read_image(tmp_path / name).GetSize() == (7, 6, 5)


@pytest.mark.parametrize("place", [(NAN, 0.0, 0.0), (0.0, 0.0, -INF)])
def test_an_image_in_memory_that_lies_nowhere_is_refused(place):
    moved = image()
    moved.SetOrigin(place)
    with pytest.raises(GeometryError, match=r"^The image has a place that is no number"):
        scan_of_image(moved)


def test_an_image_in_memory_on_stretched_axes_is_refused():
    stretched = image()
    stretched.SetDirection((2.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    with pytest.raises(GeometryError, match=r"^The image has axes .*Write the scale into"):
        scan_of_image(stretched)


@pytest.mark.parametrize("kind", [np.complex64, np.complex128])
def test_complex_numbers_are_refused(tmp_path, kind):
    values = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(kind)
    sitk.WriteImage(sitk.GetImageFromArray(values), tmp_path / "a.nii.gz")
    with pytest.raises(IntensityError, match=r"a\.nii\.gz' holds complex numbers: .*magnitude"):
        read_image(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd", "a.nii.gz"])
def test_a_single_point_of_time_is_a_volume(tmp_path, name):
    once = sitk.JoinSeries([image()])
    assert once.GetDimension() == 4
    sitk.WriteImage(once, tmp_path / name)
    read = read_image(tmp_path / name)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(image()))
