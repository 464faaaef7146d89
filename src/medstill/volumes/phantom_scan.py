"""Scans of the CT phantom: pose, contrast phase, blur and noise, and the image in space.

Arrays are `Z Y X`, intensities HU. `phantom_anatomy` says what is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medstill.volumes.geometry import image_of
from medstill.volumes.phantom_anatomy import HALF_WIDTH_MM, build_anatomy
from medstill.volumes.phantom_shapes import Body, Field, smooth_field
from medstill.volumes.phantom_tissues import Anatomy, Tissue
from medstill.volumes.records import Geometry

DIRECTION = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
"""Columns to the right, rows to the front, slices upwards: RAS, so orientation must be handled."""


@dataclass(frozen=True)
class Pose:
    """How a patient lies in the scanner, and the grid of the scan."""

    spacing_zyx_mm: tuple[float, float, float]
    scale_zyx: tuple[float, float, float]
    """Size of the patient over that of the standard body."""
    shift_zyx_mm: tuple[float, float, float]
    angles: tuple[float, float, float]
    """Roll about the long axis, pitch and yaw, in radians."""


@dataclass(frozen=True)
class Scan:
    """What the scanner adds: HU of the tissues, blur, noise."""

    hu: NDArray[np.float32]
    """HU by `Tissue`."""
    texture_hu: float
    blur_voxels_zyx: tuple[float, float, float]
    noise_hu: float
    grain_voxels: float


def draw_patient(
    seed: int, index: int, size_zyx: tuple[int, int, int]
) -> tuple[sitk.Image, sitk.Image]:
    """One patient of the phantom.

    Args:
        seed: Seed of the phantom.
        index: Which patient.
        size_zyx: Slices, rows and columns.

    Returns:
        Image (int16, HU) and labels (uint8, the values of `LABELS`) on one grid.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    pose = _draw_pose(rng, size_zyx)
    scan = _draw_scan(rng)
    body = _lay_down(rng, pose, size_zyx)
    anatomy = build_anatomy(rng, body)
    _add_table(anatomy, pose)
    image = _expose(rng, anatomy, scan, body.fields)
    return _in_space(image, pose), _in_space(anatomy.label_ZYX, pose)


def _draw_pose(rng: np.random.Generator, size_zyx: tuple[int, int, int]) -> Pose:
    wide, deep = rng.uniform(0.76, 1.0), rng.uniform(0.93, 1.08)
    tall = np.sqrt(wide) * rng.uniform(0.9, 1.1)
    field_of_view = 2 * HALF_WIDTH_MM * wide * rng.uniform(1.1, 1.18)
    height = 188 * tall * rng.uniform(0.92, 1.05)
    in_plane = round(float(field_of_view / min(size_zyx[1:])), 4)
    return Pose(
        spacing_zyx_mm=(round(float(height / size_zyx[0]), 4), in_plane, in_plane),
        scale_zyx=(float(tall), float(wide * deep), float(wide)),
        shift_zyx_mm=(
            float(rng.uniform(-8, 8)),
            float(field_of_view * rng.uniform(-0.07, 0.0)),
            float(field_of_view * rng.uniform(-0.035, 0.035)),
        ),
        angles=(
            float(rng.uniform(-0.16, 0.16)),
            float(rng.uniform(-0.07, 0.07)),
            float(rng.uniform(-0.06, 0.06)),
        ),
    )


def _draw_scan(rng: np.random.Generator) -> Scan:
    """HU of one contrast phase: organs, vessels and kidneys brighten together."""
    phase = rng.uniform(0, 1)
    soft = 52 + 42 * phase
    near = {
        Tissue.LIVER: rng.uniform(-5, 5),
        Tissue.SPLEEN: rng.uniform(-5, 5),
        Tissue.STOMACH: rng.uniform(-7, 5),
        Tissue.BOWEL: rng.uniform(-7, 5),
        Tissue.PANCREAS: rng.uniform(-8, 4),
        Tissue.MUSCLE: rng.uniform(-9, 1),
    }
    kidney = soft + 8 + 45 * phase + rng.uniform(-4, 4)
    vessel = soft + 14 + 80 * phase
    hu = {
        Tissue.AIR: -1000,
        Tissue.FAT: rng.uniform(-110, -92),
        Tissue.LUNG: rng.uniform(-870, -800),
        Tissue.SPONGY_BONE: rng.uniform(150, 230),
        Tissue.COMPACT_BONE: rng.uniform(380, 560),
        Tissue.DISC: 85,
        Tissue.CORTEX: kidney + 22 * phase * rng.uniform(0, 1),
        Tissue.MEDULLA: kidney,
        Tissue.BRIGHT_BOWEL: kidney + rng.uniform(-8, 14),
        Tissue.BILE: rng.uniform(4, 18),
        Tissue.ARTERY: vessel + rng.uniform(4, 40),
        Tissue.VEIN: vessel + rng.uniform(-14, 6),
        Tissue.GAS: -960,
        Tissue.TABLE_SHELL: 190,
        Tissue.TABLE_FOAM: -920,
    } | {tissue: soft + offset for tissue, offset in near.items()}
    in_plane = float(rng.uniform(0.35, 0.75))
    return Scan(
        hu=np.array([hu[tissue] for tissue in Tissue], dtype=np.float32),
        texture_hu=float(rng.uniform(3, 6)),
        blur_voxels_zyx=(float(rng.uniform(0.2, 0.45)), in_plane, in_plane),
        noise_hu=float(rng.uniform(14, 26)),
        grain_voxels=float(rng.uniform(0.5, 0.9)),
    )


