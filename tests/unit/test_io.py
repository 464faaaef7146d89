# long: every format with every refusal
"""Reading and writing volumes: round trips, and a message for every kind of bad file."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from medstill.errors import (
    DataError,
    GeometryError,
    IntensityError,
    LabelError,
    StorageError,
    UnreadableFileError,
)
from medstill.volumes import io
from medstill.volumes.io import (
    content_hash_of,
    read_channels,
    read_image,
    read_label,
    read_pair,
    write_image,
)
from medstill.volumes.plain import ends_as_it_should
from medstill.volumes.records import Case

SHAPE_ZYX = (7, 11, 13)
SPACING_XYZ = (1.0, 2.0, 3.0)
# A rotation about z by 90 degrees: x and y cannot be mixed up unnoticed.
DIRECTION = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha")


def volume(seed: int = 0, dtype: str = "int16") -> sitk.Image:
    values = np.random.default_rng(seed).integers(-1000, 1000, SHAPE_ZYX)
    image = sitk.GetImageFromArray(values.astype(dtype))
    image.SetSpacing(SPACING_XYZ)
    image.SetOrigin((-5.0, 4.5, 30.0))
    image.SetDirection(DIRECTION)
    return image


def label_on(image: sitk.Image) -> sitk.Image:
    return sitk.Cast(image > 0, sitk.sitkUInt8)


def array(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


@pytest.mark.parametrize("suffix", VOLUMES)
def test_a_volume_comes_back_with_its_values_and_geometry(tmp_path: Path, suffix: str) -> None:
    image, path = volume(), tmp_path / f"a{suffix}"
    write_image(image, path)
    back = read_image(path)
    np.testing.assert_array_equal(array(back), array(image))
    assert back.GetSize() == (13, 11, 7)
    np.testing.assert_allclose(back.GetSpacing(), SPACING_XYZ)
    np.testing.assert_allclose(back.GetOrigin(), image.GetOrigin())
    np.testing.assert_allclose(back.GetDirection(), DIRECTION)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["a.nii.gz.nii.gz", "a.nii.gz.b.nii.gz", "a.nii.nii", "a.mha.mha"])
def test_an_ending_within_a_name_is_a_part_of_it(tmp_path: Path, name: str) -> None:
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    write_image(image, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    read = sitk.GetArrayFromImage(read_image(tmp_path / name))
    np.testing.assert_array_equal(read, sitk.GetArrayFromImage(image))


def test_a_header_with_its_own_data_file_is_read(tmp_path: Path) -> None:
    sitk.WriteImage(volume(), str(tmp_path / "a.mhd"))
    np.testing.assert_array_equal(array(read_image(tmp_path / "a.mhd")), array(volume()))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".gif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_one_slice_of_spacing_one(tmp_path: Path, suffix: str, channels: int) -> None:
    values = np.zeros((19, 29, channels), dtype=np.uint8)
    values[:9, :, 0] = 200
    values[:, :7, -1] = 90
    picture = Image.fromarray(values if channels == 3 else values[..., 0])
    picture.save(tmp_path / f"a{suffix}", dpi=(300, 300))
    back = read_image(tmp_path / f"a{suffix}")
    assert back.GetSize() == (29, 19, 1)
    assert back.GetSpacing() == (1.0, 1.0, 1.0)
    np.testing.assert_array_equal(array(back).reshape(values.shape), values)


def test_a_jpeg_is_read_nearly(tmp_path: Path) -> None:
    values = np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[None], 16, axis=0)
    Image.fromarray(values).save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(array(read_image(tmp_path / "a.jpg"))[0], values, atol=6)


def test_alpha_is_dropped(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (5, 9, 4), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    back = read_image(tmp_path / "a.png")
    assert back.GetNumberOfComponentsPerPixel() == 3
    np.testing.assert_array_equal(array(back)[0], values[..., :3])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_one_slice_is_written_as_a_picture(tmp_path: Path, suffix: str) -> None:
    image = label_on(volume())[:, :, 2:3]
    write_image(image, tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(array(read_label(tmp_path / f"a{suffix}")), array(image))


@pytest.mark.parametrize("suffix", [*VOLUMES, ".png", ".tif", ".jpg", ".gif"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.97])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix in VOLUMES:
        sitk.WriteImage(volume(), str(path), suffix == ".nii.gz")
    else:
        noise = np.random.default_rng(0).integers(0, 255, (97, 103), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UnreadableFileError, match=rf"cut{suffix}.*[Cc]opy or download"):
        read_image(path)


def test_a_header_whose_data_file_is_cut_is_refused(tmp_path: Path) -> None:
    sitk.WriteImage(volume(), str(tmp_path / "a.mhd"))
    data = tmp_path / "a.raw"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(UnreadableFileError, match=r"a\.raw.*expected 2,002 bytes.*found 1,000"):
        read_image(tmp_path / "a.mhd")


def test_a_damaged_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    content = bytearray(gzip.compress(_nifti_bytes(tmp_path)))
    content[-6] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match="CRC"):
        read_image(path)


def _nifti_bytes(folder: Path) -> bytes:
    sitk.WriteImage(volume(), str(folder / "plain.nii"))
    return (folder / "plain.nii").read_bytes()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("field", "place", "value", "says"),
    [
        ("<f", 108, float("nan"), "where the voxels begin, found nan bytes"),
        ("<f", 108, -1.0, "where the voxels begin, found -1 bytes"),
        ("<f", 108, 1e30, r"where the voxels begin, found 1e\+30 bytes"),
        ("<h", 40, 0, "1 to 7 axes"),
        ("<h", 40, 9, "1 to 7 axes"),
        ("<h", 42, -7, "1 to 7 axes"),
    ],
)
def test_a_header_that_means_nothing_is_refused(
    tmp_path: Path, field: str, place: int, value: float, says: str, packed: bool
) -> None:
    content = bytearray(_nifti_bytes(tmp_path))
    struct.pack_into(field, content, place, value)
    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(UnreadableFileError, match=says):
        read_image(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("value", [0.0, -2.0, float("nan")])
def test_a_bad_spacing_in_a_nifti_is_refused(tmp_path: Path, value: float, packed: bool) -> None:
    content = bytearray(_nifti_bytes(tmp_path))
    struct.pack_into("<f", content, 76 + 4 * 2, value)
    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(GeometryError, match=rf"spacing of 1 x {value:g} x 3 mm.*positive numbers"):
        read_image(path)


@pytest.mark.parametrize("value", ["0", "-1", "nan"])
def test_a_bad_spacing_in_a_metaimage_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.mha"
    sitk.WriteImage(volume(), str(path))
    content = path.read_bytes()
    assert b"ElementSpacing = 1 2 3" in content
    path.write_bytes(
        content.replace(b"ElementSpacing = 1 2 3", f"ElementSpacing = {value} 2 3".encode())
    )
    with pytest.raises(GeometryError, match=r"a\.mha.*positive numbers"):
        read_image(path)


@pytest.mark.parametrize("value", ["0", "-1"])
def test_a_bad_spacing_in_a_nrrd_is_refused(tmp_path: Path, value: str) -> None:
    header = (
        "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n"
        f"spacings: {value} 2 3\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + bytes(range(8)))
    with pytest.raises(GeometryError, match=r"a\.nrrd.*positive numbers"):
        read_image(tmp_path / "a.nrrd")


def test_a_nrrd_without_spacing_direction_by_direction_is_read(tmp_path: Path) -> None:
    vectors = sitk.Compose([volume(0), volume(1)])
    sitk.WriteImage(vectors, str(tmp_path / "a.nrrd"))
    assert read_image(tmp_path / "a.nrrd").GetNumberOfComponentsPerPixel() == 2


def test_no_address_in_memory_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    content = bytearray(_nifti_bytes(tmp_path))
    struct.pack_into("<h", content, 70, 589)
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match="NiftiImageIO") as caught:
        read_image(path)
    assert "0x" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match=r"gone\.nii' does not exist"):
        read_image(tmp_path / "gone.nii")


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(b"text" * 99)
    with pytest.raises(UnreadableFileError, match=r"expected one of \.nii\.gz.*found '\.docx'"):
        read_image(tmp_path / "a.docx")


def test_four_dimensions_are_refused(tmp_path: Path) -> None:
    plain = sitk.GetImageFromArray(array(volume()))
    sitk.WriteImage(sitk.JoinSeries([plain, plain]), str(tmp_path / "a.nii.gz"))
    with pytest.raises(GeometryError, match=r"4 dimensions: expected 3.*13 x 11 x 7 x 2.*ID_0000"):
        read_image(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("suffix", VOLUMES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_refused(tmp_path: Path, value: float, suffix: str, kind: str) -> None:
    values = array(volume()).astype(kind)
    values[3, 4, 5] = value
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / f"a{suffix}"))
    with pytest.raises(IntensityError, match=rf"a{suffix}' holds NaN or Inf: expected finite"):
        read_image(tmp_path / f"a{suffix}")


def test_a_constant_image_is_refused_but_an_empty_label_is_not(tmp_path: Path) -> None:
    sitk.WriteImage(volume() * 0, str(tmp_path / "a.mha"))
    with pytest.raises(IntensityError, match=r"a\.mha' is constant.*found 0 in every voxel"):
        read_image(tmp_path / "a.mha")
    assert not array(read_label(tmp_path / "a.mha")).any()


def test_animations_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((5, 6), shade, dtype=np.uint8)) for shade in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(GeometryError, match="animation of 2 frames"):
        read_image(tmp_path / "a.gif")


def test_channels_are_composed_in_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"a_000{index}.nii.gz" for index in range(2)]
    sitk.WriteImage(volume(0), str(paths[0]))
    sitk.WriteImage(sitk.Cast(volume(1), sitk.sitkFloat32), str(paths[1]))
    image = read_channels(paths)
    assert image.GetPixelID() == sitk.sitkVectorFloat32
    for index in range(2):
        np.testing.assert_array_equal(array(image)[..., index], array(volume(index)))
    np.testing.assert_allclose(image.GetDirection(), DIRECTION)


def test_channels_on_two_grids_are_refused(tmp_path: Path) -> None:
    moved = volume(1)
    moved.SetOrigin((0.0, 0.0, 0.0))
    for name, image in (("a", volume()), ("b", moved)):
        sitk.WriteImage(image, str(tmp_path / f"{name}.mha"))
    with pytest.raises(GeometryError, match=r"b\.mha' lies elsewhere than '.*a\.mha"):
        read_channels([tmp_path / "a.mha", tmp_path / "b.mha"])


def test_colour_beside_other_channels_is_refused(tmp_path: Path) -> None:
    sitk.WriteImage(volume(), str(tmp_path / "a.mha"))
    sitk.WriteImage(sitk.Compose([volume(0), volume(1)]), str(tmp_path / "b.mha"))
    with pytest.raises(DataError, match=r"b\.mha' has 2 components: expected one"):
        read_channels([tmp_path / "a.mha", tmp_path / "b.mha"])


def test_whole_floats_are_labels_and_others_are_not(tmp_path: Path) -> None:
    whole = sitk.Cast(label_on(volume()), sitk.sitkFloat32) * 300
    sitk.WriteImage(whole, str(tmp_path / "a.nii.gz"))
    label = read_label(tmp_path / "a.nii.gz")
    assert label.GetPixelID() == sitk.sitkInt32
    np.testing.assert_array_equal(array(label), array(whole))
    sitk.WriteImage(whole * 0.5 + 0.25, str(tmp_path / "b.nii.gz"))
    with pytest.raises(LabelError, match=r"b\.nii\.gz' holds numbers that are not whole"):
        read_label(tmp_path / "b.nii.gz")


def test_a_gray_mask_saved_in_colour_is_a_label_and_a_coloured_one_is_not(tmp_path: Path) -> None:
    values = np.zeros((5, 9, 3), dtype=np.uint8)
    values[1:3] = 7
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(array(read_label(tmp_path / "a.png"))[0], values[..., 0])
    values[1:3, :, 1] = 9
    Image.fromarray(values).save(tmp_path / "b.png")
    with pytest.raises(LabelError, match=r"b\.png' has 3 components that differ"):
        read_label(tmp_path / "b.png")


def _pair(folder: Path, label: sitk.Image, suffix: str = ".nii.gz") -> Case:
    sitk.WriteImage(volume(), str(folder / "image.nii.gz"))
    sitk.WriteImage(label, str(folder / f"label{suffix}"))
    return Case("a", "a", (folder / "image.nii.gz",), folder / f"label{suffix}")


def test_a_pair_shares_its_grid(tmp_path: Path) -> None:
    label = label_on(volume())
    label.SetOrigin(tuple(value + 0.05 for value in label.GetOrigin()))
    image, back = read_pair(_pair(tmp_path, label))
    assert back is not None
    assert back.GetOrigin() == image.GetOrigin()
    np.testing.assert_array_equal(array(back), array(label))


def test_a_label_of_another_size_is_refused(tmp_path: Path) -> None:
    case = _pair(tmp_path, label_on(volume())[:-1])
    with pytest.raises(
        GeometryError, match=r"label\.nii\.gz.*image\.nii\.gz.*13 x 11 x 7.*found 12 x 11 x 7"
    ):
        read_pair(case)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("SetOrigin", (-5.0, 4.5, 30.2)),
        ("SetSpacing", (1.0, 2.0, 3.1)),
        ("SetDirection", (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)),
    ],
)
def test_a_label_elsewhere_is_refused(
    tmp_path: Path, change: str, value: tuple[float, ...]
) -> None:
    label = label_on(volume())
    getattr(label, change)(value)
    with pytest.raises(GeometryError, match=r"label\.nii\.gz' lies elsewhere than '.*image\.nii"):
        read_pair(_pair(tmp_path, label))


def test_of_a_picture_only_the_size_counts(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (5, 9), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    label = sitk.GetImageFromArray((values > 99).astype(np.uint8)[None])
    label.SetSpacing((0.3, 0.3, 1.0))
    sitk.WriteImage(label, str(tmp_path / "b.nii.gz"))
    image, back = read_pair(Case("a", "a", (tmp_path / "a.png",), tmp_path / "b.nii.gz"))
    assert back is not None
    assert back.GetSpacing() == image.GetSpacing()


def test_a_case_without_a_label_and_one_whose_label_is_gone(tmp_path: Path) -> None:
    sitk.WriteImage(volume(), str(tmp_path / "a.mha"))
    assert read_pair(Case("a", "a", (tmp_path / "a.mha",), None))[1] is None
    with pytest.raises(LabelError, match=r"case 'a' is missing: expected '.*gone\.mha"):
        read_pair(Case("a", "a", (tmp_path / "a.mha",), tmp_path / "gone.mha"))


def test_several_slices_are_no_picture(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="expected one slice for a picture, found 7"):
        write_image(label_on(volume()), tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.mhd", "a.dcm", "a.gif", "a.txt"])
def test_formats_that_are_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match=r"medstill writes no '\.\w+' files"):
        write_image(volume(), tmp_path / name)


def test_a_write_that_ends_early_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.nii.gz"
    write_image(volume(0), path)
    before = path.read_bytes()

    def short(image: sitk.Image, name: str, compress: bool) -> None:
        Path(name).write_bytes(before[:200])

    monkeypatch.setattr(io.sitk, "WriteImage", short)
    with pytest.raises(StorageError, match=r"a\.nii\.gz' could not be written.*free space"):
        write_image(volume(1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("lost", [1, 5, 9, 500])
def test_a_compressed_file_that_lost_its_end_is_noticed(tmp_path: Path, lost: int) -> None:
    path, image = tmp_path / "a.nii.gz", volume()
    write_image(image, path)
    whole = path.read_bytes()
    assert ends_as_it_should(path, image)
    assert not ends_as_it_should(path, volume(1))
    path.write_bytes(whole[:-lost])
    assert not ends_as_it_should(path, image)


@pytest.mark.parametrize("kind", [sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkFloat32])
def test_the_end_of_a_compressed_file_is_known(tmp_path: Path, kind: int) -> None:
    image = sitk.Cast(volume(), kind)
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"), True)
    assert ends_as_it_should(tmp_path / "a.nii.gz", image)


def test_an_end_that_is_not_known_is_looked_for_by_unpacking(tmp_path: Path) -> None:
    colours = sitk.Compose([sitk.Cast(volume(seed), sitk.sitkUInt8) for seed in range(3)])
    write_image(colours, tmp_path / "a.nii.gz")
    assert not ends_as_it_should(tmp_path / "a.nii.gz", colours)
    np.testing.assert_array_equal(array(read_image(tmp_path / "a.nii.gz")), array(colours))


def test_the_hash_is_of_content_not_of_names(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.nii").write_bytes(content)
    files = [tmp_path / name / f"{name}.nii" for name in "abc"]
    assert content_hash_of(files[:1]) == content_hash_of(files[1:2])
    assert content_hash_of(files[:1]) == content_hash_of([tmp_path / "a"])
    assert content_hash_of(files[:1]) != content_hash_of(files[2:])
    assert content_hash_of(files[1:]) != content_hash_of(files[:0:-1])


def test_the_hash_of_a_header_counts_its_data(tmp_path: Path) -> None:
    sitk.WriteImage(volume(0), str(tmp_path / "a.mhd"))
    before = content_hash_of([tmp_path / "a.mhd"])
    sitk.WriteImage(volume(1), str(tmp_path / "a.mhd"))
    assert content_hash_of([tmp_path / "a.mhd"]) != before


def test_warnings_stay_off_and_come_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(_nifti_bytes(tmp_path))
    struct.pack_into("<f", content, 76 + 4 * 2, 2.5)
    (tmp_path / "a.nii").write_bytes(content)
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    read_image(tmp_path / "a.nii")
    assert capfd.readouterr().err == ""
    assert sitk.ProcessObject.GetGlobalWarningDisplay() == shown


def test_a_file_that_may_not_be_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.nii"
    sitk.WriteImage(volume(), str(path))

    def locked(self: Path, *options: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", locked)
        with pytest.raises(UnreadableFileError, match=r"a\.nii' cannot be opened.*Permission den"):
            read_image(path)
    with pytest.raises(UnreadableFileError, match=r"gone\.nii' cannot be opened.*No such file"):
        content_hash_of([tmp_path / "gone.nii"])
