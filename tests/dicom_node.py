"""Series to send, a model that is none, and Debian dcmtk's tools, for the tests of the node."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CT = "1.2.840.10008.5.1.4.1.1.2"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
EXPLICIT = "1.2.840.10008.1.2.1"
PERSON = {
    "PatientName": "Geheim^Erika",
    "PatientID": "PID-884422",
    "PatientBirthDate": "19611107",
    "AccessionNumber": "ACC-991177",
    "StudyID": "STUDY-5533",
    "SeriesDescription": "Abdomen Geheim",
}
"""Values that must never be found in a log; the UIDs of a series are others."""
PATIENCE_S = 60.0

needs_dcmtk = pytest.mark.skipif(
    shutil.which("storescu") is None or shutil.which("storescp") is None,
    reason="dcmtk is not installed: apt-get install dcmtk",
)


@dataclass(frozen=True)
class Series:
    """A series in a folder of its own."""

    uid: str
    files: tuple[Path, ...]

    @property
    def instance_uids(self) -> list[str]:
        import pydicom

        return [str(pydicom.dcmread(file).SOPInstanceUID) for file in self.files]


def write_series(
    folder: Path, number: int = 1, slices: int = 4, size: int = 16, *, count: bool = False
) -> Series:
    """An axial CT series of noise; `count` writes how many instances it has into each."""
    import pydicom

    uid = f"1.2.826.0.1.3680043.99.7.{number}"
    rng = np.random.default_rng(number)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for index in range(slices):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = EXPLICIT
        data.file_meta.MediaStorageSOPClassUID = CT
        data.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{index + 1}"
        for name, value in PERSON.items():
            setattr(data, name, value)
        data.PatientSex, data.StudyDate, data.StudyTime = "F", "20240611", "101112"
        data.ReferringPhysicianName, data.PositionReferenceIndicator = "", ""
        data.SOPClassUID, data.SOPInstanceUID = CT, f"{uid}.{index + 1}"
        data.StudyInstanceUID = "1.2.826.0.1.3680043.99.1"
        data.SeriesInstanceUID, data.FrameOfReferenceUID = uid, f"{uid}.0"
        data.Modality, data.SeriesNumber, data.InstanceNumber = "CT", number, index + 1
        data.Manufacturer = "medstill"
        if count:
            data.NumberOfSeriesRelatedInstances = slices
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.ImagePositionPatient = [0.0, 0.0, 3.0 * index]
        data.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        data.PixelSpacing, data.SliceThickness = [2.0, 1.5], 3.0
        data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1.0, -1024.0, "HU"
        data.Rows, data.Columns = size, size + 2
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
        data.PixelRepresentation = 0
        pixels = rng.integers(0, 2000, (size, size + 2), dtype=np.uint16)
        data.PixelData = pixels.tobytes()
        path = folder / f"{number:03d}-{index:04d}.dcm"
        data.save_as(path, enforce_file_format=True)
        found.append(path)
    return Series(uid, tuple(found))


def fake_handle(folder: Path, result: Path) -> tuple[str, ...]:
    """Write a DICOM object that tells in its description of how many instances it was made."""
    import pydicom

    images = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = EXPLICIT
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = SEG
    uid = pydicom.uid.generate_uid()
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = uid
    data.StudyInstanceUID = images[0].StudyInstanceUID
    data.SeriesInstanceUID = pydicom.uid.generate_uid()
    data.PatientName, data.PatientID = images[0].PatientName, images[0].PatientID
    data.Modality = "SEG"
    data.SeriesDescription = f"{images[0].SeriesInstanceUID}|{len(images)}"
    data.save_as(result, enforce_file_format=True)
    return ()


def made_of(segmentations: Sequence[Path]) -> list[tuple[str, int]]:
    """Series and number of instances of each segmentation; one that came twice is one file."""
    import pydicom

    texts = [str(pydicom.dcmread(path).SeriesDescription) for path in segmentations]
    return sorted((text.split("|")[0], int(text.split("|")[1])) for text in texts)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def node_config(folder: Path, receiver_port: int, **changes: Any) -> Any:
    """A node at a free port for a sender SCU and a receiver ARCHIVE, quick in all it waits for."""
    from medstill.node import Limits, NodeConfig, Peer, Waits

    waits = Waits(quiet_s=0.5, resend_s=0.2, longest_resend_s=1.0, stop_s=10.0)
    peers = (
        Peer(aet="SCU", host="127.0.0.1"),
        Peer(aet="ARCHIVE", host="127.0.0.1", port=receiver_port, allow=False, receives=True),
    )
    settings = {
        "folder": folder,
        "port": free_port(),
        "peers": peers,
        "waits": waits,
        "limits": Limits(reserve_mb=0),
    }
    return NodeConfig(**(settings | changes))


@dataclass
class Archive:
    """dcmtk's storescp, which keeps what it gets in a folder."""

    folder: Path
    port: int
    options: tuple[str, ...] = ()
    process: Any = None

    def start(self) -> Archive:
        self.folder.mkdir(exist_ok=True)
        command = ["storescp", "-aet", "ARCHIVE", "-od", str(self.folder)]
        command += [*self.options, str(self.port)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda: answers(self.port), "storescp does not listen")
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def received(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.stat().st_size > 0)


@contextlib.contextmanager
def archive(folder: Path, port: int | None = None, *options: str) -> Iterator[Archive]:
    found = Archive(folder, port or free_port(), options).start()
    try:
        yield found
    finally:
        found.stop()


@contextlib.contextmanager
def running(config: Any, handle: Any = fake_handle, **named: Any) -> Iterator[Any]:
    """A node in threads of this process."""
    from medstill.node import Node

    node = Node(config, handle, **named)
    node.start()
    try:
        yield node
    finally:
        node.stop()


def send(config: Any, files: Sequence[Path], *options: str, aet: str = "SCU") -> Any:
    """Send files by dcmtk's storescu; look at `returncode` and `stdout`."""
    return subprocess.run(storescu(config, files, *options, aet=aet), **_CAUGHT)


def storescu(config: Any, files: Sequence[Path], *options: str, aet: str = "SCU") -> list[str]:
    names = [str(file) for file in files]
    to = ["-aet", aet, "-aec", config.aet, *options, "127.0.0.1", str(config.port)]
    return ["storescu", "-v", *to, *names]


def echo(config: Any, aet: str = "SCU", called: str | None = None) -> Any:
    to = ["-aet", aet, "-aec", called or config.aet, "127.0.0.1", str(config.port)]
    return subprocess.run(["echoscu", "-v", *to], **_CAUGHT)


def associate(config: Any) -> Any:
    """An association to send CT images by, requested with pynetdicom."""
    import pynetdicom

    entity = pynetdicom.AE(ae_title="SCU")
    entity.add_requested_context(CT)
    return entity.associate("127.0.0.1", config.port, ae_title=config.aet)


_CAUGHT: dict[str, Any] = {
    "stdout": subprocess.PIPE,
    "stderr": subprocess.STDOUT,
    "text": True,
    "check": False,
    "timeout": PATIENCE_S,
}


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(holds: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until something holds.

    Raises:
        AssertionError: It does not within the patience.
    """
    end = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def replace_in(config: Any, record: str, **changes: Any) -> Any:
    found = getattr(config, record).model_copy(update=changes)
    return config.model_copy(update={record: found})