def _lay_down(rng: np.random.Generator, pose: Pose, size_zyx: tuple[int, int, int]) -> Body:
    """Body coordinates of the grid: the pose undone, then bent by a smooth random deformation."""
    axes = [
        ((np.arange(n) - (n - 1) / 2) * spacing - shift).astype(np.float32)
        for n, spacing, shift in zip(size_zyx, pose.spacing_zyx_mm, pose.shift_zyx_mm, strict=True)
    ]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    roll, pitch, yaw = pose.angles
    turn = _rotation(2, roll) @ _rotation(0, pitch) @ _rotation(1, yaw)
    scales = pose.scale_zyx[::-1]
    u, v, w = (
        ((row[0] * x + row[1] * y + row[2] * z) / np.float32(scale))
        + smooth_field(rng, size_zyx, (4, 5, 5)) * np.float32(4)
        for row, scale in zip(turn.astype(np.float32), scales, strict=True)
    )
    knots = [(3, 4, 4)] + [(6, 8, 8)] * 6 + [(9, 13, 13)] * 2
    return Body(u, v, w, tuple(smooth_field(rng, size_zyx, spans) for spans in knots))


def _rotation(axis: int, angle: float) -> NDArray[np.float64]:
    matrix = np.eye(3)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix


def _add_table(anatomy: Anatomy, pose: Pose) -> None:
    """A hollow table under the back, where there is air; it does not turn with the patient."""
    tissue = anatomy.tissue_ZYX
    _, rows, columns = tissue.shape
    under = np.flatnonzero((tissue != Tissue.AIR).any(axis=(0, 2))).max() + 1
    across = (np.arange(columns) - (columns - 1) / 2) * pose.spacing_zyx_mm[2]
    down = (np.arange(rows) - under) * pose.spacing_zyx_mm[1]
    depth = down[:, None] + 26 * (across[None] / HALF_WIDTH_MM) ** 2 - 2
    shell = max(3.0, 2 * pose.spacing_zyx_mm[1])
    plate = (np.abs(depth) < shell / 2) | (np.abs(depth - 22) < shell / 2)
    filled = (depth > 0) & (depth < 22)
    air = tissue == Tissue.AIR
    tissue[air & filled[None]] = Tissue.TABLE_FOAM
    tissue[air & plate[None]] = Tissue.TABLE_SHELL


def _expose(
    rng: np.random.Generator, anatomy: Anatomy, scan: Scan, fields: tuple[Field, ...]
) -> NDArray[np.int16]:
    image = scan.hu[anatomy.tissue_ZYX]
    soft = (image > -200) & (image < 300)
    texture = np.float32(scan.texture_hu)
    image += np.where(soft, fields[1] * texture * np.float32(0.6) + fields[8] * texture, 0)
    image = _blurred(image, scan.blur_voxels_zyx)
    grain = scan.grain_voxels
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    # CT noise is a band: back-projection takes out the lowest frequencies, the kernel the highest.
    fine = _blurred(noise, (0.3, grain, grain))
    noise = fine - np.float32(0.7) * _blurred(fine, (0.3, 2 * grain, 2 * grain))
    noise *= np.float32(scan.noise_hu) / noise.std()
    noise[image < -700] *= np.float32(0.5)
    exposed: NDArray[np.int16] = np.clip(np.rint(image + noise), -1024, 2000).astype(np.int16)
    return exposed


def _blurred(array: NDArray[np.float32], voxels_zyx: tuple[float, float, float]) -> Field:
    image = sitk.GetImageFromArray(array)
    image = sitk.SmoothingRecursiveGaussian(image, voxels_zyx[::-1])
    return np.asarray(sitk.GetArrayFromImage(image), dtype=np.float32)


def _in_space(array_ZYX: NDArray[Any], pose: Pose) -> sitk.Image:
    """The array, drawn in LPS, as an image of `DIRECTION` at the same place in space."""
    spacing = pose.spacing_zyx_mm
    half_z, half_y, half_x = (
        (n - 1) / 2 * step for n, step in zip(array_ZYX.shape, spacing, strict=True)
    )
    geometry = Geometry(
        size_xyz=(array_ZYX.shape[2], array_ZYX.shape[1], array_ZYX.shape[0]),
        spacing_xyz_mm=(spacing[2], spacing[1], spacing[0]),
        origin_xyz_mm=(half_x, half_y, -half_z),
        direction=DIRECTION,
    )
    return image_of(array_ZYX[:, ::-1, ::-1], geometry)
