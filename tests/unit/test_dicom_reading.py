"""DICOM series: sorted by position, rescaled, and refused with the reason when they are no grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medstill.errors import GeometryError, UnreadableFileError
from medstill.volumes.dicom import choose_series
from medstill.volumes.dicom import read_series as read_chosen
from medstill.volumes.dicom_headers import Slice as Header
from medstill.volumes.io import read_image

pydicom = pytest.importorskip("pydicom", reason="the series are written with pydicom")

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "dicom"
ROWS, COLUMNS = 11, 13
CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


@dataclass(frozen=True)
class Slice:
    """One file to write."""

    name: str
    position: tuple[float, float, float]
    pixels_YX: np.ndarray
    uid: str = "1.2.3.1"
    orientation: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    slope: float = 1.0
    intercept: float = -1024.0
    description: str = "venous"
    modality: str = "CT"


def read_series(folder: Path, wanted: str | None = None) -> sitk.Image:
    return read_chosen(choose_series(folder, wanted)).image


def write(folder: Path, slices: list[Slice]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, item in enumerate(slices):
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CT_STORAGE
        meta.MediaStorageSOPInstanceUID = f"1.2.3.9.{index + 1}"
        data = pydicom.Dataset()
        data.file_meta = meta
        data.SOPClassUID, data.SOPInstanceUID = CT_STORAGE, meta.MediaStorageSOPInstanceUID
        data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.3", item.uid
        data.PatientName, data.PatientID, data.PatientBirthDate = "Doe^Jane", "4711", "19700101"
        data.Modality, data.SeriesDescription = item.modality, item.description
        data.ImagePositionPatient = [round(value, 6) for value in item.position]
        data.ImageOrientationPatient = list(item.orientation)
        data.PixelSpacing = [2.0, 1.5]  # rows apart (y), columns apart (x)
        data.RescaleSlope, data.RescaleIntercept = item.slope, item.intercept
        data.Rows, data.Columns = item.pixels_YX.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
        data.PixelRepresentation = 0
        data.PixelData = item.pixels_YX.astype("<u2").tobytes()
        data.save_as(folder / item.name, enforce_file_format=True)
    return folder


def series(count: int = 5, step_mm: float = 2.5) -> list[Slice]:
    """Slices upwards in space whose names run the other way."""
    pixels = np.random.default_rng(0).integers(0, 4000, (count, ROWS, COLUMNS))
    return [
        Slice(f"{count - index:02d}.dcm", (-10.0, 5.0, 100.0 + step_mm * index), pixels[index])
        for index in range(count)
    ]


def test_slices_are_sorted_by_position_and_rescaled(tmp_path: Path) -> None:
    slices = series()
    image = read_image(write(tmp_path, slices))
    assert image.GetSize() == (COLUMNS, ROWS, 5)
    np.testing.assert_allclose(image.GetSpacing(), (1.5, 2.0, 2.5))
    np.testing.assert_allclose(image.GetOrigin(), (-10.0, 5.0, 100.0))
    np.testing.assert_allclose(image.GetDirection(), np.eye(3).ravel())
    expected = np.stack([item.pixels_YX for item in slices]) - 1024
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), expected)
    assert image.GetMetaDataKeys() == ()


def test_the_world_position_of_every_voxel_is_that_of_the_headers(tmp_path: Path) -> None:
    """A sagittal series: its rows run along y, its columns along -z, its normal along -x."""
    row, column = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, -1.0])
    slices = [
        replace(
            item,
            position=(7.0 - 2.5 * index, 1.0, 2.0),
            orientation=(*row.tolist(), *column.tolist()),
        )
        for index, item in enumerate(series())
    ]
    image = read_series(write(tmp_path, slices))
    values = sitk.GetArrayFromImage(image)
    for item in slices:
        place = np.array(item.position) + 1.5 * 4 * row + 2.0 * 3 * column
        x, y, z = image.TransformPhysicalPointToIndex(place.tolist())
        assert (x, y) == (4, 3)
        assert values[z, y, x] == item.pixels_YX[3, 4] - 1024


def test_a_rescale_that_differs_by_slice_keeps_its_fractions(tmp_path: Path) -> None:
    slices = [
        replace(item, slope=1.0 if index == 0 else 0.25, intercept=0.0)
        for index, item in enumerate(series())
    ]
    values = sitk.GetArrayFromImage(read_series(write(tmp_path, slices)))
    expected = np.stack([item.pixels_YX * item.slope for item in slices])
    np.testing.assert_allclose(values, expected)


@pytest.mark.parametrize(
    ("intercept", "stored", "bits", "signed", "others"),
    [(0.0, -600, 16, 1, (1, 2)), (0.0, -600, 12, 1, (3,)), (-1024.0, 65520, 16, 0, (1,))],
    ids=["signed of 16 bits", "signed of 12 bits", "more bits"],
)
def test_slices_of_other_pixel_types_than_the_first_keep_their_intensities(
    tmp_path: Path, intercept: float, stored: int, bits: int, signed: int, others: tuple[int, ...]
) -> None:
    slices = [replace(item, intercept=intercept) for item in series()]
    expected = np.stack([item.pixels_YX for item in slices]) + intercept
    write(tmp_path, slices)
    for index in others:
        pixels_YX = np.full((ROWS, COLUMNS), stored)
        data = pydicom.dcmread(tmp_path / slices[index].name)
        data.PixelRepresentation, data.BitsStored, data.HighBit = signed, bits, bits - 1
        data.PixelData = pixels_YX.astype("<i2" if signed else "<u2").tobytes()
        data.save_as(tmp_path / slices[index].name)
        expected[index] = stored + intercept
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_series(tmp_path)), expected)


@pytest.mark.parametrize("text", ["5.0", "5E+00", "+5.0", "  5 "])
def test_the_thickness_of_one_slice_is_any_decimal(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, series(1)) / "01.dcm"
    data = pydicom.dcmread(path)
    data.SliceThickness = text
    data.save_as(path)
    assert read_series(tmp_path).GetSpacing() == (1.5, 2.0, 5.0)


@pytest.mark.parametrize("text", [None, "", "0", "-5", "nan", "inf", "1e999", "5 mm", "5_0"])
def test_a_thickness_that_is_none_becomes_1_mm(text: str | None) -> None:
    tags = {} if text is None else {"thickness": text}
    assert Header(Path("a.dcm"), tags, (1, 1, 1)).thickness_mm == 1.0


@pytest.mark.parametrize("text", ["nan\\1\\2", "1\\inf\\2", "1e999\\0\\0", "1_0\\0\\0"])
def test_a_place_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(GeometryError, match="expected 3 numbers in the DICOM tag"):
        Header(Path("a.dcm"), {"position": text}, (1, 1, 1)).numbers("position", 3)


def test_one_slice_is_a_volume(tmp_path: Path) -> None:
    image = read_series(write(tmp_path, series(1)))
    assert image.GetSize() == (COLUMNS, ROWS, 1)
    np.testing.assert_allclose(image.GetSpacing()[:2], (1.5, 2.0))


def test_small_rounding_of_positions_is_tolerated(tmp_path: Path) -> None:
    slices = [
        replace(item, position=(-10.0, 5.0, round(1.25 * index, 1)))
        for index, item in enumerate(series(9))
    ]
    assert read_series(write(tmp_path, slices)).GetSpacing()[2] == pytest.approx(1.25)


def _without_one(slices: list[Slice]) -> list[Slice]:
    return [item for index, item in enumerate(slices) if index != 2]


def _one_twice(slices: list[Slice]) -> list[Slice]:
    return [*slices, replace(slices[2], name="copy.dcm")]


def _one_turned(slices: list[Slice]) -> list[Slice]:
    return [*slices[:-1], replace(slices[-1], orientation=(0.0, 1.0, 0.0, 0.0, 0.0, 1.0))]


def _tilted(slices: list[Slice]) -> list[Slice]:
    return [
        replace(item, position=(-10.0, 5.0 + 0.7 * index, item.position[2]))
        for index, item in enumerate(slices)
    ]


def _one_larger(slices: list[Slice]) -> list[Slice]:
    return [*slices[:-1], replace(slices[-1], pixels_YX=np.zeros((ROWS + 1, COLUMNS)))]


def _drifting(slices: list[Slice]) -> list[Slice]:
    """Each step is within 10 % of the others; their sum leaves the grid."""
    z_mm = (0.0, 2.725, 5.45, 7.75, 10.05)
    return [replace(item, position=(-10.0, 5.0, z)) for item, z in zip(slices, z_mm, strict=True)]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_one, r"gap.*\(1 of 3 steps\).*steps of 2.5 mm within 10%.*found 5 mm between"),
        (_one_twice, r"same position \(1 times\).*'03\.dcm' and 'copy\.dcm'|'copy\.dcm' and"),
        (_one_turned, r"mixed orientations: expected.*found.*Remove the slices"),
        (_tilted, r"tilted gantry: expected.*found 2\.8 mm \(15\.6 degrees\).*dcm2niix"),
        (_drifting, r"uneven slices: expected each within 10%.*found '.*' 17% of a step away"),
        (_one_larger, r"different size or pixel spacing.*Remove the slices"),
    ],
)
def test_what_is_no_grid_is_refused_with_the_reason(
    tmp_path: Path, spoil: Callable[[list[Slice]], list[Slice]], message: str
) -> None:
    with pytest.raises(GeometryError, match=message):
        read_series(write(tmp_path / "scan", spoil(series())))


def test_two_frames_of_reference_are_refused(tmp_path: Path) -> None:
    write(tmp_path, series())
    for name, frame in (("01.dcm", "1.2.3.8"), ("02.dcm", "1.2.3.8"), ("03.dcm", "1.2.3.9")):
        data = pydicom.dcmread(tmp_path / name)
        data.FrameOfReferenceUID = frame
        data.save_as(tmp_path / name)
    with pytest.raises(GeometryError, match=r"two frames of reference.*1\.2\.3\.9 in '03\.dcm'"):
        read_series(tmp_path)


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize(("name", "found"), [("RescaleSlope", 1), ("RescaleIntercept", -1024)])
def test_a_rescale_that_only_some_slices_have_is_refused(
    tmp_path: Path, name: str, found: int, value: str | None
) -> None:
    """The others would be taken for rescaled by 1 and 0, which is 1024 HU away."""
    write(tmp_path, series())
    data = pydicom.dcmread(tmp_path / "02.dcm")
    setattr(data, name, value)
    if value is None:
        delattr(data, name)
    data.save_as(tmp_path / "02.dcm")
    message = rf"without a {name}: .*found {found}.*none in '02\.dcm' \(1 of 5 lack it\).*Export"
    with pytest.raises(GeometryError, match=message):
        read_series(tmp_path)


def test_a_missing_position_is_refused(tmp_path: Path) -> None:
    write(tmp_path, series())
    data = pydicom.dcmread(tmp_path / "02.dcm")
    del data.ImagePositionPatient
    data.save_as(tmp_path / "02.dcm")
    with pytest.raises(GeometryError, match=r"02\.dcm': expected 3 numbers.*0020\|0032, position"):
        read_series(tmp_path)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_a_truncated_slice_is_refused(tmp_path: Path, share: float) -> None:
    path = write(tmp_path, series()) / "03.dcm"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises((UnreadableFileError, GeometryError), match="expected"):
        read_series(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UnreadableFileError, match="holds no DICOM images"):
        read_image(tmp_path)


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared DICOM examples are not here")
@pytest.mark.parametrize(
    ("name", "size", "spacing"),
    [
        ("ct-series", (512, 512, 20), (0.9765625, 0.9765625, 2.0)),
        ("ct-3slice", (512, 512, 3), (0.810547, 0.810547, 1.0)),
    ],
)
def test_real_series(name: str, size: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    image = read_image(DATA / name)
    assert image.GetSize() == size
    np.testing.assert_allclose(image.GetSpacing(), spacing, rtol=1e-9)
    values = sitk.GetArrayFromImage(image)
    by_height = sorted(
        (pydicom.dcmread(path) for path in (DATA / name).iterdir()),
        key=lambda data: float(data.ImagePositionPatient[2]),
    )
    for z in (0, -1):
        data = by_height[z]
        expected = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
        np.testing.assert_allclose(values[z], expected)
