"""Whether a MONAI bundle gives from file to file what medstill gives.

A run keeps no scans, so scans are made of its validation cases: on a finer grid and with other
axes, so that orientation, intensities, smoothing, both resamplings and the files are tried too.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import SimpleITK as sitk

from medstill.deploy.contract import Contract
from medstill.deploy.segmentation import Network, SegmentOptions, segment
from medstill.deploy.verification import LIMITS, FileAgreement, Trial
from medstill.errors import ModelFileError, require
from medstill.volumes.geometry import (
    array_CZYX,
    canonical,
    image_of,
    onto_grid,
    resampled_grid,
)
from medstill.volumes.io import read_image, write_image
from medstill.volumes.records import Geometry, LabelArray, Preparation, PreparedCase

FINER: Final = 0.7
"""Spacing of the scans that are made, as a share of the network's."""

_AXES: Final = "PIR"
_ORIGIN_XYZ_MM: Final = (-31.5, 12.25, 400.0)
_IDENTITY: Final = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
_PERCENTILE_RANGE: Final = 1000.0


def compare_files(
    bundle: Path, reference: Network, contract: Contract, trial: Trial
) -> FileAgreement:
    """Segment scans with a bundle in MONAI and with medstill, and compare the label files.

    Args:
        bundle: Folder of the bundle.
        reference: The network in PyTorch; gives logits `(B, K, ...)`.
        contract: Of the bundle.
        trial: Validation cases; each becomes a scan.
    """
    with tempfile.TemporaryDirectory() as scratch:
        scans, labels = Path(scratch) / "images", Path(scratch) / "labels"
        truths = list(_written(trial, contract.preparation, scans))
        run_bundle(bundle, scans, labels)
        options = SegmentOptions(overlap=contract.overlap)
        expected, found = [], []
        for truth_ZYX, name in truths:
            ours = segment(read_image(scans / name), reference, contract.preparation, options)
            expected.append((truth_ZYX, array_CZYX(ours.label)[0]))
            found.append((truth_ZYX, array_CZYX(read_image(labels / name))[0].astype(np.uint8)))
    pairs = zip(expected, found, strict=True)
    equal = sum(int((one == other).sum()) for (_, one), (_, other) in pairs)
    voxels = sum(truth.size for truth, _ in expected)
    return FileAgreement(
        cases=len(truths),
        voxels=voxels,
        label_agreement=equal / voxels,
        dice_medstill=trial.dice(expected),
        dice=trial.dice(found),
    )


def demand_same_files(found: FileAgreement, path: Path) -> None:
    """Refuse a bundle whose label files are worse or better than medstill's.

    Raises:
        ModelFileError: The mean Dice differs too much; the message says by how much.
    """
    limit = LIMITS["fp32"].dice_change
    if not abs(found.dice - found.dice_medstill) <= limit:
        raise ModelFileError(
            f"'{path}' was not written: from file to file MONAI reaches a mean validation Dice of "
            f"{found.dice:.4f}, medstill {found.dice_medstill:.4f} (a difference of at most "
            f"{limit} is allowed); {1 - found.label_agreement:.4%} of {found.voxels} labels "
            "differ. Try another version of monai, or export it with --format onnx."
        )


def run_bundle(bundle: Path, scans: Path, labels: Path) -> None:
    """Let MONAI segment all NIfTI files of a folder on the CPU, as `python -m monai.bundle run`."""
    workflow = require("monai.bundle", "monai").ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"),
        workflow_type="inference",
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(scans),
        output_dir=str(labels),
        device="cpu",
    )
    searched = list(sys.path)
    try:
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    finally:
        sys.path[:] = searched  # MONAI adds the folder of the bundle


def _written(
    trial: Trial, preparation: Preparation, folder: Path
) -> Iterator[tuple[LabelArray, str]]:
    """Write a scan of each case; its true labels `(Z, Y, X)` in the order of the file, its name."""
    folder.mkdir()
    for number, case in enumerate(trial.cases):
        assert case.label_ZYX is not None
        name = f"scan-{number:04d}.nii.gz"
        given = _geometry(case)
        finer = tuple(FINER * step for step in case.info.spacing_zyx_mm)
        grid = resampled_grid(
            given, (None if preparation.spatial_dims == 2 else finer[0], finer[1], finer[2])
        )
        image = image_of(_raw(case, preparation), given)
        write_image(canonical(onto_grid(image, grid, sitk.sitkLinear), _AXES), folder / name)
        label = image_of(np.asarray(case.label_ZYX), given)
        placed = canonical(onto_grid(label, grid, sitk.sitkNearestNeighbor), _AXES)
        yield array_CZYX(placed)[0], name


def _geometry(case: PreparedCase) -> Geometry:
    z, y, x = case.image_CZYX.shape[1:]
    step_z, step_y, step_x = case.info.spacing_zyx_mm
    return Geometry((x, y, z), (step_x, step_y, step_z), _ORIGIN_XYZ_MM, _IDENTITY)


def _raw(case: PreparedCase, preparation: Preparation) -> np.ndarray:
    """The prepared intensities `(Z, Y, X)` as those of a scan."""
    scaled_ZYX = np.asarray(case.image_CZYX[0], dtype=np.float32)
    how = preparation.intensity[0]
    if how.kind == "none":
        return scaled_ZYX
    low, width = (
        (0.0, _PERCENTILE_RANGE) if how.kind == "percentiles" else (how.low, how.high - how.low)
    )
    return np.asarray(low + width * scaled_ZYX, dtype=np.float32)
