"""Checkpoints: plain tensors and numbers, written all or nothing, read without unpickling code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medstill.errors import RunError
from medstill.runs import atomic

LAST = "last.ckpt"
BEST = "best.ckpt"


@dataclass(frozen=True)
class Best:
    """The validation that chose the weights."""

    step: int
    dice: float
    """NaN where nothing is scored."""


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, all or nothing."""
    # A file that Python opened: PyTorch's own writer does not say that the disk is full.
    with atomic(path) as draft, draft.open("wb") as file:
        torch.save(dict(content), file)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without executing pickled code.

    Raises:
        RunError: The file is missing, damaged or holds more than plain data.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RunError(
            f"There is no checkpoint '{path}'. Train this network first. If it was cleaned away, "
            "delete its folder and repeat the command that trained it."
        ) from error
    except Exception as error:  # what an unpickler raises on damaged bytes is anybody's guess
        raise _damaged(path, error) from error
    if not isinstance(content, dict):
        raise _damaged(path, f"it holds a {type(content).__name__}, not named entries")
    return content


def _damaged(path: Path, reason: object) -> RunError:
    return RunError(
        f"The checkpoint '{path}' is damaged or holds more than plain tensors: {reason}. "
        "Delete its folder and train again."
    )


def weights_hash(network: nn.Module) -> str:
    """The first 16 hex digits of the SHA-256 over names and values of a network's state."""
    digest = hashlib.sha256()
    state: Mapping[str, Tensor] = network.state_dict()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
