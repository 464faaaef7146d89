"""A series, a label map on it, and the objects that are written of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from test_contract import contract

from dicom_factory import Plan, turned, write_frames, write_series
from medstill.deploy import dicom
from medstill.volumes.dicom import choose_series, read_series

OBLIQUE = turned(31.0, (1.0, 2.0, -0.5))
PLANS = {
    "axial": Plan(),
    "reversed": Plan(step=-1),
    "shuffled": Plan(shuffled=True),
    "negative cosines": Plan(row=(-1.0, 0.0, 0.0), column=(0.0, -1.0, 0.0), step=-1),
    "feet first mirrored": Plan(row=(-1.0, 0.0, 0.0), shuffled=True),
    "sagittal": Plan(row=(0.0, 1.0, 0.0), column=(0.0, 0.0, -1.0)),
    "coronal": Plan(row=(1.0, 0.0, 0.0), column=(0.0, 0.0, -1.0), step=-1),
    "oblique": Plan(row=OBLIQUE[0], column=OBLIQUE[1], shuffled=True),
    "flat pixels": Plan(spacing=(0.7, 2.1, 5.0)),
    "MR": Plan(modality="MR", intercept=0.0),
    "one slice": Plan(size=(1, 17, 23)),
}


@dataclass(frozen=True)
class Made:
    """A series, a label map on it, and the object written of both."""

    sources: tuple[Path, ...]
    label: sitk.Image
    path: Path

    @property
    def values(self) -> np.ndarray:
        return sitk.GetArrayFromImage(self.label)

    @property
    def seg(self) -> Any:
        import highdicom

        return highdicom.seg.segread(self.path)


def make(
    folder: Path,
    plan: Plan,
    *,
    frames: bool = False,
    classes: int = 2,
    write: str = "write_seg",
    values: np.ndarray | None = None,
) -> Made:
    """An object of a label map in which every voxel is drawn by itself, if it is not given."""
    series = folder / "series"
    if frames:
        write_frames(series / "all.dcm", plan)
    else:
        write_series(series, plan)
    found = read_series(choose_series(series))
    if values is None:
        values = np.random.default_rng(7).integers(0, classes + 1, plan.size)
    label = sitk.GetImageFromArray(values.astype(np.uint8))
    label.CopyInformation(found.image)
    path = getattr(dicom, write)(label, found.sources, contract(), folder / "made.dcm")
    return Made(found.sources, label, path)


def changed(made: Made, change: Callable[[Any], object]) -> None:
    """Change the headers of the images and write them anew."""
    import pydicom

    for path in made.sources:
        data = pydicom.dcmread(path)
        change(data)
        data.save_as(path)
