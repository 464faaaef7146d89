"""One model in a process of its own, measured round by round when it is asked to.

Shape legend: B batch, C channels, Z Y X space.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np

from medstill.config import Record
from medstill.deploy.cases import PredictOptions
from medstill.deploy.files import scan_files
from medstill.deploy.segmenter import Model, Segmenter
from medstill.deploy.stopwatch import Stopwatch
from medstill.errors import MedstillError
from medstill.patches.grid import extract_padded
from medstill.volumes.arriving import opened
from medstill.volumes.io import write_image
from medstill.volumes.slabs import SlabScan

Open = Callable[[Path, str | None, PredictOptions], Model]

CALLS: Final = 8
"""Network calls of a round."""
GEMM_EDGE: Final = 1024
_KIB: Final = 1024


class Round(Record):
    """What one model took in one round."""

    end_to_end_s: float
    """From the image file to the written label file, threads at work side by side."""
    phases_s: dict[str, float]
    """Seconds at work in each phase, added over threads."""
    network_ms: tuple[float, ...]
    """Single calls on one patch, nothing else at work."""
    peak_memory_mb: float
    """Of the process so far."""


class Introduction(Record):
    """What a model says of itself before the first round."""

    network: str
    parameters: int
    macs: int
    channels: int
    patch_mm: float
    """Extent of a patch along x."""
    load_s: float
    call_threads: int
    """Threads of one network call."""


def serve(pipe: Connection, open_model: Open, model: str, source: Path, threads: int) -> None:
    """Introduce a model, then measure a round for every message until None comes.

    What goes wrong is sent as a text.
    """
    try:
        started = time.perf_counter()
        path, student = place_of(model)
        opened = open_model(path, student, PredictOptions(threads=threads))
        pipe.send(_introduction(opened, time.perf_counter() - started, threads))
        while pipe.recv() is not None:
            pipe.send(_round(opened, source))
    except (MedstillError, RuntimeError, MemoryError) as error:
        pipe.send(str(error) or type(error).__name__)


def place_of(model: str) -> tuple[Path, str | None]:
    """File or run folder, and the student's name behind a colon, as in `run:compact`."""
    path, _, student = model.rpartition(":")
    if path and Path(path).is_dir():
        return Path(path), student
    return Path(model), None


def serve_gemm(pipe: Connection) -> None:
    """Send the multiply-adds a second of one large float32 product, for every message until None.

    The process must have been started with one thread for NumPy's BLAS.
    """
    matrix = np.random.default_rng(0).random((GEMM_EDGE, GEMM_EDGE), dtype=np.float32)
    while pipe.recv() is not None:
        started = time.perf_counter()
        matrix @ matrix
        pipe.send(GEMM_EDGE**3 / (time.perf_counter() - started))


def _introduction(model: Model, load_s: float, threads: int) -> Introduction:
    network, preparation = model.contract.network, model.contract.preparation
    return Introduction(
        network=network.name,
        parameters=network.parameters,
        macs=network.macs,
        channels=preparation.channels,
        patch_mm=preparation.patch_zyx[2] * preparation.spacing_zyx_mm[2],
        load_s=load_s,
        # A network of PyTorch takes them all.
        call_threads=getattr(model, "call_threads", threads),
    )


def _round(model: Model, source: Path) -> Round:
    segmenter, watch = Segmenter(model), Stopwatch()
    files = scan_files(source, model.contract.preparation.channels)
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        with watch.phase("read"):
            arriving = stack.enter_context(opened(files))
        found = segmenter.scan(arriving, watch)
        watch.seconds["read"] += arriving.read_s
        with watch.phase("write"):
            write_image(found.label, Path(folder) / "label.nii.gz")
        end_to_end_s = time.perf_counter() - started
    preparation = model.contract.preparation
    scan = SlabScan(arriving, preparation)
    z, y, x = (
        max(0, (size - edge) // 2)
        for size, edge in zip(scan.frame.shape_zyx, preparation.patch_zyx, strict=True)
    )
    patch = extract_padded(scan, (z, y, x), preparation.patch_zyx, preparation.pad_value)[None]
    patch_BC = patch[:, :, 0] if preparation.spatial_dims == 2 else patch
    return Round(
        end_to_end_s=end_to_end_s,
        phases_s=dict(watch.seconds),
        network_ms=tuple(_call_ms(model, patch_BC) for _ in range(CALLS)),
        peak_memory_mb=peak_memory_mb(),
    )


def _call_ms(model: Model, patch_BC: Any) -> float:
    started = time.perf_counter()
    model(patch_BC)
    return 1000.0 * (time.perf_counter() - started)


def peak_memory_mb() -> float:
    """The most memory this process has held, in MB of 2^20 bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # What getrusage says includes the parent, from before this program was loaded.
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / _KIB
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / _KIB**2 if sys.platform == "darwin" else most / _KIB
