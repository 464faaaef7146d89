"""Other programs that judge what medstill writes; tests are skipped where they are missing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk


def errors_of(path: Path) -> list[str]:
    """What dciodvfy (Debian: dicom3tools) calls an error."""
    said = _run("dciodvfy", "apt install dicom3tools", "-new", str(path))
    assert re.search(r"^[A-Z]\w+", said), said
    return [line for line in said.splitlines() if line.startswith("Error")]


def voxels_of(path: Path, folder: Path) -> dict[int, sitk.Image]:
    """Each segment of a SEG as an image, as dcmqi reads it."""
    folder.mkdir()
    arguments = ("--inputDICOM", str(path), "--outputDirectory", str(folder), "-t", "nrrd")
    _run("segimage2itkimage", "pip install dcmqi", *arguments)
    return {
        number: image
        for file in folder.glob("*.nrrd")
        for number, image in _segments(sitk.ReadImage(str(file)), file)
    }


def dump_of(path: Path) -> str:
    """The object as dcmtk prints it."""
    return _run("dcmdump", "apt install dcmtk", str(path))


def structures_of(path: Path, series: Path, folder: Path) -> dict[str, sitk.Image]:
    """Each structure of an RTSTRUCT as a mask, as plastimatch fills it."""
    arguments = ("--input", str(path), "--referenced-ct", str(series))
    output = ("--output-prefix", str(folder), "--prefix-format", "nrrd")
    _run("plastimatch", "apt install plastimatch", "convert", *arguments, *output)
    return {file.stem: sitk.ReadImage(str(file)) for file in folder.glob("*.nrrd")}


def on_grid(image: sitk.Image, grid: sitk.Image) -> np.ndarray:
    """A mask, which may cover a part of a grid, as an array on the whole of it."""
    moved = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    return sitk.GetArrayFromImage(moved)


def _segments(image: sitk.Image, file: Path) -> list[tuple[int, sitk.Image]]:
    values = [int(value) for value in np.unique(sitk.GetArrayViewFromImage(image)) if value]
    return [(value, image == value) for value in values]


def _run(name: str, install: str, *arguments: str) -> str:
    found = shutil.which(name) or shutil.which(str(Path(sys.executable).parent / name))
    if found is None:
        pytest.skip(f"{name} is not installed ({install})")
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert name == "dciodvfy" or done.returncode == 0, said
    return said
