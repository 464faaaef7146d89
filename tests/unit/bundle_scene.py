"""Phantom scans, and networks with all that their export is verified on, for tests of bundles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import SimpleITK as sitk
import torch
from test_export import contract, trained

from medstill import evaluation
from medstill.config import NetworkConfig
from medstill.deploy.contract import Contract
from medstill.deploy.export import Evidence
from medstill.deploy.verification import Trial
from medstill.networks import build
from medstill.volumes.geometry import canonical
from medstill.volumes.io import read_image, read_label, write_image
from medstill.volumes.phantom import write_phantom
from medstill.volumes.preparation import prepare_image
from medstill.volumes.records import ChannelIntensity
from medstill.volumes.resampling import resample_label

WINDOW = ChannelIntensity(kind="ct-window", low=-160.0, high=240.0)
PERCENTILES = ChannelIntensity(kind="percentiles", low=0.5, high=99.5)


@dataclass(frozen=True)
class FakeCase:
    image_CZYX: np.ndarray
    label_ZYX: np.ndarray
    info: SimpleNamespace


@dataclass(frozen=True)
class Scene:
    """A network, what it is compared on, and raw scans."""

    network: torch.nn.Module
    contract: Contract
    evidence: Evidence
    scans: Path


def write_scans(folder):
    """Two phantoms, the second one oblique and with its axes in another order."""
    write_phantom(folder, patients=2, size_zyx=(9, 56, 60), workers=1)
    for kind in ("imagesTr", "labelsTr"):
        file = folder / kind / "phantom_001.nii.gz"
        image = sitk.DICOMOrient(sitk.ReadImage(str(file)), "PIR")
        turn = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.05, -0.08, 0.11).GetMatrix()
        direction = np.reshape(turn, (3, 3)) @ np.reshape(image.GetDirection(), (3, 3))
        image.SetDirection(direction.ravel())
        write_image(image, file)
    return folder


CASES = {
    "one-organ-2d-ct": ("unet-s1", 2, 2, (1, 32, 48), WINDOW),
    "four-classes-3d-mr": ("compact", 3, 4, (32, 32, 48), PERCENTILES),
}


def scene_of(data, name):
    network, dims, classes, patch, intensity = CASES[name]
    agreed = contract(dims=dims, classes=classes, patch=patch)
    spacing = (None if dims == 2 else 6.5, 9.0, 10.0)
    preparation = agreed.preparation.model_copy(
        update={"intensity": (intensity,), "spacing_zyx_mm": spacing}
    )
    agreed = agreed.model_copy(update={"preparation": preparation})
    torch.manual_seed(1)
    built = build(
        NetworkConfig(name=network),
        spatial_dims=dims,
        in_channels=1,
        out_channels=agreed.output_channels,
    )
    space = patch[-dims:]
    built = trained(built, 2, 1, *space).eval()
    file = "phantom_000.nii.gz"
    prepared = prepare_image(read_image(data / "imagesTr" / file), preparation)
    grid = prepared.frame.grid
    label = read_label(data / "labelsTr" / file)
    truth = np.minimum(resample_label(canonical(label), grid), classes - 1)
    case = FakeCase(
        prepared.array_CZYX, truth, SimpleNamespace(spacing_zyx_mm=grid.spacing_xyz_mm[::-1])
    )

    def dice(pairs):
        found = [evaluation.dice_by_class(*pair, classes) for pair in pairs]
        by_class = evaluation.mean_by_class(found, preparation.classes)
        return sum(by_class.values()) / len(by_class)

    example = np.resize(prepared.array_CZYX, (2, 1, *space)).astype(np.float32)
    return Scene(built, agreed, Evidence([example], Trial([case], dice)), data / "imagesTr")
