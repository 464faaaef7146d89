"""Scans that come plane by plane are those that are read as a whole, refusals included."""

from __future__ import annotations

import contextlib
import gzip
import re
import struct
import threading
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from medstill.errors import MedstillError, UnreadableFileError
from medstill.volumes import arriving as module
from medstill.volumes.arriving import opened
from medstill.volumes.geometry import array_CZYX, geometry_of
from medstill.volumes.io import read_channels
from medstill.volumes.plain import plain_nifti

SHAPE_ZYX = (7, 23, 31)
OBLIQUE = (0.8, 0.0, 0.6, 0.36, 0.8, -0.48, -0.48, 0.6, 0.64)
TYPES = ("u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8")


def image(dtype="i2", direction=OBLIQUE, shape=SHAPE_ZYX):
    values = np.random.default_rng(0).normal(60, 25, shape).astype(dtype)
    made = sitk.GetImageFromArray(values)
    made.SetSpacing((1.25, 0.7, 3.0))
    made.SetOrigin((11.25, -7.5, 103.1))
    made.SetDirection(direction)
    return made


def stored(folder, made=None, name="scan.nii.gz"):
    sitk.WriteImage(made or image(), folder / name)
    return folder / name


def changed(path, place, layout, *values):
    """The file with other numbers at a place of its header."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(layout, content, place, *values)
    path.write_bytes(gzip.compress(bytes(content)))
    return path


def outcome(read, path):
    """Voxels and grid, or the refusal."""
    try:
        return read(path)
    except MedstillError as error:
        return type(error), re.sub(r"\(0x\w+\)", "", str(error))


def as_a_whole(path):
    read = read_channels((path,))
    return array_CZYX(read), geometry_of(read)


def as_it_comes(path):
    with opened((path,)) as scan:
        return scan.whole(), scan.geometry


def assert_same(path):
    expected, found = outcome(as_a_whole, path), outcome(as_it_comes, path)
    if isinstance(expected[0], type):
        assert found == expected
        return
    np.testing.assert_array_equal(found[0], expected[0], strict=True)
    assert found[1] == expected[1]


@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_comes_plane_by_plane(tmp_path, dtype):
    path = stored(tmp_path, image(dtype))
    assert plain_nifti(path) is not None
    assert_same(path)


@pytest.mark.parametrize("code", ["LPS", "RAS", "LAS", "SLA", "IPR"])
def test_every_orientation_comes_plane_by_plane(tmp_path, code):
    direction = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(code)
    path = stored(tmp_path, image(direction=direction))
    assert plain_nifti(path) is not None
    assert_same(path)


@pytest.mark.parametrize("shape", [(1, 5, 7), (2, 300, 400), (5, 1, 1)])
def test_every_size_comes(tmp_path, shape):
    path = stored(tmp_path, image(shape=shape))
    assert plain_nifti(path) is not None
    assert_same(path)


HEADERS = {
    "a slope": (112, "<f", 2.0),
    "an intercept": (116, "<f", -1024.0),
    "no slope": (112, "<f", 0.0),
    "a slope that is no number": (112, "<f", float("nan")),
    "no spacing": (84, "<f", 0.0),
    "a negative spacing": (88, "<f", -3.0),
    "a spacing that is no number": (80, "<f", float("nan")),
    "four dimensions": (40, "<5h", 4, 31, 23, 1, 7),
    "two dimensions": (40, "<h", 2),
    "more planes than there are": (46, "<h", 8),
    "absurdly many planes": (46, "<h", 32767),
    "fewer planes than there are": (46, "<h", 6),
    "no planes": (46, "<h", 0),
    "a negative size": (42, "<h", -31),
    "voxels elsewhere": (108, "<f", 368.0),
    "another type": (70, "<2h", 512, 16),
    "bits that do not fit": (72, "<h", 32),
    "colours": (70, "<2h", 128, 24),
    "complex numbers": (70, "<2h", 32, 64),
    "no magic": (344, "<4s", b"\0\0\0\0"),
    "magic of two files": (344, "<4s", b"ni1\0"),
    "no place in space": (252, "<2h", 0, 0),
    "a sheared place": (280, "<12f", *(1, 0.5, 0, 5, 0, 1, 0.5, 6, 0, 0, 1, 7)),
    "another length of the header": (0, "<i", 349),
}


@pytest.mark.parametrize("what", HEADERS)
def test_strange_headers_are_read_or_refused_as_ever(tmp_path, what):
    assert_same(changed(stored(tmp_path), *HEADERS[what]))


def cut(content):
    return content[:-9]


def flipped_at_the_end(content):
    return content[:-6] + bytes([content[-6] ^ 0xFF]) + content[-5:]


def flipped_in_the_middle(content):
    half = len(content) // 2
    return content[:half] + bytes([content[half] ^ 0xFF]) + content[half + 1 :]


DAMAGES = {
    "cut": cut,
    "cut in half": lambda content: content[: len(content) // 2],
    "cut in the header": lambda content: content[:40],
    "empty": lambda _: b"",
    "a wrong checksum": flipped_at_the_end,
    "a wrong bit": flipped_in_the_middle,
    "trailing junk": lambda content: content + b"junk",
    "trailing zeros": lambda content: content + bytes(100),
    "two members": lambda content: in_two(gzip.decompress(content)),
    "two members and a cut": lambda content: in_two(gzip.decompress(content))[:-3],
    "not packed": gzip.decompress,
    "packed by zlib": lambda content: zlib.compress(gzip.decompress(content)),
    "text": lambda _: b"this is not a scan" * 50,
    "more bytes than voxels": lambda content: gzip.compress(gzip.decompress(content) + b"abcdefg"),
}


def in_two(content):
    half = len(content) // 2
    return gzip.compress(content[:half]) + gzip.compress(content[half:])


@pytest.mark.parametrize("damage", DAMAGES)
def test_strange_files_are_read_or_refused_as_ever(tmp_path, damage):
    path = stored(tmp_path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert_same(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, -1])
def test_voxels_that_are_no_numbers_are_refused_as_ever(tmp_path, value, place):
    values = sitk.GetArrayFromImage(image("f4"))
    values.flat[place] = value
    path = stored(tmp_path, sitk.GetImageFromArray(values))
    assert plain_nifti(path) is not None
    assert_same(path)
    with pytest.raises(MedstillError, match="holds NaN or Inf"):
        as_it_comes(path)


def test_no_plane_that_holds_nan_is_given_away(tmp_path):
    values = sitk.GetArrayFromImage(image("f4", shape=(40, 64, 64)))
    values[20, 3, 4] = np.nan
    with opened([stored(tmp_path, sitk.GetImageFromArray(values))]) as scan:
        for stop in range(1, 21):
            with contextlib.suppress(MedstillError):
                scan.wait(stop)
        with pytest.raises(MedstillError, match="holds NaN or Inf"):
            scan.wait(21)


def test_a_constant_scan_is_refused_as_ever(tmp_path):
    path = stored(tmp_path, sitk.Image((5, 4, 3), sitk.sitkInt16))
    assert_same(path)
    with pytest.raises(MedstillError, match="is constant"):
        as_it_comes(path)


def test_big_endian_voxels_are_read_as_ever(tmp_path):
    content = bytearray(gzip.decompress(stored(tmp_path).read_bytes()))
    layout = "i10s18sihcB8h3f4h8f3fhbB4f2i80s24s2h6f12f16s4s"
    head = struct.unpack_from("<" + layout, content)
    struct.pack_into(">" + layout, content, 0, *head)
    voxels = np.frombuffer(content[352:], "<i2").astype(">i2").tobytes()
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(bytes(content[:352]) + voxels))
    assert plain_nifti(tmp_path / "scan.nii.gz") is None
    assert_same(tmp_path / "scan.nii.gz")


@pytest.mark.parametrize("name", ["scan.nii", "scan.mha", "scan.nrrd"])
def test_other_formats_are_read_as_ever(tmp_path, name):
    path = stored(tmp_path, name=name)
    assert plain_nifti(path) is None
    assert_same(path)


def test_a_missing_file_is_refused_as_ever(tmp_path):
    assert_same(tmp_path / "missing.nii.gz")
    (tmp_path / "folder.nii.gz").mkdir()
    assert_same(tmp_path / "folder.nii.gz")


def test_channels_in_files_of_their_own_come_together(tmp_path):
    paths = [stored(tmp_path, name=f"a_000{channel}.nii.gz") for channel in range(2)]
    with opened(paths) as scan:
        np.testing.assert_array_equal(scan.whole(), array_CZYX(read_channels(paths)))


def test_the_first_planes_are_here_before_the_file_was_read(tmp_path, monkeypatch):
    path, go_on = stored(tmp_path, image(shape=(40, 128, 128))), threading.Event()
    really_tell = module.Arriving.tell

    def slow(scan, here):
        if here > 20:
            assert go_on.wait(10)
        return really_tell(scan, here)

    monkeypatch.setattr(module.Arriving, "tell", slow)
    with opened((path,)) as scan:
        scan.wait(10)
        first = scan.raw_CZYX[:, :10].copy()
        go_on.set()
        np.testing.assert_array_equal(first, scan.whole()[:, :10])
        with pytest.raises(ValueError, match="read-only"):
            scan.raw_CZYX[0, 0, 0, 0] = 1
    assert scan.waited_s > 0
    assert scan.read_s > 0


def test_the_last_plane_waits_for_the_checksum(tmp_path):
    path = stored(tmp_path, image(shape=(40, 64, 64)))
    path.write_bytes(flipped_at_the_end(path.read_bytes()))
    with opened((path,)) as scan, pytest.raises(UnreadableFileError, match="CRC"):
        scan.wait(40)


def test_a_block_that_is_left_early_stops_the_reading(tmp_path, monkeypatch):
    path, left, told = stored(tmp_path, image(shape=(40, 128, 128))), threading.Event(), []
    really_tell, really_leave = module.Arriving.tell, module.Arriving.leave

    def tell(scan, here):
        told.append(here)
        assert left.wait(10)
        return really_tell(scan, here)

    def leave(scan):
        really_leave(scan)
        left.set()

    monkeypatch.setattr(module.Arriving, "tell", tell)
    monkeypatch.setattr(module.Arriving, "leave", leave)
    with pytest.raises(KeyError), opened((path,)):
        raise KeyError
    assert len(told) < 2


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    big = image(shape=(20, 128, 128))
    path, other = stored(tmp_path, big), stored(tmp_path, big + 1, "other.nii.gz")
    plain = plain_nifti(path)
    voxels_ZYX = np.zeros((20, 128, 128), dtype=np.int16)
    scan = module.Arriving(voxels_ZYX[np.newaxis], plain.geometry, 0)
    path.write_bytes(flipped_at_the_end(path.read_bytes()))
    really_again = module._read_again

    def again(_, voxels_ZYX, given):
        really_again(other, voxels_ZYX, given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_read_again", again)
        module._read(plain, voxels_ZYX, scan)
    with pytest.raises(UnreadableFileError, match="stays as it is"):
        scan.whole()
