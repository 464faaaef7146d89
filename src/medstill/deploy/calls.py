"""How a network is called on the patches of a volume: its axes, mirrored, side by side.

Axes: B batch, C input channels, K logit channels, Z Y X space.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medstill.deploy.contract import logit_channels
from medstill.errors import DataError, ShapeError

Float32Array = NDArray[np.float32]
Each = Callable[..., Iterator[Any]]


class Network(Protocol):
    """Whatever computes logits `(B, K, ...)` of images `(B, C, ...)`, both float32."""

    def __call__(self, array: Float32Array, /) -> Float32Array:
        """Logits of a batch; 2-D networks get `(B, C, Y, X)`, 3-D ones `(B, C, Z, Y, X)`."""
        ...


@dataclass(frozen=True)
class Adapted:
    """A network of any number of axes as one that maps `(B, C, Z, Y, X)`, its output checked."""

    network: Network
    spatial_dims: int
    classes: int

    def __call__(self, batch_BCZYX: Float32Array, /) -> Float32Array:
        """Logits `(B, K, Z, Y, X)`.

        Raises:
            ShapeError: The network's output does not fit its input or the classes.
            DataError: It is not finite.
        """
        flat = self.spatial_dims == 2
        logits = self.network(batch_BCZYX[:, :, 0] if flat else batch_BCZYX)
        logits_BKZYX = logits[:, :, None] if flat and logits.ndim == 4 else logits
        expected = (len(batch_BCZYX), logit_channels(self.classes), *batch_BCZYX.shape[2:])
        if logits_BKZYX.shape != expected:
            raise ShapeError(
                f"Expected logits of shape {expected} (batch, channels, z, y, x) for "
                f"{self.classes} classes, but the network gave {logits.shape}. Network and "
                "preparation must come from the same run."
            )
        _demand_finite(logits_BKZYX, batch_BCZYX)
        return logits_BKZYX


def _demand_finite(logits_BKZYX: Float32Array, batch_BCZYX: Float32Array) -> None:
    """No comparison with NaN holds, so that labels of it would be background everywhere."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = logits_BKZYX.sum()
    if np.isfinite(total):
        return
    wrong = logits_BKZYX.size - int(np.isfinite(logits_BKZYX).sum())
    if wrong:
        raise DataError(
            f"Expected finite logits, but {wrong} of the {logits_BKZYX.size} that the network gave "
            f"are NaN or infinite, for prepared intensities between {batch_BCZYX.min():.4g} and "
            f"{batch_BCZYX.max():.4g}. Check the units of the image, which may lie far outside "
            "what training saw; if other images fail too, train or export the network again."
        )


@dataclass(frozen=True)
class Mirrored:
    """The mean logits of a network over all mirror images of its input, turned back."""

    network: Network
    spatial_dims: int

    def __call__(self, batch_BCZYX: Float32Array, /) -> Float32Array:
        """Logits `(B, K, Z, Y, X)` from 4 calls in 2-D, 8 in 3-D."""
        axes = range(-self.spatial_dims, 0)
        chosen = [
            flips
            for count in range(self.spatial_dims + 1)
            for flips in itertools.combinations(axes, count)
        ]
        total = np.zeros((), dtype=np.float32)
        for flips in chosen:
            answer = self.network(np.ascontiguousarray(np.flip(batch_BCZYX, flips)))
            total = total + np.flip(answer, flips)
        mean: Float32Array = total / np.float32(len(chosen))
        return mean


class EmptyOnce:
    """A network that computes only once what it says of a patch with nothing in it.

    Nothing is what is written outside of an image, and what CT windows make of air. The answer is
    the network's own, so no label changes, neither inside nor outside of the body.
    """

    def __init__(self, network: Network, pad_value: float) -> None:
        """Wrap a network whose answer to a patch does not depend on the rest of its batch."""
        self._network = network
        self._pad_value = np.float32(pad_value)
        self._lock = threading.Lock()
        self._answer_KZYX: Float32Array | None = None

    def __call__(self, batch_BCZYX: Float32Array, /) -> Float32Array:
        """Logits `(B, K, Z, Y, X)`."""
        empty = [bool((patch == self._pad_value).all()) for patch in batch_BCZYX]
        if not any(empty):
            return self._network(batch_BCZYX)
        nothing_KZYX = self._nothing(batch_BCZYX[empty.index(True)])
        logits_BKZYX = np.stack([nothing_KZYX] * len(batch_BCZYX))
        if not all(empty):
            full = np.logical_not(empty)
            logits_BKZYX[full] = self._network(np.ascontiguousarray(batch_BCZYX[full]))
        return logits_BKZYX

    def _nothing(self, patch_CZYX: Float32Array) -> Float32Array:
        with self._lock:
            if self._answer_KZYX is None:
                self._answer_KZYX = self._network(patch_CZYX[np.newaxis])[0]
            return self._answer_KZYX


@contextmanager
def side_by_side(workers: int) -> Iterator[Each]:
    """Give a `map` that works in so many threads, in order and never far ahead.

    What a function raises is raised where its result is taken. One worker is this thread itself.
    """
    if workers <= 1:
        yield map
        return
    with ThreadPoolExecutor(workers) as pool:

        def each(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            waiting: deque[Future[Any]] = deque()
            try:
                for item in items:
                    waiting.append(pool.submit(function, item))
                    if len(waiting) > workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

        yield each
