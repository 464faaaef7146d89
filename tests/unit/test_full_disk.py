"""What PyTorch, pydicom and ITK make of a full disk."""

import errno
import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_made import make

from dicom_factory import Plan
from medstill.errors import StorageError
from medstill.volumes import io
from medstill.volumes.io import read_image, write_image

DEVICE = Path("/dev/full")


@pytest.mark.skipif(not DEVICE.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("numbers", [3, 300_000])
def test_a_checkpoint_on_a_full_disk_is_refused_and_leaves_nothing(tmp_path, monkeypatch, numbers):
    import torch

    from medstill.training import checkpoint

    really_open = Path.open
    monkeypatch.setattr(Path, "open", lambda _, mode: really_open(DEVICE, mode))
    with pytest.raises(StorageError, match=r"No space left while writing '.*last\.ckpt'"):
        checkpoint.save(tmp_path / "last.ckpt", {"weights": torch.zeros(numbers)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", ["write_seg", "write_rtstruct", "write_capture"])
def test_a_dicom_object_on_a_full_disk_is_refused_and_leaves_nothing(tmp_path, monkeypatch, write):
    pytest.importorskip("highdicom", reason="the objects are written with highdicom")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill_disk(**place):
        # pydicom puts an error of its own on top of this one.
        monkeypatch.setattr("pydicom.filewriter.write_data_element", full)
        return really_make(**place)

    really_make = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", fill_disk)
    with pytest.raises(StorageError, match=r"No space left while writing '.*made\.dcm'"):
        make(tmp_path, Plan(), write=write)
    assert [path.name for path in tmp_path.iterdir()] == ["series"]


@pytest.mark.parametrize("suffix", ["tif", "tiff", "png", "nrrd"])
@pytest.mark.parametrize("lost", [200, 3000])
def test_an_image_that_lost_its_end_without_an_error_is_refused(
    tmp_path, monkeypatch, suffix, lost
):
    def cut(image, name, compress):
        really_write(image, name, compress)
        content = Path(name).read_bytes()
        Path(name).write_bytes(content[:-lost])

    really_write, path = sitk.WriteImage, tmp_path / f"label.{suffix}"
    values = np.random.default_rng(0).integers(0, 255, (1, 64, 64)).astype(np.uint8)
    image = sitk.GetImageFromArray(values)
    monkeypatch.setattr(io.sitk, "WriteImage", cut)
    with pytest.raises(StorageError, match=rf"label\.{suffix}' could not be written .*free space"):
        write_image(image, path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    write_image(image, path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(path)), values)
