"""Canonical orientation as a view: axes are exchanged and turned round, no voxel is copied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medstill.volumes.records import ORIENTATION, Geometry


@dataclass(frozen=True)
class Turn:
    """How the axes of a stored image lie in canonical orientation.

    Attributes:
        order: Axis Z Y X of the stored array that stands at each canonical axis.
        flipped: Canonical axes that run the other way.
    """

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    def __call__(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view `(..., Z, Y, X)` in canonical orientation of an array in that of the file."""
        ahead = array.ndim - 3
        turned = array.transpose(*range(ahead), *(ahead + axis for axis in self.order))
        back = tuple(ahead + axis for axis, flipped in enumerate(self.flipped) if flipped)
        return np.flip(turned, back)

    def stored_stop(self, planes: slice, shape_zyx: tuple[int, int, int]) -> int:
        """How many planes of the file, from its first, hold a run of canonical planes.

        Args:
            planes: The run, along z.
            shape_zyx: Shape of the stored array.
        """
        if self.order[0] != 0:
            return shape_zyx[0]
        return shape_zyx[0] - planes.start if self.flipped[0] else int(planes.stop)


def turn_of(geometry: Geometry, orientation: str = ORIENTATION) -> Turn:
    """The turn from a grid to canonical orientation."""
    probe = sitk.Image((1, 1, 1), sitk.sitkUInt8)
    probe.SetDirection(geometry.direction)
    turner = sitk.DICOMOrientImageFilter()
    turner.SetDesiredCoordinateOrientation(orientation)
    turner.Execute(probe)
    z, y, x = (2 - int(axis) for axis in reversed(turner.GetPermuteOrder()))
    back_z, back_y, back_x = (bool(flip) for flip in reversed(turner.GetFlipAxes()))
    return Turn((z, y, x), (back_z, back_y, back_x))
