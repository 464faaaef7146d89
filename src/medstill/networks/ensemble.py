"""Several networks as one: the mean of their class probabilities.

Shape legend: M members, B batch, C classes, R reconstruction channels, `...` space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from medstill.networks.output import Output, run


class Ensemble(nn.Module):
    """Networks of one kind of answer that answer together; of a single one too.

    Logits are those of the mean probabilities; reconstructions are averaged as images.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        """Take networks that `run` understands."""
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Output:
        """The common answer to a batch `(B, channels, ...)`."""
        outputs = [run(member, x) for member in self.members]
        images = [out.reconstruction for out in outputs if out.reconstruction is not None]
        return Output(
            mean_logits([out.logits for out in outputs]),
            torch.stack(images).mean(dim=0) if images else None,
        )


def mean_logits(logits: Sequence[Tensor]) -> Tensor:
    """Logits of the mean of the class probabilities, in float32.

    With one channel they are the log odds of the mean sigmoid, else the logarithms of the mean
    softmax. Both are computed from logarithms, so that no probability is rounded to 0 or 1.

    Args:
        logits: One `(B, C, ...)` of each network.

    Returns:
        `(B, C, ...)`.
    """
    stacked_MBC = torch.stack([logits_BC.float() for logits_BC in logits])
    if stacked_MBC.shape[2] == 1:
        return _log_mean(functional.logsigmoid(stacked_MBC)) - _log_mean(
            functional.logsigmoid(-stacked_MBC)
        )
    return _log_mean(functional.log_softmax(stacked_MBC, dim=2))


def _log_mean(log_MBC: Tensor) -> Tensor:
    return torch.logsumexp(log_MBC, dim=0) - math.log(len(log_MBC))
