"""Separate streams of random numbers; every draw is a function of (stream, seed, step, sample).

Initialisation, data and loss sampling never share a stream, so a control and a distilled student
of one seed start from the same weights and see the same batches.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

Stream = Literal[
    "initialisation",
    "data",
    "unlabelled",
    "loss",
    "projectors",
    "embedding",
    "views",
    "pretraining",
    "distance",
]

_STREAMS: dict[Stream, int] = {
    "initialisation": 0,
    "data": 1,
    "unlabelled": 2,
    "loss": 3,
    "projectors": 4,
    "embedding": 5,
    "views": 6,
    "pretraining": 7,
    "distance": 8,
}


def array_generator(stream: Stream, *keys: int) -> np.random.Generator:
    """A NumPy generator that depends on the stream and the keys only."""
    return np.random.default_rng([_STREAMS[stream], *keys])


def torch_seed(stream: Stream, *keys: int) -> int:
    """A seed for a torch generator that depends on the stream and the keys only."""
    state = np.random.SeedSequence([_STREAMS[stream], *keys]).generate_state(1, np.uint32)
    return int(state[0])


def torch_generator(stream: Stream, *keys: int) -> torch.Generator:
    """A CPU torch generator that depends on the stream and the keys only."""
    return torch.Generator().manual_seed(torch_seed(stream, *keys))
