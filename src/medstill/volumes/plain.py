"""The plain kind of compressed NIfTI, unpacked once and plane by plane.

ITK has to be followed by a second pass over the file, since it lets much pass in silence (see
`checks`). Here one pass does both, but only for files that hold nothing unusual: one gzip member,
little-endian, three dimensions, voxels of a NumPy type as they are. Whatever else there is, or goes
wrong, is left to `io`, which reads it or says what is wrong with it.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medstill.volumes.checks import is_dicom, quiet
from medstill.volumes.geometry import shape_zyx
from medstill.volumes.records import Geometry

_HEADER_BYTES: Final = 352
_CHUNK_BYTES: Final = 1 << 16
_GZIP: Final = 31
"""zlib's word for a whole gzip member, its checksum and length included."""
_END: Final = struct.Struct("<2I")
"""Checksum and length of what was packed, at the end of a gzip member."""
_GREATEST_RATIO: Final = 1032
"""No deflated byte becomes more than so many."""
_TYPES: Final = {
    2: ("u1", sitk.sitkUInt8),
    4: ("<i2", sitk.sitkInt16),
    8: ("<i4", sitk.sitkInt32),
    16: ("<f4", sitk.sitkFloat32),
    64: ("<f8", sitk.sitkFloat64),
    256: ("i1", sitk.sitkInt8),
    512: ("<u2", sitk.sitkUInt16),
    768: ("<u4", sitk.sitkUInt32),
}
"""NIfTI's number of a type -> NumPy's and SimpleITK's."""


@dataclass(frozen=True)
class Plain:
    """What the header of a plain file says; its voxels have not been looked at.

    Attributes:
        path: The file.
        geometry: Grid of the image.
        dtype: Of the voxels, in the file and in memory.
    """

    path: Path
    geometry: Geometry
    dtype: np.dtype[Any]

    def unpack(self, voxels_ZYX: NDArray[Any], tell: Callable[[int], bool]) -> bool:
        """Fill an array with the voxels, by ascending z.

        Args:
            voxels_ZYX: Contiguous, of the file's shape and type.
            tell: Called with the number of whole planes each time there are more; when it answers
                False nothing more is read.

        Returns:
            Whether the file was whole and plain to its end, as far as it was wanted.

        Raises:
            OSError: The file cannot be read.
        """
        unpacker = zlib.decompressobj(_GZIP)
        target = voxels_ZYX.reshape(-1).view(np.uint8).data
        plane_bytes = len(target) // len(voxels_ZYX)
        place = -_HEADER_BYTES
        with self.path.open("rb") as file:
            while not unpacker.eof and (packed := file.read(_CHUNK_BYTES)):
                try:
                    part = unpacker.decompress(packed)
                except zlib.error:
                    return False
                begin, end = (_within(edge, target) for edge in (place, place + len(part)))
                target[begin:end] = memoryview(part)[begin - place : end - place]
                place += len(part)
                if end // plane_bytes > begin // plane_bytes and not tell(end // plane_bytes):
                    return True
            ended = unpacker.eof and not unpacker.unused_data and not file.read(1)
        return ended and place >= len(target)


def plain_nifti(path: Path) -> Plain | None:
    """What a plain compressed NIfTI says of itself; None for every other file.

    Where it is not None, `io.read_image` gives the same grid and type, if the voxels are whole.
    """
    if not path.name.lower().endswith(".nii.gz"):
        return None
    try:
        with path.open("rb") as file:
            packed = file.read(_CHUNK_BYTES)
        head = zlib.decompressobj(_GZIP).decompress(packed, _HEADER_BYTES)
        if len(head) < _HEADER_BYTES or is_dicom(path):
            return None
        most_bytes = _GREATEST_RATIO * path.stat().st_size
    except (OSError, zlib.error):
        return None
    number, sizes = _described(head)
    if number not in _TYPES or math.prod(sizes) * np.dtype(_TYPES[number][0]).itemsize > most_bytes:
        return None
    geometry = _geometry(path, sizes, _TYPES[number][1])
    return None if geometry is None else Plain(path, geometry, np.dtype(_TYPES[number][0]))


def _within(place: int, target: memoryview) -> int:
    return min(max(place, 0), len(target))


def _described(head: bytes) -> tuple[int, tuple[int, int, int]]:
    """Number of the voxels' type, 0 where the file is not plain, and the size along x, y, z."""
    (length,) = struct.unpack_from("<i", head)
    rank, x, y, z = struct.unpack_from("<4h", head, 40)
    number, bits = struct.unpack_from("<2h", head, 70)
    spacing_mm = struct.unpack_from("<3f", head, 80)
    offset, slope, intercept = struct.unpack_from("<3f", head, 108)
    plain = (
        (length, head[344:348], offset, rank) == (348, b"n+1\0", _HEADER_BYTES, 3)
        and min(x, y, z) > 0
        and number in _TYPES
        and bits == 8 * np.dtype(_TYPES[number][0]).itemsize
        and slope in (0.0, 1.0)
        and intercept == 0.0
        and all(math.isfinite(step) and step > 0 for step in spacing_mm)
        and all(map(math.isfinite, struct.unpack_from("<18f", head, 256)))
    )
    return (number if plain else 0), (x, y, z)


def _geometry(path: Path, size_xyz: tuple[int, int, int], pixel_id: int) -> Geometry | None:
    """The grid as ITK reads it; None where it sees something else in the header."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with quiet():
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            return None
    found = (reader.GetSize(), reader.GetPixelID(), reader.GetNumberOfComponents())
    if found != (size_xyz, pixel_id, 1):
        return None
    x, y, z = (float(step) for step in reader.GetSpacing())
    left, back, up = (float(place) for place in reader.GetOrigin())
    direction = tuple(float(cosine) for cosine in reader.GetDirection())
    return Geometry(size_xyz, (x, y, z), (left, back, up), direction)


def ends_as_it_should(path: Path, image: sitk.Image) -> bool:
    """Whether a compressed NIfTI that ITK has just written ends as one of this image has to.

    Length and checksum of what was packed stand at its end, and a full disk cuts them off or makes
    them wrong. So there is no need to unpack it; False may also mean that the file is not plain.
    """
    voxels = sitk.GetArrayViewFromImage(image).data
    with path.open("rb") as file:
        try:
            head = zlib.decompressobj(_GZIP).decompress(file.read(_CHUNK_BYTES), _HEADER_BYTES)
        except zlib.error:
            return False
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _END.size))
        last = file.read()
    expected = (zlib.crc32(voxels, zlib.crc32(head)), (len(head) + voxels.nbytes) % 2**32)
    return len(head) == _HEADER_BYTES and last == _END.pack(*expected)


def voxels_for(plain: Plain) -> NDArray[Any]:
    """Memory `(Z, Y, X)` for the voxels of a plain file, not filled yet."""
    return np.empty(shape_zyx(plain.geometry), dtype=plain.dtype)
