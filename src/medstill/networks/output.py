"""What a network gives, whatever form it gives it in.

Shape legend: B batch, C classes, R reconstruction channels, `...` space (Y X or Z Y X).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from medstill.errors import ShapeError

LOGIT_KEYS = ("out", "logits", "pred")
"""Keys under which networks that answer with a dict keep their logits, in order of preference."""


class Output(NamedTuple):
    """The answer of one forward pass."""

    logits: Tensor
    """`(B, C, ...)`; C is 1 for a network of one foreground class."""
    reconstruction: Tensor | None = None
    """`(B, R, ...)`: the input as the second decoder sees it, or None."""


def run(network: nn.Module, x: Tensor) -> Output:
    """Run a network once and bring its answer into one form.

    Taken as logits: a tensor; the first of a tuple or list (with deep supervision the full
    resolution, as in nnU-Net; whatever follows it is left out); the value of `out`, `logits` or
    `pred` of a dict; the first head of MONAI's DynUNet, which stacks its heads in one tensor
    `(B, heads, C, ...)` while it trains.

    Args:
        network: Any network that maps `(B, channels, ...)` to one answer per place.
        x: Input `(B, channels, ...)`.

    Raises:
        ShapeError: The network gives no tensor, or logits of another size than the input.
    """
    answer = network(x)
    if not isinstance(answer, Output):
        answer = Output(_logits(answer, x, type(network).__name__))
    _check_size(answer.logits, x, type(network).__name__)
    return answer


def _logits(answer: Any, x: Tensor, name: str) -> Tensor:
    found = answer
    if isinstance(found, dict):
        found = next((found[key] for key in LOGIT_KEYS if key in found), None)
    while isinstance(found, (tuple, list)) and found:
        found = found[0]
    if not isinstance(found, Tensor):
        raise ShapeError(
            f"{name} should give logits as a tensor, as the first of a tuple or list, or in a "
            f"dict under one of {', '.join(LOGIT_KEYS)}, but gave {_described(answer)}. "
            "Wrap it in a module that returns the logits alone."
        )
    return found[:, 0] if found.ndim == x.ndim + 1 else found


def _described(answer: Any) -> str:
    if isinstance(answer, dict):
        return f"a dict with the keys {', '.join(map(str, answer)) or '(none)'}"
    return f"{type(answer).__name__}"


def _check_size(logits: Tensor, x: Tensor, name: str) -> None:
    if logits.ndim == x.ndim and logits.shape[0] == x.shape[0] and logits.shape[2:] == x.shape[2:]:
        return
    expected = ", ".join(["B", "C", *map(str, x.shape[2:])]).replace("B", str(x.shape[0]), 1)
    raise ShapeError(
        f"{name} should give logits of the shape ({expected}) for the input {tuple(x.shape)}, but "
        f"gave {tuple(logits.shape)}. Choose a segmentation network whose answer has the size of "
        "its input (no strided head, padding in its convolutions), or wrap it in a module that "
        "brings the logits to that size."
    )
