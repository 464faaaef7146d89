"""Models measured side by side: each in its own process, all of them in every round in turn.

Other work on the machine, and its clock, then disturb all alike. The machine's limit is measured in
the same rounds: the multiply-adds of one large matrix product on one thread.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
import SimpleITK as sitk

from medstill.config import Record
from medstill.deploy.contender import Introduction, Open, Round, place_of, serve, serve_gemm
from medstill.deploy.files import scan_files
from medstill.errors import ConfigError, ModelFileError
from medstill.runs import cores, versions
from medstill.volumes.io import read_image, write_image

EDGE: Final = 512
"""Pixels of the edge of a drawn slice."""
PATIENCE_S: Final = 5.0
_DRAWN: Final = "drawn-ct_{:04d}.nii.gz"
"""Named as files of channels are, which those of a model of one channel may be too."""
PHASES: Final = ("read", "prepare", "network", "restore", "write")

_ONE_THREAD: Final = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class Spread(Record):
    """Median and 95th percentile of what was measured `n` times."""

    median: float
    p95: float
    n: int


class Machine(Record):
    """Where it was measured."""

    cpu: str
    cores: int
    threads: int
    """Threads that the models were given."""
    gemm_gmacs: Spread
    """10^9 multiply-adds a second of a 1024^3 float32 matrix product on one thread."""
    versions: dict[str, str]


class Measured(Record):
    """One model."""

    model: str
    kind: str
    """`onnxruntime`, or `pytorch` for a run folder."""
    network: str
    parameters: int
    macs: int
    """Multiply-adds for one patch."""
    load_s: float
    call_threads: int
    """Threads of one network call."""
    network_ms: Spread
    """One call on one patch."""
    share_of_limit: float
    """Multiply-adds a second of that call as a share of the matrix product's, a thread."""
    end_to_end_s: Spread
    """From image file to label file, without the start of the process."""
    phases_s: dict[str, Spread]
    """Seconds at work in each phase, added over threads that work side by side."""
    peak_memory_mb: float


class Benchmark(Record):
    """Models side by side."""

    machine: Machine
    source: str
    size_xyz: tuple[int, int, int]
    file_mb: float
    rounds: int
    warm_up: int
    models: tuple[Measured, ...]


def benchmark(
    models: Sequence[str],
    source: Path | None,
    *,
    open_model: Open,
    threads: int | None = None,
    rounds: int = 5,
    warm_up: int = 1,
    slices: int = 100,
) -> Benchmark:
    """Measure models on one scan.

    Args:
        models: Exported files, or run folders, which are computed by PyTorch; `FOLDER:STUDENT`
            names a student, or the teacher.
        source: The scan, one of its files if it has one a channel; None draws a CT of `slices`
            slices of 512 x 512 pixels and of as many channels as the first model takes, whose
            spacing makes one patch of that model of each slice.
        open_model: Opens a model; it is called in other processes, so it must have a name.
        threads: Threads of each model; None takes all cores.
        rounds: How often every model is measured.
        warm_up: Rounds before, which do not count.
        slices: See `source`.

    Raises:
        ConfigError: A number is too small.
        ModelFileError: A model cannot be measured; what it said is in the message.
    """
    if not models or rounds < 1 or slices < 1 or warm_up < 0:
        raise ConfigError(
            "Expected one model, one round and one slice at least; got "
            f"{len(models)}, {rounds} and {slices}, and {warm_up} rounds of warming up."
        )
    threads = threads or cores()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place = source or folder / _DRAWN.format(0)
        gemm = stack.enter_context(_child(serve_gemm, ()))
        children = [
            stack.enter_context(_child(serve, (open_model, model, place, threads)))
            for model in models
        ]
        said = [_answer(child, model) for child, model in zip(children, models, strict=True)]
        if source is None:
            drawn = drawn_ct(slices, said[0].patch_mm / EDGE)
            for channel in range(said[0].channels):
                write_image(drawn, folder / _DRAWN.format(channel))
        files = scan_files(place, said[0].channels)
        played = [_play(gemm, children, models) for _ in range(warm_up + rounds)]
        played = played[warm_up:]
        gemm_gmacs = spread([rate / 1e9 for rate, _ in played])
        return Benchmark(
            machine=Machine(
                cpu=_cpu_name(),
                cores=cores(),
                threads=threads,
                gemm_gmacs=gemm_gmacs,
                versions=versions(),
            ),
            source="drawn CT" if source is None else source.name,
            size_xyz=_size_of(place),
            file_mb=sum(map(_bytes_of, files)) / 1e6,
            rounds=rounds,
            warm_up=warm_up,
            models=tuple(
                _summed_up(model, one, [answers[i] for _, answers in played], gemm_gmacs.median)
                for i, (model, one) in enumerate(zip(models, said, strict=True))
            ),
        )


