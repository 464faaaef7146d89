"""The records that travel between the parts: cases, geometry, preparation, prepared cases, splits.

Array axes are `C Z Y X`; physical axes are `x y z` in the LPS frame of ITK and DICOM, in mm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medstill.config import Record

FloatArray = NDArray[np.floating]
LabelArray = NDArray[np.uint8]

ORIENTATION = "LPS"
"""Axis codes of every prepared array's x, y, z axes; ITK's identity direction is LPS."""


def pseudonym_of(name: str) -> str:
    """The same pseudonym for the same name everywhere.

    It is no anonymisation: whoever guesses a name can check it.
    """
    return f"patient-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class Case:
    """One scan on disk. `images` holds one path per channel; a path may be a DICOM folder."""

    id: str
    patient: str
    images: tuple[Path, ...]
    label: Path | None
    site: str | None = None

    @property
    def pseudonym(self) -> str:
        """What a run folder calls the patient: the case's id, or a hash of another name."""
        return self.id if self.patient == self.id else pseudonym_of(self.patient)


@dataclass(frozen=True)
class Dataset:
    """A data set found on disk.

    `modalities` has one name per channel (`ct`, `mr`, `colour`, `gray`; colour counts as one file
    of three components). `labels` maps name -> value, background included. `splits_file` is
    nnU-Net's `splits_final.json` where there is one.
    """

    root: Path
    layout: str
    modalities: tuple[str, ...]
    labels: Mapping[str, int]
    ignore_value: int | None
    cases: tuple[Case, ...]
    splits_file: Path | None = None
    left_out: tuple[str, ...] = ()
    """Why entries of the layout were left out, where that was allowed."""

    @property
    def labelled(self) -> tuple[Case, ...]:
        """The cases that have a label volume."""
        return tuple(case for case in self.cases if case.label is not None)


@dataclass(frozen=True)
class Geometry:
    """The grid of an image in physical space, as SimpleITK describes it."""

    size_xyz: tuple[int, int, int]
    spacing_xyz_mm: tuple[float, float, float]
    origin_xyz_mm: tuple[float, float, float]
    direction: tuple[float, ...]
    """Nine direction cosines, row by row."""


class ChannelIntensity(Record):
    """What is done to one channel, with every number resolved."""

    kind: str
    """A name of `medstill.volumes.intensity.INTENSITIES`."""
    low: float = 0.0
    high: float = 1.0


class Seen(Record):
    """What training saw, for warnings at prediction."""

    spacing_zyx_mm: tuple[tuple[float, float], ...]
    """Least and greatest original spacing of each axis."""
    intensity: tuple[tuple[float, float], ...]
    """Lowest 1st and highest 99th percentile of the raw training volumes, a channel."""


class Preparation(Record):
    """The whole contract from a raw image to network input and back; stored with every model."""

    spatial_dims: int
    orientation: str = ORIENTATION
    """Axis codes of the prepared array's x, y, z axes."""
    spacing_zyx_mm: tuple[float | None, float, float]
    """Target spacing; None leaves that axis as it is (the slice axis in 2-D)."""
    intensity: tuple[ChannelIntensity, ...]
    """One entry per channel of the prepared image."""
    crop_to_body: bool = False
    pad_value: float = 0.0
    """Prepared intensity of what lies outside the image."""
    classes: tuple[str, ...]
    """Class names in the order of their values, background first."""
    patch_zyx: tuple[int, int, int]
    """Size of the network's input; 1 slice in 2-D."""
    seen: Seen | None = None

    @property
    def channels(self) -> int:
        """Channels of the prepared image."""
        return len(self.intensity)


class CaseInfo(Record):
    """What is kept about a prepared case beside its arrays. It names no person and no date."""

    id: str
    patient: str
    site: str | None = None
    labelled: bool
    spacing_zyx_mm: tuple[float, float, float]
    """Spacing of the prepared grid."""
    original_spacing_zyx_mm: tuple[float, float, float]
    voxels_by_class: tuple[int, ...]
    """Voxels of each class in the prepared label, background first; empty without a label."""
    image_file: tuple[str, ...]
    """Paths of the sources below the data folder, with `/`."""
    label_file: str | None = None
    content_hash: str
    """Hash of the source files."""


@dataclass(frozen=True)
class PreparedCase:
    """A prepared case: memory-mapped arrays that are read when they are touched.

    `image_CZYX` is floating point; `label_ZYX` uint8 with class values, 255 for ignore, or None.
    `places` maps class value -> `(n, 3)` int32 voxel indices `z y x`, a seeded sample of it.
    """

    info: CaseInfo
    image_CZYX: FloatArray
    label_ZYX: LabelArray | None
    places: Mapping[int, NDArray[np.int32]] = field(default_factory=dict)


class Split(Record):
    """Which patients do what. Case ids, each list sorted."""

    train: tuple[str, ...]
    """Cases of the teacher."""
    validation: tuple[str, ...]
    test: tuple[str, ...]
    student: tuple[str, ...]
    """The part of `train` whose labels the students see."""
    patients: dict[str, str]
    """Case id -> patient."""
    data_hash: str
    unlabelled: tuple[str, ...] = ()
    """Cases without labels, of no validation or test patient: usable for distillation."""
    left_out: tuple[str, ...] = ()
    """Cases without labels whose patient or site is validated or tested: used for nothing."""
