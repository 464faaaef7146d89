"""A small data set and study, the ways to break them, and what must never be left behind.

Six small CTs with one organ each; everything goes through the real command line.
"""

from __future__ import annotations

import gzip
import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

SHAPE_ZYX = (6, 20, 24)
SPACING_XYZ = (1.0, 2.0, 3.0)
PIXDIM = 80
"""Place of the spacing along x in a NIfTI header; four bytes each."""
STUDY = """
name: bad-input
data: {patch_size: [16, 16]}
split: {train: 3, validation: 1, test: 2}
label_fraction: 1.0
teacher: {network: {name: unet-t1, width: 0.0625}}
students: [{name: unet-s1}]
engine: {workers: 1}
"""


@dataclass(frozen=True)
class Answer:
    """What a command ended with."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class World:
    """A data set and a study on disk, both good until a test breaks them."""

    folder: Path

    @property
    def data(self):
        return self.folder / "data"

    @property
    def out(self):
        return self.folder / "run"

    @property
    def study(self):
        return self.folder / "study.yaml"

    def image(self, case):
        return self.data / "imagesTr" / f"case_{case}.nii.gz"

    def label(self, case):
        return self.data / "labelsTr" / f"case_{case}.nii.gz"

    def command(self, name, *more):
        words = [name, self.study, "--data", self.data, "--out", self.out, *more]
        return [str(word) for word in words]

    def describe(self, cases=range(6)):
        entries = [
            {"image": f"imagesTr/case_{case}.nii.gz", "label": f"labelsTr/case_{case}.nii.gz"}
            for case in cases
        ]
        content = {
            "modality": {"0": "CT"},
            "labels": {"0": "background", "1": "spleen"},
            "training": entries,
        }
        (self.data / "dataset.json").write_text(json.dumps(content))


def ct_ZYX(case):
    return np.random.default_rng(case).integers(-200, 300, SHAPE_ZYX).astype(np.int16)


def spleen_ZYX(case):
    label = np.zeros(SHAPE_ZYX, np.uint8)
    label[1:4, 3 : 9 + case, 5:12] = 1
    return label


def write(path, array, spacing=SPACING_XYZ, origin=None):
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing(spacing[: image.GetDimension()] + (1.0,) * (image.GetDimension() - 3))
    if origin:
        image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))
    return path


def assert_refused(answer, *words):
    """Exit code 2, a message with these words, and no traceback."""
    assert answer.code == 2, answer
    assert answer.err.startswith("error: ")
    told = " ".join(answer.err.split())
    assert [word for word in words if str(word) not in told] == [], told
    assert "Traceback" not in answer.out + answer.err


def assert_nothing_half_written(out, *finished):
    """No draft, and of the files that mark something as finished only those that really are."""
    marks = ("prepared/index.json", "split.json", "comparison.json", "report.html", "teacher")
    assert list(out.parent.rglob(".partial-*")) == []
    assert [mark for mark in marks if (out / mark).exists()] == list(finished)


def damaged_header(path, offset, value):
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<f", content, offset, value)
    path.write_bytes(gzip.compress(bytes(content)))
    return path


def truncated(world):
    path = world.image(2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def truncated_label(world):
    path = world.label(2)
    path.write_bytes(path.read_bytes()[:-20])
    return path


def text_as_image(world):
    world.image(2).write_text("this is not a scan")
    return world.image(2)


def label_of_other_shape(world):
    return write(world.label(2), spleen_ZYX(2)[:, :, :-1])


def label_of_other_place(world):
    return write(world.label(2), spleen_ZYX(2), origin=(0.0, 5.0, 0.0))


def label_of_other_spacing(world):
    return write(world.label(2), spleen_ZYX(2), spacing=(1.0, 2.0, 3.5))


def undeclared_value(world):
    return write(world.label(2), spleen_ZYX(2) * 7)


def label_of_fractions(world):
    return write(world.label(2), spleen_ZYX(2).astype(np.float32) * 0.5)


def missing_label(world):
    world.label(2).unlink()
    return world.label(2)


def missing_image(world):
    world.image(2).unlink()
    return world.image(2)


def nan(world):
    array = ct_ZYX(2).astype(np.float32)
    array[1, 2, 3] = np.nan
    return write(world.image(2), array)


def infinite(world):
    array = ct_ZYX(2).astype(np.float32)
    array[1, 2, 3] = np.inf
    return write(world.image(2), array)


def four_dimensions(world):
    return write(world.image(2), np.stack([ct_ZYX(2), ct_ZYX(3)]))


def constant(world):
    return write(world.image(2), np.full(SHAPE_ZYX, -1000, np.int16))


def zero_spacing(world):
    return damaged_header(world.image(2), PIXDIM + 4, 0.0)


def negative_spacing(world):
    return damaged_header(world.image(2), PIXDIM + 8, -3.0)


BAD_CASES = {
    truncated: ("is truncated or damaged: expected", "found", "Copy or download the file again"),
    truncated_label: ("is truncated or damaged: expected", "Copy or download the file again"),
    text_as_image: ("truncated or damaged: expected a whole gzip file", "found", "again"),
    label_of_other_shape: ("expected", "24 x 20 x 6", "23 x 20 x 6"),
    label_of_other_place: ("expected", "case_2.nii.gz"),
    label_of_other_spacing: ("expected", "3.5"),
    undeclared_value: ("xpected", "declared", "found 7 (168 voxels)", "Declare the values"),
    label_of_fractions: ("not whole: expected one integer per class", "Round or threshold it"),
    missing_label: ("label of case 'case_2' is missing: expected", "found no such file. Add it"),
    missing_image: ("image of case 'case_2' is missing: expected", "found no such file. Add it"),
    nan: ("holds NaN or Inf: expected finite numbers", "Replace them"),
    infinite: ("holds NaN or Inf: expected finite numbers", "Replace them"),
    four_dimensions: ("expected", "4", "3"),
    constant: ("is constant: expected an image, found -1000 in every voxel", "leave the case out"),
    zero_spacing: ("spacing of 1 x 0 x 3 mm", "expected positive numbers", "Write the true voxel"),
    negative_spacing: ("spacing of 1 x 2 x -3 mm", "expected positive numbers", "Write the true"),
}
"""What is done to a case, and words of the answer beside the file's name."""

each_bad_case = pytest.mark.parametrize(
    ("damage", "words"), BAD_CASES.items(), ids=[damage.__name__ for damage in BAD_CASES]
)