def drawn_ct(slices: int, pixel_mm: float) -> sitk.Image:
    """A drawn trunk with noise: int16 HU, as large to store and as slow to unpack as a CT."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:EDGE, 0:EDGE].astype(np.float32) - EDGE / 2
    body = (x / 220) ** 2 + (y / 160) ** 2 < 1
    organ = ((x + 86) / 60) ** 2 + ((y + 16) / 50) ** 2 < 1
    bone = (x / 25) ** 2 + ((y - 84) / 25) ** 2 < 1
    mean = np.where(body, 40.0, -1000.0) + 70.0 * organ + 500.0 * bone
    deviation = np.where(body, 18.0, 6.0)
    values_ZYX = np.empty((slices, EDGE, EDGE), dtype=np.int16)
    for plane_YX in values_ZYX:
        plane_YX[:] = np.clip(mean + deviation * rng.standard_normal(mean.shape), -1024, 3071)
    image = sitk.GetImageFromArray(values_ZYX)
    image.SetSpacing((pixel_mm, pixel_mm, 2.5))
    drawn: sitk.Image = image
    return drawn


def spread(values: Sequence[float]) -> Spread:
    """Median and 95th percentile."""
    median, p95 = (float(value) for value in np.percentile(values, (50, 95)))
    return Spread(median=median, p95=p95, n=len(values))


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let NumPy's BLAS have one thread in processes that are started inside."""
    kept = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _child(serving: Callable[..., None], arguments: tuple[Any, ...]) -> Iterator[Connection]:
    """A new process and the pipe to it; it ends with the block."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serving, args=(theirs, *arguments), daemon=True)
    with one_blas_thread() if serving is serve_gemm else contextlib.nullcontext():
        process.start()
    theirs.close()
    try:
        yield ours
    finally:
        with contextlib.suppress(OSError):
            ours.send(None)
        ours.close()
        process.join(PATIENCE_S)
        process.terminate()
        process.join()


def _play(
    gemm: Connection, children: Sequence[Connection], models: Sequence[str]
) -> tuple[float, list[Round]]:
    """One round: everybody in turn, while the others wait."""
    gemm.send("go")
    rate = float(gemm.recv())
    answers = []
    for child, model in zip(children, models, strict=True):
        child.send("go")
        answers.append(_answer(child, model))
    return rate, answers


def _answer(child: Connection, model: str) -> Any:
    try:
        answer = child.recv()
    except EOFError:
        answer = "its process ended; there may have been too little memory"
    if isinstance(answer, str):
        raise ModelFileError(f"'{model}' could not be measured: {answer}")
    return answer


def _summed_up(
    model: str, said: Introduction, rounds: Sequence[Round], limit_gmacs: float
) -> Measured:
    calls = spread([call for one in rounds for call in one.network_ms])
    return Measured(
        model=Path(model).name,
        kind="pytorch" if place_of(model)[0].is_dir() else "onnxruntime",
        network=said.network,
        parameters=said.parameters,
        macs=said.macs,
        load_s=said.load_s,
        call_threads=said.call_threads,
        network_ms=calls,
        share_of_limit=said.macs / (calls.median * 1e6) / (limit_gmacs * said.call_threads),
        end_to_end_s=spread([one.end_to_end_s for one in rounds]),
        phases_s={name: spread([one.phases_s[name] for one in rounds]) for name in PHASES},
        peak_memory_mb=rounds[-1].peak_memory_mb,
    )


def _size_of(source: Path) -> tuple[int, int, int]:
    x, y, z = read_image(source).GetSize()
    return x, y, z


def _bytes_of(source: Path) -> int:
    """The size of a file, or of all files of a folder."""
    files = source.rglob("*") if source.is_dir() else (source,)
    return sum(file.stat().st_size for file in files if file.is_file())


def _cpu_name() -> str:
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for line in listed.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
