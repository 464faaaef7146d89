"""What image readers let pass in silence: files cut short, and spacings that they repair.

ITK fills the rest of a truncated NIfTI, compressed or not, with what it has, paints the rest of a
truncated JPEG gray, sets a spacing of zero in a NIfTI to 1 and drops the sign of a negative one.
So the headers are read here as well.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from medstill.errors import GeometryError, IntensityError, UnreadableFileError

_HEADER_BYTES = 544
_GREATEST_OFFSET = 2**40
_CHUNK_BYTES = 1 << 22
_TEXT_HEADER_BYTES = 1 << 16


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep ITK's warnings off the console; errors are raised as ever."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the operating system says about a file that cannot be opened into our error.

    Raises:
        UnreadableFileError: No such file, no permission, a disk that fails.
    """
    try:
        yield
    except OSError as error:
        raise UnreadableFileError(
            f"'{path}' cannot be opened: expected a file that you may read, found: "
            f"{error.strerror or error}. Check its name, its permissions and the disk."
        ) from error


def check_file(path: Path) -> None:
    """Check what the reader of this file's format would let pass.

    Raises:
        UnreadableFileError: The file is cut short or damaged.
        GeometryError: Its header states a spacing that is not a positive number.
        IntensityError: It is a NIfTI that holds NaN or Inf, which ITK reads as 0.
    """
    if path.stat().st_size == 0:
        raise truncated(path, "image data", "an empty file")
    for ending, check in _CHECKS.items():
        if path.name.lower().endswith(ending):
            check(path)


