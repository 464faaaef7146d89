"""Distances between the surfaces of two masks in mm, weighted by surface area.

The definitions are those of DeepMind's `surface-distance`: every surfel (see `surfels`) of one
surface has a size and a distance to the nearest surfel of the other. An image of one slice is
measured in its plane, with contour lengths in place of areas.

The package itself is not used: its only release, 0.1, calls names that NumPy 2 and current SciPy
no longer have. It is the oracle of the tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medstill.errors import ConfigError, LabelError
from medstill.evaluation.overlap import check_shapes
from medstill.evaluation.surfels import FULL_CODE, neighbourhood_codes, surfel_sizes

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]

ROUNDING = 1e-6
"""Relative slack of a comparison with the tolerance: distances come in single precision."""


@dataclass(frozen=True)
class Surface:
    """The surfels of one mask: distance to the other surface, and size, both `(surfels,)`.

    Sorted by distance. Sizes are mm^2, or mm for an image of one slice.
    """

    distances_mm: Values
    sizes: Values

    def percentile_mm(self, percent: float) -> float:
        """Least distance that `percent` of the surface do not exceed."""
        share = np.cumsum(self.sizes) / self.sizes.sum()
        index = int(np.searchsorted(share, percent / 100))
        return float(self.distances_mm[min(index, len(share) - 1)])

    def within(self, tolerance_mm: float) -> float:
        """Size of the part that lies within a tolerance."""
        return float(self.sizes[self.distances_mm <= tolerance_mm * (1 + ROUNDING)].sum())


@dataclass(frozen=True)
class SurfaceDistances:
    """Both surfaces, each measured to the other."""

    truth: Surface
    predicted: Surface

    def hausdorff_mm(self, percent: float = 95.0) -> float:
        """HD95: the greater of the two 95th percentiles. Smaller is better; 0 for equal masks."""
        return max(self.truth.percentile_mm(percent), self.predicted.percentile_mm(percent))

    def average_mm(self) -> float:
        """ASSD: mean distance over both surfaces together. Smaller is better."""
        total = sum(float((s.distances_mm * s.sizes).sum()) for s in (self.truth, self.predicted))
        return total / self._size()

    def surface_dice(self, tolerance_mm: float) -> float:
        """NSD: share of both surfaces together within the tolerance, in [0, 1].

        Raises:
            ConfigError: The tolerance is negative.
        """
        if tolerance_mm < 0:
            raise ConfigError(
                f"The NSD tolerance must be 0 mm or more, but it is {tolerance_mm} mm. "
                "Set evaluation.nsd_tolerance_mm."
            )
        near = self.truth.within(tolerance_mm) + self.predicted.within(tolerance_mm)
        return near / self._size()

    def _size(self) -> float:
        return float(self.truth.sizes.sum() + self.predicted.sizes.sum())


def surface_distances(
    truth_ZYX: Mask, predicted_ZYX: Mask, spacing_zyx_mm: Sequence[float]
) -> SurfaceDistances:
    """Measure the surfaces of two masks to each other.

    A mask that touches the edge of the image has a surface there.

    Args:
        truth_ZYX: Mask with at least one voxel; one slice, across any axis, is measured in 2-D.
        predicted_ZYX: Mask of the same shape, with at least one voxel.
        spacing_zyx_mm: Voxel spacing.

    Raises:
        ShapeError: The two shapes differ.
        LabelError: A mask is empty; `scores.score_case` has the rule for it.

    References:
        Nikolov et al., arXiv:1809.04430. Deviation: `average_mm` is one mean over both surfaces,
        where the package returns one mean for each.

    >>> cube = np.zeros((9, 6, 7), bool); cube[1:4, 1:5, 1:5] = True
    >>> found = surface_distances(cube, np.roll(cube, 2, axis=0), (3.0, 2.0, 1.0))
    >>> found.hausdorff_mm()
    6.0
    """
    check_shapes(truth_ZYX, predicted_ZYX)
    for name, mask in (("truth", truth_ZYX), ("prediction", predicted_ZYX)):
        if not mask.any():
            raise LabelError(
                f"The {name} is empty, so it has no surface to measure. "
                "Score empty masks by their rule, as score_case does."
            )
    box = bounding_box(truth_ZYX | predicted_ZYX)
    truth, predicted = truth_ZYX[box], predicted_ZYX[box]
    spacing = tuple(spacing_zyx_mm)
    if (flat := _slice_axis(truth_ZYX.shape)) is not None:
        truth, predicted = truth.squeeze(flat), predicted.squeeze(flat)
        spacing = (*spacing[:flat], *spacing[flat + 1 :])
    sizes = surfel_sizes(spacing)
    codes = [neighbourhood_codes(mask) for mask in (truth, predicted)]
    edges = [(c != 0) & (c != FULL_CODE[c.ndim]) for c in codes]
    maps = [_distance_map(edge, spacing) for edge in edges]
    return SurfaceDistances(
        _surface(maps[1][edges[0]], sizes[codes[0][edges[0]]]),
        _surface(maps[0][edges[1]], sizes[codes[1][edges[1]]]),
    )


def diagonal_mm(shape_zyx: Sequence[int], spacing_zyx_mm: Sequence[float]) -> float:
    """Length of an image's diagonal, the distance that stands in for a missed structure.

    The slice axis of an image of one slice does not count, as it does not for its distances.

    >>> diagonal_mm((10, 20, 20), (4.0, 1.0, 1.0)), diagonal_mm((1, 30, 40), (5.0, 1.0, 1.0))
    (48.98979485566356, 50.0)
    """
    flat = _slice_axis(shape_zyx)
    extents = enumerate(zip(shape_zyx, spacing_zyx_mm, strict=True))
    return math.hypot(*(n * spacing for axis, (n, spacing) in extents if axis != flat))


def _slice_axis(shape_zyx: Sequence[int]) -> int | None:
    """The axis across an image of one slice; None of a volume."""
    return tuple(shape_zyx).index(1) if 1 in shape_zyx else None


def bounding_box(mask: Mask) -> tuple[slice, ...]:
    """The smallest box around a mask that is not empty."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        places = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(box)


def _surface(distances_mm: NDArray[np.float32], sizes: Values) -> Surface:
    order = np.argsort(distances_mm, kind="stable")
    return Surface(distances_mm[order].astype(np.float64), sizes[order])


def _distance_map(edge: Mask, spacing: Sequence[float]) -> NDArray[np.float32]:
    image = sitk.GetImageFromArray(edge.astype(np.uint8))
    image.SetSpacing([float(s) for s in reversed(spacing)])
    found = sitk.SignedMaurerDistanceMap(
        image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    # Inside the edge the map counts depth; an edge voxel lies on the surface.
    distances: NDArray[np.float32] = np.maximum(sitk.GetArrayViewFromImage(found), 0)
    return distances
