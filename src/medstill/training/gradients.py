"""How hard each loss term pulls at a network: the norm of its weighted gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medstill.training.tasks import StepResult


def gradient_norms(result: StepResult, network: nn.Module) -> dict[str, float]:
    """Norm of the gradient of each weighted term, and of their sum, by a network's parameters.

    Nothing is left behind: gradients that are there stay as they are, and the loss can still be
    differentiated. Projectors and other parameters outside of the network are not counted.

    Args:
        result: Of a step whose graph still exists.
        network: Its parameters are looked at; frozen ones are not.

    Returns:
        Term -> norm, `total` being the norm of the whole gradient before it is clipped. Terms pull
        against each other where the total is smaller than the largest of them.
    """
    values = {name: result.weights.get(name, 1.0) * term for name, term in result.terms.items()}
    values["total"] = result.total
    parameters = [p for p in network.parameters() if p.requires_grad]
    return {name: _norm(value, parameters) for name, value in values.items()}


def _norm(value: Tensor, parameters: list[nn.Parameter]) -> float:
    if not value.requires_grad:
        return 0.0
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    norms = [gradient.norm() for gradient in found if gradient is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0