def is_dicom(path: Path) -> bool:
    """Whether the file begins as a DICOM file does."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def truncated(path: Path, expected: str, found: str) -> UnreadableFileError:
    """The error for a file that ends too early."""
    return UnreadableFileError(
        f"'{path}' is truncated or damaged: expected {expected}, found {found}. "
        "Copy or download the file again."
    )


def not_finite(source: str) -> IntensityError:
    """The error for a file, an image or an array that holds something else than numbers."""
    return IntensityError(
        f"{source} holds NaN or Inf: expected finite numbers in every voxel. "
        "Replace them (for example by the value of the background) and try again."
    )


def check_spacing(path: Path, spacing_mm: Sequence[float]) -> None:
    """Demand that every spacing is a positive number.

    Raises:
        GeometryError: One of them is zero, negative, NaN or infinite.
    """
    if all(math.isfinite(value) and value > 0 for value in spacing_mm):
        return
    found = " x ".join(f"{value:g}" for value in spacing_mm)
    raise GeometryError(
        f"'{path}' has a spacing of {found} mm (x, y, z): expected positive numbers. "
        "Write the true voxel size into the file's header."
    )


@dataclass(frozen=True)
class _NiftiHeader:
    """The fields of a NIfTI header that say how long the file is and how large a voxel."""

    dim: tuple[int, ...]
    """Rank, then the size of each axis."""
    pixdim: tuple[float, ...]
    """One unused number, then the spacing of each axis."""
    bits: int
    offset: int
    floats: np.dtype[Any] | None
    """The type of the voxels in the file if it is floating point."""

    @property
    def file_bytes(self) -> int:
        """Length of the uncompressed file."""
        voxels = math.prod(self.dim[1 : 1 + self.dim[0]])
        return self.offset + (voxels * self.bits + 7) // 8


def _nifti_header(path: Path, head: bytes) -> _NiftiHeader:
    for order in "<>":
        for size, dim, datatype, bits, pixdim, offset, codes, forms in (
            (348, "8h:40", "h:70", "h:72", "8f:76", "f:108", "2h:252", "18f:256"),
            (540, "8q:16", "h:12", "h:14", "8d:104", "q:168", "2i:344", "18d:352"),
        ):
            if len(head) >= size and struct.unpack_from(f"{order}i", head)[0] == size:
                read = _Fields(order, head)
                kind = _NIFTI_FLOATS.get(int(read(datatype)[0]))
                _demand_size(path, read(dim), read(offset)[0])
                _demand_place(path, read(codes), read(forms))
                return _NiftiHeader(
                    dim=tuple(int(value) for value in read(dim)),
                    pixdim=tuple(float(value) for value in read(pixdim)),
                    bits=int(read(bits)[0]),
                    offset=int(read(offset)[0]),
                    floats=np.dtype(order + kind) if kind else None,
                )
    raise UnreadableFileError(
        f"'{path}' is not a whole NIfTI file: expected a header of 348 or 540 bytes, found "
        f"{len(head)} bytes that do not begin with that number. Copy or download the file again."
    )


def _demand_size(path: Path, dim: Sequence[float], offset: float) -> None:
    """Refuse what no header can mean."""
    rank, *sizes = dim
    if not (1 <= rank <= len(sizes) and min(sizes[: int(rank)]) >= 0):
        shown = ", ".join(f"{value:g}" for value in dim)
        raise truncated(path, f"a header with 1 to {len(sizes)} axes and their sizes", shown)
    if not 0 <= offset <= _GREATEST_OFFSET:
        raise truncated(path, "a header that says where the voxels begin", f"{offset:g} bytes")


def _demand_place(path: Path, codes: Sequence[float], forms: Sequence[float]) -> None:
    """Refuse a qform or sform in use that lies nowhere."""
    used = (*(forms[:6] if codes[0] > 0 else ()), *(forms[6:] if codes[1] > 0 else ()))
    if not all(map(math.isfinite, used)):
        raise GeometryError(
            f"'{path}' has a place that is no number: expected a finite qform and sform, found "
            "NaN or Inf in its header. Convert the image anew."
        )


@dataclass(frozen=True)
class _Fields:
    order: str
    head: bytes

    def __call__(self, field: str) -> tuple[float, ...]:
        kind, place = field.split(":")
        return struct.unpack_from(self.order + kind, self.head, int(place))


def _check_nifti(path: Path) -> None:
    packed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            header = _nifti_header(path, file.read(_HEADER_BYTES))
            # The end of a compressed file, and its checksum, are only known when it is unpacked.
            needs_all = packed or header.floats is not None
            length = _read_through(file, header, path) if needs_all else path.stat().st_size
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise truncated(path, "a whole gzip file", str(error)) from error
    if header.offset and length < header.file_bytes:
        raise truncated(path, f"{header.file_bytes:,} bytes", f"{length:,}")
    rank = min(header.dim[0], 3)
    spacing = [
        value if size > 1 else 1.0
        for value, size in zip(header.pixdim[1 : 1 + rank], header.dim[1:], strict=False)
    ]
    check_spacing(path, spacing)


def _read_through(file: gzip.GzipFile | BufferedReader, header: _NiftiHeader, path: Path) -> int:
    """Read to the end, look at every floating point voxel, and return the length in bytes."""
    file.seek(header.offset)
    length = header.offset
    while chunk := file.read(_CHUNK_BYTES):
        part = chunk[: max(0, header.file_bytes - length)]
        length += len(chunk)
        if header.floats is None:
            continue
        part = part[: len(part) // header.floats.itemsize * header.floats.itemsize]
        if not np.isfinite(np.frombuffer(part, header.floats)).all():
            raise not_finite(f"'{path}'")
    return length


def _check_jpeg(path: Path) -> None:
    content = path.read_bytes()
    scan, end = content.rfind(b"\xff\xda"), content.rfind(b"\xff\xd9")
    if end < max(scan, 0):
        raise truncated(path, "an end-of-image marker", f"none in {len(content):,} bytes")


def text_field(path: Path, names: Sequence[str]) -> str | None:
    """The value of the first of these fields in the text header of a MetaImage or NRRD file."""
    with path.open("rb") as file:
        head = file.read(_TEXT_HEADER_BYTES).decode("latin-1")
    wanted = {name.lower() for name in names}
    for line in head.splitlines():
        key, separator, value = line.replace("=", ":", 1).partition(":")
        if separator and key.strip().lower() in wanted:
            return value.strip()
        if not line.strip():
            break
    return None


def _check_meta(path: Path) -> None:
    _check_text_spacing(path)
    size, data = text_field(path, ("DimSize",)), text_field(path, ("ElementDataFile",))
    if size is None or data is None:
        raise truncated(path, "a MetaImage header with DimSize and ElementDataFile", "none")
    source = path if data.upper() == "LOCAL" else path.parent / data
    packed = text_field(path, ("CompressedDataSize",))
    kind = _META_BYTES.get((text_field(path, ("ElementType",)) or "").upper())
    if kind is None or not source.is_file() or not _is_number(packed or "0"):
        return
    channels = int(text_field(path, ("ElementNumberOfChannels",)) or 1)
    expected = int(packed or 0) or math.prod(map(int, size.split())) * kind * channels
    found = source.stat().st_size
    if source == path:
        found -= path.read_bytes().index(b"LOCAL") + len(b"LOCAL\n")
    if found < expected:
        raise truncated(source, f"{expected:,} bytes of voxels", f"{found:,}")


def _is_number(text: str) -> bool:
    return text.strip().isdigit()


def _check_text_spacing(path: Path) -> None:
    value = text_field(path, ("ElementSpacing", "ElementSize", "spacings"))
    if value is None:
        return
    with contextlib.suppress(ValueError):
        numbers = [float(word) for word in value.split()]
        is_nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
        # NRRD writes NaN for axes that have no spacing, such as colour.
        check_spacing(path, [n for n in numbers if not (is_nrrd and math.isnan(n))])


_NIFTI_FLOATS = {16: "f4", 64: "f8"}

_META_BYTES = {
    "MET_CHAR": 1,
    "MET_UCHAR": 1,
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_LONG_LONG": 8,
    "MET_ULONG_LONG": 8,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}

_CHECKS: dict[str, Callable[[Path], None]] = {
    ".nii": _check_nifti,
    ".nii.gz": _check_nifti,
    ".jpg": _check_jpeg,
    ".jpeg": _check_jpeg,
    ".mha": _check_meta,
    ".mhd": _check_meta,
    ".nrrd": _check_text_spacing,
    ".nhdr": _check_text_spacing,
}
