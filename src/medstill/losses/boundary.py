"""More weight near the class boundaries, for any loss on output maps.

Shape legend: B batch, `...` space (H W or D H W).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medstill.errors import ShapeError


def boundary_weights(classes_B: Tensor, *, extra: float, width: int) -> Tensor:
    """Weight 1 everywhere and `1 + extra` in the band around the class boundaries.

    A place lies in the band when some place of another class is at most `width` away along every
    axis. Both sides of a boundary belong to it; the edge of the image does not make a boundary.
    The band comes from a dilation (max-pool) and an erosion of the class numbers: they differ
    exactly where the window holds more than one class, so the cost does not grow with the classes.

    Args:
        classes_B: Class of each place `(B, ...)`, integers.
        extra: Additional weight in the band, >= 0.
        width: Half width of the band in pixels or voxels, >= 1.

    Returns:
        Weights `(B, ...)`, float32.

    Raises:
        ShapeError: There are neither two nor three spatial axes.
    """
    pools = {3: F.max_pool2d, 4: F.max_pool3d}
    if classes_B.dim() not in pools:
        raise ShapeError(
            "A class map must be (B, H, W) or (B, D, H, W), but its shape is "
            f"{tuple(classes_B.shape)}. Leave out the channel axis."
        )
    pool, window = pools[classes_B.dim()], 2 * width + 1
    classes = classes_B.unsqueeze(1).to(torch.float32)
    highest = pool(classes, window, stride=1, padding=width)
    lowest = -pool(-classes, window, stride=1, padding=width)
    return 1 + extra * (highest != lowest).squeeze(1).to(torch.float32)
